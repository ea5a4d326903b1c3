//! Writing a log as firmware does.

use latchkey_record::pcr::HashAlg;

use super::parse::SPEC_ID;
use super::{Event, EventLog, EventType, Format, LoggedDigest, SpecId};

/// Why a log cannot be written in its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// A legacy log has room for one SHA-1 digest, no more and no less.
    #[error("writing event {index} of a legacy log: it needs exactly one sha1 digest")]
    NotSha1 {
        /// Which event, counted from 0.
        index: usize,
    },
    /// A reader would not find the end of such a digest.
    #[error(
        "writing event {index} of an event log: its {algorithm:#06x} digest does not have the size that the \
         log's first event announces"
    )]
    DigestSize {
        /// Which event, counted from 0.
        index: usize,
        /// `TPM_ALG_ID`.
        algorithm: u16,
    },
    /// A number of bytes or items does not fit its field.
    #[error("writing an event log: more than the format can count")]
    TooLarge,
}

impl EventLog {
    /// The log as firmware keeps it. [`Self::parse`] gives the same log back, with the end
    /// [`super::End::Complete`].
    ///
    /// # Errors
    /// [`WriteError`] when an event does not fit the format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let mut out = Vec::new();
        match &self.format {
            Format::Legacy => {
                for (index, event) in self.events.iter().enumerate() {
                    legacy_event(event, index, &mut out)?;
                }
            }
            Format::Agile(spec) => {
                let zeros = LoggedDigest { algorithm: HashAlg::Sha1.tpm_id(), bytes: vec![0; 20] };
                let first = Event {
                    register: spec.register,
                    kind: EventType::NO_ACTION,
                    digests: vec![zeros],
                    data: spec.to_bytes()?,
                };
                legacy_event(&first, 0, &mut out)?;
                for (index, event) in self.events.iter().enumerate() {
                    agile_event(event, index, spec, &mut out)?;
                }
            }
        }
        Ok(out)
    }
}

impl SpecId {
    fn to_bytes(&self) -> Result<Vec<u8>, WriteError> {
        let mut out = SPEC_ID.to_vec();
        out.extend(self.platform_class.to_le_bytes());
        out.extend(self.version);
        out.push(self.uintn_size);
        out.extend(count(self.algorithms.len())?);
        for (id, size) in &self.algorithms {
            out.extend(id.to_le_bytes());
            out.extend(size.to_le_bytes());
        }
        out.push(u8::try_from(self.vendor_info.len()).map_err(|_| WriteError::TooLarge)?);
        out.extend(&self.vendor_info);
        Ok(out)
    }
}

fn legacy_event(event: &Event, index: usize, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let [digest] = event.digests.as_slice() else { return Err(WriteError::NotSha1 { index }) };
    if digest.algorithm != HashAlg::Sha1.tpm_id() || digest.bytes.len() != HashAlg::Sha1.size() {
        return Err(WriteError::NotSha1 { index });
    }
    out.extend(event.register.to_le_bytes());
    out.extend(event.kind.0.to_le_bytes());
    out.extend(&digest.bytes);
    data(event, out)
}

pub(super) fn agile_event(
    event: &Event,
    index: usize,
    spec: &SpecId,
    out: &mut Vec<u8>,
) -> Result<(), WriteError> {
    out.extend(event.register.to_le_bytes());
    out.extend(event.kind.0.to_le_bytes());
    out.extend(count(event.digests.len())?);
    for digest in &event.digests {
        let algorithm = digest.algorithm;
        let known = || HashAlg::from_tpm_id(algorithm).map(HashAlg::size);
        if spec.size_of(algorithm).or_else(known) != Some(digest.bytes.len()) {
            return Err(WriteError::DigestSize { index, algorithm });
        }
        out.extend(algorithm.to_le_bytes());
        out.extend(&digest.bytes);
    }
    data(event, out)
}

fn data(event: &Event, out: &mut Vec<u8>) -> Result<(), WriteError> {
    out.extend(count(event.data.len())?);
    out.extend(&event.data);
    Ok(())
}

fn count(number: usize) -> Result<[u8; 4], WriteError> {
    u32::try_from(number).map(u32::to_le_bytes).map_err(|_| WriteError::TooLarge)
}
