//! Progress on standard error: a live line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use latchkey_images::Stage;
use latchkey_record::Status;
use latchkey_scenario::watch::{Event, Watch};

/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(120);

/// Tells a person how far things are.
pub(crate) struct Live {
    bar: Option<ProgressBar>,
    said: Mutex<String>,
}

impl Live {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self { bar, said: Mutex::new(String::new()) }
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// What is going on now; without a terminal only when `plain` says so.
    fn now(&self, text: &str, plain: Plain) {
        if let Some(bar) = &self.bar {
            bar.enable_steady_tick(TICK);
            bar.set_message(text.to_owned());
        } else if plain == Plain::Say {
            eprintln!("{text}");
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
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
        let mut said = match self.said.lock() {
            Ok(said) => said,
            Err(poisoned) => poisoned.into_inner(),
        };
        let plain = if *said == stage.word() { Plain::Hush } else { Plain::Say };
        stage.word().clone_into(&mut said);
        self.now(&text, plain);
    }
}

impl Watch for Live {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::ScenarioBegins { name, image, steps } => {
                self.line(&format!("{name} on {image}, {steps} steps"));
            }
            Event::StepBegins { number, what } => self.now(&format!("  {number:>2} {what}"), Plain::Hush),
            Event::Note(text) => self.now(&format!("     {text}"), Plain::Hush),
            Event::StepEnds(step) => {
                let tenths = step.took_ms / 100;
                let word = match &step.status {
                    Status::Passed => "ok",
                    other => other.word(),
                };
                let time = format!("{}.{} s", tenths / 10, tenths % 10);
                self.line(&format!("  {:>2} {:<70} {word:>6} {time:>8}", step.number, step.what));
            }
            Event::Provisioned { .. } => {}
            Event::ScenarioEnds(result) => {
                self.now(&format!("{} {}", result.scenario, result.status), Plain::Hush)
            }
        }
    }
}
