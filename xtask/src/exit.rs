//! How `cargo xtask` ends, and the sentence it ends with.

use std::fmt;

/// The exit codes, the same for every verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// All as expected.
    Expected = 0,
    /// A verdict or a test failed.
    Verdict = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Something that is not under test failed: a download, a build, the disk.
    Infrastructure = 3,
    /// Something that the harness needs is missing.
    SetupIncomplete = 4,
    /// Something is missing, and only root can install it: the command was printed.
    NeedsRoot = 5,
}

/// An end with a code and a message for standard error.
#[derive(Debug)]
pub(crate) struct Stop {
    /// The code.
    pub(crate) exit: Exit,
    /// What happened, and what to do next.
    pub(crate) message: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// The end `exit` with `message`, as an error to return.
pub(crate) fn stop(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    Stop { exit, message: message.into() }.into()
}

/// The end of a child that is this project's and ended with `code`, which means the same there.
pub(crate) fn ended_like(code: Option<i32>, message: impl Into<String>) -> anyhow::Error {
    let exit = match code {
        Some(130) => return latchkey_supervise::Error::Cancelled.into(),
        Some(1) => Exit::Verdict,
        Some(2) => Exit::Usage,
        Some(4) => Exit::SetupIncomplete,
        _ => Exit::Infrastructure,
    };
    stop(exit, message)
}

/// The code that an error ends with: its own, or 3 when it has none.
pub(crate) fn code(error: &anyhow::Error) -> u8 {
    if matches!(error.downcast_ref(), Some(latchkey_supervise::Error::Cancelled)) {
        return 130;
    }
    error.downcast_ref::<Stop>().map_or(Exit::Infrastructure as u8, |stop| stop.exit as u8)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::qemu_is_too_old(Some(4), 4)]
    #[case::a_tool_failed(Some(3), 3)]
    #[case::interrupted(Some(130), 130)]
    #[case::panicked(Some(101), 3)]
    #[case::killed(None, 3)]
    fn what_a_child_ended_with_is_passed_on(#[case] child: Option<i32>, #[case] expected: u8) {
        assert_eq!(code(&ended_like(child, "the probe failed")), expected);
    }
}
