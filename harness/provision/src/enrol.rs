//! Sealing by the guest itself: `systemd-cryptenroll` in a machine that was opened with its first key.

use std::time::Duration;

use latchkey_machine::Running;
use latchkey_record::{HashAlg, PcrIndex};

use crate::Error;
use crate::secret::Secret;

/// On the reference host; making a primary key and a policy takes a TCG guest seconds.
const LIMIT: Duration = Duration::from_secs(90);
/// On a file system in memory, gone with the power.
const KEY_FILE: &str = "/run/latchkey-first-key";

/// Lets the guest of `running` seal a new keyslot of its root volume to its vTPM, under a policy over `pcrs` as they
/// are now. `first` opens the volume; it goes to the guest over SSH, to a file in memory that only root can read.
///
/// # Errors
/// [`Error::Bank`] for any bank but SHA-256; [`Error::Machine`] when a command in the guest fails.
pub fn enrol(running: &Running, first: &Secret, pcrs: &[PcrIndex], bank: HashAlg) -> Result<(), Error> {
    if bank != HashAlg::Sha256 {
        return Err(Error::Bank(bank));
    }
    let list = pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
    let take = format!("umask 077 && cat > {KEY_FILE}");
    running.guest_ok(&take, first.expose().as_bytes(), LIMIT)?;
    let seal = format!(
        "volume=$(blkid --match-token TYPE=crypto_LUKS --output device) && \
         systemd-cryptenroll --unlock-key-file={KEY_FILE} --tpm2-device=auto --tpm2-pcrs={list} \"$volume\"; \
         code=$?; rm -f {KEY_FILE}; exit $code"
    );
    running.guest_ok(&seal, &[], LIMIT)?;
    Ok(())
}
