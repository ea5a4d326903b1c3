//! A short real start of the firmware, without a disk, to see whether an accelerator carries it.
//!
//! Three things are watched at once: the serial console, where OVMF's boot manager announces itself; QMP,
//! which tells when the machine stops; and QEMU's end. QEMU's own messages and the serial console share one
//! pipe, so that a stop is told together with what was said before it.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use latchkey_supervise::{Supervised, cancelled, start};

use crate::accelerator::{Accelerator, Trial};
use crate::option::doubled_commas;
use crate::{Error, firmware::Firmware};

/// What shows that the firmware is up: the boot manager's own lines (edk2,
/// `MdeModulePkg/Universal/BdsDxe/BdsEntry.c` and `BmBoot.c`), or the shell's banner should a build keep those
/// to itself.
const MARKS: &[&str] = &["BdsDxe: ", "UEFI Interactive Shell"];
/// How much of the console is kept, in bytes. The marks come within the first few hundred.
const KEPT: usize = 64 * 1024;
/// How much of a console line is shown, in characters.
const SHOWN: usize = 300;
/// How often QEMU's end and the user's wish to stop are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How long a stopped QEMU may take to tell its state.
const STATE: Duration = Duration::from_secs(2);

enum Seen {
    Console(Vec<u8>),
    Qmp(String),
}

/// Starts the firmware under `accelerator` and waits up to `patience` for it to come up.
pub(crate) fn boot(
    qemu: &Path,
    firmware: &Firmware,
    accelerator: Accelerator,
    patience: Duration,
    scratch: &Path,
) -> Result<Trial, Error> {
    let vars = scratch.join(format!("{accelerator}-vars.fd"));
    fs::copy(&firmware.vars_template, &vars).map_err(Error::file("copying the variable store to", &vars))?;
    let plumbing = || -> io::Result<_> { Ok((io::pipe()?, io::pipe()?, io::pipe()?)) };
    let ((qmp_out, qmp_in), (console_out, console_in), (commands_out, mut commands)) =
        plumbing().map_err(Error::file("making pipes to", qemu))?;
    let began = Instant::now();
    let child = start("qemu (probe)", qemu, &arguments(&firmware.code, &vars, accelerator), |e| {
        e.stdin_file(commands_out).stdout_file(qmp_in).stderr_file(console_in)
    })?;
    let (sender, seen) = mpsc::channel();
    read_lines(qmp_out, sender.clone());
    read_console(console_out, sender);
    // A QEMU that ended at once does not read this, which its end will tell better.
    let _ = commands.write_all(b"{\"execute\": \"qmp_capabilities\"}\n");
    let mut watch = Watch { child: Some(child), seen, commands, console: Vec::new() };
    watch.until(began, patience)
}

fn arguments(code: &Path, vars: &Path, accelerator: Accelerator) -> Vec<OsString> {
    let machine = format!("q35,smm=on,accel={accelerator}");
    let fixed = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        machine.as_str(),
        "-cpu",
        "max",
        "-m",
        "256",
        "-smp",
        "1",
        "-global",
        "driver=cfi.pflash01,property=secure,value=on",
        "-chardev",
        "stdio,id=qmp,signal=off",
        "-mon",
        "chardev=qmp,mode=control",
        "-chardev",
        "file,id=console,path=/proc/self/fd/2",
        "-serial",
        "chardev:console",
    ];
    let mut line: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    for (unit, file) in [("unit=0,readonly=on", code), ("unit=1", vars)] {
        line.push("-drive".into());
        let mut drive = OsString::from(format!("if=pflash,format=raw,{unit},file="));
        drive.push(doubled_commas(file));
        line.push(drive);
    }
    line
}

/// How many pieces of a console may wait at the deadline.
const WAITING: usize = 1024;

fn read_lines(from: PipeReader, to: Sender<Seen>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from.take(KEPT as u64)).lines().map_while(Result::ok) {
            if to.send(Seen::Qmp(line)).is_err() {
                break;
            }
        }
    });
}

