//! The files that scenarios swap in, and how they are made.

use bytes::Bytes;
use latchkey_forecast::Initrd;
use latchkey_images::{CERTIFICATE_SBAT, Party, Signing};
use latchkey_measure::sign::{self, fix_checksum, keep_first_signature, sign_pe, strip_signatures};
use latchkey_measure::{PeImage, SignatureList, Signer, Uuid, addon, certfile, section};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::place::{Site, place};
use crate::Error;
use crate::location::Location;

/// A file that scenarios swap in, made from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Artefact {
    /// The image's UKI, signed by somebody whom nothing in the chain trusts.
    UkiSignedByStranger,
    /// The image's UKI with another byte in its initrd, under the signature that it has: what signing it is against.
    UkiWithOtherInitrd,
    /// Another UKI of the image's vendor, as an update brings it: the image's with another version in its `.osrel`, or the
    /// one that the user hands in.
    UkiSignedByVendor,
    /// The same vendor's shim as another release has it, rightly signed: what an update of shim brings to one with 15.8 is
    /// 16.1, and the other way round.
    ShimOfOtherRelease,
    /// Another vendor's shim, signed by Microsoft: Debian's.
    ShimOfOtherVendor,
    /// Another kernel of the image's vendor for GRUB, as an update brings it: the image's with another version in its header,
    /// or the one that the user hands in.
    KernelSignedByVendor,
    /// Another kernel or UKI, as `kernel-signed-by-vendor` and `uki-signed-by-vendor` are, and signed by the community, whom the
    /// vendor's certificate file vouches for.
    KernelSignedByCommunity,
    /// Another vendor's kernel: the one in the image's UKI, or GRUB's as it was before the image's vendor signed it as well
    /// (Debian's, for the reference images), or the one that the user hands in.
    KernelOfOtherVendor,
    /// A second certificate file of the image's vendor, in which a stranger's certificate is.
    SecondCertificate,
    /// The image's initrd as it comes out without the TPM's libraries: an archive at its end empties them.
    InitrdWithoutTpm,
    /// Another UKI of the image's vendor, rightly signed, whose initrd lacks the TPM's libraries.
    UkiWithoutTpm,
    /// An add-on to the image's UKI with one word more for the kernel's command line, signed by the image's vendor.
    Addon,
    /// The same, signed by somebody whom nothing in the chain trusts.
    AddonSignedByStranger,
}

/// The section of a UKI that its initrd is in (`systemd-stub(7)`).
const INITRD: &str = ".initrd";
/// What an add-on adds to the kernel's command line: a word that neither the kernel nor systemd knows.
const ADDS: &str = "latchkey.addon=1";
/// Its SBAT metadata, as `ukify` writes it.
const ADDON_SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
    uki-addon,1,UKI Addon,addon,1,https://www.freedesktop.org/software/systemd/man/latest/systemd-stub.html\n";

/// The owner GUID of a second certificate file's certificate: any will do, this one is ours.
const OWNER: Uuid = Uuid::from_u128(0x6c61_7463_686b_4579_8a5e_7365_636f_6e64);

