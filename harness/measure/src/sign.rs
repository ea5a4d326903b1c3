//! Authenticode signing, as `sbsign` does it, without a clock: the same image, key and certificate always give
//! the same bytes (RSA PKCS#1 v1.5, no signing time), so that signed files can be addressed by content.
//!
//! Sources: Microsoft "Windows Authenticode Portable Executable Signature Format" (structures), "PE Format"
//! (certificate table, checksum); edk2 `DxeImageVerificationLib` reads the hash's object identifier at a fixed
//! offset, which the order of fields here keeps.

use cms::builder::{SignedDataBuilder, SignerInfoBuilder};
use cms::cert::{CertificateChoices, IssuerAndSerialNumber};
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use const_oid::db::rfc5911::ID_DATA;
use const_oid::db::rfc5912::{ID_SHA_256, RSA_ENCRYPTION};
use der::asn1::{OctetString, SetOfVec};
use der::{Any, Decode, Encode};
use latchkey_record::pcr::HashAlg;
use rsa::RsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::signature::{Keypair, SignatureEncoding, Signer as _};
use sha2::{Digest, Sha256};
use spki::{AlgorithmIdentifierOwned, EncodePublicKey};
use x509_cert::Certificate;

use crate::pe::signature::{SIGNED_DATA, SPC_INDIRECT_DATA};
use crate::pe::{self, Layout, PeImage, WIN_CERT_REVISION, WIN_CERT_TYPE_PKCS, WIN_CERTIFICATE_HEADER};

/// `SpcAttributeTypeAndOptionalValue` of a PE image: SPC_PE_IMAGE_DATA_OBJID with empty flags and an empty
/// file name, which is what open-source signers write.
const PE_IMAGE_DATA: [u8; 25] = [
    0x30, 0x17, 0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f, // the type
    0x30, 0x09, 0x03, 0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00, // flags, file
];
/// `DigestInfo` for SHA-256, up to the digest itself (RFC 8017 section 9.2, note 1).
const SHA256_DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

/// More than a signature takes, so that the image is not copied again for it.
const ROOM: usize = 8 << 10;

/// Why an image could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image itself is not usable.
    #[error(transparent)]
    Pe(#[from] pe::Error),
    /// The certificate or the key is not what it should be.
    #[error("reading a signing {what}: {why}")]
    Material {
        /// `certificate` or `key`.
        what: &'static str,
        /// What is wrong, in the parser's words.
        why: String,
    },
    /// The key does not belong to the certificate.
    #[error("the signing key does not belong to the certificate of {subject}")]
    Mismatch {
        /// The certificate's subject.
        subject: String,
    },
    /// Something follows the certificate table, so nothing can be appended to it.
    #[error("adding a signature to a PE image: its certificate table is not at the end of the file")]
    TableNotLast,
    /// The image is larger than PE's 32-bit offsets can tell.
    #[error("adding a signature to a PE image: the file is larger than 4 GiB")]
    TooLarge,
    /// Building the PKCS#7 structure failed.
    #[error("building a signature: {why}")]
    Build {
        /// What is wrong, in the library's words.
        why: String,
    },
}

/// A certificate with its private key. The key is wiped when this is dropped, and never printed.
pub struct Signer {
    certificate: Certificate,
    der: Vec<u8>,
    chain: Vec<Certificate>,
    key: SigningKey<Sha256>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("subject", &self.subject()).finish_non_exhaustive()
    }
}

