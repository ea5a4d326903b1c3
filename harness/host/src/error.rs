//! What can go wrong while looking at the host.

use std::path::PathBuf;

use crate::accelerator::Attempt;

/// Why the host cannot run machines, or could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tool is nowhere.
    #[error(
        "cannot find {program}: looked at ${variable}, on PATH and in {}; install it with `cargo xtask setup`, \
         or set {variable} to its path",
        crate::tools::PLACES.join(", ")
    )]
    ToolMissing {
        /// The program's name.
        program: &'static str,
        /// The variable that overrides the search.
        variable: &'static str,
    },
    /// A variable that overrides the search names nothing usable.
    #[error("{variable} is set to {value}, but {problem}; correct it or unset it")]
    Override {
        /// The variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with that.
        problem: String,
    },
    /// A tool ran but did not tell its version.
    #[error("cannot read the version of {}: `--version` printed {said:?}; is this the right program?", .path.display())]
    Version {
        /// The program.
        path: PathBuf,
        /// The first line of what it printed.
        said: String,
    },
    /// A tool cannot do what is needed of it.
    #[error(
        "{} is {program} {version}, and {needs}; `cargo xtask setup` installs a newer one on Debian 12, elsewhere set \
         {variable} to one",
        .path.display()
    )]
    TooOld {
        /// The program's name.
        program: &'static str,
        /// Where it was found.
        path: PathBuf,
        /// What it says.
        version: String,
        /// What a newer one has.
        needs: &'static str,
        /// The variable that overrides the search.
        variable: &'static str,
    },
    /// There is no firmware that enforces Secure Boot.
    #[error(
        "cannot find OVMF with Secure Boot and SMM: looked at QEMU's firmware descriptors and in {}; install it \
         with `cargo xtask setup`, or set LATCHKEY_OVMF_CODE and LATCHKEY_OVMF_VARS",
        crate::firmware::known_places()
    )]
    FirmwareMissing,
    /// The firmware came up in no accelerator.
    #[error("the firmware {} comes up in no accelerator of {}:{}", .firmware.display(), .qemu.display(), told(.attempts))]
    NoAccelerator {
        /// The firmware that was tried.
        firmware: PathBuf,
        /// The QEMU that was tried.
        qemu: PathBuf,
        /// What was tried, in order.
        attempts: Vec<Attempt>,
    },
    /// A file could not be read or written.
    #[error("{doing} {}: {source}", .path.display())]
    File {
        /// What was being done, as in "reading the firmware".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A tool could not be run, or the user asked to stop.
    #[error(transparent)]
    Supervise(#[from] latchkey_supervise::Error),
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}

fn told(attempts: &[Attempt]) -> String {
    attempts.iter().map(|a| format!("\n  {}: {}", a.accelerator, a.trial)).collect()
}
