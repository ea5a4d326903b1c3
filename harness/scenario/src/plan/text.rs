//! A plan in words: the tree, and what it costs.

use std::time::Duration;

use super::{Saved, Told, ToldStep};

impl Told {
    /// As people read it: the tree, and what it costs.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            if step.after.is_none() {
                text.push_str(&format!("{}\n", step.image));
            }
            text.push_str(&step.line());
        }
        let mut not_run = match self.passed_before {
            0 => String::new(),
            some => format!(", {some} of them passed before and not run again"),
        };
        if self.skipped > 0 {
            not_run.push_str(&format!(", {} of them skipped", self.skipped));
        }
        text.push_str(&format!(
            "\n{}{not_run}: {}, {} of them booted and {} shared; {} saved and forked {}\n{}\n",
            counted(self.rows, "row"),
            counted(self.boots, "boot"),
            self.booted,
            self.boots.saturating_sub(self.booted),
            counted(self.saved, "machine"),
            counted(self.forked, "time"),
            self.expected()
        ));
        text
    }

    /// How long it takes. However many machines run at once, a row's steps follow one another.
    fn expected(&self) -> String {
        let (one, at_once) = (long(self.one_after_the_other_ms), long(self.at_once_ms));
        if self.one_after_the_other_ms == 0 && self.not_timed > 0 {
            return "expected: not known, since none of these steps was timed yet".into();
        }
        let mut text =
            format!("expected: about {one} of steps one after the other; at once, about {at_once}");
        if self.estimated > 0 {
            let steps = counted(self.estimated, "step");
            text.push_str(&format!(
                "\n{steps} of these never timed here: taken to last as long as their like"
            ));
        }
        if self.not_timed > 0 {
            text.push_str(&format!(
                "\nwithout {} of a kind that was never timed",
                counted(self.not_timed, "more step")
            ));
        }
        text
    }
}

impl ToldStep {
    fn line(&self) -> String {
        let took = match (self.times, self.took_ms) {
            (0, _) => "      -".into(),
            (_, None) => "      ?".into(),
            (_, Some(ms)) => format!("{:6.1} s", Duration::from_millis(ms).as_secs_f64()),
        };
        let mut marks = String::new();
        if self.rows > 1 {
            marks.push_str(&format!("  (for {} rows)", self.rows));
        }
        if self.times > 1 {
            marks.push_str(&format!("  {} times", self.times));
        }
        marks.push_str(match self.saved {
            Some(Saved::Before) => "  saved before",
            Some(Saved::Now) if self.times > 0 => "  saved",
            _ => "",
        });
        for end in &self.ends {
            let before = match &end.skipped {
                Some(reason) => format!(" (skipped: {reason})"),
                None if end.passed_before => " (passed before)".into(),
                None => String::new(),
            };
            marks.push_str(&format!("  = {}{before}", end.scenario));
        }
        format!("{took:<8} {}{}{marks}\n", "  ".repeat(self.depth), self.what)
    }
}

/// A time as people say it, with no more than counts for it.
fn long(ms: u64) -> String {
    let minutes = ms / 60_000;
    if minutes < 60 {
        return format!("{minutes} min {} s", ms / 1000 % 60);
    }
    format!("{} h {} min", minutes / 60, minutes % 60)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_time_is_told_in_hours() {
        assert_eq!(
            [0, 59_999, 3_599_999, 3_600_000, 8_912_000].map(long),
            ["0 min 0 s", "0 min 59 s", "59 min 59 s", "1 h 0 min", "2 h 28 min"]
        );
    }
}
