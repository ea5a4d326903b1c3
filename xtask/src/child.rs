//! Children of the front door: all through the supervisor, so that none outlives it.

use std::ffi::{OsStr, OsString};
use std::io::{PipeReader, Read, Write};
use std::process::ExitStatus;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use latchkey_supervise::{Error, Supervised, cancelled, run, start};

/// How often a wait looks whether the user asked to stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a child that was asked to end may take to clean up after itself.
const GRACE: Duration = Duration::from_secs(15);

/// Whether `program args` runs and succeeds; nothing of it is seen.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    run(program, args).is_ok()
}

/// Waits for the end of `child`, calling `meanwhile` now and then; ends it when the user asks to stop.
pub(crate) fn wait(child: Supervised, mut meanwhile: impl FnMut()) -> Result<ExitStatus> {
    loop {
        if let Some(output) = child.wait_for(TICK)? {
            return Ok(output.status);
        }
        if cancelled() {
            child.end(GRACE)?;
            return Err(Error::Cancelled.into());
        }
        meanwhile();
    }
}

/// Starts a program with everything it will ever start in a PID namespace of its own, which ends with it; with
/// a `/proc` that fits. Where that is not possible (not root, or a container that forbids it) it is started
/// plainly, and the supervisor's other means have to do.
pub(crate) fn start_enclosed(
    program: &OsStr,
    args: &[OsString],
    shape: impl FnOnce(duct::Expression) -> duct::Expression,
) -> Result<Supervised> {
    const ENCLOSED: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child=KILL"];
    let name = program.to_string_lossy();
    let possible =
        rustix::process::geteuid().is_root() && succeeds("unshare", &[&ENCLOSED[..], &["true"]].concat());
    if !possible {
        return Ok(start(&name, program, args, shape)?);
    }
    let mut line = ENCLOSED.map(OsString::from).to_vec();
    line.extend(["--".into(), program.to_owned()]);
    line.extend(args.iter().cloned());
    Ok(start(&name, "unshare", &line, shape)?)
}

/// Copies what a child prints to standard error as it comes, and gives all of it at the end.
pub(crate) fn show_and_keep(mut from: PipeReader) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            // A reader that went away does not stop the child.
            let _ = std::io::stderr().write_all(&buffer[..count]);
            kept.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}
