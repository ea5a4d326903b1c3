//! What can go wrong with a machine.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::qmp::QmpError;

/// A process that a machine consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The emulator.
    Qemu,
    /// The TPM.
    Swtpm,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "QEMU",
            Self::Swtpm => "swtpm",
        })
    }
}

/// What can go wrong while making or running a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be run, or the user asked to stop.
    #[error(transparent)]
    Supervise(#[from] latchkey_supervise::Error),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] latchkey_tpm::Error),
    /// The disk's overlay could not be made.
    #[error(transparent)]
    Overlay(#[from] latchkey_disk::overlay::Error),
    /// The firmware does not measure anything.
    #[error("measuring the firmware's PEI volume: the firmware measured nothing; QEMU said: {said}")]
    Platform {
        /// What QEMU wrote.
        said: String,
    },
    /// QEMU's control channel.
    #[error(transparent)]
    Qmp(QmpError),
    /// QEMU was started and runs, and its control channel does not come up.
    #[error("QEMU runs, and cannot be told anything: {problem}{}", indented(.said))]
    NoControl {
        /// What went wrong with the channel.
        problem: QmpError,
        /// The last of what QEMU wrote.
        said: String,
    },
    /// A file or socket of the machine.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done, as in `copying the variable store to`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory that should hold a machine does not.
    #[error("{dir} holds no machine that this version can read: {problem}")]
    NoMachine {
        /// The directory.
        dir: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// QEMU or swtpm ended although nobody asked it to.
    #[error("{part} died while waiting for {awaited}{}", indented(.said))]
    Died {
        /// Which.
        part: Part,
        /// What was awaited.
        awaited: String,
        /// The last of what it wrote.
        said: String,
    },
    /// The VM does not run although nobody stopped it: an accelerator that fails, a host's disk that is full.
    #[error("QEMU stopped the machine ({state}) while waiting for {awaited}{}", indented(.said))]
    Stopped {
        /// QEMU's run state, such as `internal-error` or `io-error`.
        state: String,
        /// What was awaited.
        awaited: String,
        /// The last of what QEMU wrote.
        said: String,
    },
    /// QEMU does not end although the machine is off.
    #[error("QEMU still runs {:.0} s after the machine was switched off{}", .waited.as_secs_f64(), indented(.said))]
    Hangs {
        /// For how long it was waited for.
        waited: Duration,
        /// The last of what it wrote.
        said: String,
    },
    /// The guest switched the machine off while something else was awaited.
    #[error("the machine switched itself off while waiting for {awaited}{}", indented(.console))]
    SwitchedOff {
        /// What was awaited.
        awaited: String,
        /// The console's last lines.
        console: String,
    },
    /// A deadline passed.
    #[error("waited {:.0} s in vain for {awaited}{}", .waited.as_secs_f64(), indented(.console))]
    Expired {
        /// What was awaited.
        awaited: String,
        /// For how long.
        waited: Duration,
        /// The console's last lines.
        console: String,
    },
    /// The guest's SSH server let nobody in.
    #[error("running `{command}` in the guest: its SSH server let nobody in{}", indented(.said))]
    Refused {
        /// What was to be run.
        command: String,
        /// What the client said the last time.
        said: String,
    },
    /// The connection broke.
    #[error("running `{command}` in the guest over SSH{}", indented(.said))]
    Ssh {
        /// What was to be run.
        command: String,
        /// What the client said.
        said: String,
    },
    /// A command in the guest failed that was expected to succeed.
    #[error("`{command}` failed in the guest with exit code {code}{}", indented(.stderr))]
    Command {
        /// What was run.
        command: String,
        /// Its exit code.
        code: i32,
        /// Its standard error's end.
        stderr: String,
    },
    /// The guest sent more than is kept of it in memory: what is recorded of it is not whole.
    #[error("the machine in {dir} sends without end: {what}")]
    TooMuch {
        /// Which machine.
        dir: PathBuf,
        /// What there is too much of, and how much is kept.
        what: String,
    },
    /// The machine could not be saved, or its memory not be taken over.
    #[error("{doing} {dir}: QEMU says: {said}")]
    Memory {
        /// What was being done.
        doing: &'static str,
        /// Which machine.
        dir: PathBuf,
        /// QEMU's words.
        said: String,
    },
    /// A part of a saved machine is not what it was when the machine was saved.
    #[error("the saved machine in {dir} is not what it was: {part} has changed")]
    Altered {
        /// The saved machine.
        dir: PathBuf,
        /// Which part of it.
        part: String,
    },
    /// QEMU did not tell which port it forwards to the guest's SSH.
    #[error("QEMU did not tell which port leads to the guest's SSH; `info usernet` said:\n{said}")]
    Port {
        /// Its answer.
        said: String,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    /// Whether this says something about the guest (a wait in vain, a machine that switched itself off, a
    /// command that failed) rather than about the harness, its tools or the host.
    #[must_use]
    pub fn is_of_the_guest(&self) -> bool {
        matches!(
            self,
            Self::Expired { .. }
                | Self::SwitchedOff { .. }
                | Self::Refused { .. }
                | Self::Ssh { .. }
                | Self::Command { .. }
                | Self::TooMuch { .. }
        )
    }

    /// Whether the user asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        use latchkey_supervise::Error::Cancelled;
        matches!(self, Self::Supervise(Cancelled) | Self::Tpm(latchkey_tpm::Error::Supervise(Cancelled)))
    }
}

impl From<QmpError> for Error {
    fn from(error: QmpError) -> Self {
        match error {
            QmpError::Cancelled => latchkey_supervise::Error::Cancelled.into(),
            error => Self::Qmp(error),
        }
    }
}

fn indented(text: &str) -> String {
    text.trim_end().lines().fold(String::new(), |all, line| format!("{all}\n    {line}"))
}
