//! What shim starts where a boot option asks for something else than usual, or the second stage is none.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_shim::{cut_off, measured, told, uki_by, with_zeros};
use common::{Memory, PLATFORM, VENDOR, shim_of, variables};
use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId, vendor};
use latchkey_forecast::Keyboard;
use latchkey_measure::{Uuid, samples, shim, sign_pe};
use latchkey_record::Outcome;
use rstest::rstest;

use Keyboard::{Nobody, Somebody};

/// Ends a device path.
const END: [u8; 4] = [0x7f, 0xff, 4, 0];

/// A disk that is started from its removable-media path.
fn disk(version: &str) -> Memory {
    Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of(version))
        .with("/EFI/BOOT/grubx64.efi", uki_by(&VENDOR))
}

/// The file that shim starts as its second stage, if it starts one.
fn second_stage(esp: &Memory, store: &VarStore, keyboard: Keyboard) -> Option<String> {
    let forecast = told(esp, store, keyboard);
    let mut events = forecast.legs[0].events.iter();
    events.find(|event| event.what == "second stage").map(|event| event.from.to_string())
}

/// The variables of a machine whose firmware was told to start what is at this device path once, with these options.
fn once(path: &[u8], options: &str) -> VarStore {
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let size = u16::try_from(path.len()).unwrap().to_le_bytes();
    let option = [&[1, 0, 0, 0][..], &size, &utf16("once\0"), path, &utf16(options)].concat();
    let mut store = variables();
    for (name, data) in [("Boot0007", option), ("BootNext", vec![7, 0])] {
        store.set(Variable::new(VariableId::new(name, vendor::GLOBAL), Attributes::RUNTIME, data));
    }
    store
}

/// The device path of a file on the EFI system partition.
fn file_on_esp(path: &str) -> Vec<u8> {
    let name: Vec<u8> = path.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let mut out = [&[4, 1, 42, 0, 1, 0, 0, 0][..], &[0; 16], &Uuid::from_u128(1).to_bytes_le()].concat();
    out.extend([2, 2, 4, 4]);
    out.extend(u16::try_from(name.len() + 4).unwrap().to_le_bytes());
    [&out[..], &name, &END].concat()
}

fn with_bytes_behind(mut program: Vec<u8>) -> Vec<u8> {
    program.extend([0; 8]);
    program
}

/// Its headers are left, and nothing else.
fn unsigned_and_cut_off() -> Vec<u8> {
    samples::uki(&[0x90; 600], "quiet").unwrap()[..0x400].to_vec()
}

/// A second stage that shim makes nothing of is passed over for GRUB, without options, once somebody has confirmed the box;
/// MokManager does not run. Where a file ends before its signatures there is no box.
#[rstest]
#[case::bytes_behind_signatures(with_bytes_behind(uki_by(&VENDOR)), Somebody, SecureBoot::On, true)]
#[case::nobody_confirms(with_bytes_behind(uki_by(&VENDOR)), Nobody, SecureBoot::On, false)]
#[case::nothing_is_verified(with_bytes_behind(uki_by(&VENDOR)), Nobody, SecureBoot::Off, true)]
#[case::sbat_with_too_few_columns(
    sign_pe(&samples::program(&[(".sbat", b"sbat,1,x\n")]).unwrap(), &VENDOR).unwrap(), Somebody, SecureBoot::On, true)]
