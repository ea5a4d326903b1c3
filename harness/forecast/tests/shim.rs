//! shim at work: what its owner and the running system asked for, refusals, and what comes after them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::LazyLock;

use common::at_shim::{PLAIN, cut_off, measured, program, programs, shims, told, uki_by, with};
use common::{Memory, PLATFORM, STRANGER, VENDOR, shim_of, under_later_firmware, variables};
use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Attributes, SecureBoot, Variable, VariableId, vendor};
use latchkey_forecast::Keyboard;
use latchkey_measure::{HashAlg, PeImage, SignatureList, Signer, Uuid, samples, sign_pe};
use latchkey_record::{Forecast, Outcome, Stage};
use rstest::rstest;

use Keyboard::{Nobody, Somebody};

static MODULES: LazyLock<Signer> = LazyLock::new(|| samples::module_signer("modules").unwrap());

/// A disk that is started from its removable-media path: shim, what it starts by default, MokManager.
fn disk(version: &str) -> Memory {
    Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of(version))
        .with("/EFI/BOOT/grubx64.efi", uki_by(&VENDOR))
        .with("/EFI/BOOT/mmx64.efi", program(&[], &VENDOR))
}

fn certificate(signer: &Signer) -> Vec<u8> {
    SignatureList::x509(Uuid::nil(), signer.certificate()).to_bytes()
}

/// A request to change a state: what is wanted, the password's length, the password.
fn state(wanted: u32) -> Vec<u8> {
    [&wanted.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 32]].concat()
}

#[rstest]
#[case::nothing_special("15.8", &[], &PLAIN)]
#[case::request_and_nobody("15.8", &[("MokNew", &[1][..]), ("MokAuth", &[0; 32][..])],
    &["14 MokList", "14 MokListX", "7 authority SbatLevel", "14 MokListTrusted", "7 authority MokListRT", "4 MokManager",
      "4 second stage"])]
#[case::request_for_less("16.1", &[("MokSB", &[0; 40][..])],
    &["14 MokList", "14 MokListX", "7 authority SbatLevel", "14 MokListTrusted", "7 authority MokListRT", "4 MokManager",
      "4 second stage"])]
#[case::no_request_by_itself("15.8", &[("MokDelAuth", &[0; 32][..])], &PLAIN)]
#[case::verification_switched_off("15.8", &[("MokSBState", &[1][..])],
    &["14 MokList", "14 MokListX", "7 authority MokSBState", "14 MokSBState", "7 authority SbatLevel", "14 MokListTrusted",
      "4 second stage"])]
#[case::lists_of_its_owner_not_trusted_later("15.8", &[("MokListTrusted", &[1][..])],
    &["14 MokList", "14 MokListX", "7 authority SbatLevel", "7 authority MokListRT", "4 second stage"])]
fn what_is_measured_with_nobody_at_the_keyboard(
    #[case] version: &str,
    #[case] state: &[(&str, &[u8])],
    #[case] expected: &[&str],
) {
    let forecast = told(&disk(version), &with(state), Nobody);
    assert_eq!(forecast.legs.len(), 1);
    assert_eq!(measured(&forecast, 0), expected);
    let requests = state.iter().filter(|(name, _)| ["MokNew", "MokAuth", "MokSB"].contains(name));
    requests.for_each(|(name, _)| assert!(forecast.next[*name].contains("deleted"), "{:?}", forecast.next));
}

#[test]
fn a_variable_that_the_system_made_itself_counts_for_nothing() {
    let mut store = variables();
    store.set(Variable::new(shims("MokSBState"), Attributes::RUNTIME, vec![1]));
    let forecast = told(&disk("15.8"), &store, Nobody);
    assert_eq!(measured(&forecast, 0), PLAIN);
    assert!(forecast.next["MokSBState"].contains("deleted"));
}

