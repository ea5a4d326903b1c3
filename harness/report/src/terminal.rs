//! The end of a run on a terminal: one block a scenario, one line a step.

use std::fmt::Write;

use latchkey_record::{BootRecord, RunResults, ScenarioResult, Status, StepResult};
use owo_colors::{OwoColorize, Style};

/// Whether to colour. Who decides (`NO_COLOR`, a pipe) is the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// ANSI colours.
    On,
    /// Plain text.
    Off,
}

/// The sign and colour of a status; the sign alone says enough.
fn sign(status: &Status) -> (&'static str, Style) {
    match status {
        Status::Passed => ("✓", Style::new().green()),
        Status::Failed { .. } => ("✗", Style::new().red().bold()),
        Status::Skipped { .. } => ("-", Style::new().yellow()),
        Status::InfrastructureError { .. } => ("!", Style::new().magenta().bold()),
    }
}

struct Page {
    text: String,
    colour: Colour,
}

impl Page {
    /// Text may come from a guest's console: it gets no say over the terminal.
    fn styled(&self, text: &str, style: Style) -> String {
        let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        match self.colour {
            Colour::On => text.style(style).to_string(),
            Colour::Off => text,
        }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }
}

/// The whole run as text.
#[must_use]
pub fn summary(results: &RunResults, colour: Colour) -> String {
    let mut page = Page { text: String::new(), colour };
    for scenario in &results.scenarios {
        self::scenario(&mut page, scenario);
    }
    let count = |word: &str| results.scenarios.iter().filter(|s| s.status.word() == word).count();
    let mut tail = format!("{} passed, {} failed", count("passed"), count("failed"));
    for (word, many) in [("skipped", "skipped"), ("error", "infrastructure errors")] {
        match count(word) {
            0 => {}
            n => {
                let _ = write!(tail, ", {n} {many}");
            }
        }
    }
    page.line(&format!("{tail} in {}", seconds(results.took_ms)));
    page.text
}

fn scenario(page: &mut Page, result: &ScenarioResult) {
    let (mark, style) = sign(&result.status);
    let head = format!("{mark} {} on {}", result.scenario, result.image);
    let head = page.styled(&head, style);
    let conclusion = result.conclusion.as_ref().map_or(String::new(), |c| format!(", in the end {c}"));
    page.line(&format!("{head}  {}{conclusion}", seconds(result.took_ms)));
    for step in &result.steps {
        self::step(page, step);
    }
    if let Some(reason) = result.status.reason() {
        for line in reason.lines() {
            page.line(&format!("  {}", page.styled(line, style)));
        }
        page.line(&format!("  reproduce: {}", result.reproduce));
    }
    if let Some(kept) = &result.kept {
        page.line(&format!("  the machine was kept: {kept}"));
    }
    page.line("");
}

fn step(page: &mut Page, step: &StepResult) {
    let (mark, style) = sign(&step.status);
    let mark = page.styled(mark, style);
    let what = page.styled(&format!("{:<70}", step.what), Style::new());
    page.line(&format!("  {mark} {:<2} {what} {:>8}", step.number, seconds(step.took_ms)));
    for boot in &step.boots {
        self::boot(page, boot);
    }
    for check in step.checks.iter().filter(|check| !check.held) {
        let text = format!("{}: expected {}, saw {}", check.what, check.expected, check.seen);
        page.line(&format!("       {}", page.styled(&text, Style::new().red())));
    }
}

fn boot(page: &mut Page, boot: &BootRecord) {
    let outcome = boot.outcome.map_or("contradiction".to_owned(), |o| o.to_string());
    let mut line = format!("       {} -> {outcome}", boot.kind);
    let _ = write!(line, " after {}", seconds(boot.clear_after_ms));
    if !boot.moved.is_empty() {
        let list: Vec<String> = boot.moved.iter().map(ToString::to_string).collect();
        let _ = write!(line, "; PCR {} moved", list.join(", "));
    }
    page.line(&page.styled(&line, Style::new().dimmed()));
    let open: usize = boot.alignment.open.values().sum();
    let open = if open == 0 { String::new() } else { format!(", {open} open") };
    let said = boot.forecast_outcome.map_or("nothing certain".to_owned(), |o| o.to_string());
    let text =
        format!("         {:<10} {said}; {} events as forecast{open}", "forecast", boot.alignment.matched);
    page.line(&page.styled(&text, Style::new().dimmed()));
    for witness in &boot.witnesses {
        let text = format!("         {:<10} {}", witness.name, witness.saw);
        page.line(&page.styled(&text, Style::new().dimmed()));
    }
    for contradiction in &boot.contradictions {
        page.line(&format!("       {}", page.styled(&contradiction.to_string(), Style::new().red())));
    }
}

fn seconds(ms: u64) -> String {
    let tenths = ms.saturating_add(50) / 100;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_to_tenths() {
        assert_eq!([0, 49, 50, 1234, 60_000].map(seconds), ["0.0 s", "0.0 s", "0.1 s", "1.2 s", "60.0 s"]);
    }
}
