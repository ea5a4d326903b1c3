//! Whole chains out of small images made here, on a disk that exists in memory alone.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_shim::uki_by;
use common::{Memory, STRANGER, VENDOR, again, shim_of, told, variables};
use latchkey_disk::VarStore;
use latchkey_disk::bootcsv::{self, BootEntry};
use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId, vendor};
use latchkey_forecast::firmware::FirmwareImage;
use latchkey_forecast::{Keyboard, Memo, RootVolume, align};
use latchkey_measure::siglist::X509_SHA256;
use latchkey_measure::{HashAlg, SignatureList, Signer, Uuid, certfile, hash, sign_pe};
use latchkey_record::forecast::Difference;
use latchkey_record::tpm::{TpmDetail, TpmExchange, TpmRecord, TpmResponse, command};
use latchkey_record::{Forecast, Origin, Outcome};
use rstest::rstest;

const SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
                    grub,5,GRUB,grub,2,https://gnu.org\n";
const UKI: &str = "/EFI/Linux/uki.efi";

fn certificate_file(signer: &Signer) -> Vec<u8> {
    let lists = SignatureList::x509(vendor::SHIM, STRANGER.certificate()).to_bytes();
    sign_pe(&certfile::build(&lists, SBAT).unwrap(), signer).unwrap()
}

/// A disk whose vendor directory has a shim of `version` and a list that names the UKI.
fn disk(version: &str) -> Memory {
    let list = [BootEntry {
        file: "shimx64.efi".into(),
        label: "Sample".into(),
        // Without the blank nothing ends the name, and shim does not take it for one.
        options: format!("{} ", UKI.replace('/', "\\")),
        comment: String::new(),
    }];
    Memory::default()
        .with("/EFI/rocky/shimx64.efi", shim_of(version))
        .with("/EFI/rocky/BOOTX64.CSV", bootcsv::to_bytes(&list))
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of(version))
        .with(
            "/EFI/BOOT/fbx64.efi",
            sign_pe(&certfile::build(&list_of_nothing(), SBAT).unwrap(), &VENDOR).unwrap(),
        )
        .with(UKI, uki_by(&VENDOR))
}

fn list_of_nothing() -> Vec<u8> {
    SignatureList::sha256(Uuid::nil(), &[[0; 32]]).to_bytes()
}

/// What of the last start is measured from `file`.
fn from_file<'a>(forecast: &'a Forecast, file: &str) -> Vec<(&'a str, u8)> {
    let wanted = Origin::File(format!("esp:{file}"));
    let events = forecast.legs.last().unwrap().events.iter().filter(|event| event.from == wanted);
    events.map(|event| (event.what.as_str(), event.pcr.get())).collect()
}

#[test]
fn what_is_remembered_changes_no_forecast() {
    let memo = latchkey_forecast::Memo::default();
    let plain = disk("15.8");
    let with_file = plain.clone().with("/EFI/rocky/shim_certificate.efi", certificate_file(&VENDOR));
    let with_uki = plain.clone().with(UKI, uki_by(&STRANGER));
    for disk in [&plain, &with_file, &with_uki, &plain] {
        assert_eq!(again(&memo, disk, None, &variables(), None), told(disk, &variables()));
    }
}

#[test]
fn a_hash_of_the_firmwares_volume_that_is_known_is_not_computed() {
    let known = hash::digest(HashAlg::Sha256, b"known");
    let firmware = FirmwareImage { dxe_digests: vec![known.clone()], ..common::firmware() };
    let tpm = common::tpm(&[HashAlg::Sha256, HashAlg::Sha384], RootVolume::Plain);
    let esp = disk("15.8");
    let (memo, variables, root) = (Memo::default(), variables(), RootVolume::Plain);
    let told = common::machine(&firmware, &tpm, Keyboard::Nobody, &memo, &esp, None, &variables, root);
    let measured = told.legs[0].events.iter().find(|event| event.what == "DXE volume").unwrap();
    assert_eq!(measured.digests, [known, hash::digest(HashAlg::Sha384, &firmware.dxe_volume)]);
}

#[test]
fn a_fresh_machine_goes_through_the_fallback_program_and_a_reset() {
    let forecast = told(&disk("15.8"), &variables());
    assert_eq!(forecast.legs.len(), 2);
    let first: Vec<&str> = forecast.legs[0].events.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(first.last(), Some(&"fallback program"));
    assert_eq!(from_file(&forecast, "/EFI/rocky/shimx64.efi"), [("boot loader", 4)]);
    assert_eq!(from_file(&forecast, UKI), [("second stage", 4)]);
    assert!(forecast.next["Boot0003"].contains("Sample"), "{:?}", forecast.next);
    assert!(forecast.next["SbatLevel"].contains("2023012900"));
}

