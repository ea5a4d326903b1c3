//! Every boot's forecast: made and hashed before the boot begins, held against the TPM's record afterwards.

use std::path::PathBuf;

use latchkey_disk::Access;
use latchkey_forecast::{Keyboard, align};
use latchkey_machine::Offline;
use latchkey_measure::hash::digest;
use latchkey_record::forecast::Difference;
use latchkey_record::tpm::TpmRecord;
use latchkey_record::{Alignment, Forecast, HashAlg, Outcome};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bench::{Bench, Power};
use crate::boot::COMMAND;
use crate::judge::Judgement;
use crate::model::tpm_state;

/// A forecast, written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Forecasted {
    pub(crate) forecast: Forecast,
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
}

/// How a boot compares with its forecast.
pub(crate) struct Foresight {
    pub(crate) alignment: Alignment,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) sha256: String,
    pub(crate) path: PathBuf,
}

impl Bench<'_> {
    /// Forecasts the boot of the machine, which is off.
    pub(crate) fn foresee(&mut self, number: u32, keyboard: Keyboard) -> Result<(), Error> {
        let Power::Off(machine) = &mut self.power else {
            return Err(Error::Bench("only a machine that is off can be forecast from its files".into()));
        };
        let model = self.model.as_ref().ok_or_else(|| Error::Bench("the machine has no model yet".into()))?;
        let tpm = tpm_state(self.context.host, machine)?;
        let forecast =
            machine.offline(|files| model.forecast_with(&files, Access::ReadOnly, &tpm, keyboard))?;
        self.tpm = Some(tpm);
        self.write_down(number, forecast)
    }

    /// Forecasts what the restart of the guest, which runs, comes to: with its file systems written out and the machine
    /// brought to a stop for as long as its files are read.
    pub(crate) fn foresee_reboot(&mut self, number: u32, keyboard: Keyboard) -> Result<(), Error> {
        let forecast = self.forecast_reboot(keyboard)?;
        self.write_down(number, forecast)
    }

    /// That forecast alone.
    pub(crate) fn forecast_reboot(&mut self, keyboard: Keyboard) -> Result<Forecast, Error> {
        self.running()?.guest_ok("sync", &[], COMMAND)?;
        let (Some(model), Some(tpm)) = (&self.model, &self.tpm) else {
            return Err(Error::Bench("the machine has no model yet".into()));
        };
        let look = |files: Offline<'_>| model.forecast_with(&files, Access::Frozen, tpm, keyboard);
        Ok(self.running()?.frozen(look)??)
    }

    fn write_down(&mut self, number: u32, forecast: Forecast) -> Result<(), Error> {
        let name = format!("boot-{number}.forecast.json");
        let text = serde_json::to_vec_pretty(&forecast)
            .map_err(|e| Error::file("writing", &self.dir.join(&name))(e.into()))?;
        self.write(&name, &text)?;
        let sha256 = digest(HashAlg::Sha256, &text).hex();
        let outcome = forecast.outcome.map_or("open".into(), |outcome| outcome.to_string());
        let events: usize = forecast.legs.iter().map(|leg| leg.events.len()).sum();
        self.note(&format!("forecast: {outcome}, {events} events, sha256 {}", &sha256[..12]));
        self.forecast = Some(Forecasted { forecast, path: self.relative(&name), sha256 });
        Ok(())
    }

    /// Aligns the boot's extends with its forecast, and asserts that they agree. An answer at the prompt continues a boot
    /// whose outcome was forecast, so that its own outcome is not compared.
    pub(crate) fn compare_with_forecast(
        &mut self,
        answered: bool,
        record: &TpmRecord,
        judgement: &Judgement,
    ) -> Result<Foresight, Error> {
        let outcome = judgement.outcome;
        let made = self.forecast.as_ref().ok_or_else(|| Error::Bench("the boot was not forecast".into()))?;
        let mut resets: Vec<u32> = record.exchanges.iter().map(|exchange| exchange.reset).collect();
        resets.dedup();
        let mut alignment = align(&made.forecast, record, &resets, self.bank);
        if judgement.is_unclear() {
            // It did not come to its end: what is missing may have been to come.
            alignment.mismatches.retain(|mismatch| mismatch.kind != Difference::Missing);
        }
        let reported_by = made.forecast.reported_by.clone();
        let foresight = Foresight {
            outcome: made.forecast.outcome,
            sha256: made.sha256.clone(),
            path: made.path.clone(),
            alignment,
        };
        let differ = &foresight.alignment.mismatches;
        let told = if differ.is_empty() {
            "none".to_owned()
        } else {
            differ.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        };
        self.check("events that differ from the forecast", "none", told);
        if let (Some(forecast), Some(seen), false) = (foresight.outcome, outcome, answered) {
            self.check("the outcome that was forecast", forecast.to_string(), seen.to_string());
        }
        if let Some(forecast) = reported_by.filter(|_| foresight.outcome == outcome && !answered) {
            self.check(
                "who reports it, by the forecast",
                forecast,
                judgement.reported_by.unwrap_or("nobody"),
            );
        }
        Ok(foresight)
    }
}
