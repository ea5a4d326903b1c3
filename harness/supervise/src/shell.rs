//! Words for a shell.

use std::ffi::OsStr;

/// `word` as one word of a POSIX shell's command: in quotes where it needs them. What is no UTF-8 in it is replaced.
#[must_use]
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_shell_takes_it_for_one_word(word in "[ -~\n]{0,40}") {
            let script = format!("printf %s {}", quoted(&word));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            proptest::prop_assert_eq!(String::from_utf8(said.stdout).unwrap(), word);
        }
    }
}