impl Signer {
    /// From a certificate (DER) and its RSA key (PKCS#8, DER).
    ///
    /// # Errors
    /// [`Error::Material`] when one cannot be read, [`Error::Mismatch`] when they do not belong together.
    pub fn from_der(certificate: &[u8], pkcs8_key: &[u8]) -> Result<Self, Error> {
        // `RsaPrivateKey` wipes itself when it is dropped.
        let key = RsaPrivateKey::from_pkcs8_der(pkcs8_key)
            .map_err(|e| Error::Material { what: "key", why: e.to_string() })?;
        let parsed = read_certificate(certificate)?;
        let key = SigningKey::<Sha256>::new(key);
        let public = key
            .verifying_key()
            .to_public_key_der()
            .map_err(|e| Error::Material { what: "key", why: e.to_string() })?;
        let certified = parsed
            .tbs_certificate
            .subject_public_key_info
            .to_der()
            .map_err(|e| Error::Material { what: "certificate", why: e.to_string() })?;
        if public.as_bytes() != certified {
            return Err(Error::Mismatch { subject: parsed.tbs_certificate.subject.to_string() });
        }
        Ok(Self { der: certificate.to_vec(), certificate: parsed, chain: Vec::new(), key })
    }

    /// Also embeds `certificate` (DER) in every signature, for verifiers that know only the root.
    ///
    /// # Errors
    /// [`Error::Material`] when it cannot be read.
    pub fn with_chain(mut self, certificate: &[u8]) -> Result<Self, Error> {
        self.chain.push(read_certificate(certificate)?);
        Ok(self)
    }

    /// The signing certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.der
    }

    /// The signing certificate's subject.
    #[must_use]
    pub fn subject(&self) -> String {
        self.certificate.tbs_certificate.subject.to_string()
    }

    /// A PKCS#7 structure over an Authenticode SHA-256 hash, DER.
    fn pkcs7(&self, digest: &[u8]) -> Result<Vec<u8>, Error> {
        let asn1 = |e: der::Error| Error::Build { why: e.to_string() };
        let mut indirect = Vec::with_capacity(78);
        indirect.extend([0x30, 0x4c]);
        indirect.extend(PE_IMAGE_DATA);
        indirect.extend(SHA256_DIGEST_INFO);
        indirect.extend(digest);
        let content = EncapsulatedContentInfo {
            econtent_type: SPC_INDIRECT_DATA,
            econtent: Some(Any::from_der(&indirect).map_err(asn1)?),
        };
        let signed = self.signed_data(&content)?;
        let content = Any::encode_from(&signed).map_err(asn1)?;
        ContentInfo { content_type: SIGNED_DATA, content }.to_der().map_err(asn1)
    }

    /// A PKCS#7 structure over `content`, which is not in it, DER: the bare `SignedData` that firmware takes for variables
    /// (UEFI 2.10, section 8.2.2).
    pub(crate) fn detached(&self, content: &[u8]) -> Result<Vec<u8>, Error> {
        let asn1 = |e: der::Error| Error::Build { why: e.to_string() };
        let octets = OctetString::new(content).and_then(|octets| Any::encode_from(&octets)).map_err(asn1)?;
        let content = EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: Some(octets) };
        let mut signed = self.signed_data(&content)?;
        signed.encap_content_info.econtent = None;
        signed.to_der().map_err(asn1)
    }

    /// A PKCS#7 structure over `content`, which is not in it, DER: no attributes and no certificates.
    pub(crate) fn without_attributes(&self, content: &[u8]) -> Result<Vec<u8>, Error> {
        let asn1 = |e: der::Error| Error::Build { why: e.to_string() };
        let nothing = EncapsulatedContentInfo { econtent_type: ID_DATA, econtent: Some(Any::null()) };
        let mut signed = self.signed_data(&nothing)?;
        signed.encap_content_info.econtent = None;
        signed.certificates = None;
        let signature: rsa::pkcs1v15::Signature =
            self.key.try_sign(content).map_err(|e| Error::Build { why: e.to_string() })?;
        let signature = OctetString::new(signature.to_vec()).map_err(asn1)?;
        let infos = signed.signer_infos.0.iter().cloned();
        // Linux knows the plain name of the algorithm alone (`crypto/asymmetric_keys/pkcs7_parser.c`).
        let rsa = AlgorithmIdentifierOwned { oid: RSA_ENCRYPTION, parameters: Some(Any::null()) };
        let infos = infos.map(|info| SignerInfo {
            signed_attrs: None,
            signature_algorithm: rsa.clone(),
            signature: signature.clone(),
            ..info
        });
        signed.signer_infos = SignerInfos(SetOfVec::from_iter(infos).map_err(asn1)?);
        let content = Any::encode_from(&signed).map_err(asn1)?;
        ContentInfo { content_type: SIGNED_DATA, content }.to_der().map_err(asn1)
    }

    fn signed_data(&self, content: &EncapsulatedContentInfo) -> Result<SignedData, Error> {
        let build = |why: String| Error::Build { why };
        let sha256 = AlgorithmIdentifierOwned { oid: ID_SHA_256, parameters: Some(Any::null()) };
        let sid = SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
            issuer: self.certificate.tbs_certificate.issuer.clone(),
            serial_number: self.certificate.tbs_certificate.serial_number.clone(),
        });
        let info = SignerInfoBuilder::new(&self.key, sid, sha256.clone(), content, None)
            .map_err(|e| build(e.to_string()))?;
        let mut builder = SignedDataBuilder::new(content);
        builder.add_digest_algorithm(sha256).map_err(|e| build(e.to_string()))?;
        for certificate in std::iter::once(&self.certificate).chain(&self.chain) {
            let choice = CertificateChoices::Certificate(certificate.clone());
            builder.add_certificate(choice).map_err(|e| build(e.to_string()))?;
        }
        builder
            .add_signer_info::<SigningKey<Sha256>, rsa::pkcs1v15::Signature>(info)
            .map_err(|e| build(e.to_string()))?;
        let built = builder.build().map_err(|e| build(e.to_string()))?;
        // CMS gives some contents version 3; Authenticode is PKCS#7 version 1.5, which has only version 1.
        let mut signed: SignedData = built.content.decode_as().map_err(|e| build(e.to_string()))?;
        signed.version = CmsVersion::V1;
        Ok(signed)
    }
}

