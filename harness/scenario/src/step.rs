//! The steps of a scenario, as they are written.

use latchkey_provision::KeyRole;
use latchkey_record::{HashAlg, Outcome, PcrIndex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::location::Location;

/// One thing that a scenario does to its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Start the machine, or restart it when its guest runs, and wait until the outcome is clear.
    Boot(Boot),
    /// Type a key at the prompt that the last boot ended with.
    Answer(Answer),
    /// Give a file another name in its directory.
    Rename(Rename),
    /// Put an artefact in the place of a file.
    Replace(Replace),
    /// Put back what the image has in a file's place.
    Restore(Restore),
    /// Write a file in the guest, to be looked for later.
    Write(FileText),
    /// Expect a file in the guest, with this text.
    Read(FileText),
    /// Run a command in the guest that no typed step covers.
    Guest(Guest),
}

/// See [`Step::Boot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Boot {
    /// What it must come to.
    pub expect: Outcome,
    /// How it begins; a guest that runs is restarted from within, one that is off is started.
    #[serde(default)]
    pub how: How,
    /// Which PCRs must differ from the last boot that opened by itself. Without it none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// Who must report a refusal: `firmware`, `shim` or `grub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_by: Option<String>,
}

/// How a boot begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// `reboot` in a guest that runs; power-on of a machine that is off.
    #[default]
    Natural,
    /// Clean power-off first, then power-on.
    Cold,
}

/// Which PCRs moved, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Moved {
    /// Exactly these, of PCR 0 to 9 and 11 to 15.
    pub pcrs: Vec<PcrIndex>,
    /// The file or variable behind it.
    pub by: String,
}

/// See [`Step::Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Answer {
    /// Which key: a role of the machine's `keys`.
    pub with: KeyRole,
    /// What it must come to.
    pub expect: Outcome,
}

/// Who changes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The published command, in the guest.
    Guest,
    /// Somebody outside, on the disk of the machine that is off. Powers it off first.
    Rescue,
}

/// See [`Step::Rename`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rename {
    /// Which file, such as `esp:/EFI/rocky/shim_certificate.efi.bak`.
    pub from: Location,
    /// Its new name, in the same directory.
    pub to: String,
    /// Who does it.
    pub by: By,
}

/// See [`Step::Replace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Replace {
    /// Which file: a path on the ESP, or `uki` for the one the image boots.
    pub file: Location,
    /// The artefact to put there.
    pub with: Artefact,
    /// Who does it.
    pub by: By,
}

/// A file that scenarios swap in, made from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Artefact {
    /// The image's UKI, signed by somebody whom nothing in the chain trusts.
    UkiSignedByStranger,
    /// Another UKI of the image's vendor, as an update brings it: the image's with another version in its `.osrel`, or the
    /// one that the user hands in.
    UkiSignedByVendor,
}

impl Artefact {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::UkiSignedByStranger, Self::UkiSignedByVendor];

    /// The one with this name, or the names that there are.
    ///
    /// # Errors
    /// A sentence for people, with the nearest name when there is one.
    pub fn named(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|artefact| artefact.name() == name).ok_or_else(|| {
            let nearest = names
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let meant = nearest.filter(|near| strsim::jaro_winkler(near, name) > 0.8);
            let hint = meant.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            format!("there is no artefact `{name}`, only {}{hint}", names.join(" and "))
        })
    }

    /// Whether only the image's vendor, or somebody whose key its chain trusts, can make it. A stranger's signature
    /// anybody can make.
    #[must_use]
    pub fn needs_vendor_key(self) -> bool {
        match self {
            Self::UkiSignedByStranger => false,
            Self::UkiSignedByVendor => true,
        }
    }

    /// Its name in scenario files and in the image's cache.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UkiSignedByStranger => "uki-signed-by-stranger",
            Self::UkiSignedByVendor => "uki-signed-by-vendor",
        }
    }
}

/// See [`Step::Restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Restore {
    /// Which file, as `replace` named it.
    pub file: Location,
    /// Who does it.
    pub by: By,
}

/// See [`Step::Write`] and [`Step::Read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileText {
    /// An absolute path on the guest's root file system.
    pub path: String,
    /// The file's text.
    pub text: String,
}

/// See [`Step::Guest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Guest {
    /// A command line for the guest's shell. It must exit with 0.
    pub run: String,
    /// What it changes of what is measured. A wrong declaration is caught by the next boot.
    pub effect: Effect,
}

/// What a raw command changes of what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing.
    None,
}

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
    /// The roles of its keyslots.
    pub keys: Vec<KeyRole>,
    /// Changes that are still to come, each by itself and from outside: the key is sealed to the boot chain after each of
    /// them as well, with a token of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coming: Vec<Step>,
}

/// A policy over PCRs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Seal {
    /// Which PCRs.
    pub pcrs: Vec<PcrIndex>,
    /// Of which bank.
    pub bank: HashAlg,
}
