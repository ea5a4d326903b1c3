//! Recipes and the builder that makes images of them.

mod build;
mod cache;
mod drive;
mod error;
mod esp;
mod firmware;
mod image;
mod mirror;
mod packages;
mod pki;
mod progress;
mod recipe;
mod system;
mod uki;

pub use build::{Refresh, ensure, ensure_with};
pub use cache::Cache;
pub use drive::{Layout, Place};
pub use error::Error;
pub use firmware::{FirmwareCas, variables};
pub use image::{Format, Image, Manifest, Signing};
pub use pki::{Party, Pki};
pub use progress::{Progress, Silent, Stage};
pub use recipe::Recipe;
