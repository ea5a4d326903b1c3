//! UEFI device paths as text.
//!
//! Source: UEFI 2.10, section 10.3 (nodes) and section 10.6 (text); of ACPI's expanded nodes (section 10.3.3), which Hyper-V has
//! for VMBus, edk2 `MdePkg/Library/UefiDevicePathLib/DevicePathToText.c` (`DevPathToTextAcpiEx`, without shortcuts). A node that
//! is not known here, or is shorter than it should be, is written in the general form `Path(type,sub-type,hex)`, so nothing is
//! lost.

use std::fmt::Write as _;

use uuid::Uuid;

use crate::bytes::{guid_at, u16_at, u32_at, u64_at, utf16_text};

/// `EISA_ID` of PNP0A03 and PNP0A08: roots of PCI and PCI Express buses.
const PCI_ROOT: u32 = 0x0a03_41d0;
const PCIE_ROOT: u32 = 0x0a08_41d0;

/// The path in words, such as `PciRoot(0x0)/Pci(0x1,0x0)/HD(1,GPT,...)/\EFI\BOOT\BOOTX64.EFI`. Several
/// instances are separated by commas. What is left over when a node's length is impossible is written as
/// `Rest(hex)`.
#[must_use]
pub fn text(path: &[u8]) -> String {
    let mut out = String::new();
    let mut rest = path;
    let mut separator = "";
    while let Some((kind, sub, data, after)) = node(rest) {
        rest = after;
        if kind == 0x7f {
            if sub == 0xff {
                break;
            }
            separator = ",";
            continue;
        }
        out.push_str(if out.is_empty() { "" } else { separator });
        separator = "/";
        out.push_str(&words(kind, sub, data).unwrap_or_else(|| general(kind, sub, data)));
    }
    if node(rest).is_none() && !rest.is_empty() {
        let _ = write!(out, "{separator}Rest({})", hex::encode(rest));
    }
    out
}

/// The first node: type, sub-type, data; and what comes after it.
fn node(path: &[u8]) -> Option<(u8, u8, &[u8], &[u8])> {
    let length = usize::from(u16_at(path, 2)?);
    let data = path.get(4..length)?;
    Some((path[0], path[1], data, &path[length..]))
}

fn general(kind: u8, sub: u8, data: &[u8]) -> String {
    format!("Path({kind},{sub},{})", hex::encode(data))
}

/// `None` when the node is unknown or too short.
fn words(kind: u8, sub: u8, data: &[u8]) -> Option<String> {
    match kind {
        1 => hardware(sub, data),
        2 => acpi(sub, data),
        3 => messaging(sub, data),
        4 => media(sub, data),
        5 => Some(format!("BBS({:#x},{})", u16_at(data, 0)?, ascii(data.get(4..)?))),
        _ => None,
    }
}

fn hardware(sub: u8, data: &[u8]) -> Option<String> {
    let byte = |at: usize| data.get(at).copied();
    Some(match sub {
        1 => format!("Pci({:#x},{:#x})", byte(1)?, byte(0)?),
        3 => {
            format!("MemoryMapped({:#x},{:#x},{:#x})", u32_at(data, 0)?, u64_at(data, 4)?, u64_at(data, 12)?)
        }
        4 => vendor("VenHw", data)?,
        5 => format!("Ctrl({:#x})", u32_at(data, 0)?),
        _ => return None,
    })
}

fn acpi(sub: u8, data: &[u8]) -> Option<String> {
    Some(match sub {
        1 => {
            let (hid, uid) = (u32_at(data, 0)?, u32_at(data, 4)?);
            match hid {
                PCI_ROOT => format!("PciRoot({uid:#x})"),
                PCIE_ROOT => format!("PcieRoot({uid:#x})"),
                // Three letters of five bits each, then a number.
                _ => format!("Acpi({},{uid:#x})", eisa(hid)),
            }
        }
        2 => {
            let (hid, uid, cid) = (u32_at(data, 0)?, u32_at(data, 4)?, u32_at(data, 8)?);
            // Three texts with their terminators, in the order of the numbers.
            let mut texts = data.get(12..)?.split(|byte| *byte == 0).map(ascii);
            let (hid_text, uid_text, cid_text) = (texts.next()?, texts.next()?, texts.next()?);
            // Its last terminator.
            texts.next()?;
            let (hid, cid) = (eisa(hid), eisa(cid));
            match (hid_text.as_str(), cid_text.as_str(), uid) {
                ("", "", 0) => format!("AcpiExp({hid},{cid},{uid_text})"),
                _ => format!("AcpiEx({hid},{cid},{uid:#x},{hid_text},{cid_text},{uid_text})"),
            }
        }
        3 => format!("AcpiAdr({:#x})", u32_at(data, 0)?),
        _ => return None,
    })
}

