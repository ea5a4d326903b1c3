//! shim: what it takes from its directory and its variables, what it measures of them, and what it starts.
//!
//! Sources: shim 15.8 and 16.1, `shim.c` (`load_unbundled_trust`, `check_allowlist`, `verify_image`), `mok.c` (the table
//! `mok_state_variable_data` and what is measured of it), `sbat.c` (`set_sbat_uefi_variable`), `tpm.c`
//! (`tpm_measure_variable`: each authority once).

mod fallback;
mod state;

use bytes::Bytes;
use latchkey_disk::esp::EntryKind;
use latchkey_disk::varstore::SecureBoot;
use latchkey_measure::{PeImage, SignatureDb, SignatureList, sbat, shim};
use latchkey_record::pcr::Digest;
use latchkey_record::{Origin, Outcome, Stage};

use crate::chain::Image;
use crate::firmware::{db, dbx};
use crate::trust::{Checked, authority, database, signature_data};
use crate::{Chain, End, Error, Next};
use state::{Mok, sbat_level, variable};

/// What shim starts when nothing else is asked for, and what it starts from the removable-media directory.
const SECOND_STAGE: &str = "grubx64.efi";
const FALLBACK: &str = "fbx64.efi";
const REMOVABLE: &str = "/efi/boot/boot";
/// Files with revocations: 15.8's name and 16.x's.
const REVOCATIONS: [&str; 3] = ["revocations.efi", "revocations_sbat.efi", "revocations_sku.efi"];

/// A shim that runs, and verifies what GRUB hands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shim {
    version: shim::Version,
    /// Its directory, without a slash at the end.
    directory: String,
    /// The certificate built into it, DER, or signature lists.
    vendor: Vec<u8>,
    /// Signature lists of what the vendor revoked.
    revoked: SignatureDb,
    /// Authorities that it has measured.
    seen: Vec<Digest>,
    /// Certificates out of certificate files: signature lists one after the other.
    user: Vec<u8>,
}

/// Whether an image must have SBAT data: what shim itself starts must, what it verifies for GRUB need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sbat {
    Needed,
    Optional,
}

/// Why shim does not take an image.
enum Refusal {
    /// Nobody it trusts signed it, it is revoked, or its SBAT generation is too old.
    Signature(String),
}

/// From shim's start to the second stage's.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn run(chain: &mut Chain<'_>, image: &Image) -> Result<Next, Error> {
    let file = format!("esp:{}", image.path);
    let (directory, _) = image.path.rsplit_once('/').unwrap_or(("", &image.path));
    let (Some(version), Ok(table)) = (shim::version(&image.bytes), shim::vendor_cert(&image.bytes)) else {
        chain.unmodelled(Stage::Shim, &file, "its version or certificate table cannot be read", &[4, 7, 14]);
        return Ok(end(None, format!("{file} is a shim that is not understood")));
    };
    let mut running = Shim {
        version,
        directory: directory.to_owned(),
        vendor: table.authorised,
        revoked: SignatureDb::parse(&table.deauthorised).unwrap_or_default(),
        seen: Vec::new(),
        user: Vec::new(),
    };
    sbat_level(chain, &image.bytes, &file);
    if let Some(why) = running.certificate_files(chain)? {
        return Ok(refused(why));
    }
    let mok = Mok { vendor: &running.vendor, revoked: &table.deauthorised, user: &running.user };
    mok.mirror(chain, running.version, &mut running.seen, &file);
    if chain.variables.get(&variable("MokAuth")).is_some()
        || chain.variables.get(&variable("MokNew")).is_some()
    {
        chain.unmodelled(
            Stage::Shim,
            "variable MokNew",
            "a request to MokManager is not modelled",
            &[4, 7, 14],
        );
        return Ok(end(None, "MokManager has a request to answer".into()));
    }
    running.second_stage(chain, image)
}

