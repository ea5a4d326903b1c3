//! Progress on standard error: on a terminal a table of the machines that run, a line each, and plain lines elsewhere.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};
use latchkey_images::Stage;
use latchkey_record::{ScenarioResult, Status, StepResult};
use latchkey_report::terminal::{self, harmless};
use latchkey_scenario::watch::{Event, Watch};

use crate::run::colour;
use crate::say;

/// How often the spinners turn.
const TICK: Duration = Duration::from_millis(120);

/// Tells a person how far things are.
pub(crate) struct Live {
    screen: Option<Screen>,
    /// The stage of an image's building that was told last.
    said: Mutex<String>,
    rows: AtomicUsize,
    over: Mutex<Over>,
}

/// How many rows are over, how many of them failed or could not be judged, and how many were run and are no earlier run's.
#[derive(Debug, Clone, Copy, Default)]
struct Over {
    done: usize,
    failed: usize,
    broken: usize,
    run: usize,
    /// When the first row began.
    began: Option<Instant>,
}

/// After so many rows it shows how fast they are.
const TELLING: usize = 10;

impl Over {
    fn ended(&mut self, result: &ScenarioResult) {
        let status = &result.status;
        self.done += 1;
        self.failed += usize::from(matches!(status, Status::Failed { .. }));
        self.broken += usize::from(matches!(status, Status::InfrastructureError { .. }));
        self.run += usize::from(result.reused.is_none() && !matches!(status, Status::Skipped { .. }));
    }

    /// It in words, of `rows` in all, after `elapsed`: with the time that the others take if all of them are run, and as fast.
    fn words(self, rows: usize, elapsed: Duration) -> String {
        let Self { done, failed, broken, run, .. } = self;
        let mut text = format!("{done} of {} done", rows.max(done));
        for (number, what) in [(failed, "failed"), (broken, "could not be judged")] {
            if number > 0 {
                let _ = write!(text, ", {number} {what}");
            }
        }
        let (left, of) = (rows.saturating_sub(done), u32::try_from(run).unwrap_or(u32::MAX));
        if run >= TELLING && left > 0 {
            let each = elapsed / of.max(1);
            let _ = write!(text, ", about {} left", minutes(each * u32::try_from(left).unwrap_or(u32::MAX)));
        }
        text
    }
}

struct Screen {
    all: MultiProgress,
    /// The last line: what goes on besides the rows, and how many of them are over.
    foot: ProgressBar,
}

impl Live {
    pub(crate) fn new() -> Self {
        let screen = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let foot =
                all.add(ProgressBar::new_spinner().with_style(style("{spinner} {elapsed:>4} {wide_msg}")));
            Screen { all, foot }
        });
        let said = Mutex::new(String::new());
        Self { screen, said, rows: AtomicUsize::new(0), over: Mutex::default() }
    }

    /// So many rows on these images will run, so many at once, with their record in `dir`. Who reads a log afterwards, which has
    /// no table, is told where that is before anything can go wrong.
    pub(crate) fn begins(&self, dir: &Path, rows: usize, images: &BTreeSet<&str>, jobs: usize) {
        self.rows.store(rows, Ordering::Relaxed);
        if self.screen.is_none() {
            say(&beginning(dir, rows, images, jobs));
        }
    }

    /// A row's own line, for as long as it runs, which is `expected` where somebody knows. Rows may run side by side.
    pub(crate) fn row(&self, name: &str, image: &str, expected: Option<Duration>) -> Row<'_> {
        held(&self.over).began.get_or_insert_with(Instant::now);
        let doing = Arc::new(Mutex::new(Doing::new(expected)));
        let bar = self.screen.as_ref().map(|screen| {
            let (since, left) = (Arc::clone(&doing), Arc::clone(&doing));
            let style = style("{spinner} {prefix} {wide_msg} {since:>6} {left:>9}")
                .with_key("since", move |_: &ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = w.write_str(&minutes(held(&since).since.elapsed()));
                })
                .with_key("left", move |_: &ProgressState, w: &mut dyn std::fmt::Write| {
                    let _ = w.write_str(&held(&left).left());
                });
            let bar = screen.all.insert_before(&screen.foot, ProgressBar::new_spinner().with_style(style));
            bar.set_prefix(format!("{name} on {image}"));
            bar.enable_steady_tick(TICK);
            bar
        });
        Row { live: self, name: format!("{name} on {image}"), bar, doing }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.screen {
            Some(screen) => screen.all.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// What goes on besides the rows; without a terminal only when `plain` says so.
    fn now(&self, text: &str, plain: Plain) {
        if let Some(screen) = &self.screen {
            screen.foot.enable_steady_tick(TICK);
            screen.foot.set_message(harmless(text));
        } else if plain == Plain::Say {
            say(text);
        }
    }

    /// Counts a row that is over, and gives how many are.
    fn ended(&self, result: &ScenarioResult) -> usize {
        let over = {
            let mut over = held(&self.over);
            over.ended(result);
            *over
        };
        let elapsed = over.began.map_or(Duration::ZERO, |began| began.elapsed());
        self.now(&over.words(self.rows.load(Ordering::Relaxed), elapsed), Plain::Hush);
        over.done
    }

    /// Whether one row runs, whose steps are told one after the other.
    fn is_single(&self) -> bool {
        self.rows.load(Ordering::Relaxed) <= 1
    }

    pub(crate) fn finish(&self) {
        if let Some(screen) = &self.screen {
            screen.foot.finish_and_clear();
        }
    }
}

