//! The end of a run on a terminal: what passed, what did not and why.

mod alike;

use std::collections::BTreeSet;
use std::fmt::Write;

use latchkey_record::text::steers;
use latchkey_record::{BootRecord, RunResults, ScenarioResult, Status, StepResult};
use owo_colors::{OwoColorize, Style};

use crate::account::Account;
use crate::grouped::grouped;
use alike::{alike, common};

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
        Status::Known { .. } => ("≈", Style::new().yellow()),
        Status::Skipped { .. } => ("-", Style::new().yellow()),
        Status::InfrastructureError { .. } => ("!", Style::new().magenta().bold()),
    }
}

/// The sign of something that came out as expected, or did not.
#[must_use]
pub fn held(held: bool, colour: Colour) -> String {
    let (sign, style) = match held {
        true => sign(&Status::Passed),
        false => sign(&Status::Failed { reason: String::new() }),
    };
    match colour {
        Colour::On => sign.style(style).to_string(),
        Colour::Off => sign.to_owned(),
    }
}

struct Page {
    text: String,
    colour: Colour,
}

/// `text` as it may go to a terminal: of what steers one it keeps ends of lines, tabs and colours (ECMA-48, 8.3.117). It
/// may have come from an image, a guest's console or somebody else's results.
#[must_use]
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| steers(c) && c != '\n' && c != '\t') {
        let (before, from) = rest.split_at(at);
        shown.push_str(before);
        let colour = from.strip_prefix("\x1b[").and_then(|numbers| {
            let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';')?;
            numbers[end..].starts_with('m').then_some("\x1b[".len() + end + 1)
        });
        let length = match colour {
            Some(length) => {
                shown.push_str(&from[..length]);
                length
            }
            None => {
                shown.push('\u{fffd}');
                from.chars().next().map_or(0, char::len_utf8)
            }
        };
        rest = &from[length..];
    }
    shown + rest
}

/// `text` as it may go into a line on a terminal: nothing of what steers one is kept. Text from a guest or a file gets no say
/// over it.
#[must_use]
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

