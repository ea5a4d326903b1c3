//! The serial console: read greedily and live, recorded whole, searched for named patterns.

mod clean;
pub(crate) mod line;
mod patterns;
mod recording;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use latchkey_record::console::{ConsoleEvent, Pattern};
use latchkey_supervise::{Error, cancelled};
use serde::{Deserialize, Serialize};

use line::Line;
pub use patterns::Matcher;
use recording::Recording;
pub use recording::read_cast;

/// How much is read from the line at once.
const PIECE: usize = 16 * 1024;
/// How often a wait looks whether the user asked to stop.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct State {
    matcher: Matcher,
    recording: Recording,
    events: Vec<ConsoleEvent>,
    /// When the last bytes came.
    last: Option<Instant>,
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
}

/// What a console showed until its machine was saved.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ConsolePast {
    /// Milliseconds from power-on, and bytes in base64.
    pieces: Vec<(u64, String)>,
    events: Vec<ConsoleEvent>,
}

impl ConsolePast {
    fn into_state(self) -> State {
        let mut state = State::default();
        for (at_ms, piece) in self.pieces {
            let bytes = BASE64_STANDARD.decode(piece).unwrap_or_default();
            let kept = state.recording.add(at_ms, &bytes);
            // For what is cut through by the fork; what was found before is in `events`.
            state.matcher.feed(kept, at_ms);
        }
        state.events = self.events;
        state
    }
}

/// A connected serial console. The thread that reads it ends when QEMU closes the line.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    typed: File,
    keeper: Option<File>,
}

