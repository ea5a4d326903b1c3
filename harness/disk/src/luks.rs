//! A LUKS2 header: which keyslots there are, which tokens can fill them, what is encrypted and how.
//!
//! Read only; changing a header is the business of libcryptsetup. Nothing in a header is secret by itself, but a
//! token's contents are kept as they are, sealed blobs included.
//!
//! Source: "LUKS2 On-Disk Format Specification" 1.1.2, chapters 2 (binary header, checksum) and 3 (JSON area).

mod metadata;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use metadata::{Metadata, RawKeyslot};

/// What a partition must have free at its end, in bytes, so that its data can be encrypted in place: half of it becomes the
/// header, half is the room in which data are shifted. Azure's provisioning takes the same (cvmutils,
/// `--reduce-device-size 32768k`).
pub const ROOM: u64 = 32 << 20;

/// Bytes of the binary header.
const BINARY: usize = 4096;
/// Where the checksum lies in it, 64 bytes.
const CHECKSUM: std::ops::Range<usize> = 448..512;
/// Sizes of binary header and JSON area together that the specification allows; the second header starts there.
const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// Most keyslots, tokens and segments (libcryptsetup, `lib/luks2/luks2.h`: `LUKS2_KEYSLOTS_MAX`, `LUKS2_TOKENS_MAX`,
/// `LUKS2_SEGMENT_MAX`).
const MOST: usize = 32;
/// Most values of the metadata. Each takes many times the room in memory that it takes on the disk; whole headers have some
/// hundred.
const MOST_VALUES: usize = 65_536;

/// Priorities of keyslots: those to be tried first, and those to be tried at all (libcryptsetup.h,
/// `crypt_keyslot_priority`).
const PREFERRED: u32 = 2;
const NORMAL: u32 = 1;

/// What a keyslot is of that holds a key of the volume's data.
const OF_DATA: &str = "luks2";

/// The type of systemd's tokens for a TPM.
pub const TPM2: &str = "systemd-tpm2";
/// The types of systemd's tokens.
const OF_SYSTEMD: [&str; 4] = ["systemd-recovery", "systemd-pkcs11", "systemd-fido2", TPM2];

/// Why there is no usable LUKS2 header.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("reading a LUKS header: {0}")]
    Read(#[from] io::Error),
    /// Not encrypted with LUKS.
    #[error("the partition has no LUKS header")]
    None,
    /// The older format.
    #[error(
        "the partition has a LUKS1 header, which knows no tokens; convert it: cryptsetup convert --type luks2"
    )]
    Luks1,
    /// Both copies are damaged.
    #[error(
        "the LUKS2 header is damaged, and so is its copy: {why}; restore it from a backup: cryptsetup luksHeaderRestore"
    )]
    Damaged {
        /// What is wrong with the first one.
        why: String,
    },
}

/// A LUKS2 header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The volume's UUID as text.
    pub uuid: String,
    /// Its label, often empty.
    pub label: String,
    /// Raised with every change; of two copies the higher one counts.
    pub sequence: u64,
    /// Which copy was read.
    pub copy: Copy,
    /// Keyslots by number.
    pub keyslots: BTreeMap<u32, Keyslot>,
    /// Tokens by number, in the order in which the header's JSON has them.
    pub tokens: IndexMap<u32, Token>,
    /// What is encrypted, by number.
    pub segments: BTreeMap<u32, Segment>,
    /// What a reader must understand, e.g. `online-reencrypt-v2` while a re-encryption is not finished.
    pub requirements: Vec<String>,
}

/// Which copy of a header was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Copy {
    /// The one at the start.
    Primary,
    /// The one after it, since the first is damaged or older.
    Secondary,
}

/// A keyslot: the volume key, wrapped by a passphrase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyslot {
    /// `luks2`; `luks2 (unbound)`, as `cryptsetup luksDump` has it, for one that holds a key of something else than the
    /// volume's data; `reencrypt` for the state of an unfinished re-encryption.
    pub kind: String,
    /// Bytes of the wrapped key.
    pub key_size: u32,
    /// How a passphrase becomes a key: `pbkdf2`, `argon2i` or `argon2id`; empty when there is none.
    pub kdf: String,
    /// How often (pbkdf2) or how long (argon2) that takes.
    pub iterations: u64,
    /// 0 never tried by itself, 1 normal, 2 first.
    pub priority: u32,
}

