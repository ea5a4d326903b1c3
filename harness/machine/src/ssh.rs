//! Commands in the guest, over SSH.
//!
//! The guest lets the machine's own key in, because a systemd credential handed over at power-on says so
//! (systemd, `docs/CREDENTIALS.md`); the image knows nothing of it.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use latchkey_supervise::{Supervised, run, start};

use crate::Error;

/// What `ssh` exits with when it failed itself (ssh(1), "EXIT STATUS").
const CLIENT_FAILED: i32 = 255;
/// What the guest's shell says before it runs a command.
const BEGINS: &str = "latchkey-begins\n";
/// How a line of the client's begins, and what it has in it, where a session was open and its connection broke (OpenSSH,
/// `clientloop.c`).
const OF_SESSIONS: [(&str, &str); 2] = [("Connection to ", " closed"), ("client_loop: ", "")];
/// What it says where the server does not take its key (`sshconnect2.c`).
const UNKNOWN_KEY: &str = "Permission denied";
/// How long after a refusal the server is asked again.
const ASKED_AGAIN: Duration = Duration::from_secs(2);
/// A TCG guest takes seconds for the key exchange; `ssh` counts until the server's greeting.
const CONNECT: Duration = Duration::from_secs(30);
/// How much a command may print, in bytes, on its standard output and on its standard error: what it prints lies in memory.
const MOST: usize = 64 << 20;
/// How long a client is waited for at once.
const MOMENT: Duration = Duration::from_millis(20);
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

/// One that is to run a command, and what it prints.
struct Client {
    // Dropped first: what it prints ends then.
    child: Supervised,
    /// Its standard output and standard error; taken once it has ended.
    printed: Option<[JoinHandle<Vec<u8>>; 2]>,
    /// How many bytes of each are read.
    most: usize,
    /// Whether there were more.
    is_over: Arc<AtomicBool>,
}

/// What became of a client that was to run a command.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It ran.
    Ran(GuestOutput),
    /// The connection broke; the client said this. The command may have run.
    Broke(String),
    /// Nothing ran: the server did not let the client in, which said this.
    Refused(String),
    /// Nor will it ever: it does not know the machine's key.
    Barred(String),
    /// It prints more than is kept, and may still run.
    TooMuch,
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
        match said {
            said if at.is_some() || was_open => Self::Broke(said),
            said if said.contains(UNKNOWN_KEY) => Self::Barred(said),
            said => Self::Refused(said),
        }
    }
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

impl Client {
    fn start(program: &str, line: &[OsString], input: &[u8], most: usize) -> Result<Self, Error> {
        let pipe = || io::pipe().map_err(Error::io("making a pipe for", program));
        let ((output, stdout), (errors, stderr)) = (pipe()?, pipe()?);
        let input = input.to_vec();
        let child =
            start(program, program, line, |e| e.stdin_bytes(input).stdout_file(stdout).stderr_file(stderr))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let read = |from| read(from, most, Arc::clone(&is_over)).map_err(Error::io("reading from", program));
        let printed = Some([read(output)?, read(errors)?]);
        Ok(Self { child, printed, most, is_over })
    }

    /// What it came to, once it did; waits for it for a moment.
    fn answer(&mut self) -> Result<Option<Answer>, Error> {
        let ended = self.child.wait_for(MOMENT)?.map(|output| output.status.code().unwrap_or(CLIENT_FAILED));
        if self.is_over.load(Ordering::SeqCst) {
            return Ok(Some(Answer::TooMuch));
        }
        let Some((code, printed)) = ended.and_then(|code| Some((code, self.printed.take()?))) else {
            return Ok(None);
        };
        let [stdout, stderr] = printed.map(|stream| stream.join().unwrap_or_default());
        if self.is_over.load(Ordering::SeqCst) {
            return Ok(Some(Answer::TooMuch));
        }
        Ok(Some(Answer::of(code, &stdout, &stderr)))
    }
}

/// Reads a stream to its end in a thread of its own, or until there was more than `most` in it, which `is_over` then tells.
fn read(from: PipeReader, most: usize, is_over: Arc<AtomicBool>) -> io::Result<JoinHandle<Vec<u8>>> {
    std::thread::Builder::new().name("ssh".into()).spawn(move || {
        let mut bytes = Vec::new();
        // What came until it broke is what there is.
        let _ = from.take(most as u64 + 1).read_to_end(&mut bytes);
        if bytes.len() > most {
            is_over.store(true, Ordering::SeqCst);
        }
        bytes
    })
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

/// `command`, as the guest's shell gets it.
fn begun(command: &str) -> String {
    format!("echo {}; {command}", BEGINS.trim_end())
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
    fn who_does_not_know_the_key_is_not_asked_again() {
        let said = "root@127.0.0.1: Permission denied (publickey).";
        assert_eq!(Answer::of(CLIENT_FAILED, b"", said.as_bytes()), Answer::Barred(said.into()));
    }

    #[test]
    fn a_shell_begins_with_the_word() {
        let output = run("sh", &["-c", &begun("printf out")]).unwrap();
        assert_eq!(Answer::of(0, &output.stdout, b"said"), ran(0, "out"));
    }

    /// One that goes on is not waited for.
    #[rstest]
    #[case::all_there_is_room_for("head -c 10 /dev/zero", ran_quietly(&[0; 10]))]
    #[case::more("head -c 11 /dev/zero", Answer::TooMuch)]
    #[case::more_and_more("head -c 11 /dev/zero; exec tail -f /dev/null", Answer::TooMuch)]
    #[case::more_errors("head -c 11 /dev/zero >&2; exec tail -f /dev/null", Answer::TooMuch)]
    fn what_a_command_prints_has_a_bound(#[case] script: &str, #[case] expected: Answer) {
        let mut client = Client::start("sh", &["-c", script].map(OsString::from), b"", 10).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let answer = loop {
            assert!(Instant::now() < until);
            if let Some(answer) = client.answer().unwrap() {
                break answer;
            }
        };
        assert_eq!(answer, expected);
    }

    fn ran_quietly(stdout: &[u8]) -> Answer {
        Answer::Ran(GuestOutput { code: 0, stdout: stdout.to_vec(), stderr: Vec::new() })
    }

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
