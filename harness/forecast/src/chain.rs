//! The walk along the boot chain: what was measured so far, and what is known of the machine meanwhile.

use std::collections::BTreeMap;

use bytes::Bytes;
use latchkey_disk::VarStore;
use latchkey_disk::varstore::{SecureBoot, VariableId};
use latchkey_measure::{hash, pe};
use latchkey_record::pcr::{Digest, PcrIndex, PcrValues};
use latchkey_record::{Certainty, Forecast, ForecastEvent, Leg, Origin, Outcome, Stage, Systemd, Unmodelled};

use crate::firmware::Started;
use crate::initrd::{Feature, Initrd};
use crate::shim::Shim;
use crate::{Memo, Target};

/// `EV_*` numbers (TCG PC Client Platform Firmware Profile, table "Events").
pub(crate) mod kind {
    pub(crate) const SEPARATOR: u32 = 0x4;
    pub(crate) const EVENT_TAG: u32 = 0x6;
    pub(crate) const CRTM_VERSION: u32 = 0x8;
    pub(crate) const IPL: u32 = 0xd;
    pub(crate) const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    pub(crate) const VARIABLE_BOOT: u32 = 0x8000_0002;
    pub(crate) const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    pub(crate) const GPT: u32 = 0x8000_0006;
    pub(crate) const ACTION: u32 = 0x8000_0007;
    pub(crate) const PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;
    pub(crate) const VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
}

/// The PCR of the kernel's own measurements of files.
const IMA: u32 = 10;

/// A program that something started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its path on the EFI system partition, such as `/EFI/rocky/shimx64.efi`.
    pub path: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// Load options it was given, as UTF-16LE with whatever terminator its starter added.
    pub options: Vec<u8>,
}

/// What a kernel is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelStart {
    /// Where the kernel's bytes came from.
    pub from: Origin,
    /// The kernel, a PE image (or a bzImage that is one).
    pub kernel: Bytes,
    /// Where the initrd came from.
    pub initrd_from: Origin,
    /// All of the initrd, as the kernel gets it.
    pub initrd: Bytes,
    /// The command line.
    pub command_line: String,
    /// How it is started.
    pub hand_over: HandOver,
    /// Whether systemd-stub started it.
    pub measured_uki: MeasuredUki,
    /// Whether the boot loader may have told the disk for systemd to look for its root on (`LoaderDevicePartUUID`).
    pub may_tell_disk: bool,
}

/// How a kernel comes by its initrd and command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandOver {
    /// Through its EFI stub with `LoadFile2`: systemd-stub, GRUB 2.12. The kernel measures initrd and options itself.
    LoadFile2 {
        /// The load options: UTF-16LE, with the terminator that systemd-stub counts to them and GRUB does not.
        options: Vec<u8>,
    },
    /// Through the EFI hand-over entry (GRUB 2.06): what was there is used, nothing measured.
    Entry,
    /// Past its EFI stub, by the boot protocol for any firmware (GRUB 2.06 where shim verifies nothing): besides, nobody
    /// keeps the firmware's event log for the guest.
    PastStub,
}

/// What a kernel that runs has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserspaceStart {
    /// Where the initrd came from.
    pub initrd_from: Origin,
    /// The initrd.
    pub initrd: Bytes,
    /// The kernel's command line.
    pub command_line: String,
    /// Whether a UKI measured itself: systemd's own measurements are made only then.
    pub measured_uki: MeasuredUki,
    /// As [`KernelStart::may_tell_disk`].
    pub may_tell_disk: bool,
}

/// Whether systemd-stub measured a UKI (`StubPcrKernelImage` is set).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredUki {
    /// Yes.
    Yes,
    /// No: another boot loader.
    No,
}

/// What comes next in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The firmware starts.
    Firmware,
    /// The firmware started shim.
    Shim(Image),
    /// shim started GRUB, and verifies kernels for it.
    Grub(Image, Box<Shim>),
    /// shim started a UKI, and verifies what the UKI has the firmware load.
    Stub(Image, Box<Shim>),
    /// A kernel starts.
    Kernel(KernelStart),
    /// A kernel starts its initrd.
    Userspace(UserspaceStart),
    /// The boot loader returns to the firmware: why.
    Returned(String),
    /// The machine resets.
    Reset,
    /// The outcome is clear.
    End(End),
}

/// How the chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// What the boot comes to; `None` when that hangs on something unmodelled.
    pub outcome: Option<Outcome>,
    /// Why, in a sentence.
    pub because: String,
    /// Who reports a refusal: `firmware`, `shim`, `grub`.
    pub reported_by: Option<&'static str>,
}

