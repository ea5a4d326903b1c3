//! Small images and certificates to test with (feature `samples`).
//!
//! Built here rather than kept as files, so that no binary and no key lies in a repository.

use std::str::FromStr;
use std::time::Duration;

use der::Encode;
use der::asn1::ObjectIdentifier;
use rsa::RsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::EncodePrivateKey;
use rsa::signature::Keypair;
use sha2::Sha256;
use spki::SubjectPublicKeyInfoOwned;
use x509_cert::builder::{Builder, CertificateBuilder, Profile};
use x509_cert::ext::pkix::ExtendedKeyUsage;
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::time::Validity;

use crate::Uuid;
use crate::cert::MODULE_SIGNING;
use crate::pe_build::{DOES_NOTHING, Part, application};
use crate::sign::{Error, Signer};

/// A self-signed certificate with a fresh RSA key, valid for a day. `name` is its common name. The key has 1024 bits: every test
/// is a process that makes its own, nobody here asks how long one is, and one of 2048 takes ten times as long.
///
/// # Errors
/// [`Error::Build`] when the certificate cannot be made, e.g. since `name` has a comma in it.
pub fn signer(name: &str) -> Result<Signer, Error> {
    signer_for(name, None)
}

/// As [`signer`], with a certificate that is for kernel modules ([`crate::cert::is_for_modules`]).
///
/// # Errors
/// As [`signer`].
pub fn module_signer(name: &str) -> Result<Signer, Error> {
    signer_for(name, Some(MODULE_SIGNING))
}

fn signer_for(name: &str, usage: Option<ObjectIdentifier>) -> Result<Signer, Error> {
    let build = |why: &dyn std::fmt::Display| Error::Build { why: why.to_string() };
    let key = RsaPrivateKey::new(&mut rand::thread_rng(), 1024).map_err(|e| build(&e))?;
    let pkcs8 = key.to_pkcs8_der().map_err(|e| build(&e))?;
    let signing = SigningKey::<Sha256>::new(key);
    let subject = Name::from_str(&format!("CN={name}")).map_err(|e| build(&e))?;
    let mut builder = CertificateBuilder::new(
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
    if let Some(usage) = usage {
        builder.add_extension(&ExtendedKeyUsage(vec![usage])).map_err(|e| build(&e))?;
    }
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
        Part::code(".text", &DOES_NOTHING),
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
        Part::code(".text", &DOES_NOTHING),
        Part::data(".sbat", sbat.as_bytes()),
        Part::data(".osrel", b"ID=sample\nVERSION_ID=1\n"),
        Part::data(".uname", b"6.1.0-sample"),
        Part::data(".cmdline", command_line.as_bytes()),
        Part::data(".linux", kernel),
        Part::data(".initrd", b"initrd"),
    ])
}

/// An unsigned program that returns success, with these sections besides its code, name and contents: an add-on, a file of
/// revocations, a MokManager.
///
/// # Errors
/// [`Error::TooLarge`] when it is more than an image can hold.
pub fn program(sections: &[(&str, &[u8])]) -> Result<Vec<u8>, Error> {
    let code = Part::code(".text", &DOES_NOTHING);
    let parts = sections.iter().map(|(name, data)| Part::data(name, data));
    application(&std::iter::once(code).chain(parts).collect::<Vec<_>>())
}

/// An unsigned program that says it is a kernel of this release (Linux, Documentation/arch/x86/boot.rst).
///
/// # Errors
/// [`Error::TooLarge`] when it is more than an image can hold.
pub fn kernel(release: &str) -> Result<Vec<u8>, Error> {
    // The code begins at 0x200 in the file, as does what the boot protocol describes.
    let mut code = vec![0x90; 0x68];
    code[2..6].copy_from_slice(b"HdrS");
    code[6..8].copy_from_slice(&0x20fu16.to_le_bytes());
    code[0xe..0x10].copy_from_slice(&0x68u16.to_le_bytes());
    // It is loaded high, and has an entry for 64 bits and one to be handed over to.
    (code[0x11], code[0x36]) = (1, 1);
    code[0x64..0x68].copy_from_slice(&1u32.to_le_bytes());
    code.extend(release.bytes().chain([0]));
    let mut image = application(&[Part::code(".text", &code)])?;
    // How many sectors of code come first, and the mark behind them; the image's own headers end before.
    image[0x1f1] = 1;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    Ok(image)
}

