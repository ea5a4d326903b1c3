//! systemd in the initrd and after it: its own measurements, and the moment at which the sealed key is tried.
//!
//! Sources: systemd 252.39 to 262, `units/systemd-pcr*.service.in` (what is measured when, and only after a UKI that
//! measured itself), `src/boot/pcrphase.c` and `src/pcrextend/pcrextend.c` (the digest of the bare word),
//! `src/gpt-auto-generator/gpt-auto-generator.c` (a root volume found by its type, its key and its file system measured),
//! `src/cryptsetup/cryptsetup.c` (`measure_volume_key`), `src/tpm2-setup/tpm2-setup.c` (`setup_nvpcr`).

mod attach;

use attach::{ByType, Root, attached};
use latchkey_disk::gpt;
use latchkey_disk::varstore::{SecureBoot, VariableId};
use latchkey_measure::Uuid;
use latchkey_record::{Certainty, Origin, Outcome, Stage};

use crate::chain::{MeasuredUki, UserspaceStart};
use crate::command_line::{Word, words};
use crate::cryptsetup::Way;
use crate::initrd::{Feature, Initrd};
use crate::options::{Options, boolean};
use crate::{Chain, End, Error, Next, cryptsetup};

/// There is no event log for what userspace extends.
const NO_EVENT: u32 = 0;
/// What `systemd-pcrosseparator.service` (262) measures, and into which PCRs.
const OS_SEPARATOR: &str = "os-separator";
const SEPARATED: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14];
/// Says whether systemd measures, UKI or not (`efi_measured_os`, 262).
const MEASURED_OS: &str = "systemd.tpm2_measured_os";
/// Words that say which units there are in the initrd (`src/core/main.c`, `src/debug-generator/debug-generator.c`,
/// `runlevel_to_target`), where dracut's scripts stop (dracut.cmdline(7)), or that something else than systemd is the init.
const OTHER_UNITS: [&str; 8] = [
    "rd.systemd.unit",
    "rd.systemd.mask",
    "rd.systemd.wants",
    "rd.emergency",
    "rd.rescue",
    "rd.break",
    "rdbreak",
    "rdinit",
];
/// Takes a unit away in the system, not in the initrd: one of those that measure, for example.
const MASK: &str = "systemd.mask";
/// How the names of units begin that measure.
const MEASURERS: &str = "systemd-pcr";
/// A variable whose words come before the command line's, unless Secure Boot is on (`src/basic/efivars.c`,
/// `read_efi_options_variable`), and its vendor (`EFI_VENDOR_SYSTEMD`).
const SYSTEMD_OPTIONS: &str = "SystemdOptions";
const SYSTEMD: Uuid = Uuid::from_u128(0x8cf2_644b_4b0b_428f_9387_6d87_6050_dc67);
/// The PCRs that systemd extends, or may.
const SYSTEMDS: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15];

/// From the initrd's first process to the login prompt.
///
/// # Errors
/// None so far.
pub fn run(chain: &mut Chain<'_>, start: &UserspaceStart) -> Result<Next, Error> {
    let words = words(&start.command_line);
    let initrd = chain.memo.initrd(&start.initrd);
    let initrd = match &*initrd {
        Ok(initrd) => initrd,
        Err(why) => {
            let what = start.initrd_from.to_string();
            if panics(&start.initrd, &words, chain.target.root.header().is_some()) {
                let because =
                    format!("the kernel finds no archive in {what}, so no init, and cannot mount its root");
                return Ok(Next::End(End { outcome: Some(Outcome::Crashed), because, reported_by: None }));
            }
            chain.unmodelled(Stage::Userspace, &what, why, &[11, 12, 15]);
            return Ok(Next::End(cryptsetup::unknown(format!("{what} cannot be read: {why}"))));
        }
    };
    if let Some((what, why)) = told_otherwise(chain, &words) {
        chain.unmodelled(Stage::Userspace, what, why, &SYSTEMDS);
        return Ok(Next::End(cryptsetup::unknown(why.to_owned())));
    }
    let measured_uki = start.measured_uki == MeasuredUki::Yes && chain.has_tpm();
    let measuring = measured_uki && initrd.has_tpm();
    let phases = measuring && initrd.has_phases();
    if phases {
        phase(chain, "enter-initrd", &start.initrd_from);
    }
    if measuring {
        before_root(chain, initrd, &start.initrd_from);
    }
    chain.root_volume(initrd);
    let partitions = &chain.target.partitions.partitions;
    let is_hidden = gpt::root(partitions).is_some_and(|root| root.no_auto);
    let looked_for = initrd.finds_by_type() && found_by_type(&words, initrd.systemd()) && !is_hidden;
    let by_type = looked_for && measured_uki && initrd.knows(Feature::VolumeKey);
    // systemd-stub tells systemd the disk, whether it measures or not; GRUB may with a module that it has.
    let found = match start.measured_uki {
        _ if !looked_for => ByType::No,
        MeasuredUki::Yes if by_type => ByType::With(Options::by_type(initrd)),
        MeasuredUki::Yes => ByType::With(Options::default()),
        MeasuredUki::No if start.may_tell_disk || needs_no_telling(&words) => ByType::Perhaps,
        MeasuredUki::No => ByType::No,
    };
    let uuid = chain.target.root.header().map(|header| header.uuid.as_str());
    let attached = attached(initrd, &words, Root { uuid, partitions }, found);
    let options = match &attached {
        Ok(options) => Some(*options),
        // Where it is known that nothing opens the volume, nothing is measured of it.
        Err(unattached) => unattached.options.or(unattached.end.outcome.map(|_| Options::default())),
    };
    let end = match attached {
        Err(unattached) if unattached.comes_before(chain.target.root) => unattached.end,
        attached => cryptsetup::unlock(chain, initrd, attached.map_err(|unattached| unattached.end)),
    };
    if uuid.is_some() && (measuring || measured_uki && initrd.opens_by_scripts()) {
        let pcrs: &[u8] = if phases || initrd.opens_by_scripts() { &[11, 15] } else { &[15] };
        match options {
            Some(options) => volume_key(chain, initrd, options, &end),
            None => chain.unmodelled(Stage::Userspace, &start.initrd_from.to_string(), &end.because, pcrs),
        }
    }
    if phases {
        phase(chain, "leave-initrd", &start.initrd_from);
    }
    // The system measures by itself, whether its initrd could or not. Where it cannot either, its measurements never come, and
    // nothing that is asserted comes after them.
    if measured_uki && initrd.has_phases() {
        if initrd.knows(Feature::MachineId) {
            open(chain, 15, "machine id", "it lies on the encrypted root, or is made by this boot");
        }
        if by_type {
            open(chain, 15, "root file system", "what it is called lies in the encrypted root");
        }
        phase(chain, "sysinit", &start.initrd_from);
        phase(chain, "ready", &start.initrd_from);
    }
    Ok(Next::End(end))
}

