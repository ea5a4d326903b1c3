//! What lies on an EFI system partition.

use latchkey_measure::cert::CertificateInfo;
use latchkey_measure::sbat::{self, Component};
use latchkey_measure::shim::{self, SbatLevels, Version};
use latchkey_measure::{PeImage, SignatureDb};
use serde::{Deserialize, Serialize};

use super::Limit;
use crate::bootcsv::{self, BootEntry};
use crate::esp::{Error, Esp};

/// COFF machine type of x86-64 (PE format, "Machine Types").
const X86_64: u16 = 0x8664;
/// Most files that are looked at; installed systems have some hundred.
const MOST_FILES: usize = 4096;
/// Most bytes of files that are read, however large the partition says that it is.
const MOST_BYTES: u64 = 4 << 30;
/// Most bytes that are kept of one text, and of all of them.
const TEXT: usize = 64 << 10;
const TEXTS: usize = 16 << 20;
/// What is put behind a text that was cut.
const CUT: &str = " (cut off)";
/// Most signatures and certificates of one file that are told.
const MOST_SIGNERS: usize = 64;

/// What lies on an EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EspContents {
    /// What shim starts.
    pub layout: Layout,
    /// Every PE image, in the order of the directories.
    pub images: Vec<EfiImage>,
    /// Every list of boot entries.
    pub boot_lists: Vec<BootList>,
    /// Every file that some version of shim takes certificates from.
    pub certificate_files: Vec<CertificateFile>,
}

/// What shim starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "layout", rename_all = "kebab-case")]
pub enum Layout {
    /// A unified kernel image.
    Uki {
        /// Its path on the ESP.
        path: String,
    },
    /// GRUB.
    Grub {
        /// Its path on the ESP.
        path: String,
    },
    /// Not clear.
    Unknown,
}

/// One PE image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EfiImage {
    /// Its path on the ESP.
    pub path: String,
    /// What it is.
    pub kind: EfiKind,
    /// Size in bytes.
    pub size: u64,
    /// Its Authenticode SHA-256 in the measured form, lower-case hex.
    pub sha256: String,
    /// Its SBAT metadata; empty when it has none or none that can be read.
    pub sbat: Vec<Component>,
    /// Who signed it, in the order of the signatures; not verified here.
    pub signed_by: Vec<String>,
}

/// What a PE image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EfiKind {
    /// shim.
    Shim {
        /// Its version, when it says so.
        version: Option<Version>,
        /// The certificate built into it.
        vendor_certificate: Option<CertificateInfo>,
        /// The revocation levels built into it, from 15.7 on.
        sbat_levels: Option<SbatLevels>,
    },
    /// shim's companion that enrols keys.
    MokManager,
    /// shim's companion that restores boot entries.
    Fallback,
    /// GRUB.
    Grub,
    /// A unified kernel image.
    Uki {
        /// Its kernel's release, when it says so.
        kernel: Option<String>,
        /// Its built-in kernel command line.
        command_line: Option<String>,
    },
    /// An add-on to unified kernel images.
    Addon,
    /// systemd-boot.
    SystemdBoot,
    /// A file that only carries certificates, whatever its name.
    Certificates,
    /// Something else.
    Other,
}

/// A list of boot entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootList {
    /// Its path on the ESP.
    pub path: String,
    /// Its entries.
    pub entries: Vec<BootEntry>,
}

/// A file that some version of shim takes certificates from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFile {
    /// Its path on the ESP.
    pub path: String,
    /// Whether the shim beside it reads it.
    pub read: Read,
    /// The certificates in it.
    pub certificates: Vec<CertificateInfo>,
    /// Who signed it.
    pub signed_by: Vec<String>,
}

/// Whether a certificate file is read by the shim in the same directory (with Secure Boot on, and when that shim
/// is the one that was started).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "read", rename_all = "kebab-case")]
pub enum Read {
    /// It is.
    Yes {
        /// By this version.
        shim: Version,
    },
    /// It is not: its name is not one that this version reads.
    No {
        /// Not by this version.
        shim: Version,
    },
    /// There is no shim in its directory, or none that tells its version.
    NoShim,
}

/// How much room is left for texts of files.
struct Room(usize);

