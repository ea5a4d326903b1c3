//! Loading a kernel and its initrd.
//!
//! Sources: GRUB 2.06, 2.12 and 2.14 with Debian's patches, `grub-core/loader/{efi,i386/efi,i386}/linux.c`, `grub-core/loader/efi/peimage.c`,
//! `grub-core/loader/linux.c`, `grub-core/lib/cmdline.c`, `grub-core/kern/efi/sb.c`.

use bytes::Bytes;
use latchkey_disk::varstore::SecureBoot;
use latchkey_measure::PeImage;

use super::core::Version;
use super::run::{Loaded, Run, Stop};
use crate::chain::HandOver;

/// What the loader puts before the arguments of `linux` (`LINUX_IMAGE`).
const IMAGE: &str = "BOOT_IMAGE=";

/// Where the header ends that 2.06 reads (`struct linux_i386_kernel_header`), and the mark that makes it a kernel's.
const HEADER: usize = 0x268;
const MARK: std::ops::Range<usize> = 0x202..0x206;
/// Where the version of the boot protocol stands in it, and since which version how long a command line may be, and where.
const VERSION: usize = 0x206;
const TELLS_LENGTH: u16 = 0x206;
const LENGTH: usize = 0x238;

/// Who loads and starts a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starter {
    /// shim, as GRUB opens the file.
    Shim,
    /// shim, at the end: it verifies nothing.
    ShimAtLast,
    /// GRUB itself: by the hand-over entry, or with its module `peimage`.
    Grub,
    /// The firmware, at the end.
    Firmware,
}

impl Run<'_, '_> {
    fn starter(&self) -> Starter {
        let offered = self.core.version == Version::V2_14 && self.shim.offers_to_load();
        let by_itself = self.core.modules.contains("peimage") && !(offered && self.core.stands_back);
        match self.core.version {
            _ if offered && self.secure() => Starter::Shim,
            _ if offered && self.core.always_by_shim && self.chain.secure_boot() == SecureBoot::On => {
                Starter::ShimAtLast
            }
            Version::V2_12 | Version::V2_14 if !by_itself => Starter::Firmware,
            _ => Starter::Grub,
        }
    }

    /// Whether Secure Boot binds GRUB: not where the machine's owner switched shim's verification off.
    pub(crate) fn secure(&self) -> bool {
        self.shim.is_secure(self.chain)
    }

    /// `linux`: the kernel is measured as a file, then shim verifies it, which measures it as a program: in 2.06 twice,
    /// once as the file is opened, once by the loader itself.
    pub(crate) fn linux(&mut self, args: &[&str]) -> Result<i32, Stop> {
        if self.core.version == Version::V2_06
            && self.secure()
            && !self.is_red_hats()
            && !self.core.modules.contains("linuxefi")
        {
            return self.unmodelled("2.06 without its module linuxefi is not modelled");
        }
        let before = self.kernel.take().is_some();
        let status = self.load(args)?;
        if before && status != 0 {
            return self.unmodelled("a kernel that is not loaded after one that is, is not modelled");
        }
        Ok(status)
    }

    fn load(&mut self, args: &[&str]) -> Result<i32, Stop> {
        let Some(name) = args.first() else { return Ok(1) };
        let Some((file, bytes)) = self.open(name)? else { return Ok(1) };
        let checks = match self.core.version {
            Version::V2_06 if self.core.modules.contains("linuxefi") => 2,
            _ => 1,
        };
        let starter = self.starter();
        let verified = match starter {
            Starter::Shim => self.shim.load_for_grub(self.chain, &file, &bytes),
            _ if self.secure() => {
                (0..checks).try_for_each(|_| self.shim.verify_for_grub(self.chain, &file, &bytes))
            }
            _ => Ok(()),
        };
        if let Err(why) = verified {
            self.refused = Some(why);
            return Ok(1);
        }
        match self.core.version {
            // What 2.06 asks of the file it asks here: the file is measured, the command line is not.
            Version::V2_06 if !self.takes(&bytes) => return Ok(1),
            Version::V2_06 => {}
            Version::V2_12 | Version::V2_14 => self.starts_as_program(&bytes, starter)?,
        }
        let arguments = command_line(args, self.room(&bytes));
        self.measure_string("kernel_cmdline", &arguments);
        let command_line = format!("{IMAGE}{arguments}");
        let hand_over = match self.core.version {
            Version::V2_06 if self.secure() || self.is_red_hats() => HandOver::Entry,
            Version::V2_06 => HandOver::PastStub,
            // Later ones count the NUL at the end.
            Version::V2_12 | Version::V2_14 => HandOver::LoadFile2 {
                options: command_line
                    .encode_utf16()
                    .chain((self.core.version == Version::V2_14).then_some(0))
                    .flat_map(u16::to_le_bytes)
                    .collect(),
            },
        };
        let (initrd_files, initrd) = (Vec::new(), Bytes::new());
        self.kernel = Some(Loaded { file, bytes, command_line, hand_over, initrd_files, initrd, starter });
        Ok(0)
    }