#[rstest]
#[case::any_name("15.7", "shim_certificate.efi.bak", true)]
#[case::exactly_that_name("15.8", "shim_certificate.efi.bak", false)]
#[case::activated("15.8", "shim_certificate.efi", true)]
#[case::any_name_again("16.1", "shim_certificate.efi.bak", true)]
#[case::another_beginning("16.1", "disabled_shim_certificate.efi", false)]
#[case::too_old_for_them("15.4", "shim_certificate.efi", false)]
fn the_version_decides_which_certificate_files_count(
    #[case] version: &str,
    #[case] name: &str,
    #[case] loaded: bool,
) {
    let path = format!("/EFI/rocky/{name}");
    let before = told(&disk(version), &variables());
    let with_file = disk(version).with(&path, certificate_file(&VENDOR));
    let after = told(&with_file, &variables());
    assert_eq!(!from_file(&after, &path).is_empty(), loaded);
    let moved: Vec<u8> = after.pcrs[&HashAlg::Sha256]
        .moved_since(&before.pcrs[&HashAlg::Sha256])
        .iter()
        .map(|pcr| pcr.get())
        .collect();
    assert_eq!(moved, if loaded { vec![4, 7, 14] } else { vec![] });
    // Secure Boot off: shim does not even look.
    let mut off = variables();
    off.set_secure_boot(SecureBoot::Off);
    assert!(from_file(&told(&with_file, &off), &path).is_empty());
}

#[rstest]
#[case::kernel_by_a_stranger(disk("15.8").with(UKI, uki_by(&STRANGER)), Outcome::RefusedByShim, "uki.efi")]
#[case::certificate_file_by_a_stranger(
    disk("15.8").with("/EFI/rocky/shim_certificate.efi", certificate_file(&STRANGER)),
    Outcome::RefusedByShim,
    "shim_certificate.efi"
)]
#[case::shim_by_a_stranger(
    disk("15.8")
        .with("/EFI/rocky/shimx64.efi", uki_by(&STRANGER))
        .with("/EFI/BOOT/BOOTX64.EFI", uki_by(&STRANGER)),
    Outcome::RefusedByFirmware,
    "BOOTX64.EFI"
)]
#[case::nothing_there(Memory::default(), Outcome::NoBootOption, "boot option")]
fn refusals_name_their_file(#[case] esp: Memory, #[case] outcome: Outcome, #[case] named: &str) {
    let forecast = told(&esp, &variables());
    assert_eq!(forecast.outcome, Some(outcome), "{}", forecast.because);
    assert!(forecast.because.contains(named), "{}", forecast.because);
}

#[test]
fn a_certificate_out_of_a_file_is_trusted_in_the_same_boot() {
    let esp = disk("15.8")
        .with("/EFI/rocky/shim_certificate.efi", certificate_file(&VENDOR))
        .with(UKI, uki_by(&STRANGER));
    assert_eq!(from_file(&told(&esp, &variables()), UKI), [("second stage", 4)]);
}

#[rstest]
#[case::older_is_raised("sbat,1,2021030218\n", true)]
#[case::newer_stays("sbat,1,2025021800\nshim,4\ngrub,5\n", false)]
fn the_sbat_level_only_rises(#[case] stored: &str, #[case] raised: bool) {
    let mut before = variables();
    let id = VariableId::new("SbatLevel", vendor::SHIM);
    before.set(Variable::new(id, Attributes::BOOT, stored.into()));
    assert_eq!(told(&disk("15.8"), &before).next.contains_key("SbatLevel"), raised);
}

#[test]
fn a_level_that_a_shim_left_behind_refuses_an_older_grub() {
    let old =
        "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\ngrub,3,G,grub,2,u\n";
    let grub = sign_pe(&certfile::build(&list_of_nothing(), old).unwrap(), &VENDOR).unwrap();
    let esp = disk("15.8").with(UKI, grub);
    let mut risen = variables();
    let id = VariableId::new("SbatLevel", vendor::SHIM);
    risen.set(Variable::new(id, Attributes::BOOT, b"sbat,1,2025021800\nshim,4\ngrub,5\n".to_vec()));
    let forecast = told(&esp, &risen);
    assert_eq!(forecast.outcome, Some(Outcome::RefusedByShim));
    assert!(forecast.because.contains("grub,3"), "{}", forecast.because);
}

/// What a TPM would record of this forecast, without the events that `left_out` picks.
fn recorded(forecast: &Forecast, left_out: impl Fn(&Origin, &str) -> bool) -> TpmRecord {
    let legs = forecast.legs.iter().zip(0..);
    let exchanges = legs.flat_map(|(leg, reset)| {
        let seen = leg.events.iter().filter(|event| !left_out(&event.from, &event.what));
        let seen: Vec<TpmExchange> = seen
            .map(|event| TpmExchange {
                at_ms: 0,
                reset,
                code: command::PCR_EXTEND,
                command: "PCR_Extend".into(),
                handles: vec![],
                detail: Some(TpmDetail::Extend {
                    pcr: event.pcr,
                    digests: match event.digests.as_slice() {
                        [] => vec![event.pcr.start_value(HashAlg::Sha256)],
                        known => known.to_vec(),
                    },
                }),
                response: TpmResponse { code: 0, words: "SUCCESS".into() },
            })
            .collect();
        seen
    });
    TpmRecord { exchanges: exchanges.collect(), doubts: vec![] }
}

