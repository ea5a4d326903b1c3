//! systemd in the initrd and after it: its own measurements, and the moment at which the sealed key is tried.
//!
//! Sources: systemd 252.39 and 257.13, `units/systemd-pcr*.service.in` (what is measured when, and only after a UKI that
//! measured itself), `src/boot/pcrphase.c` and `src/pcrextend/pcrextend.c` (the digest of the bare word),
//! `src/gpt-auto-generator/gpt-auto-generator.c` (a root volume found by its type, its key and its file system measured),
//! `src/cryptsetup/cryptsetup.c` (`measure_volume_key`, `use_token_plugins`).

use latchkey_record::{Certainty, Origin, Stage};

use crate::chain::{MeasuredUki, UserspaceStart};
use crate::cryptsetup::Way;
use crate::initrd::Feature;
use crate::{Chain, Error, Next, cryptsetup};

/// There is no event log for what userspace extends.
const NO_EVENT: u32 = 0;

/// From the initrd's first process to the login prompt.
///
/// # Errors
/// None so far.
pub fn run(chain: &mut Chain<'_>, start: &UserspaceStart) -> Result<Next, Error> {
    let initrd = chain.memo.initrd(&start.initrd);
    let initrd = match &*initrd {
        Ok(initrd) => initrd,
        Err(why) => {
            let what = start.initrd_from.to_string();
            chain.unmodelled(Stage::Userspace, &what, why, &[11, 12, 15]);
            return Ok(Next::End(cryptsetup::unknown(format!("{what} cannot be read: {why}"))));
        }
    };
    let measuring = start.measured_uki == MeasuredUki::Yes && initrd.has_tpm() && chain.has_tpm();
    let phases = measuring && initrd.has_phases();
    if phases {
        phase(chain, "enter-initrd", &start.initrd_from);
    }
    chain.root_volume(initrd);
    let by_type = measuring && found_by_type(&start.command_line) && initrd.knows(Feature::VolumeKey);
    let wants = |option: &str| initrd.has_option(option) || start.command_line.contains(option);
    let way = match (by_type, wants("tpm2-measure-pcr=")) {
        // Red Hat's 252 measures as later versions do, and lets libcryptsetup's plugin try first all the same
        // (redhat-plumbers/systemd-rhel9, `src/cryptsetup/cryptsetup.c`, `run`).
        _ if initrd.systemd() == Some(252) => Way::Plugin,
        (true, _) if !initrd.knows(Feature::AutomaticTpm) => Way::NoTpm,
        (false, true) if !wants("tpm2-device=") => Way::NoTpm,
        (true, _) | (false, true) => Way::Own,
        (false, false) => Way::Plugin,
    };
    let end = cryptsetup::unlock(chain, initrd, way);
    // What follows an unlock, by itself or by a passphrase. What is measured after the root file system took over is what
    // its own systemd measures, which the initrd was made from.
    if measuring && way != Way::Plugin && chain.target.root.header().is_some() {
        open(chain, "volume key", "the key of the root volume is secret");
    }
    if phases {
        phase(chain, "leave-initrd", &start.initrd_from);
        if initrd.knows(Feature::MachineId) {
            open(chain, "machine id", "it lies on the encrypted root, or is made by this boot");
        }
        if by_type {
            open(chain, "root file system", "what it is called lies in the encrypted root");
        }
        phase(chain, "sysinit", &start.initrd_from);
        phase(chain, "ready", &start.initrd_from);
    }
    Ok(Next::End(end))
}

/// Whether systemd looks for the root partition by its type.
fn found_by_type(command_line: &str) -> bool {
    let mut words = command_line.split_ascii_whitespace();
    words.all(|word| match word.split_once('=') {
        Some(("root", how)) => how == "gpt-auto",
        Some(("systemd.gpt_auto" | "rd.systemd.gpt_auto", how)) => {
            !matches!(how, "0" | "no" | "false" | "off")
        }
        _ => true,
    })
}

/// A measurement into PCR 15 of what is not to be read before the boot.
fn open(chain: &mut Chain<'_>, what: &str, why: &str) {
    let from = Origin::Constant("systemd, behind a UKI that measured itself".into());
    chain.push(Stage::Userspace, 15, NO_EVENT, Vec::new(), what, from, Certainty::Open(why.to_owned()));
}

fn phase(chain: &mut Chain<'_>, word: &str, initrd: &Origin) {
    let from = Origin::Part { file: initrd.to_string(), part: "systemd-pcrphase".into() };
    chain.measure(Stage::Userspace, 11, NO_EVENT, word.as_bytes(), &format!("boot phase {word}"), from);
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    #[rstest]
    #[case("root=gpt-auto rw", true)]
    #[case("quiet", true)]
    #[case("root=/dev/mapper/root rw", false)]
    #[case("root=gpt-auto systemd.gpt_auto=no", false)]
    fn the_command_line_says_whether_root_is_looked_for(#[case] line: &str, #[case] expected: bool) {
        assert_eq!(super::found_by_type(line), expected);
    }
}
