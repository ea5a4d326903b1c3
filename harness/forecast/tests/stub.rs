//! systemd-stub at work: add-ons, credentials and extensions beside a UKI, by version.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Memory, PLATFORM, STRANGER, VENDOR, again, firmware, machine, shim_of, tpm, variables};
use latchkey_disk::VarStore;
use latchkey_disk::bootcsv::{self, BootEntry};
use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId, vendor};
use latchkey_forecast::{Keyboard, Memo, RootVolume, TokenFact, TpmState};
use latchkey_measure::{HashAlg, Signer, hash, samples, sign_pe};
use latchkey_record::{Forecast, ForecastEvent, Stage};
use rstest::rstest;

const SBAT: &[u8] = b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";
const UKI: &str = "/EFI/BOOT/grubx64.efi";
const BESIDE: &str = "/EFI/BOOT/grubx64.efi.extra.d";
/// Seven bytes: the stub has to fill it up.
const INITRD: &[u8] = b"initrd!";

fn signed(sections: &[(&str, &[u8])], signer: &Signer) -> Vec<u8> {
    sign_pe(&samples::program(sections).unwrap(), signer).unwrap()
}

/// A disk whose shim starts a UKI with this systemd-stub.
fn disk(shim: &str, stub: u16) -> Memory {
    disk_of(shim, &format!("{stub}.9-1"))
}

fn disk_of(shim: &str, stub: &str) -> Memory {
    let magic = format!("#### LoaderInfo: systemd-stub {stub} ####");
    let kernel = samples::kernel("6.12.0").unwrap();
    let uki = signed(
        &[
            (".sdmagic", magic.as_bytes()),
            (".sbat", SBAT),
            (".osrel", b"ID=sample\n"),
            (".cmdline", b"quiet"),
            (".uname", b"6.12.0"),
            (".linux", &kernel),
            (".initrd", INITRD),
        ],
        &VENDOR,
    );
    Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim_of(shim)).with(UKI, uki)
}

fn addon(sections: &[(&str, &[u8])], signer: &Signer) -> Vec<u8> {
    signed(&[&[(".sbat", SBAT)], sections].concat(), signer)
}

fn told(esp: &Memory, variables: &VarStore) -> Forecast {
    again(&Memo::default(), esp, None, variables, None)
}

fn off() -> VarStore {
    let mut store = variables();
    store.set_secure_boot(SecureBoot::Off);
    store
}

/// What is measured after the second stage: PCR and words, sections and the end of boot services left out.
fn measured(forecast: &Forecast) -> Vec<String> {
    let events = forecast.legs[0].events.iter().skip_while(|event| event.what != "second stage").skip(1);
    let events = events.filter(|event| !matches!(event.pcr.get(), 5 | 11));
    events.map(|event| format!("{} {}", event.pcr, event.what)).collect()
}

/// The SHA-256 digest of the one event with these words.
fn digest(forecast: &Forecast, what: &str) -> latchkey_record::Digest {
    let mut found = forecast.legs[0].events.iter().filter(|event| event.what == what);
    let event = found.next().unwrap();
    assert!(found.next().is_none(), "{what} twice");
    event.digests[0].clone()
}

fn utf16(text: &str) -> Vec<u8> {
    format!("{text}\0").encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn sha256(bytes: &[u8]) -> latchkey_record::Digest {
    hash::digest(HashAlg::Sha256, bytes)
}

const END: [&str; 2] = ["9 load options: the command line", "9 initrd"];

#[rstest]
#[case::not_known_yet("15.8", 252, &[])]
#[case::one_directory_after_the_other("15.8", 254,
    &["4 add-on", "12 command line of add-ons", "4 add-on", "12 command line of add-ons"])]
