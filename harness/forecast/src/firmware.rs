//! OVMF: what is measured before the boot loader starts, which boot loader starts, and what follows when the kernel
//! ends boot services.
//!
//! Sources: edk2 `SecurityPkg/Tcg/Tcg2Pei`, `SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c` (order of events, actions, separators),
//! `SecurityPkg/Library/DxeTpm2MeasureBootLib` (partition table, images),
//! `SecurityPkg/Library/DxeImageVerificationLib` (databases); TCG PC Client Platform Firmware Profile, section 10.4.

mod before;
mod image;
mod options;
mod place;

use std::collections::VecDeque;

pub use image::{Error as FirmwareError, FirmwareImage, unpack};
pub(crate) use options::{add, encode, file_path, find, order, set_order};

use bytes::Bytes;
use latchkey_disk::gpt::{Partition, kind as partition_kind};
use latchkey_disk::varstore::{SecureBoot, VariableId, vendor};
use latchkey_measure::siglist::{SHA256, SignatureEntry, X509, X509_SHA256};
use latchkey_measure::{SignatureDb, shim};
use latchkey_record::pcr::{Digest, HashAlg};
use latchkey_record::{Certainty, Origin, Outcome, Stage};
use uuid::Uuid;

use crate::chain::{Image, kind};
use crate::trust::{Checked, authority, database, signature_data, variable_data};
use crate::{Chain, End, Error, Next};
use options::{BootOption, Shell};
use place::Place;

/// What the firmware starts from a disk without an option for a file (UEFI 2.10, section 3.5.1.1).
const DEFAULT: &str = "/EFI/BOOT/BOOTX64.EFI";
const CALLING: &str = "Calling EFI Application from Boot Option";
const RETURNING: &str = "Returning from EFI Application from Boot Option";
const SEPARATOR: [u8; 4] = [0; 4];
/// Bytes of a GPT header and of one entry (UEFI 2.10, section 5.3).
const GPT_HEADER: usize = 92;
const GPT_ENTRY: usize = 128;
const SECTOR: usize = 512;
/// `EV_PLATFORM_CONFIG_FLAGS`.
const PLATFORM_CONFIG_FLAGS: u32 = 0xa;
/// How many "ACPI DATA" events builds with a version string make.
const ACPI_TABLES: usize = 4;

fn global(name: &str) -> VariableId {
    VariableId::new(name, vendor::GLOBAL)
}

pub(crate) fn db() -> VariableId {
    VariableId::new("db", vendor::IMAGE_SECURITY)
}

pub(crate) fn dbx() -> VariableId {
    VariableId::new("dbx", vendor::IMAGE_SECURITY)
}

/// Certificates of those who say when something was signed.
fn dbt() -> VariableId {
    VariableId::new("dbt", vendor::IMAGE_SECURITY)
}

fn constant(what: &str) -> Origin {
    Origin::Constant(what.to_owned())
}

/// From power-on to the start of a boot loader.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn start(chain: &mut Chain<'_>) -> Result<Next, Error> {
    volumes(chain);
    secure_boot_variables(chain);
    // Builds that say their version (2025.02) also measure ACPI tables.
    if is_recent(chain) {
        for _ in 0..ACPI_TABLES {
            let open = Certainty::Open("ACPI tables are made by QEMU".into());
            let from = Origin::Firmware("ACPI tables".into());
            chain.push(Stage::Firmware, 1, PLATFORM_CONFIG_FLAGS, vec![], "ACPI DATA", from, open);
        }
    }
    let shell = Shell::of(chain.target.firmware);
    let mut variables = chain.variables.clone();
    let leads = |option: &BootOption| leads_somewhere(chain, option);
    let options = options::refresh(&mut variables, chain.target.platform.disk, shell, leads)?;
    chain.variables = variables;
    boot_variables(chain, &options);
    before::programs(chain);
    if let Some(end) = before::wished(chain) {
        return Ok(Next::End(end));
    }
    let next = once(chain, &options);
    let ordered = options.iter().filter(|option| option.is_tried()).cloned();
    chain.firmware.untried = next.into_iter().chain(ordered).collect();
    try_options(chain, None)
}

