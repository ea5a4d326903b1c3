//! Off, in the ways that differ.

use std::path::Path;
use std::time::Duration;

use latchkey_tpm::{LockoutFacts, TpmFacts};
use serde_json::json;

use crate::Error;
use crate::console::Console;
use crate::error::Part;
use crate::machine::Machine;
use crate::observation::{ENDED, Observation};
use crate::running::{Running, since};

/// How long QEMU may take to end after the guest has switched the machine off, on the reference host.
const QEMU_ENDS: Duration = Duration::from_secs(30);
/// How long the console's last bytes may take to be read once QEMU is gone.
const CONSOLE_ENDS: Duration = Duration::from_secs(10);

/// How a machine is switched off in order, so that the guest tells the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerOff {
    /// The guest is told over SSH to power off.
    Command,
    /// The power button is pressed; a system that is up acts on it.
    Button,
    /// Ctrl-Alt-Del, and the restart that follows is turned into power-off: an initrd that waits for a
    /// passphrase acts on it as well.
    CtrlAltDel,
}

/// A machine after its power-off.
pub struct Ended {
    /// The machine, to be changed or started again.
    pub machine: Machine,
    /// Its last boot.
    pub observation: Observation,
    /// The TPM's dictionary-attack counter as the next power-on finds it.
    pub lockout: LockoutFacts,
    console: Console,
}

impl Ended {
    /// Writes the console's recording since power-on as asciicast v2.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_console(&self, cast: &Path, title: &str) -> Result<(), Error> {
        self.console.save(cast, title).map_err(Error::io("writing the console's recording to", cast))
    }

    /// The console.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }
}

/// What is waited for.
const SWITCHED_OFF: &str = "the guest to switch the machine off";

impl Running {
    /// Switches the machine off in order and waits for it.
    ///
    /// # Errors
    /// [`Error::Expired`] when the guest does not switch off within `limit` (scaled) after it was told to, and
    /// [`Error::Refused`] where nobody is let in to tell it: the machine is then cut off, as by dropping it, and so it is when
    /// the user asks to stop before QEMU has ended. Else as [`Running::wait_until`].
    pub fn power_off(self, how: PowerOff, limit: Duration) -> Result<Ended, Error> {
        self.ask_to_switch_off(how, limit)?;
        self.wait_for_power_off(limit)
    }

    fn ask_to_switch_off(&self, how: PowerOff, limit: Duration) -> Result<(), Error> {
        match how {
            PowerOff::Command => {
                // The connection may break before the command's exit code is through.
                match self.guest("systemctl poweroff", &[], limit) {
                    Ok(_) | Err(Error::Ssh { .. } | Error::SwitchedOff { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            PowerOff::Button => {
                self.qmp.execute("system_powerdown", json!({}))?;
            }
            PowerOff::CtrlAltDel => {
                self.qmp.execute("set-action", json!({"reboot": "shutdown"}))?;
                let keys = ["ctrl", "alt", "delete"].map(|key| json!({"type": "qcode", "data": key}));
                self.qmp.execute("send-key", json!({"keys": keys}))?;
            }
        }
        Ok(())
    }

    /// Waits until the guest switches the machine off by itself.
    ///
    /// # Errors
    /// As [`Running::power_off`].
    pub fn wait_for_power_off(self, limit: Duration) -> Result<Ended, Error> {
        match self.wait_until(SWITCHED_OFF, limit, |r| r.shut_down().then_some(())) {
            Ok(()) | Err(Error::SwitchedOff { .. }) => self.finish(),
            Err(error) => Err(error),
        }
    }

    /// Cuts the power: the guest and its TPM learn nothing of it, and a TPM whose keys were used counts it.
    ///
    /// # Errors
    /// When the system cannot tell whether QEMU ended, or the TPM cannot be read.
    pub fn cut_power(self) -> Result<Ended, Error> {
        self.qemu.kill();
        self.finish()
    }

    /// What remains to be done once QEMU has ended or is about to.
    fn finish(self) -> Result<Ended, Error> {
        let observation = self.observation(ENDED.to_owned());
        let ends = self.scaled(QEMU_ENDS);
        if self.qemu.wait_unless_cancelled(ends)?.is_none() {
            return Err(Error::Hangs { waited: ends, said: self.said(Part::Qemu) });
        }
        let Self { qemu, swtpm, console, qmp, machine, beginning, swtpm_program, banner, .. } = self;
        drop(qemu);
        let too_often = swtpm.too_much();
        let record = swtpm.end()?;
        console.wait_for_end(CONSOLE_ENDS)?;
        // Also while it switched itself off.
        if let Some(what) = console.too_much().or(too_often) {
            return Err(Error::TooMuch { dir: machine.dir().to_owned(), what });
        }
        let observation = Observation {
            console: console.events(beginning.console),
            tpm: since(&record, beginning.tpm),
            qmp: qmp.events(beginning.qmp),
            ssh_banner: banner.seen(),
            ..observation
        };
        // What is left there is of no use to anybody.
        let _ = std::fs::remove_dir_all(machine.run_dir());
        let (machine, lockout) = read_lockout(machine, &swtpm_program)?;
        Ok(Ended { machine, observation, lockout, console })
    }
}

fn read_lockout(mut machine: Machine, swtpm: &Path) -> Result<(Machine, LockoutFacts), Error> {
    let facts = machine.offline(|parts| TpmFacts::read(swtpm, parts.tpm))?;
    Ok((machine, facts.lockout))
}
