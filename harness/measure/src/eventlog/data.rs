//! What an event's data says, for people.
//!
//! Layouts are those of the TCG PC Client Platform Firmware Profile ("PFP"), sections "Event Types" and
//! following. Data that is not what its type promises comes as [`Decoded::Bytes`]: the data is a description,
//! and only the digest counts.

mod words;

use uuid::Uuid;

use super::{Event, EventType, STARTUP_LOCALITY};
use crate::bytes::{guid_at, size_at, slice, u32_at, u64_at, units, utf16_text};
use crate::device_path;
use crate::variable_event::VariableEvent;

/// A partition of a measured partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptPartition {
    /// The type's GUID.
    pub kind: Uuid,
    /// The partition's own GUID.
    pub guid: Uuid,
    /// First block.
    pub first_lba: u64,
    /// Last block.
    pub last_lba: u64,
    /// Its name.
    pub name: String,
}

/// An event's data, taken apart. [`std::fmt::Display`] puts it into a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A UEFI variable (`EV_EFI_VARIABLE_*`).
    Variable(VariableEvent),
    /// An image that was started (`EV_EFI_BOOT_SERVICES_APPLICATION` and drivers; `UEFI_IMAGE_LOAD_EVENT`).
    Image {
        /// Where in memory.
        address: u64,
        /// Bytes in memory.
        length: u64,
        /// Where it was linked to.
        linked_at: u64,
        /// Where it came from, as text.
        path: String,
    },
    /// A disk's partition table (`UEFI_GPT_DATA`).
    Gpt {
        /// The disk's GUID.
        disk: Uuid,
        /// Its used partitions.
        partitions: Vec<GptPartition>,
    },
    /// A separator: 0 or 0xffffffff when the firmware hands over, 1 when it failed before that; Windows has
    /// its own.
    Separator(u32),
    /// Text: an action, a command of the boot loader, a version.
    Text(String),
    /// A tagged event (`TCG_PCClientTaggedEvent`); Linux measures its initrd and command line with it.
    Tagged {
        /// `taggedEventID`.
        id: u32,
        /// Its data, as text where it is some, otherwise in hex.
        text: String,
    },
    /// A part of the firmware (`UEFI_PLATFORM_FIRMWARE_BLOB`, with a description in its second form).
    Blob {
        /// What it is.
        description: String,
        /// Where it lies.
        base: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// Tables that the firmware hands over (`UEFI_HANDOFF_TABLE_POINTERS`), with a description in the second
    /// form.
    Tables {
        /// What they are.
        description: String,
        /// The tables' GUIDs.
        tables: Vec<Uuid>,
    },
    /// From which locality the TPM was started.
    StartupLocality(u8),
    /// Nothing that can be read.
    Bytes(Vec<u8>),
}

impl Event {
    /// What its data says.
    #[must_use]
    pub fn decode(&self) -> Decoded {
        decoded(self).unwrap_or_else(|| Decoded::Bytes(self.data.clone()))
    }
}

fn decoded(event: &Event) -> Option<Decoded> {
    let data = event.data.as_slice();
    match event.kind {
        EventType::NO_ACTION => match data.strip_prefix(STARTUP_LOCALITY) {
            Some(rest) => rest.first().copied().map(Decoded::StartupLocality),
            // Other signatures, such as "SP800-155 Event", have 16 bytes too.
            None => text(slice(data, 0, 16)?).map(Decoded::Text),
        },
        EventType::EFI_VARIABLE_DRIVER_CONFIG
        | EventType::EFI_VARIABLE_BOOT
        | EventType::EFI_VARIABLE_BOOT2
        | EventType::EFI_VARIABLE_AUTHORITY => VariableEvent::parse(data).ok().map(Decoded::Variable),
        EventType::EFI_BOOT_SERVICES_APPLICATION
        | EventType::EFI_BOOT_SERVICES_DRIVER
        | EventType::EFI_RUNTIME_SERVICES_DRIVER => image(data),
        EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => gpt(data),
        EventType::SEPARATOR if data.len() == 4 => u32_at(data, 0).map(Decoded::Separator),
        EventType::EVENT_TAG => {
            let tagged = slice(data, 8, size_at(data, 4)?)?;
            let text = text(tagged).unwrap_or_else(|| hex::encode(tagged));
            Some(Decoded::Tagged { id: u32_at(data, 0)?, text })
        }
        EventType::EFI_PLATFORM_FIRMWARE_BLOB => blob("", data),
        EventType::EFI_PLATFORM_FIRMWARE_BLOB2 => {
            let (description, rest) = described(data)?;
            blob(&description, rest)
        }
        EventType::EFI_HANDOFF_TABLES => tables("", data),
        EventType::EFI_HANDOFF_TABLES2 => {
            let (description, rest) = described(data)?;
            tables(&description, rest)
        }
        // Firmware before PFP 1.05 describes its volumes here instead of naming them.
        EventType::POST_CODE if data.len() == 16 && text(data).is_none() => blob("", data),
        _ => text(data).map(Decoded::Text),
    }
}