/// What tells systemd things that are not modelled, and which.
fn told_otherwise(chain: &Chain<'_>, words: &[Word]) -> Option<(&'static str, &'static str)> {
    // Of its names `-` and `_` are the same (`proc_cmdline_key_streq`).
    if words.iter().any(|word| word.name().replace('-', "_") == MEASURED_OS) {
        return Some((MEASURED_OS, "the command line tells systemd whether to measure"));
    }
    let masks =
        |word: &Word| word.name() == MASK && word.value().is_some_and(|unit| unit.starts_with(MEASURERS));
    if words.iter().any(masks) {
        return Some((MASK, "the command line takes away a unit that measures"));
    }
    if let Some(word) = OTHER_UNITS.iter().find(|known| words.iter().any(|word| word.name() == **known)) {
        return Some((*word, "the command line changes what is started in the initrd"));
    }
    let variable = VariableId::new(SYSTEMD_OPTIONS, SYSTEMD);
    let counts = chain.secure_boot() == SecureBoot::Off && chain.variables.get(&variable).is_some();
    counts.then_some((SYSTEMD_OPTIONS, "systemd reads a UEFI variable before the command line"))
}

/// The volume key is measured after an unlock, by itself or by a passphrase. What is measured after the root file system took
/// over is what its own systemd measures, which the initrd was made from. A key that a plugin got is measured by nobody.
fn volume_key(chain: &mut Chain<'_>, initrd: &Initrd, options: Options, end: &End) {
    let Some(pcr) = options.measured_into else { return };
    match (options.way(initrd), end.outcome) {
        (Way::Plugin, None) => {
            let why = "who gets the volume key is not known, and so whether it is measured";
            chain.unmodelled(Stage::Userspace, "volume key", why, &[pcr]);
        }
        (Way::Plugin, Some(outcome)) if outcome != Outcome::FallbackPrompt => {}
        _ => open(chain, pcr, "volume key", "the key of the root volume is secret"),
    }
}

/// Whether the kernel comes to a panic: it has nothing to unpack, and with no init its root is a device that it cannot mount,
/// since it is encrypted, or one that it has no name for (Linux, init/do_mounts.c and block/early-lookup.c: UUIDs of file
/// systems are none). A kernel that knows images of file systems (`CONFIG_BLK_DEV_RAM`) is not expected to be given one.
fn panics(initrd: &[u8], words: &[Word], is_encrypted: bool) -> bool {
    let nameless =
        |root: &str| ["UUID=", "LABEL=", "/dev/mapper/"].iter().any(|start| root.starts_with(start));
    let waits = words.iter().any(|word| word.name() == "rootwait");
    let root = words.iter().filter(|word| word.name() == "root").filter_map(Word::value).next_back();
    !Initrd::is_archive(initrd) && is_encrypted && !waits && root.is_none_or(nameless)
}

