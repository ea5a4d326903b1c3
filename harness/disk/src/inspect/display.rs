//! A description for people. What is on a disk may be anything: it is shown in the line that it belongs to.

use std::fmt::{self, Display, Formatter};

use latchkey_measure::sbat::Component;
use latchkey_record::text::steers;
use serde_json::Value;

use super::{
    CertificateFile, CertificateRead, Contents, EfiImage, EfiKind, EspContents, ImageDescription, Layout,
    PartitionDescription,
};
use crate::luks;

/// Most characters of a text from a disk that are shown.
const LONGEST: usize = 4096;
/// Most PCRs of a token that are shown; a TPM has 24.
const PCRS: usize = 32;

/// Text from a disk as it may be shown: of a length that somebody reads, in one line, without a say over the terminal.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(LONGEST).map(|c| if steers(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

impl Display for ImageDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, {}", shown(&self.path.to_string_lossy()), self.format, size(self.size))?;
        if !self.partitions.is_empty() {
            writeln!(f, "\nPartitions")?;
        }
        for partition in &self.partitions {
            writeln!(f, "  {partition}")?;
        }
        if let Some(esp) = &self.esp {
            write!(f, "\n{esp}")?;
        }
        for found in &self.partitions {
            if let Some(header) = &found.luks {
                writeln!(f, "\nEncryption of partition {}", found.partition.index)?;
                write!(f, "{}", Encryption(header))?;
            }
        }
        if !self.limits.is_empty() {
            writeln!(f, "\nNot handled, or not as expected")?;
        }
        for limit in &self.limits {
            writeln!(f, "  - {limit}")?;
        }
        Ok(())
    }
}

impl Display for PartitionDescription {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { partition, contents, .. } = self;
        let number = partition.index;
        write!(
            f,
            "{number:>2}  {:<17}  {:>9}  {contents:<7}",
            partition.kind_name(),
            size(partition.size())
        )?;
        if partition.name.is_empty() { Ok(()) } else { write!(f, "  {}", shown(&partition.name)) }
    }
}

impl Display for Contents {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fat => "FAT",
            Self::Ext => "ext4",
            Self::Xfs => "XFS",
            Self::Btrfs => "Btrfs",
            Self::Lvm => "LVM",
            Self::Luks => "LUKS",
            Self::Swap => "swap",
            Self::Unknown => "unknown",
        })
    }
}

impl Display for Layout {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uki { path } => write!(f, "shim -> UKI {}", shown(path)),
            Self::Grub { path } => write!(f, "shim -> GRUB {}", shown(path)),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Display for EspContents {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "Boot chain: {}", self.layout)?;
        for image in &self.images {
            // Certificate files have lines of their own below.
            if !self.certificate_files.iter().any(|c| c.path == image.path) {
                writeln!(f, "  {image}")?;
            }
        }
        for file in &self.certificate_files {
            writeln!(f, "  {file}")?;
        }
        for list in &self.boot_lists {
            for entry in &list.entries {
                let [path, label, file] = [&list.path, &entry.label, &entry.file].map(|text| shown(text));
                write!(f, "  {path}: \"{label}\" starts {file}")?;
                let options = shown(&entry.options);
                if options.is_empty() { writeln!(f)? } else { writeln!(f, " with {options}")? }
            }
        }
        Ok(())
    }
}

impl Display for EfiImage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", shown(&self.path), self.kind)?;
        if !self.sbat.is_empty() {
            write!(f, "; SBAT {}", components(&self.sbat))?;
        }
        write!(f, "; {}", signed(&self.signed_by))
    }
}

impl Display for EfiKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shim { version, vendor_certificate, .. } => {
                match version {
                    Some(version) => write!(f, "shim {version}")?,
                    None => f.write_str("shim of an unknown version")?,
                }
                match vendor_certificate {
                    Some(certificate) => write!(f, ", trusts {}", shown(&certificate.subject)),
                    None => f.write_str(", trusts no vendor certificate"),
                }
            }
            Self::MokManager => f.write_str("MokManager"),
            Self::Fallback => f.write_str("fallback"),
            Self::Grub => f.write_str("GRUB"),
            Self::Uki { kernel: Some(kernel), .. } => write!(f, "UKI with kernel {}", shown(kernel)),
            Self::Uki { kernel: None, .. } => f.write_str("UKI"),
            Self::Addon => f.write_str("UKI add-on"),
            Self::SystemdBoot => f.write_str("systemd-boot"),
            Self::Certificates => f.write_str("certificates"),
            Self::Other => f.write_str("another program"),
        }
    }
}

impl Display for CertificateFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let subjects: Vec<&str> = self.certificates.iter().map(|c| c.subject.as_str()).collect();
        let subjects = if subjects.is_empty() { "no certificate".to_owned() } else { subjects.join(" and ") };
        let (path, subjects) = (shown(&self.path), shown(&subjects));
        write!(f, "{path}: brings {subjects}; {}; {}", signed(&self.signed_by), self.read)
    }
}

impl Display for CertificateRead {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes { shim } => write!(f, "active: shim {shim} reads it"),
            Self::No { shim } => write!(f, "inactive: shim {shim} does not read files of this name"),
            Self::NoShim => f.write_str("inactive: there is no shim beside it"),
        }
    }
}