/// Whether it is a build that says its version, 2025.02 and not 2022.11.
fn is_recent(chain: &Chain<'_>) -> bool {
    chain.target.firmware.version().is_some()
}

fn volumes(chain: &mut Chain<'_>) {
    let firmware = chain.target.firmware;
    let part = |name: &str| Origin::Firmware(name.to_owned());
    let crtm = part("version");
    chain.measure(Stage::Firmware, 0, kind::CRTM_VERSION, &firmware.crtm_version, "firmware version", crtm);
    let pei: Vec<Digest> = chain.target.platform.pei_volume.clone();
    let certainty = if pei.is_empty() {
        Certainty::Open("the PEI volume in memory was not measured".into())
    } else {
        Certainty::Measured
    };
    let blob = kind::PLATFORM_FIRMWARE_BLOB;
    chain.push(Stage::Firmware, 0, blob, pei, "PEI volume", part("PEI volume in memory"), certainty);
    let known = |alg| firmware.dxe_digests.iter().find(|digest| digest.alg() == alg).cloned();
    let digest = |alg: &HashAlg| known(*alg).unwrap_or_else(|| chain.memo.digest(*alg, &firmware.dxe_volume));
    let dxe = chain.target.tpm.banks.iter().map(digest).collect();
    chain.push(Stage::Firmware, 0, blob, dxe, "DXE volume", part("DXE volume"), Certainty::Computed);
}

fn secure_boot_variables(chain: &mut Chain<'_>) {
    let on = u8::from(chain.secure_boot() == SecureBoot::On);
    let stored = |chain: &Chain<'_>, id: &VariableId| {
        chain.variables.get(id).map(|variable| variable.data.clone()).unwrap_or_default()
    };
    for id in [global("SecureBoot"), global("PK"), global("KEK"), db(), dbx(), dbt()] {
        let value = if id.name == "SecureBoot" { vec![on] } else { stored(chain, &id) };
        // Of these, one that is not there or empty is not measured (`MeasureAllSecureVariables`).
        if id.name == "dbt" && value.is_empty() {
            continue;
        }
        let data = variable_data(&id, &value);
        let from = Origin::Variable(id.name.clone());
        chain.measure(Stage::Firmware, 7, kind::VARIABLE_DRIVER_CONFIG, &data, &id.name, from);
    }
    separator(chain, 7);
}

fn separator(chain: &mut Chain<'_>, pcr: u8) {
    chain.measure(Stage::Firmware, pcr, kind::SEPARATOR, &SEPARATOR, "separator", constant("separator"));
}

/// The order and the options in it: over the variables' values alone.
fn boot_variables(chain: &mut Chain<'_>, options: &[BootOption]) {
    let order = chain.variables.get(&global("BootOrder")).map(|v| v.data.clone()).unwrap_or_default();
    let from = |name: &str| Origin::Variable(name.to_owned());
    chain.measure(Stage::Firmware, 1, kind::VARIABLE_BOOT, &order, "BootOrder", from("BootOrder"));
    for option in options {
        let name = format!("Boot{:04X}", option.number);
        let what = format!("{name}, {}", option.title);
        chain.measure(Stage::Firmware, 1, kind::VARIABLE_BOOT, &option.data, &what, from(&name));
    }
}

fn action(chain: &mut Chain<'_>, text: &str) {
    chain.measure(Stage::Firmware, 4, kind::ACTION, text.as_bytes(), text, constant("boot option"));
}

/// The option that `BootNext` asks for, active or not, which is tried before the order and then forgotten (edk2
/// `MdeModulePkg/Universal/BdsDxe/BdsEntry.c`). It is not measured.
fn once(chain: &mut Chain<'_>, options: &[BootOption]) -> Option<BootOption> {
    let id = global("BootNext");
    let data = chain.variables.get(&id)?.data.clone();
    chain.variables.remove(&id);
    chain.leaves("BootNext", "used up");
    let number = u16::from_le_bytes(data.try_into().ok()?);
    let ordered = options.iter().find(|option| option.number == number).cloned();
    // One that is not in the order counts here, is not brought up to date and not measured into PCR 1.
    ordered.or_else(|| options::read(&chain.variables, number, chain.target.platform.disk))
}

