//! QEMU's machine protocol: JSON lines over a unix socket (QEMU, docs/interop/qmp-spec.rst).
//!
//! Replies are matched on their `id`, since events come in between; events are kept with their times.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use latchkey_supervise::cancelled;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How often a wait for an answer looks whether the user asked to stop.
const TICK: Duration = Duration::from_millis(100);

/// What went wrong while talking to QEMU.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket failed.
    #[error("talking to QEMU over QMP: {0}")]
    Socket(#[from] io::Error),
    /// QEMU closed the connection, so it has ended or is about to.
    #[error("QEMU closed its QMP connection before it answered `{0}`")]
    Closed(String),
    /// QEMU did not answer in time.
    #[error("QEMU did not answer `{command}` over QMP within {limit:?}")]
    Silent {
        /// The command.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The user asked to stop while QEMU had not answered.
    #[error("interrupted")]
    Cancelled,
    /// QEMU refused the command.
    #[error("QEMU refuses `{command}`: {said}")]
    Refused {
        /// The command.
        command: String,
        /// What QEMU said.
        said: String,
    },
}

/// An event that QEMU told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QmpEvent {
    /// Milliseconds from power-on.
    pub at_ms: u64,
    /// Its name, such as `RESET` or `SHUTDOWN`.
    pub name: String,
    /// What comes with it.
    pub data: Value,
}

#[derive(Debug, Default)]
struct State {
    replies: BTreeMap<u64, Result<Value, String>>,
    events: Vec<QmpEvent>,
    next: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits up to `limit` for something new; whether there was is told besides.
    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> (MutexGuard<'a, State>, bool) {
        let waited = self.changed.wait_timeout(state, limit);
        let (state, time) = waited.unwrap_or_else(PoisonError::into_inner);
        (state, !time.timed_out())
    }
}

/// A connection that left the greeting behind. Its thread ends when QEMU closes the socket.
#[derive(Debug)]
pub struct Qmp {
    shared: Arc<Shared>,
    line: Mutex<UnixStream>,
    limit: Duration,
}

impl Qmp {
    /// Connects to QEMU's socket and negotiates; times are counted from `power_on`, and no command may take
    /// longer than `limit`.
    ///
    /// # Errors
    /// When the socket cannot be connected to, or QEMU does not answer.
    pub fn connect(socket: &Path, power_on: Instant, limit: Duration) -> Result<Self, QmpError> {
        Self::over(UnixStream::connect(socket)?, power_on, limit, || ())
    }

    /// As [`Qmp::connect`], over a line that is connected already. `notify` is called from the reading thread
    /// after each message, and once at the end.
    ///
    /// # Errors
    /// When the thread cannot be started, or QEMU does not answer.
    pub fn over(
        line: UnixStream,
        power_on: Instant,
        limit: Duration,
        notify: impl Fn() + Send + 'static,
    ) -> Result<Self, QmpError> {
        Self::go_on(line, power_on, limit, Vec::new(), notify)
    }

    /// As [`Qmp::over`], after what another machine's QEMU told, from which this one was forked.
    ///
    /// # Errors
    /// As [`Qmp::over`].
    pub(crate) fn go_on(
        line: UnixStream,
        power_on: Instant,
        limit: Duration,
        past: Vec<QmpEvent>,
        notify: impl Fn() + Send + 'static,
    ) -> Result<Self, QmpError> {
        let input = BufReader::new(line.try_clone()?);
        let shared = Arc::new(Shared::default());
        shared.lock().events = past;
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("qmp".into()).spawn(move || {
            for line in input.lines().map_while(Result::ok) {
                take(&theirs, &line, power_on);
                notify();
            }
            theirs.lock().closed = true;
            theirs.changed.notify_all();
            notify();
        })?;
        let qmp = Self { shared, line: Mutex::new(line), limit };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs `command` and gives what it returns.
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's words, [`QmpError::Cancelled`] when the user asks to stop before it answers; the
    /// others when QEMU is gone or silent.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let until = Instant::now() + self.limit;
        let id = {
            let mut state = self.shared.lock();
            state.next += 1;
            state.next
        };
        let request = json!({"execute": command, "arguments": arguments, "id": id});
        {
            let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            line.write_all(format!("{request}\n").as_bytes())?;
        }
        let mut state = self.shared.lock();
        loop {
            if let Some(reply) = state.replies.remove(&id) {
                return reply.map_err(|said| QmpError::Refused { command: command.to_owned(), said });
            }
            if state.closed {
                return Err(QmpError::Closed(command.to_owned()));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(QmpError::Silent { command: command.to_owned(), limit: self.limit });
            }
            let (next, heard) = self.shared.wait(state, left.min(TICK));
            state = next;
            // What QEMU answers at once counts also then.
            if !heard && cancelled() {
                return Err(QmpError::Cancelled);
            }
        }
    }