struct Encryption<'a>(&'a luks::Header);

impl Display for Encryption<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let header = self.0;
        let cipher = header.segments.values().map(|s| s.encryption.as_str()).find(|c| !c.is_empty());
        let (cipher, uuid) = (shown(cipher.unwrap_or("not encrypted yet")), shown(&header.uuid));
        writeln!(f, "  LUKS2, {cipher}, UUID {uuid}")?;
        let tokens: Vec<_> = header
            .tokens
            .iter()
            .map(|(number, token)| (&token.keyslots, format!("token {number}"), shown(&token_text(token))))
            .collect();
        for (number, slot) in &header.keyslots {
            let kdf = if slot.kdf.is_empty() { slot.kind.as_str() } else { slot.kdf.as_str() };
            write!(f, "  keyslot {number}: {} {}", shown(kdf), slot.iterations)?;
            let by = tokens.iter().filter(|(slots, ..)| slots.contains(number));
            let by: Vec<String> = by.map(|(_, token, text)| format!("{token}, {text}")).collect();
            if by.is_empty() { writeln!(f, ", passphrase")? } else { writeln!(f, ", {}", by.join("; "))? }
        }
        for (_, token, text) in tokens.iter().filter(|(slots, ..)| slots.is_empty()) {
            writeln!(f, "  {token}: {text}, for no keyslot")?;
        }
        Ok(())
    }
}

/// A token's type, and of a TPM's what has to hold before it opens.
fn token_text(token: &luks::Token) -> String {
    if token.kind != luks::TPM2 {
        return token.kind.clone();
    }
    let list = |pcrs: Vec<u32>| pcrs.iter().take(PCRS).map(u32::to_string).collect::<Vec<_>>().join("+");
    let has =
        |field: &str| !matches!(token.contents.get(field), None | Some(Value::Null | Value::Bool(false)));
    let mut all = Vec::new();
    match token.pcrs() {
        pcrs if !pcrs.is_empty() => {
            all.push(format!("PCR {} ({})", list(pcrs), token.pcr_bank().unwrap_or("bank not named")));
        }
        _ if has("tpm2_pubkey") || has("tpm2_pcrlock") => {}
        _ => all.push("no PCR".to_owned()),
    }
    if has("tpm2_pubkey") {
        let of = match token.numbers("tpm2_pubkey_pcrs") {
            pcrs if pcrs.is_empty() => String::new(),
            pcrs => format!(" of PCR {}", list(pcrs)),
        };
        all.push(format!("a signed policy{of}"));
    }
    if has("tpm2_pcrlock") {
        all.push("pcrlock's policy".to_owned());
    }
    if has("tpm2-pin") {
        all.push("a PIN".to_owned());
    }
    format!("{} sealed to {}", token.kind, all.join(" and "))
}

fn components(sbat: &[Component]) -> String {
    let own = sbat.iter().filter(|c| c.name != "sbat");
    shown(&own.map(|c| format!("{} {}", c.name, c.generation)).collect::<Vec<_>>().join(", "))
}

fn signed(by: &[String]) -> String {
    if by.is_empty() { "not signed".into() } else { format!("signed by {}", shown(&by.join(" and by "))) }
}

/// A size in the largest unit that leaves at least one before the point.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            return format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_on_a_disk_has_no_say_over_the_terminal() {
        assert_eq!(shown("a\x1b[8m\nb\u{202e}é"), "a\u{fffd}[8m\u{fffd}b\u{fffd}é");
        assert_eq!(shown(&"x".repeat(LONGEST + 1)).chars().count(), LONGEST + 1);
        assert_eq!(shown(&"ä".repeat(LONGEST)), "ä".repeat(LONGEST));
    }

    #[rstest]
    #[case::plain(json!({"tpm2-pcrs": [4, 7], "tpm2-pcr-bank": "sha256", "tpm2-pin": false}), "PCR 4+7 (sha256)")]
    #[case::of_before_there_was_a_choice(json!({"tpm2-pcrs": [4, 7]}), "PCR 4+7 (bank not named)")]
    #[case::with_a_pin(json!({"tpm2-pcrs": [7], "tpm2-pcr-bank": "sha1", "tpm2-pin": true}), "PCR 7 (sha1) and a PIN")]
    #[case::to_nothing(json!({"tpm2-pcrs": []}), "no PCR")]
    #[case::signed(json!({"tpm2-pcrs": [], "tpm2_pubkey": "AA==", "tpm2_pubkey_pcrs": [11]}), "a signed policy of PCR 11")]
    #[case::signed_for_nothing(json!({"tpm2-pcrs": [], "tpm2_pubkey": "AA=="}), "a signed policy")]
    #[case::by_pcrlock(json!({"tpm2-pcrs": [], "tpm2_pcrlock": true}), "pcrlock's policy")]
    fn what_has_to_hold_before_a_token_opens(#[case] contents: Value, #[case] expected: &str) {
        let contents = contents.as_object().unwrap().clone();
        let token = luks::Token { kind: luks::TPM2.into(), keyslots: vec![1], contents };
        assert_eq!(token_text(&token), format!("systemd-tpm2 sealed to {expected}"));
    }
}
