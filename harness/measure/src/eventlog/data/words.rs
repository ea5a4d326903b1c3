//! Event data in a line.

use std::fmt;

use super::Decoded;
use crate::bytes::{guid_at, slice, u16_at, u32_at, units, utf16_text};
use crate::cert::CertificateInfo;
use crate::device_path;
use crate::siglist::{self, SignatureDb};
use crate::variable_event::VariableEvent;

/// Bytes of unreadable data that are shown.
const SHOWN: usize = 32;

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(variable) => {
                write!(f, "{} ({}): {}", variable.name_text(), variable.vendor, contents(variable))
            }
            Self::Image { path, length, .. } if path.is_empty() => write!(f, "image of {length} bytes"),
            Self::Image { path, length, .. } => write!(f, "{path} ({length} bytes)"),
            Self::Gpt { disk, partitions } => {
                write!(f, "disk {disk}:")?;
                for partition in partitions {
                    write!(f, " {:?} {}-{}", partition.name, partition.first_lba, partition.last_lba)?;
                }
                Ok(())
            }
            Self::Separator(1) => f.write_str("separator 00000001: the firmware reports an error"),
            Self::Separator(value) => write!(f, "separator {value:08x}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Tagged { id, text } => write!(f, "tag {id:#010x}: {text:?}"),
            Self::Blob { description, base, length } => {
                let space = if description.is_empty() { "" } else { " " };
                write!(f, "{description}{space}at {base:#x}, {length} bytes")
            }
            Self::Tables { description, tables } => {
                let list: Vec<String> = tables.iter().map(ToString::to_string).collect();
                let space = if description.is_empty() { "" } else { " " };
                write!(f, "{description}{space}tables {}", list.join(", "))
            }
            Self::StartupLocality(number) => write!(f, "TPM started from locality {number}"),
            Self::Bytes(bytes) => bytes_shown(f, bytes),
        }
    }
}

fn bytes_shown(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let shown = bytes.get(..SHOWN).unwrap_or(bytes);
    write!(f, "{} bytes {}", bytes.len(), hex::encode(shown))?;
    if shown.len() < bytes.len() { f.write_str("...") } else { Ok(()) }
}

/// What is in a variable, by its name.
fn contents(variable: &VariableEvent) -> String {
    let (name, data) = (variable.name_text(), variable.data.as_slice());
    if data.is_empty() {
        return "empty".into();
    }
    let known = match name.as_str() {
        "BootOrder" | "DriverOrder" => {
            let order: Vec<String> = units(data).map(|number| format!("{number:04X}")).collect();
            Some(order.join(" "))
        }
        "PK" | "KEK" | "db" | "dbx" | "dbt" | "dbr" | "MokList" | "MokListX" | "MokListRT" | "Shim" => {
            database(data).or_else(|| authority(data))
        }
        "SbatLevel" => std::str::from_utf8(data).ok().map(|text| format!("{text:?}")),
        _ if option_number(&name) => load_option(data),
        _ => None,
    };
    known.or_else(|| authority(data)).unwrap_or_else(|| Decoded::Bytes(data.to_vec()).to_string())
}

fn option_number(name: &str) -> bool {
    let number = name.strip_prefix("Boot").or_else(|| name.strip_prefix("Driver"));
    number.is_some_and(|n| n.len() == 4 && n.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Signature lists: how many certificates and hashes, and whose certificates.
fn database(data: &[u8]) -> Option<String> {
    let db = SignatureDb::parse(data).ok()?;
    let names: Vec<String> = db.certificates().map(common_name).collect();
    let hashes = db.entries(siglist::SHA256).count();
    let other = db.lists().iter().map(|list| list.entries().len()).sum::<usize>() - names.len() - hashes;
    let mut parts = Vec::new();
    if !names.is_empty() {
        parts.push(format!("certificates {}", names.join("; ")));
    }
    for (count, what) in [(hashes, "hashes"), (other, "other entries")] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    Some(parts.join(", "))
}

fn common_name(der: &[u8]) -> String {
    CertificateInfo::of(der).map_or_else(|| "unreadable".into(), |info| info.common_name().to_owned())
}

/// A single `EFI_SIGNATURE_DATA`: what allowed an image to start.
fn authority(data: &[u8]) -> Option<String> {
    let owner = guid_at(data, 0)?;
    // shim measures its own certificates without an owner in front.
    let with_owner = CertificateInfo::of(data.get(16..)?).map(|info| (info, format!(" (owner {owner})")));
    let (info, owner) = with_owner.or_else(|| Some((CertificateInfo::of(data)?, String::new())))?;
    Some(format!("certificate {}{owner}", info.common_name()))
}

/// `EFI_LOAD_OPTION` (UEFI 2.10, section 3.1.3): u32 attributes, u16 length of the path, title, path,
/// optional data.
fn load_option(data: &[u8]) -> Option<String> {
    let attributes = u32_at(data, 0)?;
    let length = usize::from(u16_at(data, 4)?);
    let rest = data.get(6..)?;
    let title = utf16_text(rest);
    let path_at = 2 * (units(rest).position(|unit| unit == 0)? + 1);
    let path = device_path::text(slice(rest, path_at, length)?);
    Some(format!("{title:?} attributes {attributes:#x}, {path}"))
}
