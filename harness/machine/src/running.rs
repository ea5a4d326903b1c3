//! A machine that runs.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use latchkey_host::Host;
use latchkey_record::tpm::TpmRecord;
use latchkey_supervise::{Supervised, start};
use latchkey_tpm::{Channel, RecorderPast, Swtpm};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Error;
use crate::banner::{self, BannerWatch, SshBanner};
use crate::bell::Bell;
use crate::console::line::Line;
use crate::console::{Console, ConsolePast};
use crate::credential::Credential;
use crate::error::Part;
use crate::machine::{Machine, Offline};
use crate::observation::{ENDED, Observation, SILENT, is_guest_reset};
use crate::qemu::{Parts, Wiring, arguments};
use crate::qmp::{Qmp, QmpError, QmpEvent};
use crate::ssh::Ssh;

/// How long QEMU may take to answer, on the reference host. It answers in milliseconds unless it is busy
/// with the disk.
const QMP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a QEMU that closed its control channel may take to end.
const ENDS: Duration = Duration::from_secs(5);
/// How much of what QEMU wrote an error carries.
const STDERR_LINES: usize = 12;

/// Where the current boot began in each witness's account.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Beginning {
    pub(crate) at_ms: u64,
    pub(crate) console: usize,
    pub(crate) qmp: usize,
    /// Resets of the TPM before it.
    pub(crate) tpm: u32,
}

/// What the witnesses of a machine knew when it was saved while it ran. Times are milliseconds from its power-on.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Past {
    pub(crate) elapsed_ms: u64,
    pub(crate) console: ConsolePast,
    pub(crate) tpm: RecorderPast,
    pub(crate) qmp: Vec<QmpEvent>,
    pub(crate) banner: Option<SshBanner>,
    pub(crate) beginning: Beginning,
}

/// A machine that runs, with everything that watches it. Dropping it cuts the power.
pub struct Running {
    // Dropped in this order: QEMU goes before its TPM.
    pub(crate) qemu: Supervised,
    pub(crate) swtpm: Swtpm,
    pub(crate) console: Console,
    pub(crate) qmp: Qmp,
    pub(crate) banner: BannerWatch,
    pub(crate) bell: Arc<Bell>,
    pub(crate) ssh: Ssh,
    pub(crate) machine: Machine,
    pub(crate) power_on: Instant,
    pub(crate) scale: f64,
    pub(crate) swtpm_program: PathBuf,
    pub(crate) beginning: Beginning,
    command_line: Vec<String>,
}

impl Machine {
    /// Switches the machine on. The guest runs when this returns.
    ///
    /// # Errors
    /// When QEMU or swtpm cannot be started or ends at once.
    pub fn start(self, host: &Host, credentials: &[Credential]) -> Result<Running, Error> {
        self.power_up(host, credentials, None)
    }

