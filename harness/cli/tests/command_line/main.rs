//! What the command line promises, without a machine.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod catalogue;
mod choice;
mod images;
mod reports;
mod usage;

use std::process::{Command, Output};

fn latchkey(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_latchkey")).args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = latchkey(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
