//! Why a row did not pass, in the few lines that somebody needs who has nothing else before him.

use latchkey_record::{BootRecord, Mismatch, ScenarioResult, Status, StepResult};

/// No line of an account is longer: a guest may have written it.
const LONGEST: usize = 300;

/// Why a row did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// The step that ended it, as `step 4: boot: unlocked`.
    pub(crate) step: Option<String>,
    /// What was expected and what was seen, most telling first; never empty.
    pub(crate) facts: Vec<String>,
    /// The command that does it again.
    pub(crate) reproduce: String,
}

impl Account {
    /// Of `result`; `None` when it passed.
    pub(crate) fn of(result: &ScenarioResult) -> Option<Self> {
        let reason = result.status.reason()?;
        let step = result.steps.iter().find(|step| step.status != Status::Passed);
        let mut facts: Vec<String> = Vec::new();
        if let Status::Known { known, .. } = &result.status {
            facts.push(known.to_string());
        }
        let found = step.map_or_else(Vec::new, of_step);
        // The reason is made of the checks that did not hold; what else it says, only it says.
        let told = |line: &str| {
            step.is_some_and(|s| {
                s.checks.iter().any(|c| !c.held && line.starts_with(&format!("{}: expected ", c.what)))
            })
        };
        facts.extend(reason.lines().filter(|line| !line.is_empty() && !told(line)).map(capped));
        facts.extend(found.iter().map(|fact| capped(fact)));
        let step = step.map(|step| capped(&format!("step {}: {}", step.number, step.what)));
        Some(Self { step, facts, reproduce: result.reproduce.clone() })
    }

    /// The fact that is told where there is room for one.
    pub(crate) fn headline(&self) -> &str {
        self.facts.first().map_or("", String::as_str)
    }

    /// All of it, a line each.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        let reproduce = std::iter::once(format!("reproduce: {}", self.reproduce));
        self.step.iter().cloned().chain(self.facts.iter().cloned()).chain(reproduce)
    }
}

/// What did not hold in a step: its checks, the witnesses that disagree, the first event that is wrong.
fn of_step(step: &StepResult) -> Vec<String> {
    let first = step.boots.iter().find_map(|boot| Some((boot, boot.alignment.mismatches.first()?)));
    let is_told_below = |seen: &str| first.is_some_and(|(_, wrong)| seen.contains(&wrong.to_string()));
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

fn capped(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}
