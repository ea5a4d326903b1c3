//! The kernel's EFI stub: what it measures of its command line and initrd, and the end of boot services.
//!
//! Sources: Linux 6.1 and 6.12, `drivers/firmware/efi/libstub/efi-stub-helper.c` (`efi_convert_cmdline`,
//! `efi_load_initrd`): load options since 6.1, initrd since 5.18, both into PCR 9, the initrd only where it comes
//! through `LoadFile2`. Red Hat Enterprise Linux 9's 5.14 took both over in spring 2024 (centos-stream-9, merge request
//! 3996), after the kernel of 9.4 and before that of 9.5. `drivers/firmware/efi/efi.c` (`setup_noefi`,
//! `parse_efi_cmdline`) and `Kconfig` (`EFI_DISABLE_RUNTIME`): who leaves the firmware's services alone has no UEFI variables.

use latchkey_record::{Outcome, Stage};

use crate::chain::{HandOver, KernelStart, MeasuredUki, UserspaceStart, kind};
use crate::command_line::words;
use crate::cryptsetup::unknown;
use crate::{Chain, End, Error, Next, firmware};

/// Where a bzImage keeps the offset of its version text, less 0x200 (Linux, Documentation/arch/x86/boot.rst,
/// `kernel_version`), and the mark that makes it one.
const HEADER: (usize, &[u8]) = (0x202, b"HdrS");
const VERSION: usize = 0x20e;
/// Longest version text that is looked at, in bytes.
const LONGEST: usize = 256;
/// What a kernel for real time has in its version text. It leaves the firmware's services alone unless told otherwise.
const REAL_TIME: &str = "PREEMPT_RT";

/// The releases of Red Hat Enterprise Linux 9's kernel, 5.14, in 9.4 and 9.5.
const RED_HAT_9_4: u32 = 427;
const RED_HAT_9_5: u32 = 503;

/// What a kernel measures that is started through its EFI stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measures {
    Nothing,
    Initrd,
    Both,
    /// Nothing or both.
    Unknown,
}

impl Measures {
    /// By the text of a kernel's version, such as `6.12.48+deb13-amd64` or `5.14.0-503.11.1.el9_5.x86_64`.
    fn of(text: &str) -> Option<Self> {
        let name = text.split(' ').next()?;
        let mut numbers = name.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        let version: (u32, u32) = (next()?, next()?);
        let mut release = || (next(), next()).1.filter(|_| name.contains(".el9"));
        Some(match version {
            (5, 14) => match release() {
                Some(RED_HAT_9_5..) => Self::Both,
                Some(RED_HAT_9_4..) => Self::Unknown,
                _ => Self::Nothing,
            },
            (6, 1..) | (7.., _) => Self::Both,
            (5, 18..) | (6, 0) => Self::Initrd,
            _ => Self::Nothing,
        })
    }
}

/// The text of a kernel's version.
fn version(kernel: &[u8]) -> Option<&str> {
    if kernel.get(HEADER.0..HEADER.0 + HEADER.1.len()) != Some(HEADER.1) {
        return None;
    }
    let at = usize::from(u16::from_le_bytes(kernel.get(VERSION..VERSION + 2)?.try_into().ok()?)) + 0x200;
    let text = kernel.get(at..kernel.len().min(at + LONGEST))?;
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).ok()
}

