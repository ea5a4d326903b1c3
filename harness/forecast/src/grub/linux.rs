//! Loading a kernel and its initrd.
//!
//! Sources: GRUB 2.06 with Debian's patches, `grub-core/loader/i386/efi/linux.c`, `grub-core/loader/i386/linux.c`,
//! `grub-core/loader/linux.c`, `grub-core/lib/cmdline.c`, `grub-core/kern/efi/sb.c`.

use latchkey_disk::varstore::SecureBoot;

use super::run::{Loaded, Run, Stop};

/// What the loader puts before the arguments of `linux` (`LINUX_IMAGE`).
const IMAGE: &str = "BOOT_IMAGE=";

impl Run<'_, '_> {
    /// Whether Secure Boot binds GRUB.
    pub(crate) fn secure(&self) -> bool {
        self.chain.secure_boot() == SecureBoot::On
    }

    /// `linux`: the kernel is measured as a file, then shim verifies it, which measures it as a program, twice: once
    /// as the file is opened, once by the loader itself.
    pub(crate) fn linux(&mut self, args: &[&str]) -> Result<i32, Stop> {
        self.kernel = None;
        let Some(name) = args.first() else { return Ok(1) };
        let Some((file, bytes)) = self.open(name)? else { return Ok(1) };
        let with_stub = self.core.modules.contains("linuxefi");
        if self.secure() {
            for _ in 0..if with_stub { 2 } else { 1 } {
                if let Err(why) = self.shim.verify_for_grub(self.chain, &file, &bytes) {
                    self.refused = Some(why);
                    return Ok(1);
                }
            }
        }
        let arguments = command_line(args);
        self.measure_string("kernel_cmdline", &arguments);
        let command_line = format!("{IMAGE}{arguments}");
        self.kernel = Some(Loaded { file, bytes, command_line, ..Loaded::default() });
        Ok(0)
    }

    /// `initrd`: files one after the other, each filled up to four bytes.
    pub(crate) fn initrd(&mut self, names: &[&str]) -> Result<i32, Stop> {
        if self.kernel.is_none() || names.is_empty() {
            return Ok(1);
        }
        let (mut files, mut whole) = (Vec::new(), Vec::new());
        for name in names {
            if name.starts_with("newc:") {
                return self.unmodelled("initrds packed by GRUB are not modelled");
            }
            let Some((file, bytes)) = self.open(name)? else { return Ok(1) };
            whole.resize(whole.len().next_multiple_of(4), 0);
            whole.extend(bytes);
            files.push(file);
        }
        if let Some(kernel) = &mut self.kernel {
            (kernel.initrd_files, kernel.initrd) = (files, whole);
        }
        Ok(0)
    }
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
