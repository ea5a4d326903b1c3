//! The few things about an X.509 certificate that people want to read.

use der::asn1::ObjectIdentifier;
use der::{Decode, SliceReader};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::name::Name;

/// A certificate in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateInfo {
    /// The subject's distinguished name, RFC 4514 order.
    pub subject: String,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// First day of validity, RFC 3339.
    pub not_before: String,
    /// Last day of validity, RFC 3339.
    pub not_after: String,
    /// SHA-256 of the DER encoding, lower-case hex.
    pub sha256: String,
}

impl CertificateInfo {
    /// Reads `der`; bytes after the certificate are ignored, as firmware ignores them. `None` when it is no
    /// X.509 certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let mut reader = SliceReader::new(der).ok()?;
        let certificate = Certificate::decode(&mut reader).ok()?;
        let length = usize::try_from(u32::from(der::Reader::position(&reader))).ok()?;
        let tbs = &certificate.tbs_certificate;
        Some(Self {
            subject: tbs.subject.to_string(),
            issuer: tbs.issuer.to_string(),
            not_before: tbs.validity.not_before.to_string(),
            not_after: tbs.validity.not_after.to_string(),
            sha256: hex::encode(Sha256::digest(der.get(..length)?)),
        })
    }

    /// The common name, or the whole subject when there is none.
    #[must_use]
    pub fn common_name(&self) -> &str {
        self.subject.split(',').find_map(|part| part.trim().strip_prefix("CN=")).unwrap_or(&self.subject)
    }
}

/// What a certificate says that it is for when it signs kernel modules and nothing else (shim `shim.c` and `verify.c`,
/// `OID_EKU_MODSIGN`).
pub(crate) const MODULE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.2312.16.1.2");

/// Whether `der` is a certificate that is for signing kernel modules: shim does not take its word for programs.
#[must_use]
pub fn is_for_modules(der: &[u8]) -> bool {
    let certificate = SliceReader::new(der).and_then(|mut reader| Certificate::decode(&mut reader));
    let uses = certificate.ok().and_then(|it| it.tbs_certificate.get::<ExtendedKeyUsage>().ok().flatten());
    uses.is_some_and(|(_, uses)| uses.0.contains(&MODULE_SIGNING))
}

/// A distinguished name as text.
pub(crate) fn name_text(name: &Name) -> String {
    name.to_string()
}
