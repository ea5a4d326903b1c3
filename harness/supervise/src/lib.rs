//! Child processes and scratch directories that never outlive the run that made them.
//!
//! Everything Latchkey starts goes through this crate: QEMU, swtpm, the storage daemon, image builds,
//! short-lived helpers. Four mechanisms work together, so that any one of them may be killed:
//!
//! - every child is the leader of its own process group, and dropping [`Supervised`] kills the whole group;
//! - every such group is known to a shell that waits on a pipe, and kills them when the pipe closes: what a child started
//!   ends with this process as well;
//! - every child is started under `setpriv --pdeathsig KILL` from a thread that lives as long as this process, so the
//!   kernel kills it when this process dies, however it dies; it then looks whether that had happened before;
//! - every [`Scratch`] directory has a guardian: a shell that waits on a pipe and removes the directory when
//!   the pipe closes. A directory whose guardian was killed too is swept by the next run.
//!
//! What this crate leaves to others: what the children are and what they say.

mod cancel;
mod child;
mod dump;
mod groups;
mod lock;
mod room;
mod scratch;
mod shell;
mod spawner;

pub use cancel::{cancel, cancel_on_signals, cancelled};
pub use child::{Captured, OVERRIDES, Supervised, run, run_with, start, start_guardian, start_tree};
pub use dump::no_core_dumps;
pub use lock::{Hold, Lock, hold, lock};
pub use room::{Room, Wanted, room};
pub use scratch::{Scratch, private_dir, private_root};
pub use shell::quoted;

use std::path::PathBuf;

/// What can go wrong while running a tool or keeping its files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not on `PATH`.
    #[error("cannot find `{program}` on PATH; `cargo xtask setup` installs it")]
    Missing {
        /// The program that was looked for.
        program: String,
    },
    /// The program could not be started.
    #[error("starting {name}: {source}")]
    Start {
        /// What was being started.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Waiting for, or talking to, a running child failed.
    #[error("waiting for {name}: {source}")]
    Wait {
        /// Which child.
        name: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program ran and said no.
    #[error("{name} failed with {status}{}", said(.stderr))]
    Failed {
        /// Which program.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The last lines of its standard error.
        stderr: String,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A lock could not be taken.
    #[error("locking {path}: {source}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A scratch directory could not be made or guarded.
    #[error("making a scratch directory in {dir}: {source}")]
    Scratch {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(":\n{stderr}") }
}
