//! Children of the front door: all through the supervisor, so that none outlives it.

use std::io::{PipeReader, Read, Write};
use std::process::{ExitStatus, Output};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use latchkey_supervise::{Error, Supervised, cancelled, run};

/// How often a wait looks whether the user asked to stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a child that was asked to end may take to clean up after itself.
const GRACE: Duration = Duration::from_secs(15);

/// Whether `program args` runs and succeeds; nothing of it is seen.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    run(program, args).is_ok()
}

/// Waits for the end of `child`, calling `meanwhile` now and then; ends it when the user asks to stop.
pub(crate) fn wait(child: Supervised, meanwhile: impl FnMut()) -> Result<ExitStatus> {
    Ok(output(child, meanwhile)?.status)
}

/// As [`wait`], with what was captured of it.
pub(crate) fn output(child: Supervised, mut meanwhile: impl FnMut()) -> Result<Output> {
    loop {
        if let Some(output) = child.wait_for(TICK)? {
            return Ok(output.clone());
        }
        if cancelled() {
            child.end(GRACE)?;
            return Err(Error::Cancelled.into());
        }
        meanwhile();
    }
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