/// `UEFI_IMAGE_LOAD_EVENT`: three u64, u64 length of the path, the path.
fn image(data: &[u8]) -> Option<Decoded> {
    let path = slice(data, 32, usize::try_from(u64_at(data, 24)?).ok()?)?;
    Some(Decoded::Image {
        address: u64_at(data, 0)?,
        length: u64_at(data, 8)?,
        linked_at: u64_at(data, 16)?,
        path: device_path::text(path),
    })
}

/// `UEFI_GPT_DATA`: the table's header (92 bytes, UEFI 2.10, section 5.3.2), u64 number of used entries,
/// those.
fn gpt(data: &[u8]) -> Option<Decoded> {
    const HEADER: usize = 92;
    if !data.starts_with(b"EFI PART") {
        return None;
    }
    let size = size_at(data, 84)?;
    // The specification's entries have 128 bytes or a multiple; less would overlap the fields.
    if size < 128 {
        return None;
    }
    let count = usize::try_from(u64_at(data, HEADER)?).ok()?;
    let entries = slice(data, HEADER + 8, count.checked_mul(size)?)?;
    let read = |entry: &[u8]| {
        Some(GptPartition {
            kind: guid_at(entry, 0)?,
            guid: guid_at(entry, 16)?,
            first_lba: u64_at(entry, 32)?,
            last_lba: u64_at(entry, 40)?,
            name: utf16_text(slice(entry, 56, 72)?),
        })
    };
    Some(Decoded::Gpt {
        disk: guid_at(data, 56)?,
        partitions: entries.chunks_exact(size).filter_map(read).collect(),
    })
}

/// u8 length, as many bytes of description.
fn described(data: &[u8]) -> Option<(String, &[u8])> {
    let length = usize::from(*data.first()?);
    let description = slice(data, 1, length)?;
    let text = text(description).unwrap_or_else(|| hex::encode(description));
    Some((text, &data[1 + length..]))
}

/// u64 base, u64 length.
fn blob(description: &str, data: &[u8]) -> Option<Decoded> {
    Some(Decoded::Blob {
        description: description.to_owned(),
        base: u64_at(data, 0)?,
        length: u64_at(data, 8)?,
    })
}

/// u64 count, as many pairs of GUID and u64 address.
fn tables(description: &str, data: &[u8]) -> Option<Decoded> {
    let count = usize::try_from(u64_at(data, 0)?).ok()?;
    let pairs = slice(data, 8, count.checked_mul(24)?)?;
    let tables = pairs.chunks_exact(24).filter_map(|pair| guid_at(pair, 0)).collect();
    Some(Decoded::Tables { description: description.to_owned(), tables })
}

/// Text in UTF-8 or UTF-16LE, with or without terminators; `None` when it is neither, or empty.
fn text(data: &[u8]) -> Option<String> {
    let readable = |text: &String| !text.is_empty() && !text.chars().any(unreadable);
    let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let utf8 = String::from_utf8(data[..end].to_vec()).ok().filter(readable);
    utf8.or_else(|| {
        if !data.len().is_multiple_of(2) {
            return None;
        }
        let mut units: Vec<u16> = units(data).collect();
        units.truncate(units.iter().rposition(|unit| *unit != 0).map_or(0, |last| last + 1));
        // Any bytes make some text in UTF-16; what people write has ASCII in it, if only for the spaces.
        let ascii = units.iter().filter(|unit| **unit < 0x80).count();
        String::from_utf16(&units).ok().filter(|text| 2 * ascii >= units.len() && readable(text))
    })
}

fn unreadable(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}
