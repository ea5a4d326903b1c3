//! Whether an Authenticode signature holds, and under which certificate.
//!
//! Firmware and shim do the same: the hash that was signed is the image's, the signer signed it, and a chain leads from
//! the signer to a certificate that is trusted. That certificate need not be a root, and nobody looks at the calendar
//! (edk2 `CryptoPkg/Library/BaseCryptLib/Pk/CryptPkcs7VerifyCommon.c`, shim `Cryptlib/Pk/CryptPkcs7Verify.c`). Whoever issues a
//! certificate has to be an authority, the trusted one included.

use const_oid::ObjectIdentifier;
use const_oid::db::{rfc5911, rfc5912};
use der::{Decode, Encode};
use rsa::pkcs1v15::Pkcs1v15Sign;
use rsa::{BigUint, RsaPublicKey, pkcs1};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::certificate::{Certificate, TbsCertificate, Version};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectKeyIdentifier};

use super::signature::Signature;

/// How many certificates a chain may have.
const LONGEST_CHAIN: usize = 8;
/// The longest key that counts, in bits: OpenSSL, `rsa.h`, `OPENSSL_RSA_MAX_MODULUS_BITS`.
const LONGEST_KEY: usize = 16_384;

/// A hash by the name that signatures give it.
#[derive(Clone, Copy)]
enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    /// From the object identifier of a hash, or of RSA with it.
    fn of(oid: ObjectIdentifier) -> Option<Self> {
        match oid {
            rfc5912::ID_SHA_1 | rfc5912::SHA_1_WITH_RSA_ENCRYPTION => Some(Self::Sha1),
            rfc5912::ID_SHA_256 | rfc5912::SHA_256_WITH_RSA_ENCRYPTION => Some(Self::Sha256),
            rfc5912::ID_SHA_384 | rfc5912::SHA_384_WITH_RSA_ENCRYPTION => Some(Self::Sha384),
            rfc5912::ID_SHA_512 | rfc5912::SHA_512_WITH_RSA_ENCRYPTION => Some(Self::Sha512),
            _ => None,
        }
    }

    fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(data).to_vec(),
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha384 => Sha384::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        }
    }

    /// Whether `signature` is `key`'s over `data` (RSA PKCS #1 v1.5).
    fn verifies(self, key: &RsaPublicKey, data: &[u8], signature: &[u8]) -> bool {
        let scheme = match self {
            Self::Sha1 => Pkcs1v15Sign::new::<Sha1>(),
            Self::Sha256 => Pkcs1v15Sign::new::<Sha256>(),
            Self::Sha384 => Pkcs1v15Sign::new::<Sha384>(),
            Self::Sha512 => Pkcs1v15Sign::new::<Sha512>(),
        };
        key.verify(scheme, &self.digest(data), signature).is_ok()
    }
}

impl Signature {
    /// Whether this is a good signature over an image whose Authenticode hash is `image_digest` (made with the
    /// algorithm that [`Signature::digest_name`] names) by somebody for whom `anchor`, a DER certificate, vouches.
    /// RSA only, as Secure Boot has it.
    #[must_use]
    pub fn is_vouched_for(&self, image_digest: &[u8], anchor: &[u8]) -> bool {
        self.digest() == image_digest && self.chain(anchor).unwrap_or(false)
    }

    fn chain(&self, anchor: &[u8]) -> Option<bool> {
        let anchor = Certificate::from_der(anchor).ok()?;
        let embedded: Vec<Certificate> =
            self.certificates().iter().filter_map(|der| Certificate::from_der(der).ok()).collect();
        // A signer whose certificate is not embedded may be the anchor itself.
        let mut current = match self.signer_certificate() {
            Some(der) => Certificate::from_der(&der).ok()?,
            None => anchor.clone(),
        };
        if !self.is_signed_by(&key_of(&current)?)? {
            return Some(false);
        }
        for _ in 0..LONGEST_CHAIN {
            if current == anchor || issued(&anchor, &current) {
                return Some(true);
            }
            let next = embedded.iter().find(|c| **c != current && issued(c, &current))?;
            current = next.clone();
        }
        Some(false)
    }

    /// Whether the signed attributes name the signed content and `key` signed them (RFC 5652, section 5.4).
    fn is_signed_by(&self, key: &RsaPublicKey) -> Option<bool> {
        let signer = self.signed_data().signer_infos.0.get(0)?;
        let hash = Hash::of(signer.digest_alg.oid)?;
        let content = self.signed_data().encap_content_info.econtent.as_ref()?.value();
        let signature = signer.signature.as_bytes();
        let Some(attributes) = &signer.signed_attrs else {
            return Some(hash.verifies(key, content, signature));
        };
        let named = attributes.iter().find(|a| a.oid == rfc5911::ID_MESSAGE_DIGEST)?.values.get(0)?.value();
        let signed = attributes.to_der().ok()?;
        Some(named == hash.digest(content) && hash.verifies(key, &signed, signature))
    }
}

