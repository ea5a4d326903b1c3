//! The thread that reads swtpm's log and keeps what it says.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use latchkey_record::tpm::{TpmExchange, TpmRecord};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::log::{LogEvent, LogParser};

/// How many exchanges are kept of a machine, from its power-on. A boot has a few thousand; a guest that goes on for ever shall
/// not fill the memory of the host.
const MOST_EXCHANGES: usize = 200_000;
/// How many doubts are kept. Each of them is enough.
const MOST_DOUBTS: usize = 100;
/// How many of swtpm's own remarks are kept for error messages.
const REMARKS: usize = 20;
/// The longest line that swtpm writes is far shorter; what exceeds this is cut.
const LINE: usize = 4096;

/// What a recorder knew of a machine that was saved while it ran.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RecorderPast {
    record: TpmRecord,
    power_ons: u32,
}

struct Kept {
    record: TpmRecord,
    /// How many exchanges there may be in it.
    most: usize,
    /// Whether there were more.
    is_full: bool,
    /// Times the TPM was switched on, as long as it was used in between.
    power_ons: u32,
    used: bool,
    remarks: Vec<String>,
}

impl Kept {
    fn after(past: RecorderPast) -> Self {
        let RecorderPast { record, power_ons } = past;
        Self { record, most: MOST_EXCHANGES, is_full: false, power_ons, used: false, remarks: Vec::new() }
    }
}

/// A live record.
pub(crate) struct Recorder {
    kept: Arc<Mutex<Kept>>,
    reader: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Reads `log` until its end. Times count from `origin`; `notify` is called after each exchange and once
    /// at the end. The record begins with what is known of the `past`: QEMU then switches the TPM on to hand it that
    /// past's state, which is no reset, and nothing uses the TPM before.
    pub(crate) fn start(
        log: PipeReader,
        origin: Instant,
        past: RecorderPast,
        notify: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        Self::keep(log, origin, Kept::after(past), notify)
    }

    fn keep(
        log: PipeReader,
        origin: Instant,
        kept: Kept,
        notify: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let kept = Arc::new(Mutex::new(kept));
        let keep = Arc::clone(&kept);
        let reader = std::thread::Builder::new().name("tpm-recorder".into()).spawn(move || {
            read(log, |event| {
                let told = lock(&keep).take(event, origin);
                if told {
                    notify();
                }
            });
            notify();
        })?;
        Ok(Self { kept, reader: Some(reader) })
    }

    /// What has been recorded so far.
    pub(crate) fn record(&self) -> TpmRecord {
        lock(&self.kept).record.clone()
    }

    /// Calls `look` with what has been recorded so far, without copying it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&TpmRecord) -> T) -> T {
        look(&lock(&self.kept).record)
    }

    /// Why the record is not whole, where more was to be recorded than is kept.
    pub(crate) fn too_much(&self) -> Option<String> {
        let kept = lock(&self.kept);
        kept.is_full.then(|| kept.beyond())
    }

    /// What is to be known by the recorder of whoever goes on from here.
    pub(crate) fn past(&self) -> RecorderPast {
        let kept = lock(&self.kept);
        RecorderPast { record: kept.record.clone(), power_ons: kept.power_ons }
    }

    /// The last of what swtpm said besides messages.
    pub(crate) fn remarks(&self) -> String {
        lock(&self.kept).remarks.join("\n")
    }

    /// Waits for the end of the log, which comes when the last process that can write it is gone.
    pub(crate) fn join(&mut self) {
        if let Some(reader) = self.reader.take()
            && reader.join().is_err()
        {
            lock(&self.kept).record.doubts.push("the recorder stopped early".into());
        }
    }
}

impl Kept {
    /// Keeps an event; whether it is one to tell.
    fn take(&mut self, event: LogEvent, origin: Instant) -> bool {
        match event {
            LogEvent::PowerOn => {
                // QEMU switches the TPM on more than once before the guest's first command.
                if self.used {
                    self.power_ons += 1;
                    self.used = false;
                }
            }
            LogEvent::Exchange { code, command, handles, detail, response } => {
                // QEMU asks for the TPM's version before the guest starts, which is refused.
                self.used |= response.is_success();
                let at_ms = u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX);
                let reset = self.power_ons;
                if self.record.exchanges.len() < self.most {
                    let exchange = TpmExchange { at_ms, reset, code, command, handles, detail, response };
                    self.record.exchanges.push(exchange);
                } else if !self.is_full {
                    self.is_full = true;
                    let beyond = self.beyond();
                    self.doubt(beyond);
                }
                return true;
            }
            LogEvent::Remark(text) => {
                if self.remarks.len() == REMARKS {
                    self.remarks.remove(0);
                }
                self.remarks.push(text);
            }
            LogEvent::Doubt(text) => self.doubt(text.to_owned()),
        }
        false
    }

    fn doubt(&mut self, text: String) {
        match self.record.doubts.len() {
            MOST_DOUBTS => self.record.doubts.push("there are more doubts, which are not kept".to_owned()),
            0..MOST_DOUBTS => self.record.doubts.push(text),
            _ => {}
        }
    }

    fn beyond(&self) -> String {
        format!(
            "the TPM was used more than {} times since power-on, and what came after is not recorded",
            self.most
        )
    }
}

