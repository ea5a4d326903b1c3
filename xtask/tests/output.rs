//! What happens where nobody reads, or nothing can be written.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::process::{Command, Output, Stdio};

use rstest::rstest;

fn xtask(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(line.split(' ')).stdin(Stdio::null());
    command
}

/// A disk without room.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader went away.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `setup --check` is not here: what it ends with is the machine's own.
#[rstest]
fn what_cannot_be_written_is_told_and_who_went_away_is_no_error(
    #[values("--help", "setup --help", "help test", "lint-ci --help")] line: &str,
) {
    let no_room = xtask(line).stdout(full()).output().unwrap();
    assert_eq!(no_room.status.code(), Some(3), "{}", said(&no_room));
    assert!(said(&no_room).contains("writing to standard output"), "{}", said(&no_room));
    let gone = xtask(line).stdout(closed()).output().unwrap();
    assert_eq!((gone.status.code(), said(&gone)), (Some(0), String::new()));
}

#[test]
fn nobody_has_to_read_errors() {
    for errors in [full(), closed()] {
        let status = xtask("lint-ci everything").stderr(errors).status().unwrap();
        assert_eq!(status.code(), Some(2));
    }
}

#[rstest]
fn help_is_told_of_the_verbs_that_are_done_here(#[values("setup", "test", "lint-ci")] verb: &str) {
    for line in [format!("{verb} --help"), format!("help {verb}"), format!("--help {verb}")] {
        let told = xtask(&line).output().unwrap();
        assert_eq!(told.status.code(), Some(0), "{line}: {}", said(&told));
        let text = String::from_utf8(told.stdout).unwrap();
        assert!(text.starts_with(&format!("usage: cargo xtask {verb}")), "{line}: {text}");
    }
}
