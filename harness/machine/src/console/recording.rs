//! Every byte of a console with the time it came, as asciicast v2
//! (asciinema, doc/asciicast-v2.md: a header line, then `[seconds, "o", "text"]` lines).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use zeroize::Zeroizing;

/// The size of the terminal that OVMF's and Linux' serial consoles assume.
const COLUMNS: u32 = 100;
const ROWS: u32 = 31;

/// How much is kept of what a console shows from its machine's power-on, in bytes: a guest that shows things for ever shall not
/// fill the host's memory. A boot shows some ten thousand.
const MOST: usize = 64 << 20;

/// How many of the texts that are looked for are kept. A boot shows some dozens.
const MOST_EVENTS: usize = 10_000;

/// What came, piece by piece, and what must not be shown of it.
#[derive(Debug)]
pub(super) struct Recording {
    /// How many bytes are kept.
    pub(super) most: usize,
    /// Whether more came.
    is_full: bool,
    bytes: Vec<u8>,
    /// Milliseconds, and up to where in `bytes`.
    pieces: Vec<(u64, usize)>,
    secrets: Vec<Zeroizing<Vec<u8>>>,
}

impl Default for Recording {
    fn default() -> Self {
        Self { most: MOST, is_full: false, bytes: Vec::new(), pieces: Vec::new(), secrets: Vec::new() }
    }
}

impl Recording {
    /// Keeps of `bytes` what there is room for, and gives that.
    pub(super) fn add<'a>(&mut self, at_ms: u64, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.most.saturating_sub(self.bytes.len());
        self.is_full |= bytes.len() > room;
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() {
            return bytes;
        }
        self.bytes.extend_from_slice(bytes);
        let end = self.bytes.len();
        match self.pieces.last_mut() {
            // QEMU's serial line gives single bytes; within a millisecond they are one piece.
            Some((at, last)) if *at == at_ms => *last = end,
            _ => self.pieces.push((at_ms, end)),
        }
        bytes
    }

    /// Why the recording is not whole, where more came than is kept.
    pub(super) fn too_much(&self) -> Option<String> {
        let most = self.most;
        self.is_full.then(|| {
            format!(
                "its console showed more than {most} bytes since power-on, or {MOST_EVENTS} of the texts that are looked for; no \
                 more is recorded"
            )
        })
    }

    /// Keeps of `found` what there is room for beside the `there` that are kept already.
    pub(super) fn admit<T>(&mut self, found: &mut Vec<T>, there: usize) {
        let room = MOST_EVENTS.saturating_sub(there);
        self.is_full |= found.len() > room;
        found.truncate(room);
    }

    /// `secret` was typed: should the guest echo it, it is masked.
    pub(super) fn mask(&mut self, secret: &str) {
        if !secret.is_empty() {
            self.secrets.push(Zeroizing::new(secret.as_bytes().to_vec()));
        }
    }

    /// `text` as it may be shown.
    pub(super) fn redacted(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.masked(text.as_bytes())).into_owned()
    }

    fn masked(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for secret in &self.secrets {
            let mut from = 0;
            while let Some(at) = bytes[from..].windows(secret.len()).position(|w| w == secret.as_slice()) {
                bytes[from + at..from + at + secret.len()].fill(b'*');
                from += at + secret.len();
            }
        }
        bytes
    }

    /// All pieces with their times in milliseconds, secrets masked, in base64.
    pub(super) fn pieces(&self) -> Vec<(u64, String)> {
        let bytes = self.masked(&self.bytes);
        let mut from = 0;
        let piece = |(at_ms, end): &(u64, usize)| {
            let piece = BASE64_STANDARD.encode(&bytes[from..*end]);
            from = *end;
            (*at_ms, piece)
        };
        self.pieces.iter().map(piece).collect()
    }

    /// Writes the recording to `cast`. Bytes that are no UTF-8 are shown as U+FFFD.
    pub(super) fn save(&self, cast: &Path, title: &str) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(cast)?);
        let header = json!({"version": 2, "width": COLUMNS, "height": ROWS, "title": title});
        writeln!(out, "{header}")?;
        let bytes = self.masked(&self.bytes);
        let (mut from, mut at) = (0, 0);
        for (at_ms, end) in &self.pieces {
            at = *at_ms;
            let end = whole_characters(&bytes, from, *end);
            if end > from {
                write_piece(&mut out, at, &bytes[from..end])?;
                from = end;
            }
        }
        if from < bytes.len() {
            write_piece(&mut out, at, &bytes[from..])?;
        }
        if let Some(why) = self.too_much() {
            write_piece(&mut out, at, format!("\r\n[{why}]\r\n").as_bytes())?;
        }
        out.flush()
    }
}

