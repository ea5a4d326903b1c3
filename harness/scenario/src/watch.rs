//! What a run tells whoever waits for it.

use latchkey_provision::Secret;
use latchkey_record::{ScenarioResult, StepResult};

/// Something happened in a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A scenario begins.
    ScenarioBegins {
        /// Its name.
        name: &'a str,
        /// The image's name.
        image: &'a str,
        /// How many steps it has, provisioning not counted.
        steps: usize,
    },
    /// A step begins; 0 is provisioning.
    StepBegins {
        /// Its number.
        number: u32,
        /// The step in one line.
        what: &'a str,
    },
    /// Something that a person may want to see while waiting: a console pattern, what is awaited.
    Note(&'a str),
    /// The row has to do with a secret. For whoever looks for it in what the run leaves behind; it is shown to nobody.
    Secret {
        /// What it is, in words.
        name: &'a str,
        /// Itself.
        secret: &'a Secret,
    },
    /// A step is over.
    StepEnds(&'a StepResult),
    /// A scenario is over.
    ScenarioEnds(&'a ScenarioResult),
}

/// Takes a run's events. Called from the running thread; must not block.
pub trait Watch {
    /// `event` happened.
    fn event(&self, event: &Event<'_>);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Watch for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
