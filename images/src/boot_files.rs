//! What an image boots from: shim and its companions, then a UKI, or GRUB with a kernel and an initrd. All of it signed.

use std::fs;
use std::path::Path;

use latchkey_measure::{PeImage, SignatureList, Signer, certfile, shim, sign_pe};
use uuid::Uuid;

use crate::drive::Layout;
use crate::error::io;
use crate::recipe::{Loader, Made};
use crate::{Error, Pki, Recipe, esp, uki};

/// The owner GUID of the certificate in the certificate file: any will do, this one is ours.
pub(crate) const OWNER: Uuid = Uuid::from_u128(0x6c61_7463_686b_4579_8a5e_7465_7374_6b65);
/// SBAT of a certificate file, as certmule gives it: shim refuses one without.
pub const CERTIFICATE_SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
                                certmule.latchkey,1,Latchkey,certmule,1,https://github.com/rhboot/certmule\n";

/// Where the Boot Loader Specification's snippets lie, in a recipe and on the partition with kernels.
const ENTRIES: &str = "loader/entries/";

/// Files: path with slashes, and contents.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// The files a machine boots from, signed.
pub(crate) struct BootFiles {
    /// The kernel's version.
    pub(crate) kernel: String,
    second: Second,
    shim: Vec<u8>,
    fallback: Vec<u8>,
    mok_manager: Vec<u8>,
    certificate: Vec<u8>,
}

/// What shim starts.
enum Second {
    Uki { signed: Vec<u8> },
    Grub { image: Vec<u8>, early: String, config: String, entries: Files, kernel: Vec<u8>, initrd: Vec<u8> },
}

fn signed(what: &str, image: &[u8], signer: &Signer) -> Result<Vec<u8>, Error> {
    sign_pe(image, signer).map_err(|source| Error::Sign { what: what.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(io("reading", path))
}

/// A shim with the vendor's certificate, signed by the platform.
fn vendors_shim(pki: &Pki, shim: &[u8]) -> Result<Vec<u8>, Error> {
    signed("shim", &shim::replace_vendor_cert(shim, &pki.vendor.authority)?, &pki.platform.signer)
}

/// Keeps the other shims of `recipe`, which were unpacked in directories of `unpacked`, in `dir`.
pub(crate) fn keep_other_shims(recipe: &Recipe, pki: &Pki, unpacked: &Path, dir: &Path) -> Result<(), Error> {
    for (name, other) in &recipe.spec.other_shims {
        let came = read(&unpacked.join(name).join(&other.file))?;
        let shim = match other.made {
            Made::OurVendors => vendors_shim(pki, &came)?,
            Made::AsItCame => came,
        };
        PeImage::parse(&shim).map_err(|source| Error::Pe { what: name.to_owned(), source })?;
        let path = dir.join(format!("{name}.efi"));
        fs::write(&path, shim).map_err(io("writing", &path))?;
    }
    Ok(())
}

impl BootFiles {
    /// Makes and signs them of what the system left in `boot`, and of the package in `shim_dir`.
    pub(crate) fn make(
        recipe: &Recipe,
        pki: &Pki,
        boot: &Path,
        shim_dir: &Path,
        layout: &Layout,
    ) -> Result<Self, Error> {
        let version = boot.join("kernel-version");
        let kernel = fs::read_to_string(&version).map_err(io("reading", &version))?.trim().to_owned();
        let second = match recipe.spec.boot.loader {
            Loader::Uki => Second::uki(recipe, pki, boot, &kernel)?,
            Loader::Grub => Second::grub(recipe, pki, boot, &kernel, layout)?,
        };
        let lists = SignatureList::x509(OWNER, &pki.community.authority).to_bytes();
        let certificate = certfile::build(&lists, CERTIFICATE_SBAT)?;
        let vendor = &pki.vendor.signer;
        Ok(Self {
            second,
            shim: vendors_shim(pki, &read(&shim_dir.join("shimx64.efi"))?)?,
            fallback: signed("fallback", &read(&shim_dir.join("fbx64.efi"))?, vendor)?,
            mok_manager: signed("MokManager", &read(&shim_dir.join("mmx64.efi"))?, vendor)?,
            certificate: signed("the certificate file", &certificate, vendor)?,
            kernel,
        })
    }

    /// Whatever starts as no PE image must not get far.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let mut named = vec![
            ("shimx64", &self.shim),
            ("fbx64", &self.fallback),
            ("mmx64", &self.mok_manager),
            ("shim_certificate", &self.certificate),
        ];
        match &self.second {
            Second::Uki { signed } => named.push(("uki", signed)),
            Second::Grub { image, kernel, .. } => named.extend([("grubx64", image), ("vmlinuz", kernel)]),
        }
        for (name, data) in named {
            PeImage::parse(data).map_err(|source| Error::Pe { what: name.to_owned(), source })?;
        }
        Ok(())
    }

    /// The UKI's path on the ESP, with backslashes; none where GRUB starts a kernel.
    pub(crate) fn uki_path(&self, recipe: &Recipe) -> Option<String> {
        matches!(self.second, Second::Uki { .. })
            .then(|| format!("\\EFI\\Linux\\{}-{}.efi", recipe.name, self.kernel))
    }

    /// What lies on the ESP. The certificate file is there, but inactive.
    pub(crate) fn esp(&self, recipe: &Recipe) -> Files {
        let boot = &recipe.spec.boot;
        let vendor = |name: &str| format!("EFI/{}/{name}", boot.vendor);
        let uki = self.uki_path(recipe);
        let mut files = vec![
            (vendor("shimx64.efi"), self.shim.clone()),
            (vendor("mmx64.efi"), self.mok_manager.clone()),
            (vendor("fbx64.efi"), self.fallback.clone()),
            (vendor("BOOTX64.CSV"), esp::boot_csv(&boot.title, uki.as_deref())),
            (vendor("shim_certificate.efi.bak"), self.certificate.clone()),
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), self.shim.clone()),
            ("EFI/BOOT/fbx64.efi".to_owned(), self.fallback.clone()),
            ("EFI/BOOT/mmx64.efi".to_owned(), self.mok_manager.clone()),
        ];
        match &self.second {
            Second::Uki { signed } => {
                let path = uki.unwrap_or_default().trim_start_matches('\\').replace('\\', "/");
                files.push((path, signed.clone()));
            }
            Second::Grub { image, early, .. } => {
                files.push((vendor("grubx64.efi"), image.clone()));
                files.push((vendor("grub.cfg"), early.clone().into_bytes()));
            }
        }
        files
    }

    /// What lies on the partition with kernels, if there is one.
    pub(crate) fn kernels(&self) -> Option<Files> {
        let Second::Grub { config, entries, kernel, initrd, .. } = &self.second else { return None };
        let mut files = vec![
            (format!("vmlinuz-{}", self.kernel), kernel.clone()),
            (format!("initramfs-{}.img", self.kernel), initrd.clone()),
            ("grub2/grub.cfg".to_owned(), config.clone().into_bytes()),
        ];
        files.extend_from_slice(entries);
        Some(files)
    }
}

