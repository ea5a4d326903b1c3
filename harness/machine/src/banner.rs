//! Whether the guest's SSH server greets: a witness that needs no key and no cooperation.
//!
//! User-mode networking accepts a connection to the forwarded port whatever the guest does, so only the
//! server's greeting (RFC 4253, section 4.2) counts.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long one connection may stay silent, on the reference host. A server that comes up meanwhile is reached by the next
/// one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);
/// RFC 4253: at most 255 bytes, including CR LF.
const LONGEST: u64 = 255;

/// A greeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshBanner {
    /// Milliseconds from power-on.
    pub at_ms: u64,
    /// The line, such as `SSH-2.0-OpenSSH_9.2p1`.
    pub text: String,
}

#[derive(Default)]
struct State {
    seen: Option<SshBanner>,
    /// Goes up when what was seen before no longer counts.
    round: u64,
    /// When the last knock that nobody answered began.
    unanswered: Option<u64>,
    over: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Knocks at the forwarded port until it is greeted.
pub(crate) struct BannerWatch {
    shared: Arc<Shared>,
}

impl BannerWatch {
    /// Begins to knock at `port` of this computer, unless this boot's greeting was seen already; times count from
    /// `power_on`, `notify` is called at a greeting. A connection may stay silent for `patience`.
    pub(crate) fn start(
        port: u16,
        power_on: Instant,
        patience: Duration,
        seen: Option<SshBanner>,
        notify: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.lock().seen = seen;
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new().name("ssh-banner".into()).spawn(move || {
            while let Some(round) = next_round(&theirs) {
                let now = || u64::try_from(power_on.elapsed().as_millis()).unwrap_or(u64::MAX);
                let began = now();
                let greeting = greeting(port, patience);
                let mut state = theirs.lock();
                if state.round == round {
                    match greeting {
                        Ok(Some(text)) => state.seen = Some(SshBanner { at_ms: now(), text }),
                        Ok(None) => state.unanswered = Some(began),
                        // Nobody knocked.
                        Err(error) => tracing::debug!("knocking at port {port}: {error}"),
                    }
                }
                drop(state);
                notify();
            }
        })?;
        Ok(Self { shared })
    }

    pub(crate) fn seen(&self) -> Option<SshBanner> {
        self.shared.lock().seen.clone()
    }

    /// Whether a knock that began after `at_ms` was given time and not answered.
    pub(crate) fn unanswered_since(&self, at_ms: u64) -> bool {
        self.shared.lock().unanswered.is_some_and(|began| began > at_ms)
    }

    /// Forgets what was seen and begins to knock again: the guest was reset.
    pub(crate) fn again(&self) {
        let mut state = self.shared.lock();
        state.seen = None;
        state.unanswered = None;
        state.round += 1;
        self.shared.changed.notify_all();
    }
}

impl Drop for BannerWatch {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
    }
}

/// Waits until there is something to knock for; `None` when it is over.
fn next_round(shared: &Shared) -> Option<u64> {
    let state = shared.lock();
    let paused = shared.changed.wait_timeout_while(state, PAUSE, |state| !state.over);
    let mut state = paused.unwrap_or_else(PoisonError::into_inner).0;
    while !state.over && state.seen.is_some() {
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
    (!state.over).then_some(state.round)
}

/// What greets at `port`; `None` where nobody does. An error where nobody took the connection.
fn greeting(port: u16, patience: Duration) -> std::io::Result<Option<String>> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = Vec::new();
    if BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line).is_err() {
        return Ok(None);
    }
    let line = String::from_utf8_lossy(&line);
    let line = line.trim_end();
    Ok(line.starts_with("SSH-2.0-").then(|| line.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::Write;
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn only_a_greeting_counts_and_a_reset_asks_for_another() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, told) = mpsc::channel();
        let watch = BannerWatch::start(port, Instant::now(), PATIENCE, None, move || {
            let _ = tell.send(());
        })
        .unwrap();
        for answer in [&b""[..], b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-first\r\n"] {
            assert!(watch.seen().is_none());
            listener.accept().unwrap().0.write_all(answer).unwrap();
        }
        assert_eq!(heard(&told, &watch), "SSH-2.0-first");
        watch.again();
        assert!(watch.seen().is_none());
        listener.accept().unwrap().0.write_all(b"SSH-2.0-second\r\n").unwrap();
        assert_eq!(heard(&told, &watch), "SSH-2.0-second");
    }

    /// The greeting; a knock that was not answered is told too.
    fn heard(told: &mpsc::Receiver<()>, watch: &BannerWatch) -> String {
        loop {
            told.recv_timeout(Duration::from_secs(60)).unwrap();
            if let Some(banner) = watch.seen() {
                return banner.text;
            }
        }
    }
}
