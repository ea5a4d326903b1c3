//! Debian and Ubuntu: what is installed, what to install from where, and how that went.

mod failure;
mod install;
mod plan;
mod sources;

pub(crate) use install::{install, missing};
pub(crate) use plan::command_for_people;
pub(crate) use sources::Sources;