/// That its owner's keys count is measured where the variable was not there, and not where shim has just deleted it.
#[test]
fn a_variable_that_says_whether_keys_count_is_deleted_without_a_measurement() {
    let mut store = variables();
    store.set(Variable::new(shims("MokListTrusted"), Attributes::RUNTIME, vec![1]));
    let forecast = told(&disk("15.8"), &store, Nobody);
    let expected: Vec<&str> = PLAIN.into_iter().filter(|event| *event != "14 MokListTrusted").collect();
    assert_eq!(measured(&forecast, 0), expected);
    assert!(forecast.next["MokListTrusted"].contains("deleted"));
}

#[test]
fn a_key_that_somebody_enrols_counts_after_the_reset() {
    let request = with(&[("MokNew", &certificate(&STRANGER)), ("MokAuth", &[0; 32][..])]);
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER));
    assert_eq!(told(&esp, &request, Nobody).outcome, Some(Outcome::RefusedByShim));
    let forecast = told(&esp, &request, Somebody);
    assert_eq!(forecast.legs.len(), 2);
    assert_eq!(measured(&forecast, 0).last().unwrap(), "4 MokManager");
    assert_eq!(measured(&forecast, 1), PLAIN);
    let lists = forecast.legs.iter().map(|leg| leg.events.iter().find(|event| event.what == "MokList"));
    let lists: Vec<_> = lists.map(|event| &event.unwrap().digests).collect();
    assert_ne!(lists[0], lists[1]);
    // And a key that is deleted again is gone.
    let enrolled = certificate(&STRANGER);
    let undo = with(&[("MokList", &enrolled), ("MokDel", &enrolled), ("MokDelAuth", &[0; 172][..])]);
    let undone = told(&disk("15.8"), &undo, Somebody);
    let list = undone.legs[1].events.iter().find(|event| event.what == "MokList").unwrap();
    assert_eq!(&list.digests, lists[0]);
}

#[rstest]
#[case::without_a_password(&[("MokNew", vec![1])], 1, &[])]
#[case::verification_off(&[("MokSB", state(0))], 2, &["7 authority MokSBState"])]
#[case::verification_on_again(&[("MokSBState", vec![1]), ("MokSB", state(1))], 2, &[])]
#[case::state_of_the_wrong_size(&[("MokSB", vec![0; 8])], 1, &[])]
#[case::all_keys_go(&[("MokList", certificate(&STRANGER)), ("MokAuth", vec![0; 32])], 2, &[])]
#[case::revoked_hash(&[("MokXNew", SignatureList::sha256(Uuid::nil(), &[[3; 32]]).to_bytes()),
    ("MokXAuth", vec![0; 32])], 2, &[])]
fn what_somebody_grants(#[case] requests: &[(&str, Vec<u8>)], #[case] legs: usize, #[case] more: &[&str]) {
    let pairs: Vec<(&str, &[u8])> = requests.iter().map(|(name, data)| (*name, &data[..])).collect();
    let forecast = told(&disk("15.8"), &with(&pairs), Somebody);
    assert_eq!(forecast.legs.len(), legs, "{forecast:?}");
    let last = measured(&forecast, legs - 1);
    for wanted in more {
        assert!(last.iter().any(|event| event == wanted), "{last:?}");
    }
    assert_eq!(last.iter().any(|event| event == "7 authority MokSBState"), !more.is_empty());
    // Every request is used up.
    for name in ["MokNew", "MokSB", "MokAuth", "MokXNew", "MokXAuth"] {
        let asked = requests.iter().any(|(request, _)| *request == name);
        assert_eq!(forecast.next.contains_key(name), asked, "{name}: {:?}", forecast.next);
    }
}