impl Second {
    fn uki(recipe: &Recipe, pki: &Pki, boot: &Path, kernel: &str) -> Result<Self, Error> {
        let unsigned = uki::build(&uki::Parts {
            stub: &read(&boot.join("stub.efi"))?,
            os_release: &read(&boot.join("os-release"))?,
            command_line: &recipe.spec.boot.command_line(),
            kernel_version: kernel,
            kernel: &read(&boot.join("vmlinuz"))?,
            initrd: &read(&boot.join("initrd"))?,
        })?;
        let signed = signed("the UKI", &unsigned, &pki.vendor.signer)?;
        Ok(Self::Uki { signed })
    }

    fn grub(recipe: &Recipe, pki: &Pki, boot: &Path, kernel: &str, layout: &Layout) -> Result<Self, Error> {
        let spec = &recipe.spec.boot;
        let uuid = layout.boot.map(|(_, uuid)| uuid.to_string()).unwrap_or_default();
        let filled = |text: &str| {
            let text = text.replace("@BOOT_UUID@", &uuid).replace("@KERNEL@", kernel);
            text.replace("@TITLE@", &spec.title).replace("@COMMAND_LINE@", &spec.command_line())
        };
        let entries = recipe.below(ENTRIES);
        let vendor = &pki.vendor.signer;
        Ok(Self::Grub {
            image: signed("GRUB", &read(&boot.join("grub.efi"))?, vendor)?,
            early: filled(recipe.file("grub-early.cfg")?),
            config: filled(recipe.file("grub.cfg")?),
            entries: entries
                .map(|(name, text)| (filled(&format!("{ENTRIES}{name}")), filled(text).into_bytes()))
                .collect(),
            kernel: signed("the kernel", &read(&boot.join("vmlinuz"))?, vendor)?,
            initrd: read(&boot.join("initrd"))?,
        })
    }
}