impl Console {
    /// Reads a line, after what another machine's console showed, from which this one was forked. Times are counted from
    /// `power_on`; `notify` is called from the reading thread whenever something came, and once at the end.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(crate) fn go_on(
        line: Line,
        power_on: Instant,
        past: ConsolePast,
        notify: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let Line { shown: mut input, typed, keeper } = line;
        let shared = Arc::new(Shared::default());
        *shared.lock() = past.into_state();
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("console".into()).spawn(move || {
            let mut piece = vec![0; PIECE];
            while let Ok(count @ 1..) = input.read(&mut piece) {
                let at_ms = u64::try_from(power_on.elapsed().as_millis()).unwrap_or(u64::MAX);
                let mut state = theirs.lock();
                state.last = Some(Instant::now());
                // What comes after the bound is read nonetheless: the guest shall not wait for it.
                let kept = state.recording.add(at_ms, &piece[..count]);
                let mut found = state.matcher.feed(kept, at_ms);
                let there = state.events.len();
                state.recording.admit(&mut found, there);
                for event in &mut found {
                    event.text = state.recording.redacted(&event.text);
                }
                state.events.extend(found);
                drop(state);
                theirs.changed.notify_all();
                notify();
            }
            theirs.lock().closed = true;
            theirs.changed.notify_all();
            notify();
        })?;
        Ok(Self { shared, typed, keeper })
    }

    /// QEMU has opened the line: when it closes it, that is the end.
    pub(crate) fn connected(&mut self) {
        self.keeper = None;
    }

    /// How many events there have been; the place to wait from for the next one.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.shared.lock().events.len()
    }

    /// The events from `mark` on.
    #[must_use]
    pub fn events(&self, mark: usize) -> Vec<ConsoleEvent> {
        self.shared.lock().events.get(mark..).unwrap_or_default().to_vec()
    }

    /// Waits up to `limit` for the first event from `mark` on whose pattern is in `wanted`; gives it and the
    /// mark after it. `None` when the time is over or the line was closed.
    #[must_use]
    pub fn wait_for(
        &self,
        mark: usize,
        wanted: &[Pattern],
        limit: Duration,
    ) -> Option<(ConsoleEvent, usize)> {
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        loop {
            let hit = state.events.iter().enumerate().skip(mark).find(|(_, e)| wanted.contains(&e.pattern));
            if let Some((index, event)) = hit {
                return Some((event.clone(), index + 1));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return None;
            }
            let (next, _) =
                self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
            state = next;
        }
    }

    /// Waits up to `limit` until QEMU closed the line and everything that came was read; whether it did is told by
    /// [`Console::is_closed`].
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the user asks to stop before.
    pub(crate) fn wait_for_end(&self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        let mut state = self.shared.lock();
        while !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.changed.wait_timeout(state, left.min(TICK));
            let (next, tick) = waited.unwrap_or_else(PoisonError::into_inner);
            state = next;
            if tick.timed_out() && cancelled() {
                return Err(Error::Cancelled);
            }
        }
        Ok(())
    }

    /// How long nothing has been shown; without end when nothing ever was.
    pub(crate) fn silent_for(&self) -> Duration {
        self.shared.lock().last.map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Why the recording is not whole, where the guest showed more than is kept.
    pub(crate) fn too_much(&self) -> Option<String> {
        self.shared.lock().recording.too_much()
    }

    /// Whether QEMU closed the line.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }

    /// The last `most` lines, cleaned of escapes and of secrets that were typed, for messages.
    #[must_use]
    pub fn tail(&self, most: usize) -> String {
        let state = self.shared.lock();
        state.recording.redacted(&state.matcher.tail(most))
    }

    /// Types `text` as it is.
    ///
    /// # Errors
    /// When the line cannot be written to. That nobody reads it is no error.
    pub fn type_text(&self, text: &str) -> io::Result<()> {
        (&self.typed).write_all(text.as_bytes())
    }

    /// Types `secret` and Enter; should the guest echo it, recordings show asterisks.
    ///
    /// # Errors
    /// When the line cannot be written to. That nobody reads it is no error.
    pub fn type_secret(&self, secret: &str) -> io::Result<()> {
        self.shared.lock().recording.mask(secret);
        (&self.typed).write_all(secret.as_bytes())?;
        (&self.typed).write_all(b"\r")
    }

    /// What whoever is forked from here has to know. Secrets that were typed are masked in it.
    pub(crate) fn past(&self) -> ConsolePast {
        let state = self.shared.lock();
        ConsolePast { pieces: state.recording.pieces(), events: state.events.clone() }
    }

    /// Writes what was recorded so far as asciicast v2.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, cast: &Path, title: &str) -> io::Result<()> {
        self.shared.lock().recording.save(cast, title)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A console, and its other end.
    fn console(past: ConsolePast) -> (Console, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = |stream: UnixStream| File::from(OwnedFd::from(stream));
        let line = Line { shown: file(ours.try_clone().unwrap()), typed: file(ours), keeper: None };
        (Console::go_on(line, Instant::now(), past, || ()).unwrap(), theirs)
    }

    #[test]
    fn a_fork_goes_on_in_the_middle_of_a_word() {
        let (first, mut guest) = console(ConsolePast::default());
        assert_eq!(first.silent_for(), Duration::MAX);
        guest.write_all(b"Linux version 6.1.0 x\r\nPlease enter passphrase for").unwrap();
        drop(guest);
        first.wait_for_end(Duration::from_secs(10)).unwrap();
        assert!(first.silent_for() < Duration::MAX);
        let (second, mut guest) = console(first.past());
        assert_eq!(second.events(0), first.events(0));
        guest.write_all(b" disk root: ").unwrap();
        let (_, mark) = second.wait_for(0, &[Pattern::PassphrasePrompt], Duration::from_secs(10)).unwrap();
        assert_eq!(mark, first.mark() + 1);
        let shown = |console: &Console| -> Vec<u8> {
            let pieces = console.past().pieces;
            pieces.iter().flat_map(|(_, piece)| BASE64_STANDARD.decode(piece).unwrap()).collect()
        };
        assert_eq!(shown(&second), [shown(&first), b" disk root: ".to_vec()].concat());
    }

    #[test]
    fn a_secret_that_the_guest_echoes_is_shown_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (console, mut guest) = console(ConsolePast::default());
        console.type_secret("open sesame").unwrap();
        let mut typed = [0; 12];
        guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"open sesame\r");
        guest.write_all(b"open sesame\r\nPlease enter passphrase for disk open sesame:").unwrap();
        let (event, _) = console.wait_for(0, &[Pattern::PassphrasePrompt], Duration::from_secs(10)).unwrap();
        console.save(&dir.path().join("a.cast"), "t").unwrap();
        let cast = std::fs::read_to_string(dir.path().join("a.cast")).unwrap();
        for shown in [event.text, console.tail(5), cast] {
            assert!(!shown.contains("sesame") && shown.contains("***"), "{shown}");
        }
        drop(guest);
        console.wait_for_end(Duration::from_secs(10)).unwrap();
        assert!(console.is_closed());
    }

    #[test]
    fn a_guest_that_shows_too_much_is_heard_to_its_end_and_told() {
        let (console, mut guest) = console(ConsolePast::default());
        console.shared.lock().recording.most = PIECE;
        guest.write_all(&vec![b'x'; PIECE + 1]).unwrap();
        guest.write_all(b"\r\nPlease enter passphrase for disk root:").unwrap();
        drop(guest);
        console.wait_for_end(Duration::from_secs(10)).unwrap();
        assert!(console.is_closed() && console.too_much().is_some());
        assert_eq!(console.events(0), [], "what is not recorded is no witness");
    }
}
