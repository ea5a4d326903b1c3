//! The ranges of user and group numbers that let an ordinary user build images in a user namespace: subuid(5),
//! subgid(5).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// The two files, below `/etc`.
const FILES: [&str; 2] = ["subuid", "subgid"];
/// Where shadow's own tools begin to hand out numbers, and how many at a time (login.defs(5), SUB_UID_MIN and
/// SUB_UID_COUNT).
const FIRST: u64 = 100_000;
const COUNT: u64 = 65_536;

/// Whether `user`, a name or a number, has no range in one of the files.
pub(crate) fn lacking(etc: &Path, user: &str) -> bool {
    FILES.iter().any(|file| !has_range(&read(&etc.join(file)), user))
}

/// Gives `user` a range in each file where there is none yet, after everybody else's.
pub(crate) fn add(etc: &Path, user: &str) -> Result<()> {
    for file in FILES {
        let path = etc.join(file);
        let text = read(&path);
        if has_range(&text, user) {
            continue;
        }
        let line = line_after(&text, user);
        let mut open = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("opening {}", path.display()))?;
        open.write_all(line.as_bytes()).with_context(|| format!("adding a range to {}", path.display()))?;
    }
    Ok(())
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn has_range(text: &str, user: &str) -> bool {
    text.lines().filter_map(parse).any(|(owner, _, count)| owner == user && count >= COUNT)
}

fn parse(line: &str) -> Option<(&str, u64, u64)> {
    let mut fields = line.trim().splitn(3, ':');
    Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn line_after(text: &str, user: &str) -> String {
    let ends = text.lines().filter_map(parse).map(|(_, first, count)| first.saturating_add(count));
    let first = ends.max().unwrap_or_default().max(FIRST);
    let broken = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{broken}{user}:{first}:{COUNT}\n")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::none("", "ann", false)]
    #[case::own("ann:100000:65536\n", "ann", true)]
    #[case::anothers("anna:100000:65536\n", "ann", false)]
    #[case::too_small("ann:100000:10\n", "ann", false)]
    #[case::broken("ann:x:65536\nann\n", "ann", false)]
    fn ranges(#[case] text: &str, #[case] user: &str, #[case] expected: bool) {
        assert_eq!(has_range(text, user), expected);
    }

    #[rstest]
    #[case::first("", "ann:100000:65536\n")]
    #[case::next("bob:100000:65536\n", "ann:165536:65536\n")]
    #[case::no_newline("bob:100000:65536", "\nann:165536:65536\n")]
    #[case::low("bob:1000:10\n", "ann:100000:65536\n")]
    fn a_new_range_follows_the_others(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(line_after(text, "ann"), expected);
    }

    #[test]
    fn adding_twice_adds_once() {
        let etc = tempfile::tempdir().unwrap();
        assert!(lacking(etc.path(), "ann"));
        fs::write(etc.path().join("subuid"), "ann:200000:65536\n").unwrap();
        assert!(lacking(etc.path(), "ann"), "one of two files is not enough");
        add(etc.path(), "ann").unwrap();
        add(etc.path(), "ann").unwrap();
        assert!(!lacking(etc.path(), "ann"));
        assert_eq!(fs::read_to_string(etc.path().join("subuid")).unwrap(), "ann:200000:65536\n");
        assert_eq!(fs::read_to_string(etc.path().join("subgid")).unwrap(), "ann:100000:65536\n");
    }
}
