//! UEFI variables that a user hands in.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Error, LoggedOptions};
use latchkey_host::Host;
use latchkey_measure::Uuid;
use latchkey_measure::eventlog::{Damage, End, EventLog, EventType, Format};

use crate::SessionError;

/// UEFI variables that a user hands in for new machines.
#[derive(Debug, Clone)]
pub enum Variables {
    /// A whole variable store: a VARS.fd.
    Store(Vec<u8>),
    /// The event log of a boot, of which those that decide over Secure Boot are taken.
    Logged(EventLog),
}

/// A file is neither.
#[derive(Debug, thiserror::Error)]
#[error("{store}, or a TPM's event log of a boot (as that: {log})")]
pub struct NoVariables {
    store: Error,
    log: NoLog,
}

impl Variables {
    /// Reads either, told apart by what they are.
    ///
    /// # Errors
    /// [`NoVariables`] for anything else.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, NoVariables> {
        let Err(no_store) = VarStore::parse(&bytes) else { return Ok(Self::Store(bytes)) };
        event_log(&bytes).map(Self::Logged).map_err(|log| NoVariables { store: no_store, log })
    }

    /// The variable store of a machine with the host's firmware, and what a log tells of boot options that lead to one of
    /// `partitions` (by their GUIDs); it gets these. A store has its own.
    ///
    /// # Errors
    /// [`SessionError::Variables`] when that firmware cannot have these.
    pub(crate) fn for_host(
        &self,
        host: &Host,
        partitions: &[Uuid],
    ) -> Result<(Vec<u8>, LoggedOptions), SessionError> {
        let wrong = |why| SessionError::Variables { firmware: host.firmware.code.clone(), why };
        let log = match self {
            Self::Store(store) => {
                let (has, wants) = (store.len() as u64, host.firmware.vars_size);
                let fits = has == wants;
                let why = || wrong(format!("they take {has} bytes of flash, and it has {wants}"));
                return if fits { Ok((store.clone(), LoggedOptions::Untold)) } else { Err(why()) };
            }
            Self::Logged(log) => log,
        };
        let path = &host.firmware.vars_template;
        let template = fs::read(path).map_err(|source| SessionError::File {
            doing: "reading",
            path: path.clone(),
            source,
        })?;
        let mut store = VarStore::parse(&template).map_err(|e| wrong(e.to_string()))?;
        store.take_logged(log).map_err(|e| wrong(e.to_string()))?;
        let options = store.take_logged_options(log, partitions);
        Ok((store.to_bytes().map_err(|e| wrong(e.to_string()))?, options))
    }
}

/// What packed files have, and where: gzip (RFC 1952, section 2.3.1), xz, zstd, zip (APPNOTE, section 4.3.7), and tar (POSIX.1,
/// `pax`, "ustar Interchange Format"), which only puts together.
const PACKED: [(usize, &[u8]); 5] =
    [(0, b"\x1f\x8b"), (0, b"\xfd7zXZ"), (0, b"\x28\xb5\x2f\xfd"), (0, b"PK\x03\x04"), (257, b"ustar")];

/// A TPM's event log of a boot, whole: what firmware measures before it starts anything is told.
///
/// # Errors
/// [`NoLog`] with what it is instead.
pub(crate) fn event_log(bytes: &[u8]) -> Result<EventLog, NoLog> {
    let log = EventLog::parse(bytes);
    let boots = tells_of_a_boot(&log);
    match (&log.format, log.end) {
        // Its first event names register 1.
        (Format::Agile(spec), _) if spec.register != 0 => Err(NoLog::Ccel),
        (format, End::Damaged { at, damage }) if boots || matches!(format, Format::Agile(_)) => {
            Err(NoLog::CutOff { event: log.events.len(), at, damage })
        }
        _ if boots => Ok(log),
        _ if PACKED
            .iter()
            .any(|(at, magic)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic))) =>
        {
            Err(NoLog::Packed)
        }
        _ => Err(match std::str::from_utf8(bytes) {
            Ok(text) if !text.is_empty() && !text.contains('\0') => text_of(text),
            _ => NoLog::Nothing,
        }),
    }
}

fn tells_of_a_boot(log: &EventLog) -> bool {
    log.events.iter().any(|event| event.is_measured() && event.kind == EventType::SEPARATOR)
}

/// What kind of text is in the place of a log: one that a tool made of it byte by byte, or words about it.
fn text_of(text: &str) -> NoLog {
    let is_log = |bytes: Vec<u8>| {
        let log = EventLog::parse(&bytes);
        matches!(log.format, Format::Agile(_)) || tells_of_a_boot(&log)
    };
    let closed_up = || text.split_ascii_whitespace().collect::<String>();
    if hex::decode(closed_up()).is_ok_and(is_log) {
        NoLog::Encoded { undo: "xxd -r -p" }
    } else if STANDARD.decode(closed_up()).is_ok_and(is_log) {
        NoLog::Encoded { undo: "base64 -d" }
    } else if is_log(undumped(text, ": ")) {
        NoLog::Encoded { undo: "xxd -r" }
    } else if is_log(undumped(text, " ")) {
        NoLog::Dumped
    } else {
        NoLog::Text
    }
}

