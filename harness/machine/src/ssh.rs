//! Commands in the guest, over SSH.
//!
//! The guest lets the machine's own key in, because a systemd credential handed over at power-on says so
//! (systemd, `docs/CREDENTIALS.md`); the image knows nothing of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey_supervise::{Supervised, run, start};

use crate::Error;

/// What `ssh` exits with when it failed itself (ssh(1), "EXIT STATUS").
const CLIENT_FAILED: i32 = 255;
/// What the guest's shell says before it runs a command.
const BEGINS: &str = "latchkey-begins\n";
/// How a line of the client's begins, and what it has in it, where a session was open and its connection broke (OpenSSH,
/// `clientloop.c`).
const OF_SESSIONS: [(&str, &str); 2] = [("Connection to ", " closed"), ("client_loop: ", "")];
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
pub(crate) struct GuestCommand(Supervised);

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It ran.
    Ran(GuestOutput),
    /// The connection broke; the client said this. The command may have run.
    Broke(String),
    /// Nothing ran: the server did not let the client in, which said this.
    Refused(String),
}

impl Answer {
    /// What a client that ended like this tells.
    fn of(code: i32, stdout: &[u8], stderr: &[u8]) -> Self {
        let begins = BEGINS.as_bytes();
        let at = stdout.windows(begins.len()).position(|bytes| bytes == begins);
        // Before it comes what the shell's own files say.
        let stdout = at.map_or(stdout, |at| &stdout[at + begins.len()..]).to_vec();
        let output = GuestOutput { code, stdout, stderr: stderr.to_vec() };
        if code != CLIENT_FAILED {
            return Self::Ran(output);
        }
        let said = output.stderr_end();
        let of_session = |line: &str| {
            OF_SESSIONS.iter().any(|(begin, with)| line.starts_with(begin) && line.contains(with))
        };
        let was_open = said.lines().any(of_session);
        if at.is_some() || was_open { Self::Broke(said) } else { Self::Refused(said) }
    }
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
        let mut line = self.arguments();
        line.extend(["--".into(), begun(command).into()]);
        let input = input.to_vec();
        let child = start("ssh", "ssh", &line, |e| e.stdin_bytes(input).stdout_capture().stderr_capture())?;
        Ok(GuestCommand(child))
    }
}

/// `command`, as the guest's shell gets it.
fn begun(command: &str) -> String {
    format!("echo {}; {command}", BEGINS.trim_end())
}

impl GuestCommand {
    /// Waits up to `limit`; `None` when it still runs then.
    pub(crate) fn wait_for(&self, limit: Duration) -> Result<Option<Answer>, Error> {
        let Some(output) = self.0.wait_for(limit)? else { return Ok(None) };
        let code = output.status.code().unwrap_or(CLIENT_FAILED);
        Ok(Some(Answer::of(code, &output.stdout, &output.stderr)))
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

    use rstest::rstest;

    use super::*;

    fn ran(code: i32, stdout: &str) -> Answer {
        Answer::Ran(GuestOutput { code, stdout: stdout.into(), stderr: b"said".to_vec() })
    }

    #[rstest]
    #[case::it_ran(0, "latchkey-begins\nout\n", ran(0, "out\n"))]
    #[case::it_failed(3, "latchkey-begins\n", ran(3, ""))]
    #[case::behind_what_a_shell_says(0, "Welcome\nlatchkey-begins\nout", ran(0, "out"))]
    #[case::no_shell_understood_it(2, "", ran(2, ""))]
    #[case::it_broke(255, "latchkey-begins\nou", Answer::Broke("said".into()))]
    #[case::nobody_was_let_in(255, "", Answer::Refused("said".into()))]
    fn what_ran_is_told_from_what_did_not(#[case] code: i32, #[case] stdout: &str, #[case] answer: Answer) {
        assert_eq!(Answer::of(code, stdout.as_bytes(), b"said"), answer);
    }

    #[rstest]
    #[case("Connection to 127.0.0.1 closed by remote host.", true)]
    #[case("client_loop: send disconnect: Broken pipe", true)]
    #[case("Connection timed out during banner exchange\nConnection to 127.0.0.1 port 1 timed out", false)]
    #[case(
        "kex_exchange_identification: Connection closed by remote host\nConnection closed by 127.0.0.1 port 1",
        false
    )]
    fn a_session_that_was_open_may_have_run_it(#[case] said: &str, #[case] may_have: bool) {
        let answer = Answer::of(CLIENT_FAILED, b"", said.as_bytes());
        assert_eq!(answer == Answer::Broke(said.into()), may_have);
        assert_eq!(answer == Answer::Refused(said.into()), !may_have);
    }

    #[test]
    fn a_shell_begins_with_the_word() {
        let output = run("sh", &["-c", &begun("printf out")]).unwrap();
        assert_eq!(Answer::of(0, &output.stdout, b"said"), ran(0, "out"));
    }

    /// As a server does that has had too much of a client (OpenSSH 9.8, `PerSourcePenalties`).
    #[test]
    fn who_is_sent_away_was_not_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        make_key(&key).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().for_each(drop));
        let command = Ssh::new(&key, port, 1.0).start("true", b"").unwrap();
        let Some(Answer::Refused(said)) = command.wait_for(Duration::from_secs(60)).unwrap() else {
            panic!("nobody is there");
        };
        assert!(said.contains("onnection"), "{said}");
    }
}