/// A shim 16.1 that followed 15.8's rule would not read the inactive certificate: the boot then lacks the file's events.
#[test]
fn a_stage_that_is_modelled_wrongly_is_caught_with_the_file_named() {
    let file = "/EFI/rocky/shim_certificate.efi.bak";
    let forecast = told(&disk("16.1").with(file, certificate_file(&VENDOR)), &variables());
    let as_forecast = align(&forecast, &recorded(&forecast, |_, _| false), &[0, 1], HashAlg::Sha256);
    assert_eq!(as_forecast.mismatches, []);
    let wanted = Origin::File(format!("esp:{file}"));
    let boot = recorded(&forecast, |from, what| *from == wanted || what == "authority Shim");
    let mismatches = align(&forecast, &boot, &[0, 1], HashAlg::Sha256).mismatches;
    let told: Vec<_> = mismatches.iter().map(|m| (m.kind, m.pcr.get(), m.from.clone())).collect();
    let shim = Origin::Part { file: "shim".into(), part: ".vendor_cert".into() };
    assert_eq!(told, [(Difference::Missing, 7, Some(shim)), (Difference::Missing, 4, Some(wanted))]);
}

/// What the firmware does before any boot option is not modelled, and said.
#[rstest]
#[case::drivers("DriverOrder", vec![0, 0], true, true)]
#[case::no_drivers("DriverOrder", vec![], false, true)]
#[case::applications("SysPrepOrder", vec![0, 0], true, true)]
#[case::its_menu("OsIndications", vec![1, 0, 0, 0, 0, 0, 0, 0], true, false)]
#[case::its_recovery("OsIndications", vec![0x40, 0, 0, 0, 0, 0, 0, 0], true, false)]
#[case::another_wish("OsIndications", vec![4, 0, 0, 0, 0, 0, 0, 0], false, true)]
fn what_comes_before_the_boot_options_is_said(
    #[case] name: &str,
    #[case] data: Vec<u8>,
    #[case] said: bool,
    #[case] goes_on: bool,
) {
    let mut store = variables();
    store.set(Variable::new(VariableId::new(name, vendor::GLOBAL), Attributes::RUNTIME, data));
    let forecast = told(&disk("15.8"), &store);
    assert_eq!(forecast.unmodelled.iter().any(|open| open.what == name), said, "{:?}", forecast.unmodelled);
    assert_eq!(forecast.legs.len() > 1, goes_on, "{}", forecast.because);
    assert_eq!(forecast.next.contains_key(name), !goes_on);
}

/// A database of those who say when something was signed is measured where there is one.
#[test]
fn databases_are_measured_in_their_order() {
    let names = |store: &VarStore| -> Vec<String> {
        let events = told(&disk("15.8"), store).legs.remove(0).events;
        events.into_iter().filter(|e| e.pcr.get() == 7).map(|e| e.what).take(6).collect()
    };
    assert_eq!(names(&variables()), ["SecureBoot", "PK", "KEK", "db", "dbx", "separator"]);
    let mut store = variables();
    let lists = SignatureList::x509(Uuid::nil(), STRANGER.certificate()).to_bytes();
    let id = VariableId::new("dbt", vendor::IMAGE_SECURITY);
    store.set(Variable::new(id, Attributes::RUNTIME, lists));
    assert_eq!(names(&store), ["SecureBoot", "PK", "KEK", "db", "dbx", "dbt"]);
}

/// `EFI_CERT_SHA384_GUID` (UEFI 2.10, section 32.4.1).
const SHA384: Uuid = Uuid::from_u128(0xff3e_5307_9fd0_48c9_85f1_8ad5_6c70_1e01);

/// What stands in db and dbx and is not modelled is said once.
#[rstest]
#[case::certificates_by_their_hash("dbx", X509_SHA256, "dbx")]
#[case::a_hash_of_another_kind("db", SHA384, "db, dbx")]
fn what_is_not_modelled_of_a_database_is_said(#[case] name: &str, #[case] kind: Uuid, #[case] what: &str) {
    let mut list = kind.to_bytes_le().to_vec();
    // One entry: owner, and 48 bytes more.
    for size in [28_u32 + 64, 0, 64] {
        list.extend(size.to_le_bytes());
    }
    list.extend([7; 64]);
    let mut store = variables();
    let mut database = store.get(&VariableId::new(name, vendor::IMAGE_SECURITY)).unwrap().clone();
    database.data.extend(list);
    store.set(database);
    let said = |store| told(&disk("15.8"), store).unmodelled.iter().filter(|open| open.what == what).count();
    assert_eq!((said(&variables()), said(&store)), (0, 1));
}
