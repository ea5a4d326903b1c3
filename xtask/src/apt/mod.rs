//! Debian and Ubuntu: what is installed, what to install from where, and how that went.

mod failure;
mod install;
mod plan;
mod sources;

pub(crate) use install::{LOG, install, missing};
pub(crate) use plan::{BecomeRoot, command_for_people};
pub(crate) use sources::Sources;
