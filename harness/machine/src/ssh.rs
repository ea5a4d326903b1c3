//! Commands in the guest, over SSH.
//!
//! The guest lets the machine's own key in, because a systemd credential handed over at power-on says so
//! (systemd, `docs/CREDENTIALS.md`); the image knows nothing of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey_supervise::{Supervised, run, start};
use tempfile::NamedTempFile;

use crate::Error;

/// What `ssh` exits with when it failed itself (ssh(1), "EXIT STATUS").
const CLIENT_FAILED: i32 = 255;
/// What it logs once the server has let it in (OpenSSH, `sshconnect2.c`).
const LET_IN: &str = "Authenticated to ";
/// A TCG guest takes seconds for the key exchange; `ssh` counts until the server's greeting.
const CONNECT: Duration = Duration::from_secs(30);
/// How many lines of standard error an error carries.
const STDERR_LINES: usize = 10;

/// What a command in the guest printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOutput {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl GuestOutput {
    /// Standard output as text, with bytes that are not UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn stderr_end(&self) -> String {
        let text = String::from_utf8_lossy(&self.stderr);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(STDERR_LINES)..].join("\n")
    }
}

/// A way to the guest: the machine's key and the forwarded port.
#[derive(Debug, Clone)]
pub(crate) struct Ssh {
    pub(crate) key: PathBuf,
    pub(crate) port: u16,
    pub(crate) connect: Duration,
}

/// A command that is to run in the guest.
pub(crate) struct GuestCommand {
    child: Supervised,
    command: String,
    /// What the client says itself, so that it is no part of the command's standard error.
    log: NamedTempFile,
}

/// What became of a command.
pub(crate) enum Ended {
    /// It ran.
    Ran(GuestOutput),
    /// The server did not let the client in, which said this: nothing ran.
    Refused(String),
}

impl Ssh {
    pub(crate) fn new(key: &Path, port: u16, scale: f64) -> Self {
        Self { key: key.to_owned(), port, connect: CONNECT.mul_f64(scale.max(1.0)) }
    }

    /// The arguments of `ssh` up to the command. Nothing of the user's own SSH set-up is read or written: the
    /// guest's host key is new with every image and says nothing.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let connect = format!("ConnectTimeout={}", self.connect.as_secs().max(1));
        let options = [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "GlobalKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "PreferredAuthentications=publickey",
            connect.as_str(),
        ];
        let mut line: Vec<OsString> = vec!["-F".into(), "none".into(), "-i".into(), self.key.clone().into()];
        line.extend(options.iter().flat_map(|option| ["-o".into(), OsString::from(option)]));
        line.extend(["-p".into(), self.port.to_string().into(), "root@127.0.0.1".into()]);
        line
    }

    /// Starts `command` in the guest's login shell with `input` on its standard input.
    pub(crate) fn start(&self, command: &str, input: &[u8]) -> Result<GuestCommand, Error> {
        let log =
            NamedTempFile::new().map_err(Error::io("making a log for ssh in", &std::env::temp_dir()))?;
        let mut line: Vec<OsString> = ["-o", "LogLevel=VERBOSE", "-E"].map(OsString::from).into();
        line.push(log.path().into());
        line.extend(self.arguments());
        line.extend(["--".into(), command.into()]);
        let input = input.to_vec();
        let child = start("ssh", "ssh", &line, |e| e.stdin_bytes(input).stdout_capture().stderr_capture())?;
        Ok(GuestCommand { child, command: command.to_owned(), log })
    }
}

impl GuestCommand {
    /// Waits up to `limit`; `None` when it still runs then.
    pub(crate) fn wait_for(&self, limit: Duration) -> Result<Option<Ended>, Error> {
        let Some(output) = self.child.wait_for(limit)? else { return Ok(None) };
        let code = output.status.code().unwrap_or(CLIENT_FAILED);
        let output = GuestOutput { code, stdout: output.stdout.clone(), stderr: output.stderr.clone() };
        if code != CLIENT_FAILED {
            return Ok(Some(Ended::Ran(output)));
        }
        let log = std::fs::read(self.log.path()).map_err(Error::io("reading ssh's log", self.log.path()))?;
        let log = String::from_utf8_lossy(&log);
        if !log.contains(LET_IN) {
            return Ok(Some(Ended::Refused(log.trim_end().to_owned())));
        }
        Err(Error::Ssh { command: self.command.clone(), said: format!("{}\n{log}", output.stderr_end()) })
    }
}

/// Makes a key pair at `path` and `path.pub`. The private half is readable by its owner only.
pub(crate) fn make_key(path: &Path) -> Result<(), Error> {
    let line: Vec<OsString> = ["-q", "-t", "ed25519", "-N", "", "-C", "latchkey", "-f"]
        .map(OsString::from)
        .into_iter()
        .chain([path.into()])
        .collect();
    run("ssh-keygen", &line)?;
    Ok(())
}

/// The credential `tmpfiles.extra` (tmpfiles.d(5), systemd-tmpfiles(8)) that lets `public_key` in as root.
pub(crate) fn access(public_key: &str) -> String {
    let key = public_key.trim();
    format!("d /root/.ssh 0700 root root -\nf+ /root/.ssh/authorized_keys 0600 root root - {key}\n")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// As a server does that has had too much of a client (OpenSSH 9.8, `PerSourcePenalties`).
    #[test]
    fn who_is_not_let_in_is_told_from_whose_connection_breaks() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        make_key(&key).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let command = Ssh::new(&key, port, 1.0).start("true", b"").unwrap();
        let Some(Ended::Refused(said)) = command.wait_for(Duration::from_secs(60)).unwrap() else {
            panic!("nobody is there");
        };
        assert!(said.contains("127.0.0.1"), "{said}");
    }
}