#[case::both_at_once("15.8", 255, &["4 add-on", "4 add-on", "12 command line of add-ons"])]
#[case::after_the_sections("15.8", 257, &["4 add-on", "4 add-on", "12 command line of add-ons"])]
#[case::loaded_by_shim("16.1", 257, &["4 add-on", "4 add-on", "12 command line of add-ons"])]
fn addons_are_loaded_and_measured(#[case] shim: &str, #[case] stub: u16, #[case] expected: &[&str]) {
    let esp = disk(shim, stub)
        .with("/loader/addons/one.addon.efi", addon(&[(".cmdline", b"one \n")], &VENDOR))
        .with(&format!("{BESIDE}/two.addon.efi"), addon(&[(".cmdline", b"two")], &VENDOR))
        .with(&format!("{BESIDE}/readme.txt"), b"no add-on".to_vec());
    let forecast = told(&esp, &variables());
    assert_eq!(measured(&forecast), [expected, &END].concat());
    let whole = match stub {
        252 => "quiet",
        // Up to 256 the line break became a blank, and stayed.
        255 => "quiet one   two",
        _ => "quiet one two",
    };
    assert_eq!(digest(&forecast, "load options: the command line"), sha256(&utf16(whole)));
    if stub == 257 {
        assert_eq!(digest(&forecast, "command line of add-ons"), sha256(&utf16("one two")));
    }
    // 255 loads them before it measures the UKI's sections, 257 afterwards.
    let at = |what: &str| forecast.legs[0].events.iter().position(|event| event.what == what);
    if stub >= 254 {
        assert_eq!(at("add-on") < at("section .linux"), stub == 255);
    }
}

#[rstest]
#[case::by_a_stranger_under_an_old_shim("15.8", addon(&[(".cmdline", b"x")], &STRANGER), &["4 add-on"])]
#[case::by_a_stranger_under_a_recent_one("16.1", addon(&[(".cmdline", b"x")], &STRANGER), &[])]
#[case::by_somebody_in_db("16.1", addon(&[(".cmdline", b"x")], &PLATFORM),
    &["7 authority db", "4 add-on", "12 command line of add-ons"])]
#[case::without_sbat_data("15.8", signed(&[(".cmdline", b"x")], &VENDOR),
    &["4 add-on", "12 command line of add-ons"])]
#[case::for_another_kernel("15.8", addon(&[(".cmdline", b"x"), (".uname", b"5.14")], &VENDOR), &["4 add-on"])]
#[case::for_this_kernel("15.8", addon(&[(".cmdline", b"x"), (".uname", b"6.12.0")], &VENDOR),
    &["4 add-on", "12 command line of add-ons"])]
#[case::a_uki("15.8", addon(&[(".cmdline", b"x"), (".linux", b"x")], &VENDOR), &["4 add-on"])]
#[case::no_program("15.8", b"text".to_vec(), &[])]
#[case::with_an_initrd("15.8", addon(&[(".initrd", b"more")], &VENDOR), &["4 add-on", "12 initrd of an add-on"])]
fn which_addons_count(#[case] shim: &str, #[case] file: Vec<u8>, #[case] expected: &[&str]) {
    let forecast = told(&disk(shim, 257).with("/loader/addons/x.addon.efi", file), &variables());
    assert_eq!(measured(&forecast), [expected, &END].concat());
}

#[rstest]
#[case::secure_boot_off(off(), &["4 add-on", "12 command line of add-ons", "4 kernel in the UKI"])]
#[case::verification_off(
    {
        let mut store = variables();
        let id = VariableId::new("MokSBState", vendor::SHIM);
        store.set(Variable::new(id, Attributes::BOOT, vec![1]));
        store
    },
    &["4 add-on", "12 command line of add-ons"]
)]
fn without_verification_anybodys_addon_counts(#[case] store: VarStore, #[case] expected: &[&str]) {
    for shim in ["15.8", "16.1"] {
        let esp = disk(shim, 257).with("/loader/addons/x.addon.efi", addon(&[(".cmdline", b"x")], &STRANGER));
        assert_eq!(measured(&told(&esp, &store)), [expected, &END].concat(), "{shim}");
    }
}

/// Every sidecar that there is: which archives a version makes of them.
fn loaded(stub: u16) -> Memory {
    let mut esp = disk("15.8", stub).with("/loader/credentials/all.cred", b"global".to_vec());
    for (name, contents) in [
        ("b.cred", "second"),
        ("A.CRED", "first"),
        ("x.raw", "extension"),
        ("y.confext.raw", "configuration"),
        (".z.cred", "hidden"),
        ("ü.cred", "not plain"),
        ("notes", "other"),
    ] {
        esp = esp.with(&format!("{BESIDE}/{name}"), contents.into());
    }
    esp
}

#[rstest]
#[case(252, &["12 credentials", "12 global credentials", "13 system extensions"])]
#[case(255, &["12 credentials", "12 global credentials", "13 system extensions"])]
#[case(256, &["12 credentials", "12 global credentials", "13 system extensions", "12 configuration extensions"])]
#[case(257, &["12 credentials", "12 global credentials", "13 system extensions", "12 configuration extensions"])]
fn what_lies_beside_a_uki_is_measured(#[case] stub: u16, #[case] expected: &[&str]) {
    let forecast = told(&loaded(stub), &variables());
    assert_eq!(measured(&forecast), [expected, &END].concat());
    assert!(forecast.unmodelled.iter().all(|open| open.stage != Stage::Stub), "{:?}", forecast.unmodelled);
    let credentials = forecast.legs[0].events.iter().find(|event| event.what == "credentials").unwrap();
    assert_eq!(credentials.from.to_string(), format!("esp:{BESIDE}/A.CRED + b.cred"));
    assert_eq!(digest(&forecast, "credentials"), sha256(&packed(".extra/credentials", 0o500, 0o400)));
}