impl Page {
    fn styled(&self, text: &str, style: Style) -> String {
        let text = plain(text);
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

/// With more rows than this, those that passed are counted, not told.
const TOLD: usize = 3;
/// So many rows that did not pass are told with what was expected and seen; the others in a line each.
const WITH_FACTS: usize = 5;
/// More rows than this that were skipped, or could not be judged, for one reason are counted, not told.
const ALIKE: usize = 5;
/// So many rows that did not pass are told in a line each; the others are in the report.
const BRIEF: usize = 12;
/// So many lines of what passed.
const PASSED: usize = 8;
/// How wide a line of names gets.
const WIDTH: usize = 100;

/// The whole run as text. It fits a screen: a row that passed takes a step's lines only where there are few, a count
/// otherwise.
#[must_use]
pub fn summary(results: &RunResults, colour: Colour) -> String {
    let mut page = Page { text: String::new(), colour };
    if results.scenarios.len() <= TOLD {
        results.scenarios.iter().for_each(|result| scenario(&mut page, result));
    } else {
        passed(&mut page, results);
        others(&mut page, results);
    }
    page.line(&tail(results));
    page.text
}

/// `39 passed, 1 failed, 2 known, 1 skipped in 60.0 s`.
fn tail(results: &RunResults) -> String {
    let count = |word: &str| results.scenarios.iter().filter(|s| s.status.word() == word).count();
    let mut tail = format!("{} passed, {} failed", count("passed"), count("failed"));
    let that = |is: fn(&Status) -> bool| results.scenarios.iter().filter(|row| is(&row.status)).count();
    let (not_reached, interrupted) = (that(Status::is_not_reached), that(Status::is_interrupted));
    let others = [
        (count("known"), "known to fail", ""),
        (count("skipped") - not_reached, "skipped", ""),
        (interrupted, "interrupted", ""),
        (not_reached, "not reached", ""),
        (count("error") - interrupted, "infrastructure error", "s"),
    ];
    for (count, said, plural) in others {
        match count {
            0 => {}
            1 => tail.push_str(&format!(", 1 {said}")),
            n => tail.push_str(&format!(", {n} {said}{plural}")),
        }
    }
    let reused = results.scenarios.iter().filter(|s| s.reused.is_some()).count();
    if reused > 0 {
        tail.push_str(&format!("; {reused} by an earlier run's verdict"));
    }
    tail.push_str(&format!(" in {}", seconds(results.took_ms)));
    // An answer at the prompt goes on with the boot of its number.
    let open = |row: &ScenarioResult| {
        let boots = row.steps.iter().flat_map(|step| &step.boots);
        let open = boots.filter(|boot| boot.forecast_outcome.is_none());
        open.map(|boot| boot.number).collect::<BTreeSet<_>>().len()
    };
    match results.scenarios.iter().map(open).sum::<usize>() {
        0 => {}
        1 => tail.push_str("; what one boot comes to was not forecast"),
        n => tail.push_str(&format!("; what {n} boots come to was not forecast")),
    }
    tail
}

/// What passed, as a count for each scenario.
fn passed(page: &mut Page, results: &RunResults) {
    let passed = results.scenarios.iter().filter(|result| result.status == Status::Passed);
    let by_name = grouped(passed.map(|result| (result.scenario.as_str(), result)));
    let (mark, style) = sign(&Status::Passed);
    let scenarios = by_name.len();
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (name, rows) in by_name {
        let word = if rows.len() == 1 { name.to_owned() } else { format!("{name} x{}", rows.len()) };
        match lines.last_mut() {
            Some((names, line)) if line.chars().count() + word.chars().count() + 4 <= WIDTH => {
                line.push_str(", ");
                line.push_str(&word);
                *names += 1;
            }
            _ => lines.push((1, word)),
        }
    }
    let told: usize = lines.iter().take(PASSED).map(|(names, _)| names).sum();
    for (_, line) in lines.iter().take(PASSED) {
        page.line(&format!("{} {}", page.styled(mark, style), page.styled(line, Style::new())));
    }
    if told < scenarios {
        page.line(&format!("{} and {} more scenarios", page.styled(mark, style), scenarios - told));
    }
    page.line("");
}

/// What did not pass, worst first: what somebody has to look at stands nearest to the run's last line.
fn others(page: &mut Page, results: &RunResults) {
    let rank = |status: &Status| match status {
        Status::Passed => None,
        Status::Skipped { .. } => Some(0),
        Status::Known { .. } => Some(1),
        status if status.is_interrupted() => Some(2),
        Status::InfrastructureError { .. } => Some(3),
        Status::Failed { .. } => Some(4),
    };
    let mut rows: Vec<_> =
        results.scenarios.iter().filter_map(|result| Some((rank(&result.status)?, result))).collect();
    rows.sort_by_key(|(rank, _)| *rank);
    let alike = alike(results);
    for group in &alike {
        page.line(&group.line(page));
    }
    let counted: BTreeSet<_> = alike.iter().map(|group| &group.common).collect();
    rows.retain(|(_, result)| common(result).is_none_or(|common| !counted.contains(&common)));
    // The worst stand last, and those are told with facts.
    let wrong = rows.iter().filter(|(rank, _)| *rank >= 3).count();
    let (brief, whole) = rows.split_at(rows.len() - wrong.min(WITH_FACTS));
    let (left_out, brief) = brief.split_at(brief.len().saturating_sub(BRIEF));
    if !left_out.is_empty() {
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        for word in left_out.iter().map(|(_, result)| said(&result.status)) {
            match kinds.iter_mut().find(|(known, _)| *known == word) {
                Some((_, count)) => *count += 1,
                None => kinds.push((word, 1)),
            }
        }
        let kinds =
            kinds.iter().map(|(word, count)| format!("{count} {word}")).collect::<Vec<_>>().join(", ");
        page.line(&format!("... and more, which the report has: {kinds}"));
    }
    brief.iter().for_each(|(_, result)| in_a_line(page, result));
    for (_, result) in whole {
        head(page, result);
        account(page, result);
        page.line("");
    }
}

/// What is said of a row with this status.
fn said(status: &Status) -> &'static str {
    match status {
        Status::Passed => "passed",
        Status::Failed { .. } => "failed",
        Status::Known { .. } => "known to fail",
        status if status.is_not_reached() => "not reached",
        status if status.is_interrupted() => "interrupted",
        Status::Skipped { .. } => "skipped",
        Status::InfrastructureError { .. } => "could not be judged",
    }
}

/// One row in one line: how it ended, how long it took, and why where it did not pass.
#[must_use]
pub fn row(result: &ScenarioResult, colour: Colour) -> String {
    let mut page = Page { text: String::new(), colour };
    in_a_line(&mut page, result);
    page.text.trim_end().to_owned()
}

fn in_a_line(page: &mut Page, result: &ScenarioResult) {
    let (mark, style) = sign(&result.status);
    let name = page.styled(&format!("{mark} {}", result.row()), style);
    let fact = Account::of(result).map_or(String::new(), |account| format!("  {}", account.headline()));
    page.line(&format!("{name}  {}{}", took(result), page.styled(&fact, Style::new())));
}

/// How long a row took, and what its steps took besides that were done once for it and another.
fn took(result: &ScenarioResult) -> String {
    let own = seconds(result.took_ms);
    match result.shared_ms() {
        0 => own,
        shared => format!("{own} + {} shared", seconds(shared)),
    }
}

fn scenario(page: &mut Page, result: &ScenarioResult) {
    head(page, result);
    for step in &result.steps {
        self::step(page, step);
    }
    account(page, result);
    page.line("");
}

fn head(page: &mut Page, result: &ScenarioResult) {
    let (mark, style) = sign(&result.status);
    let head = format!("{mark} {}", result.row());
    let head = page.styled(&head, style);
    let conclusion = match &result.conclusion {
        Some(conclusion) => format!(", in the end {conclusion}"),
        None if result.is_left_locked() => ", in the end locked".to_owned(),
        None => String::new(),
    };
    let reused = result.reused.as_ref().map_or(String::new(), |run| format!(", verdict of run {run}"));
    let rest = page.styled(&format!("{}{conclusion}{reused}", took(result)), Style::new());
    page.line(&format!("{head}  {rest}"));
}

/// Why it did not pass, and where the machine is.
fn account(page: &mut Page, result: &ScenarioResult) {
    let (_, style) = sign(&result.status);
    if let Some(account) = Account::of(result) {
        for line in account.step.iter().chain(&account.facts).chain(&account.heard) {
            page.line(&format!("  {}", page.styled(line, style)));
        }
        page.line(&format!("  reproduce: {}", page.styled(&account.reproduce, Style::new())));
    }
    if let Some(kept) = &result.kept {
        page.line(&format!("  the machine was kept: {}", page.styled(kept, Style::new())));
    }
}

fn step(page: &mut Page, step: &StepResult) {
    if step.status.is_not_reached() {
        let text = format!("… {:<2} {:<70} not reached", step.number, step.what);
        page.line(&format!("  {}", page.styled(&text, Style::new().dimmed())));
        return;
    }
    let (mark, style) = sign(&step.status);
    let mark = page.styled(mark, style);
    let what = page.styled(&format!("{:<70}", step.what), Style::new());
    let shared = step.shared_with.as_ref().map_or(String::new(), |row| format!("  shared with {row}"));
    let shared = page.styled(&shared, Style::new());
    page.line(&format!("  {mark} {:<2} {what} {:>8}{shared}", step.number, seconds(step.took_ms)));
    for boot in &step.boots {
        self::boot(page, boot);
    }
}

fn boot(page: &mut Page, boot: &BootRecord) {
    let outcome = boot.word();
    let mut line = format!("       {} -> {outcome}", boot.kind);
    let _ = write!(line, " after {}", seconds(boot.clear_after_ms));
    if !boot.moved.is_empty() {
        let list: Vec<String> = boot.moved.iter().map(ToString::to_string).collect();
        let _ = write!(line, "; PCR {} moved", list.join(", "));
    }
    page.line(&page.styled(&line, Style::new().dimmed()));
    // Somebody else's results may tell any numbers.
    let open = boot.alignment.open.values().fold(0_usize, |sum, count| sum.saturating_add(*count));
    let open = if open == 0 { String::new() } else { format!(", {open} open") };
    let said = boot.forecast_outcome.map_or("nothing certain".to_owned(), |o| o.to_string());
    let (matched, differ) = (boot.alignment.matched, boot.alignment.mismatches.len());
    let all = matched.saturating_add(differ);
    let events = match differ {
        0 => format!("{matched} events as forecast"),
        1 => format!("1 of {all} events differs"),
        differ => format!("{differ} of {all} events differ"),
    };
    let text = format!("         {:<10} {said}; {events}{open}", "forecast");
    page.line(&page.styled(&text, Style::new().dimmed()));
    for witness in &boot.witnesses {
        let text = format!("         {:<10} {}", witness.name, witness.saw);
        page.line(&page.styled(&text, Style::new().dimmed()));
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
    fn nothing_but_colours_reaches_a_terminal() {
        let own = "\x1b[1;32m✓\x1b[0m first-boot\ton rlc9-uki\n";
        assert_eq!(harmless(own), own);
        let hostile = ["\x1b]0;title\x07", "\x1b[2J", "\x1b[", "\x1b", "\u{9b}31m", "a\rb", "\x1b[1;3"];
        for text in hostile {
            let shown = harmless(text);
            assert!(!shown.contains(char::is_control) && shown.contains('\u{fffd}'), "{shown:?}");
        }
    }

    #[test]
    fn times_are_rounded_to_tenths() {
        assert_eq!([0, 49, 50, 1234, 60_000].map(seconds), ["0.0 s", "0.0 s", "0.1 s", "1.2 s", "60.0 s"]);
    }
}
