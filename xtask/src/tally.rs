//! How many tests passed and failed, from what the test runners print.

use std::fmt;
use std::ops::AddAssign;

/// Counts of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    /// Adds what one line of output reports, if it is a closing line of `cargo test` or `cargo nextest`.
    pub(crate) fn add(&mut self, line: &str) {
        let line = without_colours(line);
        // What nextest shows of a test that failed is indented, that test's own closing line among it.
        let of_test =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")).map(|(_, c)| c);
        let of_nextest =
            line.trim().strip_prefix("Summary [").and_then(|rest| rest.split_once(": ")).map(|(_, c)| c);
        let Some(counts) = of_test.or(of_nextest) else { return };
        for part in counts.split([',', ';']) {
            let mut words = part.split_whitespace();
            let Some(count) = words.next().and_then(|n| n.parse::<usize>().ok()) else { continue };
            match words.next() {
                Some("passed") => self.passed += count,
                Some("failed" | "timed" | "exec") => self.failed += count,
                // Filtered out is not skipped: the user asked for other tests.
                Some("ignored") => self.skipped += count,
                _ => {}
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The line without terminal escapes of the form `ESC [ ... letter`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c == '\x1b' {
            rest.find(char::is_ascii_alphabetic);
        } else {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::cargo("test result: ok. 33 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished in 2.14s", (33, 0, 2))]
    #[case::cargo_failed("test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out", (1, 3, 0))]
    #[case::nextest("     Summary [   2.139s] 35 tests run: 34 passed (1 slow), 1 failed, 7 skipped", (34, 1, 0))]
    #[case::nextest_worse("Summary [ 61.0s] 9/12 tests run: 5 passed, 2 failed, 1 timed out, 1 exec failed, 0 skipped", (5, 4, 0))]
    #[case::coloured("\x1b[32;1m     Summary\x1b[0m [ 1s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m \x1b[32mpassed\x1b[0m, 0 skipped", (2, 0, 0))]
    #[case::shown_of_a_test("    test result: FAILED. 0 passed; 1 failed; 0 ignored", (0, 0, 0))]
    #[case::another_line("test tally::tests::counts ... ok", (0, 0, 0))]
    #[case::words_of_a_test("we had 3 failed, 4 passed", (0, 0, 0))]
    fn closing_lines(#[case] line: &str, #[case] (passed, failed, skipped): (usize, usize, usize)) {
        let mut tally = Tally::default();
        tally.add(line);
        assert_eq!(tally, Tally { passed, failed, skipped });
    }

    #[test]
    fn lines_add_up_and_read_well() {
        let mut tally = Tally::default();
        tally.add("test result: ok. 3 passed; 0 failed; 0 ignored");
        tally.add("test result: FAILED. 1 passed; 1 failed; 0 ignored");
        assert_eq!(tally.to_string(), "4 passed, 1 failed");
        tally.add("test result: ok. 0 passed; 0 failed; 2 ignored");
        assert_eq!(tally.to_string(), "4 passed, 1 failed, 2 skipped");
    }
}
