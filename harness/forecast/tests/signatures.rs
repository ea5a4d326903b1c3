//! Signatures that another tool made (osslsigncode), over hashes that firmware takes and shims do not.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::at_shim::with_zeros;
use common::{Memory, VENDOR, shim_of, told, variables};
use latchkey_disk::VarStore;
use latchkey_disk::varstore::{VariableId, vendor};
use latchkey_measure::{HashAlg, PeImage, SignatureList, Uuid, samples, shim};
use latchkey_record::{Forecast, Outcome};
use rstest::rstest;

/// A certificate, and a shim that its owner signed over a hash of this kind.
fn signed_over(alg: &str) -> (Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let [key, pem, der, unsigned, signed] = ["key.pem", "cert.pem", "cert.der", "shim", "signed"].map(at);
    let run = |program: &str, args: &[&str]| latchkey_supervise::run(program, args).unwrap();
    let made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=owner", "-keyout"];
    run("openssl", &[&made[..], &[&key, "-out", &pem]].concat());
    run("openssl", &["x509", "-in", &pem, "-outform", "DER", "-out", &der]);
    let plain = samples::shim("15.8", 4096).unwrap();
    fs::write(&unsigned, shim::replace_vendor_cert(&plain, VENDOR.certificate()).unwrap()).unwrap();
    let what = ["sign", "-h", alg, "-certs", &pem, "-key", &key, "-in", &unsigned, "-out", &signed];
    run("osslsigncode", &what);
    (fs::read(der).unwrap(), fs::read(signed).unwrap())
}

/// The variables of a machine whose db, or dbx, has `more` behind what it has.
fn with(database: &str, more: &SignatureList, mut store: VarStore) -> VarStore {
    let mut variable = store.get(&VariableId::new(database, vendor::IMAGE_SECURITY)).unwrap().clone();
    variable.data.extend(more.to_bytes());
    store.set(variable);
    store
}

/// As [`with`], with so many bytes of a list.
fn with_part(database: &str, bytes: usize, mut store: VarStore) -> VarStore {
    let mut variable = store.get(&VariableId::new(database, vendor::IMAGE_SECURITY)).unwrap().clone();
    variable.data.extend(&SignatureList::sha256(Uuid::nil(), &[[1; 32]]).to_bytes()[..bytes]);
    store.set(variable);
    store
}

fn starts(forecast: &Forecast) -> bool {
    forecast.legs[0].events.iter().any(|event| event.what.contains("boot loader"))
}

/// The firmware hashes an image as its signature says; only that hash is looked for in dbx.
#[rstest]
#[case("sha256")]
#[case("sha384")]
#[case("sha512")]
fn firmware_takes_what_was_signed(#[case] alg: &str) {
    let (certificate, shim) = signed_over(alg);
    let sha256 = PeImage::parse(&shim).unwrap().authenticode(HashAlg::Sha256).unwrap();
    let esp = Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim);
    let refused = told(&esp, &variables());
    assert_eq!(refused.outcome, Some(Outcome::RefusedByFirmware), "{}", refused.because);
    assert!(!starts(&refused));
    let trusted = with("db", &SignatureList::x509(Uuid::nil(), &certificate), variables());
    assert!(starts(&told(&esp, &trusted)));
    let hash: [u8; 32] = sha256.bytes().try_into().unwrap();
    let revoked = with("dbx", &SignatureList::sha256(Uuid::nil(), &[hash]), trusted);
    assert_eq!(starts(&told(&esp, &revoked)), alg != "sha256");
    // Of an image that is signed only the hash that was signed counts in db, too.
    let by_hash = with("db", &SignatureList::sha256(Uuid::nil(), &[hash]), variables());
    assert_eq!(starts(&told(&esp, &by_hash)), alg == "sha256");
}