/// A token: how to come by the passphrase of a keyslot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// e.g. `systemd-tpm2`, `systemd-recovery`.
    pub kind: String,
    /// The keyslots it can fill.
    pub keyslots: Vec<u32>,
    /// Everything else, as its writer stored it.
    pub contents: Map<String, Value>,
}

/// A part of the device that is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// `crypt`, or `linear` for a part that is not encrypted.
    pub kind: String,
    /// First byte on the device.
    pub offset: u64,
    /// Size in bytes; `None` means up to the device's end.
    pub size: Option<u64>,
    /// e.g. `aes-xts-plain64`; empty for `linear`.
    pub encryption: String,
    /// Bytes that are encrypted at once.
    pub sector_size: u32,
}

impl Token {
    /// The PCRs a `systemd-tpm2` token is sealed to, ascending as stored; empty for other tokens.
    #[must_use]
    pub fn pcrs(&self) -> Vec<u32> {
        self.numbers("tpm2-pcrs")
    }

    /// The numbers in the list that `field` is; none where it is no list.
    pub(crate) fn numbers(&self, field: &str) -> Vec<u32> {
        let stored = self.contents.get(field).and_then(Value::as_array);
        stored.into_iter().flatten().filter_map(Value::as_u64).filter_map(|n| u32::try_from(n).ok()).collect()
    }

    /// The bank those PCRs are in, as the token names it.
    #[must_use]
    pub fn pcr_bank(&self) -> Option<&str> {
        self.contents.get("tpm2-pcr-bank").and_then(Value::as_str)
    }
}

impl Header {
    /// Reads the header at the start of `device`, or its second copy when the first is damaged or older.
    ///
    /// # Errors
    /// [`Error`] says what is there instead.
    pub fn read<D: Read + Seek>(device: &mut D) -> Result<Self, Error> {
        let primary = read_copy(device, 0, Copy::Primary)?;
        if let Ok(header) = &primary {
            let second = read_copy(device, header.1, Copy::Secondary)?;
            let newer = second.ok().filter(|(copy, _)| copy.sequence > header.0.sequence);
            return Ok(newer.unwrap_or_else(|| header.clone()).0);
        }
        for at in SIZES {
            if let Ok((header, _)) = read_copy(device, at, Copy::Secondary)? {
                return Ok(header);
            }
        }
        match primary {
            Ok((header, _)) => Ok(header),
            Err(Damage::Luks1) => Err(Error::Luks1),
            Err(Damage::NoMagic) => Err(Error::None),
            Err(Damage::Other(why)) => Err(Error::Damaged { why }),
        }
    }

    /// Whether there is a keyslot of this number which holds a key of the volume's data.
    #[must_use]
    pub fn opens(&self, keyslot: u32) -> bool {
        self.keyslots.get(&keyslot).is_some_and(|slot| slot.kind == OF_DATA)
    }

    /// Keyslots of the volume's data that none of systemd's tokens fills: what systemd takes for those of a passphrase
    /// (`src/cryptsetup/cryptsetup.c`, `check_registered_passwords`).
    #[must_use]
    pub fn passphrase_keyslots(&self) -> Vec<u32> {
        let own = self.tokens.values().filter(|token| OF_SYSTEMD.contains(&token.kind.as_str()));
        let filled: Vec<u32> = own.flat_map(|token| token.keyslots.iter().copied()).collect();
        self.keyslots.keys().copied().filter(|n| self.opens(*n) && !filled.contains(n)).collect()
    }

    /// The tokens in the order in which libcryptsetup tries them when it may try any: first those that fill a
    /// preferred keyslot, then all others but those that fill none that may be tried or none of the volume's data; each time
    /// as the header's JSON has them (cryptsetup 2.6, `lib/luks2/luks2_token.c`, `token_open_any`, `token_is_usable`). Which
    /// of two volume keys a keyslot holds, while a re-encryption is not finished, is not told.
    #[must_use]
    pub fn tokens_tried(&self) -> Vec<(u32, &Token)> {
        let mut tried: IndexMap<u32, &Token> = IndexMap::new();
        for least in [PREFERRED, NORMAL] {
            let is_for = |slot: &u32| self.keyslots.get(slot).is_some_and(|slot| slot.priority >= least);
            let may = |slot: &u32| self.opens(*slot) && is_for(slot);
            let tokens = self.tokens.iter().filter(|(_, token)| token.keyslots.iter().any(may));
            tried.extend(tokens.map(|(number, token)| (*number, token)));
        }
        tried.into_iter().collect()
    }
}

