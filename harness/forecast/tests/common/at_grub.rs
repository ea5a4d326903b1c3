//! Boots through GRUB on disks that exist in memory alone.

use latchkey_disk::VarStore;
use latchkey_measure::{Signer, samples, sign_pe};
use latchkey_record::{Forecast, Stage};

use super::{Memory, VENDOR, kernel, shim_of, variables, with_boot};

pub(crate) const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";
pub(crate) const MODULES: &[&str] =
    &["normal", "tpm", "linux", "linuxefi", "test", "search", "ext2", "regexp"];

/// What a boot through GRUB measures with this configuration on the partition with kernels.
pub(crate) fn told(config: &str, kernel_by: &Signer) -> Forecast {
    through("2.06", MODULES, config, kernel_by)
}

/// As [`told`], through GRUB of this version with these modules.
pub(crate) fn through(version: &str, modules: &[&str], config: &str, kernel_by: &Signer) -> Forecast {
    on(version, modules, config, kernel_by, &variables())
}

/// As [`through`], on a machine with these variables.
pub(crate) fn on(
    version: &str,
    modules: &[&str],
    config: &str,
    kernel_by: &Signer,
    variables: &VarStore,
) -> Forecast {
    with_boot(&esp_with(version, modules), Some(&boot_with(config, kernel_by)), variables)
}

/// An EFI system partition with GRUB of this version with these modules.
pub(crate) fn esp_with(version: &str, modules: &[&str]) -> Memory {
    let early = format!(
        "search --no-floppy --fs-uuid --set=dev {UUID}\nset prefix=($dev)/grub2\nconfigfile $prefix/grub.cfg\n"
    );
    let grub = sign_pe(&samples::grub(version, modules, "/EFI/rocky", None).unwrap(), &VENDOR).unwrap();
    Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8"))
        .with("/EFI/BOOT/grubx64.efi", grub)
        .with("/EFI/rocky/grub.cfg", early.into_bytes())
}

/// A partition with kernels.
pub(crate) fn boot_with(config: &str, kernel_by: &Signer) -> Memory {
    Memory::default()
        .with_uuid(UUID)
        .with("/grub2/grub.cfg", config.as_bytes().to_vec())
        .with("/grub2/grubenv", b"# GRUB Environment Block\nsaved_entry=two\n####".to_vec())
        .with("/grub2/x86_64-efi/extra.mod", samples::grub_module("extra", &["linux", "more"]))
        .with("/grub2/x86_64-efi/more.mod", samples::grub_module("more", &["extra"]))
        .with("/grub2/x86_64-efi/broken.mod", b"module".to_vec())
        .with("/vmlinuz", kernel(kernel_by))
        .with("/initrd", b"initrd".to_vec())
        .with("/long", b"#".repeat(1 << 20))
}

/// What GRUB measured after the first file of its own on the partition with kernels: PCR and words.
pub(crate) fn measured(forecast: &Forecast) -> Vec<String> {
    let events = forecast.legs.last().unwrap().events.iter();
    let mine = events.skip_while(|event| !event.what.contains("grub2/grub.cfg") || event.pcr.get() != 9);
    let mine = mine.skip(1).filter(|event| event.stage == Stage::Grub || event.what.contains("for GRUB"));
    mine.map(|event| format!("{} {}", event.pcr.get(), event.what.trim_start_matches("grub_cmd: "))).collect()
}
