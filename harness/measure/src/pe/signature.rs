//! One embedded Authenticode signature.

use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier};
use const_oid::ObjectIdentifier;
use const_oid::db::rfc5912;
use der::{Decode, Encode, SliceReader};

use crate::cert::{CertificateInfo, name_text};

/// `SPC_INDIRECT_DATA_OBJID`, "Windows Authenticode Portable Executable Signature Format".
pub(crate) const SPC_INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");
/// `id-signedData`, RFC 5652 section 5.1.
pub(crate) const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

/// Why an entry of the certificate table is not a readable Authenticode signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The entry's length field does not fit the table.
    #[error("a signature of {length} bytes does not fit the certificate table")]
    Length {
        /// What the entry says of its length, in bytes.
        length: usize,
    },
    /// Not `WIN_CERT_TYPE_PKCS_SIGNED_DATA`.
    #[error("a signature of type {kind:#06x}, which is not Authenticode's")]
    Kind {
        /// `wCertificateType`.
        kind: u16,
    },
    /// The DER inside cannot be read.
    #[error("a signature that is not an Authenticode structure: {why}")]
    Structure {
        /// What is wrong, in the parser's words.
        why: String,
    },
}

/// A signature, read but not verified.
#[derive(Debug, Clone)]
pub struct Signature {
    der: Vec<u8>,
    signed_data: SignedData,
    digest_algorithm: ObjectIdentifier,
    digest: Vec<u8>,
}

/// `SpcIndirectDataContent`, as far as it is needed here.
#[derive(der::Sequence)]
struct IndirectData {
    _data: der::Any,
    message_digest: DigestInfo,
}

#[derive(der::Sequence)]
struct DigestInfo {
    algorithm: spki::AlgorithmIdentifierOwned,
    digest: der::asn1::OctetString,
}

impl Signature {
    /// Reads a PKCS#7 `ContentInfo`; zero bytes that pad it are ignored.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let structure = |why: der::Error| SignatureError::Structure { why: why.to_string() };
        let wrong = |why: &str| SignatureError::Structure { why: why.to_owned() };
        let mut reader = SliceReader::new(bytes).map_err(structure)?;
        let content = ContentInfo::decode(&mut reader).map_err(structure)?;
        if content.content_type != SIGNED_DATA {
            return Err(wrong("its content is not SignedData"));
        }
        let signed_data: SignedData = content.content.decode_as().map_err(structure)?;
        if signed_data.encap_content_info.econtent_type != SPC_INDIRECT_DATA {
            return Err(wrong("it does not sign SpcIndirectDataContent"));
        }
        let inner =
            signed_data.encap_content_info.econtent.as_ref().ok_or_else(|| wrong("it signs nothing"))?;
        let indirect: IndirectData = inner.decode_as().map_err(structure)?;
        let der = content.to_der().map_err(structure)?;
        Ok(Self {
            der,
            digest_algorithm: indirect.message_digest.algorithm.oid,
            digest: indirect.message_digest.digest.into_bytes(),
            signed_data,
        })
    }

    /// The PKCS#7 structure, DER, without padding.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The Authenticode hash that was signed.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    pub(super) fn signed_data(&self) -> &SignedData {
        &self.signed_data
    }

    /// Name of the hash that was signed: `sha1`, `sha256`, `sha384`, `sha512` or the object identifier.
    #[must_use]
    pub fn digest_name(&self) -> String {
        match self.digest_algorithm {
            rfc5912::ID_SHA_1 => "sha1".into(),
            rfc5912::ID_SHA_256 => "sha256".into(),
            rfc5912::ID_SHA_384 => "sha384".into(),
            rfc5912::ID_SHA_512 => "sha512".into(),
            other => other.to_string(),
        }
    }

    /// The embedded certificates, DER, in the structure's order.
    #[must_use]
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let set = self.signed_data.certificates.as_ref();
        set.map(|set| set.0.iter().filter_map(der_of).collect()).unwrap_or_default()
    }

    /// The certificate that the signer information names, DER, when it is embedded.
    #[must_use]
    pub fn signer_certificate(&self) -> Option<Vec<u8>> {
        let SignerIdentifier::IssuerAndSerialNumber(wanted) = &self.signed_data.signer_infos.0.get(0)?.sid
        else {
            return None;
        };
        self.signed_data.certificates.as_ref()?.0.iter().find_map(|choice| match choice {
            CertificateChoices::Certificate(c)
                if c.tbs_certificate.issuer == wanted.issuer
                    && c.tbs_certificate.serial_number == wanted.serial_number =>
            {
                c.to_der().ok()
            }
            _ => None,
        })
    }

    /// Who signed, for people: the signer's subject, or, when the certificate is not embedded, who issued it.
    #[must_use]
    pub fn signer_name(&self) -> String {
        if let Some(info) = self.signer_certificate().as_deref().and_then(CertificateInfo::of) {
            return info.subject;
        }
        match self.signed_data.signer_infos.0.get(0).map(|s| &s.sid) {
            Some(SignerIdentifier::IssuerAndSerialNumber(id)) => {
                format!("a certificate issued by {}", name_text(&id.issuer))
            }
            Some(SignerIdentifier::SubjectKeyIdentifier(_)) => "a key known by its identifier only".into(),
            None => "nobody".into(),
        }
    }
}

fn der_of(choice: &CertificateChoices) -> Option<Vec<u8>> {
    match choice {
        CertificateChoices::Certificate(c) => c.to_der().ok(),
        CertificateChoices::Other(_) => None,
    }
}