/// The archive of the two credentials, written down once more after the kernel's description of the format.
fn packed(directory: &str, of_directory: u32, of_file: u32) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, mode, name, contents) in [
        (1, 0o040_555, ".extra".to_owned(), ""),
        (2, 0o040_000 | of_directory, directory.to_owned(), ""),
        (3, 0o100_000 | of_file, format!("{directory}/A.CRED"), "first"),
        (4, 0o100_000 | of_file, format!("{directory}/b.cred"), "second"),
    ] {
        let (size, named) = (contents.len(), name.len() + 1);
        let numbers = "00000000".repeat(4);
        out.extend(
            format!(
                "070701{number:08x}{mode:08x}{:016}00000001{:08}{size:08x}{numbers}{named:08x}{:08}",
                0, 0, 0
            )
            .bytes(),
        );
        out.extend(name.bytes().chain([0]));
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend(contents.bytes());
        out.resize(out.len().next_multiple_of(4), 0);
    }
    let zeros = "00000000";
    out.extend(
        format!("070701{}00000001{}0000000B{zeros}TRAILER!!!\0\0\0\0", zeros.repeat(4), zeros.repeat(6))
            .bytes(),
    );
    out
}

/// The kernel gets the UKI's initrd, filled up, and the archives after it; 257 adds what the UKI says of its system.
#[test]
fn the_initrd_that_the_kernel_measures() {
    let plain = |stub| digest(&told(&disk("15.8", stub), &variables()), "initrd");
    assert_eq!(plain(252), sha256(INITRD));
    assert_ne!(plain(257), sha256(INITRD));
    let esp = disk("15.8", 252)
        .with(&format!("{BESIDE}/A.CRED"), b"first".to_vec())
        .with(&format!("{BESIDE}/b.cred"), b"second".to_vec());
    let whole = [INITRD, &[0], &packed(".extra/credentials", 0o500, 0o400)].concat();
    let forecast = told(&esp, &variables());
    assert_eq!(digest(&forecast, "initrd"), sha256(&whole));
    let from = forecast.legs[0].events.iter().find(|event| event.what == "initrd").unwrap().from.to_string();
    assert!(from.contains("A.CRED + b.cred"), "{from}");
}

/// A name without a file leaves the contents of the others with theirs.
#[test]
fn a_sidecar_that_is_not_there_is_left_out() {
    let forecast = told(&loaded(257).with_gap(&format!("{BESIDE}/aa.cred")), &variables());
    assert_eq!(digest(&forecast, "credentials"), sha256(&packed(".extra/credentials", 0o500, 0o400)));
}

#[test]
fn what_is_remembered_of_sidecars_changes_no_forecast() {
    let memo = Memo::default();
    let plain = loaded(257);
    let renamed = plain
        .clone()
        .without(&format!("{BESIDE}/b.cred"))
        .with(&format!("{BESIDE}/c.cred"), b"second".to_vec());
    for esp in [&plain, &renamed, &plain] {
        assert_eq!(again(&memo, esp, None, &variables(), None), told(esp, &variables()));
    }
}

/// A UKI with these sections besides those of [`disk`]'s that are always there.
fn with_sections(stub: u16, sections: &[(&str, &str)]) -> Memory {
    let magic = format!("#### LoaderInfo: systemd-stub {stub}.9-1 ####");
    let kernel = samples::kernel("6.12.0").unwrap();
    let always: [(&str, &[u8]); 4] =
        [(".sdmagic", magic.as_bytes()), (".sbat", SBAT), (".linux", &kernel), (".initrd", INITRD)];
    let sections = sections.iter().map(|(name, text)| (*name, text.as_bytes()));
    let all: Vec<(&str, &[u8])> = always.into_iter().chain(sections).collect();
    disk("15.8", stub).with(UKI, signed(&all, &VENDOR))
}