#[case::no_sbat(sign_pe(&samples::program(&[]).unwrap(), &VENDOR).unwrap(), Somebody, SecureBoot::On, false)]
#[case::no_program(b"text".to_vec(), Somebody, SecureBoot::On, false)]
#[case::cut_off_in_front_of_signatures(cut_off(uki_by(&VENDOR), -512), Nobody, SecureBoot::On, true)]
#[case::cut_off_where_they_begin(cut_off(uki_by(&VENDOR), 0), Nobody, SecureBoot::On, true)]
#[case::cut_off_and_nothing_is_verified(cut_off(uki_by(&VENDOR), -512), Nobody, SecureBoot::Off, true)]
#[case::cut_off_within_signatures(cut_off(uki_by(&VENDOR), 16), Nobody, SecureBoot::On, false)]
#[case::cut_off_within_and_confirmed(cut_off(uki_by(&VENDOR), 16), Somebody, SecureBoot::On, true)]
#[case::cut_off_within_and_nothing_is_verified(cut_off(uki_by(&VENDOR), 16), Nobody, SecureBoot::Off, true)]
#[case::cut_off_without_signatures(unsigned_and_cut_off(), Nobody, SecureBoot::On, false)]
#[case::cut_off_without_and_confirmed(unsigned_and_cut_off(), Somebody, SecureBoot::On, true)]
#[case::zeros_behind_the_last_signature(with_zeros(uki_by(&VENDOR), 8, false), Nobody, SecureBoot::On, false)]
#[case::zeros_behind_and_confirmed(with_zeros(uki_by(&VENDOR), 8, false), Somebody, SecureBoot::On, true)]
fn a_malformed_second_stage_is_passed_over(
    #[case] other: Vec<u8>,
    #[case] keyboard: Keyboard,
    #[case] secure_boot: SecureBoot,
    #[case] passed_over: bool,
) {
    let esp = Memory::default()
        .with("/EFI/rocky/shimx64.efi", shim_of("15.8"))
        .with("/EFI/rocky/grubx64.efi", uki_by(&VENDOR))
        .with("/EFI/rocky/other.efi", other);
    let mut store = once(&file_on_esp("\\EFI\\rocky\\shimx64.efi"), "other.efi\0");
    store.set_secure_boot(secure_boot);
    let expected = passed_over.then(|| "esp:/EFI/rocky/grubx64.efi".to_owned());
    assert_eq!(second_stage(&esp, &store, keyboard), expected);
    assert!(!measured(&told(&esp, &store, keyboard), 0).contains(&"4 MokManager".to_owned()));
}

/// GRUB itself is tried twice then, and shim returns; within its signatures the box waits.
#[rstest]
#[case::in_front_of_signatures(-512, Outcome::NoBootOption)]
#[case::within_signatures(16, Outcome::RefusedByShim)]
fn a_grub_that_is_cut_off(
    #[case] left: isize,
    #[case] outcome: Outcome,
    #[values("15.8", "16.1")] version: &str,
) {
    let esp = disk(version).with("/EFI/BOOT/grubx64.efi", cut_off(uki_by(&VENDOR), left));
    let forecast = told(&esp, &variables(), Nobody);
    assert_eq!(forecast.outcome, Some(outcome), "{}", forecast.because);
    assert!(forecast.because.contains("cut off"), "{}", forecast.because);
    assert!(!measured(&forecast, 0).contains(&"4 second stage".to_owned()));
}

/// shim does not ask whether its last signature is filled up to eight bytes, which the firmware does.
#[test]
fn a_second_stage_whose_signature_is_not_filled_up() {
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", with_zeros(uki_by(&VENDOR), 4, true));
    assert!(measured(&told(&esp, &variables(), Nobody), 0).contains(&"4 second stage".to_owned()));
}

/// Up to 15.4 shim does not try GRUB in the place of what is missing.
#[rstest]
#[case("15.4", None)]
#[case("15.5", Some("esp:/EFI/rocky/grubx64.efi"))]
fn what_is_missing_is_passed_over(#[case] version: &str, #[case] expected: Option<&str>) {
    let esp = Memory::default()
        .with("/EFI/rocky/shimx64.efi", shim_of(version))
        .with("/EFI/rocky/grubx64.efi", uki_by(&VENDOR));
    let store = once(&file_on_esp("\\EFI\\rocky\\shimx64.efi"), "missing.efi\0");
    assert_eq!(second_stage(&esp, &store, Nobody).as_deref(), expected);
}

