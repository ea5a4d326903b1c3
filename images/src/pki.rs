//! The test keys of a cache: made once, kept with mode 0600, never logged, worth nothing outside it.
//!
//! Four parties and one owner, as on the machines this stands for:
//!
//! | party | stands for | its certificate is in |
//! |---|---|---|
//! | platform | Microsoft, who signs shim | the firmware's db |
//! | vendor | CIQ, who signs the UKI | shim's `.vendor_cert` |
//! | community | RESF, whose kernels are not trusted by default | the inactive `shim_certificate.efi.bak` |
//! | stranger | anybody else | nothing |
//! | owner | the cloud, who owns PK and KEK | the firmware's PK and KEK |

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use const_oid::db::rfc5280::ID_KP_CODE_SIGNING;
use der::Encode;
use latchkey_measure::Signer;
use rsa::RsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::EncodePrivateKey;
use rsa::signature::Keypair;
use sha2::{Digest, Sha256};
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;
use zeroize::Zeroizing;

use crate::cache::private_dir;
use crate::error::io;
use crate::progress::begin;
use crate::{Cache, Error, Progress, Stage};

/// Bits of every RSA key: what shim, the firmware and the real vendors use.
const BITS: usize = 2048;
/// How long certificates are valid. Firmware and shim do not look.
const VALID: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Everybody's certificates and signing keys.
#[derive(Debug)]
pub struct Pki {
    /// Signs shim.
    pub platform: Party,
    /// Signs the UKI and the certificate file.
    pub vendor: Party,
    /// Signs kernels that need the certificate file.
    pub community: Party,
    /// Signs what nobody trusts. Its authority is itself.
    pub stranger: Party,
    /// Owns the firmware's PK and KEK. Its authority is itself.
    pub owner: Party,
}

/// One party: an authority that others trust, and a key certified by it that signs.
#[derive(Debug)]
pub struct Party {
    /// The authority's certificate, DER.
    pub authority: Vec<u8>,
    /// The signing certificate with its key.
    pub signer: Signer,
}

impl Pki {
    /// The keys of `cache`, made when there are none.
    ///
    /// # Errors
    /// [`Error::Keys`] when one cannot be made, [`Error::Io`] when one cannot be kept, [`Error::Damaged`] when
    /// one cannot be read.
    pub fn ensure(cache: &Cache, progress: &dyn Progress) -> Result<Self, Error> {
        let dir = cache.root().join("pki");
        if !dir.is_dir() {
            let _lock = cache.lock("pki", progress)?;
            if !dir.is_dir() {
                begin(progress, Stage::Keys, "making test keys");
                let part = cache.root().join("pki.part");
                if part.exists() {
                    fs::remove_dir_all(&part).map_err(io("removing", &part))?;
                }
                private_dir(&part)?;
                make(&part)?;
                fs::rename(&part, &dir).map_err(io("renaming", &part))?;
            }
        }
        Self::read(&dir)
    }

    /// Whether `cache` has keys.
    #[must_use]
    pub fn is_made(cache: &Cache) -> bool {
        cache.root().join("pki").is_dir()
    }

    /// The keys of `cache`, if they are made.
    pub(crate) fn made(cache: &Cache) -> Result<Option<Self>, Error> {
        Self::is_made(cache).then(|| Self::read(&cache.root().join("pki"))).transpose()
    }

    fn read(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            platform: Party::read(dir, "platform-ca", "platform")?,
            vendor: Party::read(dir, "vendor-ca", "vendor")?,
            community: Party::read(dir, "community-ca", "community")?,
            stranger: Party::read(dir, "stranger", "stranger")?,
            owner: Party::read(dir, "owner", "owner")?,
        })
    }

    /// SHA-256 over all certificates, in hex: changes when any key does.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for party in [&self.platform, &self.vendor, &self.community, &self.stranger, &self.owner] {
            for der in [party.authority.as_slice(), party.signer.certificate()] {
                hash.update(der.len().to_le_bytes());
                hash.update(der);
            }
        }
        hex::encode(hash.finalize())
    }
}

impl Party {
    fn read(dir: &Path, authority: &str, signer: &str) -> Result<Self, Error> {
        let read = |path: &Path| fs::read(path).map_err(io("reading", path));
        let key_path = dir.join(format!("{signer}.key"));
        let key = Zeroizing::new(read(&key_path)?);
        let certificate = read(&dir.join(format!("{signer}.der")))?;
        let signer = Signer::from_der(&certificate, &key)
            .map_err(|e| Error::Damaged { path: key_path, why: e.to_string() })?;
        Ok(Self { authority: read(&dir.join(format!("{authority}.der")))?, signer })
    }
}

fn make(dir: &Path) -> Result<(), Error> {
    for (party, title) in [("platform", "Platform"), ("vendor", "Vendor"), ("community", "Community")] {
        let name = format!("{party}-ca");
        let ca = Issued::authority(&name, &format!("Latchkey Test {title} CA"))?;
        ca.keep(dir, &name)?;
        Issued::signer(party, &format!("Latchkey Test {title} Signing"), Some(&ca))?.keep(dir, party)?;
    }
    for (party, title) in [("stranger", "Stranger"), ("owner", "Platform Owner")] {
        Issued::signer(party, &format!("Latchkey Test {title}"), None)?.keep(dir, party)?;
    }
    Ok(())
}

/// A key with its certificate.
struct Issued {
    subject: Name,
    key: SigningKey<Sha256>,
    pkcs8: Zeroizing<Vec<u8>>,
    der: Vec<u8>,
}