/// The kernel gets no load options where the UKI has no command line, and measures none; an empty one is one.
#[rstest]
#[case::none(&[], 0)]
#[case::blank(&[(".cmdline", " ")], 1)]
#[case::some(&[(".cmdline", "quiet")], 1)]
fn a_command_line_is_measured_where_there_is_one(#[case] sections: &[(&str, &str)], #[case] times: usize) {
    for version in [252, 257] {
        let forecast = told(&with_sections(version, sections), &variables());
        let options = |event: &&ForecastEvent| event.what.starts_with("load options");
        assert_eq!(forecast.legs[0].events.iter().filter(options).count(), times, "{version}");
    }
}

#[rstest]
#[case::several_profiles(257, &[(".cmdline", "a"), (".profile", "ID=0"), (".profile", "ID=1"), (".cmdline", "b")], true)]
#[case::one_that_overrides(257, &[(".cmdline", "a"), (".profile", "ID=0"), (".cmdline", "b")], true)]
#[case::one(257, &[(".cmdline", "a"), (".profile", "ID=0")], false)]
#[case::before_there_were_any(256, &[(".cmdline", "a"), (".profile", "ID=0"), (".cmdline", "b")], false)]
#[case::nobody_read_it(259, &[(".cmdline", "a")], true)]
fn what_of_a_stub_is_not_modelled_is_said(
    #[case] version: u16,
    #[case] sections: &[(&str, &str)],
    #[case] said: bool,
) {
    let forecast = told(&with_sections(version, sections), &variables());
    assert_eq!(says(&forecast), said, "{:?}", forecast.unmodelled);
}

/// Whether anything of the UKI is not modelled.
fn says(forecast: &Forecast) -> bool {
    forecast.unmodelled.iter().any(|open| open.what.ends_with(UKI))
}

/// A section's bytes in the file are not those that the stub measures where it is longer in memory, or has no size there.
#[rstest]
#[case::as_long_as_in_the_file(None, false)]
#[case::longer_in_memory(Some(0x1000), true)]
#[case::of_no_size(Some(0), true)]
fn a_section_of_another_length_in_memory_is_said(#[case] in_memory: Option<u32>, #[case] said: bool) {
    let kernel = samples::kernel("6.12.0").unwrap();
    let magic: &[u8] = b"#### LoaderInfo: systemd-stub 257.9-1 ####";
    let sections = [(".sdmagic", magic), (".sbat", SBAT), (".osrel", b"ID=sample\n"), (".linux", &kernel)];
    let mut uki = samples::program(&sections).unwrap();
    if let Some(size) = in_memory {
        // The size in memory follows the name (PE format, "Section Table").
        let at = uki.windows(8).position(|name| name == b".osrel\0\0").unwrap() + 8;
        uki[at..at + 4].copy_from_slice(&size.to_le_bytes());
    }
    let forecast = told(&disk("15.8", 257).with(UKI, sign_pe(&uki, &VENDOR).unwrap()), &variables());
    assert_eq!(says(&forecast), said, "{:?}", forecast.unmodelled);
}

/// Whether the machine is a confidential one, where later stubs take no load options, is not known of one whose TPM is
/// elsewhere.
#[rstest]
#[case::here(254, TokenFact::Loads, variables(), false)]
#[case::elsewhere(254, TokenFact::Supposed, variables(), true)]
#[case::elsewhere_and_older(252, TokenFact::Supposed, variables(), false)]
#[case::elsewhere_without_secure_boot(254, TokenFact::Supposed, off(), false)]
fn load_options_of_a_machine_that_may_be_confidential(
    #[case] stub: u16,
    #[case] fact: TokenFact,
    #[case] store: VarStore,
    #[case] said: bool,
) {
    let list = [BootEntry {
        file: "shimx64.efi".into(),
        label: "Sample".into(),
        options: format!("{} quiet", UKI.replace('/', "\\")),
        comment: String::new(),
    }];
    // One without a command line of its own; the fallback program makes the boot option.
    let esp = with_sections(stub, &[])
        .with("/EFI/rocky/shimx64.efi", shim_of("15.8"))
        .with("/EFI/rocky/BOOTX64.CSV", bootcsv::to_bytes(&list))
        .with("/EFI/BOOT/fbx64.efi", addon(&[], &VENDOR));
    let root = RootVolume::Plain;
    let tpm = TpmState { tokens: [(0, fact)].into(), ..tpm(&[HashAlg::Sha256], root) };
    let forecast = machine(&firmware(), &tpm, Keyboard::Nobody, &Memo::default(), &esp, None, &store, root);
    let events = &forecast.legs.last().unwrap().events;
    assert!(events.iter().any(|event| event.what == "command line from outside"), "{}", forecast.because);
    assert_eq!(says(&forecast), said, "{:?}", forecast.unmodelled);
}