#[rstest]
#[case::missing("15.8", None, &[], Some(Outcome::RefusedByShim), "switches the machine off")]
#[case::missing_where_shim_is_recent("16.1", None, &[], Some(Outcome::RestartLoop), "for ever")]
#[case::with_a_password("15.8", Some(&*VENDOR), &[("MokPWStore", &[0; 32][..])], Some(Outcome::RefusedByShim), "waits for")]
#[case::told_to_wait("15.8", Some(&*VENDOR), &[("MokTimeout", &[0xff; 4][..])], Some(Outcome::RefusedByShim), "waits for")]
#[case::by_a_stranger("15.8", Some(&*STRANGER), &[], Some(Outcome::RefusedByShim), "mmx64.efi is signed by nobody")]
fn a_manager_that_does_not_answer(
    #[case] version: &str,
    #[case] manager: Option<&Signer>,
    #[case] state: &[(&str, &[u8])],
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    let path = "/EFI/BOOT/mmx64.efi";
    let esp = match manager {
        Some(signer) => disk(version).with(path, program(&[], signer)),
        None => disk(version).without(path),
    };
    let forecast = told(&esp, &with(&[&[("MokNew", &[1][..])], state].concat()), Nobody);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

#[test]
fn without_verification_a_stranger_is_started() {
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER));
    assert_eq!(told(&esp, &variables(), Nobody).outcome, Some(Outcome::RefusedByShim));
    let forecast = told(&esp, &with(&[("MokSBState", &[1][..])]), Nobody);
    assert_eq!(measured(&forecast, 0).last().unwrap(), "4 second stage");
}

#[test]
fn db_counts_unless_the_owner_says_otherwise() {
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(&PLATFORM));
    assert!(measured(&told(&esp, &variables(), Nobody), 0).contains(&"7 authority db".to_owned()));
    let forecast = told(&esp, &with(&[("MokDBState", &[1][..])]), Nobody);
    assert_eq!(forecast.outcome, Some(Outcome::RefusedByShim));
}

/// Every signature is verified, also after one that counts, and each authority measured.
#[test]
fn each_signature_has_its_authority() {
    let twice = sign_pe(&uki_by(&VENDOR), &PLATFORM).unwrap();
    let forecast = told(&disk("15.8").with("/EFI/BOOT/grubx64.efi", twice), &variables(), Nobody);
    let last: Vec<String> = measured(&forecast, 0).into_iter().skip(4).collect();
    assert_eq!(last, ["7 authority MokListRT", "7 authority db", "4 second stage"]);
}

const OLD: &str = "sbat,1,2021030218\n";
#[rstest]
#[case::by_itself(SecureBoot::On, None, OLD, "2023012900")]
#[case::latest(SecureBoot::On, Some(1), OLD, "2024010900")]
#[case::automatic(SecureBoot::On, Some(2), OLD, "2023012900")]
#[case::no_reset_under_secure_boot(SecureBoot::On, Some(3), OLD, "2023012900")]
#[case::higher_stays(SecureBoot::On, Some(1), "sbat,1,2025021800\nshim,4\n", "2025021800")]
#[case::something_else(SecureBoot::On, Some(9), OLD, "2023012900")]
#[case::reset(SecureBoot::Off, None, "sbat,1,2025021800\nshim,4\n", "2021030218")]
#[case::latest_without_secure_boot(SecureBoot::Off, Some(1), OLD, "2024010900")]
#[case::not_lowered_when_asked_for_latest(
    SecureBoot::Off,
    Some(1),
    "sbat,1,2025021800\nshim,4\n",
    "2025021800"
)]
fn the_policy_decides_the_sbat_level(
    #[case] secure_boot: SecureBoot,
    #[case] policy: Option<u8>,
    #[case] stored: &str,
    #[case] expected: &str,
) {
    let policy = policy.map(|policy| [policy]);
    let mut state = vec![("SbatLevel", stored.as_bytes())];
    state.extend(policy.as_ref().map(|policy| ("SbatPolicy", &policy[..])));
    let mut store = with(&state);
    store.set_secure_boot(secure_boot);
    let forecast = told(&disk("15.8"), &store, Nobody);
    let now = forecast.next.get("SbatLevel").cloned().unwrap_or(stored.into());
    assert!(now.contains(expected), "{:?}", forecast.next);
    assert_eq!(forecast.next.contains_key("SbatPolicy"), policy.is_some());
}

