//! What rows of a run have in common: equal steps on equal machines are done once, and forked where rows part.
//!
//! A row is a scenario on an image. Its machine and its first `n` steps are a [`Prefix`]; rows with an equal one do the
//! same to equal machines. Where rows part, or one ends and another goes on, the machine is worth saving: a [`Plan`]
//! knows these places.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latchkey_measure::hash::digest;
use latchkey_record::HashAlg;

use crate::file::Scenario;
use crate::step::{Images, MachineSpec, Step};

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
#[derive(Debug)]
struct Node {
    /// The step that leads here, in one line.
    what: String,
    /// How many boots that step is.
    boots: u32,
    children: BTreeSet<Prefix>,
    /// Rows that end here.
    ends: Vec<String>,
    /// Whether something was set aside on the way here, which is not saved with the machine.
    aside: bool,
}

/// Rows as one tree of steps.
#[derive(Debug, Default)]
pub struct Plan {
    nodes: BTreeMap<Prefix, Node>,
    roots: Vec<(String, Prefix)>,
}

impl Plan {
    /// The tree of these rows: scenarios, and the image of each.
    #[must_use]
    pub fn of<'a>(rows: impl IntoIterator<Item = (&'a Scenario, &'a str)>) -> Self {
        let mut plan = Self::default();
        for (scenario, image) in rows {
            plan.add(scenario, image);
        }
        plan
    }

    fn add(&mut self, scenario: &Scenario, image: &str) {
        let steps: Vec<Option<&Step>> =
            std::iter::once(None).chain(scenario.steps.iter().map(Some)).collect();
        let all = prefixes(scenario, image);
        if let Some(root) = all.first().filter(|root| !self.nodes.contains_key(root)) {
            self.roots.push((image.to_owned(), root.clone()));
        }
        let mut aside = false;
        for (index, (prefix, step)) in all.iter().zip(steps).enumerate() {
            aside |= step.is_some_and(Step::sets_aside);
            let node = self.nodes.entry(prefix.clone()).or_insert_with(|| Node {
                what: step.map_or_else(|| provisioned(scenario), Step::describe),
                boots: step.map_or(0, Step::boots),
                children: BTreeSet::new(),
                ends: Vec::new(),
                aside,
            });
            match all.get(index + 1) {
                Some(next) => drop(node.children.insert(next.clone())),
                None => node.ends.push(scenario.name.clone()),
            }
        }
    }

    /// After which of a row's steps (0 is provisioning) its machine is worth saving, since other rows go on from there.
    #[must_use]
    pub fn stops(&self, scenario: &Scenario, image: &str) -> Vec<usize> {
        if !scenario.machine.hardware().can_be_saved_running() {
            return Vec::new();
        }
        let all = prefixes(scenario, image);
        all.iter().enumerate().filter(|(_, prefix)| self.is_stop(prefix)).map(|(index, _)| index).collect()
    }

    fn is_stop(&self, prefix: &Prefix) -> bool {
        let parts = |node: &Node| node.children.len() + node.ends.len().min(1) > 1;
        self.nodes.get(prefix).is_some_and(|node| parts(node) && !node.aside)
    }

    /// The tree as text, and what it costs where `processors` are kept busy. `expected` tells how long a prefix's last step
    /// took before.
    #[must_use]
    pub fn show(&self, processors: usize, expected: impl Fn(&Prefix) -> Option<Duration>) -> String {
        let mut text = String::new();
        let mut sum = Sum::default();
        for (image, root) in &self.roots {
            text.push_str(&format!("{image}\n"));
            self.draw(root, (1, Duration::ZERO), &expected, &mut sum, &mut text);
        }
        text.push_str(&format!(
            "\n{}: {}, {} of them booted and {} shared; {} saved and forked {}\n{}\n",
            counted(sum.rows, "row"),
            counted(sum.boots, "boot"),
            sum.booted,
            sum.boots - sum.booted,
            counted(sum.saved, "machine"),
            counted(sum.forked, "time"),
            sum.expected(processors)
        ));
        text
    }

    fn draw(
        &self,
        prefix: &Prefix,
        (depth, begins): (usize, Duration),
        expected: &impl Fn(&Prefix) -> Option<Duration>,
        sum: &mut Sum,
        text: &mut String,
    ) {
        let Some(node) = self.nodes.get(prefix) else { return };
        let rows = self.rows_below(prefix);
        sum.boots += usize::try_from(node.boots).unwrap_or(0) * rows;
        sum.booted += usize::try_from(node.boots).unwrap_or(0);
        sum.rows += node.ends.len();
        let time = expected(prefix);
        match time {
            Some(time) => sum.time += time,
            None => sum.untimed += 1,
        }
        sum.steps += 1;
        let ends = begins + time.unwrap_or_default();
        sum.longest = sum.longest.max(ends);
        let took = time.map_or("      ?".to_owned(), |time| format!("{:6.1} s", time.as_secs_f64()));
        let mut marks = String::new();
        if rows > 1 {
            marks.push_str(&format!("  (for {rows} rows)"));
        }
        if self.is_stop(prefix) {
            sum.saved += 1;
            sum.forked += node.children.len();
            marks.push_str("  saved");
        }
        for end in &node.ends {
            marks.push_str(&format!("  = {end}"));
        }
        let indent = "  ".repeat(depth);
        text.push_str(&format!("{took} {indent}{}{marks}\n", node.what));
        // A straight line of steps stays in its column.
        let deeper = depth + usize::from(node.children.len() > 1);
        for child in &node.children {
            self.draw(child, (deeper, ends), expected, sum, text);
        }
    }

    fn rows_below(&self, prefix: &Prefix) -> usize {
        let Some(node) = self.nodes.get(prefix) else { return 0 };
        node.ends.len() + node.children.iter().map(|child| self.rows_below(child)).sum::<usize>()
    }
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

