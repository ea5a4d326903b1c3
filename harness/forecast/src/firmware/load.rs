//! An image that the firmware is to start: verified, measured, and what it is.

use bytes::Bytes;
use latchkey_disk::varstore::SecureBoot;
use latchkey_measure::pe::TableEnd;
use latchkey_measure::siglist::{SHA256, SignatureEntry, X509, X509_SHA256};
use latchkey_measure::{SignatureDb, shim};
use latchkey_record::{Origin, Stage};

use super::{db, dbx};
use crate::chain::{Image, kind};
use crate::trust::{Checked, authority, database, hangs_on, say_unreadable, signature_data};
use crate::{Chain, End, Next};

/// Bytes of a GPT header and of one entry (UEFI 2.10, section 5.3).
const GPT_HEADER: usize = 92;
const GPT_ENTRY: usize = 128;
const SECTOR: usize = 512;

/// Whether the partition table was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Table {
    #[default]
    ToMeasure,
    Measured,
}

/// Verifies, measures and starts a boot loader; the error says why it was refused.
pub(crate) fn start_image(chain: &mut Chain<'_>, image: Image) -> Result<Next, String> {
    load(chain, &image, "boot loader")?;
    Ok(program(chain, image))
}

/// Whether an image may run: each signature, and after each the image's hash, by dbx and then by db; of one that has no
/// signatures the hash alone. Who vouches for it is measured even where its hash is found in dbx afterwards, or the table of
/// signatures does not end as it should (edk2, `DxeImageVerificationLib.c`, `DxeImageVerificationHandler`,
/// `HashPeImageByType`).
fn judge(chain: &mut Chain<'_>, checked: &Checked<'_>) -> Result<(), String> {
    for id in [db(), dbx()] {
        say_unreadable(chain, Stage::Firmware, &id);
    }
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
    for signature in checked.for_firmware() {
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
    if checked.end != TableEnd::Filled {
        return Err("the table of signatures does not end with a whole one in".into());
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
    // What the rest of the other database has makes no difference.
    hangs_on(chain, Stage::Firmware, &if vouched { dbx() } else { db() });
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
