//! Signing and hashing against independent tools (`sbverify` of sbsigntool, pesign) and against our own reading.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::LazyLock;

use der::EncodePem;
use der::pem::LineEnding;
use latchkey_measure::pe::TableEnd;
use latchkey_measure::{PeImage, Signer, certfile, module, samples, sign, sign_pe};
use latchkey_measure::{SignatureDb, SignatureList, Uuid};
use latchkey_record::pcr::HashAlg;
use rstest::rstest;
use x509_cert::Certificate;
use x509_cert::der::Decode;

static VENDOR: LazyLock<Signer> = LazyLock::new(|| samples::signer("Vendor").unwrap());
static STRANGER: LazyLock<Signer> = LazyLock::new(|| samples::signer("Stranger").unwrap());

fn certificate_file() -> Vec<u8> {
    let lists = SignatureDb::new().with(SignatureList::x509(Uuid::nil(), VENDOR.certificate()));
    certfile::build(&lists.to_bytes(), "sbat,1,SBAT Version,sbat,1,u\ncertmule,1,Vendor,certmule,1,u\n")
        .unwrap()
}

fn image(kind: &str) -> Vec<u8> {
    match kind {
        "shim" => samples::shim("15.8", 2048).unwrap(), // its string table ends off an eight-byte boundary
        "uki" => samples::uki(&[7; 70_001], "root=none").unwrap(),
        _ => certificate_file(),
    }
}