/// How shims before 15.8 set the level without Secure Boot, or when asked for one, and what they measure when it refuses,
/// is said.
#[rstest]
#[case::as_ever("15.7", SecureBoot::On, None, "", false)]
#[case::without_secure_boot("15.7", SecureBoot::Off, None, "", true)]
#[case::asked_for_one("15.7", SecureBoot::On, Some(2), "", true)]
#[case::refused("15.7", SecureBoot::On, None, "systemd,9\n", true)]
#[case::later_without_secure_boot("15.8", SecureBoot::Off, None, "", false)]
#[case::later_refused("15.8", SecureBoot::On, None, "systemd,9\n", false)]
fn what_of_older_shims_is_not_modelled_is_said(
    #[case] version: &str,
    #[case] secure_boot: SecureBoot,
    #[case] policy: Option<u8>,
    #[case] revoked: &str,
    #[case] said: bool,
) {
    let level = format!("sbat,1,2026010100\n{revoked}");
    let policy = policy.map(|policy| [policy]);
    let mut state = vec![("SbatLevel", level.as_bytes())];
    state.extend(policy.as_ref().map(|policy| ("SbatPolicy", &policy[..])));
    let mut store = with(&state);
    store.set_secure_boot(secure_boot);
    let forecast = told(&disk(version), &store, Nobody);
    let mut open = forecast.unmodelled.iter().filter(|open| open.stage == Stage::Shim);
    assert_eq!(open.any(|open| open.why.contains("before 15.8")), said, "{:?}", forecast.unmodelled);
    let refused = forecast.outcome == Some(Outcome::RefusedByShim);
    assert_eq!(refused, !revoked.is_empty(), "{}", forecast.because);
}

const RAISED: &[u8] = b"sbat,1,2025060100\nshim,4\ngrub,7\n\0";

fn revocations(automatic: &[u8]) -> Vec<u8> {
    program(&[(".sbata", automatic), (".sbatl", automatic)], &VENDOR)
}

#[rstest]
#[case("15.8", "revocations.efi", true)]
#[case("15.8", "revocations_sbat.efi", false)]
#[case("15.7", "revocations.efi", false)]
#[case("16.1", "Revocations_SBAT.efi", true)]
#[case("16.1", "revocations_sku.efi", true)]
#[case("16.1", "revocations.efi", false)]
fn revocations_are_known_by_their_names(#[case] version: &str, #[case] name: &str, #[case] counts: bool) {
    let esp = disk(version).with(&format!("/EFI/BOOT/{name}"), revocations(RAISED));
    let forecast = told(&esp, &variables(), Nobody);
    let seen = measured(&forecast, 0);
    assert_eq!(seen[..2] == ["7 authority Shim", "4 revocations"], counts, "{seen:?}");
    assert_eq!(forecast.next["SbatLevel"].contains("2025060100"), counts);
    let mut off = variables();
    off.set_secure_boot(SecureBoot::Off);
    assert!(!measured(&told(&esp, &off, Nobody), 0).contains(&"4 revocations".to_owned()));
}

#[test]
fn revocations_come_before_certificates_and_only_rise() {
    let list = certificate(&STRANGER);
    let esp = disk("16.1")
        .with("/EFI/BOOT/shim_certificate.efi", program(&[(".db", &list)], &VENDOR))
        .with(
            "/EFI/BOOT/revocations_sku.efi",
            program(&[(".sspva", &[1; 8]), (".sspsa", &[2; 131])], &VENDOR),
        )
        .with("/EFI/BOOT/revocations_sbat.efi", revocations(RAISED));
    let forecast = told(&esp, &with(&[("SbatLevel", b"sbat,1,2026010100\nshim,4\n")]), Nobody);
    let seen: Vec<String> = measured(&forecast, 0).into_iter().take(4).collect();
    assert_eq!(seen, ["7 authority Shim", "4 revocations", "4 certificate file", "4 revocations"]);
    assert!(!forecast.next.contains_key("SbatLevel"), "{:?}", forecast.next);
    assert!(forecast.next["SkuSiPolicyVersion"].contains("revocations_sku.efi"));
}

