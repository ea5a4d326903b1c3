//! Nothing that comes from outside may make a parser panic: random bytes, truncations and flipped bits.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::LazyLock;

use latchkey_measure::cert::CertificateInfo;
use latchkey_measure::{PeImage, SignatureDb, SignatureList, Uuid, samples, sbat, shim, sign, sign_pe};
use latchkey_record::pcr::HashAlg;
use proptest::prelude::*;

static SIGNED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let vendor = samples::signer("Vendor").unwrap();
    let bare = samples::shim("15.8", 2048).unwrap();
    sign_pe(&shim::replace_vendor_cert(&bare, vendor.certificate()).unwrap(), &vendor).unwrap()
});

/// Asks everything there is to ask of `bytes`; the answers do not matter.
fn read_all(bytes: &[u8]) {
    if let Ok(image) = PeImage::parse(bytes) {
        let _ = image.authenticode(HashAlg::Sha256);
        let _ = image.authenticode_padded(HashAlg::Sha1);
        let _ = (image.table_end(), image.has_bytes_behind_signatures(), image.ends_before_signatures());
        let _ = image.sections().map(|s| s.data.len()).sum::<usize>();
        for signature in image.signatures().into_iter().flatten().flatten() {
            let _ = (signature.signer_name(), signature.certificates(), signature.digest_name());
        }
    }
    let _ = (shim::version(bytes), shim::vendor_cert(bytes), shim::sbat_levels(bytes));
    let _ = shim::replace_vendor_cert(bytes, &[0x30, 0x82, 0, 0]);
    let _ = (sign::strip_signatures(bytes), SignatureDb::parse(bytes), CertificateInfo::of(bytes));
    let _ = (sbat::parse(bytes), sbat::Revocations::parse(bytes));
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        read_all(&bytes);
    }

    #[test]
    fn truncated_images(keep in 0.0..1.0_f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place in a small file")]
        let keep = (SIGNED.len() as f64 * keep) as usize;
        read_all(&SIGNED[..keep]);
    }

    #[test]
    fn damaged_headers(changes in proptest::collection::vec((0_usize..0x400, any::<u8>()), 1..8)) {
        let mut bytes = SIGNED.clone();
        for (at, value) in changes {
            bytes[at] = value;
        }
        read_all(&bytes);
    }

    #[test]
    fn damaged_signatures(changes in proptest::collection::vec((1_usize..1500, any::<u8>()), 1..8)) {
        let mut bytes = SIGNED.clone();
        for (back, value) in changes {
            let at = bytes.len() - back;
            bytes[at] = value;
        }
        read_all(&bytes);
    }

    #[test]
    fn signature_lists_round_trip(
        certificates in proptest::collection::vec((any::<u128>(), proptest::collection::vec(any::<u8>(), 0..99)), 0..5),
        hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..5),
        cut in 1_usize..60,
    ) {
        let db: SignatureDb = certificates
            .iter()
            .map(|(owner, der)| SignatureList::x509(Uuid::from_u128(*owner), der))
            .chain([SignatureList::sha256(Uuid::nil(), &hashes)])
            .collect();
        let bytes = db.to_bytes();
        prop_assert_eq!(&SignatureDb::parse(&bytes).unwrap(), &db);
        // The last list has 28 bytes of head and 48 for each hash: cutting less than that cuts into it.
        let cut = cut.min(27 + 48 * hashes.len());
        let cut = &bytes[..bytes.len() - cut];
        prop_assert!(SignatureDb::parse(cut).is_err());
        let (front, error) = SignatureDb::readable(cut);
        prop_assert!(error.is_some());
        prop_assert_eq!(front.lists(), &db.lists()[..certificates.len()]);
    }

    #[test]
    fn sbat_lines_round_trip(names in proptest::collection::vec("[a-z.]{1,12}", 1..6), generation in any::<u16>()) {
        let text: String = names.iter().map(|n| format!("{n},{generation},v,p,1,http://x,y\n")).collect();
        let parsed = sbat::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(parsed.iter().map(sbat::line).collect::<String>(), text);
    }
}
