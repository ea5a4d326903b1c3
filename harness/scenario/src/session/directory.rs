//! The directory of a run.

use std::fs;
use std::path::{Path, PathBuf};

use super::{SessionError, file};

/// A directory below `root` that no other run has, and its name.
pub(super) fn own_directory(root: &Path) -> Result<(String, PathBuf), SessionError> {
    let base = run_name();
    let mut name = base.clone();
    let mut number = 1;
    loop {
        let path = root.join(&name);
        match fs::create_dir(&path) {
            // Two runs of one process may begin in the same second.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                number += 1;
                name = format!("{base}-{number}");
            }
            made => return made.map(|()| (name, path.clone())).map_err(file("making", &path)),
        }
    }
}

/// The start in UTC, and the process id, which keeps two runs that begin in the same second apart.
fn run_name() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}-{:x}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        std::process::id()
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;

    #[test]
    fn runs_that_begin_at_once_have_directories_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let names: BTreeSet<String> = (0..5).map(|_| super::own_directory(root.path()).unwrap().0).collect();
        assert_eq!(names.len(), 5);
    }
}
