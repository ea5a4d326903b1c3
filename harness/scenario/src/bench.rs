//! The machine of one scenario, with what is known of it so far: its power, its boots, its baseline.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey_forecast::TpmState;
use latchkey_machine::{Ended, Hardware, Machine, PowerOff, Running};
use latchkey_provision::{EscrowError, KeyRole, Keys, RecoveryKeyInfo, Secret, Vault};
use latchkey_record::boot::BootKind;
use latchkey_record::results::Check;
use latchkey_record::tpm::TpmRecord;
use latchkey_record::{BootRecord, ForecastEvent, HashAlg, Outcome, PcrValues, StepResult};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::context::Context;
use crate::file::Scenario;
use crate::foresight::Forecasted;
use crate::judge::Sealed;
use crate::model::Model;
use crate::watch::{Event, Watch};

/// How long a system may take to switch itself off, on the reference host.
const POWER_OFF: Duration = Duration::from_secs(90);

/// PCR values of one boot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// When the sealed key was first tried, by the recorder.
    pub(crate) at_first_try: BTreeMap<HashAlg, PcrValues>,
    /// By the guest's own account.
    pub(crate) by_guest: Option<BTreeMap<HashAlg, PcrValues>>,
    /// The TPM's dictionary-attack counter, by the guest's own account.
    pub(crate) lockout_counter: Option<u32>,
    /// The guest's event log, in the run's directory.
    pub(crate) event_log: Option<PathBuf>,
    /// What the last start of the firmware was to measure.
    pub(crate) events: Vec<ForecastEvent>,
}

/// Whether the machine is on.
pub(crate) enum Power {
    Off(Machine),
    On(Box<Running>),
    /// A step failed in the middle of a change of power.
    Lost,
}

impl Scenario {
    /// What the record of its row on `image` is called, a directory in that of the run. Rows of one run must not have one in
    /// common.
    #[must_use]
    pub fn record_name(&self, image: &str) -> String {
        match self.machine.image.names() {
            [_] => self.name.clone(),
            _ => format!("{}.{image}", self.name),
        }
    }
}

/// The machine of one scenario and its story so far.
pub(crate) struct Bench<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) watch: &'a dyn Watch,
    pub(crate) power: Power,
    pub(crate) keys: Keys,
    /// What the TPM holds; there once it is provisioned.
    pub(crate) platform: Option<Secret>,
    /// Every secret that the row had to do with, by its name.
    pub(crate) secrets: Vec<(String, Secret)>,
    /// The guest state's metadata, as text, with a recovery key that is wrapped; and what stands for the customer's vault.
    pub(crate) escrow: Option<(String, Vault)>,
    /// Of the seal: the bank that is compared.
    pub(crate) bank: HashAlg,
    /// The last boot that opened by itself.
    pub(crate) baseline: Option<Measured>,
    /// What the last boot came to.
    pub(crate) outcome: Option<Outcome>,
    /// Whether its TPM refused for being in dictionary-attack lockout.
    pub(crate) locked_out: bool,
    /// The boot, or the answer to one, that has begun and is not recorded yet.
    pub(crate) under_way: Option<((u32, BootKind), Option<KeyRole>)>,
    /// Where on the console its decisive pattern ends.
    pub(crate) mark: usize,
    /// The number of the next boot, from 1.
    pub(crate) next_boot: u32,
    /// Whether a key is sealed to the machine's TPM.
    pub(crate) sealed: Sealed,
    /// What its forecasts are made from; there once it is provisioned.
    pub(crate) model: Option<Model>,
    /// The forecast of the boot that is under way, made before it began.
    pub(crate) forecast: Option<Forecasted>,
    /// Its TPM, as it was at the last power-on.
    pub(crate) tpm: Option<TpmState>,
    pub(crate) powered_on: u32,
    /// With which password something was asked of MokManager.
    pub(crate) request: Option<Secret>,
    /// Where its machines lie.
    scratch: PathBuf,
    /// Where the row's record goes, and how the run's directory calls it.
    pub(crate) dir: PathBuf,
    pub(crate) name: String,
    /// The row in words: scenario and image.
    pub(crate) row: String,
    /// Steps that are over.
    pub(crate) steps: Vec<StepResult>,
    /// Boots of the step that is under way.
    pub(crate) records: Vec<BootRecord>,
    /// What the step that is under way asserted.
    pub(crate) checks: Vec<Check>,
}

