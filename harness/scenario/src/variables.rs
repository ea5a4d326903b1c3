//! UEFI variables that a user hands in.

use std::fs;

use latchkey_disk::VarStore;
use latchkey_disk::varstore::Error;
use latchkey_host::Host;
use latchkey_measure::eventlog::{End, EventLog, EventType, Format};

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
#[error("{0}, or a TPM's event log of a boot")]
pub struct NoVariables(Error);

impl Variables {
    /// Reads either, told apart by what they are.
    ///
    /// # Errors
    /// [`NoVariables`] for anything else.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, NoVariables> {
        let Err(no_store) = VarStore::parse(&bytes) else { return Ok(Self::Store(bytes)) };
        event_log(&bytes).map(Self::Logged).ok_or(NoVariables(no_store))
    }

    /// The variable store of a machine with the host's firmware.
    ///
    /// # Errors
    /// [`SessionError::Variables`] when that firmware cannot have these.
    pub(crate) fn for_host(&self, host: &Host) -> Result<Vec<u8>, SessionError> {
        let wrong = |why| SessionError::Variables { firmware: host.firmware.code.clone(), why };
        let log = match self {
            Self::Store(store) => {
                let (has, wants) = (store.len() as u64, host.firmware.vars_size);
                let fits = has == wants;
                let why = || wrong(format!("they take {has} bytes of flash, and it has {wants}"));
                return if fits { Ok(store.clone()) } else { Err(why()) };
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
        store.to_bytes().map_err(|e| wrong(e.to_string()))
    }
}

/// A TPM's event log of a boot, whole: what firmware measures before it starts anything is told. The registers of a log of
/// confidential computing (CCEL), whose first event names register 1, are no PCRs.
pub(crate) fn event_log(bytes: &[u8]) -> Option<EventLog> {
    let log = EventLog::parse(bytes);
    if matches!(&log.format, Format::Agile(spec) if spec.register != 0) {
        return None;
    }
    let boots = log.events.iter().any(|event| event.is_measured() && event.kind == EventType::SEPARATOR);
    (boots && !matches!(log.end, End::Damaged { .. })).then_some(log)
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
        for other in [cut_off, ccel, Vec::new(), b"neither of the two".repeat(100)] {
            let said = Variables::parse(other).unwrap_err().to_string();
            assert!(said.contains("expected a copy of OVMF's VARS.fd, or a TPM's event log"), "{said}");
        }
    }
}
