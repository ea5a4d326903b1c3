//! One `ssh` that is to run one command, and what became of it.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use latchkey_supervise::{Supervised, start};

use super::GuestOutput;
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
/// How long a client is waited for at once.
const MOMENT: Duration = Duration::from_millis(20);

/// One that is to run a command, and what it prints.
pub(super) struct Client {
    // Dropped first: what it prints ends then.
    child: Supervised,
    /// Its standard output and standard error; taken once it has ended.
    printed: Option<[JoinHandle<Vec<u8>>; 2]>,
    /// How many bytes of each are read.
    pub(super) most: usize,
    /// Whether there were more.
    is_over: Arc<AtomicBool>,
}

/// What became of a client that was to run a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
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

impl Client {
    pub(super) fn start(program: &str, line: &[OsString], input: &[u8], most: usize) -> Result<Self, Error> {
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
    pub(super) fn answer(&mut self) -> Result<Option<Answer>, Error> {
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

/// `command`, as the guest's shell gets it.
pub(super) fn begun(command: &str) -> String {
    format!("echo {}; {command}", BEGINS.trim_end())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::time::Instant;

    use latchkey_supervise::run;
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
}