impl Shim {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// Certificate files in shim's own directory, in the directory's order. The answer is why one of them stops shim at a
    /// box that waits for a key.
    fn certificate_files(&mut self, chain: &mut Chain<'_>) -> Result<Option<String>, Error> {
        if chain.secure_boot() == SecureBoot::Off {
            return Ok(None);
        }
        let rule = self.version.certificate_files();
        for entry in chain.target.esp.list(&self.directory)?.unwrap_or_default() {
            if entry.kind == EntryKind::Directory {
                continue;
            }
            let path = self.path(&entry.name);
            if REVOCATIONS.iter().any(|name| entry.name.eq_ignore_ascii_case(name)) {
                let why = "revocation files are not modelled";
                chain.unmodelled(Stage::Shim, &format!("esp:{path}"), why, &[4, 7, 14]);
            }
            if !rule.loads(&entry.name) {
                continue;
            }
            let Some(bytes) = chain.target.esp.read(&path)? else { continue };
            if let Err(Refusal::Signature(why)) = self.verify(chain, &path, &bytes, "certificate file") {
                return Ok(Some(why));
            }
            self.take_certificates(&bytes);
        }
        Ok(None)
    }

    /// The section `.db` of a certificate file: 15.8 takes its first list, 16.x all of them.
    fn take_certificates(&mut self, bytes: &[u8]) {
        let Ok(image) = PeImage::parse(bytes) else { return };
        for section in image.sections().filter(|section| section.name == b".db") {
            let Ok(lists) = SignatureDb::parse(section.data) else { continue };
            let most = if self.version.major >= 16 { usize::MAX } else { 1 };
            lists.lists().iter().take(most).for_each(|list| self.user.extend(list.to_bytes()));
        }
    }

    /// Verifies an image, measures who vouched for it, then the image.
    fn verify(
        &mut self,
        chain: &mut Chain<'_>,
        path: &str,
        bytes: &Bytes,
        what: &str,
    ) -> Result<(), Refusal> {
        let file = format!("esp:{path}");
        let no = |why: &str| Err(Refusal::Signature(format!("{file} {why}")));
        let Some(checked) = Checked::new(chain, bytes) else { return no("is no PE image") };
        if chain.secure_boot() == SecureBoot::On
            && let Err(why) = self.judge(chain, bytes, &checked, Sbat::Needed)
        {
            return no(&why);
        }
        checked.measure(chain, Stage::Shim, what, &file);
        Ok(())
    }

    /// `shim_lock`'s `Verify` (`shim.c`, `shim_verify`): the image is measured first, then judged, and may do without SBAT data.
    /// The answer is why shim does not take it.
    pub(crate) fn verify_for_grub(
        &mut self,
        chain: &mut Chain<'_>,
        file: &str,
        bytes: &Bytes,
    ) -> Result<(), String> {
        let no = |why: &str| Err(format!("{file} {why}"));
        let Some(checked) = Checked::new(chain, bytes) else { return no("is no PE image") };
        checked.measure(chain, Stage::Shim, "kernel, verified for GRUB", file);
        self.judge(chain, bytes, &checked, Sbat::Optional).or_else(|why| no(&why))
    }

    /// Whether an image may run: why it may not.
    fn judge(
        &mut self,
        chain: &mut Chain<'_>,
        bytes: &Bytes,
        checked: &Checked,
        sbat: Sbat,
    ) -> Result<(), String> {
        for (revoked, by) in [
            (&self.revoked, "shim's own list"),
            (&database(chain, &dbx()), "dbx"),
            (&database(chain, &variable("MokListX")), "MokListX"),
        ] {
            if checked.entry(revoked).is_some() {
                return Err(format!("is forbidden by {by}"));
            }
        }
        if let Some(why) = too_old(chain, bytes, sbat) {
            return Err(why);
        }
        if self.vouch(chain, checked) { Ok(()) } else { Err("is signed by nobody whom shim trusts".into()) }
    }

    /// Looks for somebody who vouches for an image, in shim's order, and measures who it was.
    fn vouch(&mut self, chain: &mut Chain<'_>, checked: &Checked) -> bool {
        for id in [db(), variable("MokListRT")] {
            let trusted = database(chain, &id);
            if let Some(entry) = checked.entry(&trusted) {
                let from = Origin::Variable(id.name.clone());
                authority(chain, Stage::Shim, &mut self.seen, &id, &signature_data(entry), from);
                return true;
            }
        }
        if checked.is_vouched_for(&self.vendor) {
            let from = Origin::Part { file: "shim".into(), part: ".vendor_cert".into() };
            authority(chain, Stage::Shim, &mut self.seen, &variable("Shim"), &self.vendor, from);
            return true;
        }
        false
    }