/// A run's first line.
fn beginning(dir: &Path, rows: usize, images: &BTreeSet<&str>, jobs: usize) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let names = images.iter().copied().collect::<Vec<_>>().join(", ");
    let at_once = match jobs.min(rows) {
        0 | 1 => String::new(),
        several => format!(", {several} at once"),
    };
    let on = match images.len() {
        // Of a shard that has nothing to do.
        0 => String::new(),
        some => format!(" on {} ({names})", counted(some, "image")),
    };
    format!("{}: {}{on}{at_once}", dir.display(), counted(rows, "row"))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[derive(PartialEq, Eq)]
enum Plain {
    Say,
    Hush,
}

impl latchkey_images::Progress for Live {
    fn report(&self, stage: Stage, message: &str, fraction: f64) {
        let text = format!("image: {:3.0} % {}: {message}", fraction * 100.0, stage.word());
        // Without a terminal one line a stage is enough.
        let mut said = held(&self.said);
        let plain = if *said == stage.word() { Plain::Hush } else { Plain::Say };
        stage.word().clone_into(&mut said);
        self.now(&text, plain);
    }
}

/// What a machine is doing.
struct Doing {
    began: Instant,
    expected: Option<Duration>,
    steps: usize,
    step: String,
    /// When the step began.
    since: Instant,
}

impl Doing {
    fn new(expected: Option<Duration>) -> Self {
        let now = Instant::now();
        Self { began: now, expected, steps: 0, step: String::new(), since: now }
    }

    /// How long the row still takes, where somebody knows; nothing once it takes longer than that.
    fn left(&self) -> String {
        let left = self.expected.and_then(|expected| expected.checked_sub(self.began.elapsed()));
        left.map_or(String::new(), |left| format!("{} left", minutes(left)))
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One row: takes the events of its run.
pub(crate) struct Row<'a> {
    live: &'a Live,
    name: String,
    bar: Option<ProgressBar>,
    doing: Arc<Mutex<Doing>>,
}

impl Row<'_> {
    fn show(&self, note: &str) {
        let Some(bar) = &self.bar else { return };
        let step = held(&self.doing).step.clone();
        bar.set_message(harmless(&if note.is_empty() { step } else { format!("{step}: {note}") }));
    }

    fn step_ends(&self, step: &StepResult) {
        // A table of several machines tells what each is doing; what each has done is in the report.
        if self.live.is_single() || self.bar.is_none() {
            let name = if self.live.is_single() { String::new() } else { format!("{}: ", self.name) };
            self.live.line(&format!("{name}{}", step_line(step)));
        }
    }
}

impl Watch for Row<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::ScenarioBegins { steps, .. } => {
                held(&self.doing).steps = *steps;
                if self.live.is_single() || self.bar.is_none() {
                    self.live.line(&format!("{}, {steps} steps", self.name));
                }
            }
            Event::StepBegins { number, what } => {
                let mut doing = held(&self.doing);
                doing.step = format!("{number}/{} {what}", doing.steps);
                doing.since = Instant::now();
                drop(doing);
                self.show("");
            }
            Event::Note(text) => self.show(text),
            Event::Secret { .. } => {}
            Event::StepEnds(step) => self.step_ends(step),
            Event::ScenarioEnds(result) => {
                let done = self.live.ended(result);
                if !self.live.is_single() {
                    // A table counts them below itself.
                    let number = match self.bar {
                        Some(_) => String::new(),
                        None => format!("[{done}/{}] ", self.live.rows.load(Ordering::Relaxed)),
                    };
                    let row = terminal::row(result, colour(std::io::stderr().is_terminal()));
                    self.live.line(&format!("{number}{row}"));
                }
            }
        }
    }
}

impl Drop for Row<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn step_line(step: &StepResult) -> String {
    let word = match &step.status {
        Status::Passed => "ok",
        other => other.word(),
    };
    let tenths = step.took_ms / 100;
    let mut line = format!("  {:>2} {:<70} {word:>6}", step.number, step.what);
    let _ = write!(line, " {:>8}", format!("{}.{} s", tenths / 10, tenths % 10));
    line
}

/// `0:42`, `12:05`.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_minutes() {
        assert_eq!(
            [0, 59, 60, 725].map(|s| minutes(Duration::from_secs(s))),
            ["0:00", "0:59", "1:00", "12:05"]
        );
    }

    #[test]
    fn a_log_begins_with_what_is_run_and_where_its_record_is() {
        let line = |rows, images: &[&str], jobs| {
            beginning(Path::new("r/1"), rows, &images.iter().copied().collect(), jobs)
        };
        assert_eq!(line(12, &["b", "a"], 3), "r/1: 12 rows on 2 images (a, b), 3 at once");
        assert_eq!(line(1, &["a"], 3), "r/1: 1 row on 1 image (a)");
        assert_eq!(line(0, &[], 3), "r/1: 0 rows");
    }

    #[test]
    fn how_far_a_run_is_is_told_with_what_is_left() {
        let over = |done, failed, broken, run| Over { done, failed, broken, run, began: None };
        let words = |over: Over| over.words(40, Duration::from_secs(100));
        assert_eq!(words(over(2, 0, 0, 2)), "2 of 40 done");
        // Verdicts of earlier runs take no time, and say nothing of how long the others do.
        assert_eq!(words(over(20, 0, 0, 2)), "20 of 40 done");
        assert_eq!(
            words(over(20, 1, 2, 10)),
            "20 of 40 done, 1 failed, 2 could not be judged, about 3:20 left"
        );
        assert_eq!(words(over(40, 0, 1, 30)), "40 of 40 done, 1 could not be judged");
    }

    #[test]
    fn what_is_left_is_told_while_it_is_known() {
        let began = Instant::now();
        let doing = |expected: Option<u64>| Doing { began, ..Doing::new(expected.map(Duration::from_secs)) };
        assert!(doing(Some(3600)).left().ends_with(" left"));
        assert_eq!((doing(None).left(), doing(Some(0)).left()), (String::new(), String::new()));
    }
}