fn read_console(mut from: PipeReader, to: Sender<Seen>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.send(Seen::Console(buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
}

struct Watch<W> {
    child: Option<Supervised>,
    seen: Receiver<Seen>,
    commands: W,
    console: Vec<u8>,
}

impl<W: Write> Watch<W> {
    fn until(&mut self, began: Instant, patience: Duration) -> Result<Trial, Error> {
        let deadline = began + patience;
        loop {
            if cancelled() {
                return Err(latchkey_supervise::Error::Cancelled.into());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // Also where the console never pauses. What came until now is looked at.
            if left.is_zero() && self.running()? {
                let waiting: Vec<Seen> = self.seen.try_iter().take(WAITING).collect();
                for seen in waiting {
                    if let Seen::Console(bytes) = seen {
                        self.keep(&bytes);
                    }
                }
                if self.is_up() {
                    return Ok(Trial::CameUp { seconds: began.elapsed().as_secs_f64() });
                }
                let console = self.lines().pop().unwrap_or_default();
                return Ok(Trial::Silent { seconds: patience.as_secs_f64(), console });
            }
            match self.seen.recv_timeout(left.min(TICK)) {
                Ok(Seen::Console(bytes)) => {
                    self.keep(&bytes);
                    if self.is_up() {
                        return Ok(Trial::CameUp { seconds: began.elapsed().as_secs_f64() });
                    }
                }
                Ok(Seen::Qmp(line)) if is_stop(&line) => {
                    let state = self.state();
                    self.last_words();
                    return Ok(Trial::Stopped(format!("QEMU's state is {state}; {}", self.said())));
                }
                Ok(Seen::Qmp(_)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if !self.running()? {
                        return Ok(self.ended(began));
                    }
                }
            }
        }
    }

    /// What QEMU wrote before it stopped may still be on its way: the two channels are read apart.
    fn last_words(&mut self) {
        let deadline = Instant::now() + STATE;
        while self.console.is_empty()
            && let Ok(seen) = self.seen.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if let Seen::Console(bytes) = seen {
                self.keep(&bytes);
            }
        }
    }

    fn running(&self) -> Result<bool, Error> {
        Ok(self.child.as_ref().map_or(Ok(false), Supervised::is_running)?)
    }

    /// What a QEMU that ended by itself left in its pipes decides: it may have come up before.
    fn ended(&mut self, began: Instant) -> Trial {
        // The pipes report their end only when this process's copies of their other ends are closed.
        drop(self.child.take());
        while let Ok(seen) = self.seen.recv_timeout(STATE) {
            if let Seen::Console(bytes) = seen {
                self.keep(&bytes);
            }
        }
        if self.is_up() {
            return Trial::CameUp { seconds: began.elapsed().as_secs_f64() };
        }
        Trial::Ended(self.said())
    }

    /// Asks the stopped QEMU for its state.
    fn state(&mut self) -> String {
        let unknown = || "unknown".to_owned();
        if self.commands.write_all(b"{\"execute\": \"query-status\"}\n").is_err() {
            return unknown();
        }
        let deadline = Instant::now() + STATE;
        while let Ok(seen) = self.seen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            match seen {
                Seen::Console(bytes) => self.keep(&bytes),
                Seen::Qmp(line) => {
                    let status = serde_json::from_str::<serde_json::Value>(&line).ok();
                    let status = status.as_ref().and_then(|v| v.get("return")?.get("status")?.as_str());
                    if let Some(status) = status {
                        return status.to_owned();
                    }
                }
            }
        }
        unknown()
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.console.len());
        self.console.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn is_up(&self) -> bool {
        let text = String::from_utf8_lossy(&self.console);
        MARKS.iter().any(|mark| text.contains(mark))
    }

    /// The first line that QEMU or the firmware wrote: what follows it are registers.
    fn said(&self) -> String {
        self.lines().into_iter().next().unwrap_or_else(|| "it said nothing".into())
    }

    /// The console's lines that hold something, shortened, without control characters.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.console);
        let clean: String = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
        let lines = clean.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.map(|line| line.chars().take(SHOWN).collect()).collect()
    }
}

