//! Steps that change files which the boot chain reads.

use std::fmt;

use bytes::Bytes;
use latchkey_images::Pki;
use latchkey_measure::PeImage;
use latchkey_measure::sign::{sign_pe, strip_signatures};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place::{Place, Site, place};
use super::{Act, Artefact, Fault, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::location::{FileName, Location};
use crate::rehearsal::Rehearsal;

/// Who changes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The published command, in the guest.
    Guest,
    /// Somebody outside, on the disk of the machine that is off. Powers it off first.
    Rescue,
    /// Another VM, to which the disk is attached. Powers the machine off first.
    AnotherVm,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "in the guest",
            Self::Rescue => "from outside",
            Self::AnotherVm => "on another VM",
        })
    }
}

/// See [`super::Step::Rename`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rename {
    /// Which file, such as `esp:/EFI/rocky/shim_certificate.efi.bak`.
    pub from: Location,
    /// Its new name, in the same directory.
    pub to: FileName,
    /// Who does it.
    pub by: By,
}

/// See [`super::Step::Remove`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table such as `{ file = \"esp:/PATH\", by = \"guest\" }`"
)]
pub struct Remove {
    /// Which file.
    pub file: Location,
    /// Who does it.
    pub by: By,
}

/// See [`super::Step::Copy`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Copy {
    /// Which file, as the image has it.
    pub from: Location,
    /// Where it goes.
    pub to: Location,
    /// Who does it.
    pub by: By,
}

/// See [`super::Step::Put`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Put {
    /// Which file.
    pub file: Location,
    /// Its text.
    pub text: String,
    /// Who does it.
    pub by: By,
}

/// See [`super::Step::Resign`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Resign {
    /// Which file. It stays what it is, but for its signatures.
    pub file: Location,
    /// Whose signature it gets instead of those that it has.
    pub signer: Signer,
    /// Who does it.
    pub by: By,
}

/// Who signs a file anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Signer {
    /// Nobody: it has no signature any more.
    Nobody,
    /// Somebody whom nothing in the chain trusts.
    Stranger,
    /// The community, whom the vendor's certificate file vouches for.
    Community,
}

/// See [`super::Step::Edit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Edit {
    /// Which text file, as the image has it.
    pub file: Location,
    /// What stands in it, exactly once.
    pub find: String,
    /// What shall stand there instead.
    pub with: String,
    /// Who does it.
    pub by: By,
}

/// See [`super::Step::Pad`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pad {
    /// Which file, as the image has it: one where zeros at the end do no harm, such as `initrd`.
    pub file: Location,
    /// Who does it.
    pub by: By,
}

/// See [`super::Step::CutOff`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CutOff {
    /// Which file, as the image has it: a program.
    pub file: Location,
    /// What of it ends too early.
    pub within: Within,
    /// Who does it.
    pub by: By,
}

/// A part of a signed program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Within {
    /// The program itself: half of the file is left.
    Program,
    /// Its signatures, behind it: their last bytes are missing.
    Signatures,
}

/// How many bytes of a file are missing that ends within its signatures: what their length is a multiple of (PE format, "The
/// Attribute Certificate Table").
const MISSING: usize = 8;

/// How many zeros a padded file gets. A kernel skips them between and behind the archives of an initrd.
const ZEROS: usize = 512;

/// A step that changes one file, on a machine and in a rehearsal alike.
pub(super) trait Change {
    /// Does it.
    fn change(&self, site: &mut dyn Site) -> Result<(), Error>;

    /// Who does it.
    fn by(&self) -> By;

    /// It in one line.
    fn describe(&self) -> String;

    /// Whether it makes sense after the steps before.
    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.changed(self.by())
    }

    /// What it puts on the machine.
    fn artefact(&self) -> Option<Artefact> {
        None
    }
}

impl<C: Change> Act for C {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        self.change(bench)
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        self.change(rehearsal)
    }

    fn describe(&self) -> String {
        Change::describe(self)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        Change::check(self, so_far)
    }

    fn changes_file(&self) -> Option<By> {
        Some(self.by())
    }

    fn artefact(&self) -> Option<Artefact> {
        Change::artefact(self)
    }
}