/// The state of the walk.
pub struct Chain<'a> {
    /// The machine.
    pub target: &'a Target<'a>,
    pub(crate) memo: &'a Memo,
    /// UEFI variables as they are by now: those in flash and what the chain changed.
    pub variables: VarStore,
    /// Boot variables that exist only until the next reset, such as `MokListRT`.
    pub volatile: BTreeMap<VariableId, Vec<u8>>,
    legs: Vec<Leg>,
    leg: Leg,
    /// The variables at the beginning of each leg.
    starts: Vec<VarStore>,
    repeats_from: Option<usize>,
    unmodelled: Vec<Unmodelled>,
    next: BTreeMap<String, String>,
    systemd: Option<Systemd>,
    guest_log: bool,
    untried: bool,
    prompts: Option<u32>,
    /// Why nobody knows what happens from here on.
    pub(crate) doubt: Option<String>,
    /// What the firmware knows of this start.
    pub(crate) firmware: Started,
}

impl<'a> Chain<'a> {
    pub(crate) fn new(target: &'a Target<'a>, memo: &'a Memo) -> Self {
        Self {
            target,
            memo,
            variables: target.variables.clone(),
            volatile: BTreeMap::new(),
            legs: Vec::new(),
            leg: Leg::default(),
            starts: vec![target.variables.clone()],
            repeats_from: None,
            unmodelled: Vec::new(),
            next: BTreeMap::new(),
            systemd: None,
            guest_log: false,
            untried: false,
            prompts: None,
            doubt: None,
            firmware: Started::default(),
        }
    }

    /// Whether Secure Boot is on.
    #[must_use]
    pub fn secure_boot(&self) -> SecureBoot {
        self.variables.secure_boot()
    }

    /// Whether the machine has a TPM: one has a bank.
    pub(crate) fn has_tpm(&self) -> bool {
        !self.target.tpm.banks.is_empty()
    }

    /// `data`'s digest in every bank of the TPM.
    #[must_use]
    pub fn digests(&self, data: &[u8]) -> Vec<Digest> {
        self.target.tpm.banks.iter().map(|alg| hash::digest(*alg, data)).collect()
    }

    /// Extends `pcr` with the hash of `data`.
    pub fn measure(&mut self, stage: Stage, pcr: u8, kind: u32, data: &[u8], what: &str, from: Origin) {
        let digests = self.digests(data);
        self.push(stage, pcr, kind, digests, what, from, Certainty::Computed);
    }

    /// As [`Self::measure`], of a part of a file, which may have been hashed before.
    pub fn measure_part(&mut self, stage: Stage, pcr: u8, kind: u32, data: &Bytes, what: &str, from: Origin) {
        let digests = self.memo.digests(&self.target.tpm.banks, data);
        self.push(stage, pcr, kind, digests, what, from, Certainty::Computed);
    }

    /// Extends PCR 4 with the Authenticode digest of `image`.
    ///
    /// # Errors
    /// When it is no PE image.
    pub fn measure_image(
        &mut self,
        stage: Stage,
        image: &Bytes,
        what: &str,
        from: Origin,
    ) -> Result<(), pe::Error> {
        let digests = self.memo.authenticodes(&self.target.tpm.banks, image)?;
        self.push(stage, 4, kind::BOOT_SERVICES_APPLICATION, digests, what, from, Certainty::Computed);
        Ok(())
    }

    /// Extends `pcr` with these digests.
    #[expect(clippy::too_many_arguments, reason = "an event has as many fields")]
    pub fn push(
        &mut self,
        stage: Stage,
        pcr: u8,
        kind: u32,
        digests: Vec<Digest>,
        what: &str,
        from: Origin,
        certainty: Certainty,
    ) {
        // Who finds no TPM measures nothing.
        if !self.has_tpm() || self.doubt.is_some() {
            return;
        }
        // Stages use PCR 0 to 15 only.
        let Ok(pcr) = PcrIndex::new(u32::from(pcr)) else { return };
        self.leg.events.push(ForecastEvent {
            pcr,
            kind,
            digests,
            stage,
            what: what.to_owned(),
            from,
            certainty,
        });
    }

    /// Declares something that cannot be computed.
    pub fn unmodelled(&mut self, stage: Stage, what: &str, why: &str, pcrs: &[u8]) {
        let pcrs = pcrs.iter().filter_map(|pcr| PcrIndex::new(u32::from(*pcr)).ok()).collect();
        let open = Unmodelled { stage, what: what.to_owned(), why: why.to_owned(), pcrs };
        // A machine that resets comes by the same places again.
        if !self.unmodelled.contains(&open) {
            self.unmodelled.push(open);
        }
    }

