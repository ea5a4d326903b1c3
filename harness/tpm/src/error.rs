//! What can go wrong with a TPM.

use std::io;
use std::path::PathBuf;

/// What can go wrong while running a TPM or asking it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// swtpm could not be started, ended, or waited for.
    #[error(transparent)]
    Supervise(#[from] latchkey_supervise::Error),
    /// A file, directory or socket of the TPM could not be made or read.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was being done, as in `copying the TPM state from`.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A unix socket's path does not fit `sockaddr_un` (unix(7): 108 bytes with the final NUL).
    #[error("the socket path {path} is longer than 107 bytes; use a shorter run directory")]
    SocketPath {
        /// The path.
        path: PathBuf,
    },
    /// Talking to a TPM that had been started failed.
    #[error("{command} to the TPM in {state}: {source}{}", said(.log))]
    Talk {
        /// The command, as in `GetCapability`.
        command: &'static str,
        /// The state directory.
        state: PathBuf,
        /// What the system said.
        source: io::Error,
        /// The last of what swtpm wrote.
        log: String,
    },
    /// The TPM refused a command.
    #[error("the TPM in {state} refused {command}: {words}")]
    Refused {
        /// The command.
        command: &'static str,
        /// The state directory.
        state: PathBuf,
        /// The response code; 0 where its answer was no.
        code: u32,
        /// The response code in words.
        words: String,
    },
    /// The TPM's answer does not have the shape of an answer to this command.
    #[error("the TPM in {state} answered {command} with something else")]
    Answer {
        /// The command.
        command: &'static str,
        /// The state directory.
        state: PathBuf,
    },
    /// A lockout that does not end.
    #[error("the TPM in {state} does not forget its failed tries; reset its lockout instead")]
    Remembers {
        /// The state directory.
        state: PathBuf,
    },
    /// There is no TPM state where it was expected.
    #[error("there is no TPM state in {state}: the machine was never provisioned, or its files were moved")]
    NoState {
        /// The state directory.
        state: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

fn said(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("; swtpm said:\n{log}") }
}