fn eisa(id: u32) -> String {
    let letter = |shift: u32| char::from(b'@' + u8::try_from(id >> shift & 0x1f).unwrap_or_default());
    format!("{}{}{}{:04X}", letter(10), letter(5), letter(0), id >> 16)
}

fn messaging(sub: u8, data: &[u8]) -> Option<String> {
    let byte = |at: usize| data.get(at).copied();
    let word = |at| u16_at(data, at);
    Some(match sub {
        1 => format!("Ata({:#x},{:#x},{:#x})", byte(0)?, byte(1)?, word(2)?),
        2 => format!("Scsi({:#x},{:#x})", word(0)?, word(2)?),
        5 => format!("USB({:#x},{:#x})", byte(0)?, byte(1)?),
        10 => vendor("VenMsg", data)?,
        11 => {
            let kind = byte(32)?;
            // Ethernet and its like (RFC 3232 types 0 and 1) have six of the 32 bytes.
            let used = if kind < 2 { 6 } else { 32 };
            format!("MAC({},{kind:#x})", hex::encode(data.get(..used)?))
        }
        12 => {
            let ip = |at: usize| data.get(at..at + 4).map(|b| format!("{}.{}.{}.{}", b[0], b[1], b[2], b[3]));
            format!(
                "IPv4({},{:#x},{},{})",
                ip(4)?,
                word(12)?,
                if byte(14)? == 0 { "DHCP" } else { "Static" },
                ip(0)?
            )
        }
        13 => {
            let ip = |at: usize| {
                let bytes: [u8; 16] = data.get(at..at + 16)?.try_into().ok()?;
                Some(std::net::Ipv6Addr::from(bytes))
            };
            format!("IPv6({},{:#x},{:#x},{})", ip(16)?, word(36)?, byte(38)?, ip(0)?)
        }
        16 => format!(
            "UsbWwid({:#x},{:#x},{:#x},{:?})",
            word(2)?,
            word(4)?,
            word(0)?,
            utf16_text(data.get(6..)?)
        ),
        17 => format!("Unit({:#x})", byte(0)?),
        18 => format!("Sata({:#x},{:#x},{:#x})", word(0)?, word(2)?, word(4)?),
        20 => format!("Vlan({})", word(0)?),
        23 => {
            let mut eui: Vec<String> = data.get(4..12)?.iter().map(|b| format!("{b:02X}")).collect();
            eui.reverse();
            format!("NVMe({:#x},{})", u32_at(data, 0)?, eui.join("-"))
        }
        24 => format!("Uri({})", ascii(data)),
        25 => format!("UFS({:#x},{:#x})", byte(0)?, byte(1)?),
        26 => format!("SD({:#x})", byte(0)?),
        29 => format!("eMMC({:#x})", byte(0)?),
        _ => return None,
    })
}

fn media(sub: u8, data: &[u8]) -> Option<String> {
    Some(match sub {
        1 => {
            let (number, start, size) = (u32_at(data, 0)?, u64_at(data, 4)?, u64_at(data, 12)?);
            match data.get(37)? {
                1 => format!("HD({number},MBR,{:#010x},{start:#x},{size:#x})", u32_at(data, 20)?),
                2 => format!("HD({number},GPT,{},{start:#x},{size:#x})", upper(guid_at(data, 20)?)),
                other => format!("HD({number},{other},0,{start:#x},{size:#x})"),
            }
        }
        2 => format!("CDROM({:#x},{:#x},{:#x})", u32_at(data, 0)?, u64_at(data, 4)?, u64_at(data, 12)?),
        3 => vendor("VenMedia", data)?,
        4 => utf16_text(data),
        5 => format!("Media({})", upper(guid_at(data, 0)?)),
        6 => format!("FvFile({})", upper(guid_at(data, 0)?)),
        7 => format!("Fv({})", upper(guid_at(data, 0)?)),
        8 => format!("Offset({:#x},{:#x})", u64_at(data, 4)?, u64_at(data, 12)?),
        9 => {
            let (start, end, kind) = (u64_at(data, 0)?, u64_at(data, 8)?, guid_at(data, 16)?);
            format!("RamDisk({start:#x},{end:#x},{},{})", u16_at(data, 32)?, upper(kind))
        }
        _ => return None,
    })
}

fn vendor(name: &str, data: &[u8]) -> Option<String> {
    let guid = upper(guid_at(data, 0)?);
    Some(match data.get(16..) {
        Some([]) | None => format!("{name}({guid})"),
        Some(more) => format!("{name}({guid},{})", hex::encode_upper(more)),
    })
}

fn upper(guid: Uuid) -> String {
    guid.to_string().to_uppercase()
}

fn ascii(data: &[u8]) -> String {
    data.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}
