//! UEFI variables that a user hands in.

use std::fs;

use latchkey_disk::VarStore;
use latchkey_disk::varstore::Error;
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

    /// The variable store of a machine with the host's firmware, and how many boot options a log has that lead to one of
    /// `partitions` (by their GUIDs); it gets these.
    ///
    /// # Errors
    /// [`SessionError::Variables`] when that firmware cannot have these.
    pub(crate) fn for_host(
        &self,
        host: &Host,
        partitions: &[Uuid],
    ) -> Result<(Vec<u8>, usize), SessionError> {
        let wrong = |why| SessionError::Variables { firmware: host.firmware.code.clone(), why };
        let log = match self {
            Self::Store(store) => {
                let (has, wants) = (store.len() as u64, host.firmware.vars_size);
                let fits = has == wants;
                let why = || wrong(format!("they take {has} bytes of flash, and it has {wants}"));
                return if fits { Ok((store.clone(), 0)) } else { Err(why()) };
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

/// A TPM's event log of a boot, whole: what firmware measures before it starts anything is told.
///
/// # Errors
/// [`NoLog`] with what it is instead.
pub(crate) fn event_log(bytes: &[u8]) -> Result<EventLog, NoLog> {
    let log = EventLog::parse(bytes);
    let boots = log.events.iter().any(|event| event.is_measured() && event.kind == EventType::SEPARATOR);
    match (&log.format, log.end) {
        // Its first event names register 1.
        (Format::Agile(spec), _) if spec.register != 0 => Err(NoLog::Ccel),
        (format, End::Damaged { at, damage }) if boots || matches!(format, Format::Agile(_)) => {
            Err(NoLog::CutOff { event: log.events.len(), at, damage })
        }
        // The first bytes of gzip (RFC 1952, section 2.3.1), xz and zstd.
        _ if [&b"\x1f\x8b"[..], b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"]
            .iter()
            .any(|magic| bytes.starts_with(magic)) =>
        {
            Err(NoLog::Packed)
        }
        _ if !boots
            && !bytes.is_empty()
            && std::str::from_utf8(bytes).is_ok_and(|text| !text.contains('\0')) =>
        {
            Err(NoLog::Text)
        }
        _ if !boots => Err(NoLog::Nothing),
        _ => Ok(log),
    }
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
    /// Perhaps one, compressed.
    #[error("it is compressed; unpack it first")]
    Packed,
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
        ] {
            let said = said(other);
            assert!(said.contains("expected a copy of OVMF's VARS.fd, or a TPM's event log"), "{said}");
            assert!(said.contains(why), "{said}");
        }
    }
}