/// What the firmware knows of one start of the machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Started {
    /// Options that it has not tried yet.
    untried: VecDeque<BootOption>,
    /// How many it has tried.
    tried: usize,
    /// Why it refused one.
    refused: Option<String>,
    /// Authorities that it has measured: each once.
    seen: Vec<Digest>,
    /// Whether it waits in a program of its own.
    waits: bool,
    /// Whether it has tried what it starts when no option leads anywhere.
    recovered: bool,
    /// Whether it has measured the partition table, which it does before the first program from the disk.
    table: Table,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Table {
    #[default]
    ToMeasure,
    Measured,
}

/// Whether there is a file where an option for one leads.
fn leads_somewhere(chain: &Chain<'_>, option: &BootOption) -> Result<bool, Error> {
    match esp(chain).and_then(|esp| option.place.file_on(esp)) {
        Some(path) => Ok(chain.target.esp.read(path)?.is_some()),
        None => Ok(false),
    }
}

/// A boot loader returned: the next option is tried.
pub(crate) fn again(chain: &mut Chain<'_>, why: String) -> Result<Next, Error> {
    try_options(chain, Some(why))
}

/// Tries one option after the other until one starts; `returned` is what the last one came back with.
fn try_options(chain: &mut Chain<'_>, returned: Option<String>) -> Result<Next, Error> {
    while let Some(option) = chain.firmware.untried.pop_front() {
        attempt(chain);
        let path = match &option.place {
            Place::Inside(name) => {
                inside(chain, &option, *name);
                // Its shell ends at once where Secure Boot is on.
                chain.firmware.waits = chain.secure_boot() == SecureBoot::Off;
                break;
            }
            Place::Disk => DEFAULT.to_owned(),
            place @ (Place::File { .. } | Place::Anywhere(_)) => {
                match esp(chain).and_then(|esp| place.file_on(esp)) {
                    Some(path) => path.to_owned(),
                    None => continue,
                }
            }
            Place::Unnamed | Place::Elsewhere => {
                let what = format!("Boot{:04X}, {}", option.number, option.title);
                let why = "where it leads, and whether anything is there, is not modelled";
                chain.unmodelled(Stage::Firmware, &what, why, &[4, 7]);
                let because = format!("{what}: {why}");
                return Ok(Next::End(End { outcome: None, because, reported_by: None }));
            }
        };
        let Some(bytes) = chain.target.esp.read(&path)? else { continue };
        let image = Image { path, bytes, options: option.optional.clone() };
        match start_image(chain, image) {
            Ok(next) => return Ok(next),
            Err(why) => chain.firmware.refused = Some(why),
        }
    }
    if let Some(next) = recover(chain)? {
        return Ok(next);
    }
    Ok(Next::End(match (returned, chain.firmware.refused.take()) {
        (Some(because), _) => End { outcome: Some(Outcome::NoBootOption), because, reported_by: None },
        (None, Some(because)) => {
            End { outcome: Some(Outcome::RefusedByFirmware), because, reported_by: Some("firmware") }
        }
        (None, None) => End {
            outcome: Some(Outcome::NoBootOption),
            because: "no boot option leads to a program that is there".into(),
            reported_by: None,
        },
    }))
}

/// What is measured before an option is tried (edk2 `Tcg2Dxe.c`, `OnReadyToBoot`).
fn attempt(chain: &mut Chain<'_>) {
    if chain.firmware.tried == 0 {
        action(chain, CALLING);
        (0..=6).for_each(|pcr| separator(chain, pcr));
    } else {
        action(chain, RETURNING);
        action(chain, CALLING);
    }
    chain.firmware.tried += 1;
}