/// The bytes of a dump with as many in a line as tools show unless they are asked for another number, after an offset that
/// ends with `mark`; as far as its lines are such.
fn undumped(text: &str, mark: &str) -> Vec<u8> {
    const DIGITS: usize = 2 * 16;
    let line = |line: &str| {
        let (offset, rest) = line.split_once(mark)?;
        u64::from_str_radix(offset, 16).ok()?;
        // What it shows as text stands behind.
        let digits: String = rest.chars().filter(|c| *c != ' ').take(DIGITS).collect();
        hex::decode(digits).ok()
    };
    text.lines().map_while(line).flatten().collect()
}

/// Why a file is no event log of a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLog {
    /// Of another kind.
    #[error("it is a log of confidential computing (CCEL), whose registers are no PCRs")]
    Ccel,
    /// A part of one.
    #[error("it ends within event {event} (counted from 0), at byte {at}: {damage}")]
    CutOff {
        /// Which one.
        event: usize,
        /// Where that begins, in bytes.
        at: usize,
        /// What is wrong with it.
        damage: Damage,
    },
    /// Perhaps one, compressed or in an archive.
    #[error("it is compressed, or an archive; unpack it first")]
    Packed,
    /// One whose bytes a tool wrote as text.
    #[error("it is such a log written as text; `{undo}` makes the binary file of it")]
    Encoded {
        /// The command.
        undo: &'static str,
    },
    /// Such a text from which no command makes the log again: it leaves out lines that repeat.
    #[error("it is a dump of such a log for people; give the binary file that was dumped")]
    Dumped,
    /// What a tool told of one.
    #[error("it is text, as `tpm2_eventlog` prints one; give the binary file that was printed")]
    Text,
    /// Something else.
    #[error(
        "it does not tell of a boot; the kernel has such a log in /sys/kernel/security/tpm0/binary_bios_measurements"
    )]
    Nothing,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use latchkey_measure::HashAlg;

    #[test]
    fn stores_and_logs_are_told_apart_and_all_else_is_refused() {
        let store = fs::read("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").unwrap();
        assert!(matches!(Variables::parse(store), Ok(Variables::Store(_))));
        let mut log = EventLog::agile(&[HashAlg::Sha256]);
        log.measure(7, EventType::SEPARATOR, &[0; 4], &[0; 4]);
        let bytes = log.to_bytes().unwrap();
        assert!(matches!(Variables::parse(bytes.clone()), Ok(Variables::Logged(_))));
        let cut_off = bytes[..bytes.len() - 1].to_vec();
        let mut ccel = bytes;
        ccel[0] = 1;
        let said = |bytes| Variables::parse(bytes).unwrap_err().to_string();
        for (other, why) in [
            (cut_off, "it ends within event 0 (counted from 0), at byte "),
            (ccel, "CCEL"),
            (Vec::new(), "does not tell of a boot"),
            (b"neither of the two\0".repeat(100), "does not tell of a boot"),
            (b"---\nversion: 1\nevents:\n".to_vec(), "it is text"),
            (b"\x1f\x8b\x08\0".repeat(9), "unpack it first"),
            (b"PK\x03\x04\x14\0".repeat(9), "unpack it first"),
            ([&b"log.bin"[..], &[0; 250], b"ustar\0", &[0; 249]].concat(), "unpack it first"),
        ] {
            let said = said(other);
            assert!(said.contains("expected a copy of OVMF's VARS.fd, or a TPM's event log"), "{said}");
            assert!(said.contains(why), "{said}");
        }
    }

    /// As `xxd` and `hexdump -C` write it.
    fn dump(bytes: &[u8], mark: &str) -> String {
        let line = |(number, line): (usize, &[u8])| {
            let words: Vec<String> = line.chunks(2).map(hex::encode).collect();
            format!("{:08x}{mark}{}  Spec ID\n", 16 * number, words.join(" "))
        };
        bytes.chunks(16).enumerate().map(line).collect()
    }

    #[test]
    fn a_log_as_text_is_told_with_the_command_that_undoes_it() {
        let mut log = EventLog::agile(&[HashAlg::Sha256]);
        log.measure(7, EventType::SEPARATOR, &[0; 4], &[0; 4]);
        let bytes = log.to_bytes().unwrap();
        let wrapped = |text: String| {
            let lines: Vec<&[u8]> = text.as_bytes().chunks(76).collect();
            lines.join(&b'\n')
        };
        let why = |text: &[u8]| event_log(text).unwrap_err().to_string();
        for (text, said) in [
            (wrapped(STANDARD.encode(&bytes)), "`base64 -d`"),
            (wrapped(hex::encode(&bytes)), "`xxd -r -p`"),
            (dump(&bytes, ": ").into_bytes(), "`xxd -r`"),
            (dump(&bytes, "  ").into_bytes(), "give the binary file that was dumped"),
            (wrapped(STANDARD.encode([7_u8; 900])), "it is text, as `tpm2_eventlog` prints one"),
            (dump(&[7; 900], ": ").into_bytes(), "it is text, as `tpm2_eventlog` prints one"),
        ] {
            assert!(why(&text).contains(said), "{said}: {}", why(&text));
        }
    }
}