/// A level that would revoke shim is not written; what is started afterwards is held against it all the same.
#[test]
fn revocations_that_would_revoke_shim() {
    let esp = disk("15.8")
        .with("/EFI/BOOT/revocations.efi", revocations(b"sbat,1,2025060100\nshim,9\nsystemd,9\n\0"));
    let forecast = told(&esp, &variables(), Nobody);
    assert!(forecast.next["SbatLevel"].contains("2023012900"));
    assert!(forecast.because.contains("systemd,1"), "{}", forecast.because);
}

#[test]
fn a_shim_that_is_revoked_switches_the_machine_off() {
    let level = with(&[("SbatLevel", b"sbat,1,2025060100\nshim,9\n")]);
    let forecast = told(&disk("15.8"), &level, Nobody);
    assert_eq!((forecast.outcome, measured(&forecast, 0).len()), (Some(Outcome::RefusedByShim), 0));
    assert!(forecast.because.contains("shim,4"), "{}", forecast.because);
}

/// dbx as it was, and the hash of `program`.
fn revoking(program: &[u8]) -> VarStore {
    let hash = PeImage::parse(program).unwrap().authenticode(HashAlg::Sha256).unwrap();
    let list = SignatureList::sha256(Uuid::nil(), &[hash.bytes().try_into().unwrap()]);
    let mut store = variables();
    let mut dbx = store.get(&VariableId::new("dbx", vendor::IMAGE_SECURITY)).unwrap().clone();
    dbx.data.extend(list.to_bytes());
    store.set(dbx);
    store
}

fn authorities(forecast: &Forecast) -> Vec<String> {
    let events = forecast.legs[0].events.iter().filter(|event| event.what.starts_with("authority"));
    events.map(|event| format!("{} {} {}", event.pcr, event.stage, event.what)).collect()
}

/// As machines did that were booted with such a dbx: who vouches for shim is measured before its hash is looked for, once for
/// all the times that it is tried; shim measures the entry that forbids what it would start.
#[test]
fn what_dbx_revokes_by_its_hash_leaves_authorities_in_pcr_7() {
    let shim = told(&disk("15.8"), &revoking(&shim_of("15.8")), Nobody);
    assert_eq!(shim.outcome, Some(Outcome::RefusedByFirmware), "{}", shim.because);
    assert_eq!(authorities(&shim), ["7 firmware authority db"]);
    let second = told(&disk("15.8"), &revoking(&uki_by(&VENDOR)), Nobody);
    assert_eq!(second.outcome, Some(Outcome::RefusedByShim), "{}", second.because);
    assert_eq!(
        authorities(&second),
        ["7 firmware authority db", "7 shim authority SbatLevel", "7 shim authority dbx"]
    );
}

/// It ends with the removable-media path once more, of which PCR 4 tells the program alone.
#[rstest]
#[case::refused(disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER)), Somebody,
    &["Calling", "boot loader", "MokManager", "Returning from", "Calling", "EFI Internal Shell", "boot loader", "MokManager"])]
#[case::refused_without_a_manager(
    disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER)).without("/EFI/BOOT/mmx64.efi"), Somebody,
    &["Calling", "boot loader", "Returning from", "Calling", "EFI Internal Shell", "boot loader"])]
#[case::missing(disk("15.8").without("/EFI/BOOT/grubx64.efi"), Nobody,
    &["Calling", "boot loader", "Returning from", "Calling", "EFI Internal Shell", "boot loader"])]
#[case::no_program(disk("15.8").with("/EFI/BOOT/grubx64.efi", b"text".to_vec()), Nobody,
    &["Calling", "boot loader", "Returning from", "Calling", "EFI Internal Shell", "boot loader"])]
fn shim_returns_to_the_firmware(#[case] esp: Memory, #[case] keyboard: Keyboard, #[case] expected: &[&str]) {
    let forecast = told(&esp, &variables(), keyboard);
    assert_eq!(forecast.outcome, Some(Outcome::NoBootOption), "{}", forecast.because);
    assert_eq!(programs(&forecast), expected);
    assert!(forecast.because.contains("grubx64.efi"), "{}", forecast.because);
}