    /// What shim starts: the fallback program from the removable-media directory, what its load options name, or GRUB.
    fn second_stage(mut self, chain: &mut Chain<'_>, shim: &Image) -> Result<Next, Error> {
        let fallback = self.path(FALLBACK);
        let removable = shim.path.to_ascii_lowercase().starts_with(REMOVABLE);
        if removable && let Some(bytes) = chain.target.esp.read(&fallback)? {
            return match self.verify(chain, &fallback, &bytes, "fallback program") {
                Ok(()) => fallback::run(chain),
                Err(Refusal::Signature(why)) => Ok(refused(why)),
            };
        }
        let (asked, options) = load_options(&shim.options, &self.directory);
        // What the load options name may not be there: firmware puts a GUID into the options that it makes itself.
        let default = self.path(SECOND_STAGE);
        let found = match chain.target.esp.read(&asked)? {
            Some(bytes) => Some((asked.clone(), options, bytes)),
            None => chain.target.esp.read(&default)?.map(|bytes| (default, Vec::new(), bytes)),
        };
        let Some((path, options, bytes)) = found else {
            chain.unmodelled(Stage::Shim, &format!("esp:{asked}"), "the second stage is missing", &[4, 7]);
            return Ok(end(None, format!("esp:{asked}, which shim shall start, is missing")));
        };
        if let Err(Refusal::Signature(why)) = self.verify(chain, &path, &bytes, "second stage") {
            return Ok(refused(why));
        }
        let next = Image { path, bytes, options };
        Ok(match kind_of(&next.bytes) {
            Kind::Uki => Next::Stub(next),
            Kind::Grub => Next::Grub(next, Box::new(self)),
            Kind::Other => {
                let file = format!("esp:{}", next.path);
                chain.unmodelled(Stage::Shim, &file, "it is neither a UKI nor GRUB", &[4, 8, 9, 11, 12]);
                end(None, format!("{file} is neither a UKI nor GRUB"))
            }
        })
    }
}

/// `SbatLevel`'s word on an image: why it may not run. An image without SBAT data may not run either.
fn too_old(chain: &Chain<'_>, bytes: &[u8], needed: Sbat) -> Option<String> {
    let image = PeImage::parse(bytes).ok()?;
    let Some(section) = image.section(".sbat").filter(|section| !section.is_empty()) else {
        return (needed == Sbat::Needed).then(|| "has no SBAT data".into());
    };
    let Ok(components) = sbat::parse(section) else { return Some("has damaged SBAT data".into()) };
    let level = chain.variables.get(&variable("SbatLevel"))?;
    let revocations = sbat::Revocations::parse(&level.data).ok()?;
    let (component, needed) = revocations.refuses(&components)?;
    Some(format!("has {},{}, and SbatLevel wants {needed}", component.name, component.generation))
}

enum Kind {
    Uki,
    Grub,
    Other,
}

fn kind_of(bytes: &[u8]) -> Kind {
    let Ok(image) = PeImage::parse(bytes) else { return Kind::Other };
    if image.section(".linux").is_some() {
        return Kind::Uki;
    }
    let components = image.section(".sbat").and_then(|section| sbat::parse(section).ok()).unwrap_or_default();
    if components.iter().any(|component| component.name == "grub") { Kind::Grub } else { Kind::Other }
}

/// What shim's load options ask for: the second stage's path, and what is left for it (`load-options.c`).
fn load_options(options: &[u8], directory: &str) -> (String, Vec<u8>) {
    let units: Vec<u16> = options
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    let text = String::from_utf16_lossy(&units);
    let (name, rest) = text.trim_start().split_once(' ').unwrap_or((text.trim_start(), ""));
    let rest = rest.encode_utf16().flat_map(u16::to_le_bytes).collect();
    if name.is_empty() {
        return (format!("{directory}/{SECOND_STAGE}"), Vec::new());
    }
    let name = name.replace('\\', "/");
    let path = if name.starts_with('/') { name } else { format!("{directory}/{name}") };
    (path, rest)
}

fn end(outcome: Option<Outcome>, because: String) -> Next {
    Next::End(End { outcome, because, reported_by: None })
}

fn refused(because: String) -> Next {
    Next::End(End { outcome: Some(Outcome::RefusedByShim), because, reported_by: Some("shim") })
}

/// A certificate as the one entry of a signature list, owned by shim.
fn own_list(der: &[u8]) -> Vec<u8> {
    SignatureList::x509(latchkey_disk::varstore::vendor::SHIM, der).to_bytes()
}