impl Issued {
    fn authority(what: &str, name: &str) -> Result<Self, Error> {
        Self::issue(what, name, |_| Profile::Root, None, false)
    }

    fn signer(what: &str, name: &str, by: Option<&Self>) -> Result<Self, Error> {
        let leaf = |own: &Name| Profile::Leaf {
            issuer: by.map_or(own, |ca| &ca.subject).clone(),
            enable_key_agreement: false,
            enable_key_encipherment: false,
        };
        Self::issue(what, name, leaf, by, true)
    }

    fn issue(
        what: &str,
        name: &str,
        profile: impl FnOnce(&Name) -> Profile,
        by: Option<&Self>,
        signs_code: bool,
    ) -> Result<Self, Error> {
        let wrong = |e: &dyn std::fmt::Display| Error::Keys { what: what.to_owned(), why: e.to_string() };
        let subject = Name::from_str(&format!("CN={name},O=Latchkey test keys\\, trust nowhere"))
            .map_err(|e| wrong(&e))?;
        let private = RsaPrivateKey::new(&mut rand::thread_rng(), BITS).map_err(|e| wrong(&e))?;
        let pkcs8 = Zeroizing::new(private.to_pkcs8_der().map_err(|e| wrong(&e))?.as_bytes().to_vec());
        let key = SigningKey::<Sha256>::new(private);
        // Fifteen random bytes under a leading 1: positive, and never twice the same.
        let mut serial: [u8; 16] = rand::random();
        serial[0] = 1;
        let mut builder = CertificateBuilder::new(
            profile(&subject),
            SerialNumber::new(&serial).map_err(|e| wrong(&e))?,
            Validity::from_now(VALID).map_err(|e| wrong(&e))?,
            subject.clone(),
            SubjectPublicKeyInfoOwned::from_key(key.verifying_key()).map_err(|e| wrong(&e))?,
            by.map_or(&key, |ca| &ca.key),
        )
        .map_err(|e| wrong(&e))?;
        if signs_code {
            builder.add_extension(&ExtendedKeyUsage(vec![ID_KP_CODE_SIGNING])).map_err(|e| wrong(&e))?;
        }
        let certificate = builder.build::<rsa::pkcs1v15::Signature>().map_err(|e| wrong(&e))?;
        let der = certificate.to_der().map_err(|e| wrong(&e))?;
        Ok(Self { subject, key, pkcs8, der })
    }

    fn keep(&self, dir: &Path, name: &str) -> Result<(), Error> {
        let certificate = dir.join(format!("{name}.der"));
        fs::write(&certificate, &self.der).map_err(io("writing", &certificate))?;
        let path = dir.join(format!("{name}.key"));
        let mut file: File = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io("making", &path))?;
        file.write_all(&self.pkcs8).map_err(io("writing", &path))
    }
}

/// Whether `der` holds an RSA key as this module writes them.
#[cfg(test)]
fn is_key(der: &[u8]) -> bool {
    use rsa::pkcs8::DecodePrivateKey;
    RsaPrivateKey::from_pkcs8_der(der).is_ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::Silent;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    /// One set of keys for all tests here: making them takes seconds.
    fn keys() -> (tempfile::TempDir, Pki) {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::ensure(&Cache::at(dir.path()).unwrap(), &Silent).unwrap();
        (dir, pki)
    }

    #[test]
    fn keys_are_made_once_kept_private_and_chain_to_their_authority() {
        let (dir, pki) = keys();
        let again = Pki::ensure(&Cache::at(dir.path()).unwrap(), &Silent).unwrap();
        assert_eq!(pki.fingerprint(), again.fingerprint());
        let mut seen = 0;
        for entry in fs::read_dir(dir.path().join("pki")).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "key") {
                assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                assert!(is_key(&fs::read(&path).unwrap()));
                seen += 1;
            }
        }
        assert_eq!(seen, 8);
        // openssl is the independent judge of the chains.
        for party in ["platform", "vendor", "community"] {
            let at = |name: &str| dir.path().join("pki").join(name).display().to_string();
            let pem = |name: &str| {
                let out = at(&format!("{name}.pem"));
                let args = ["x509", "-inform", "der", "-in", &at(&format!("{name}.der")), "-out", &out];
                latchkey_supervise::run("openssl", &args).unwrap();
                out
            };
            let (ca, leaf) = (pem(&format!("{party}-ca")), pem(party));
            let verify = |ca: &str| latchkey_supervise::run("openssl", &["verify", "-CAfile", ca, &leaf]);
            verify(&ca).unwrap();
            verify(&pem("stranger")).unwrap_err();
            // `-purpose codesign` came with OpenSSL 3.2: what it looks for is looked for here.
            let usage = ["x509", "-noout", "-ext", "keyUsage,extendedKeyUsage", "-in", &leaf];
            let usage = latchkey_supervise::run("openssl", &usage).unwrap().text();
            assert!(usage.contains("Digital Signature") && usage.contains("Code Signing"), "{usage}");
        }
        // The vendor's CA must fit where Debian's was: 930 bytes and a revocation list.
        assert!(pki.vendor.authority.len() < 1500 && pki.vendor.authority.starts_with(&[0x30, 0x82]));
    }

    #[test]
    fn a_damaged_key_is_named() {
        let (dir, _) = keys();
        let path = dir.path().join("pki/vendor.key");
        fs::write(&path, b"nonsense").unwrap();
        let error = Pki::ensure(&Cache::at(dir.path()).unwrap(), &Silent).unwrap_err().to_string();
        assert!(error.contains("vendor.key") && error.contains("remove it"), "{error}");
    }
}