impl Artefact {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::UkiSignedByStranger,
        Self::UkiWithOtherInitrd,
        Self::UkiSignedByVendor,
        Self::ShimOfOtherRelease,
        Self::ShimOfOtherVendor,
        Self::KernelSignedByVendor,
        Self::KernelSignedByCommunity,
        Self::KernelOfOtherVendor,
        Self::SecondCertificate,
        Self::InitrdWithoutTpm,
        Self::UkiWithoutTpm,
        Self::Addon,
        Self::AddonSignedByStranger,
    ];

    /// The one with this name, or the names that there are.
    ///
    /// # Errors
    /// A sentence for people, with the nearest name when there is one.
    pub fn named(name: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        Self::ALL.into_iter().find(|artefact| artefact.name() == name).ok_or_else(|| {
            let nearest = names
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let meant = nearest.filter(|near| strsim::jaro_winkler(near, name) > 0.8);
            let hint = meant.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            format!("there is no artefact `{name}`, only {}{hint}", names.join(", "))
        })
    }

    /// Whether only the image's vendor, or somebody whose key its chain trusts, can make it, or its recipe has to bring it. A
    /// stranger's signature anybody can make.
    #[must_use]
    pub fn needs_vendor_key(self) -> bool {
        match self {
            Self::UkiSignedByStranger
            | Self::UkiWithOtherInitrd
            | Self::InitrdWithoutTpm
            | Self::AddonSignedByStranger => false,
            Self::UkiSignedByVendor
            | Self::ShimOfOtherRelease
            | Self::ShimOfOtherVendor
            | Self::KernelSignedByVendor
            | Self::KernelSignedByCommunity
            | Self::KernelOfOtherVendor
            | Self::SecondCertificate
            | Self::UkiWithoutTpm
            | Self::Addon => true,
        }
    }

    /// Its name in scenario files and in the image's cache.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UkiSignedByStranger => "uki-signed-by-stranger",
            Self::UkiWithOtherInitrd => "uki-with-other-initrd",
            Self::UkiSignedByVendor => "uki-signed-by-vendor",
            Self::ShimOfOtherRelease => "shim-of-other-release",
            Self::ShimOfOtherVendor => "shim-of-other-vendor",
            Self::KernelSignedByVendor => "kernel-signed-by-vendor",
            Self::KernelSignedByCommunity => "kernel-signed-by-community",
            Self::KernelOfOtherVendor => "kernel-of-other-vendor",
            Self::SecondCertificate => "second-certificate",
            Self::InitrdWithoutTpm => "initrd-without-tpm",
            Self::UkiWithoutTpm => "uki-without-tpm",
            Self::Addon => "addon",
            Self::AddonSignedByStranger => "addon-signed-by-stranger",
        }
    }
}

/// The bytes of an artefact: the user's, out of the image's own, or made of the UKI on the image's ESP.
pub(super) fn artefact(site: &dyn Site, which: Artefact) -> Result<Bytes, Error> {
    if let Some(path) = site.artefacts().get(&which) {
        return Ok(std::fs::read(path).map_err(Error::file("reading", path))?.into());
    }
    site.once(which.name().to_owned(), &|| match which {
        Artefact::ShimOfOtherRelease | Artefact::ShimOfOtherVendor => {
            let path = site.image().artefact(which.name())?;
            std::fs::read(&path).map_err(Error::file("reading", &path))
        }
        Artefact::InitrdWithoutTpm => {
            let initrd = site.bytes_in_image(&place(site.image(), &Location::Initrd)?)?;
            without_tpm(&initrd).map_err(|e| Error::Bench(format!("the image's initrd: {e}")))
        }
        Artefact::UkiWithoutTpm => {
            let failed = |why: String| Error::Bench(format!("the image's UKI: {why}"));
            let uki = site.bytes_in_image(&place(site.image(), &Location::Uki)?)?;
            let read = PeImage::parse(&uki).map_err(|e| failed(e.to_string()))?;
            let initrd = read.section(INITRD).ok_or_else(|| failed("it has no initrd".into()))?;
            let without = without_tpm(initrd).map_err(failed)?;
            let other = section::replace_last(&uki, INITRD, &without).map_err(|e| failed(e.to_string()))?;
            let why = "its initrd is not its last section: hand one in with --artefact uki-without-tpm=FILE";
            let other = other.ok_or_else(|| failed(why.into()))?;
            sign_pe(&other, &vendor(site)?.signer).map_err(|e| failed(e.to_string()))
        }
        Artefact::KernelSignedByVendor => {
            another_kernel(site, &Location::Kernel, Some(&vendor(site)?.signer))
        }
        Artefact::KernelSignedByCommunity => {
            another_kernel(site, &Location::Kernel, Some(&site.pki().community.signer))
        }
        Artefact::UkiSignedByVendor => another_kernel(site, &Location::Uki, Some(&vendor(site)?.signer)),
        Artefact::KernelOfOtherVendor => {
            let kernel = site.bytes_in_image(&place(site.image(), &Location::Kernel)?)?;
            let failed = |why: &str| Error::Bench(format!("the image's kernel: {why}"));
            let theirs = of_other_vendor(&kernel).map_err(|e| failed(&e.to_string()))?;
            theirs.ok_or_else(|| failed("nobody but its vendor signed it"))
        }
        Artefact::SecondCertificate => {
            let lists = SignatureList::x509(OWNER, &site.pki().stranger.authority).to_bytes();
            let failed = |e: String| Error::Bench(format!("making a certificate file: {e}"));
            let bare = certfile::build(&lists, CERTIFICATE_SBAT).map_err(|e| failed(e.to_string()))?;
            sign_pe(&bare, &vendor(site)?.signer).map_err(|e| failed(e.to_string()))
        }
        Artefact::Addon => addon(vendor(site)?),
        Artefact::AddonSignedByStranger => addon(&site.pki().stranger),
        Artefact::UkiSignedByStranger => {
            let failed = |e: sign::Error| Error::Bench(format!("signing the image's UKI: {e}"));
            let uki = site.bytes_in_image(&place(site.image(), &Location::Uki)?)?;
            let bare = strip_signatures(&uki).map_err(failed)?;
            sign_pe(&bare, &site.pki().stranger.signer).map_err(failed)
        }
        Artefact::UkiWithOtherInitrd => {
            let uki = site.bytes_in_image(&place(site.image(), &Location::Uki)?)?;
            other_initrd(uki.to_vec()).ok_or_else(|| Error::Bench("the image's UKI has no initrd".into()))
        }
    })
}

