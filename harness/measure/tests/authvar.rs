//! Authenticated variables, made by `sbvarsign` and verified by `openssl`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use cms::content_info::ContentInfo;
use der::asn1::{Any, ObjectIdentifier};
use der::{Decode, Encode};
use latchkey_measure::authvar::{ATTRIBUTES, AuthenticatedVariable, Error, Time};
use latchkey_measure::{SignatureDb, SignatureList, Uuid, samples};
use proptest::prelude::*;
use rstest::rstest;

/// `EFI_IMAGE_SECURITY_DATABASE_GUID`.
const SECURITY: Uuid = Uuid::from_u128(0xd719_b2cb_3d3a_4596_a3bc_dad0_0e67_656f);
/// PKCS#7 `signedData`.
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

struct Signed {
    dir: tempfile::TempDir,
    lists: Vec<u8>,
    update: Vec<u8>,
}

fn run(dir: &Path, line: &str) -> Result<latchkey_supervise::Captured, latchkey_supervise::Error> {
    let (name, rest) = line.split_once(' ').unwrap();
    let args: Vec<&str> = rest.split(' ').collect();
    latchkey_supervise::run_with(name, &args, |e| e.stdin_null().dir(dir))
}

/// An update of `name` as `sbvarsign` signs it.
fn signed(name: &str) -> Signed {
    let dir = tempfile::tempdir().unwrap();
    let vendor = samples::signer("Vendor").unwrap();
    let lists = SignatureDb::new().with(SignatureList::x509(Uuid::nil(), vendor.certificate())).to_bytes();
    std::fs::write(dir.path().join("lists"), &lists).unwrap();
    run(dir.path(), "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=Owner -keyout key -out cert")
        .unwrap();
    // By default it would sign APPEND_WRITE too.
    let attributes = "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS";
    let options = format!("--key key --cert cert --attr {attributes} --output update");
    run(dir.path(), &format!("sbvarsign {options} {name} lists")).unwrap();
    let update = std::fs::read(dir.path().join("update")).unwrap();
    Signed { dir, lists, update }
}

/// Whether openssl takes the signature for one over `content`.
fn holds(signed: &Signed, pkcs7: &[u8], content: &[u8]) -> bool {
    let whole = match ContentInfo::from_der(pkcs7) {
        Ok(_) => pkcs7.to_vec(),
        Err(_) => {
            let content = Any::from_der(pkcs7).unwrap();
            ContentInfo { content_type: SIGNED_DATA, content }.to_der().unwrap()
        }
    };
    std::fs::write(signed.dir.path().join("pkcs7"), whole).unwrap();
    std::fs::write(signed.dir.path().join("content"), content).unwrap();
    let line = "openssl smime -verify -binary -inform DER -in pkcs7 -content content -noverify -out verified";
    run(signed.dir.path(), line).is_ok()
}

#[test]
fn an_update_falls_apart_into_time_signature_and_contents() {
    let signed = signed("db");
    let update = AuthenticatedVariable::parse(&signed.update).unwrap();
    assert_eq!(update.payload, signed.lists);
    // The month is one too small in sbvarsign 0.9.4, and none at all in January.
    assert!(Time { month: 1, day: 1, ..update.time }.is_calendar_time(), "{}", update.time);
    assert_eq!(update.to_bytes(), signed.update);
    assert_eq!(update.certificates().unwrap().len(), 1);

    let covered = update.signed_bytes("db", SECURITY, ATTRIBUTES);
    assert!(holds(&signed, &update.pkcs7, &covered));
    let other = AuthenticatedVariable { time: Time { year: 2000, ..update.time }, ..update.clone() };
    for wrong in [
        update.signed_bytes("dbx", SECURITY, ATTRIBUTES),
        update.signed_bytes("db", Uuid::nil(), ATTRIBUTES),
        update.signed_bytes("db", SECURITY, ATTRIBUTES | 0x40),
        other.signed_bytes("db", SECURITY, ATTRIBUTES),
    ] {
        assert!(!holds(&signed, &update.pkcs7, &wrong));
    }
}

#[test]
fn what_firmware_would_refuse_is_refused() {
    let good = signed("db").update;
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        AuthenticatedVariable::parse(&bytes)
    };
    // Nanoseconds, zone, daylight and padding are zero.
    for at in 7..16 {
        assert!(matches!(with(at, 1), Err(Error::Time(_))), "byte {at}");
    }
    assert!(matches!(with(20, 1), Err(Error::Kind { what: "signature's revision", .. })));
    assert!(matches!(with(22, 2), Err(Error::Kind { what: "signature's type", .. })));
    assert!(matches!(with(24, 2), Err(Error::Kind { what: "signature's GUID", .. })));
    assert!(matches!(with(40, 2), Err(Error::Pkcs7(_))));
    assert!(matches!(with(18, 0xff), Err(Error::Truncated("signature"))));
    for cut in [0, 15, 16, 39, 40] {
        assert!(matches!(
            AuthenticatedVariable::parse(&good[..cut]),
            Err(Error::Truncated(_) | Error::Pkcs7(_))
        ));
    }
}

#[rstest]
#[case(2026, 2, 28, true)]
#[case(2026, 2, 29, false)]
#[case(2024, 2, 29, true)]
#[case(1900, 2, 29, false)]
#[case(2000, 2, 29, true)]
#[case(2026, 4, 31, false)]
#[case(2026, 12, 31, true)]
#[case(2026, 13, 1, false)]
#[case(2026, 0, 1, false)]
#[case(0, 0, 0, false)]
fn the_calendar_is_known(#[case] year: u16, #[case] month: u8, #[case] day: u8, #[case] right: bool) {
    let time = Time { year, month, day, hour: 23, minute: 59, second: 59 };
    assert_eq!(time.is_calendar_time(), right, "{time}");
    assert!(!Time { hour: 24, ..time }.is_calendar_time());
}

proptest! {
    #[test]
    fn damaged_updates_do_not_panic(changes in proptest::collection::vec((0_usize..600, any::<u8>()), 1..8)) {
        static GOOD: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| signed("db").update);
        let mut bytes = GOOD.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        if let Ok(update) = AuthenticatedVariable::parse(&bytes) {
            let _ = (update.certificates(), update.signed_bytes("db", SECURITY, ATTRIBUTES));
        }
    }
}

#[test]
fn what_is_signed_here_openssl_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let owner = samples::signer("Owner").unwrap();
    let lists = SignatureDb::new().with(SignatureList::sha256(Uuid::nil(), &[[1; 32]])).to_bytes();
    let time = Time { year: 2026, month: 1, day: 1, hour: 0, minute: 0, second: 0 };
    // An update that is appended.
    let attributes = ATTRIBUTES | 0x40;
    let made = AuthenticatedVariable::sign("dbx", SECURITY, attributes, time, lists.clone(), &owner).unwrap();
    let update = made.to_bytes();
    let read = AuthenticatedVariable::parse(&update).unwrap();
    assert_eq!(read, made);
    assert_eq!(read.certificates().unwrap(), [owner.certificate()]);
    let content = read.signed_bytes("dbx", SECURITY, attributes);
    let signed = Signed { dir, lists, update };
    assert!(holds(&signed, &read.pkcs7, &content));
    assert!(!holds(&signed, &read.pkcs7, &read.signed_bytes("db", SECURITY, attributes)));
}
