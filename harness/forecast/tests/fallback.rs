//! shim's fallback program on a machine that nobody has started yet.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_shim::{PLAIN, measured, program, programs, told, uki_by, with};
use common::{Memory, VENDOR, shim_of, variables};
use latchkey_disk::bootcsv::{self, BootEntry};
use latchkey_forecast::Keyboard::Nobody;
use latchkey_record::Outcome;
use rstest::rstest;

/// A fresh machine with a vendor's directory and a list of two options.
fn fresh(version: &str, fallback: &[(&str, &[u8])]) -> Memory {
    let entry = |label: &str| BootEntry {
        file: "shimx64.efi".into(),
        label: label.into(),
        options: String::new(),
        comment: String::new(),
    };
    Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of(version))
        .with("/EFI/BOOT/fbx64.efi", program(fallback, &VENDOR))
        .with("/EFI/rocky/shimx64.efi", shim_of(version))
        .with("/EFI/rocky/grubx64.efi", uki_by(&VENDOR))
        .with("/EFI/rocky/BOOTX64.CSV", bootcsv::to_bytes(&[entry("One"), entry("Two")]))
}

#[rstest]
#[case::each_in_front_of_the_one_before("15.8", "", ["Two", "One"])]
#[case::in_the_lists_order("16.1", "new boot entries: ", ["One", "Two"])]
fn several_new_boot_options(#[case] version: &str, #[case] text: &str, #[case] expected: [&str; 2]) {
    let text: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let forecast = told(&fresh(version, &[(".data", &text)]), &variables(), Nobody);
    assert_eq!(forecast.legs.len(), 2);
    let options = forecast.legs[1].events.iter().filter(|event| event.what.starts_with("Boot0"));
    let titles: Vec<&str> = options.map(|event| event.what.split(", ").nth(1).unwrap()).take(2).collect();
    assert_eq!(titles, expected);
}

/// The first option is started within the same start of the machine: the second shim measures everything once more.
#[rstest]
#[case::by_the_firmware("15.8", &[])]
#[case::by_shim("16.1", &["7 authority db", "4 boot loader"])]
fn without_a_reset_there_are_two_shims(#[case] version: &str, #[case] between: &[&str]) {
    let esp = fresh(version, &[]);
    let forecast = told(&esp, &with(&[("FB_NO_REBOOT", &[1, 0, 0, 0][..])]), Nobody);
    assert_eq!(forecast.legs.len(), 1);
    let first: Vec<&str> = PLAIN[..5].iter().copied().chain(["4 fallback program"]).collect();
    assert_eq!(measured(&forecast, 0), [&first, between, &PLAIN].concat());
    let loaders = programs(&forecast).iter().filter(|what| **what == "boot loader").count();
    assert_eq!(loaders, 2);
    assert_eq!(told(&esp, &with(&[("FB_NO_REBOOT", &[0; 4][..])]), Nobody).legs.len(), 2);
}

#[test]
fn a_fallback_program_without_lists_resets_for_ever() {
    let forecast = told(&fresh("15.8", &[]).without("/EFI/rocky/BOOTX64.CSV"), &variables(), Nobody);
    assert_eq!(forecast.outcome, Some(Outcome::RestartLoop), "{}", forecast.because);
    assert_eq!((forecast.legs.len(), forecast.repeats_from), (2, Some(1)));
}

/// The list names a shim that is not there: the option is made, leads nowhere, and the fallback program comes again.
#[test]
fn a_list_that_names_no_file_leads_round_and_round() {
    let list = "missing.efi,Rocky Linux,,nothing\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let esp = fresh("15.8", &[]).with("/EFI/rocky/BOOTX64.CSV", list);
    let forecast = told(&esp, &variables(), Nobody);
    assert_eq!(forecast.outcome, Some(Outcome::RestartLoop), "{}", forecast.because);
    assert_eq!((forecast.legs.len(), forecast.repeats_from), (2, Some(1)));
}

/// The firmware's file system takes backslashes alone.
#[test]
fn a_list_that_names_a_file_with_a_slash() {
    let list = "x64/shimx64.efi,Rocky Linux,,\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let esp = fresh("15.8", &[]).with("/EFI/rocky/BOOTX64.CSV", list);
    let forecast = told(&esp, &variables(), Nobody);
    assert_eq!((forecast.outcome, forecast.legs.len()), (None, 1), "{}", forecast.because);
    assert!(forecast.unmodelled.iter().any(|open| open.why.contains("slash")), "{:?}", forecast.unmodelled);
}

/// A line of two columns has the next one's file for its options, and the lines behind that are lost; what is behind the end of
/// the list nobody knows.
#[rstest]
#[case::others_behind("shimx64.efi,One\nshimx64.efi,Two,,\nshimx64.efi,Three,,\n", Some(&["Two", "One"][..]))]
#[case::nothing_behind("shimx64.efi,One\n", Some(&["One"][..]))]
#[case::no_line_end("shimx64.efi,One", None)]
fn a_line_of_two_columns(#[case] list: &str, #[case] expected: Option<&[&str]>) {
    let list = list.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let esp = fresh("15.8", &[]).with("/EFI/rocky/BOOTX64.CSV", list);
    let forecast = told(&esp, &variables(), Nobody);
    let open = forecast.unmodelled.iter().any(|open| open.what.ends_with("BOOTX64.CSV"));
    assert_eq!((open, forecast.legs.len()), (expected.is_none(), if open { 1 } else { 2 }));
    if let Some(expected) = expected {
        let options = forecast.legs[1].events.iter().filter(|event| event.what.starts_with("Boot0"));
        let titles: Vec<&str> = options.map(|event| event.what.split(", ").nth(1).unwrap()).collect();
        assert_eq!(titles[..expected.len()], *expected);
        assert!(!titles.contains(&"Three"));
    } else {
        assert_eq!(forecast.outcome, None);
    }
}
