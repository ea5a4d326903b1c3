//! Steps that change UEFI variables.

use std::fmt;
use std::fs;

use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId, vendor};
use latchkey_images::OWNER;
use latchkey_measure::authvar::{AuthenticatedVariable, Time};
use latchkey_measure::{HashAlg, PeImage, SignatureDb, SignatureList};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place::{Site, place};
use super::value::Value;
use super::{Act, By, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::location::Location;
use crate::rehearsal::Rehearsal;

/// Where a guest finds its firmware's variables.
const MOUNT: &str =
    "mountpoint -q /sys/firmware/efi/efivars || mount -t efivarfs efivarfs /sys/firmware/efi/efivars";
/// `EFI_VARIABLE_APPEND_WRITE` (UEFI 2.10, section 8.2.1).
const APPEND: u32 = 0x40;
/// When updates are signed; later than what a new machine has.
const SIGNED: Time = Time { year: 2026, month: 1, day: 1, hour: 0, minute: 0, second: 0 };

/// See [`super::Step::SecureBoot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// It is switched on.
    On,
    /// It is switched off.
    Off,
}

/// See [`super::Step::Enrol`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Enrol {
    /// What is added.
    pub what: Entry,
    /// To which list.
    pub to: List,
    /// Who does it: the guest with an update that the platform's owner signed, or somebody outside.
    pub by: By,
}

/// A list of what may start or may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum List {
    /// The firmware's, of what may start.
    Db,
    /// The firmware's, of what may not.
    Dbx,
    /// Who may change the firmware's lists.
    Kek,
    /// shim's, of what may start: the machine owner's keys.
    MokList,
    /// shim's, of what may not.
    MokListX,
}

/// An entry of such a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The hash of something that this machine does not have.
    UnrelatedHash,
    /// The certificate of the community's authority, whose kernels the vendor's shim does not start by itself.
    CommunityCertificate,
    /// The certificate of a stranger.
    StrangerCertificate,
    /// The Authenticode hash of a file as the image has it.
    HashOf(Location),
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnrelatedHash => f.write_str("a hash that nothing here has"),
            Self::CommunityCertificate => f.write_str("the community's certificate"),
            Self::StrangerCertificate => f.write_str("a stranger's certificate"),
            Self::HashOf(location) => write!(f, "the hash of {location}"),
        }
    }
}

/// See [`super::Step::SetVariable`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SetVariable {
    /// Which one.
    pub name: Name,
    /// Its new value: boot options behind `options:`, as efibootmgr has them, such as `options:0003,0001`; text behind `text:`;
    /// or bytes as hexadecimal digits, such as `0100`. Without any digits the variable is removed.
    pub value: Value,
    /// Who does it.
    pub by: By,
}

/// A variable that decides how the machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Name {
    /// The boot option of the next start alone, as two bytes, the lower one first.
    BootNext,
    /// The boot options in their order, two bytes each.
    BootOrder,
    /// shim's own switch: with the value 1 it checks nothing (`mokutil --disable-validation`).
    MokSBState,
    /// shim's list of the oldest generations of boot loaders that may start, as text.
    SbatLevel,
    /// A request to shim's MokManager: the next start asks for it.
    MokNew,
    /// Makes shim's fallback program go on without a restart.
    #[serde(rename = "FB_NO_REBOOT")]
    FbNoReboot,
}

impl Name {
    fn id(self) -> VariableId {
        match self {
            Self::BootNext => VariableId::new("BootNext", vendor::GLOBAL),
            Self::BootOrder => VariableId::new("BootOrder", vendor::GLOBAL),
            Self::MokSBState => VariableId::new("MokSBState", vendor::SHIM),
            Self::SbatLevel => VariableId::new("SbatLevel", vendor::SHIM),
            Self::MokNew => VariableId::new("MokNew", vendor::SHIM),
            Self::FbNoReboot => VariableId::new("FB_NO_REBOOT", vendor::SHIM),
        }
    }

    /// shim takes its state from variables alone that no running system can write.
    fn attributes(self) -> Attributes {
        match self {
            _ if self.is_shims() => Attributes::BOOT,
            _ => Attributes::RUNTIME,
        }
    }

    /// Whether a running system cannot write it.
    fn is_shims(self) -> bool {
        matches!(self, Self::MokSBState | Self::SbatLevel)
    }
}

impl Switch {
    fn state(self) -> SecureBoot {
        match self {
            Self::On => SecureBoot::On,
            Self::Off => SecureBoot::Off,
        }
    }
}

impl Act for Switch {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        bench.on_variables(|store| store.set_secure_boot(self.state()))
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.variables.set_secure_boot(self.state());
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::On => "switch Secure Boot on".into(),
            Self::Off => "switch Secure Boot off".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        Ok(())
    }
}

impl List {
    fn id(self) -> VariableId {
        match self {
            Self::Db => VariableId::new("db", vendor::IMAGE_SECURITY),
            Self::Dbx => VariableId::new("dbx", vendor::IMAGE_SECURITY),
            Self::Kek => VariableId::new("KEK", vendor::GLOBAL),
            Self::MokList => VariableId::new("MokList", vendor::SHIM),
            Self::MokListX => VariableId::new("MokListX", vendor::SHIM),
        }
    }

    fn is_shims(self) -> bool {
        matches!(self, Self::MokList | Self::MokListX)
    }
}

