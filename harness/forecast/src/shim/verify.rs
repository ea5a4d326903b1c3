//! How shim judges an image, and what it measures of those who vouch for it.
//!
//! Sources: shim 15.8 and 16.1, `shim.c` or `verify.c` (`verify_buffer_authenticode`, `check_denylist`, `check_allowlist`,
//! `shim_verify`), `pe.c` (`generate_hash`, `verify_image`, `verify_sbat_section`), `pe-relocate.c` (`read_header`), `tpm.c`
//! (`tpm_measure_variable`).

use bytes::Bytes;
use latchkey_disk::varstore::{SecureBoot, VariableId, vendor};
use latchkey_measure::pe::{Signature, TableEnd};
use latchkey_measure::shim::Version;
use latchkey_measure::{PeImage, SignatureDb, sbat, siglist};
use latchkey_record::{Origin, Stage};

use super::level::RAISES;
use super::state::variable;
use super::{Shim, Validation};
use crate::Chain;
use crate::chain::Image;
use crate::firmware::{self, db, dbx};
use crate::trust::{Checked, authority, database, hangs_on, signature_data};

/// Whether an image must have SBAT data: what shim itself starts must, what it verifies for GRUB need not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sbat {
    Needed,
    Optional,
}

/// Why shim does not take an image.
pub(super) struct Refusal {
    pub(super) fault: Fault,
    pub(super) why: String,
}

/// What is wrong with an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nobody it trusts signed it, it is revoked, or its SBAT generation is too old (`EFI_SECURITY_VIOLATION`,
    /// `EFI_ACCESS_DENIED`).
    Signature,
    /// No hash can be made of it, or its signatures or its SBAT data cannot be read (`EFI_INVALID_PARAMETER`).
    Malformed,
    /// It ends before its signatures: its headers are refused (`EFI_INVALID_PARAMETER`).
    CutOff,
    /// It is no program at all (`EFI_UNSUPPORTED`).
    NoProgram,
}

impl Fault {
    /// Whether a box tells of it where shim verifies, and waits for a key (`handle_image`, `console_error`). What is wrong with an
    /// image's headers shim says without waiting.
    pub(super) fn has_box(self) -> bool {
        matches!(self, Self::Signature | Self::Malformed)
    }
}

fn refused(why: impl Into<String>) -> Refusal {
    Refusal { fault: Fault::Signature, why: why.into() }
}

/// The version of shim from which on certificates and hashes are looked up in the list that it has mirrored, with what it brings
/// along and what certificate files add; before, in the one that its owner stored.
const LOOKS_AT_MIRROR: Version = Version { major: 15, minor: 7 };

/// The signature lists among what is built into shim, up to one that is none; none where that is a certificate. A DER certificate
/// starts with a sequence, a signature list with its type's GUID.
pub(super) fn built_in(vendor: &[u8]) -> (SignatureDb, Option<siglist::Error>) {
    if vendor.starts_with(&[0x30, 0x82]) { (SignatureDb::new(), None) } else { SignatureDb::readable(vendor) }
}

/// shim looks through the databases in front of the one that vouches, or through all.
fn passes(chain: &mut Chain<'_>, trusted: &[(VariableId, SignatureDb)], by: Option<&VariableId>) {
    for (id, _) in trusted.iter().take_while(|(id, _)| Some(id) != by) {
        hangs_on(chain, Stage::Shim, id);
    }
}

/// What shim finds out of an image before it measures or judges it, with Secure Boot or without; or why it does not take it.
fn read<'a>(chain: &Chain<'a>, bytes: &Bytes) -> Result<Checked<'a>, Refusal> {
    let no = |fault, why: &str| Refusal { fault, why: why.into() };
    let image = PeImage::parse(bytes).map_err(|_| no(Fault::NoProgram, "is no PE image"))?;
    if image.ends_before_signatures() {
        return Err(no(Fault::CutOff, "is cut off: it ends before its signatures"));
    }
    let malformed = |why| no(Fault::Malformed, why);
    match image.has_bytes_behind_signatures() {
        Ok(false) => {}
        Ok(true) => {
            return Err(malformed("has bytes behind its signatures, and so counts as malformed"));
        }
        Err(_) => return Err(malformed("is cut off: it ends within its signatures")),
    }
    Checked::new(chain, bytes).ok_or_else(|| malformed("is cut off or damaged: no hash can be made of it"))
}

impl Shim {
    /// Whether shim verifies: `secure_mode`.
    pub(crate) fn is_secure(&self, chain: &Chain<'_>) -> bool {
        chain.secure_boot() == SecureBoot::On && self.validation == Validation::On
    }