/// An unsigned image that looks like GRUB of this version with these built-in modules, this prefix and, perhaps, a
/// configuration (GRUB 2.06, `util/mkimage.c`: the section `mods`). From 2.12 on it is Debian's,
/// which has the variable `fw_path`; `2.14-4` is a package, the first whose modules may call `grub_efi_get_secureboot_real`.
///
/// # Errors
/// [`Error::TooLarge`] when it is more than an image can hold.
pub fn grub(version: &str, modules: &[&str], prefix: &str, config: Option<&str>) -> Result<Vec<u8>, Error> {
    let (version, package) = version.split_once('-').map_or((version, None), |(v, p)| (v, Some(p)));
    let module = |name: &&str| {
        let mut elf = grub_module(name, &[]);
        if version == "2.14" && *name == "peimage" {
            // It looks for shim's protocol (`SHIM_IMAGE_LOADER_GUID`).
            elf.extend(Uuid::from_u128(0x1f49_2041_fadb_4e59_9e57_7caf_e73a_55ab).to_bytes_le());
        }
        (0, elf)
    };
    let mut objects: Vec<(u32, Vec<u8>)> = modules.iter().map(module).collect();
    let text = |text: &str| [text.as_bytes(), &[0]].concat();
    objects.extend(config.map(|config| (2, text(config))));
    objects.push((3, text(prefix)));
    let mut body = Vec::new();
    for (kind, mut data) in objects {
        data.resize(data.len().next_multiple_of(8), 0);
        let size = u32::try_from(data.len() + 8).map_err(|_| Error::TooLarge)?;
        body.extend([kind.to_le_bytes(), size.to_le_bytes()].concat());
        body.extend(data);
    }
    let mut mods = [&b"mimg"[..], &[0; 4], &24u64.to_le_bytes()].concat();
    mods.extend((24 + body.len() as u64).to_le_bytes());
    mods.extend(body);
    let sbat = format!(
        "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
         grub,5,Free Software Foundation,grub,{version},https://www.gnu.org/software/grub/\n"
    );
    let variable = if version == "2.06" { "cmdpath" } else { "fw_path" };
    let called = if package.is_some() { "grub_efi_get_secureboot_real" } else { "grub_efi_get_secureboot" };
    application(&[
        Part::code(".text", &[0x90; 16]),
        Part::data(".data", format!("\0{variable}\0{called}\0").as_bytes()),
        Part::data(".sbat", sbat.as_bytes()),
        Part::data("mods", &mods),
    ])
}

/// A module of GRUB's: an ELF object that has nothing but its name and those of the modules that it needs (ELF-64 Object
/// File Format, version 1.5).
#[must_use]
pub fn grub_module(name: &str, needs: &[&str]) -> Vec<u8> {
    let names = b"\0.modname\0.moddeps\0.shstrtab\0";
    let texts = |all: &[&str]| all.iter().flat_map(|text| text.bytes().chain([0])).collect::<Vec<u8>>();
    let (name, needs) = (texts(&[name]), texts(needs));
    let (own, other) = (64u64, 64 + name.len() as u64);
    let strings = other + needs.len() as u64;
    let sections = (strings + names.len() as u64).next_multiple_of(8);
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // ET_REL for x86-64, version 1; no entry, no program headers; section headers; sizes and counts.
    out.extend([1u16.to_le_bytes(), 62u16.to_le_bytes()].concat());
    out.extend([&1u32.to_le_bytes()[..], &[0; 16], &sections.to_le_bytes(), &[0; 4]].concat());
    out.extend([64u16, 0, 0, 64, 4, 3].map(u16::to_le_bytes).concat());
    out.extend([&name[..], &needs, names].concat());
    out.resize(usize::try_from(sections).unwrap_or_default(), 0);
    for (named, kind, offset, size) in [
        (0u32, 0u32, 0, 0),
        (1, 1, own, name.len() as u64),
        (10, 1, other, needs.len() as u64),
        (19, 3, strings, names.len() as u64),
    ] {
        out.extend([named.to_le_bytes(), kind.to_le_bytes()].concat());
        out.extend([0u64, 0, offset, size, 0, 1, 0].map(u64::to_le_bytes).concat());
    }
    out
}