/// A build from 2024.02 on tells in PCR 4 that it tries the removable-media path once more, with or without a file there.
#[test]
fn a_later_firmware_measures_its_last_attempt() {
    let missing = disk("15.8").without("/EFI/BOOT/grubx64.efi");
    let forecast = under_later_firmware(&missing, &variables(), Nobody);
    assert_eq!(programs(&forecast), ["Calling", "boot loader", "Returning from", "Calling", "boot loader"]);
    let nothing = under_later_firmware(&Memory::default(), &variables(), Nobody);
    assert_eq!(programs(&nothing), ["Calling", "Returning from", "Calling"]);
    // It has no shell, and does not offer one where Secure Boot is off either.
    let mut off = variables();
    off.set_secure_boot(SecureBoot::Off);
    for store in [&variables(), &off] {
        let options = &under_later_firmware(&missing, store, Nobody).legs[0].events;
        assert!(options.iter().all(|event| !event.what.contains("Shell")));
    }
}

/// shim takes no certificate's word for a program that is for kernel modules, and of a list the first one's alone.
#[rstest]
#[case::plain(&[&*STRANGER], &STRANGER, true)]
#[case::for_modules(&[&*MODULES], &MODULES, false)]
#[case::the_first_of_two(&[&*STRANGER, &*PLATFORM], &STRANGER, true)]
#[case::the_second_of_two(&[&*PLATFORM, &*STRANGER], &STRANGER, false)]
fn which_of_the_owners_certificates_count(
    #[case] enrolled: &[&Signer],
    #[case] signer: &Signer,
    #[case] starts: bool,
) {
    let size = enrolled.iter().map(|signer| signer.certificate().len()).max().unwrap();
    let mut list = Uuid::from_u128(0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072).to_bytes_le().to_vec();
    // One list: the certificates are filled up to one size.
    for number in [28 + enrolled.len() * (16 + size), 0, 16 + size] {
        list.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    for signer in enrolled {
        list.extend([0; 16]);
        list.extend(signer.certificate());
        list.resize(list.len() + size - signer.certificate().len(), 0);
    }
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(signer));
    let forecast = told(&esp, &with(&[("MokList", &list)]), Nobody);
    assert_eq!(forecast.outcome != Some(Outcome::RefusedByShim), starts, "{}", forecast.because);
}

/// A refused certificate file stops nothing once somebody has confirmed the box; what is no program is passed over.
#[rstest]
#[case::by_a_stranger(program(&[(".db", &certificate(&STRANGER))], &STRANGER), true)]
#[case::no_program(b"text".to_vec(), false)]
#[case::cut_off_in_front_of_signatures(cut_off(program(&[], &VENDOR), -8), false)]
#[case::cut_off_within_signatures(cut_off(program(&[], &VENDOR), 8), true)]
fn a_certificate_file_that_is_not_taken(#[case] file: Vec<u8>, #[case] waits: bool) {
    let esp = disk("15.8").with("/EFI/BOOT/shim_certificate.efi", file);
    assert_eq!(told(&esp, &variables(), Nobody).outcome == Some(Outcome::RefusedByShim), waits);
    assert_eq!(measured(&told(&esp, &variables(), Somebody), 0), PLAIN);
}

#[test]
fn options_csv_names_the_second_stage_for_recent_shims() {
    let text: Vec<u8> = "other.efi,x\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let add = |version: &str| {
        disk(version).with("/EFI/BOOT/options.csv", text.clone()).with("/EFI/BOOT/other.efi", uki_by(&VENDOR))
    };
    let started = |version: &str| {
        let forecast = told(&add(version), &variables(), Nobody);
        forecast.legs[0].events.iter().find(|event| event.what == "second stage").unwrap().from.to_string()
    };
    assert_eq!(
        (started("15.8"), started("16.1")),
        ("esp:/EFI/BOOT/grubx64.efi".into(), "esp:/EFI/BOOT/other.efi".into())
    );
}