fn key_of(certificate: &Certificate) -> Option<RsaPublicKey> {
    let info = &certificate.tbs_certificate.subject_public_key_info;
    if info.algorithm.oid != pkcs1::ALGORITHM_OID {
        return None;
    }
    let key = pkcs1::RsaPublicKey::try_from(info.subject_public_key.as_bytes()?).ok()?;
    let modulus = BigUint::from_bytes_be(key.modulus.as_bytes());
    let exponent = BigUint::from_bytes_be(key.public_exponent.as_bytes());
    RsaPublicKey::new_with_max_size(modulus, exponent, LONGEST_KEY).ok()
}

/// Whether `issuer` issued `certificate`, and was one to do so.
fn issued(issuer: &Certificate, certificate: &Certificate) -> bool {
    let (by, tbs) = (&issuer.tbs_certificate, &certificate.tbs_certificate);
    if by.subject != tbs.issuer || !is_named(by, tbs) || !may_issue(by) {
        return false;
    }
    let good = || {
        let hash = Hash::of(certificate.signature_algorithm.oid)?;
        let data = certificate.tbs_certificate.to_der().ok()?;
        let signature = certificate.signature.as_bytes()?;
        Some(hash.verifies(&key_of(issuer)?, &data, signature))
    };
    good().unwrap_or(false)
}

/// Whether `issuer` is the one that a certificate names by its key, or its number and who issued it, if it names one (OpenSSL 1.1.1 and 3.0,
/// `crypto/x509/v3_purp.c`, `X509_check_akid`).
fn is_named(issuer: &TbsCertificate, certificate: &TbsCertificate) -> bool {
    let Ok(Some((_, named))) = certificate.get::<AuthorityKeyIdentifier>() else { return true };
    let own = issuer.get::<SubjectKeyIdentifier>().ok().flatten();
    let by_key = named.key_identifier.zip(own).is_none_or(|(key, (_, own))| key == own.0);
    // Of several names the first that is a directory's counts.
    let issued_by = named.authority_cert_issuer.iter().flatten().find_map(|name| match name {
        GeneralName::DirectoryName(name) => Some(name),
        _ => None,
    });
    let by_number = named.authority_cert_serial_number.is_none_or(|number| number == issuer.serial_number);
    by_key && by_number && issued_by.is_none_or(|name| *name == issuer.issuer)
}

