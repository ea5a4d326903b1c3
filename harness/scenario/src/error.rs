//! Why a scenario did not go on: the machine's fault, or the harness'.

use std::io;
use std::path::{Path, PathBuf};

use latchkey_record::Status;

/// A step that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step expected something else.
    #[error("{0}")]
    Verdict(String),
    /// The scenario asks for what its machine is in no state for, or the harness lost it. Not the machine's fault.
    #[error("{0}")]
    Bench(String),
    /// The machine, or what runs it.
    #[error(transparent)]
    Machine(#[from] latchkey_machine::Error),
    /// The forecast.
    #[error(transparent)]
    Model(#[from] crate::ModelError),
    /// Provisioning.
    #[error("provisioning: {0}")]
    Provision(#[from] latchkey_provision::Error),
    /// The machine's disk.
    #[error(transparent)]
    Disk(#[from] latchkey_disk::open::Error),
    /// The machine's ESP.
    #[error("changing the ESP from outside: {0}")]
    Esp(#[from] latchkey_disk::esp::Error),
    /// The machine's partition with kernels.
    #[error("changing /boot from outside: {0}")]
    Kernels(#[from] latchkey_disk::kernels::Error),
    /// The image, or an artefact of it.
    #[error(transparent)]
    Image(#[from] latchkey_images::Error),
    /// A tool or a scratch directory.
    #[error(transparent)]
    Supervise(#[from] latchkey_supervise::Error),
    /// What is known of a saved machine, which is gone or says something else.
    #[error("reading what is known of a saved machine in {path}: {source}")]
    Saved {
        /// In which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the run.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// Whether a saved machine is not what was saved, so that another one helps. That it cannot be read just now, since too many
    /// files are open or the host's disk fails, says nothing of it.
    pub(crate) fn is_of_what_was_saved(&self) -> bool {
        use latchkey_machine::Error as Machine;
        matches!(
            self,
            Self::Saved { .. } | Self::Machine(Machine::Altered { .. } | Machine::NoMachine { .. })
        )
    }

    /// What this makes of a step. Only what the machine did can fail a verdict; everything else is an
    /// infrastructure error.
    pub(crate) fn status(&self) -> Status {
        use latchkey_provision::Error as Provision;
        let reason = self.to_string();
        match self {
            Self::Verdict(_) => Status::Failed { reason },
            Self::Machine(error) | Self::Provision(Provision::Machine(error)) if error.is_of_the_guest() => {
                Status::Failed { reason }
            }
            _ => Status::InfrastructureError { reason },
        }
    }
}
