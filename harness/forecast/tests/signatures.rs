//! Signatures that another tool made (osslsigncode), over hashes that firmware takes and shims do not.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::{Memory, VENDOR, told, variables};
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
