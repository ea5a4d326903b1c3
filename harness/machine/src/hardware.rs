//! What a machine consists of, apart from its disk's bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How the disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    /// NVMe, as Azure's v6 families have it. QEMU cannot save a running machine that has one.
    Nvme,
    /// virtio-blk.
    #[default]
    Virtio,
}

impl fmt::Display for DiskBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvme => "NVMe",
            Self::Virtio => "virtio",
        })
    }
}

/// Whether another machine's disk can be attached while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HotPlug {
    /// It cannot.
    #[default]
    No,
    /// To a SCSI bus, as Azure attaches data disks.
    Scsi,
}

/// Whether the machine shows its TPM to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TpmDevice {
    /// It does.
    #[default]
    Crb,
    /// It is taken out; its state stays.
    Absent,
}

/// The virtual hardware. PCR 0 and 1 depend on all of it, so it stays the same for a machine's life, but for a TPM that is taken away and put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// How the disk is attached.
    pub disk_bus: DiskBus,
    /// Whether another disk can be attached.
    #[serde(default)]
    pub hot_plug: HotPlug,
    /// Whether there is a TPM.
    #[serde(default)]
    pub tpm: TpmDevice,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            memory_mib: 1024,
            cpus: 1,
            disk_bus: DiskBus::default(),
            hot_plug: HotPlug::No,
            tpm: TpmDevice::Crb,
        }
    }
}

impl Hardware {
    /// Whether QEMU can save such a machine while it runs, with its memory (its NVMe device is `unmigratable`: QEMU,
    /// hw/nvme/ctrl.c).
    #[must_use]
    pub fn can_be_saved_running(&self) -> bool {
        self.disk_bus != DiskBus::Nvme
    }

    /// The PCI slot, on bus 0, that the disk is in.
    #[must_use]
    pub fn disk_slot(&self) -> u8 {
        crate::qemu::DISK_SLOT
    }

    /// With so much RAM, in MiB.
    #[must_use]
    pub fn with_memory_mib(self, memory_mib: u32) -> Self {
        Self { memory_mib, ..self }
    }

    /// With the disk attached this way.
    #[must_use]
    pub fn with_disk_bus(self, disk_bus: DiskBus) -> Self {
        Self { disk_bus, ..self }
    }

    /// Whether the guest finds a TPM.
    #[must_use]
    pub fn has_tpm(&self) -> bool {
        self.tpm == TpmDevice::Crb
    }

    /// With the TPM in it, or without.
    #[must_use]
    pub fn with_tpm(self, tpm: TpmDevice) -> Self {
        Self { tpm, ..self }
    }

    /// With a bus to attach another disk to, or without one.
    #[must_use]
    pub fn with_hot_plug(self, hot_plug: HotPlug) -> Self {
        Self { hot_plug, ..self }
    }
}
