//! The kernel's EFI stub: what it measures of its command line and initrd, and the end of boot services.
//!
//! Sources: Linux 6.1 and 6.12, `drivers/firmware/efi/libstub/efi-stub-helper.c` (`efi_convert_cmdline`,
//! `efi_load_initrd`): load options since 6.1, initrd since 5.18, both into PCR 9, the initrd only where it comes
//! through `LoadFile2`.

use latchkey_record::{Outcome, Stage};

use crate::chain::{HandOver, KernelStart, UserspaceStart, kind};
use crate::{Chain, End, Error, Next, firmware};

/// Where a bzImage keeps the offset of its version text, less 0x200 (Linux, Documentation/arch/x86/boot.rst,
/// `kernel_version`), and the mark that makes it one.
const HEADER: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION: usize = 0x20e;
/// Longest version text that is looked at, in bytes.
const LONGEST: usize = 128;

/// A kernel's version, major and minor.
fn version(kernel: &[u8]) -> Option<(u16, u16)> {
    if kernel.get(HEADER.0..HEADER.0 + HEADER.1.len()) != Some(HEADER.1) {
        return None;
    }
    let at = usize::from(u16::from_le_bytes(kernel.get(VERSION..VERSION + 2)?.try_into().ok()?)) + 0x200;
    let text = kernel.get(at..kernel.len().min(at + LONGEST))?;
    let end = text.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(text.len());
    let mut numbers = std::str::from_utf8(&text[..end]).ok()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// From the kernel's entry to its initrd.
///
/// # Errors
/// None so far.
pub fn run(chain: &mut Chain<'_>, start: &KernelStart) -> Result<Next, Error> {
    let Some(version) = version(&start.kernel) else {
        return Ok(Next::End(End {
            outcome: Some(Outcome::Crashed),
            because: format!("{} is no Linux kernel", start.from),
            reported_by: None,
        }));
    };
    chain.kernel_starts(&start.hand_over);
    if let HandOver::LoadFile2 { options } = &start.hand_over {
        if version >= (6, 1) && !options.is_empty() {
            let what = "load options: the command line";
            chain.measure(Stage::Kernel, 9, kind::EVENT_TAG, options, what, start.from.clone());
        }
        if version >= (5, 18) && !start.initrd.is_empty() {
            chain.measure_part(
                Stage::Kernel,
                9,
                kind::EVENT_TAG,
                &start.initrd,
                "initrd",
                start.initrd_from.clone(),
            );
        }
    }
    firmware::exit_boot_services(chain);
    Ok(Next::Userspace(UserspaceStart {
        initrd_from: start.initrd_from.clone(),
        initrd: start.initrd.clone(),
        command_line: start.command_line.clone(),
        measured_uki: start.measured_uki,
    }))
}
