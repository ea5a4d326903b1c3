//! systemd in the initrd and after it: its own measurements, and the moment at which the sealed key is tried.
//!
//! Sources: systemd 252.39 and 257.13, `units/systemd-pcrphase*.service.in` (which phase when, and only after a UKI
//! that measured itself), `src/boot/pcrphase.c` and `src/pcrextend/pcrextend.c` (the digest of the bare word).

use latchkey_record::{Origin, Stage};

use crate::chain::{MeasuredUki, UserspaceStart};
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
    let phases = start.measured_uki == MeasuredUki::Yes && initrd.has_phases() && initrd.has_tpm();
    if phases {
        phase(chain, "enter-initrd", &start.initrd_from);
    }
    chain.root_volume(initrd);
    let end = cryptsetup::unlock(chain, initrd);
    if phases {
        // What follows an unlock, by itself or by a passphrase. The phases after the root file system took over are
        // those of its own systemd, which the initrd was made from.
        for word in ["leave-initrd", "sysinit", "ready"] {
            phase(chain, word, &start.initrd_from);
        }
    }
    Ok(Next::End(end))
}

fn phase(chain: &mut Chain<'_>, word: &str, initrd: &Origin) {
    let from = Origin::Part { file: initrd.to_string(), part: "systemd-pcrphase".into() };
    chain.measure(Stage::Userspace, 11, NO_EVENT, word.as_bytes(), &format!("boot phase {word}"), from);
}