impl Room {
    /// `text` as far as there is room for it.
    fn kept(&mut self, mut text: String) -> String {
        let room = TEXT.min(self.0);
        if text.len() > room {
            text.truncate((0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default());
            text.push_str(CUT);
        }
        self.0 -= text.len().min(self.0);
        text
    }
}

/// Reads everything on `esp`; what is odd about it comes back as limits.
pub(super) fn read(esp: &Esp) -> Result<(EspContents, Vec<Limit>), Error> {
    let mut limits = Vec::new();
    let (mut images, mut boot_lists, mut certificate_paths) = (Vec::new(), Vec::new(), Vec::new());
    let mut room = Room(TEXTS);
    // Of files that share nothing there are no more bytes than the partition has.
    let mut left = esp.length()?.min(MOST_BYTES);
    for (path, number) in esp.files("/")?.into_iter().zip(0..) {
        if number >= MOST_FILES {
            let what =
                format!("the EFI system partition has more than {MOST_FILES} files, {path} and others");
            limits.push(Limit::EspUnreadable { what });
            break;
        }
        let bytes = match esp.read(&path) {
            Ok(bytes) => bytes,
            Err(e) => {
                limits.push(Limit::FileUnreadable { path, what: e.to_string() });
                continue;
            }
        };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if length > left {
            let what = format!(
                "the files of the EFI system partition have more bytes than there is room for, {path} and others"
            );
            limits.push(Limit::EspUnreadable { what });
            break;
        }
        left -= length;
        let name = file_name(&path).to_ascii_lowercase();
        if name.starts_with("boot") && name.ends_with(".csv") {
            let long = bytes.len() > TEXT;
            match bootcsv::parse(if long { &[] } else { &bytes[..] }) {
                _ if long => {
                    limits.push(Limit::FileUnreadable { path, what: "it is too long a list".into() })
                }
                Ok(entries) => boot_lists.push(BootList { path, entries }),
                Err(e) => limits.push(Limit::FileUnreadable { path, what: e.to_string() }),
            }
            continue;
        }
        let certificates = shim::is_certificate_file(&name).then(|| certificates_in(&bytes));
        let Some((image, machine, damage)) = describe(&path, &bytes, &mut room) else {
            if let Some(certificates) = certificates {
                certificate_paths.push((path, certificates, Vec::new()));
            } else if name.ends_with(".efi") {
                limits.push(Limit::FileUnreadable { path, what: "it is not a PE image".into() });
            }
            continue;
        };
        if machine != X86_64 {
            limits.push(Limit::OtherMachine { path: path.clone() });
        }
        if let Some(what) = damage {
            limits.push(Limit::FileUnreadable { path: path.clone(), what });
        }
        if let Some(certificates) = certificates {
            certificate_paths.push((path, certificates, image.signed_by.clone()));
        }
        images.push(image);
    }
    let certificate_files = certificate_paths
        .into_iter()
        .map(|(path, certificates, signed_by)| {
            let read = who_reads(&path, &images);
            CertificateFile { path, read, certificates, signed_by }
        })
        .collect();
    let layout = layout(&images, &boot_lists);
    limits.extend(of_chain(&images, &layout));
    Ok((EspContents { layout, images, boot_lists, certificate_files }, limits))
}

fn of_chain(images: &[EfiImage], layout: &Layout) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut shims = images.iter().filter(|i| matches!(i.kind, EfiKind::Shim { .. })).peekable();
    if shims.peek().is_none() {
        limits.push(Limit::NoShim);
    } else if *layout == Layout::Unknown {
        limits.push(Limit::NoSecondStage);
    }
    for image in shims {
        if let EfiKind::Shim { version: None, .. } = image.kind {
            limits.push(Limit::ShimVersion { path: image.path.clone() });
        }
    }
    limits
}

/// The description of a PE image, its machine type, and why it is not whole, if it is not; `None` when it is no PE image.
fn describe(path: &str, bytes: &[u8], room: &mut Room) -> Option<(EfiImage, u16, Option<String>)> {
    let pe = PeImage::parse(bytes).ok()?;
    let sbat = pe.section(".sbat").filter(|section| section.len() <= TEXT);
    let sbat = sbat.and_then(|section| sbat::parse(section).ok()).unwrap_or_default();
    let signed_by = pe
        .signatures()
        .into_iter()
        .flatten()
        .take(MOST_SIGNERS)
        .map(|s| room.kept(s.map_or_else(|e| format!("unreadable: {e}"), |s| s.signer_name())))
        .collect();
    // One that is cut off has sections or signatures behind its end.
    let hashed = pe.authenticode(latchkey_measure::HashAlg::Sha256);
    let damage = hashed.as_ref().err().map(ToString::to_string);
    let damage = damage.or_else(|| pe.signatures().err().map(|e| e.to_string()));
    let sha256 = hashed.map(|digest| digest.hex()).unwrap_or_default();
    let kind = kind(path, &pe, bytes, &sbat, room);
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let image = EfiImage { path: path.to_owned(), kind, size, sha256, sbat, signed_by };
    Some((image, pe.machine(), damage))
}