/// Whether a machine that came to this acts on a wish to switch it off: a system does, and an initrd that waits for a passphrase.
/// One that asks nobody soon ends in a shell which does not, so it is stopped as a cloud's portal stops it.
pub(crate) fn listens(outcome: Outcome) -> bool {
    outcome.is_open() || outcome == Outcome::FallbackPrompt
}

impl<'a> Bench<'a> {
    /// The run's name.
    pub(crate) fn run(&self) -> String {
        self.context.results.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// A bench with nothing on it yet, and a directory for the row's record.
    pub(crate) fn new(
        scenario: &Scenario,
        context: &'a Context<'a>,
        watch: &'a dyn Watch,
        scratch: &Path,
    ) -> Result<Self, Error> {
        let name = scenario.record_name(&context.image.name);
        let dir = context.results.join(&name);
        fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
        Ok(Self {
            context,
            watch,
            row: format!("{} on {}", scenario.name, context.image.name),
            name,
            request: None,
            scratch: scratch.to_owned(),
            dir,
            power: Power::Lost,
            keys: Keys::generate(&scenario.machine.keys),
            platform: None,
            secrets: Vec::new(),
            escrow: None,
            bank: scenario.machine.seal.bank,
            baseline: None,
            outcome: None,
            under_way: None,
            mark: 0,
            next_boot: 1,
            model: None,
            forecast: None,
            tpm: None,
            sealed: Sealed::No,
            locked_out: false,
            powered_on: 0,
            steps: Vec::new(),
            records: Vec::new(),
            checks: Vec::new(),
        })
    }
}

impl Bench<'_> {
    pub(crate) fn note(&self, text: &str) {
        self.watch.event(&Event::Note(text));
    }

    /// The key of `role`, which somebody holds, or gets by what is published for it.
    pub(crate) fn key(&self, role: KeyRole) -> Result<Secret, Error> {
        let failed = |e: EscrowError| Error::Verdict(e.to_string());
        if let (KeyRole::WrappedRecoveryKey, Some((vmmd, vault))) = (role, &self.escrow) {
            self.note(
                "unwrapping the recovery key out of the guest state; a local RSA key stands for the vault's",
            );
            return RecoveryKeyInfo::of_vmmd(vmmd).and_then(|info| info.unwrap_with(vault)).map_err(failed);
        }
        self.keys.get(role).cloned().ok_or_else(|| Error::Bench(format!("nobody holds the key {role}")))
    }

    /// The directory of what is set aside: it does not go where the machine goes.
    pub(crate) fn aside(&self) -> Result<PathBuf, Error> {
        let dir = self.scratch.join("aside");
        fs::create_dir_all(&dir).map_err(Error::file("making", &dir))?;
        Ok(dir)
    }

    /// Asserts something: recorded either way.
    pub(crate) fn check(&mut self, what: &str, expected: impl Into<String>, seen: impl Into<String>) {
        let (expected, seen) = (expected.into(), seen.into());
        let held = expected == seen;
        self.checks.push(Check { what: what.to_owned(), expected, seen, held });
    }

    /// Whether all that the step under way has asserted holds: what it would do after a failure tells nothing more.
    pub(crate) fn holds_so_far(&self) -> bool {
        self.checks.iter().all(|check| check.held)
    }

    /// The running machine.
    pub(crate) fn running(&self) -> Result<&Running, Error> {
        match &self.power {
            Power::On(running) => Ok(running),
            _ => Err(Error::Bench("the machine is off, so nothing can be done in its guest".into())),
        }
    }

    /// The machine, switched off: in order where something in it listens, by cutting the power where nothing
    /// does. What the power-off shows of its last boot is recorded.
    pub(crate) fn switch_off(&mut self) -> Result<&mut Machine, Error> {
        // Before the machine is taken away: its power-off may fail.
        self.save_running_console()?;
        if matches!(self.power, Power::On(_))
            && let Power::On(running) = std::mem::replace(&mut self.power, Power::Lost)
        {
            self.note("switching off");
            let ended = match self.outcome {
                Some(outcome) if outcome.is_open() => running.power_off(PowerOff::Command, POWER_OFF)?,
                // An initrd that waits for a passphrase acts on Ctrl-Alt-Del.
                Some(outcome) if listens(outcome) => running.power_off(PowerOff::CtrlAltDel, POWER_OFF)?,
                _ => running.cut_power()?,
            };
            self.ended(ended)?;
        }
        match &mut self.power {
            Power::Off(machine) => Ok(machine),
            _ => Err(Error::Bench("the machine was lost in an earlier step".into())),
        }
    }

