//! The firmware's variables: whose signatures it accepts.

use std::fs;
use std::path::{Path, PathBuf};

use latchkey_disk::varstore::{SecureBootKeys, VarStore};
use latchkey_measure::cert::CertificateInfo;
use latchkey_measure::{PeImage, SignatureDb, SignatureList};
use latchkey_supervise::Scratch;
use uuid::{Uuid, uuid};

use crate::boot_files;
use crate::error::{io, tool};
use crate::mirror::Mirror;
use crate::packages::{self, Apt};
use crate::progress::begin;
use crate::{Cache, Error, Pki, Progress, Stage};

/// Whose the entries are that this crate, and whoever adds to them, puts into signature lists.
pub const OWNER: Uuid = boot_files::OWNER;
/// Microsoft's owner GUID in db (Microsoft, "Windows Secure Boot Key Creation and Management Guidance").
const MICROSOFT: Uuid = uuid!("77fa9abd-0359-4d32-bd60-28f4e78f784b");
/// A package whose shim Microsoft signed with both of its UEFI CAs: the signatures carry the CAs' certificates.
const SIGNED_SHIM: (&str, &str, &str) = ("bookworm", "shim-signed", "usr/lib/shim/shimx64.efi.signed");
/// What the CAs' common names have in common; the certificates they issued end differently.
const CA_NAMES: [&str; 2] = ["Microsoft Corporation UEFI CA 2011", "Microsoft UEFI CA 2023"];

/// Microsoft's UEFI CAs, of 2011 and 2023, as a cloud's firmware trusts them.
///
/// They are read from the signatures of a shim that Microsoft signed, so no certificate of theirs is kept in the
/// project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareCas {
    /// The certificates, DER, oldest first.
    certificates: Vec<Vec<u8>>,
}

impl FirmwareCas {
    /// The CAs, fetched when the cache does not have them.
    ///
    /// # Errors
    /// [`Error::Apt`] and [`Error::Tool`] when they cannot be fetched, [`Error::Variables`] when the package does
    /// not have them any more.
    pub fn ensure(cache: &Cache, progress: &dyn Progress) -> Result<Self, Error> {
        let dir = cache.root().join("firmware-cas");
        if !dir.is_dir() {
            let _lock = cache.lock("firmware-cas", progress)?;
            if !dir.is_dir() {
                begin(progress, Stage::Keys, "fetching the certificates that firmware trusts");
                Self::fetch(cache, progress)?.keep(cache, &dir)?;
            }
        }
        let read = |name: &&str| {
            let path = dir.join(format!("{name}.der"));
            fs::read(&path).map_err(io("reading", &path))
        };
        Ok(Self { certificates: CA_NAMES.iter().map(read).collect::<Result<_, _>>()? })
    }

    fn fetch(cache: &Cache, progress: &dyn Progress) -> Result<Self, Error> {
        let (suite, package, file) = SIGNED_SHIM;
        let _turn = packages::turn(cache, progress)?;
        let apt = Apt::new(cache, &Mirror::of_host(Path::new("/etc/apt"))?, suite)?;
        let version = apt.candidate(package).or_else(|_| {
            apt.update()?;
            apt.candidate(package)
        })?;
        let scratch = Scratch::new(&cache.dir("work")?, "cas-").map_err(tool("making a work directory"))?;
        apt.unpack(package, &version, scratch.path())?;
        let path = scratch.path().join(file);
        let image = fs::read(&path).map_err(io("reading", &path))?;
        let found = signers(&image)?;
        let pick = |name: &&str| {
            found
                .iter()
                .find(|der| CertificateInfo::of(der).is_some_and(|info| info.common_name() == *name))
                .cloned()
                .ok_or_else(|| Error::Variables {
                    why: format!("{package} {version} does not carry {name:?}"),
                })
        };
        Ok(Self { certificates: CA_NAMES.iter().map(pick).collect::<Result<_, _>>()? })
    }

    fn keep(&self, cache: &Cache, dir: &Path) -> Result<(), Error> {
        let part = cache.dir("firmware-cas.part")?;
        for (name, der) in CA_NAMES.iter().zip(&self.certificates) {
            let path = part.join(format!("{name}.der"));
            fs::write(&path, der).map_err(io("writing", &path))?;
        }
        fs::rename(&part, dir).map_err(io("renaming", &part))
    }

    /// The certificates, DER, oldest first.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.certificates.iter().map(Vec::as_slice)
    }
}

/// A later build of OVMF than Debian 12's: Debian 13's, code that enforces Secure Boot and a variable store without keys.
/// Beside that lies one with Microsoft's. Fetched when the cache does not have it.
///
/// # Errors
/// [`Error::Apt`] and [`Error::Tool`] when it cannot be fetched.
pub fn later_ovmf(cache: &Cache, progress: &dyn Progress) -> Result<(PathBuf, PathBuf), Error> {
    let dir = cache.root().join("ovmf-trixie");
    if !dir.is_dir() {
        let _lock = cache.lock("ovmf-trixie", progress)?;
        if !dir.is_dir() {
            begin(progress, Stage::Download, "fetching Debian 13's firmware");
            let _turn = packages::turn(cache, progress)?;
            let apt = Apt::new(cache, &Mirror::of_host(Path::new("/etc/apt"))?, "trixie")?;
            apt.update()?;
            let scratch =
                Scratch::new(&cache.dir("work")?, "ovmf-").map_err(tool("making a work directory"))?;
            apt.unpack("ovmf", &apt.candidate("ovmf")?, scratch.path())?;
            let unpacked = scratch.path().join("usr/share/OVMF");
            fs::rename(&unpacked, &dir).map_err(io("renaming", &unpacked))?;
        }
    }
    Ok((dir.join("OVMF_CODE_4M.secboot.fd"), dir.join("OVMF_VARS_4M.fd")))
}

/// Every certificate in the signatures of a PE image.
fn signers(image: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let pe = |source| Error::Pe { what: "a signed shim".to_owned(), source };
    let signatures = PeImage::parse(image).and_then(|p| p.signatures()).map_err(pe)?;
    Ok(signatures.into_iter().flatten().flat_map(|s| s.certificates()).collect())
}

/// A variable store for a new machine, from the firmware's `template` (OVMF's `VARS.fd`): PK and KEK are ours, db
/// trusts our platform CA and Microsoft's UEFI CAs, dbx has one entry that no image has, Secure Boot is on.
///
/// The same keys and template give the same bytes.
///
/// # Errors
/// [`Error::Variables`] when `template` is no variable store or has no room.
pub fn variables(pki: &Pki, cas: &FirmwareCas, template: &[u8]) -> Result<Vec<u8>, Error> {
    let wrong = |e: latchkey_disk::varstore::Error| Error::Variables { why: e.to_string() };
    let owner = || SignatureDb::new().with(SignatureList::x509(OWNER, &pki.owner.authority));
    let db = cas
        .certificates()
        .fold(SignatureDb::new().with(SignatureList::x509(OWNER, &pki.platform.authority)), |db, ca| {
            db.with(SignatureList::x509(MICROSOFT, ca))
        });
    let mut store = VarStore::parse(template).map_err(wrong)?;
    let dbx = SignatureDb::new().with(SignatureList::sha256(OWNER, &[[0; 32]]));
    store.enrol(&SecureBootKeys { pk: owner(), kek: owner(), db, dbx });
    store.to_bytes().map_err(wrong)
}
