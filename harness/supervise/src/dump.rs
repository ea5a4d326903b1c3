//! No core dumps: what a process had in its memory would outlive it.

use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Keeps this process, and all that it starts from now on, from leaving a core dump when it dies: keys would be in it, and
/// guests' memory (setrlimit(2), `RLIMIT_CORE`; children inherit it, and nobody but root can take it back).
///
/// # Errors
/// When the system does not take the limit.
pub fn no_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::run;

    #[test]
    fn children_leave_none_either() {
        no_core_dumps().unwrap();
        assert_eq!(run("sh", &["-c", "ulimit -S -c; ulimit -H -c"]).unwrap().text(), "0\n0\n");
    }
}
