//! PE images, their hashes and embedded signatures; what signing does to them.
#![no_main]

use latchkey_measure::{HashAlg, PeImage, sign};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = PeImage::parse(bytes) else { return };
    let _ = (image.authenticode(HashAlg::Sha256), image.authenticode_padded(HashAlg::Sha1));
    let _ = image.sections().map(|section| section.data.len()).sum::<usize>();
    for signature in image.signatures().into_iter().flatten().flatten() {
        let _ = (signature.signer_name(), signature.digest_name());
        for certificate in signature.certificates() {
            let _ = signature.is_vouched_for(&[0; 32], &certificate);
        }
    }
    if let Ok(stripped) = sign::strip_signatures(bytes) {
        assert!(stripped.len() <= bytes.len());
    }
});