    /// Starts QEMU and swtpm with everything that watches them; with a `past`, as a machine that waits for its memory
    /// and whose witnesses know already what happened until it was saved.
    pub(crate) fn power_up(
        self,
        host: &Host,
        credentials: &[Credential],
        past: Option<Past>,
    ) -> Result<Running, Error> {
        let run = self.fresh_run_dir()?;
        let mut strings = vec![self.access()];
        for (number, credential) in credentials.iter().enumerate() {
            let path = run.join(format!("string-{number}"));
            credential.write(&path)?;
            strings.push(path);
        }
        let (disk, variables) = (self.disk(), self.variables());
        let strings = strings.iter().map(PathBuf::as_path).collect();
        let parts = Parts { disk: Some(&disk), variables: &variables, strings };
        let mut line = arguments(host, self.hardware(), &parts, Wiring::Harness);
        if past.is_some() {
            line.extend(["-incoming", "defer"].map(OsString::from));
        }
        let command_line = described(&host.tools.qemu.path, &line);

        let bell = Arc::new(Bell::default());
        let ring = || {
            let bell = Arc::clone(&bell);
            move || bell.ring()
        };
        let (control, guest_control) =
            UnixStream::pair().map_err(Error::io("making a socket for", self.dir()))?;
        let serial = Line::make(&run).map_err(Error::io("making a serial line for", self.dir()))?;
        let past = past.unwrap_or_default();
        let now = Instant::now();
        let power_on = now.checked_sub(Duration::from_millis(past.elapsed_ms)).unwrap_or(now);
        let swtpm_program = host.tools.swtpm.path.clone();
        let (state, channel) = (self.tpm(), Channel::Machine);
        let swtpm = Swtpm::go_on(&swtpm_program, &state, &run, channel, power_on, past.tpm, ring())?;
        let stderr = run.join("qemu.stderr");
        let qemu = start("qemu", &host.tools.qemu.path, &line, |e| {
            e.dir(&run).stdin_file(guest_control).stdout_null().stderr_path(&stderr)
        })?;
        let mut console = Console::go_on(serial, power_on, past.console, ring())
            .map_err(Error::io("reading the console of", self.dir()))?;
        let failed = |problem| failed_at_start(problem, &qemu, &swtpm, &stderr);
        let patience = QMP_PATIENCE.mul_f64(host.deadline_scale);
        let qmp = Qmp::go_on(control, power_on, patience, past.qmp, ring()).map_err(failed)?;
        console.connected();
        let networks = json!({"command-line": "info usernet"});
        let port = ssh_port(&qmp.execute("human-monitor-command", networks).map_err(failed)?)?;
        let banner = BannerWatch::start(
            port,
            power_on,
            banner::PATIENCE.mul_f64(host.deadline_scale),
            past.banner,
            ring(),
        )
        .map_err(Error::io("starting a thread to watch SSH for", self.dir()))?;
        let ssh = Ssh::new(&self.key(), port, host.deadline_scale);
        Ok(Running {
            qemu,
            swtpm,
            console,
            qmp,
            banner,
            bell,
            ssh,
            machine: self,
            power_on,
            scale: host.deadline_scale,
            swtpm_program,
            beginning: past.beginning,
            command_line,
        })
    }
}

impl Running {
    /// Stops the guest's processors, calls `look` with the machine's files, and lets the guest go on. The files are only
    /// to be read (a disk with [`latchkey_disk::open::Access::Frozen`]): QEMU has written out what it knew.
    ///
    /// # Errors
    /// When QEMU does not stop or go on.
    pub fn frozen<T>(&self, look: impl FnOnce(Offline<'_>) -> T) -> Result<T, Error> {
        let tell = |command| self.qmp.execute(command, json!({})).map(drop);
        tell("stop")?;
        let (disk, variables, tpm) = (self.machine.disk(), self.machine.variables(), self.machine.tpm());
        let seen = look(Offline { disk: &disk, variables: &variables, tpm: &tpm });
        tell("cont")?;
        Ok(seen)
    }

    /// The serial console.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// QEMU's control channel.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.machine.dir()
    }

    /// The SSH server's greeting in this boot, once it was seen.
    #[must_use]
    pub fn ssh_banner(&self) -> Option<SshBanner> {
        self.banner.seen()
    }

    /// Whether a connection to the forwarded port that began after `at_ms` stayed without a greeting, for longer than
    /// a server takes.
    #[must_use]
    pub fn ssh_silent_since(&self, at_ms: u64) -> bool {
        self.banner.unanswered_since(at_ms)
    }

    /// Milliseconds since power-on.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.power_on.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// QEMU's command line, an argument an entry. Nothing in it is secret.
    #[must_use]
    pub fn command_line(&self) -> &[String] {
        &self.command_line
    }

    /// What the TPM was told in this boot so far.
    #[must_use]
    pub fn tpm(&self) -> TpmRecord {
        self.swtpm.with_record(|record| since(record, self.beginning.tpm))
    }

    /// What QEMU told in this boot so far.
    #[must_use]
    pub fn qmp_events(&self) -> Vec<QmpEvent> {
        self.qmp.events(self.beginning.qmp)
    }

    /// When the guest reset the machine within this boot, in milliseconds since power-on.
    #[must_use]
    pub fn resets(&self) -> Vec<u64> {
        self.qmp_events().iter().filter(|event| is_guest_reset(event)).map(|event| event.at_ms).collect()
    }

