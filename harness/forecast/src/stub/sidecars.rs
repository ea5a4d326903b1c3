//! What lies beside a UKI for the initrd: credentials and extensions. Each kind becomes an archive that is measured and
//! follows the UKI's own initrd.
//!
//! Source: systemd 252.39 and 257.13, `src/boot/efi/stub.c`, `src/boot/stub.c` (`generate_sidecar_initrds`,
//! `generate_embedded_initrds`, `combine_initrds`), `cpio.c` (`pack_cpio`).

use bytes::Bytes;
use latchkey_disk::esp::EntryKind;
use latchkey_measure::PeImage;
use latchkey_record::{Origin, Stage};

use super::addons::Addons;
use super::cpio::{Modes, archive};
use crate::chain::kind;
use crate::{Chain, Error, VolumeError};

/// Credentials are for root alone.
const SECRET: Modes = Modes { directory: 0o500, file: 0o400 };
const OPEN: Modes = Modes { directory: 0o555, file: 0o444 };
/// Extensions of the configuration were those of the system before this version.
const CONFIGURATION: u16 = 256;
/// Where all of it comes to lie in the initrd.
const EXTRA: &str = ".extra";
/// Longest name that is taken, in characters.
const LONGEST: usize = 255;
/// Most bytes of sidecars of one kind, and of add-ons in one directory: more than a partition for them has room for. Entries
/// of a damaged one may lead to the same file again and again.
const MOST: usize = 1 << 30;

/// A kind of sidecar.
struct Kind {
    what: &'static str,
    /// `None`: beside the UKI.
    directory: Option<&'static str>,
    suffix: &'static str,
    but_not: Option<&'static str>,
    to: &'static str,
    modes: Modes,
    pcr: u8,
    since: u16,
}

const KINDS: [Kind; 4] = [
    Kind {
        what: "credentials",
        directory: None,
        suffix: ".cred",
        but_not: None,
        to: ".extra/credentials",
        modes: SECRET,
        pcr: 12,
        since: 0,
    },
    Kind {
        what: "global credentials",
        directory: Some("/loader/credentials"),
        suffix: ".cred",
        but_not: None,
        to: ".extra/global_credentials",
        modes: SECRET,
        pcr: 12,
        since: 0,
    },
    Kind {
        what: "system extensions",
        directory: None,
        suffix: ".raw",
        but_not: Some(".confext.raw"),
        to: ".extra/sysext",
        modes: OPEN,
        pcr: 13,
        since: 0,
    },
    Kind {
        what: "configuration extensions",
        directory: None,
        suffix: ".confext.raw",
        but_not: None,
        to: ".extra/confext",
        modes: OPEN,
        pcr: 12,
        since: CONFIGURATION,
    },
];

/// Sections that are packed into files for userspace, unmeasured: since which version, and under which name.
const EMBEDDED: [(&str, u16, &str); 4] = [
    (".pcrsig", 0, "tpm2-pcr-signature.json"),
    (".pcrpkey", 0, "tpm2-pcr-public-key.pem"),
    (".osrel", 257, "os-release"),
    (".profile", 257, "profile"),
];

/// Sections of the UKI that go into its initrd, with the names that they get there.
fn embedded(image: &PeImage<'_>, version: u16) -> impl Iterator<Item = (&'static str, &'static str)> {
    let there = move |name| image.section(name).is_some_and(|data| !data.is_empty());
    EMBEDDED
        .iter()
        .filter(move |(name, since, _)| version >= *since && there(name))
        .map(|(name, _, to)| (*name, *to))
}

/// Whether something of the UKI itself comes before or after its own initrd.
pub(super) fn surround(image: &PeImage<'_>, version: u16) -> bool {
    version >= super::MICROCODE && image.section(".ucode").is_some()
        || embedded(image, version).next().is_some()
}

/// The names in `directory` that count, in the order in which they do.
pub(super) fn names(
    chain: &Chain<'_>,
    directory: &str,
    suffix: &str,
    but_not: Option<&str>,
) -> Result<Vec<String>, Error> {
    let ends = |name: &str, end: &str| name.to_ascii_lowercase().ends_with(end);
    let mut names: Vec<String> = chain
        .target
        .esp
        .list(directory)?
        .unwrap_or_default()
        .into_iter()
        .filter(|entry| entry.kind != EntryKind::Directory)
        .map(|entry| entry.name)
        .filter(|name| name.is_ascii() && name.len() <= LONGEST && !name.starts_with('.'))
        .filter(|name| ends(name, suffix) && !but_not.is_some_and(|end| ends(name, end)))
        .collect();
    names.sort();
    Ok(names)
}

