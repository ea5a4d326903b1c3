//! What rows of a run have in common: equal steps on equal machines are done once, and forked where rows part.
//!
//! A row is a scenario on an image. Its machine and its first `n` steps are a [`Prefix`]; rows with an equal one do the
//! same to equal machines. Where rows part, or one ends and another goes on, the machine is worth saving: a [`Plan`]
//! knows these places.

mod text;
mod told;

use std::collections::{BTreeMap, BTreeSet};

use latchkey_measure::hash::digest;
use latchkey_record::HashAlg;

use crate::file::Scenario;
use crate::step::{Images, MachineSpec, Step};

pub use told::{End, Saved, Told, ToldStep};

/// SHA-256, in hex, over a machine's specification and the first steps done to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(String);

impl Prefix {
    fn machine(spec: &MachineSpec, image: &str) -> Self {
        let spec = MachineSpec { image: Images::One(image.to_owned()), ..spec.clone() };
        Self::over(&serde_json::to_vec(&spec).unwrap_or_default())
    }

    fn then(&self, step: &Step) -> Self {
        let mut text = self.0.clone().into_bytes();
        text.extend(serde_json::to_vec(step).unwrap_or_default());
        Self::over(&text)
    }

    fn over(bytes: &[u8]) -> Self {
        Self(digest(HashAlg::Sha256, bytes).hex())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The prefixes of a row: the provisioned machine, then what it is after each step.
#[must_use]
pub fn prefixes(scenario: &Scenario, image: &str) -> Vec<Prefix> {
    let mut all = vec![Prefix::machine(&scenario.machine, image)];
    for step in &scenario.steps {
        let next = all.last().map(|last| last.then(step));
        all.extend(next);
    }
    all
}

/// One place in the tree of all rows' steps.
#[derive(Debug, Clone)]
struct Node {
    /// The step that leads here, in one line.
    what: String,
    /// How many boots that step is.
    boots: u32,
    /// What steps have in common that take about as long as this one.
    kind: String,
    children: BTreeSet<Prefix>,
    /// Rows of the run that end here, by their scenarios.
    ends: Vec<String>,
    /// Whether any row ends here, of the run or beside it.
    end: bool,
    /// How many rows of the run come by.
    rows: usize,
    /// Whether the machine can be saved here: its hardware can, and nothing was set aside on the way, which is not saved
    /// with it.
    can_be_saved: bool,
}

/// Rows as one tree of steps.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    nodes: BTreeMap<Prefix, Node>,
    roots: Vec<(String, Prefix)>,
}

/// What runs before this one left of its rows.
#[derive(Debug, Default)]
pub struct Remembered {
    /// Rows that passed: scenario and image.
    pub(crate) passed: BTreeSet<(String, String)>,
    /// Rows that a run skips: scenario and image, and why.
    pub(crate) skipped: BTreeMap<(String, String), String>,
    /// Machines that were saved where rows part.
    pub(crate) saved: BTreeSet<Prefix>,
}

impl Plan {
    /// The tree of these rows: scenarios, and the image of each.
    #[must_use]
    pub fn of<'a>(rows: impl IntoIterator<Item = (&'a Scenario, &'a str)>) -> Self {
        let mut plan = Self::default();
        for (scenario, image) in rows {
            plan.add(scenario, image, true);
        }
        plan
    }

