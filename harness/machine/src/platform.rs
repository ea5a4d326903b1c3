//! The one constant of PCR 0 that is in no file: the digest of the firmware's PEI volume as it lies in memory.
//!
//! OVMF measures the copy of that volume from which it runs, after PlatformPei wrote the memory size, the number of
//! processors and the like into it. The digest is therefore the same for every machine of one kind, whatever its disk,
//! and is measured by a start without a disk.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use latchkey_host::Host;
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex};
use latchkey_supervise::{Scratch, cancelled, start};
use latchkey_tpm::{Channel, Swtpm, manufacture};

use crate::Error;
use crate::bell::Bell;
use crate::console::line::Line;
use crate::hardware::Hardware;
use crate::qemu::{Parts, Wiring, arguments};
use std::sync::Arc;

/// `Tcg2Pei` measures the version first, then the PEI volume.
const PEI_VOLUME: usize = 1;
/// From power-on to the second measurement, on the reference host; it takes half a second there.
const LIMIT: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(100);

/// Measures the PEI volume on `hardware` with these variables (of which `MemoryTypeInformation` counts) in each of
/// `banks`. `scratch` is a directory to work in.
///
/// # Errors
/// When swtpm or QEMU cannot be started, or the firmware measures nothing within a minute.
pub fn pei_volume(
    host: &Host,
    hardware: &Hardware,
    variables: &[u8],
    banks: &[HashAlg],
    scratch: &Path,
) -> Result<Vec<Digest>, Error> {
    let scratch = Scratch::new(scratch, "platform-")?;
    let dir = scratch.path();
    let store = dir.join("variables.fd");
    fs::write(&store, variables).map_err(Error::io("writing", &store))?;
    let (state, run) = (dir.join("tpm"), dir.join("run"));
    manufacture(&host.tools.swtpm.path, &state, banks)?;
    fs::create_dir(&run).map_err(Error::io("creating", &run))?;
    let bell = Arc::new(Bell::default());
    let ring = {
        let bell = Arc::clone(&bell);
        move || bell.ring()
    };
    let swtpm = Swtpm::start(&host.tools.swtpm.path, &state, &run, Channel::Machine, Instant::now(), ring)?;
    let parts = Parts { disk: None, variables: &store, strings: vec![] };
    let line: Vec<OsString> = arguments(host, hardware, &parts, Wiring::Harness);
    let (_control, guest_control) = UnixStream::pair().map_err(Error::io("making a socket for", dir))?;
    // Nobody looks at what it shows, which is less than the line takes.
    let _line = Line::make(&run).map_err(Error::io("making a serial line for", dir))?;
    let stderr = run.join("qemu.stderr");
    let qemu = start("qemu", &host.tools.qemu.path, &line, |e| {
        e.dir(&run).stdin_file(guest_control).stdout_null().stderr_path(&stderr)
    })?;
    let until = Instant::now() + LIMIT.mul_f64(host.deadline_scale);
    let first = PcrIndex::new(0).ok();
    loop {
        let heard = bell.rings();
        let record = swtpm.record();
        let mut zero = record.extends().filter(|(_, pcr, _)| Some(*pcr) == first);
        if let Some((_, _, digests)) = zero.nth(PEI_VOLUME) {
            // Firmware sends digests for more banks than this TPM has.
            return Ok(digests.iter().filter(|digest| banks.contains(&digest.alg())).cloned().collect());
        }
        let said = || fs::read_to_string(&stderr).unwrap_or_default();
        let left = until.saturating_duration_since(Instant::now());
        if cancelled() {
            return Err(latchkey_supervise::Error::Cancelled.into());
        }
        if left.is_zero() || !qemu.is_running()? {
            return Err(Error::Platform { said: said() });
        }
        bell.wait(heard, left.min(TICK));
    }
}
