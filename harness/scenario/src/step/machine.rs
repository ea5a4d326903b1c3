//! The machine of a scenario, as it is written.

use latchkey_machine::{DiskBus, Hardware};
use latchkey_provision::KeyRole;
use latchkey_record::{HashAlg, PcrIndex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Step, some};

/// The images that a scenario is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "the name of an image, or a list of such names")]
pub enum Images {
    /// One recipe's name.
    One(String),
    /// Several recipes' names.
    Several(#[schemars(length(min = 1))] Vec<String>),
}

impl Images {
    /// Their names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// The machine that a scenario runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MachineSpec {
    /// A recipe's name, or several: the scenario is run on each.
    pub image: Images,
    /// What its key is sealed to.
    pub seal: Seal,
    /// The roles of its keyslots; the platform's, which the TPM opens, is always there.
    #[serde(deserialize_with = "some")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub keys: Vec<KeyRole>,
    /// How its disk is attached. QEMU cannot save a running machine with NVMe, so that each row with one is booted from
    /// its provisioning on.
    #[serde(default, skip_serializing_if = "Disk::is_virtio")]
    pub disk: Disk,
    /// Changes that are still to come, each by itself and from outside: the key is sealed to the boot chain after each of
    /// them as well, with a token of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coming: Vec<Step>,
}

impl MachineSpec {
    /// The virtual hardware.
    #[must_use]
    pub fn hardware(&self) -> Hardware {
        Hardware::default().with_disk_bus(match self.disk {
            Disk::Virtio => DiskBus::Virtio,
            Disk::Nvme => DiskBus::Nvme,
        })
    }
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Disk {
    /// virtio-blk.
    #[default]
    Virtio,
    /// NVMe, as Azure's v6 families have it.
    Nvme,
}

impl Disk {
    fn is_virtio(&self) -> bool {
        *self == Self::Virtio
    }
}

/// A policy over PCRs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Seal {
    /// Which PCRs.
    #[serde(deserialize_with = "some")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub pcrs: Vec<PcrIndex>,
    /// Of which bank.
    pub bank: HashAlg,
    /// Under which key of the TPM. Without it, the one that the machine's own systemd seals under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<Under>,
}

/// The key of a TPM that another is sealed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Under {
    /// One that is made anew each time, as systemd before 255 has it.
    Primary,
    /// The storage root key that the TPM keeps, as systemd from 255 on has it, and RHEL's 252 from 9.4 on (`tpm2_srk`).
    StorageRootKey,
}
