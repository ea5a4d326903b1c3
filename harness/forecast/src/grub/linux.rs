//! Loading a kernel and its initrd.
//!
//! Sources: GRUB 2.06 and 2.12 with Debian's patches, `grub-core/loader/{efi,i386/efi,i386}/linux.c`, `grub-core/loader/efi/peimage.c`,
//! `grub-core/loader/linux.c`, `grub-core/lib/cmdline.c`, `grub-core/kern/efi/sb.c`.

use bytes::Bytes;
use latchkey_measure::PeImage;

use super::core::Version;
use super::run::{Loaded, Run, Stop};
use crate::chain::HandOver;

/// What the loader puts before the arguments of `linux` (`LINUX_IMAGE`).
const IMAGE: &str = "BOOT_IMAGE=";

impl Run<'_, '_> {
    /// Whether Secure Boot binds GRUB: not where the machine's owner switched shim's verification off.
    pub(crate) fn secure(&self) -> bool {
        self.shim.is_secure(self.chain)
    }

    /// `linux`: the kernel is measured as a file, then shim verifies it, which measures it as a program: in 2.06 twice,
    /// once as the file is opened, once by the loader itself.
    pub(crate) fn linux(&mut self, args: &[&str]) -> Result<i32, Stop> {
        self.kernel = None;
        let Some(name) = args.first() else { return Ok(1) };
        let Some((file, bytes)) = self.open(name)? else { return Ok(1) };
        let checks = match self.core.version {
            Version::V2_06 if self.core.modules.contains("linuxefi") => 2,
            _ => 1,
        };
        if self.secure() {
            for _ in 0..checks {
                if let Err(why) = self.shim.verify_for_grub(self.chain, &file, &bytes) {
                    self.refused = Some(why);
                    return Ok(1);
                }
            }
        }
        if self.core.version == Version::V2_12 {
            self.starts_as_program(&bytes)?;
        }
        let arguments = command_line(args);
        self.measure_string("kernel_cmdline", &arguments);
        let command_line = format!("{IMAGE}{arguments}");
        let hand_over = match self.core.version {
            Version::V2_06 if self.secure() => HandOver::Entry,
            Version::V2_06 => HandOver::PastStub,
            Version::V2_12 => HandOver::LoadFile2 {
                options: command_line.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            },
        };
        let (initrd_files, initrd) = (Vec::new(), Bytes::new());
        self.kernel = Some(Loaded { file, bytes, command_line, hand_over, initrd_files, initrd });
        Ok(0)
    }

    /// GRUB 2.12 starts what can take an initrd through `LoadFile2` as a program, and with the module `peimage` by
    /// itself: nobody measures or verifies it once more.
    fn starts_as_program(&mut self, kernel: &[u8]) -> Result<(), Stop> {
        if !self.core.modules.contains("peimage") {
            return self.unmodelled("a GRUB that has the firmware load kernels is not modelled");
        }
        if PeImage::parse(kernel).map_or(0, |image| image.image_version()) == 0 {
            return self.unmodelled("kernels that are no EFI programs, or from before 5.8, are not modelled");
        }
        Ok(())
    }

    /// `initrd`: files one after the other, each filled up to four bytes.
    pub(crate) fn initrd(&mut self, names: &[&str]) -> Result<i32, Stop> {
        if self.kernel.is_none() || names.is_empty() {
            return Ok(1);
        }
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for name in names {
            if name.starts_with("newc:") {
                return self.unmodelled("initrds packed by GRUB are not modelled");
            }
            let Some((file, bytes)) = self.open(name)? else { return Ok(1) };
            parts.push(bytes);
            files.push(file);
        }
        let whole = match &parts[..] {
            [one] => one.clone(),
            _ => self.chain.memo.made(&parts, "initrd for GRUB", || joined(&parts)),
        };
        if let Some(kernel) = &mut self.kernel {
            (kernel.initrd_files, kernel.initrd) = (files, whole);
        }
        Ok(0)
    }
}

fn joined(parts: &[Bytes]) -> Bytes {
    let mut whole = Vec::new();
    for part in parts {
        whole.resize(whole.len().next_multiple_of(4), 0);
        whole.extend_from_slice(part);
    }
    whole.into()
}

/// `grub_create_loader_cmdline`: the arguments with blanks between them, quoted where they have blanks themselves.
fn command_line(args: &[&str]) -> String {
    let one = |arg: &&str| {
        let escaped: String = arg
            .chars()
            .flat_map(|c| matches!(c, '\\' | '\'' | '"').then_some('\\').into_iter().chain([c]))
            .collect();
        if arg.contains(' ') { format!("\"{escaped}\"") } else { escaped }
    };
    args.iter().map(one).collect::<Vec<_>>().join(" ")
}
