//! Small images and certificates to test with (feature `samples`).
//!
//! Built here rather than kept as files, so that no binary and no key lies in a repository.

use std::str::FromStr;
use std::time::Duration;

use der::Encode;
use rsa::RsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::EncodePrivateKey;
use rsa::signature::Keypair;
use sha2::Sha256;
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

use crate::pe_build::{Part, application};
use crate::sign::{Error, Signer};

/// A self-signed certificate with a fresh 2048-bit RSA key, valid for a day. `name` is its common name.
///
/// # Errors
/// [`Error::Build`] when the certificate cannot be made, e.g. since `name` has a comma in it.
pub fn signer(name: &str) -> Result<Signer, Error> {
    let build = |why: &dyn std::fmt::Display| Error::Build { why: why.to_string() };
    let key = RsaPrivateKey::new(&mut rand::thread_rng(), 2048).map_err(|e| build(&e))?;
    let pkcs8 = key.to_pkcs8_der().map_err(|e| build(&e))?;
    let signing = SigningKey::<Sha256>::new(key);
    let subject = Name::from_str(&format!("CN={name}")).map_err(|e| build(&e))?;
    let builder = CertificateBuilder::new(
        // A root's key usage would forbid signing files, and sbverify looks.
        Profile::Leaf {
            issuer: subject.clone(),
            enable_key_agreement: false,
            enable_key_encipherment: false,
        },
        SerialNumber::from(1_u32),
        Validity::from_now(Duration::from_secs(86_400)).map_err(|e| build(&e))?,
        subject,
        SubjectPublicKeyInfoOwned::from_key(signing.verifying_key()).map_err(|e| build(&e))?,
        &signing,
    )
    .map_err(|e| build(&e))?;
    let certificate = builder.build::<rsa::pkcs1v15::Signature>().map_err(|e| build(&e))?;
    Signer::from_der(&certificate.to_der().map_err(|e| build(&e))?, pkcs8.as_bytes())
}

/// An image that looks like a shim of `version` (e.g. `15.8`) with `room` bytes for its certificate table, none
/// built in. It starts and returns success.
///
/// # Errors
/// [`Error::TooLarge`] when `room` is more than an image can hold.
pub fn shim(version: &str, room: usize) -> Result<Vec<u8>, Error> {
    let ident = format!("UEFI SHIM\n$Version: {version} $\n$BuildMachine: none $\n$Commit: none $\n\0");
    let sbat = format!(
        "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
         shim,4,UEFI shim,shim,{version},https://github.com/rhboot/shim\n"
    );
    let mut levels = Vec::new();
    let (automatic, latest) =
        ("sbat,1,2023012900\nshim,2\ngrub,3\n\0", "sbat,1,2024010900\nshim,4\ngrub,3\n\0");
    for field in [0, 8, 8 + u32::try_from(automatic.len()).map_err(|_| Error::TooLarge)?] {
        levels.extend(field.to_le_bytes());
    }
    levels.extend(automatic.bytes().chain(latest.bytes()));
    let mut table = vec![0; room];
    for (at, value) in [(8, 16), (12, 16)] {
        if let Some(field) = table.get_mut(at) {
            *field = value;
        }
    }
    application(&[
        Part::code(".text", &[0x31, 0xc0, 0xc3]),
        Part::data(".data.ident", ident.as_bytes()),
        Part::data(".vendor_cert", &table),
        Part::data(".sbatlevel", &levels),
        Part::data(".sbat", sbat.as_bytes()),
    ])
}

/// An image that looks like a unified kernel image: the sections that systemd-stub reads, with `kernel` in the
/// place of a kernel.
///
/// # Errors
/// [`Error::TooLarge`] when it is more than an image can hold.
pub fn uki(kernel: &[u8], command_line: &str) -> Result<Vec<u8>, Error> {
    let sbat = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
                systemd,1,The systemd Developers,systemd,252,https://systemd.io\n";
    application(&[
        Part::code(".text", &[0x31, 0xc0, 0xc3]),
        Part::data(".sbat", sbat.as_bytes()),
        Part::data(".osrel", b"ID=sample\nVERSION_ID=1\n"),
        Part::data(".uname", b"6.1.0-sample"),
        Part::data(".cmdline", command_line.as_bytes()),
        Part::data(".linux", kernel),
        Part::data(".initrd", b"initrd"),
    ])
}