/// A kernel as another vendor signed it: the one in a UKI, whose own signature is around it, and else `kernel` with the
/// signature that it came with; `None` where nobody else signed it.
fn of_other_vendor(kernel: &[u8]) -> Result<Option<Vec<u8>>, sign::Error> {
    match PeImage::parse(kernel)?.section(".linux") {
        Some(inner) => {
            let signed = !PeImage::parse(inner)?.signatures()?.is_empty();
            Ok(signed.then(|| inner.to_vec()))
        }
        None => keep_first_signature(kernel),
    }
}

/// Another version of the image's kernel, or UKI, at `location`, signed by `signer` alone.
pub(super) fn another_kernel(
    site: &dyn Site,
    location: &Location,
    signer: Option<&Signer>,
) -> Result<Vec<u8>, Error> {
    let place = place(site.image(), location)?;
    let failed = |e: sign::Error| Error::Bench(format!("making another kernel of {place}: {e}"));
    let bare = strip_signatures(&site.bytes_in_image(&place)?).map_err(failed)?;
    let why = || Error::Bench(format!("{place} says no version, so no update of it can be made"));
    let another = another_version(bare.clone()).or_else(|| another_plain(bare)).ok_or_else(why)?;
    match signer {
        Some(signer) => sign_pe(&another, signer).map_err(failed),
        None => Ok(another),
    }
}

/// The vendor, whose key is at hand for our own images alone.
fn vendor(site: &dyn Site) -> Result<&Party, Error> {
    match site.image().signing {
        Signing::Available => Ok(&site.pki().vendor),
        Signing::Unavailable => Err(Error::Bench("the vendor's key is not at hand".into())),
    }
}

fn addon(by: &Party) -> Result<Vec<u8>, Error> {
    let bare = addon::build(ADDS, ADDON_SBAT).map_err(|e| Error::Bench(e.to_string()))?;
    sign_pe(&bare, &by.signer).map_err(|e| Error::Bench(format!("signing an add-on: {e}")))
}

/// An initrd with one archive more, in which the TPM's libraries are empty files. The kernel unpacks archives in their order,
/// each over what the others left.
fn without_tpm(initrd: &[u8]) -> Result<Vec<u8>, String> {
    let mut archives = initrd.to_vec();
    archives.resize(initrd.len().next_multiple_of(4), 0);
    for library in Initrd::read(initrd)?.tpm_libraries() {
        let file = cpio::NewcBuilder::new(library).mode(0o100_644);
        archives = file.write(archives, 0).finish().map_err(|e| e.to_string())?;
    }
    cpio::newc::trailer(archives).map_err(|e| e.to_string())
}

/// A UKI with the next version in its `.osrel`, of the same size, its checksum mended; `None` where it has none.
fn another_version(mut uki: Vec<u8>) -> Option<Vec<u8>> {
    const FIELD: &[u8] = b"VERSION_ID=";
    let at = {
        let image = PeImage::parse(&uki).ok()?;
        let section = image.find_section(".osrel")?;
        let field = section.data.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
        let digit = section.data[field..].iter().take_while(|b| **b != b'\n').position(u8::is_ascii_digit)?;
        section.offset + field + digit
    };
    let digit = uki.get_mut(at)?;
    *digit = b'0' + (*digit - b'0' + 1) % 10;
    fix_checksum(&mut uki).ok()?;
    Some(uki)
}

/// A UKI with the last byte of its initrd changed, and nothing else; `None` where it has none.
fn other_initrd(mut uki: Vec<u8>) -> Option<Vec<u8>> {
    let last = {
        let image = PeImage::parse(&uki).ok()?;
        let section = image.find_section(INITRD)?;
        section.offset + section.data.len().checked_sub(1)?
    };
    *uki.get_mut(last)? ^= 0xff;
    Some(uki)
}

