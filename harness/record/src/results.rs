//! A whole run: what `results.json` holds.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BootRecord, Conclusion, Known};

/// The schema's name and version. The number goes up when a reader of the old one would misread the new.
pub const SCHEMA: &str = "latchkey-results/1";

/// How the reason begins for which a row was skipped that its run has not come to, or a step that its row has not.
pub const NOT_REACHED: &str = "not-reached: ";

/// What stops because somebody asked the run to end says no more than this of why.
const INTERRUPTED: &str = "interrupted";

/// How something ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum Status {
    /// All as expected.
    Passed,
    /// A verdict failed.
    Failed {
        /// What was expected, what was seen.
        reason: String,
    },
    /// A verdict failed, as it is known to do for a while: expected, and shown.
    Known {
        /// What was expected, what was seen.
        reason: String,
        /// Why that is known.
        known: Known,
    },
    /// Not run, and why.
    Skipped {
        /// The reason, such as `needs-vendor-key: ...`: a word to look for, where it has one, and what to do.
        reason: String,
    },
    /// The harness, its tools or the host failed: says nothing about the machine.
    InfrastructureError {
        /// What failed and what to do next.
        reason: String,
    },
}

impl Status {
    /// One word for tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed { .. } => "failed",
            Self::Known { .. } => "known",
            Self::Skipped { .. } => "skipped",
            Self::InfrastructureError { .. } => "error",
        }
    }

    /// Whether its run, or its row, has not come to it.
    #[must_use]
    pub fn is_not_reached(&self) -> bool {
        matches!(self, Self::Skipped { reason } if reason.starts_with(NOT_REACHED))
    }

    /// Whether it was stopped because somebody asked the run to end: no verdict, and nobody's fault.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        // What was being done when it was stopped may stand before; more lines quote a tool or a console, and say nothing of it.
        let said = |reason: &str| !reason.contains('\n') && reason.rsplit(": ").next() == Some(INTERRUPTED);
        matches!(self, Self::InfrastructureError { reason } if said(reason))
    }

    /// Why it did not pass.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed { reason }
            | Self::Known { reason, .. }
            | Self::Skipped { reason }
            | Self::InfrastructureError { reason } => Some(reason),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One step of a scenario and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StepResult {
    /// Counts from 1; 0 is provisioning.
    pub number: u32,
    /// The step in one line, as a person would say it.
    pub what: String,
    /// How it ended.
    pub status: Status,
    /// What was asserted and held, or did not: one line each.
    pub checks: Vec<Check>,
    /// The boots it made; provisioning and most other steps make none or one.
    pub boots: Vec<BootRecord>,
    /// Wall time in milliseconds.
    pub took_ms: u64,
    /// With which other row it was done once for both, as `SCENARIO on IMAGE`, with that row's run where it is another; its
    /// time is in that one's.
    #[serde(default)]
    pub shared_with: Option<String>,
}

/// What stands between a row and its run, where a step is shared with a row of another run.
const OF_RUN: &str = ", run ";

impl StepResult {
    /// What [`StepResult::shared_with`] says of the row `row` of another run, `run`.
    #[must_use]
    pub fn row_of(row: &str, run: &str) -> String {
        format!("{row}{OF_RUN}{run}")
    }

    /// Whether another run did it.
    #[must_use]
    pub fn is_of_another_run(&self) -> bool {
        self.shared_with.as_ref().is_some_and(|row| row.contains(OF_RUN))
    }
}

/// One thing that was asserted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// What is asserted.
    pub what: String,
    /// What was expected.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// Whether they agree.
    pub held: bool,
}

/// One scenario on one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScenarioResult {
    /// The file's stem: `certificate-rename`.
    pub scenario: String,
    /// Its title.
    pub title: String,
    /// Why it exists.
    pub why: String,
    /// Which image it ran on.
    pub image: String,
    /// The host that it ran on, as [`RunResults::host`] has it, where the rows come from several; `None`: the run's.
    #[serde(default)]
    pub host: Option<String>,
    /// How it ended.
    pub status: Status,
    /// What the machine came to; `None` when the scenario did not run to its end, or booted nothing, and when it passed and left
    /// its machine locked: a way in that it did not try may be left.
    pub conclusion: Option<Conclusion>,
    /// What was done, in order.
    pub steps: Vec<StepResult>,
    /// The command that does it again.
    pub reproduce: String,
    /// Where the machine was left, when it was asked to be kept.
    pub kept: Option<String>,
    /// Wall time in milliseconds.
    pub took_ms: u64,
    /// The earlier run that came to this verdict from the same inputs; `None` when it was come to in this one.
    #[serde(default)]
    pub reused: Option<String>,
    /// What tells this image from others of its name: of a reference image the hashes of its recipe and its content, of a user's
    /// its path, size and last change. `None` where the row did not come to an image.
    #[serde(default)]
    pub image_identity: Option<String>,
}

