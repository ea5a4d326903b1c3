//! Why a row did not pass, in the few lines that somebody needs who has nothing else before him.

use std::collections::BTreeSet;

use latchkey_record::{BootRecord, Mismatch, ScenarioResult, Status, StepResult};

/// No line of an account is longer: a guest may have written it.
const LONGEST: usize = 300;

/// How the name of a machine's directory begins; what follows is chosen by chance.
const MACHINE: &str = "machine-";

/// How a line begins that an error quotes from a console or a tool.
const QUOTED: &str = "    ";

/// Why a row did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// The step that ended it, as `step 4: boot: unlocked`.
    pub(crate) step: Option<String>,
    /// What was expected and what was seen, most telling first.
    pub(crate) facts: Vec<String>,
    /// What a console or a tool had said by then, a line each: the last tells most.
    pub(crate) heard: Vec<String>,
    /// The command that does it again.
    pub(crate) reproduce: String,
}

impl Account {
    /// Of `result`; `None` when it passed.
    pub(crate) fn of(result: &ScenarioResult) -> Option<Self> {
        let reason = result.status.reason()?;
        let step = result.ended_at();
        let mut facts: Vec<String> = Vec::new();
        if let Status::Known { known, .. } = &result.status {
            facts.push(known.to_string());
        }
        let found = step.map_or_else(Vec::new, of_step);
        // The reason is made of the checks that did not hold; what else it says, only it says.
        let broken = step.iter().flat_map(|step| &step.checks).filter(|check| !check.held);
        let broken: BTreeSet<&str> = broken.map(|check| check.what.as_str()).collect();
        let told = |line: &str| {
            // What is asserted may have that in it as well, but not over and over.
            line.match_indices(": expected ").take(8).any(|(at, _)| broken.contains(&line[..at]))
        };
        let lines = reason.lines().filter(|line| !line.is_empty() && !told(line)).map(capped);
        // An error sets apart what it quotes.
        let (heard, said): (Vec<String>, Vec<String>) = lines.partition(|line| line.starts_with(QUOTED));
        facts.extend(said);
        facts.extend(found.iter().map(|fact| capped(fact)));
        let step = step.map(|step| capped(&format!("step {}: {}", step.number, step.what)));
        Some(Self { step, facts, heard, reproduce: result.reproduce.clone() })
    }

    /// The fact that is told where there is room for one.
    pub(crate) fn headline(&self) -> &str {
        self.facts.iter().chain(&self.heard).next().map_or("", String::as_str)
    }

    /// All of it, a line each.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let reproduce = std::iter::once(format!("reproduce: {}", self.reproduce));
        self.step.iter().chain(&self.facts).chain(&self.heard).cloned().chain(reproduce)
    }
}

/// What did not hold in a step: its checks, the witnesses that disagree, the first event that is wrong.
fn of_step(step: &StepResult) -> Vec<String> {
    let first = step.boots.iter().find_map(|boot| Some((boot, boot.alignment.mismatches.first()?)));
    let wrong = first.map(|(_, wrong)| wrong.to_string());
    let is_told_below = |seen: &str| wrong.as_ref().is_some_and(|wrong| seen.contains(wrong.as_str()));
    let broken = step.checks.iter().filter(|check| !check.held && !is_told_below(&check.seen));
    let mut facts: Vec<String> = broken
        .map(|check| format!("{}: expected {}, saw {}", check.what, check.expected, check.seen))
        .collect();
    facts.extend(step.boots.iter().flat_map(|boot| &boot.contradictions).map(ToString::to_string));
    facts.extend(first.map(|(boot, wrong)| first_wrong(boot, wrong)));
    facts
}

fn first_wrong(boot: &BootRecord, wrong: &Mismatch) -> String {
    let more = match boot.alignment.mismatches.len() - 1 {
        0 => String::new(),
        1 => "; one more differs".into(),
        more => format!("; {more} more differ"),
    };
    format!("first wrong event of boot {}: {wrong}{more}", boot.number)
}

/// Why nothing was said about a machine, as all say it that have the same to say; `None` where something was.
pub(crate) fn common_reason(status: &Status) -> Option<String> {
    match status {
        Status::Skipped { reason } | Status::InfrastructureError { reason } => Some(of_any_machine(reason)),
        Status::Passed | Status::Failed { .. } | Status::Known { .. } => None,
    }
}

/// `text` without what tells the directories of machines apart.
pub(crate) fn of_any_machine(text: &str) -> String {
    let mut parts = text.split(MACHINE);
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
        let name = if rest.len() < part.len() { "…" } else { "" };
        all.extend([MACHINE, name, rest]);
    }
    all
}

/// As much of `text` as an account takes.
pub(crate) fn capped(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}