    /// The VM's run state: `running`, `paused`, `shutdown`, `internal-error`, ... (QEMU, qapi/run-state.json).
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn run_state(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(answer["status"].as_str().unwrap_or("unknown").to_owned())
    }

    /// How many events there have been; the place to wait from for the next one.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.shared.lock().events.len()
    }

    /// The events from `mark` on.
    #[must_use]
    pub fn events(&self, mark: usize) -> Vec<QmpEvent> {
        self.shared.lock().events.get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits up to `limit` for the first event from `mark` on with one of these `names`. `None` when the time is
    /// over or the connection was closed.
    #[must_use]
    pub fn wait_for(&self, mark: usize, names: &[&str], limit: Duration) -> Option<QmpEvent> {
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let hit = state.events.iter().skip(mark).find(|e| names.contains(&e.name.as_str()));
            if let Some(event) = hit {
                return Some(event.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return None;
            }
            state = self.shared.wait(state, left).0;
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        let line = self.line.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Ends the reading thread.
        let _ = line.shutdown(std::net::Shutdown::Both);
    }
}

/// Files one line from QEMU: a reply under its id, an event with its time; the greeting is dropped.
fn take(shared: &Shared, line: &str, power_on: Instant) {
    let Ok(mut message) = serde_json::from_str::<Value>(line) else {
        tracing::debug!(line, "no JSON from QMP");
        return;
    };
    let mut state = shared.lock();
    if let Some(id) = message["id"].as_u64() {
        let reply = match message.get("error") {
            Some(error) => Err(error["desc"].as_str().unwrap_or("no reason given").to_owned()),
            None => Ok(message["return"].take()),
        };
        state.replies.insert(id, reply);
    } else if let Some(name) = message["event"].as_str() {
        let at_ms = u64::try_from(power_on.elapsed().as_millis()).unwrap_or(u64::MAX);
        let name = name.to_owned();
        state.events.push(QmpEvent { at_ms, name, data: message["data"].take() });
    }
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A QEMU that greets, accepts the capabilities, and then says `lines` after each command.
    fn qemu(dir: &Path, answers: Vec<String>) -> std::path::PathBuf {
        let socket = dir.join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut line, _) = listener.accept().unwrap();
            let mut commands = BufReader::new(line.try_clone().unwrap()).lines();
            writeln!(line, "{}", json!({"QMP": {}})).unwrap();
            commands.next().unwrap().unwrap();
            writeln!(line, "{}", json!({"return": {}, "id": 1})).unwrap();
            for answer in answers {
                commands.next().unwrap().unwrap();
                writeln!(line, "{answer}").unwrap();
            }
        });
        socket
    }

    #[test]
    fn replies_are_matched_on_id_and_events_kept() {
        let dir = tempfile::tempdir().unwrap();
        let answer = [
            json!({"event": "RESET", "data": {"guest": true}}).to_string(),
            json!({"return": {"status": "wrong"}, "id": 77}).to_string(),
            "no json at all".to_owned(),
            json!({"return": {"status": "running"}, "id": 2}).to_string(),
        ];
        let socket = qemu(dir.path(), vec![answer.join("\n")]);
        let qmp = Qmp::connect(&socket, Instant::now(), Duration::from_secs(10)).unwrap();
        assert_eq!(qmp.run_state().unwrap(), "running");
        let reset = qmp.wait_for(0, &["RESET"], Duration::from_secs(10)).unwrap();
        assert_eq!(reset.data["guest"], true);
    }

    #[test]
    fn a_refusal_and_an_end_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = json!({"error": {"class": "x", "desc": "no such command"}, "id": 2}).to_string();
        let qmp =
            Qmp::connect(&qemu(dir.path(), vec![refusal]), Instant::now(), Duration::from_secs(10)).unwrap();
        let said = qmp.execute("nonsense", json!({})).unwrap_err().to_string();
        assert!(said.contains("no such command"), "{said}");
        let gone = qmp.execute("query-status", json!({})).unwrap_err();
        assert!(matches!(gone, QmpError::Closed(_) | QmpError::Socket(_)), "{gone}");
    }
}