fn write_piece(out: &mut impl Write, at_ms: u64, bytes: &[u8]) -> io::Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "a boot takes less than 2^53 ms")]
    let seconds = at_ms as f64 / 1000.0;
    writeln!(out, "{}", json!([seconds, "o", String::from_utf8_lossy(bytes)]))
}

/// `end`, less the bytes of a character that the next piece completes.
fn whole_characters(bytes: &[u8], from: usize, end: usize) -> usize {
    match std::str::from_utf8(&bytes[from..end]) {
        Err(e) if e.error_len().is_none() => from + e.valid_up_to(),
        _ => end,
    }
}

/// Reads an asciicast v2 back: pieces with their times in milliseconds.
///
/// # Errors
/// What the system says, or [`io::ErrorKind::InvalidData`] for a line that is none of asciicast v2.
pub fn read_cast(cast: &Path) -> io::Result<Vec<(u64, String)>> {
    let text = std::fs::read_to_string(cast)?;
    let bad = |line: &str| io::Error::new(io::ErrorKind::InvalidData, format!("no asciicast event: {line}"));
    let piece = |line: &str| -> io::Result<(u64, String)> {
        let (seconds, kind, text): (f64, String, String) =
            serde_json::from_str(line).map_err(|_| bad(line))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time within a boot")]
        let ms = (seconds.max(0.0) * 1000.0) as u64;
        if kind == "o" { Ok((ms, text)) } else { Err(bad(line)) }
    };
    text.lines().skip(1).map(piece).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn characters_split_over_pieces_come_back_whole_and_secrets_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let cast = dir.path().join("a.cast");
        let mut recording = Recording::default();
        recording.mask("hunter-two");
        for (at, piece) in [(0, &b"a\xf0\x9f"[..]), (1500, b"\x94\x90 hun"), (2000, b"ter-two \xff\"\r\n")] {
            recording.add(at, piece);
        }
        recording.save(&cast, "t").unwrap();
        let pieces = read_cast(&cast).unwrap();
        let text: String = pieces.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(text, "a🔐 ********** \u{fffd}\"\r\n");
        assert_eq!(pieces[1].0, 1500);
    }

    #[test]
    fn texts_that_are_looked_for_are_bounded_too() {
        let mut recording = Recording::default();
        let mut found = vec![(); MOST_EVENTS];
        recording.admit(&mut found, 0);
        assert_eq!((found.len(), recording.too_much()), (MOST_EVENTS, None));
        let mut more = vec![(); 3];
        recording.admit(&mut more, MOST_EVENTS - 1);
        assert!(more.len() == 1 && recording.too_much().is_some());
    }

    #[test]
    fn a_recording_that_is_full_says_so_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let cast = dir.path().join("a.cast");
        let mut recording = Recording { most: 10, ..Recording::default() };
        assert_eq!(recording.add(1, b"seven77"), b"seven77");
        assert_eq!(recording.add(2, b"333"), b"333");
        assert_eq!(recording.too_much(), None, "there was room for all of it");
        assert_eq!(recording.add(3, b"more"), b"");
        let why = recording.too_much().unwrap();
        assert!(why.contains("more than 10 bytes"), "{why}");
        recording.save(&cast, "t").unwrap();
        let text: String = read_cast(&cast).unwrap().iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(text, format!("seven77333\r\n[{why}]\r\n"));
    }
}