impl Change for Rename {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let from = place(site.image(), &self.from)?;
        site.rename(&from, self.to.as_str(), self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("rename {} to {} {}", self.from, self.to, self.by)
    }
}

impl Change for Remove {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let place = place(site.image(), &self.file)?;
        site.remove(&place, self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("remove {} {}", self.file, self.by)
    }
}

impl Change for Copy {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let bytes = site.bytes_in_image(&place(site.image(), &self.from)?)?;
        let to = place(site.image(), &self.to)?;
        site.put(&to, &bytes, self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("copy {} to {} {}", self.from, self.to, self.by)
    }
}

impl Change for Put {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        site.put(&place(site.image(), &self.file)?, &self.text.clone().into(), self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("write {} {}", self.file, self.by)
    }
}

impl Change for Resign {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let place = place(site.image(), &self.file)?;
        let bytes = signed_anew(site, &place, self.signer)?;
        site.put(&place, &bytes, self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        match self.signer {
            Signer::Nobody => format!("take the signature off {} {}", self.file, self.by),
            Signer::Stranger => format!("have {} signed by a stranger {}", self.file, self.by),
            Signer::Community => format!("have {} signed by the community {}", self.file, self.by),
        }
    }
}

impl Change for Edit {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let place = place(site.image(), &self.file)?;
        let text = String::from_utf8_lossy(&site.bytes_in_image(&place)?).into_owned();
        let times = text.matches(&self.find).count();
        if times != 1 {
            let why = format!(
                "`{}` stands in {} {times} times; find a text that stands there once",
                self.find, self.file
            );
            return Err(Error::Bench(why));
        }
        site.put(&place, &text.replace(&self.find, &self.with).into(), self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("write `{}` instead of `{}` into {} {}", self.with, self.find, self.file, self.by)
    }
}

impl Change for Pad {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let place = place(site.image(), &self.file)?;
        let padded = site.once(format!("{place} with zeros"), &|| {
            Ok([&site.bytes_in_image(&place)?[..], &[0; ZEROS]].concat())
        })?;
        site.put(&place, &padded, self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("add {ZEROS} zeros to {} {}", self.file, self.by)
    }
}

impl Change for CutOff {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let place = place(site.image(), &self.file)?;
        let left = site.once(format!("{place} cut off within {:?}", self.within), &|| {
            let mut bytes = site.bytes_in_image(&place)?.to_vec();
            let is_signed = |bytes| {
                PeImage::parse(bytes).is_ok_and(|pe| pe.signatures().is_ok_and(|all| !all.is_empty()))
            };
            if !is_signed(&bytes) {
                return Err(Error::Bench(format!("{place} is no signed program")));
            }
            bytes.truncate(match self.within {
                Within::Program => bytes.len() / 2,
                Within::Signatures => bytes.len() - MISSING,
            });
            Ok(bytes)
        })?;
        site.put(&place, &left, self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        let place_in_it = match self.within {
            Within::Program => "in its middle",
            Within::Signatures => "within its signatures",
        };
        format!("cut {} off {place_in_it} {}", self.file, self.by)
    }
}

/// Who signs: nobody, or the holder of this key and certificate.
pub(super) fn signer(pki: &Pki, who: Signer) -> Option<&latchkey_measure::Signer> {
    match who {
        Signer::Nobody => None,
        Signer::Stranger => Some(&pki.stranger.signer),
        Signer::Community => Some(&pki.community.signer),
    }
}

/// The image's file, signed by `who` alone.
fn signed_anew(site: &dyn Site, place: &Place, who: Signer) -> Result<Bytes, Error> {
    let failed = |e: latchkey_measure::sign::Error| Error::Bench(format!("signing {place} anew: {e}"));
    site.once(format!("{place} signed by {who:?}"), &|| {
        let bare = strip_signatures(&site.bytes_in_image(place)?).map_err(failed)?;
        match signer(site.pki(), who) {
            Some(signer) => sign_pe(&bare, signer).map_err(failed),
            None => Ok(bare),
        }
    })
}
