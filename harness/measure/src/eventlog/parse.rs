//! Reading a log as far as it goes.

use latchkey_record::pcr::HashAlg;

use super::{Event, EventLog, EventType, Format, LoggedDigest, SpecId};
use crate::bytes::{size_at, slice, u16_at, u32_at};

/// What the data of a crypto-agile log's first event begins with.
pub(super) const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
/// `TCG_PCR_EVENT` up to its data: register, type, SHA-1 digest, size.
pub(super) const LEGACY_HEAD: usize = 32;
/// Most algorithms of a log, and most digests of an event: as many as tpm2-tss takes for a TPM's banks
/// (`TPM2_NUM_PCR_BANKS`).
const MOST_ALGORITHMS: u32 = 16;

/// Where and why a log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its last event.
    Complete,
    /// With unused room up to the end of its area: `byte`, 0 or 0xff, from byte `at` on. An event that is
    /// nothing but zeros would look the same.
    Padding {
        /// Where the room begins.
        at: usize,
        /// What fills it.
        byte: u8,
    },
    /// Within an event, or with something that is none.
    Damaged {
        /// Where that event begins.
        at: usize,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// Why an event cannot be read, and so none after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The log ends within the fixed fields or the digests.
    #[error("the log ends within an event's head")]
    Head,
    /// The log ends within the event's data.
    #[error("the log ends within an event's data: {size} bytes announced, {left} there")]
    Data {
        /// Bytes announced.
        size: usize,
        /// Bytes there.
        left: usize,
    },
    /// A digest of an algorithm that the log's first event does not list and whose size nobody knows.
    #[error("an event has a digest of algorithm {0:#06x}, which the log's first event does not list")]
    Algorithm(u16),
    /// More digests than there are algorithms.
    #[error("an event announces {0} digests, and there are no more than {MOST_ALGORITHMS} algorithms")]
    Digests(u32),
    /// The first event says "Spec ID Event03" and does not hold what it should, or more algorithms than there are.
    #[error("the first event is no whole specification identifier")]
    SpecId,
}

/// An event and the offset after it.
type Read = Result<(Event, usize), Damage>;

impl EventLog {
    /// Reads `bytes`: all that is whole.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        match legacy_event(bytes, 0) {
            Ok((first, at)) if is_spec_id(&first) => match spec_id(&first) {
                Some(spec) => {
                    let (events, end) =
                        all(bytes, at, usize::MAX, &mut |bytes, at| agile_event(bytes, at, &spec));
                    Self { format: Format::Agile(spec), events, end }
                }
                None => {
                    let end = End::Damaged { at: 0, damage: Damage::SpecId };
                    Self { format: Format::Agile(SpecId::new(&[])), events: Vec::new(), end }
                }
            },
            _ => {
                let (events, end) = all(bytes, 0, usize::MAX, &mut legacy_event);
                Self { format: Format::Legacy, events, end }
            }
        }
    }
}

/// At most `most` events from `at` on.
pub(super) fn all(
    bytes: &[u8],
    mut at: usize,
    most: usize,
    read: &mut dyn FnMut(&[u8], usize) -> Read,
) -> (Vec<Event>, End) {
    let unused = padding_from(bytes);
    let mut events = Vec::new();
    while at < bytes.len() && events.len() < most {
        if let Some((_, byte)) = unused.filter(|(from, _)| at >= *from) {
            return (events, End::Padding { at, byte });
        }
        match read(bytes, at) {
            Ok((event, next)) => {
                events.push(event);
                at = next;
            }
            Err(damage) => return (events, End::Damaged { at, damage }),
        }
    }
    (events, End::Complete)
}

/// Where the last run of zeros or of 0xff that reaches the end begins. Looked for once, so that a hostile log
/// costs no more than its length.
fn padding_from(bytes: &[u8]) -> Option<(usize, u8)> {
    let last = *bytes.last()?;
    let from = bytes.iter().rposition(|byte| *byte != last).map_or(0, |before| before + 1);
    [0, 0xff].contains(&last).then_some((from, last))
}

/// `TCG_PCR_EVENT` (PFP, section "TCG_PCClientPCREvent Structure").
pub(super) fn legacy_event(bytes: &[u8], at: usize) -> Read {
    let head = slice(bytes, at, LEGACY_HEAD).ok_or(Damage::Head)?;
    let field = |at| u32_at(head, at).ok_or(Damage::Head);
    let digest = LoggedDigest { algorithm: HashAlg::Sha1.tpm_id(), bytes: head[8..28].to_vec() };
    let (data, next) = data_at(bytes, at + LEGACY_HEAD - 4)?;
    Ok((Event { register: field(0)?, kind: EventType(field(4)?), digests: vec![digest], data }, next))
}

/// `TCG_PCR_EVENT2` (PFP, section "TCG_PCR_EVENT2 Structure").
pub(super) fn agile_event(bytes: &[u8], at: usize, spec: &SpecId) -> Read {
    let head = slice(bytes, at, 12).ok_or(Damage::Head)?;
    let field = |at| u32_at(head, at).ok_or(Damage::Head);
    let mut digests = Vec::new();
    let mut next = at + 12;
    let count = field(8)?;
    if count > MOST_ALGORITHMS {
        return Err(Damage::Digests(count));
    }
    for _ in 0..count {
        let algorithm = u16_at(bytes, next).ok_or(Damage::Head)?;
        let known = || HashAlg::from_tpm_id(algorithm).map(HashAlg::size);
        let size = spec.size_of(algorithm).or_else(known).ok_or(Damage::Algorithm(algorithm))?;
        let digest = slice(bytes, next + 2, size).ok_or(Damage::Head)?;
        digests.push(LoggedDigest { algorithm, bytes: digest.to_vec() });
        next += 2 + size;
    }
    let (data, next) = data_at(bytes, next)?;
    Ok((Event { register: field(0)?, kind: EventType(field(4)?), digests, data }, next))
}

/// A `u32` size at `at` and as many bytes; gives those and the offset after them.
fn data_at(bytes: &[u8], at: usize) -> Result<(Vec<u8>, usize), Damage> {
    let size = size_at(bytes, at).ok_or(Damage::Head)?;
    let start = at + 4;
    let left = bytes.len() - start;
    let data = slice(bytes, start, size).ok_or(Damage::Data { size, left })?;
    Ok((data.to_vec(), start + size))
}

fn is_spec_id(event: &Event) -> bool {
    event.kind == EventType::NO_ACTION && event.data.starts_with(SPEC_ID)
}

/// `TCG_EfiSpecIDEvent`: signature, u32 class, three version bytes, u8 size of `UINTN`, u32 count of
/// algorithms, those, u8 count of vendor bytes, those.
fn spec_id(event: &Event) -> Option<SpecId> {
    let data = &event.data;
    let mut algorithms = Vec::new();
    let mut at = 28;
    let count = u32_at(data, 24).filter(|count| *count <= MOST_ALGORITHMS)?;
    for _ in 0..count {
        algorithms.push((u16_at(data, at)?, u16_at(data, at + 2)?));
        at += 4;
    }
    // Vendor bytes that do not fit are of no use to anybody; the banks are.
    let vendor = usize::from(data.get(at).copied().unwrap_or_default());
    let vendor_info = slice(data, at + 1, vendor).unwrap_or_default().to_vec();
    Some(SpecId {
        register: event.register,
        platform_class: u32_at(data, 16)?,
        version: slice(data, 20, 3)?.try_into().ok()?,
        uintn_size: *data.get(23)?,
        algorithms,
        vendor_info,
    })
}