enum Damage {
    NoMagic,
    Luks1,
    Other(String),
}

/// A header and its size (binary header and JSON area); the inner error says what is wrong with this copy.
type Read1 = Result<(Header, u64), Damage>;

fn read_copy<D: Read + Seek>(device: &mut D, at: u64, copy: Copy) -> io::Result<Read1> {
    let Some(mut bytes) = read_at(device, at, BINARY)? else { return Ok(Err(Damage::NoMagic)) };
    let magic: &[u8] = match copy {
        Copy::Primary => b"LUKS\xba\xbe",
        Copy::Secondary => b"SKUL\xba\xbe",
    };
    if !bytes.starts_with(magic) {
        return Ok(Err(Damage::NoMagic));
    }
    match u16::from_be_bytes([bytes[6], bytes[7]]) {
        2 => {}
        1 => return Ok(Err(Damage::Luks1)),
        other => return Ok(Err(Damage::Other(format!("its version is {other}")))),
    }
    let size = u64_at(&bytes, 8);
    if !SIZES.contains(&size) {
        return Ok(Err(Damage::Other(format!("its size is {size} bytes, which the format does not allow"))));
    }
    let json = usize::try_from(size).unwrap_or(BINARY) - BINARY;
    let Some(area) = read_at(device, at + BINARY as u64, json)? else {
        return Ok(Err(Damage::Other("the device ends within it".into())));
    };
    bytes.extend(area);
    Ok(parse(&bytes, copy).map(|header| (header, size)).map_err(Damage::Other))
}

fn read_at<D: Read + Seek>(device: &mut D, at: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
    device.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    device.take(len as u64).read_to_end(&mut bytes)?;
    Ok((bytes.len() == len).then_some(bytes))
}

/// Parses one copy: binary header and JSON area together.
fn parse(bytes: &[u8], copy: Copy) -> Result<Header, String> {
    let mut sealed = bytes.to_vec();
    sealed[CHECKSUM].fill(0);
    let digest = match text(&bytes[72..104]).as_str() {
        "sha1" => Sha1::digest(&sealed).to_vec(),
        "sha256" => Sha256::digest(&sealed).to_vec(),
        "sha512" => Sha512::digest(&sealed).to_vec(),
        other => return Err(format!("its checksum is of the unknown kind `{other}`")),
    };
    if bytes[CHECKSUM][..digest.len()] != digest {
        return Err("its checksum is wrong".into());
    }
    let area = &bytes[BINARY..];
    let end = area.iter().position(|b| *b == 0).unwrap_or(area.len());
    let area = &area[..end];
    if area.iter().filter(|b| **b == b',').count() > MOST_VALUES {
        return Err(format!("its metadata have more than {MOST_VALUES} values"));
    }
    let json: Metadata =
        serde_json::from_slice(area).map_err(|e| format!("its metadata cannot be read: {e}"))?;
    if json.keyslots.len().max(json.tokens.len()).max(json.segments.len()) > MOST {
        return Err(format!("its metadata have more than {MOST} keyslots, tokens or segments"));
    }
    // As `LUKS2_keyslot_info` tells it: no digest has the keyslot, or that one is of no segment.
    let bound: BTreeSet<&str> = json
        .digests
        .values()
        .filter(|digest| !digest.segments.is_empty())
        .flat_map(|digest| digest.keyslots.iter().map(String::as_str))
        .collect();
    let keyslot = |(n, raw): (u32, RawKeyslot)| {
        let mut slot = Keyslot::from(raw);
        if slot.kind == OF_DATA && !bound.contains(n.to_string().as_str()) {
            slot.kind.push_str(" (unbound)");
        }
        (n, slot)
    };
    let keyslots = json.keyslots.into_iter().map(keyslot).collect();
    Ok(Header {
        uuid: text(&bytes[168..208]),
        label: text(&bytes[24..72]),
        sequence: u64_at(bytes, 16),
        copy,
        keyslots,
        tokens: json.tokens.into_iter().map(|(n, token)| (n, token.into())).collect(),
        segments: json.segments.into_iter().map(|(n, segment)| (n, segment.into())).collect(),
        requirements: json.config.requirements.map(|r| r.mandatory).unwrap_or_default(),
    })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}