fn is_stop(line: &str) -> bool {
    let event = serde_json::from_str::<serde_json::Value>(line).ok();
    let event = event.as_ref().and_then(|v| v.get("event")?.as_str());
    matches!(event, Some("STOP" | "GUEST_PANICKED"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::path::PathBuf;

    use rstest::rstest;

    use super::*;
    use crate::firmware::SecureBoot;

    /// Stand-ins for QEMU, which get its arguments and its three pipes.
    const COMES_UP: &str = r"printf '\033[2J\033[01;01HBdsDxe: loading Boot0001' >&2; sleep 100";
    const COMES_UP_AND_ENDS: &str = r"echo 'BdsDxe: No bootable option or device was found.' >&2";
    const ENDS: &str = "echo 'qemu: System Management Mode not supported by this hypervisor.' >&2; exit 1";
    const STOPS: &str = r#"read -r capabilities; echo '{"QMP": {}}'; echo '{"return": {}}'
        echo 'KVM internal error. Suberror: 1' >&2; echo 'extra data[0]: 1' >&2
        echo '{"timestamp": {"seconds": 1}, "event": "STOP"}'
        read -r status; echo '{"return": {"running": false, "status": "internal-error"}}'; sleep 100"#;
    const SILENT: &str = "sleep 100";
    const STUCK: &str = "echo 'first' >&2; printf 'last\\033[2J' >&2; sleep 100";

    fn tried(script: &str) -> Trial {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        // Written by a process of its own: a descriptor of ours, inherited by a child that another test
        // starts at this moment, would make the script busy.
        let install = ["-m", "755", "/dev/stdin"].map(OsString::from);
        let install: Vec<OsString> = install.into_iter().chain([qemu.clone().into()]).collect();
        let text = format!("#!/bin/sh\n{script}\n");
        latchkey_supervise::run_with("install", &install, |e| e.stdin_bytes(text)).unwrap();
        let vars = dir.path().join("vars-template.fd");
        std::fs::write(&vars, "").unwrap();
        let firmware = Firmware {
            code: PathBuf::from("/none"),
            vars_template: vars,
            code_sha256: String::new(),
            code_size: 0,
            vars_sha256: String::new(),
            vars_size: 0,
            version: None,
            secure_boot: SecureBoot::Unknown,
        };
        boot(&qemu, &firmware, Accelerator::Kvm, Duration::from_secs(2), dir.path()).unwrap()
    }

    #[rstest]
    #[case(COMES_UP)]
    #[case(COMES_UP_AND_ENDS)]
    fn an_announcement_on_the_console_is_success(#[case] script: &str) {
        assert!(matches!(tried(script), Trial::CameUp { .. }));
    }

    #[rstest]
    #[case(ENDS, "QEMU ended: qemu: System Management Mode not supported by this hypervisor.")]
    #[case("exit 1", "QEMU ended: it said nothing")]
    #[case(STOPS, "the machine stopped: QEMU's state is internal-error; KVM internal error. Suberror: 1")]
    #[case(SILENT, "nothing on the console in 2 s; LATCHKEY_PROBE_SECONDS gives it longer")]
    #[case(STUCK, "the console's end: last [2J")]
    fn anything_else_is_a_failure_told_in_words(#[case] script: &str, #[case] expected: &str) {
        let told = tried(script).to_string();
        assert!(told.contains(expected), "{told}");
    }

    #[test]
    fn a_comma_in_a_path_does_not_end_the_option() {
        let line = arguments(Path::new("/a,b/CODE.fd"), Path::new("/v.fd"), Accelerator::Tcg);
        assert!(
            line.contains(&"if=pflash,format=raw,unit=0,readonly=on,file=/a,,b/CODE.fd".into()),
            "{line:?}"
        );
    }
}
