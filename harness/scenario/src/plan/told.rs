//! A plan as it is told: what a run would do, how often, and how long that takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::{Plan, Prefix, Remembered};
use crate::store::Forks;

/// What a run would do, and what it costs.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Rows of the run.
    pub rows: usize,
    /// Those of them that passed before on the same inputs, and are not run again.
    pub passed_before: usize,
    /// Those that it would skip.
    pub skipped: usize,
    /// Boots of the others.
    pub boots: usize,
    /// How many of these the run would do itself; the rest is shared.
    pub booted: usize,
    /// Machines that it would save.
    pub saved: usize,
    /// How often it would go on from a saved one.
    pub forked: usize,
    /// How often it would do a step that was never timed and takes about as long as its like.
    pub estimated: usize,
    /// How often it would do a step of which nobody knows how long it takes.
    pub not_timed: usize,
    /// How long all others take one after the other, in milliseconds.
    pub one_after_the_other_ms: u64,
    /// How long they take where several machines run at once, in milliseconds: never less than the longest row.
    pub at_once_ms: u64,
    /// The tree of steps, each before those that go on from it.
    pub steps: Vec<ToldStep>,
}

/// A step of the tree.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct ToldStep {
    /// The image that its machine is made of.
    pub image: String,
    /// The step before, by its place in the list; `None` for a provisioning.
    pub after: Option<usize>,
    /// What is done, in one line.
    pub what: String,
    /// How many boots that is.
    pub boots: u32,
    /// How many rows of the run come by.
    pub rows: usize,
    /// How often the run would do it.
    pub times: usize,
    /// How long it took when it was last done, in milliseconds.
    pub took_ms: Option<u64>,
    /// Whether the machine is saved here.
    pub saved: Option<Saved>,
    /// Rows that end here.
    pub ends: Vec<End>,
    /// How far in its line stands.
    #[serde(skip)]
    pub(super) depth: usize,
}

/// When a machine is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saved {
    /// By this run.
    Now,
    /// By one before.
    Before,
}

/// The end of a row.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Its scenario.
    pub scenario: String,
    /// Whether it passed before on the same inputs.
    pub passed_before: bool,
    /// Why a run skips it, where it does.
    pub skipped: Option<String>,
}

impl End {
    /// Whether a run does its steps.
    fn is_run(&self) -> bool {
        !self.passed_before && self.skipped.is_none()
    }
}

impl Plan {
    /// What a run of these rows does where so many machines run `at_once` and runs before left what is `remembered`.
    /// `expected` tells how long a prefix's last step took before, beside as many others.
    #[must_use]
    pub fn tell(
        &self,
        forks: Forks,
        remembered: &Remembered,
        at_once: usize,
        expected: impl Fn(&Prefix) -> Option<Duration>,
    ) -> Told {
        let like = self.like(&expected);
        let mut teller = Teller {
            plan: self,
            forks,
            remembered,
            expected,
            like,
            told: Told::default(),
            longest: Duration::ZERO,
        };
        for (image, root) in &self.roots {
            teller.add(&Place { image, after: None, depth: 1, begins: Duration::ZERO }, root);
        }
        let shared = teller.told.one_after_the_other_ms / u64::try_from(at_once.max(1)).unwrap_or(1);
        Told { at_once_ms: shared.max(millis(teller.longest)), ..teller.told }
    }

    /// How long steps of each kind take that were timed: the median.
    fn like(&self, expected: &impl Fn(&Prefix) -> Option<Duration>) -> BTreeMap<String, Duration> {
        let mut timed: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        for (prefix, node) in &self.nodes {
            timed.entry(node.kind.clone()).or_default().extend(expected(prefix));
        }
        let median = |(kind, mut took): (String, Vec<Duration>)| {
            took.sort_unstable();
            Some((kind, *took.get(took.len() / 2)?))
        };
        timed.into_iter().filter_map(median).collect()
    }
}

struct Teller<'a, E> {
    plan: &'a Plan,
    forks: Forks,
    remembered: &'a Remembered,
    expected: E,
    /// How long steps of a kind take.
    like: BTreeMap<String, Duration>,
    told: Told,
    /// How long the row takes that takes longest.
    longest: Duration,
}

/// Where in the tree a step stands.
struct Place<'a> {
    image: &'a str,
    after: Option<usize>,
    depth: usize,
    /// When the machine comes to it, if nothing waits.
    begins: Duration,
}

/// How often something is done at a step.
#[derive(Default)]
struct Count {
    /// Rows below that are run.
    rows: usize,
    /// How often the machine is needed as it is after the step.
    needed: usize,
    /// How often the step is done for that.
    times: usize,
}