    /// The same rows, with others that are not run now, but some other time: what they have in common with these is worth
    /// saving, too.
    #[must_use]
    pub fn beside<'a>(mut self, others: impl IntoIterator<Item = (&'a Scenario, &'a str)>) -> Self {
        for (scenario, image) in others {
            self.add(scenario, image, false);
        }
        self
    }

    fn add(&mut self, scenario: &Scenario, image: &str, run: bool) {
        let steps: Vec<Option<&Step>> =
            std::iter::once(None).chain(scenario.steps.iter().map(Some)).collect();
        let all = prefixes(scenario, image);
        if let Some(root) = all.first().filter(|root| !self.nodes.contains_key(root)) {
            self.roots.push((image.to_owned(), root.clone()));
        }
        let mut can_be_saved = scenario.machine.hardware().can_be_saved_running();
        for (index, (prefix, step)) in all.iter().zip(steps).enumerate() {
            can_be_saved &= !step.is_some_and(Step::sets_aside);
            let what = || step.map_or_else(|| provisioned(scenario), Step::describe);
            let node = self.nodes.entry(prefix.clone()).or_insert_with(|| Node {
                what: what(),
                kind: kind(step, &what()),
                boots: step.map_or(0, Step::boots),
                children: BTreeSet::new(),
                ends: Vec::new(),
                end: false,
                rows: 0,
                can_be_saved,
            });
            node.rows += usize::from(run);
            match all.get(index + 1) {
                Some(next) => drop(node.children.insert(next.clone())),
                None => {
                    node.end = true;
                    node.ends.extend(run.then(|| scenario.name.clone()));
                }
            }
        }
    }

    /// After which of a row's steps (0 is provisioning) its machine is worth saving, since other rows go on from there.
    #[must_use]
    pub fn stops(&self, scenario: &Scenario, image: &str) -> Vec<usize> {
        let all = prefixes(scenario, image);
        all.iter().enumerate().filter(|(_, prefix)| self.is_stop(prefix)).map(|(index, _)| index).collect()
    }

    fn is_stop(&self, prefix: &Prefix) -> bool {
        let parts = |node: &Node| node.children.len() + usize::from(node.end) > 1;
        self.nodes.get(prefix).is_some_and(|node| parts(node) && node.can_be_saved)
    }
}

/// Steps that begin with the same word are of one kind: they boot, answer, enrol. One that takes as long as it says is of none.
fn kind(step: Option<&Step>, what: &str) -> String {
    let is_one_of_many = step.is_none_or(|step| !step.tells_how_long());
    let first = what.split([' ', ':']).next().filter(|_| is_one_of_many);
    first.unwrap_or(what).to_owned()
}

fn provisioned(scenario: &Scenario) -> String {
    let seal = &scenario.machine.seal;
    let keys: Vec<String> = scenario.machine.keys.iter().map(ToString::to_string).collect();
    format!(
        "provision: sealed to PCR {} of {}, keys {}",
        crate::pcrs::list(&seal.pcrs),
        seal.bank,
        keys.join(", ")
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::path::Path;

    use super::*;

    pub(super) fn scenario(name: &str, machine: &str, steps: &[&str]) -> Scenario {
        let steps: String = steps.iter().map(|step| format!("[[step]]\n{step}\n")).collect();
        let text = format!(
            "title = \"t\"\nwhy = \"w\"\n[machine]\nimage = \"rlc9-uki\"\nseal = {{ pcrs = [4, 7], bank = \"sha256\" }}\n\
             keys = [{machine}]\n{steps}"
        );
        Scenario::parse(Path::new(&format!("{name}.toml")), &text).unwrap()
    }

    pub(super) const UNLOCKED: &str = "boot = { expect = \"unlocked\" }";
    pub(super) const COLD: &str = "boot = { expect = \"unlocked\", how = \"cold\" }";
    pub(super) const WRITE: &str = "write = { path = \"/a\", text = \"x\" }";

    #[test]
    fn machines_are_saved_where_rows_part_and_nowhere_else() {
        let both = "\"platform\", \"fallback-passphrase\"";
        let one = scenario("one", both, &[UNLOCKED, WRITE, UNLOCKED]);
        let two = scenario("two", both, &[UNLOCKED, WRITE, COLD]);
        let ends = scenario("ends", both, &[UNLOCKED]);
        let other = scenario("other", "\"platform\"", &[UNLOCKED, WRITE, UNLOCKED]);
        let rows = [&one, &two, &ends, &other].map(|scenario| (scenario, "rlc9-uki"));
        let plan = Plan::of(rows);
        assert_eq!(plan.stops(&one, "rlc9-uki"), [1, 2]);
        assert_eq!(plan.stops(&two, "rlc9-uki"), [1, 2]);
        assert_eq!(plan.stops(&ends, "rlc9-uki"), [1]);
        assert_eq!(plan.stops(&other, "rlc9-uki"), [0_usize; 0]);
        assert_eq!(plan.stops(&one, "rlc9-grub"), [0_usize; 0]);
    }
}
