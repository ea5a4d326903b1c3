//! Reports, from records only: the terminal's table, `results.json`, JUnit, HTML, and what changed between two runs.
//!
//! - [`terminal`]: what a person reads at the end of a run
//! - [`json`]: the results and their schema
//! - [`junit`]: what CI systems read
//! - [`html`]: one file with everything in it, to look at and to keep
//! - [`diff`]: one run against another
//! - [`combine`]: several runs as one
//! - [`leak`]: whether a secret is in any of it
//! - [`RunDir`]: a run's directory, where they are written and from which they can be made again
//!
//! What this crate leaves to others: deciding anything. It formats what [`latchkey_record`] holds.

mod account;
pub mod combine;
pub mod diff;
pub mod forecast;
mod grouped;
pub mod html;
pub mod json;
pub mod junit;
pub mod leak;
mod run_dir;
pub mod terminal;

pub use run_dir::{RunDir, RunDirError};