/// `PlatformRecovery0000`: after the last option the removable-media path once more. Builds before 2024.02 say no word in PCR 4
/// about it (edk2 `BmLoadOption.c`, `EfiBootManagerProcessLoadOption`; found by booting `fallback-missing` on both).
fn recover(chain: &mut Chain<'_>) -> Result<Option<Next>, Error> {
    let started = &mut chain.firmware;
    if started.waits || std::mem::replace(&mut started.recovered, true) {
        return Ok(None);
    }
    if is_recent(chain) {
        attempt(chain);
    }
    if esp(chain).is_none() {
        return Ok(None);
    }
    let Some(bytes) = chain.target.esp.read(DEFAULT)? else { return Ok(None) };
    let image = Image { path: DEFAULT.to_owned(), bytes, options: Vec::new() };
    match start_image(chain, image) {
        Ok(next) => Ok(Some(next)),
        Err(why) => {
            chain.firmware.refused.get_or_insert(why);
            Ok(None)
        }
    }
}

/// A program of the firmware's own, which then waits for somebody.
fn inside(chain: &mut Chain<'_>, option: &BootOption, name: Uuid) {
    let program = chain.target.firmware.program(name);
    let from = Origin::Firmware(option.title.clone());
    let measured = program.map(|program| chain.measure_image(Stage::Firmware, &program, &option.title, from));
    if !matches!(measured, Some(Ok(()))) {
        chain.unmodelled(Stage::Firmware, &option.title, "the firmware's file has no such program", &[4]);
    }
}

/// The EFI system partition.
pub(crate) fn esp<'a>(chain: &Chain<'a>) -> Option<&'a Partition> {
    chain.target.partitions.find(partition_kind::ESP)
}

/// Verifies, measures and starts a boot loader; the error says why it was refused.
pub(crate) fn start_image(chain: &mut Chain<'_>, image: Image) -> Result<Next, String> {
    load(chain, &image, "boot loader")?;
    Ok(program(chain, image))
}

/// Whether an image may run: each signature, and after each the image's hash, by dbx and then by db; of one that has no
/// signatures the hash alone. Who vouches for it is measured even where its hash is found in dbx afterwards (edk2,
/// `DxeImageVerificationLib.c`, `DxeImageVerificationHandler`, `HashPeImageByType`).
fn judge(chain: &mut Chain<'_>, checked: &Checked<'_>) -> Result<(), String> {
    let (forbidden, trusted) = (database(chain, &dbx()), database(chain, &db()));
    if forbidden.lists().iter().any(|list| list.kind() == X509_SHA256) {
        let why = "certificates that are forbidden by their hash, from a day on, are not modelled";
        chain.unmodelled(Stage::Firmware, "dbx", why, &[4, 7]);
    }
    let known =
        |db: &SignatureDb| db.lists().iter().all(|list| [X509, SHA256, X509_SHA256].contains(&list.kind()));
    if !known(&forbidden) || !known(&trusted) {
        let why = "lists of anything but certificates and SHA-256 hashes are not modelled";
        chain.unmodelled(Stage::Firmware, "db, dbx", why, &[4, 7]);
    }
    let no = || Err("dbx forbids".to_owned());
    let mut vouched = false;
    for signature in &checked.signatures {
        // Of the image the firmware makes the hash that was signed, and looks for that one alone.
        let name = signature.digest_name();
        let by_hash = |database| checked.by_hash(database).filter(|_| name == "sha256");
        if name == "sha1" {
            let why = "a signature over a SHA-1 hash counts only where the firmware still has SHA-1";
            chain.unmodelled(Stage::Firmware, "signature", why, &[4, 7]);
        }
        if checked.by(signature, &forbidden).is_some() {
            return no();
        }
        if !vouched && let Some(entry) = checked.by(signature, &trusted) {
            vouch(chain, entry);
            vouched = true;
        }
        if by_hash(&forbidden).is_some() {
            return no();
        }
        if !vouched && let Some(entry) = by_hash(&trusted) {
            vouch(chain, entry);
            vouched = true;
        }
    }
    let named = |database: &SignatureDb| checked.by_hash(database).is_some();
    if checked.has_unreadable && (named(&forbidden) || named(&trusted)) {
        let why = "whether an image's hash counts beside a signature that cannot be read is not modelled";
        chain.unmodelled(Stage::Firmware, "signature", why, &[4, 7]);
    }
    if checked.signatures.is_empty() && !checked.has_unreadable {
        if checked.by_hash(&forbidden).is_some() {
            return no();
        }
        if let Some(entry) = checked.by_hash(&trusted) {
            vouch(chain, entry);
            vouched = true;
        }
    }
    if vouched { Ok(()) } else { Err("nothing in db vouches for".into()) }
}