    /// Notes a variable that the boot leaves changed.
    pub fn leaves(&mut self, variable: &str, how: &str) {
        if self.doubt.is_none() {
            self.next.insert(variable.to_owned(), how.to_owned());
        }
    }

    /// From here on nobody knows what happens: why. The walk ends with this stage, and nothing that comes until then counts.
    pub(crate) fn doubt(&mut self, why: String) {
        self.doubt.get_or_insert(why);
    }

    /// The kernel starts; its EFI stub keeps the firmware's event log.
    pub(crate) fn kernel_starts(&mut self, how: &HandOver) {
        self.guest_log = *how != HandOver::PastStub && self.has_tpm();
    }

    /// Nobody asks the TPM for the root volume's key.
    pub(crate) fn leaves_tpm_alone(&mut self) {
        self.untried = true;
    }

    /// Somebody is asked for a key, so often.
    pub(crate) fn asks(&mut self, prompts: Option<u32>) {
        self.prompts = prompts;
    }

    /// It is the root volume's turn: what was measured so far is what a sealed key is judged by.
    pub(crate) fn root_volume(&mut self, initrd: &Initrd) {
        self.leg.tried_after = Some(self.leg.events.len());
        self.systemd = initrd
            .systemd()
            .map(|version| Systemd { version, trusted_srk: initrd.knows(Feature::TrustedSrk) });
    }

    /// PCR values by now, by bank, of PCR 0 to 15.
    #[must_use]
    pub fn pcrs(&self) -> BTreeMap<latchkey_record::HashAlg, PcrValues> {
        pcrs_after(&self.target.tpm.banks, &self.leg.events)
    }

    /// The machine resets. Tells the end, when it has been where it is now before: nothing changes any more then.
    pub(crate) fn reset(&mut self) -> Option<End> {
        self.legs.push(std::mem::take(&mut self.leg));
        self.volatile.clear();
        self.firmware = Started::default();
        self.repeats_from = self.starts.iter().position(|then| then.iter().eq(self.variables.iter()));
        self.starts.push(self.variables.clone());
        self.repeats_from.map(|_| End {
            outcome: Some(Outcome::RestartLoop),
            because: "the machine restarts for ever: it has nothing to start that does not reset it".into(),
            reported_by: None,
        })
    }

    pub(crate) fn finish(mut self, end: End) -> (Forecast, VarStore) {
        let count = self.leg.tried_after.unwrap_or(self.leg.events.len());
        let pcrs = pcrs_after(&self.target.tpm.banks, &self.leg.events[..count]);
        if self.repeats_from.is_none() {
            self.legs.push(self.leg);
        }
        let forecast = Forecast {
            legs: self.legs,
            repeats_from: self.repeats_from,
            outcome: end.outcome,
            because: end.because,
            reported_by: end.reported_by.map(str::to_owned),
            pcrs,
            unmodelled: self.unmodelled,
            next: self.next,
            systemd: self.systemd,
            guest_log: self.guest_log,
            untried: self.untried,
            prompts: self.prompts,
        };
        (forecast, self.variables)
    }
}

/// What PCR 0 to 15 hold in `banks` after the `events` of one start; PCRs with an open event among them are left out, and
/// so is PCR 10, which is IMA's and not forecast.
#[must_use]
pub fn pcrs_after(
    banks: &[latchkey_record::HashAlg],
    events: &[ForecastEvent],
) -> BTreeMap<latchkey_record::HashAlg, PcrValues> {
    let one = |alg: latchkey_record::HashAlg| {
        let mut pcrs: BTreeMap<PcrIndex, Option<Digest>> = (0..16)
            .filter(|i| *i != IMA)
            .filter_map(|i| PcrIndex::new(i).ok())
            .map(|i| (i, Some(i.start_value(alg))))
            .collect();
        for event in events {
            let Some(value) = pcrs.get_mut(&event.pcr) else { continue };
            *value = match (value.as_ref(), event.digest(alg)) {
                (Some(old), Some(digest)) => Some(hash::extend(old, digest)),
                _ => None,
            };
        }
        PcrValues(pcrs.into_iter().filter_map(|(index, value)| Some((index, value?))).collect())
    };
    banks.iter().map(|alg| (*alg, one(*alg))).collect()
}
