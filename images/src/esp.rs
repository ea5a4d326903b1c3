//! What is written on the EFI system partition besides images.

/// The label that the system mounts it by.
pub(crate) const LABEL: [u8; 11] = *b"EFI-SYSTEM ";

/// `BOOTX64.CSV` for shim's fallback: UTF-16LE with a byte order mark; file, title, load options, comment.
///
/// The load options name a UKI, and nothing where shim starts GRUB; the blank before the comma is what RHEL's `kernel-bootcfg` writes
/// (virt-firmware `virt/peutils` and shim `fallback.c`, which takes the field as it is).
pub(crate) fn boot_csv(title: &str, uki: Option<&str>) -> Vec<u8> {
    let line = match uki {
        Some(uki) => format!("shimx64.efi,{title},{uki} ,UKI bootentry\n"),
        None => format!("shimx64.efi,{title},,This is the boot entry for {title}\n"),
    };
    std::iter::once(0xfeff).chain(line.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::uki(Some("\\EFI\\Linux\\u.efi"), "shimx64.efi,Title,\\EFI\\Linux\\u.efi ,UKI bootentry\n")]
    #[case::grub(None, "shimx64.efi,Title,,This is the boot entry for Title\n")]
    fn the_csv_is_utf16_with_the_load_options_in_its_third_field(
        #[case] uki: Option<&str>,
        #[case] expected: &str,
    ) {
        let csv = boot_csv("Title", uki);
        let units: Vec<u16> = csv.chunks(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        assert_eq!(String::from_utf16(&units).unwrap(), format!("\u{feff}{expected}"));
    }
}
