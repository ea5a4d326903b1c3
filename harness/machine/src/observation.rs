//! What the witnesses of a boot have to say, uninterpreted.

use latchkey_record::console::ConsoleEvent;
use latchkey_record::tpm::TpmRecord;

use crate::banner::SshBanner;
use crate::qmp::QmpEvent;

/// Everything recorded of one boot, from its beginning until it was looked at. Times are milliseconds from
/// the machine's power-on, also for a boot that began with a guest's reboot.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// When the boot began.
    pub began_ms: u64,
    /// When it was looked at.
    pub until_ms: u64,
    /// Patterns recognised on the console.
    pub console: Vec<ConsoleEvent>,
    /// What the TPM was told.
    pub tpm: TpmRecord,
    /// The SSH server's greeting.
    pub ssh_banner: Option<SshBanner>,
    /// What QEMU told.
    pub qmp: Vec<QmpEvent>,
    /// QEMU's run state (qapi/run-state.json), `ended` when QEMU is gone, or `silent` when it is there and does not answer.
    pub run_state: String,
}

/// [`Observation::run_state`] of a QEMU that is gone.
pub(crate) const ENDED: &str = "ended";
/// [`Observation::run_state`] of a QEMU that does not answer.
pub(crate) const SILENT: &str = "silent";

impl Observation {
    /// When the guest reset the machine within this boot, as `fbx64` does.
    #[must_use]
    pub fn resets(&self) -> Vec<u64> {
        self.qmp.iter().filter(|e| is_guest_reset(e)).map(|e| e.at_ms).collect()
    }

    /// The TPM's record since the last reset: what its PCRs are made of.
    #[must_use]
    pub fn tpm_since_reset(&self) -> TpmRecord {
        let last = self.tpm.exchanges.last().map_or(0, |exchange| exchange.reset);
        self.tpm.after_reset(last)
    }
}

/// Whether `event` is a reset that the guest asked for.
pub(crate) fn is_guest_reset(event: &QmpEvent) -> bool {
    event.name == "RESET" && event.data["guest"] == true
}