fn vouch(chain: &mut Chain<'_>, entry: &SignatureEntry) {
    let mut seen = std::mem::take(&mut chain.firmware.seen);
    let from = Origin::Variable("db".into());
    authority(chain, Stage::Firmware, &mut seen, &db(), &signature_data(entry), from);
    chain.firmware.seen = seen;
}

/// Verifies and measures an image; the error says why it was refused.
pub(crate) fn load(chain: &mut Chain<'_>, image: &Image, what: &str) -> Result<(), String> {
    load_bytes(chain, &format!("esp:{}", image.path), &image.bytes, what)
}

/// As [`load`], of a file on any volume, or handed over in memory.
pub(crate) fn load_bytes(chain: &mut Chain<'_>, file: &str, bytes: &Bytes, what: &str) -> Result<(), String> {
    let checked = Checked::new(chain, bytes).ok_or_else(|| format!("{file} is no PE image"))?;
    if chain.secure_boot() == SecureBoot::On {
        judge(chain, &checked).map_err(|why| format!("{why} {file}"))?;
    }
    if std::mem::replace(&mut chain.firmware.table, Table::Measured) == Table::ToMeasure {
        match partition_table(chain.target.table) {
            Some(data) => {
                chain.measure(
                    Stage::Firmware,
                    5,
                    kind::GPT,
                    &data,
                    "partition table",
                    Origin::PartitionTable,
                );
            }
            None => chain.unmodelled(Stage::Firmware, "partition table", "it is no usable GPT", &[5]),
        }
    }
    checked.measure(chain, Stage::Firmware, what, file);
    Ok(())
}

/// What runs once a boot loader was started.
pub(crate) fn program(chain: &mut Chain<'_>, image: Image) -> Next {
    if shim::version(&image.bytes).is_some() {
        return Next::Shim(image);
    }
    let file = format!("esp:{}", image.path);
    chain.unmodelled(Stage::Firmware, &file, "a boot loader other than shim is not modelled", &[4, 7, 14]);
    let because = format!("{file} is no shim, and nothing else is modelled in its place");
    Next::End(End { outcome: None, because, reported_by: None })
}

/// `UEFI_GPT_DATA` (TCG PC Client Platform Firmware Profile, section 10.2.5): header, number of partitions in use, and
/// their entries.
fn partition_table(sectors: &[u8]) -> Option<Vec<u8>> {
    let header = sectors.get(SECTOR..SECTOR + GPT_HEADER)?;
    let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
    let (count, size) = (usize::try_from(field(80)).ok()?, usize::try_from(field(84)).ok()?);
    if header.get(..8) != Some(b"EFI PART") || size != GPT_ENTRY {
        return None;
    }
    let start = usize::try_from(u64::from_le_bytes(header.get(72..80)?.try_into().ok()?))
        .ok()?
        .checked_mul(SECTOR)?;
    let entries = sectors.get(start..start.checked_add(count.checked_mul(size)?)?)?;
    let used: Vec<&[u8]> =
        entries.chunks_exact(size).filter(|entry| entry[..16].iter().any(|b| *b != 0)).collect();
    let mut data = header.to_vec();
    data.extend((used.len() as u64).to_le_bytes());
    used.iter().for_each(|entry| data.extend(*entry));
    Some(data)
}

/// What the firmware measures when the kernel ends boot services.
pub fn exit_boot_services(chain: &mut Chain<'_>) {
    for text in ["Exit Boot Services Invocation", "Exit Boot Services Returned with Success"] {
        chain.measure(
            Stage::Firmware,
            5,
            kind::ACTION,
            text.as_bytes(),
            text,
            constant("end of boot services"),
        );
    }
}