/// From the kernel's entry to its initrd.
///
/// # Errors
/// None so far.
pub fn run(chain: &mut Chain<'_>, start: &KernelStart) -> Result<Next, Error> {
    let text = version(&start.kernel);
    let Some(measures) = text.and_then(Measures::of) else {
        return Ok(Next::End(End {
            outcome: Some(Outcome::Crashed),
            because: format!("{} is no Linux kernel", start.from),
            reported_by: None,
        }));
    };
    chain.kernel_starts(&start.hand_over);
    if let HandOver::LoadFile2 { options } = &start.hand_over {
        if measures == Measures::Unknown {
            let why = "whether this kernel of Red Hat's measures its command line and initrd is not known";
            chain.unmodelled(Stage::Kernel, &start.from.to_string(), why, &[9]);
        }
        if measures == Measures::Both && !options.is_empty() {
            let what = "load options: the command line";
            chain.measure(Stage::Kernel, 9, kind::EVENT_TAG, options, what, start.from.clone());
        }
        if matches!(measures, Measures::Both | Measures::Initrd) && !start.initrd.is_empty() {
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
    let reads_variables = start.measured_uki == MeasuredUki::Yes;
    if reads_variables && lacks_variables(text.unwrap_or_default(), &start.command_line) {
        let why =
            "a kernel without the firmware's services shows systemd no UEFI variables, which is not modelled";
        chain.unmodelled(Stage::Kernel, &start.from.to_string(), why, &[11, 15]);
        return Ok(Next::End(unknown(format!("{}: {why}", start.from))));
    }
    Ok(Next::Userspace(UserspaceStart {
        initrd_from: start.initrd_from.clone(),
        initrd: start.initrd.clone(),
        command_line: start.command_line.clone(),
        measured_uki: start.measured_uki,
        may_tell_disk: start.may_tell_disk,
    }))
}

/// Whether a kernel with this version text and this command line leaves the firmware's services alone as it runs: the last
/// word counts.
fn lacks_variables(version: &str, command_line: &str) -> bool {
    words(command_line).iter().fold(version.contains(REAL_TIME), |lacks, word| {
        let given = word.value().unwrap_or_default().split(',');
        match word.name() {
            "noefi" => true,
            "efi" => given.fold(lacks, |lacks, option| match option {
                "noruntime" => true,
                "runtime" => false,
                _ => lacks,
            }),
            _ => lacks,
        }
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::debian("6.12.48+deb13-amd64 (debian-kernel@lists.debian.org) #1", Some(Measures::Both))]
    #[case::the_first_with_both("6.1.0-40-amd64", Some(Measures::Both))]
    #[case::between("6.0.9", Some(Measures::Initrd))]
    #[case::the_first_with_one("5.18.0", Some(Measures::Initrd))]
    #[case::upstreams("5.14.21", Some(Measures::Nothing))]
    #[case::red_hats_of_9_3("5.14.0-362.8.1.el9_3.x86_64 (mockbuild@x86) #1", Some(Measures::Nothing))]
    #[case::red_hats_of_9_4("5.14.0-427.13.1.el9_4.x86_64", Some(Measures::Unknown))]
    #[case::red_hats_of_9_5("5.14.0-503.11.1.el9_5.x86_64", Some(Measures::Both))]
    #[case::somebody_elses("5.14.0-503-generic", Some(Measures::Nothing))]
    #[case::no_version("linux", None)]
    #[case::of_which_half_is_missing("6", None)]
    fn what_is_measured_hangs_on_the_version(#[case] text: &str, #[case] measures: Option<Measures>) {
        assert_eq!(Measures::of(text), measures);
    }

    #[rstest]
    #[case("6.1.0-40-amd64 (a@b) #1 SMP PREEMPT_DYNAMIC Debian", "quiet", false)]
    #[case("6.1.0-40-rt-amd64 (a@b) #1 SMP PREEMPT_RT Debian", "quiet", true)]
    #[case("6.1.0-40-rt-amd64 (a@b) #1 SMP PREEMPT_RT Debian", "efi=debug,runtime", false)]
    #[case("6.1.0", "noefi", true)]
    #[case("6.1.0", "efi=noruntime", true)]
    #[case("6.1.0", "noefi efi=runtime", false)]
    #[case("6.1.0", "efi=nosoftreserve efifb=off", false)]
    fn a_kernel_may_leave_the_firmware_alone(#[case] version: &str, #[case] line: &str, #[case] lacks: bool) {
        assert_eq!(lacks_variables(version, line), lacks);
    }
}