    /// Verifies an image, measures who vouched for it, then the image.
    pub(super) fn verify(
        &mut self,
        chain: &mut Chain<'_>,
        path: &str,
        bytes: &Bytes,
        what: &str,
    ) -> Result<(), Refusal> {
        let file = format!("esp:{path}");
        let of_file = |Refusal { fault, why }: Refusal| Refusal { fault, why: format!("{file} {why}") };
        let checked = read(chain, bytes).map_err(of_file)?;
        if self.is_secure(chain) {
            self.judge(chain, bytes, &checked, Sbat::Needed).map_err(of_file)?;
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
        let no = |refusal: Refusal| format!("{file} {}", refusal.why);
        let checked = read(chain, bytes).map_err(no)?;
        checked.measure(chain, Stage::Shim, "kernel, verified for GRUB", file);
        if !self.is_secure(chain) {
            return Ok(());
        }
        self.judge(chain, bytes, &checked, Sbat::Optional).map_err(no)
    }

    /// Whether it offers a protocol that loads programs (16.0, `shim.c`, `install_shim_protocols`), with Secure Boot or without.
    pub(crate) fn offers_to_load(&self) -> bool {
        self.version.major >= 16
    }

    /// A kernel that GRUB has it load by that protocol (`loader-proto.c`, `shim_load_image`): judged first, where it judges
    /// at all, then measured.
    pub(crate) fn load_for_grub(
        &mut self,
        chain: &mut Chain<'_>,
        file: &str,
        bytes: &Bytes,
    ) -> Result<(), String> {
        let no = |refusal: Refusal| format!("{file} {}", refusal.why);
        let checked = read(chain, bytes).map_err(no)?;
        if self.is_secure(chain) {
            self.judge(chain, bytes, &checked, Sbat::Optional).map_err(no)?;
        }
        checked.measure(chain, Stage::Shim, "kernel, loaded for GRUB", file);
        Ok(())
    }

    /// A program that a UKI has the firmware load. systemd-stub asks `shim_lock` where Secure Boot is on, and the firmware judges
    /// and measures what shim does not take; from 16.0 on shim does the firmware's work.
    pub(crate) fn load_for_stub(
        &mut self,
        chain: &mut Chain<'_>,
        image: &Image,
        what: &str,
    ) -> Result<(), String> {
        let file = format!("esp:{}", image.path);
        if chain.secure_boot() == SecureBoot::Off {
            return firmware::load(chain, image, what);
        }
        let checked = match read(chain, &image.bytes) {
            Ok(checked) => checked,
            Err(Refusal { why, .. }) if self.loads_images(chain) => return Err(format!("{file} {why}")),
            Err(_) => return firmware::load(chain, image, what),
        };
        if self.loads_images(chain) {
            self.judge(chain, &image.bytes, &checked, Sbat::Optional).map_err(|refusal| refusal.why)?;
            checked.measure(chain, Stage::Shim, what, &file);
            return Ok(());
        }
        checked.measure(chain, Stage::Shim, what, &file);
        if !self.is_secure(chain) || self.judge(chain, &image.bytes, &checked, Sbat::Optional).is_ok() {
            return Ok(());
        }
        firmware::load(chain, image, what)
    }

    /// Whether programs that others have loaded are loaded by shim instead of the firmware (`hook_system_services`).
    pub(super) fn loads_images(&self, chain: &Chain<'_>) -> bool {
        let built_in = !self.vendor.is_empty() || !self.revoked.lists().is_empty();
        self.version.major >= 16 && self.is_secure(chain) && built_in
    }

    /// Whether it judges and measures the kernel in a UKI as a program of its own; 16.1 knows what it has verified with the
    /// UKI (`parent_verified`).
    pub(crate) fn judges_inner_kernels(&self, chain: &Chain<'_>) -> bool {
        self.version == (Version { major: 16, minor: 0 }) && self.loads_images(chain)
    }

    /// Whether an image may run: why it may not.
    fn judge(
        &mut self,
        chain: &mut Chain<'_>,
        bytes: &Bytes,
        checked: &Checked<'_>,
        sbat: Sbat,
    ) -> Result<(), Refusal> {
        let mok = variable("MokListX");
        let denied = [
            (dbx(), self.revoked.clone(), "shim's own list"),
            (dbx(), database(chain, &dbx()), "dbx"),
            (mok.clone(), database(chain, &mok), "MokListX"),
        ];
        let named = denied.iter().find_map(|(id, list, by)| Some((id, checked.by_hash(list)?, by)));
        if let Some((id, entry, by)) = named {
            self.measure_authority(chain, id, &signature_data(entry));
            return Err(refused(format!("is forbidden by {by}")));
        }
        let trusted = self.trusted(chain);
        let named = trusted.iter().find_map(|(id, list)| Some((id, checked.by_hash(list)?)));
        if let Some((id, entry)) = named {
            passes(chain, &trusted, Some(id));
            self.measure_authority(chain, id, &signature_data(entry));
        } else {
            let vouched = self.signatures(chain, checked, &trusted, &denied);
            if vouched.is_err() {
                passes(chain, &trusted, None);
            }
            if checked.end == TableEnd::Rest {
                let why = "has something behind its last signature that is none, and so counts as malformed";
                return Err(Refusal { fault: Fault::Malformed, why: why.into() });
            }
            vouched.map_err(refused)?;
        }
        let too_old = self.too_old(bytes, sbat);
        if too_old.is_some() && self.version < RAISES {
            let why = "shims before 15.8 judge by SBAT first, and then measure no authority";
            chain.unmodelled(Stage::Shim, "SbatLevel", why, &[7]);
        }
        if let Some(refusal) = too_old {
            return Err(refusal);
        }
        for (id, ..) in &denied {
            hangs_on(chain, Stage::Shim, id);
        }
        Ok(())
    }

    /// Every signature is looked at, also after one that counts; whatever counts is measured, for the image or against it
    /// (`check_db_cert_in_ram`, `check_db_hash_in_ram`).
    fn signatures(
        &mut self,
        chain: &mut Chain<'_>,
        checked: &Checked<'_>,
        trusted: &[(VariableId, SignatureDb)],
        denied: &[(VariableId, SignatureDb, &str)],
    ) -> Result<(), String> {
        let mut result = Err("is signed by nobody whom shim trusts".to_owned());
        for signature in &checked.signatures {
            let against = denied
                .iter()
                .find_map(|(id, list, by)| Some((id, checked.by_for_shim(signature, list)?, by)));
            if let Some((id, entry, by)) = against {
                self.measure_authority(chain, id, &signature_data(entry));
                result = result.map_err(|_| format!("is forbidden by {by}"));
            } else if self.vouch(chain, checked, signature, trusted) {
                result = Ok(());
            }
        }
        result
    }

    /// Looks for somebody who vouches for a signature, in shim's order, and measures who it was.
    fn vouch(
        &mut self,
        chain: &mut Chain<'_>,
        checked: &Checked<'_>,
        signature: &Signature,
        trusted: &[(VariableId, SignatureDb)],
    ) -> bool {
        let found = trusted.iter().find_map(|(id, list)| Some((id, checked.by_for_shim(signature, list)?)));
        passes(chain, trusted, found.map(|(id, _)| id));
        if let Some((id, entry)) = found {
            self.measure_authority(chain, id, &signature_data(entry));
            return true;
        }
        if checked.is_by(signature, &self.vendor) {
            let vendor = self.vendor.clone();
            self.measure_authority(chain, &variable("Shim"), &vendor);
            return true;
        }
        false
    }

    /// Whose word counts, in order: db, a database built into shim, the machine's owner.
    fn trusted(&self, chain: &Chain<'_>) -> Vec<(VariableId, SignatureDb)> {
        let (built_in, _) = built_in(&self.vendor);
        let owners = variable(if self.version < LOOKS_AT_MIRROR { "MokList" } else { "MokListRT" });
        let of_owner = database(chain, &owners);
        let all = [
            (db(), database(chain, &db())),
            (VariableId::new("vendor_db", vendor::IMAGE_SECURITY), built_in),
            (owners, of_owner),
        ];
        all.into_iter().skip(usize::from(self.ignores_db)).collect()
    }

    fn measure_authority(&mut self, chain: &mut Chain<'_>, id: &VariableId, data: &[u8]) {
        let from = match id.name.as_str() {
            "Shim" | "vendor_db" => Origin::Part { file: "shim".into(), part: ".vendor_cert".into() },
            name => Origin::Variable(name.to_owned()),
        };
        authority(chain, Stage::Shim, &mut self.seen, id, data, from);
    }

    /// The SBAT level's word on an image: why it may not run. An image without SBAT data may not run either.
    fn too_old(&self, bytes: &[u8], needed: Sbat) -> Option<Refusal> {
        let image = PeImage::parse(bytes).ok()?;
        let Some(section) = image.section(".sbat").filter(|section| !section.is_empty()) else {
            return (needed == Sbat::Needed).then(|| refused("has no SBAT data"));
        };
        let Ok(components) = sbat::parse(section) else {
            return Some(Refusal { fault: Fault::Malformed, why: "has damaged SBAT data".into() });
        };
        let (component, needed) = self.level.as_ref()?.refuses(&components)?;
        let why = format!("has {},{}, and SbatLevel wants {needed}", component.name, component.generation);
        Some(refused(why))
    }
}