fn kind(path: &str, pe: &PeImage<'_>, bytes: &[u8], sbat: &[Component], room: &mut Room) -> EfiKind {
    let mut text = |section| {
        let bytes = pe.section(section)?;
        let end = bytes.iter().rposition(|byte| !b"\0\n ".contains(byte)).map_or(0, |last| last + 1);
        // One byte more than is kept, so that it shows that there is more.
        let text = String::from_utf8_lossy(&bytes[..end.min(TEXT + 1)]);
        Some(room.kept(text.into_owned()))
    };
    let has = |component| sbat.iter().any(|c| c.name == component);
    if let Ok(vendor) = shim::vendor_cert(bytes) {
        return EfiKind::Shim {
            version: shim::version(bytes),
            vendor_certificate: CertificateInfo::of(&vendor.authorised),
            sbat_levels: shim::sbat_levels(bytes),
        };
    }
    if pe.section(".linux").is_some() {
        return EfiKind::Uki { kernel: text(".uname"), command_line: text(".cmdline") };
    }
    let name = file_name(path).to_ascii_lowercase();
    match () {
        () if pe.section(".db").is_some() => EfiKind::Certificates,
        () if has("grub") => EfiKind::Grub,
        () if pe.section(".sdmagic").is_some_and(|s| s.starts_with(b"#### LoaderInfo: systemd-boot")) => {
            EfiKind::SystemdBoot
        }
        () if pe.section(".cmdline").is_some() => EfiKind::Addon,
        // The two companions differ from each other only in their code and their names.
        () if has("shim") && name.starts_with("mm") => EfiKind::MokManager,
        () if has("shim") && name.starts_with("fb") => EfiKind::Fallback,
        () => EfiKind::Other,
    }
}

/// The certificates in a certificate file's signature lists.
fn certificates_in(bytes: &[u8]) -> Vec<CertificateInfo> {
    let lists = PeImage::parse(bytes).ok().and_then(|pe| SignatureDb::parse(pe.section(".db")?).ok());
    let certificates = lists.iter().flat_map(SignatureDb::certificates).take(MOST_SIGNERS);
    certificates.filter_map(CertificateInfo::of).collect()
}

/// Whether the shim in the directory of `path` reads it. Several shims in one directory are the same one under
/// several names; the first that tells its version speaks for all.
fn who_reads(path: &str, images: &[EfiImage]) -> Read {
    let version = images.iter().filter(|i| same_directory(&i.path, path)).find_map(|i| match i.kind {
        EfiKind::Shim { version, .. } => version,
        _ => None,
    });
    match version {
        None => Read::NoShim,
        Some(shim) if shim.certificate_files().loads(file_name(path)) => Read::Yes { shim },
        Some(shim) => Read::No { shim },
    }
}

/// What shim starts: what a list of boot entries hands it, or `grubx64.efi` beside it, which may be a UKI under
/// that name.
fn layout(images: &[EfiImage], lists: &[BootList]) -> Layout {
    let named = lists.iter().flat_map(|list| list.entries.iter().map(move |entry| (list, entry)));
    for (list, entry) in named {
        // Shim takes the first word as the path; without a leading separator it is beside shim.
        let Some(word) = entry.options.split_whitespace().next() else { continue };
        let path = word.replace('\\', "/");
        let path = if path.starts_with('/') { path } else { format!("{}/{path}", directory(&list.path)) };
        if let Some(found) = images.iter().find(|i| i.path.eq_ignore_ascii_case(&path)) {
            match found.kind {
                EfiKind::Uki { .. } => return Layout::Uki { path: found.path.clone() },
                EfiKind::Grub => return Layout::Grub { path: found.path.clone() },
                _ => {}
            }
        }
    }
    let beside_shim = |image: &&EfiImage| {
        file_name(&image.path).eq_ignore_ascii_case("grubx64.efi")
            && images
                .iter()
                .any(|s| matches!(s.kind, EfiKind::Shim { .. }) && same_directory(&s.path, &image.path))
    };
    match images.iter().find(beside_shim) {
        Some(EfiImage { path, kind: EfiKind::Uki { .. }, .. }) => Layout::Uki { path: path.clone() },
        Some(EfiImage { path, .. }) => Layout::Grub { path: path.clone() },
        None => Layout::Unknown,
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

fn same_directory(one: &str, other: &str) -> bool {
    directory(one).eq_ignore_ascii_case(directory(other))
}