fn read(log: PipeReader, mut tell: impl FnMut(LogEvent)) {
    let mut parser = LogParser::default();
    let mut log = BufReader::new(log);
    let mut line = Zeroizing::new(Vec::with_capacity(LINE));
    loop {
        let taken = match log.fill_buf() {
            Ok([]) => break,
            Ok(bytes) => {
                let end = bytes.iter().position(|b| *b == b'\n');
                let part = &bytes[..end.unwrap_or(bytes.len())];
                let room = LINE.saturating_sub(line.len());
                line.extend_from_slice(&part[..part.len().min(room)]);
                if end.is_some() {
                    parser.line(&String::from_utf8_lossy(&line)).into_iter().for_each(&mut tell);
                    line.clear();
                }
                part.len() + usize::from(end.is_some())
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        log.consume(taken);
    }
    parser.end().into_iter().for_each(tell);
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::Write;

    use super::*;

    #[test]
    fn resets_are_counted_by_use_between_them() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut recorder = Recorder::start(reader, Instant::now(), RecorderPast::default(), || ()).unwrap();
        let on = " Ctrl Cmd: length 8\n 00 00 00 02 00 00 00 00 \n Ctrl Rsp: length 4\n 00 00 00 00 \n";
        let used = " SWTPM_IO_Read: length 12\n 80 01 00 00 00 0C 00 00 01 44 00 00 \n \
                    SWTPM_IO_Write: length 10\n 80 01 00 00 00 0A 00 00 00 00 \n";
        for part in [on, on, used, used, on, used, "bye\n"] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        drop(writer);
        recorder.join();
        let record = recorder.record();
        assert_eq!(record.exchanges.iter().map(|e| e.reset).collect::<Vec<_>>(), [0, 0, 1]);
        assert_eq!(recorder.remarks(), "bye");
        assert!(record.doubts.is_empty());

        // Who goes on from there: the TPM is switched on to take over its state, then reset by the guest.
        let (reader, mut writer) = io::pipe().unwrap();
        let mut next = Recorder::start(reader, Instant::now(), recorder.past(), || ()).unwrap();
        for part in [on, on, used, on, used] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        drop(writer);
        next.join();
        assert_eq!(next.record().exchanges.iter().map(|e| e.reset).collect::<Vec<_>>(), [0, 0, 1, 1, 2]);
    }

    const USED: &str = " SWTPM_IO_Read: length 12\n 80 01 00 00 00 0C 00 00 01 44 00 00 \n \
                        SWTPM_IO_Write: length 10\n 80 01 00 00 00 0A 00 00 00 00 \n";

    #[test]
    fn a_record_that_is_full_says_so_once_and_keeps_what_it_has() {
        let (reader, mut writer) = io::pipe().unwrap();
        let kept = Kept { most: 3, ..Kept::after(RecorderPast::default()) };
        let mut recorder = Recorder::keep(reader, Instant::now(), kept, || ()).unwrap();
        for _ in 0..3 {
            writer.write_all(USED.as_bytes()).unwrap();
        }
        drop(writer);
        recorder.join();
        assert_eq!(recorder.too_much(), None);
        let (reader, mut writer) = io::pipe().unwrap();
        let kept = Kept { most: 3, ..Kept::after(recorder.past()) };
        let mut recorder = Recorder::keep(reader, Instant::now(), kept, || ()).unwrap();
        for _ in 0..2 {
            writer.write_all(USED.as_bytes()).unwrap();
        }
        drop(writer);
        recorder.join();
        let record = recorder.record();
        assert_eq!((record.exchanges.len(), &record.doubts), (3, &Vec::from_iter(recorder.too_much())));
        assert!(record.doubts[0].contains("more than 3 times"), "{:?}", record.doubts);
    }

    #[test]
    fn doubts_are_not_kept_for_ever() {
        let mut kept = Kept::after(RecorderPast::default());
        for number in 0..=2 * MOST_DOUBTS {
            kept.doubt(number.to_string());
        }
        assert_eq!(kept.record.doubts.len(), MOST_DOUBTS + 1);
        assert!(kept.record.doubts[MOST_DOUBTS].contains("more doubts"));
    }
}
