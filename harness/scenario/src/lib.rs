//! Scenarios: the language, its diagnostics, the steps done to a real machine, and the verdicts.
//!
//! - [`mod@file`]: a scenario file as typed values, with errors that point at the word that is wrong
//! - [`Scenario::judge_known`]: what a known failure makes of a result, on a given day
//! - [`model`]: what the next boot of a machine measures and comes to, read off its files
//! - [`judge`]: from the witnesses of a boot to its outcome, or to a contradiction
//! - [`rehearse`]: a whole scenario forecast on an image's files, without booting
//! - [`Session`]: what every scenario of a run shares
//! - [`plan`]: which steps of several scenarios are the same, and are done once
//! - [`Store`]: machines saved where scenarios part, and verdicts, on disk
//! - [`runner`]: provision, do the steps, check what was expected, record everything
//!
//! What this crate leaves to others: how a machine is run (`machine`), made (`provision`) and shown (`report`).

mod another_vm;
mod behind;
mod bench;
mod boot;
mod clean;
mod context;
mod decision;
pub mod diagnostic;
mod error;
pub mod file;
mod foresight;
mod foretell;
mod fork;
mod guest;
mod inputs;
pub mod judge;
mod known;
pub mod location;
pub mod model;
pub mod pcrs;
pub mod plan;
mod provisioning;
pub mod ratios;
mod rehearsal;
pub mod runner;
mod session;
mod sharing;
pub mod step;
pub mod store;
mod variables;
pub mod watch;

pub use another_vm::AnotherVm;
pub use context::{Context, Keep};
pub use error::Error;
pub use file::Scenario;
pub use foretell::{ForetellError, Foretold, Given, foretell};
pub use model::{Model, ModelError};
pub use rehearsal::{Desk, Rehearsed, RehearsedBoot, rehearse};
pub use runner::{NotReached, not_reached, run, without_image};
pub use session::{Session, SessionError, harness, jobs, today};
pub use sharing::Sharing;
pub use store::{Forks, Store, Verdicts};
pub use variables::{NoLog, NoVariables, Variables};