/// Whether sbverify accepts `image` as signed by `signer`.
fn sbverify(image: &[u8], signer: &Signer) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let pem = Certificate::from_der(signer.certificate()).unwrap().to_pem(LineEnding::LF).unwrap();
    let (pem, image) = (put("cert.pem", pem.as_bytes()), put("image.efi", image));
    match latchkey_supervise::run("sbverify", &[Path::new("--cert"), &pem, &image]) {
        Ok(_) => true,
        Err(latchkey_supervise::Error::Failed { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_first_signature_can_be_kept_alone() {
    let one = sign_pe(&image("uki"), &STRANGER).unwrap();
    let two = sign_pe(&one, &VENDOR).unwrap();
    let kept = sign::keep_first_signature(&two).unwrap().unwrap();
    assert_eq!(kept, one);
    assert!(sbverify(&kept, &STRANGER) && !sbverify(&kept, &VENDOR));
    assert_eq!(sign::keep_first_signature(&one).unwrap(), None);
    assert_eq!(sign::keep_first_signature(&image("uki")).unwrap(), None);
}

#[test]
fn what_lies_behind_the_signatures_is_told() {
    let signed = sign_pe(&image("uki"), &VENDOR).unwrap();
    let behind = |bytes: &[u8]| PeImage::parse(bytes).unwrap().has_bytes_behind_signatures();
    assert!(!behind(&signed).unwrap() && !behind(&image("uki")).unwrap());
    assert!(behind(&[&signed[..], &[0; 8]].concat()).unwrap());
    assert!(behind(&signed[..signed.len() - 8]).is_err(), "the table ends outside the file");
    let before = |bytes: &[u8]| PeImage::parse(bytes).unwrap().ends_before_signatures();
    let unsigned = image("uki").len().next_multiple_of(8);
    assert!(!before(&signed) && !before(&image("uki")) && !before(&signed[..=unsigned]));
    assert!(before(&signed[..unsigned]) && before(&signed[..0x400]));
}

/// Zeros more in the table of signatures: in its one entry, or behind it.
#[rstest]
#[case::as_signed(0, false, TableEnd::Filled)]
#[case::filled_up_with_more(8, true, TableEnd::Filled)]
#[case::not_filled_up(4, true, TableEnd::Short)]
#[case::zeros_behind(16, false, TableEnd::Rest)]
#[case::few_zeros_behind(4, false, TableEnd::Rest)]
fn how_a_table_of_signatures_ends(#[case] zeros: u32, #[case] inside: bool, #[case] expected: TableEnd) {
    let mut signed = sign_pe(&image("uki"), &VENDOR).unwrap();
    let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    // The security directory of a PE32+ image (PE format, "Optional Header Data Directories").
    let directory = number(&signed, 0x3c) as usize + 24 + 112 + 4 * 8;
    let entry = number(&signed, directory) as usize;
    signed.resize(signed.len() + zeros as usize, 0);
    for size in [Some(directory + 4), inside.then_some(entry)].into_iter().flatten() {
        let more = number(&signed, size) + zeros;
        signed[size..size + 4].copy_from_slice(&more.to_le_bytes());
    }
    let read = PeImage::parse(&signed).unwrap();
    assert_eq!(read.table_end().unwrap(), expected);
    assert_eq!(read.signatures().unwrap().iter().map(Result::is_ok).collect::<Vec<_>>(), [true]);
    assert_eq!(PeImage::parse(&image("uki")).unwrap().table_end().unwrap(), TableEnd::Filled);
}

#[rstest]
fn sbverify_accepts_what_we_sign(#[values("shim", "uki", "certfile")] kind: &str) {
    let signed = sign_pe(&image(kind), &VENDOR).unwrap();
    assert!(sbverify(&signed, &VENDOR));
    assert!(!sbverify(&signed, &STRANGER), "another certificate must not do");
    let mut changed = signed;
    changed[0x210] ^= 1;
    assert!(!sbverify(&changed, &VENDOR), "a changed byte must show");
}

#[rstest]
fn the_signed_hash_is_the_padded_one_before_and_the_measured_one_after(
    #[values("shim", "uki", "certfile")] kind: &str,
) {
    let unsigned = image(kind);
    let signed = sign_pe(&unsigned, &VENDOR).unwrap();
    let before = PeImage::parse(&unsigned).unwrap();
    let after = PeImage::parse(&signed).unwrap();
    let signatures = after.signatures().unwrap();
    let signature = signatures[0].as_ref().unwrap();
    assert_eq!(signatures.len(), 1);
    assert_eq!(signature.digest_name(), "sha256");
    assert_eq!(signature.digest(), after.authenticode(HashAlg::Sha256).unwrap().bytes());
    assert_eq!(signature.digest(), before.authenticode_padded(HashAlg::Sha256).unwrap().bytes());
    assert_eq!(signature.signer_certificate().unwrap(), VENDOR.certificate());
    assert_eq!(signature.signer_name(), "CN=Vendor");
    let aligned = unsigned.len().is_multiple_of(8);
    let plain = before.authenticode(HashAlg::Sha256).unwrap();
    assert_eq!(plain.bytes() == signature.digest(), aligned);
}

/// What pesign says that a signature over `image` covers.
fn pesign(image: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), image).unwrap();
    let said =
        latchkey_supervise::run("pesign", &[Path::new("-h"), Path::new("-i"), file.path()]).unwrap().text();
    said.trim().strip_prefix("hash: ").unwrap().to_owned()
}

#[rstest]
fn pesign_comes_to_the_same_hash(#[values("shim", "uki", "certfile")] kind: &str) {
    let unsigned = image(kind);
    let signed = sign_pe(&unsigned, &VENDOR).unwrap();
    let parsed = PeImage::parse(&unsigned).unwrap();
    assert_eq!(pesign(&unsigned), parsed.authenticode_padded(HashAlg::Sha256).unwrap().hex());
    assert_eq!(
        pesign(&signed),
        PeImage::parse(&signed).unwrap().authenticode(HashAlg::Sha256).unwrap().hex()
    );
}

#[test]
fn measured_and_padded_differ_only_off_an_eight_byte_boundary() {
    let even = image("certfile");
    let mut odd = even.clone();
    odd.push(1);
    for alg in HashAlg::ALL {
        let forms = |bytes: &[u8]| {
            let image = PeImage::parse(bytes).unwrap();
            (image.authenticode(alg).unwrap(), image.authenticode_padded(alg).unwrap())
        };
        let (measured, padded) = forms(&even);
        assert_eq!(measured, padded);
        let (measured, padded) = forms(&odd);
        assert_ne!(measured, padded);
    }
}

#[test]
fn a_second_signature_joins_the_first_and_stripping_gives_the_image_back() {
    let unsigned = image("uki");
    let once = sign_pe(&unsigned, &VENDOR).unwrap();
    let twice = sign_pe(&once, &STRANGER).unwrap();
    let names: Vec<String> = PeImage::parse(&twice)
        .unwrap()
        .signatures()
        .unwrap()
        .into_iter()
        .map(|s| s.unwrap().signer_name())
        .collect();
    assert_eq!(names, ["CN=Vendor", "CN=Stranger"]);
    assert!(sbverify(&twice, &VENDOR) && sbverify(&twice, &STRANGER));
    assert_eq!(sign::strip_signatures(&twice).unwrap(), unsigned);
}

#[test]
fn signing_is_deterministic() {
    assert_eq!(sign_pe(&image("uki"), &VENDOR).unwrap(), sign_pe(&image("uki"), &VENDOR).unwrap());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    use rsa::pkcs8::EncodePrivateKey;
    let key = rsa::RsaPrivateKey::new(&mut rand::thread_rng(), 2048).unwrap().to_pkcs8_der().unwrap();
    let error = Signer::from_der(VENDOR.certificate(), key.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("CN=Vendor"), "{error}");
}

/// A kernel wants no attributes and no certificates in it; openssl verifies what is left, with the certificate from
/// elsewhere.
#[test]
fn a_module_signed_here_openssl_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let bare = [b"\x7fELF".as_slice(), &[5; 3000]].concat();
    let signed = module::sign(&bare, &VENDOR).unwrap();
    assert_eq!(module::strip(&signed), bare);
    assert_eq!(module::strip(&bare), bare);
    assert_eq!(module::strip(&signed[..signed.len() - 1]), &signed[..signed.len() - 1]);
    let pkcs7 = &signed[bare.len()..signed.len() - "~Module signature appended~\n".len() - 12];
    let pem = Certificate::from_der(VENDOR.certificate()).unwrap().to_pem(LineEnding::LF).unwrap();
    for (name, bytes) in
        [("pkcs7", pkcs7), ("module", &bare[..]), ("other", b"x"), ("cert.pem", pem.as_bytes())]
    {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let verified = |content: &str| {
        let words = [
            "smime",
            "-verify",
            "-binary",
            "-inform",
            "DER",
            "-noverify",
            "-certfile",
            "cert.pem",
            "-in",
            "pkcs7",
        ];
        let mut openssl = std::process::Command::new("openssl");
        openssl.current_dir(dir.path()).args(words).args(["-content", content, "-out", "out"]);
        openssl.output().unwrap().status.success()
    };
    assert!(verified("module") && !verified("other"));
}

proptest::proptest! {
    #[test]
    fn stripping_a_module_never_panics(bytes in proptest::collection::vec(0u8.., 0..200)) {
        let ended = [&bytes[..], b"~Module signature appended~\n"].concat();
        proptest::prop_assert!(module::strip(&ended).len() <= ended.len());
    }
}
