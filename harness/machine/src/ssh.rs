//! Commands in the guest, over SSH.
//!
//! The guest lets the machine's own key in, because a systemd credential handed over at power-on says so
//! (systemd, `docs/CREDENTIALS.md`); the image knows nothing of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use latchkey_supervise::run;

use crate::Error;

mod client;

use client::{Answer, Client, begun};

/// How long after a refusal the server is asked again.
const ASKED_AGAIN: Duration = Duration::from_secs(2);
/// A TCG guest takes seconds for the key exchange; `ssh` counts until the server's greeting.
const CONNECT: Duration = Duration::from_secs(30);
/// How much a command may print, in bytes, on its standard output and on its standard error: what it prints lies in memory.
const MOST: usize = 64 << 20;
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

impl Ssh {
    pub(crate) fn new(key: &Path, port: u16, scale: f64) -> Self {
        Self { key: key.to_owned(), port, connect: CONNECT.mul_f64(scale) }
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

    /// Has `command` run in the guest's login shell with `input` on its standard input; nothing is done before
    /// [`GuestCommand::proceed`].
    pub(crate) fn command<'a>(&'a self, command: &'a str, input: &'a [u8]) -> GuestCommand<'a> {
        GuestCommand { ssh: self, command, input, client: None, refused: None }
    }

    fn start(&self, command: &str, input: &[u8]) -> Result<Client, Error> {
        let mut line = self.arguments();
        line.extend(["--".into(), begun(command).into()]);
        Client::start("ssh", &line, input, MOST)
    }

    /// The directory of the machine that it leads to.
    fn machine(&self) -> PathBuf {
        self.key.parent().unwrap_or(&self.key).to_owned()
    }
}

/// A command that is to run in the guest. While the server does not let the client in it is asked again: one that has much
/// else to do refuses some.
pub(crate) struct GuestCommand<'a> {
    ssh: &'a Ssh,
    command: &'a str,
    input: &'a [u8],
    client: Option<Client>,
    /// When the last client was refused, and what it said.
    refused: Option<(Instant, String)>,
}

impl GuestCommand<'_> {
    /// Goes on with it for a moment; what it came to, once it ran.
    ///
    /// # Errors
    /// [`Error::Ssh`] when the connection broke, [`Error::Refused`] when the server does not know the machine's key,
    /// [`Error::TooMuch`] when the command prints more than is kept.
    pub(crate) fn proceed(&mut self) -> Result<Option<GuestOutput>, Error> {
        let Some(client) = &mut self.client else {
            if self.refused.as_ref().is_none_or(|(at, _)| at.elapsed() >= ASKED_AGAIN) {
                self.client = Some(self.ssh.start(self.command, self.input)?);
            }
            return Ok(None);
        };
        let Some(answer) = client.answer()? else { return Ok(None) };
        let command = self.command.to_owned();
        match answer {
            Answer::TooMuch => {
                let what = format!("`{command}` printed more than {} bytes; have it print less", client.most);
                return Err(Error::TooMuch { dir: self.ssh.machine(), what });
            }
            Answer::Ran(output) => return Ok(Some(output)),
            Answer::Broke(said) => return Err(Error::Ssh { command, said }),
            Answer::Barred(said) => return Err(Error::Refused { command, said }),
            Answer::Refused(said) => {
                tracing::debug!(command, said, "the guest's SSH server refused");
                self.refused = Some((Instant::now(), said));
                self.client = None;
            }
        }
        Ok(None)
    }

    /// What a wait for it that was in vain, which `error` says, comes to: nobody was let in, or somebody at last.
    pub(crate) fn in_vain(self, error: Error) -> Error {
        match (error, self.client, self.refused) {
            (Error::Expired { .. }, None, Some((_, said))) => {
                Error::Refused { command: self.command.to_owned(), said }
            }
            (Error::Expired { awaited, waited, console }, _, Some((_, said))) => {
                let awaited = format!("{awaited}, whose SSH server refused before ({said})");
                Error::Expired { awaited, waited, console }
            }
            (error, ..) => error,
        }
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
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_command_that_prints_too_much_is_named_with_its_machine() {
        let ssh = Ssh::new(Path::new("/machines/one/ssh_key"), 1, 1.0);
        let client = Client::start("sh", &["-c", "echo more"].map(OsString::from), b"", 2).unwrap();
        let mut command = GuestCommand { client: Some(client), ..ssh.command("chatter", b"") };
        let until = Instant::now() + Duration::from_secs(60);
        let error = loop {
            assert!(Instant::now() < until);
            if let Err(error) = command.proceed() {
                break error;
            }
        };
        let said = error.to_string();
        assert!(
            said.contains("/machines/one") && said.contains("`chatter` printed more than 2 bytes"),
            "{said}"
        );
    }

    /// As a server does that has had too much of a client (OpenSSH 9.8, `PerSourcePenalties`).
    #[test]
    fn who_is_sent_away_asks_again_and_tells_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        make_key(&key).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ssh = Ssh::new(&key, listener.local_addr().unwrap().port(), 1.0);
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            listener.incoming().for_each(|sent_away| drop((sent_away, tell.send(()))))
        });
        let mut command = ssh.command("true", b"");
        let until = Instant::now() + Duration::from_secs(60);
        let mut knocks = 0;
        while knocks < 2 || command.client.is_some() {
            assert!(Instant::now() < until, "{knocks}");
            assert_eq!(command.proceed().unwrap(), None);
            knocks += told.try_iter().count();
            std::thread::yield_now();
        }
        let (awaited, waited, console) = ("it".to_owned(), Duration::ZERO, String::new());
        let Error::Refused { said, .. } = command.in_vain(Error::Expired { awaited, waited, console }) else {
            panic!("nobody was let in");
        };
        assert!(said.contains("onnection"), "{said}");
    }

    /// Whose last client was let in waited for something else.
    #[test]
    fn who_is_let_in_at_last_waits_for_the_command() {
        let ssh = Ssh::new(Path::new("/none"), 1, 1.0);
        let client = Client::start("tail", &["-f", "/dev/null"].map(OsString::from), b"", MOST).unwrap();
        let refused = Some((Instant::now(), "not now".to_owned()));
        let command = GuestCommand { client: Some(client), refused, ..ssh.command("true", b"") };
        let (awaited, waited, console) = ("it".to_owned(), Duration::ZERO, String::new());
        let error = command.in_vain(Error::Expired { awaited, waited, console });
        assert!(matches!(&error, Error::Expired { awaited, .. } if awaited.contains("not now")), "{error}");
    }
}