impl ScenarioResult {
    /// The step that it did not get past. What comes after that one is not reached.
    #[must_use]
    pub fn ended_at(&self) -> Option<&StepResult> {
        self.steps.iter().find(|step| step.status != Status::Passed && !step.status.is_not_reached())
    }

    /// Whether it passed and left its machine locked, which is no [`Conclusion`]: a way in that it did not try may be left.
    #[must_use]
    pub fn is_left_locked(&self) -> bool {
        let booted = self.steps.iter().any(|step| !step.boots.is_empty());
        self.status == Status::Passed && self.conclusion.is_none() && booted
    }

    /// How long the steps took in milliseconds that were done once for this row and another, whose time has them. 0 where the
    /// verdict is an earlier run's: nothing was done for it.
    #[must_use]
    pub fn shared_ms(&self) -> u64 {
        let shared = self.steps.iter().filter(|step| self.reused.is_none() && step.shared_with.is_some());
        // Somebody else's results may tell any numbers.
        shared.fold(0, |sum: u64, step| sum.saturating_add(step.took_ms))
    }

    /// The row as people name it: `certificate-rename on rlc9-uki`, with the host where the rows come from several.
    #[must_use]
    pub fn row(&self) -> String {
        let host = self.host.as_ref().map_or(String::new(), |host| format!(" ({host})"));
        format!("{} on {}{host}", self.scenario, self.image)
    }
}

/// A scenario that is not for an image: there is no such row, by its own account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeftOut {
    /// The scenario's name.
    pub scenario: String,
    /// The image that it is not for.
    pub image: String,
    /// Why.
    pub why: String,
}

/// What of an image decides over what its machines come to, and in which versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImageVersions {
    /// The image, as its rows name it.
    pub image: String,
    /// Which one of that name: [`ScenarioResult::image_identity`] of its rows.
    pub identity: String,
    /// Versions of packages, by what they bring: `shim`, `grub`, `kernel`, `systemd`, `stub`, `cryptsetup`, `tpm2-tss`, `dracut`.
    /// One that is not there is not on the image, or is not known.
    pub versions: BTreeMap<String, String>,
}

/// A whole run, or several as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunResults {
    /// [`SCHEMA`].
    pub schema: String,
    /// The run's name: its start in UTC and the process that ran it. Of several, all their names.
    pub run: String,
    /// The harness' version, and which build of it: part of a hash of its program.
    pub harness: String,
    /// The host in one line: accelerator, QEMU, firmware, swtpm. Of several, one after the other with `; ` between them.
    pub host: String,
    /// One entry a scenario and image.
    pub scenarios: Vec<ScenarioResult>,
    /// Which of the scenarios that are in the run are not for which of its images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// Package versions of the images that rows ran on, as far as they are known: of a user's image, and of Debian as it comes,
    /// they are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageVersions>,
    /// Wall time in milliseconds.
    pub took_ms: u64,
}

impl RunResults {
    /// Whether there are rows and none of them was run.
    #[must_use]
    pub fn proves_nothing(&self) -> bool {
        let skipped = |row: &ScenarioResult| matches!(row.status, Status::Skipped { .. });
        !self.scenarios.is_empty() && self.scenarios.iter().all(skipped)
    }

    /// The process' exit code: 0 all as expected, 1 a verdict failed, 3 infrastructure. An infrastructure
    /// error wins over a failed verdict, since the run then says too little. Rows that were not reached are 3 where
    /// nothing failed: with them something might have.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let any = |wanted: fn(&Status) -> bool| self.scenarios.iter().any(|s| wanted(&s.status));
        if any(|s| matches!(s, Status::InfrastructureError { .. })) {
            3
        } else if any(|s| matches!(s, Status::Failed { .. })) {
            1
        } else if any(Status::is_not_reached) {
            3
        } else {
            0
        }
    }
}

/// The JSON schema of [`RunResults`].
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RunResults).into()
}
