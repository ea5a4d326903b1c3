//! Failures that are known: expected until a day, and a failure of their own afterwards.

use latchkey_record::{Day, ScenarioResult, Status};

use crate::file::Expected;
use crate::{Rehearsed, Scenario};

impl Scenario {
    /// The same for a rehearsal, as far as forecasts tell: one that does not hold where it is known not to is known. One that
    /// holds may still fail when it is booted. When the time is over, the run is to fail either way.
    pub fn judge_rehearsed(&self, rehearsed: &mut Rehearsed, like: Option<&str>, today: Day) {
        let image = like.unwrap_or(&rehearsed.image);
        let Some(Expected { known, step }) = self.known.get(image).filter(|_| rehearsed.skipped.is_none())
        else {
            return;
        };
        if today > known.until {
            let entry = format!("the [[known]] entry for {image} in {}", self.path.display());
            let over = format!("its time as a known failure is over ({known}): mend it, or take out {entry}");
            rehearsed.broken.push(over);
        } else if !rehearsed.broken.is_empty() && rehearsed.failed_at == Some(*step) {
            rehearsed.known = Some(known.clone());
        }
    }

    /// Makes of `result` what the scenario's known failures make of it `today`: a failure that is expected is `known`; a pass
    /// where one is expected fails, and so does a failure whose time is over. Applied to a result that was judged before,
    /// on another day, it judges anew.
    /// A user's own image is judged as the reference image that it is `like`.
    pub fn judge_known(&self, result: &mut ScenarioResult, like: Option<&str>, today: Day) {
        if let Status::Known { reason, .. } = &result.status {
            result.status = Status::Failed { reason: reason.clone() };
        }
        let image = like.unwrap_or(&result.image);
        let Some(Expected { known, step }) = self.known.get(image) else { return };
        let failing = result.ended_at().map(|step| step.number);
        let entry = format!("the [[known]] entry for {image} in {}", self.path.display());
        match &result.status {
            Status::Passed => {
                let reason = format!("it passes, and was to fail ({known}): take out {entry}");
                result.status = Status::Failed { reason };
            }
            Status::Failed { reason } if today > known.until => {
                let reason = format!(
                    "its time as a known failure is over ({known}): mend it, or renew {entry}\n{reason}"
                );
                result.status = Status::Failed { reason };
            }
            Status::Failed { reason } if failing != Some(*step) => {
                let at = failing.map_or("no step".to_owned(), |step| format!("step {step}"));
                let reason = format!("it fails at {at}, which is not what is known ({known})\n{reason}");
                result.status = Status::Failed { reason };
            }
            Status::Failed { reason } => {
                result.status = Status::Known { reason: reason.clone(), known: known.clone() };
            }
            // Says nothing about the machine, so nothing about its failure.
            Status::Known { .. } | Status::Skipped { .. } | Status::InfrastructureError { .. } => {}
        }
    }
}