/// A kernel with the next version in its header; `None` where it has none.
fn another_plain(mut kernel: Vec<u8>) -> Option<Vec<u8>> {
    bump_kernel(&mut kernel)?;
    fix_checksum(&mut kernel).ok()?;
    Some(kernel)
}

/// Raises the last digit of the version that a kernel's header tells. Nothing of the kernel reads it: it is for people and
/// boot loaders (Linux, Documentation/arch/x86/boot.rst: `HdrS` at 0x202, `kernel_version` at 0x20e, from 0x200 on).
fn bump_kernel(kernel: &mut [u8]) -> Option<()> {
    const HEADER: usize = 0x200;
    let word = |at: usize| Some(usize::from(u16::from_le_bytes([*kernel.get(at)?, *kernel.get(at + 1)?])));
    if kernel.get(HEADER + 2..HEADER + 6)? != b"HdrS" {
        return None;
    }
    let at = word(0x20e)?.checked_add(HEADER)?;
    let text = kernel.get_mut(at..)?;
    let length = text.iter().position(|b| *b == 0)?;
    let digit = text[..length].iter_mut().rfind(|b| b.is_ascii_digit())?;
    *digit = b'0' + (*digit - b'0' + 1) % 10;
    Some(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_measure::samples;

    use super::*;

    #[test]
    fn an_update_differs_in_its_version_alone() {
        let uki = samples::uki(&[1, 2, 3], "quiet").unwrap();
        let updated = another_version(uki.clone()).unwrap();
        let section =
            |bytes: &[u8], name: &str| PeImage::parse(bytes).unwrap().section(name).unwrap().to_vec();
        assert_eq!(section(&uki, ".osrel"), b"ID=sample\nVERSION_ID=1\n");
        assert_eq!(section(&updated, ".osrel"), b"ID=sample\nVERSION_ID=2\n");
        assert_eq!(section(&updated, ".linux"), section(&uki, ".linux"));
        assert_eq!(another_version(b"no image".to_vec()), None);
    }

    #[test]
    fn another_initrd_differs_in_a_byte_under_the_same_signature() {
        let uki = sign_pe(&samples::uki(&[1, 2, 3], "quiet").unwrap(), &samples::signer("vendor").unwrap())
            .unwrap();
        let other = other_initrd(uki.clone()).unwrap();
        assert_eq!(other.iter().zip(&uki).filter(|(a, b)| a != b).count(), 1);
        let image = PeImage::parse(&other).unwrap();
        assert_eq!(image.section(".initrd").unwrap(), [b"initr", &[b'd' ^ 0xff][..]].concat());
        assert_eq!(image.signatures().unwrap().len(), 1);
        assert_eq!(other_initrd(samples::program(&[]).unwrap()), None);
    }

    #[test]
    fn another_vendors_kernel_has_that_vendors_signature_alone() {
        let [other, vendor] = ["other", "vendor"].map(|name| samples::signer(name).unwrap());
        let bare = samples::kernel("6.1.0").unwrap();
        let theirs = sign_pe(&bare, &other).unwrap();
        let by_both = sign_pe(&theirs, &vendor).unwrap();
        let in_uki = |kernel: &[u8]| sign_pe(&samples::uki(kernel, "quiet").unwrap(), &vendor).unwrap();
        for kernel in [by_both, in_uki(&theirs)] {
            assert_eq!(of_other_vendor(&kernel).unwrap().as_ref(), Some(&theirs));
        }
        for kernel in [theirs, in_uki(&bare)] {
            assert_eq!(of_other_vendor(&kernel).unwrap(), None);
        }
    }

    #[test]
    fn a_kernel_of_another_version_differs_in_a_digit() {
        let mut kernel = vec![0; 0x800];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        kernel[0x500..0x50a].copy_from_slice(b"6.1.0-57 x");
        let before = kernel.clone();
        bump_kernel(&mut kernel).unwrap();
        assert_eq!(&kernel[0x500..0x50a], b"6.1.0-58 x");
        assert_eq!(kernel.iter().zip(&before).filter(|(a, b)| a != b).count(), 1);
        for broken in [&before[..0x204], &before[..0x500], &[0; 0x800][..]] {
            assert_eq!(bump_kernel(&mut broken.to_vec()), None);
        }
    }
}