/// Packs and measures what lies beside the UKI; gives the initrd that the kernel gets, and where it came from.
pub(super) fn initrd(
    chain: &mut Chain<'_>,
    image: &PeImage<'_>,
    (file, bytes): (&str, &Bytes),
    beside: &str,
    version: u16,
    addons: &Addons,
) -> Result<(Bytes, Origin), Error> {
    let section = |name: &str| image.section(name).filter(|data| !data.is_empty());
    let own = |name: &str| section(name).map(|data| bytes.slice_ref(data));
    let mut parts: Vec<Bytes> = Vec::new();
    let mut from = vec![".initrd".to_owned()];
    let mut sidecars = Vec::new();
    for kind in KINDS.iter().filter(|kind| version >= kind.since) {
        let but_not = kind.but_not.filter(|_| version >= CONFIGURATION);
        let directory = kind.directory.unwrap_or(beside);
        let names = names(chain, directory, kind.suffix, but_not)?;
        let files = read(chain, directory, &names)?;
        if files.is_empty() {
            continue;
        }
        let names: Vec<&str> = files.iter().map(|(path, _)| file_name(path)).collect();
        let packed = pack(chain, kind, &files);
        let origin = format!("esp:{directory}/{}", names.join(" + "));
        chain.measure_part(
            Stage::Stub,
            kind.pcr,
            kind::IPL,
            &packed,
            kind.what,
            Origin::File(origin.clone()),
        );
        sidecars.push(packed);
        from.push(origin);
    }
    for (origin, microcode) in addons.microcode.iter().rev() {
        measure_addon(chain, origin, "microcode of an add-on", microcode);
        parts.push(microcode.clone());
        from.push(origin.to_string());
    }
    if version >= super::MICROCODE {
        parts.extend(own(".ucode"));
    }
    parts.extend(own(".initrd"));
    parts.extend(sidecars);
    for (name, to) in embedded(image, version) {
        let Some(data) = own(name) else { continue };
        let pack = || archive(EXTRA, OPEN, &[(to, &data[..])]).into();
        parts.push(chain.memo.made(std::slice::from_ref(&data), to, pack));
        from.push(name.to_owned());
    }
    for (origin, initrd) in &addons.initrds {
        measure_addon(chain, origin, "initrd of an add-on", initrd);
        parts.push(initrd.clone());
        from.push(origin.to_string());
    }
    let whole = match &parts[..] {
        [] => Bytes::new(),
        [one] => one.clone(),
        _ => chain.memo.made(&parts, "initrd of a UKI", || joined(&parts)),
    };
    chain.memo.begin_initrd(&whole);
    chain.memo.begin_digests(&chain.target.tpm.banks, &whole);
    Ok((whole, Origin::Part { file: file.to_owned(), part: from.join(" + ") }))
}

fn measure_addon(chain: &mut Chain<'_>, origin: &Origin, what: &str, data: &Bytes) {
    chain.measure_part(Stage::Stub, 12, kind::EVENT_TAG, data, what, origin.clone());
}

/// The archive of these files, which come with their paths.
fn pack(chain: &Chain<'_>, kind: &Kind, files: &[(String, Bytes)]) -> Bytes {
    let contents: Vec<Bytes> = files.iter().map(|(_, bytes)| bytes.clone()).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (file_name(path), &bytes[..])).collect();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let how = format!("{}/{}", kind.to, names.join("/"));
    chain.memo.made(&contents, &how, || archive(kind.to, kind.modes, &files).into())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The files of these names in `directory` that are there, with their paths.
///
/// # Errors
/// When they cannot be read, or are more than there is room for.
pub(super) fn read(
    chain: &Chain<'_>,
    directory: &str,
    names: &[String],
) -> Result<Vec<(String, Bytes)>, Error> {
    let (mut files, mut total) = (Vec::new(), 0usize);
    for name in names {
        let path = format!("{directory}/{name}");
        let Some(bytes) = chain.target.esp.read(&path)? else { continue };
        total = total.saturating_add(bytes.len());
        if total > MOST {
            let why = format!("the files in {directory} are more than an EFI system partition has room for");
            return Err(VolumeError(why).into());
        }
        files.push((path, bytes));
    }
    Ok(files)
}

/// One after the other, each filled up to four bytes.
fn joined(parts: &[Bytes]) -> Bytes {
    let mut whole = Vec::with_capacity(parts.iter().map(|part| part.len().next_multiple_of(4)).sum());
    for part in parts {
        whole.extend_from_slice(part);
        whole.resize(whole.len().next_multiple_of(4), 0);
    }
    whole.into()
}
