//! One `qemu-storage-daemon`: started, told what to do over QMP, ended in order.
//!
//! QMP goes over its standard streams, so that no socket lies about. The kernel kills the process when this one
//! dies.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use latchkey_supervise::{Supervised, cancelled};
use serde_json::{Value, json};

use super::{DAEMON, Error};

/// How long an answer may take. Opening and flushing are quick; a slow disk under load is the reason for more.
pub(super) const DEADLINE: Duration = Duration::from_secs(60);
/// How often a wait looks whether the user asked to stop.
const CANCEL_CHECK: Duration = Duration::from_millis(100);

/// Why something that was waited for did not come.
pub(super) enum Unheard {
    /// Nobody is there any more to tell it.
    Gone,
    /// The user wants to stop.
    Cancelled,
    /// It is too late.
    Silent,
}

/// The next that comes from another thread, `until` it is too late or the user wants to stop.
pub(super) fn hear<T>(from: &Receiver<T>, until: Instant) -> Result<T, Unheard> {
    loop {
        match from.recv_timeout(CANCEL_CHECK) {
            Ok(told) => return Ok(told),
            Err(RecvTimeoutError::Disconnected) => return Err(Unheard::Gone),
            Err(RecvTimeoutError::Timeout) if cancelled() => return Err(Unheard::Cancelled),
            Err(RecvTimeoutError::Timeout) if Instant::now() > until => return Err(Unheard::Silent),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A running daemon. Dropping it kills it; what it had not written yet is lost.
#[derive(Debug)]
pub(super) struct Process {
    child: Supervised,
    commands: os_pipe::PipeWriter,
    answers: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts a daemon with `args`; what it says besides QMP goes to `log`.
    pub(super) fn start(args: &[String], log: &Path) -> Result<Self, Error> {
        let qmp = ["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"].map(str::to_owned);
        let args: Vec<String> = args.iter().cloned().chain(qmp).collect();
        let (stdin, commands) = os_pipe::pipe()?;
        let (answers, stdout) = os_pipe::pipe()?;
        let child = latchkey_supervise::start("qemu-storage-daemon", "qemu-storage-daemon", &args, |e| {
            e.stdin_file(stdin).stdout_file(stdout).stderr_path(log)
        })?;
        let mut process = Self { child, commands, answers: read_lines(answers)?, log: log.to_owned() };
        // The greeting comes when everything on the command line is in place.
        process.next_answer("start", |message| message.get("QMP").is_some())?;
        process.command("start", "qmp_capabilities", &json!({}))?;
        Ok(process)
    }

    /// Sends one command; `what` completes "could not ..." in an error.
    pub(super) fn command(&mut self, what: &str, name: &str, arguments: &Value) -> Result<Value, Error> {
        let line = json!({ "execute": name, "arguments": arguments });
        if writeln!(self.commands, "{line}").is_err() {
            return Err(self.gone(what));
        }
        let answer = self.next_answer(what, |m| m.get("return").is_some() || m.get("error").is_some())?;
        match answer.get("error") {
            None => Ok(answer["return"].clone()),
            Some(error) => Err(Error::Refused {
                what: what.to_owned(),
                said: error["desc"].as_str().unwrap_or("no reason given").to_owned(),
            }),
        }
    }

    /// Ends the daemon in order: everything is written out when this returns.
    pub(super) fn quit(&mut self) -> Result<(), Error> {
        let what = "write everything out and end";
        // It may end before its answer is out; how it ended is what counts.
        match self.command(what, "quit", &json!({})) {
            Ok(_) | Err(Error::Gone { .. }) => {}
            Err(other) => return Err(other),
        }
        match self.child.wait_unless_cancelled(DEADLINE)?.map(|output| output.status.success()) {
            Some(true) => Ok(()),
            Some(false) => Err(self.gone(what)),
            None => Err(Error::Silent { who: DAEMON, what: what.into(), limit: DEADLINE }),
        }
    }

    /// Its process id.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// Stops it where it is.
    pub(super) fn kill(&self) {
        self.child.kill();
    }

    /// The next message that `wanted` accepts; events in between are passed over.
    fn next_answer(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value, Error> {
        let until = Instant::now() + DEADLINE;
        loop {
            let line = hear(&self.answers, until).map_err(|unheard| match unheard {
                Unheard::Gone => self.gone(what),
                Unheard::Cancelled => latchkey_supervise::Error::Cancelled.into(),
                Unheard::Silent => Error::Silent { who: DAEMON, what: what.to_owned(), limit: DEADLINE },
            })?;
            let message: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
            if wanted(&message) {
                return Ok(message);
            }
        }
    }

    fn gone(&self, what: &str) -> Error {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let said = log.trim();
        let said = if said.is_empty() { "it said nothing" } else { said };
        Error::Gone { what: what.to_owned(), said: said.to_owned() }
    }
}

fn read_lines(pipe: os_pipe::PipeReader) -> io::Result<Receiver<String>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("storage daemon".into()).spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}