/// From 16.1 on shim knows what it verified with the UKI; 16.0 does not.
#[rstest]
#[case("15.8", false)]
#[case("16.0", true)]
#[case("16.1", false)]
fn the_kernel_in_a_uki_under_the_first_shim_that_loads(#[case] shim: &str, #[case] said: bool) {
    let forecast = told(&disk(shim, 257), &variables());
    assert_eq!(says(&forecast), said, "{:?}", forecast.unmodelled);
    assert!(!says(&told(&disk(shim, 257), &off())));
}

/// What the stub may find otherwise than it stands in the file is said.
#[test]
fn a_device_tree_that_hardware_chooses_is_said() {
    let with = |more: &[(&str, &[u8])]| {
        let kernel = samples::kernel("6.12.0").unwrap();
        let magic: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1 ####";
        let own = [(".sdmagic", magic), (".sbat", SBAT), (".linux", &kernel), (".dtbauto", b"tree")];
        let uki = signed(&[&own[..], more].concat(), &VENDOR);
        told(&disk("15.8", 257).with(UKI, uki), &variables())
    };
    let (none, chosen) = (with(&[]), with(&[(".hwids", b"ids")]));
    let is_measured =
        |forecast: &Forecast| forecast.legs[0].events.iter().any(|e| e.what.contains(".dtbauto"));
    assert!(!is_measured(&none) && !is_measured(&chosen));
    let said =
        |forecast: &Forecast| forecast.unmodelled.iter().any(|open| open.why.contains("chosen by hardware"));
    assert_eq!((said(&none), said(&chosen)), (false, true));
}

/// What Red Hat's kernel puts into PCR 9 goes by its release, and is said where nobody knows.
#[rstest]
#[case("5.14.0-362.8.1.el9_3.x86_64", &[], false)]
#[case("5.14.0-427.13.1.el9_4.x86_64", &[], true)]
#[case("5.14.0-503.11.1.el9_5.x86_64", &END, false)]
fn red_hats_kernel(#[case] release: &str, #[case] expected: &[&str], #[case] open: bool) {
    let kernel = samples::kernel(release).unwrap();
    let magic: &[u8] = b"#### LoaderInfo: systemd-stub 252-55.el9_7.7 ####";
    let own = [
        (".sdmagic", magic),
        (".sbat", SBAT),
        (".cmdline", b"quiet"),
        (".linux", &kernel),
        (".initrd", INITRD),
    ];
    let forecast = told(&disk("15.8", 252).with(UKI, signed(&own, &VENDOR)), &variables());
    assert_eq!(measured(&forecast), expected);
    let said: Vec<_> = forecast.unmodelled.iter().filter(|open| open.stage == Stage::Kernel).collect();
    assert_eq!(said.len(), usize::from(open));
    assert!(said.iter().all(|open| open.pcrs.iter().map(|pcr| pcr.get()).eq([9])));
}

/// Red Hat's 252 took over what later versions measure and load, release by release.
#[rstest]
#[case::not_yet("252-18.el9", &[".linux", ".osrel", ".cmdline", ".initrd"], &[])]
#[case::more_sections("252-27.el9", &[".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"], &[])]
#[case::and_addons("252-55.el9_7.7", &[".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"],
    &["4 add-on", "12 command line of add-ons"])]
fn red_hats_stub_has_parts_of_later_ones(
    #[case] stub: &str,
    #[case] sections: &[&str],
    #[case] addons: &[&str],
) {
    let esp = disk_of("15.8", stub)
        .with("/loader/addons/one.addon.efi", addon(&[(".cmdline", b"one \n")], &VENDOR));
    let forecast = told(&esp, &variables());
    assert_eq!(measured(&forecast), [addons, &END].concat());
    let in_11 = forecast.legs[0].events.iter().filter(|event| event.pcr.get() == 11);
    let in_11: Vec<_> = in_11.filter_map(|event| event.what.strip_prefix("section ")).collect();
    assert_eq!(in_11, sections);
    let open = forecast.unmodelled.iter().filter(|open| matches!(open.stage, Stage::Stub | Stage::Kernel));
    assert_eq!(open.count(), 0, "{:?}", forecast.unmodelled);
    // It leaves the blanks at the end of a command line.
    let whole = if addons.is_empty() { "quiet" } else { "quiet one  " };
    assert_eq!(digest(&forecast, "load options: the command line"), sha256(&utf16(whole)));
}