fn read_certificate(der: &[u8]) -> Result<Certificate, Error> {
    Certificate::from_der(der).map_err(|e| Error::Material { what: "certificate", why: e.to_string() })
}

/// Adds an Authenticode signature (SHA-256) by `signer` after those that `image` has, and corrects the PE
/// checksum. An unsigned image is padded with zeros to a multiple of eight bytes first.
///
/// # Errors
/// [`Error::Pe`] when `image` is not a PE image, [`Error::TableNotLast`] when something follows its
/// signatures.
pub fn sign_pe(image: &[u8], signer: &Signer) -> Result<Vec<u8>, Error> {
    let layout = PeImage::parse(image)?.layout()?;
    let mut out = Vec::with_capacity(image.len() + ROOM);
    out.extend(image);
    let start = match layout.certificate_table {
        Some((start, size)) if start + size == image.len() => start,
        Some(_) => return Err(Error::TableNotLast),
        None => {
            out.resize(image.len().next_multiple_of(8), 0);
            out.len()
        }
    };
    let digest = PeImage::parse(&out)?.authenticode(HashAlg::Sha256)?;
    let pkcs7 = signer.pkcs7(digest.bytes())?;
    // The length counts the padding too, as Microsoft's own signer does it.
    let length = (WIN_CERTIFICATE_HEADER + pkcs7.len()).next_multiple_of(8);
    out.resize(out.len().next_multiple_of(8), 0);
    let end = out.len() + length;
    out.extend(u32::try_from(length).map_err(|_| Error::TooLarge)?.to_le_bytes());
    out.extend(WIN_CERT_REVISION.to_le_bytes());
    out.extend(WIN_CERT_TYPE_PKCS.to_le_bytes());
    out.extend(pkcs7);
    out.resize(end, 0);
    write_table(&mut out, &layout, start, end - start)?;
    write_checksum(&mut out, &layout)?;
    Ok(out)
}