/// Whether a certificate is one to issue others (`v3_purp.c`, `check_ca`): if it says what its key is for, that is among it, and it
/// says that it is an authority, or says nothing of that; saying nothing of either is for roots of version 1.
fn may_issue(issuer: &TbsCertificate) -> bool {
    let (Ok(usage), Ok(constraints)) = (issuer.get::<KeyUsage>(), issuer.get::<BasicConstraints>()) else {
        return true;
    };
    let signs = usage.as_ref().map(|(_, usage)| usage.key_cert_sign());
    let is_authority = match constraints {
        Some((_, constraints)) => constraints.ca,
        None => signs.is_some() || (issuer.version == Version::V1 && issuer.subject == issuer.issuer),
    };
    is_authority && signs.unwrap_or(true)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::str::FromStr;
    use std::time::Duration;

    use rsa::RsaPrivateKey;
    use rsa::pkcs1v15::SigningKey;
    use rstest::rstest;
    use spki::SubjectPublicKeyInfoOwned;
    use x509_cert::builder::{Builder, CertificateBuilder, Profile};
    use x509_cert::ext::AsExtension;
    use x509_cert::name::Name;
    use x509_cert::serial_number::SerialNumber;
    use x509_cert::time::Validity;

    use super::*;
    use crate::{HashAlg, PeImage, samples, sign_pe};

    const AUTHORITY: &str = "CN=authority";

    fn leaf() -> Profile {
        let issuer = Name::from_str(AUTHORITY).unwrap();
        Profile::Leaf { issuer, enable_key_agreement: false, enable_key_encipherment: false }
    }

    fn key() -> RsaPrivateKey {
        RsaPrivateKey::new(&mut rand::thread_rng(), 1024).unwrap()
    }

    fn certificate(profile: Profile, name: &str, key: &RsaPublicKey, by: &RsaPrivateKey) -> Certificate {
        let signer = SigningKey::<Sha256>::new(by.clone());
        let builder = CertificateBuilder::new(
            profile,
            SerialNumber::from(1_u32),
            Validity::from_now(Duration::from_secs(86_400)).unwrap(),
            Name::from_str(name).unwrap(),
            SubjectPublicKeyInfoOwned::from_key(key.clone()).unwrap(),
            &signer,
        );
        builder.unwrap().build::<rsa::pkcs1v15::Signature>().unwrap()
    }

    /// The same key and name, once as an authority's and once as anybody's.
    #[rstest]
    #[case::by_an_authority(Profile::Root, true)]
    #[case::by_no_authority(leaf(), false)]
    fn only_an_authority_issues(#[case] profile: Profile, #[case] counts: bool) {
        let (authority, signer) = (key(), key().to_public_key());
        let issuer = certificate(profile, AUTHORITY, &authority.to_public_key(), &authority);
        let signed = certificate(leaf(), "CN=signer", &signer, &authority);
        assert_eq!(issued(&issuer, &signed), counts);
        // One of the same name with another key is not the one that is named.
        let other = key();
        let namesake = certificate(Profile::Root, AUTHORITY, &other.to_public_key(), &other);
        assert!(is_named(&issuer.tbs_certificate, &signed.tbs_certificate));
        assert!(!is_named(&namesake.tbs_certificate, &signed.tbs_certificate));
    }

    /// The authority's number is 1, and it issued itself.
    #[rstest]
    #[case::neither(None, &[], true)]
    #[case::both(Some(1), &[AUTHORITY], true)]
    #[case::another_number(Some(2), &[], false)]
    #[case::another_issuer(None, &["CN=other"], false)]
    #[case::the_first_issuer_counts(Some(1), &[AUTHORITY, "CN=other"], true)]
    fn an_issuer_may_be_named_by_its_number_and_issuer(
        #[case] number: Option<u32>,
        #[case] issuers: &[&str],
        #[case] is_it: bool,
    ) {
        let key = key();
        let authority = certificate(Profile::Root, AUTHORITY, &key.to_public_key(), &key).tbs_certificate;
        let names: Vec<GeneralName> =
            issuers.iter().map(|name| GeneralName::DirectoryName(Name::from_str(name).unwrap())).collect();
        let named = AuthorityKeyIdentifier {
            key_identifier: None,
            authority_cert_issuer: Some(names).filter(|names| !names.is_empty()),
            authority_cert_serial_number: number.map(SerialNumber::from),
        };
        let mut signed = authority.clone();
        signed.extensions = Some(vec![named.to_extension(&authority.subject, &[]).unwrap()]);
        assert_eq!(is_named(&authority, &signed), is_it);
    }

    /// No key: a number of so many bits, which a certificate of somebody else's says is one.
    #[rstest]
    #[case(8192, true)]
    #[case(16_384, true)]
    #[case(16_392, false)]
    fn long_keys_count(#[case] bits: usize, #[case] counts: bool) {
        let modulus = BigUint::from_bytes_be(&vec![0xff; bits / 8]);
        let long = RsaPublicKey::new_with_max_size(modulus, BigUint::from(65_537_u32), bits).unwrap();
        let certificate = certificate(leaf(), "CN=long", &long, &key());
        assert_eq!(key_of(&certificate).is_some(), counts);
    }

    #[test]
    fn only_the_signer_vouches_and_only_for_what_was_signed() {
        let (vendor, stranger) = (samples::signer("vendor").unwrap(), samples::signer("stranger").unwrap());
        let image = samples::uki(&[1, 2, 3], "quiet").unwrap();
        let signed = sign_pe(&image, &vendor).unwrap();
        let image = PeImage::parse(&signed).unwrap();
        let digest = image.authenticode(HashAlg::Sha256).unwrap();
        let signature = image.signatures().unwrap().remove(0).unwrap();
        assert!(signature.is_vouched_for(digest.bytes(), vendor.certificate()));
        assert!(!signature.is_vouched_for(digest.bytes(), stranger.certificate()));
        assert!(!signature.is_vouched_for(&[0; 32], vendor.certificate()));
        assert!(!signature.is_vouched_for(digest.bytes(), b"no certificate"));
    }

    #[test]
    fn a_broken_signature_vouches_for_nothing() {
        let vendor = samples::signer("vendor").unwrap();
        let signed = sign_pe(&samples::uki(&[1, 2, 3], "quiet").unwrap(), &vendor).unwrap();
        let digest = PeImage::parse(&signed).unwrap().authenticode(HashAlg::Sha256).unwrap();
        let mut broken = signed.clone();
        // The RSA signature is the last thing in the certificate table, less padding.
        let at = broken.len() - 32;
        broken[at] ^= 1;
        let image = PeImage::parse(&broken).unwrap();
        let signature = image.signatures().unwrap().remove(0).unwrap();
        assert!(!signature.is_vouched_for(digest.bytes(), vendor.certificate()));
    }
}