#[derive(Default)]
struct Sum {
    rows: usize,
    boots: usize,
    booted: usize,
    saved: usize,
    forked: usize,
    steps: usize,
    /// Steps of which nobody knows how long they take.
    untimed: usize,
    /// All others, one after the other.
    time: Duration,
    /// Those of the row that takes longest.
    longest: Duration,
}

impl Sum {
    /// How long it takes, where `processors` are kept busy. However many there are, a row's steps follow one another.
    fn expected(&self, processors: usize) -> String {
        if self.untimed == self.steps {
            return "expected: not known, since none of these steps was timed yet".into();
        }
        let shared = self.time / u32::try_from(processors.max(1)).unwrap_or(u32::MAX);
        let (one, at_once) = (minutes(self.time), minutes(shared.max(self.longest)));
        match self.untimed {
            0 => format!("expected: {one} of steps one after the other; at once, about {at_once}"),
            untimed => format!(
                "expected: {one} of steps one after the other, {at_once} at once, and what {} take that {} never timed",
                counted(untimed, "more step"),
                if untimed == 1 { "was" } else { "were" }
            ),
        }
    }
}

fn minutes(time: Duration) -> String {
    format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::path::Path;

    use super::*;

    fn scenario(name: &str, machine: &str, steps: &[&str]) -> Scenario {
        let steps: String = steps.iter().map(|step| format!("[[step]]\n{step}\n")).collect();
        let text = format!(
            "title = \"t\"\nwhy = \"w\"\n[machine]\nimage = \"rlc9-uki\"\nseal = {{ pcrs = [4, 7], bank = \"sha256\" }}\n\
             keys = [{machine}]\n{steps}"
        );
        Scenario::parse(Path::new(&format!("{name}.toml")), &text).unwrap()
    }

    const UNLOCKED: &str = "boot = { expect = \"unlocked\" }";
    const COLD: &str = "boot = { expect = \"unlocked\", how = \"cold\" }";
    const WRITE: &str = "write = { path = \"/root/a\", text = \"x\" }";

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

    #[test]
    fn the_tree_tells_what_is_booted_and_what_is_shared() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, WRITE, UNLOCKED]);
        let two = scenario("two", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, "rlc9-uki"), (&two, "rlc9-uki")]);
        let text = plan.show(2, |_| Some(Duration::from_secs(10)));
        assert!(text.contains("2 rows: 4 boots, 3 of them booted and 1 shared"), "{text}");
        assert!(text.contains("1 machine saved and forked 2 times"), "{text}");
        assert!(
            text.contains("0 min 50 s of steps one after the other; at once, about 0 min 40 s"),
            "{text}"
        );
    }

    #[test]
    fn a_row_takes_as_long_as_its_steps_on_any_number_of_processors() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, "rlc9-uki")]);
        let text = plan.show(8, |_| Some(Duration::from_secs(30)));
        assert!(text.contains("1 row: 2 boots, 2 of them booted and 0 shared; 0 machines"), "{text}");
        assert!(
            text.contains("1 min 30 s of steps one after the other; at once, about 1 min 30 s"),
            "{text}"
        );
    }

    #[test]
    fn what_was_never_timed_is_in_no_total() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, "rlc9-uki")]);
        let first = prefixes(&one, "rlc9-uki").remove(0);
        let text = plan.show(2, |prefix| (*prefix == first).then_some(Duration::from_secs(30)));
        assert!(
            text.contains("0 min 30 s at once, and what 2 more steps take that were never timed"),
            "{text}"
        );
        assert!(plan.show(2, |_| None).contains("not known, since none of these steps was timed yet"));
    }
}