impl<E: Fn(&Prefix) -> Option<Duration>> Teller<'_, E> {
    fn add(&mut self, place: &Place<'_>, prefix: &Prefix) {
        let Some(node) = self.plan.nodes.get(prefix).filter(|node| node.rows > 0) else { return };
        let count = self.count(place.image, prefix);
        let boots = usize::try_from(node.boots).unwrap_or(0);
        let took = (self.expected)(prefix);
        let saved = self.is_stop(prefix).then(|| self.remembered.saved.contains(prefix));
        let saved = saved.map(|before| if before { Saved::Before } else { Saved::Now });
        let ends: Vec<End> = node.ends.iter().map(|scenario| self.end(scenario, place.image)).collect();
        let told = &mut self.told;
        told.rows += ends.len();
        told.passed_before += ends.iter().filter(|end| end.passed_before).count();
        told.skipped += ends.iter().filter(|end| end.skipped.is_some()).count();
        told.boots += boots * count.rows;
        told.booted += boots * count.times;
        told.saved += usize::from(saved == Some(Saved::Now) && count.times > 0);
        told.forked += if saved.is_some() { count.needed } else { 0 };
        let mut over = place.begins;
        match took.or_else(|| self.like.get(&node.kind).copied()) {
            Some(about) if count.times > 0 => {
                told.one_after_the_other_ms += millis(about) * u64::try_from(count.times).unwrap_or(0);
                told.estimated += if took.is_none() { count.times } else { 0 };
                over += about;
            }
            Some(_) => (),
            None => told.not_timed += count.times,
        }
        self.longest = self.longest.max(over);
        let number = self.told.steps.len();
        self.told.steps.push(ToldStep {
            image: place.image.to_owned(),
            after: place.after,
            what: node.what.clone(),
            boots: node.boots,
            rows: node.rows,
            times: count.times,
            took_ms: took.map(millis),
            saved,
            ends,
            depth: place.depth,
        });
        let run = |child: &&Prefix| self.plan.nodes.get(child).is_some_and(|node| node.rows > 0);
        let children: Vec<&Prefix> = node.children.iter().filter(run).collect();
        // A straight line of steps stays in its column.
        let depth = place.depth + usize::from(children.len() > 1);
        for child in children {
            self.add(&Place { image: place.image, after: Some(number), depth, begins: over }, child);
        }
    }

    /// Whoever needs the machine after a step does the step, unless it is saved there: then one does it for all.
    fn count(&self, image: &str, prefix: &Prefix) -> Count {
        let Some(node) = self.plan.nodes.get(prefix) else { return Count::default() };
        let ends = node.ends.iter().filter(|scenario| self.end(scenario, image).is_run()).count();
        let below: Vec<Count> = node.children.iter().map(|child| self.count(image, child)).collect();
        let rows = ends + below.iter().map(|count| count.rows).sum::<usize>();
        let needed = ends + below.iter().map(|count| count.times).sum::<usize>();
        let times = match self.is_stop(prefix) {
            true if self.remembered.saved.contains(prefix) => 0,
            true => needed.min(1),
            false => needed,
        };
        Count { rows, needed, times }
    }

    fn is_stop(&self, prefix: &Prefix) -> bool {
        self.forks == Forks::Yes && self.plan.is_stop(prefix)
    }

    fn end(&self, scenario: &str, image: &str) -> End {
        let row = (scenario.to_owned(), image.to_owned());
        let passed_before = self.remembered.passed.contains(&row);
        let skipped = self.remembered.skipped.get(&row).cloned();
        End { scenario: scenario.to_owned(), passed_before, skipped }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::prefixes;
    use super::super::tests::{COLD, UNLOCKED, WRITE, scenario};
    use super::*;

    const IMAGE: &str = "rlc9-uki";

    fn seconds(seconds: u64) -> impl Fn(&Prefix) -> Option<Duration> {
        move |_| Some(Duration::from_secs(seconds))
    }

    fn told(plan: &Plan, forks: Forks, remembered: &Remembered, at_once: usize) -> Told {
        plan.tell(forks, remembered, at_once, seconds(10))
    }

    #[test]
    fn the_tree_tells_what_is_booted_and_what_is_shared() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, WRITE, UNLOCKED]);
        let two = scenario("two", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, IMAGE), (&two, IMAGE)]);
        let text = told(&plan, Forks::Yes, &Remembered::default(), 2).text();
        assert!(text.contains("2 rows: 4 boots, 3 of them booted and 1 shared"), "{text}");
        assert!(text.contains("1 machine saved and forked 2 times"), "{text}");
        assert!(
            text.contains("0 min 50 s of steps one after the other; at once, about 0 min 40 s"),
            "{text}"
        );
    }

    #[test]
    fn without_forks_each_row_does_its_steps_by_itself() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, WRITE, UNLOCKED]);
        let two = scenario("two", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, IMAGE), (&two, IMAGE)]);
        let told = told(&plan, Forks::No, &Remembered::default(), 2);
        assert_eq!((told.boots, told.booted, told.saved, told.forked), (4, 4, 0, 0));
        assert_eq!((told.steps[1].times, told.one_after_the_other_ms), (2, 70_000));
    }

    #[test]
    fn rows_that_passed_and_machines_that_were_saved_cost_nothing() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, WRITE, UNLOCKED]);
        let two = scenario("two", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, IMAGE), (&two, IMAGE)]);
        let passed = |name: &str| (name.to_owned(), IMAGE.to_owned());
        let mut remembered = Remembered::default();
        remembered.passed.insert(passed("one"));
        let first = told(&plan, Forks::Yes, &remembered, 2);
        assert_eq!((first.rows, first.passed_before, first.boots, first.booted), (2, 1, 2, 2));
        remembered.saved.insert(prefixes(&one, IMAGE).remove(1));
        let saved = told(&plan, Forks::Yes, &remembered, 2);
        assert_eq!((saved.boots, saved.booted, saved.saved, saved.forked), (2, 1, 0, 1));
        assert_eq!(saved.one_after_the_other_ms, 10_000);
        remembered.passed.insert(passed("two"));
        let all = told(&plan, Forks::Yes, &remembered, 2);
        assert_eq!((all.passed_before, all.boots, all.booted, all.forked), (2, 0, 0, 0));
        let text = all.text();
        assert!(text.contains("2 rows, 2 of them passed before and not run again: 0 boots"), "{text}");
        assert!(text.contains("saved before") && text.contains("= one (passed before)"), "{text}");
    }

    #[test]
    fn rows_that_are_skipped_cost_nothing() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, WRITE]);
        let two = scenario("two", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, IMAGE), (&two, IMAGE)]);
        let mut remembered = Remembered::default();
        remembered
            .skipped
            .insert(("two".to_owned(), IMAGE.to_owned()), "needs-dnf: there is none".to_owned());
        let told = told(&plan, Forks::Yes, &remembered, 2);
        assert_eq!((told.rows, told.skipped, told.boots, told.booted), (2, 1, 1, 1));
        let text = told.text();
        assert!(text.contains("2 rows, 1 of them skipped: 1 boot"), "{text}");
        assert!(text.contains("= two (skipped: needs-dnf: there is none)"), "{text}");
    }

    #[test]
    fn rows_beside_a_run_part_its_ways_and_are_not_told() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, WRITE, UNLOCKED]);
        let two = scenario("two", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, IMAGE)]).beside([(&one, IMAGE), (&two, IMAGE)]);
        assert_eq!(plan.stops(&one, IMAGE), [1]);
        let told = told(&plan, Forks::Yes, &Remembered::default(), 2);
        assert_eq!((told.rows, told.steps.len(), told.booted, told.saved, told.forked), (1, 4, 2, 1, 1));
    }

    #[test]
    fn a_row_takes_as_long_as_its_steps_on_any_number_of_processors() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, COLD]);
        let plan = Plan::of([(&one, IMAGE)]);
        let text = plan.tell(Forks::Yes, &Remembered::default(), 8, seconds(30)).text();
        assert!(text.contains("1 row: 2 boots, 2 of them booted and 0 shared; 0 machines"), "{text}");
        assert!(
            text.contains("1 min 30 s of steps one after the other; at once, about 1 min 30 s"),
            "{text}"
        );
    }

    #[test]
    fn what_was_never_timed_takes_as_long_as_its_like() {
        let one = scenario("one", "\"platform\"", &[UNLOCKED, COLD, WRITE]);
        let plan = Plan::of([(&one, IMAGE)]);
        let all = prefixes(&one, IMAGE);
        let tell = |known: &[usize]| {
            let known: Vec<_> = known.iter().map(|at| all[*at].clone()).collect();
            let timed = |prefix: &Prefix| known.contains(prefix).then_some(Duration::from_secs(30));
            plan.tell(Forks::Yes, &Remembered::default(), 2, timed)
        };
        let told = tell(&[0, 1]);
        assert_eq!((told.one_after_the_other_ms, told.estimated, told.not_timed), (90_000, 1, 1));
        let text = told.text();
        assert!(text.contains("expected: about 1 min 30 s of steps one after the other"), "{text}");
        assert!(text.contains("1 step of these never timed here"), "{text}");
        assert!(text.contains("without 1 more step of a kind that was never timed"), "{text}");
        assert!(tell(&[]).text().contains("not known, since none of these steps was timed yet"));
    }
}