    /// All witnesses' accounts of this boot so far.
    ///
    /// # Errors
    /// When QEMU does not tell its run state: then it has ended, or hangs.
    pub fn observe(&self) -> Result<Observation, Error> {
        self.check("the witnesses' accounts")?;
        let run_state = self.qmp.run_state()?;
        Ok(self.observation(run_state))
    }

    /// As [`Running::observe`], also of a machine that has ended or hangs: what was recorded until then.
    #[must_use]
    pub fn last_seen(&self) -> Observation {
        let without = |error| match error {
            QmpError::Silent { .. } | QmpError::Refused { .. } | QmpError::Cancelled => SILENT.to_owned(),
            QmpError::Socket(_) | QmpError::Closed(_) => ENDED.to_owned(),
        };
        self.observation(self.qmp.run_state().unwrap_or_else(without))
    }

    /// As [`Running::observe`], with a run state that is known.
    pub(crate) fn observation(&self, run_state: String) -> Observation {
        Observation {
            began_ms: self.beginning.at_ms,
            until_ms: self.now_ms(),
            console: self.console.events(self.beginning.console),
            tpm: self.tpm(),
            ssh_banner: self.ssh_banner(),
            qmp: self.qmp_events(),
            run_state,
        }
    }

    /// Process ids of QEMU and swtpm, for tests that kill them.
    #[must_use]
    pub fn pids(&self) -> [Option<u32>; 2] {
        [self.qemu.pid(), self.swtpm.pid()]
    }

    /// The last of what QEMU or swtpm wrote, for error messages.
    pub(crate) fn said(&self, part: Part) -> String {
        match part {
            Part::Qemu => last_lines(&self.machine.run_dir().join("qemu.stderr")),
            Part::Swtpm => self.swtpm.remarks(),
        }
    }
}

/// The part of a record after the first `resets` resets.
pub(crate) fn since(record: &TpmRecord, resets: u32) -> TpmRecord {
    let exchanges = record.exchanges.iter().filter(|exchange| exchange.reset >= resets).cloned().collect();
    TpmRecord { exchanges, doubts: record.doubts.clone() }
}

/// What it comes to that the control channel of a QEMU that has just been started has this `problem`.
fn failed_at_start(problem: QmpError, qemu: &Supervised, swtpm: &Swtpm, stderr: &Path) -> Error {
    let awaited = "QEMU's first answers".to_owned();
    let grace = match problem {
        QmpError::Cancelled => return problem.into(),
        // Whoever closed the connection is about to end.
        QmpError::Closed(_) | QmpError::Socket(_) => ENDS,
        QmpError::Silent { .. } | QmpError::Refused { .. } => Duration::ZERO,
    };
    let ended = match qemu.wait_unless_cancelled(grace) {
        Ok(ended) => ended,
        Err(error) => return error.into(),
    };
    let said = last_lines(stderr);
    if let Some(output) = ended {
        let said = if said.is_empty() { swtpm.remarks() } else { said };
        return Error::Died { part: Part::Qemu, awaited, said: format!("{}\n{said}", output.status) };
    }
    if !swtpm.is_running().unwrap_or(false) {
        return Error::Died { part: Part::Swtpm, awaited, said: swtpm.remarks() };
    }
    Error::NoControl { problem, said }
}

fn last_lines(file: &Path) -> String {
    let bytes = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(STDERR_LINES)..].join("\n")
}

/// The port of this computer that QEMU chose to lead to the guest's port 22, as it says when asked for its networks.
fn ssh_port(answer: &Value) -> Result<u16, Error> {
    let said = answer.as_str().unwrap_or_default();
    // TCP[HOST_FORWARD]  FD  127.0.0.1 PORT  10.0.2.15 22  0 0 (libslirp, `slirp_connection_info`)
    let forward = said.lines().find(|line| line.contains("HOST_FORWARD"));
    let port = forward.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    port.ok_or_else(|| Error::Port { said: said.to_owned() })
}

fn described(program: &Path, line: &[OsString]) -> Vec<String> {
    let words = line.iter().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(program.to_string_lossy().into_owned()).chain(words).collect()
}