/// Firmware reads which hash was signed at a fixed place, and may so take for its hash what it cannot verify: not modelled,
/// and said where db or dbx has that hash.
#[test]
fn a_signature_that_cannot_be_read_is_no_signature() {
    let (certificate, mut shim) = signed_over("sha256");
    // The object identifier of signed data (RFC 5652, section 5.1).
    let signed_data = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    let at = shim.windows(9).position(|bytes| bytes == signed_data).unwrap();
    shim[at + 8] = 0x7f;
    let sha256 = PeImage::parse(&shim).unwrap().authenticode(HashAlg::Sha256).unwrap();
    let esp = Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim);
    let said = |forecast: &Forecast| forecast.unmodelled.iter().any(|open| open.what == "signature");
    let by_certificate =
        told(&esp, &with("db", &SignatureList::x509(Uuid::nil(), &certificate), variables()));
    assert_eq!(by_certificate.outcome, Some(Outcome::RefusedByFirmware), "{}", by_certificate.because);
    assert!(!said(&by_certificate));
    let hash = SignatureList::sha256(Uuid::nil(), &[sha256.bytes().try_into().unwrap()]);
    for database in ["db", "dbx"] {
        assert!(said(&told(&esp, &with(database, &hash, variables()))), "{database}");
    }
}

/// The firmware takes nothing whose table of signatures does not end with one that is filled up to eight bytes. It has then looked
/// at those in front of what ends it.
#[rstest]
#[case::as_signed(0, false, true, true)]
#[case::filled_up_with_more(8, true, true, true)]
#[case::zeros_behind(8, false, false, true)]
#[case::few_zeros_behind(4, false, false, true)]
#[case::not_filled_up(4, true, false, false)]
fn how_the_table_of_signatures_ends(
    #[case] zeros: u32,
    #[case] inside: bool,
    #[case] taken: bool,
    #[case] looked_at: bool,
) {
    let shim = with_zeros(shim_of("15.8"), zeros, inside);
    let forecast = told(&Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim), &variables());
    assert_eq!(starts(&forecast), taken, "{}", forecast.because);
    assert_eq!(forecast.outcome == Some(Outcome::RefusedByFirmware), !taken, "{}", forecast.because);
    let vouched = forecast.legs[0].events.iter().any(|event| event.what == "authority db");
    assert_eq!(vouched, looked_at);
}

/// What is in front of a list that is longer than what is left counts; what comes of any other that is none nobody knows. What is
/// in front of one in db vouches all the same.
#[rstest]
#[case::cut_off(68, false)]
#[case::within_its_header(20, true)]
fn lists_in_front_of_one_that_is_none(
    #[case] bytes: usize,
    #[case] said: bool,
    #[values("db", "dbx")] name: &str,
) {
    let store = with_part(name, bytes, variables());
    let forecast = told(&Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8")), &store);
    let known = !said || name == "db";
    assert_eq!(starts(&forecast), known, "{}", forecast.because);
    assert_eq!(forecast.because.contains("variable dbx"), !known, "{}", forecast.because);
    assert!(known || forecast.outcome.is_none(), "{:?}", forecast.outcome);
    let open = forecast.unmodelled.iter().any(|open| open.what == format!("variable {name}"));
    assert_eq!(open, said, "{:?}", forecast.unmodelled);
}

/// A list of which nobody knows what is made leaves open what it might decide, and nothing else.
#[rstest]
#[case::might_vouch("db", false, None)]
#[case::might_vouch_for_what_is_forbidden("db", true, Some(Outcome::RefusedByFirmware))]
#[case::cannot_vouch("dbx", false, Some(Outcome::RefusedByFirmware))]
#[case::forbids_already("dbx", true, Some(Outcome::RefusedByFirmware))]
fn what_the_rest_of_a_database_may_decide(
    #[case] name: &str,
    #[case] forbidden: bool,
    #[case] expected: Option<Outcome>,
) {
    let (certificate, shim) = signed_over("sha256");
    let mut store = variables();
    if forbidden {
        store = with("dbx", &SignatureList::x509(Uuid::nil(), &certificate), store);
    }
    let esp = Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim);
    let forecast = told(&esp, &with_part(name, 20, store));
    assert_eq!(forecast.outcome, expected, "{}", forecast.because);
    assert!(!starts(&forecast));
}