/// What later versions extend before the root volume's turn, behind a UKI that measured itself. Nothing here booted them.
fn before_root(chain: &mut Chain<'_>, initrd: &Initrd, initrd_from: &Origin) {
    if initrd.separates_os() {
        for pcr in SEPARATED {
            let from = Origin::Part { file: initrd_from.to_string(), part: "systemd-pcrosseparator".into() };
            chain.measure(Stage::Userspace, pcr, NO_EVENT, OS_SEPARATOR.as_bytes(), OS_SEPARATOR, from);
        }
    }
    if initrd.has_nvpcrs() {
        let why = "a PCR of an NV index hangs on a secret, and how many are made on the TPM";
        open(chain, 9, "PCRs of NV indices", why);
        chain.unmodelled(Stage::Userspace, &initrd_from.to_string(), why, &[9]);
    }
}

/// Whether systemd looks for the root partition by its type (`parse_proc_cmdline_item`). From 258 on the last word counts
/// (`parse_gpt_auto_root`), before that any that names another root.
fn found_by_type(words: &[Word], systemd: Option<u16>) -> bool {
    let is_later = systemd.is_some_and(|version| version >= 258);
    let (mut looks, mut root) = (true, true);
    for word in words {
        let name = word.name();
        match (word.bare(), word.value()) {
            ("systemd.gpt_auto" | "systemd.gpt-auto", how) => {
                looks = how.map_or(Some(true), boolean).unwrap_or(looks);
            }
            ("roothash", Some(_)) if name == "roothash" => root = false,
            ("root", Some(how)) if name == "root" => {
                let by_type = match how {
                    "gpt-auto" => true,
                    "gpt-auto-force" | "dissect" | "dissect-force" => is_later,
                    _ => false,
                };
                root = by_type && (root || is_later);
            }
            _ => {}
        }
    }
    looks && root
}

/// Whether systemd looks for the root partition though nobody told it the disk (`gpt-auto-force`, from 258 on).
fn needs_no_telling(words: &[Word]) -> bool {
    let is_forced = |how: &str| ["gpt-auto-force", "dissect-force"].contains(&how);
    words.iter().any(|word| word.name() == "root" && word.value().is_some_and(is_forced))
}

/// A measurement of what is not to be read before the boot.
fn open(chain: &mut Chain<'_>, pcr: u8, what: &str, why: &str) {
    let from = Origin::Constant("systemd, behind a UKI that measured itself".into());
    chain.push(Stage::Userspace, pcr, NO_EVENT, Vec::new(), what, from, Certainty::Open(why.to_owned()));
}

fn phase(chain: &mut Chain<'_>, word: &str, initrd: &Origin) {
    let from = Origin::Part { file: initrd.to_string(), part: "systemd-pcrphase".into() };
    chain.measure(Stage::Userspace, 11, NO_EVENT, word.as_bytes(), &format!("boot phase {word}"), from);
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::words;

    #[rstest]
    #[case::text(b"interrupted", "root=UUID=1 quiet", true, true)]
    #[case::no_root_named(b"interrupted", "quiet", true, true)]
    #[case::zeros_and_text(b"\0\0\0\0interrupted", "root=/dev/mapper/root", true, true)]
    #[case::an_archive(b"070701", "root=UUID=1", true, false)]
    #[case::compressed_somehow(b"BZh9", "root=UUID=1", true, false)]
    #[case::a_root_that_is_not_encrypted(b"interrupted", "root=UUID=1", false, false)]
    #[case::another_partition(b"interrupted", "root=/dev/vda3", true, false)]
    #[case::another_by_its_number(b"interrupted", "root=PARTUUID=1", true, false)]
    #[case::that_waits(b"interrupted", "rootwait root=UUID=1", true, false)]
    fn a_kernel_without_an_init_panics(
        #[case] initrd: &[u8],
        #[case] command_line: &str,
        #[case] is_encrypted: bool,
        #[case] panics: bool,
    ) {
        assert_eq!(super::panics(initrd, &words(command_line), is_encrypted), panics);
    }

    #[rstest]
    #[case("root=gpt-auto rw", 252, true)]
    #[case("quiet", 252, true)]
    #[case("root=/dev/mapper/root rw", 258, false)]
    #[case("root=gpt-auto systemd.gpt_auto=no", 252, false)]
    #[case("root=gpt-auto rd.systemd.gpt-auto=f", 252, false)]
    #[case("systemd.gpt_auto=no systemd.gpt_auto", 252, true)]
    #[case("root=gpt-auto roothash=00", 257, false)]
    #[case("roothash=00", 252, false)]
    #[case("root=/dev/vda2 root=gpt-auto", 257, false)]
    #[case("root=/dev/vda2 root=gpt-auto", 258, true)]
    #[case("root=gpt-auto-force", 257, false)]
    #[case("root=gpt-auto-force", 258, true)]
    #[case("root=dissect", 258, true)]
    #[case("root=\"gpt-auto\" 'quiet root=/dev/vda2'", 252, true)]
    fn the_command_line_says_whether_root_is_looked_for(
        #[case] line: &str,
        #[case] systemd: u16,
        #[case] expected: bool,
    ) {
        assert_eq!(super::found_by_type(&words(line), Some(systemd)), expected);
    }
}