    /// Whether 2.06 takes a file for a kernel (Linux, Documentation/arch/x86/boot.rst); the hand-over entry has rules of its
    /// own.
    fn takes(&self, kernel: &[u8]) -> bool {
        let Some(header) = kernel.get(..HEADER) else { return false };
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let version = word(VERSION);
        let entry = if self.secure() || self.is_red_hats() {
            version >= 0x20b && header[0x264..0x268] != [0; 4]
        } else {
            header[MARK] == *b"HdrS" && version >= 0x203 && header[0x211] & 1 != 0
        };
        // Red Hat's wants a program for 64 bits as well.
        let program = !self.is_red_hats() || header[0x236] & 1 != 0 && PeImage::parse(kernel).is_ok();
        word(0x1fe) == 0xaa55 && header[0x1f1] <= 64 && entry && program
    }

    /// How many bytes the arguments may have, each with a blank or the NUL behind it. 2.06 asks the kernel; the hand-over entry
    /// takes away what comes before them also where that is more than there is.
    fn room(&self, kernel: &[u8]) -> usize {
        let bytes = |at: usize| kernel.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>()).copied();
        let length = bytes(LENGTH).map_or(0, u32::from_le_bytes);
        let version = bytes(VERSION).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        let whole = match self.core.version {
            Version::V2_12 | Version::V2_14 => return usize::MAX,
            Version::V2_06 if self.secure() || self.is_red_hats() => length,
            Version::V2_06 if version >= TELLS_LENGTH => length.wrapping_add(1).max(128),
            Version::V2_06 => 256,
        };
        usize::try_from(whole).unwrap_or(usize::MAX).wrapping_sub(IMAGE.len())
    }

    /// From 2.12 on GRUB starts what can take an initrd through `LoadFile2` as a program, and with the module `peimage` by
    /// itself: nobody measures or verifies it once more.
    fn starts_as_program(&mut self, kernel: &[u8], starter: Starter) -> Result<(), Stop> {
        if starter == Starter::Firmware && (self.core.version == Version::V2_12 || self.secure()) {
            return self.unmodelled("a GRUB that has the firmware load kernels is not modelled");
        }
        if PeImage::parse(kernel).map_or(0, |image| image.image_version()) == 0 {
            return self.unmodelled("kernels that are no EFI programs, or from before 5.8, are not modelled");
        }
        if kernel.get(MARK) != Some(&b"HdrS"[..]) {
            return self.unmodelled("another program than a kernel, given to `linux`, is not modelled");
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

/// `grub_create_loader_cmdline`: the arguments with blanks between them, quoted where they have blanks themselves, up to the
/// first for which there is no room.
fn command_line(args: &[&str], mut room: usize) -> String {
    let one = |arg: &&str| {
        let escaped: String = arg
            .chars()
            .flat_map(|c| matches!(c, '\\' | '\'' | '"').then_some('\\').into_iter().chain([c]))
            .collect();
        if arg.contains(' ') { format!("\"{escaped}\"") } else { escaped }
    };
    let fits = |arg: &String| match room.checked_sub(arg.len() + 1) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    args.iter().map(one).take_while(fits).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::all(&["/vmlinuz", "quiet", "a=b c"], usize::MAX, "/vmlinuz quiet \"a=b c\"")]
    #[case::all_but_one_byte(&["/vmlinuz", "quiet", "rw"], 17, "/vmlinuz quiet")]
    #[case::exactly(&["/vmlinuz", "quiet", "rw"], 18, "/vmlinuz quiet rw")]
    #[case::nothing_behind_what_is_too_long(&["/vmlinuz", "a=b c", "rw"], 16, "/vmlinuz")]
    #[case::nothing(&["/vmlinuz"], 8, "")]
    fn a_command_line_is_cut_between_words(
        #[case] args: &[&str],
        #[case] room: usize,
        #[case] expected: &str,
    ) {
        assert_eq!(command_line(args, room), expected);
    }
}