impl Act for Enrol {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let list = entry(bench, &self.what)?;
        let lists = SignatureDb::new().with(list).to_bytes();
        let id = self.to.id();
        match self.by {
            By::Guest => {
                let update = bench.signed_update(&id, lists)?;
                bench.write_variable(&id, Attributes(Attributes::AUTHENTICATED.0 | APPEND), &update)
            }
            By::Rescue | By::AnotherVm => bench.on_variables(|store| append(store, self.to, lists)),
        }
    }

    /// An update that is signed by the platform's owner adds to the list as well (UEFI 2.10, section 8.2.1).
    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        let list = entry(rehearsal, &self.what)?;
        append(&mut rehearsal.variables, self.to, SignatureDb::new().with(list).to_bytes());
        Ok(())
    }

    fn describe(&self) -> String {
        format!("enrol {} in {} {}", self.what, self.to.id().name, self.by)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        if self.to.is_shims() && self.by == By::Guest {
            let help = "say `by = \"rescue\"`; on a real machine MokManager does it, on the console";
            return Err(("a running system cannot write shim's own lists".into(), help));
        }
        changed(so_far, self.by)
    }
}

impl Act for SetVariable {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let (id, attributes, data) = (self.name.id(), self.name.attributes(), self.value.bytes().to_vec());
        match self.by {
            By::Guest => bench.write_variable(&id, attributes, &data),
            By::Rescue | By::AnotherVm => {
                bench.on_variables(|store| store.set(Variable::new(id, attributes, data)))
            }
        }
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        let (id, attributes, data) = (self.name.id(), self.name.attributes(), self.value.bytes().to_vec());
        rehearsal.variables.set(Variable::new(id, attributes, data));
        Ok(())
    }

    fn describe(&self) -> String {
        let name = self.name.id().name;
        match self.value.to_string().as_str() {
            "" => format!("remove the variable {name} {}", self.by),
            value => format!("set the variable {name} to {} {}", value.trim().escape_debug(), self.by),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        if self.name.is_shims() && self.by == By::Guest {
            let help = "say `by = \"rescue\"`; on a real machine shim or its MokManager does it";
            return Err(("a running system cannot write shim's own state".into(), help));
        }
        changed(so_far, self.by)
    }
}

/// Somebody changes a variable. They do not lie on the disk.
fn changed(so_far: &mut SoFar, by: By) -> Result<(), Fault> {
    match by {
        By::AnotherVm => {
            let help = "say `by = \"guest\"`, or `by = \"rescue\"` for whoever runs the machine";
            Err(("a machine's variables do not go to another VM with its disk".into(), help))
        }
        by => so_far.changed(by),
    }
}

impl Bench<'_> {
    /// Changes the variables of the machine, which is switched off for it.
    fn on_variables(&mut self, change: impl FnOnce(&mut VarStore)) -> Result<(), Error> {
        self.switch_off()?.offline(|parts| {
            let bytes = fs::read(parts.variables).map_err(Error::file("reading", parts.variables))?;
            let odd = |e: latchkey_disk::varstore::Error| Error::Bench(e.to_string());
            let mut store = VarStore::parse(&bytes).map_err(odd)?;
            change(&mut store);
            let bytes = store.to_bytes().map_err(odd)?;
            fs::write(parts.variables, bytes).map_err(Error::file("writing", parts.variables))
        })
    }

    /// Writes a variable in the guest: its attributes, then its value, into a file of efivarfs. No value removes it.
    pub(super) fn write_variable(
        &self,
        id: &VariableId,
        attributes: Attributes,
        data: &[u8],
    ) -> Result<(), Error> {
        let file = format!("/sys/firmware/efi/efivars/{}-{}", id.name, id.vendor);
        // What nobody should change by accident is immutable there.
        let command = match data {
            [] => format!("{MOUNT}; chattr -i {file}; rm {file}"),
            _ => format!("{MOUNT}; [ ! -e {file} ] || chattr -i {file}; cat > {file}"),
        };
        let bytes = [&attributes.0.to_le_bytes()[..], data].concat();
        self.running()?.guest_ok(&command, &bytes, COMMAND)?;
        Ok(())
    }

    /// An update that adds `lists` to a list of the firmware's, signed by the platform's owner.
    fn signed_update(&self, id: &VariableId, lists: Vec<u8>) -> Result<Vec<u8>, Error> {
        let attributes = Attributes::AUTHENTICATED.0 | APPEND;
        let owner = &self.context.pki.owner.signer;
        let signed = AuthenticatedVariable::sign(&id.name, id.vendor, attributes, SIGNED, lists, owner);
        Ok(signed.map_err(|e| Error::Bench(format!("signing an update of {}: {e}", id.name)))?.to_bytes())
    }
}

pub(super) fn entry(site: &dyn Site, entry: &Entry) -> Result<SignatureList, Error> {
    let pki = site.pki();
    Ok(match entry {
        Entry::UnrelatedHash => SignatureList::sha256(OWNER, &[[0x5a; 32]]),
        Entry::CommunityCertificate => SignatureList::x509(OWNER, &pki.community.authority),
        Entry::StrangerCertificate => SignatureList::x509(OWNER, &pki.stranger.authority),
        Entry::HashOf(location) => {
            let bytes = site.bytes_in_image(&place(site.image(), location)?)?;
            let hash = PeImage::parse(&bytes).and_then(|image| image.authenticode(HashAlg::Sha256));
            let hash = hash.map_err(|e| Error::Bench(format!("{location}: {e}")))?;
            let hash = hash.bytes().try_into().map_err(|_| Error::Bench(format!("{location}: no hash")))?;
            SignatureList::sha256(OWNER, &[hash])
        }
    })
}

/// Adds `lists` to the list that is the variable `id`.
fn append(store: &mut VarStore, to: List, lists: Vec<u8>) {
    let id = to.id();
    let new = match to.is_shims() {
        true => Variable::new(id.clone(), Attributes::BOOT, Vec::new()),
        false => Variable::authenticated(id.clone(), Vec::new()),
    };
    let mut variable = store.get(&id).cloned().unwrap_or(new);
    variable.data.extend(lists);
    store.set(variable);
}