    /// Gives the machine, which is switched off for it, other hardware.
    pub(crate) fn refit(&mut self, change: impl FnOnce(Hardware) -> Hardware) -> Result<(), Error> {
        self.switch_off()?;
        if let Power::Off(machine) = std::mem::replace(&mut self.power, Power::Lost) {
            let hardware = change(machine.hardware().clone());
            self.power = Power::Off(machine.with_hardware(hardware)?);
        }
        Ok(())
    }

    /// Cuts the power of a machine that runs.
    pub(crate) fn cut_power(&mut self) -> Result<(), Error> {
        self.save_running_console()?;
        match std::mem::replace(&mut self.power, Power::Lost) {
            Power::On(running) => {
                self.note("cutting the power");
                self.ended(running.cut_power()?)
            }
            other => {
                self.power = other;
                Err(Error::Bench("the machine's power cannot be cut: it is off, or lost".into()))
            }
        }
    }

    fn ended(&mut self, ended: Ended) -> Result<(), Error> {
        self.save_console(|cast, title| ended.save_console(cast, title))?;
        let counter = ended.lockout.counter;
        if counter > 0 {
            tracing::info!(counter, "the TPM counts unclean ends");
        }
        let earlier = self.steps.iter_mut().flat_map(|step| &mut step.boots);
        if let Some(record) = earlier.chain(&mut self.records).next_back() {
            record.lockout_counter = Some(counter);
        }
        let heard_out = ended.console().is_closed();
        self.power = Power::Off(ended.machine);
        if heard_out {
            return Ok(());
        }
        // QEMU is gone: whoever has not read its line to the end may have missed what it showed last.
        Err(Error::Bench(
            "the console was not read to its end, so that its recording may lack something".into(),
        ))
    }

    /// Switches a machine on that is off.
    pub(crate) fn switch_on(&mut self) -> Result<(), Error> {
        match std::mem::replace(&mut self.power, Power::Lost) {
            Power::Off(machine) => {
                self.note("switching on");
                self.powered_on += 1;
                let running = machine.start(self.context.host, &[])?;
                let line = running.command_line().join("\n") + "\n";
                self.power = Power::On(Box::new(running));
                self.write(&format!("power-{}.qemu.txt", self.powered_on), line.as_bytes())
            }
            other => {
                self.power = other;
                Err(Error::Bench("the machine cannot be switched on: it is on, or lost".into()))
            }
        }
    }

    /// Writes what is recorded of the console since power-on, whatever happens next.
    pub(crate) fn save_running_console(&self) -> Result<(), Error> {
        let Power::On(running) = &self.power else { return Ok(()) };
        self.save_console(|cast, title| {
            let failed = |source| latchkey_machine::Error::Io {
                doing: "writing the console's recording to",
                path: cast.to_owned(),
                source,
            };
            running.console().save(cast, title).map_err(failed)
        })
    }

    fn save_console(
        &self,
        save: impl FnOnce(&Path, &str) -> Result<(), latchkey_machine::Error>,
    ) -> Result<(), Error> {
        let title = format!("{}, power-on {}", self.name, self.powered_on);
        Ok(save(&self.dir.join(format!("power-{}.cast", self.powered_on)), &title)?)
    }

    /// Writes a TPM record as JSON lines.
    pub(crate) fn write_tpm(&self, name: &str, record: &TpmRecord) -> Result<(), Error> {
        let mut text = Vec::new();
        for exchange in &record.exchanges {
            let line = serde_json::to_vec(exchange)
                .map_err(|e| Error::file("writing", &self.dir.join(name))(e.into()))?;
            text.extend(line);
            text.push(b'\n');
        }
        for doubt in &record.doubts {
            // Writing to a vector does not fail.
            let _ = writeln!(text, "{}", serde_json::json!({ "doubt": doubt }));
        }
        self.write(name, &text)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.dir.join(name);
        fs::write(&path, bytes).map_err(Error::file("writing", &path))
    }

    /// A file of this scenario, relative to the run's directory.
    pub(crate) fn relative(&self, name: &str) -> PathBuf {
        Path::new(&self.name).join(name)
    }
}