/// Removes every signature and corrects the PE checksum. An image without any comes back with its checksum
/// corrected.
///
/// # Errors
/// [`Error::Pe`] when `image` is not a PE image, [`Error::TableNotLast`] when something follows its
/// signatures.
pub fn strip_signatures(image: &[u8]) -> Result<Vec<u8>, Error> {
    let layout = PeImage::parse(image)?.layout()?;
    let end = match layout.certificate_table {
        Some((start, size)) if start + size != image.len() => return Err(Error::TableNotLast),
        Some((start, _)) => start,
        None => image.len(),
    };
    let mut out = image.get(..end).ok_or(pe::Error::OutOfBounds)?.to_vec();
    if layout.certificate_table.is_some() {
        write_table(&mut out, &layout, 0, 0)?;
    }
    write_checksum(&mut out, &layout)?;
    Ok(out)
}

/// Removes every signature but the first, as the file had it before others signed it as well, and corrects the PE checksum.
/// `None` where there are not two.
///
/// # Errors
/// As [`strip_signatures`].
pub fn keep_first_signature(image: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let layout = PeImage::parse(image)?.layout()?;
    let Some((start, size)) = layout.certificate_table else { return Ok(None) };
    if start + size != image.len() {
        return Err(Error::TableNotLast);
    }
    // `WIN_CERTIFICATE` begins with its length; entries start at multiples of eight bytes (PE format, "The Attribute
    // Certificate Table").
    let length =
        image.get(start..start + 4).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    let first =
        length.and_then(|length| usize::try_from(length).ok()).map(|length| length.next_multiple_of(8));
    let Some(first) = first.filter(|first| (1..size).contains(first)) else { return Ok(None) };
    let mut out = image[..start + first].to_vec();
    write_table(&mut out, &layout, start, first)?;
    write_checksum(&mut out, &layout)?;
    Ok(Some(out))
}

/// Corrects the checksum in the optional header after bytes of the image were changed.
///
/// # Errors
/// [`Error::Pe`] when `image` is not a PE image.
pub fn fix_checksum(image: &mut [u8]) -> Result<(), Error> {
    let layout = PeImage::parse(image)?.layout()?;
    write_checksum(image, &layout)
}

fn write_table(image: &mut [u8], layout: &Layout, start: usize, size: usize) -> Result<(), Error> {
    let start = u32::try_from(start).map_err(|_| Error::TooLarge)?;
    let size = u32::try_from(size).map_err(|_| Error::TooLarge)?;
    put(image, layout.security_directory, &start.to_le_bytes())?;
    put(image, layout.security_directory + 4, &size.to_le_bytes())
}

fn write_checksum(image: &mut [u8], layout: &Layout) -> Result<(), Error> {
    put(image, layout.checksum, &[0; 4])?;
    let sum = checksum(image)?;
    put(image, layout.checksum, &sum.to_le_bytes())
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) -> Result<(), Error> {
    let place = image.get_mut(at..at + bytes.len()).ok_or(pe::Error::OutOfBounds)?;
    place.copy_from_slice(bytes);
    Ok(())
}

/// The PE checksum of an image whose checksum field is zero: the 16-bit one's-complement sum of its words plus
/// its length ("PE Format", optional header field CheckSum, describes ImageHlp's routine).
fn checksum(image: &[u8]) -> Result<u32, Error> {
    // Two words at once: 2^16 leaves 1 when it is divided by 2^16 - 1, so that folding comes to the same sum.
    let (pairs, rest) = image.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum: u64 = pairs.iter().chain([&last]).map(|pair| u64::from(u32::from_le_bytes(*pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let length = u32::try_from(image.len()).map_err(|_| Error::TooLarge)?;
    u32::try_from(sum).map_err(|_| Error::TooLarge)?.checked_add(length).ok_or(Error::TooLarge)
}

/// SHA-256 of `bytes`, for callers that name a signer by its certificate.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