/// A build has a name of its own for what it starts; one with several that may be it is not modelled.
#[rstest]
#[case::its_own("\\\\grub.efi\0", Some("esp:/EFI/BOOT/grub.efi"))]
#[case::the_usual_one("\\\\grubx64.efi\0", Some("esp:/EFI/BOOT/grubx64.efi"))]
#[case::several("\\\\grub.efi\0\\other.efi\0", None)]
fn what_a_build_calls_its_second_stage(#[case] texts: &str, #[case] expected: Option<&str>) {
    let mut image = samples::shim("15.8", 4096).unwrap();
    image.extend(texts.encode_utf16().flat_map(u16::to_le_bytes));
    let image = shim::replace_vendor_cert(&image, VENDOR.certificate()).unwrap();
    let esp = disk("15.8")
        .with("/EFI/BOOT/BOOTX64.EFI", sign_pe(&image, &PLATFORM).unwrap())
        .with("/EFI/BOOT/grub.efi", uki_by(&VENDOR));
    assert_eq!(second_stage(&esp, &variables(), Nobody).as_deref(), expected);
    let forecast = told(&esp, &variables(), Nobody);
    let open = forecast.unmodelled.iter().any(|open| open.why.contains("grub.efi, other.efi"));
    assert_eq!(open, expected.is_none(), "{:?}", forecast.unmodelled);
}

/// An empty first word is shim's own directory for 15.8, and nothing for 16.1.
#[rstest]
#[case("15.8", false)]
#[case("16.1", true)]
fn options_without_a_word(#[case] version: &str, #[case] starts: bool) {
    let esp = Memory::default()
        .with("/EFI/rocky/shimx64.efi", shim_of(version))
        .with("/EFI/rocky/grubx64.efi", uki_by(&VENDOR));
    let store = once(&file_on_esp("\\EFI\\rocky\\shimx64.efi"), " \0");
    assert_eq!(second_stage(&esp, &store, Nobody).is_some(), starts);
    let outcome = told(&esp, &store, Nobody).outcome;
    assert_eq!(outcome == Some(Outcome::NoBootOption), !starts, "{outcome:?}");
}

/// Some builds look at no load options on the removable-media path.
#[rstest]
#[case("/EFI/BOOT/BOOTX64.EFI", false, "other.efi")]
#[case("/EFI/BOOT/BOOTX64.EFI", true, "grubx64.efi")]
#[case("/EFI/BOOT/shimx64.efi", true, "other.efi")]
fn options_on_the_removable_media_path(#[case] path: &str, #[case] ignores: bool, #[case] expected: &str) {
    let says = if ignores { "Invoked from removable media path, ignoring boot options" } else { "" };
    let mut image = samples::shim("15.8", 4096).unwrap();
    image.extend(says.encode_utf16().flat_map(u16::to_le_bytes));
    let image = shim::replace_vendor_cert(&image, VENDOR.certificate()).unwrap();
    let esp = disk("15.8")
        .with(path, sign_pe(&image, &PLATFORM).unwrap())
        .with("/EFI/BOOT/other.efi", uki_by(&VENDOR));
    let store = once(&file_on_esp(&path.replace('/', "\\")), "other.efi\0");
    assert_eq!(second_stage(&esp, &store, Nobody), Some(format!("esp:/EFI/BOOT/{expected}")));
}

/// What short paths lead to is known, and of paths that are not understood nothing.
#[rstest]
#[case::the_partition([&file_on_esp("")[..42], &END].concat(), true)]
#[case::a_file_on_any_disk(file_on_esp("\\EFI\\BOOT\\BOOTX64.EFI")[42..].to_vec(), true)]
#[case::another_device(
    [&[2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 0, 9][..], &END].concat(), false)]
#[case::memory([&[1, 3, 4, 0][..], &END].concat(), false)]
fn where_a_boot_option_leads(#[case] path: Vec<u8>, #[case] known: bool) {
    let forecast = told(&disk("15.8"), &once(&path, ""), Nobody);
    let open = forecast.unmodelled.iter().any(|open| open.what.starts_with("Boot0007"));
    assert_eq!((open, measured(&forecast, 0).is_empty()), (!known, !known), "{:?}", forecast.unmodelled);
    if !known {
        assert_eq!(forecast.outcome, None);
    }
}
