//! The final-events table: what was measured after somebody had asked the firmware for its log.
//!
//! `EFI_TCG2_FINAL_EVENTS_TABLE` (TCG EFI Protocol Specification 2.0, section 7): u64 version, u64 number of
//! events, then `TCG_PCR_EVENT2`s. Firmware starts it at the *first* call of `GetEventLog`, so a log that was
//! fetched later has some of its events too, at its own end.

use latchkey_record::pcr::HashAlg;

use super::parse::{End, agile_event, all};
use super::write::{self, WriteError};
use super::{Damage, Event, EventLog, Format, SpecId};
use crate::bytes::slice;

/// Version and number of events.
const HEAD: usize = 16;
/// `EFI_TCG2_FINAL_EVENTS_TABLE_VERSION`.
const VERSION: u64 = 1;

/// A final-events table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalEvents {
    /// Its version: 1.
    pub version: u64,
    /// How many events it says it has.
    pub announced: u64,
    /// Its events in order.
    pub events: Vec<Event>,
    /// Where and why it ends; [`End::Complete`] when all that are announced were read.
    pub end: End,
}

impl FinalEvents {
    /// A table of these events.
    #[must_use]
    pub fn new(events: Vec<Event>) -> Self {
        let announced = u64::try_from(events.len()).unwrap_or(u64::MAX);
        Self { version: VERSION, announced, events, end: End::Complete }
    }

    /// Reads a table with the algorithms of `log`, whatever follows its events being ignored. The table is
    /// crypto-agile even where the log is a legacy one.
    #[must_use]
    pub fn parse(bytes: &[u8], log: &EventLog) -> Self {
        let number = |at| slice(bytes, at, 8).and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
        let (Some(version), Some(announced)) = (number(0), number(8)) else {
            let end = End::Damaged { at: 0, damage: Damage::Head };
            return Self { version: 0, announced: 0, events: Vec::new(), end };
        };
        let most = usize::try_from(announced).unwrap_or(usize::MAX);
        let spec = spec(log);
        let (events, mut end) = all(bytes, HEAD, most, &mut |bytes, at| agile_event(bytes, at, &spec));
        if end == End::Complete && events.len() < most {
            end = End::Damaged { at: bytes.len(), damage: Damage::Head };
        }
        Self { version, announced, events, end }
    }

    /// The table as firmware keeps it.
    ///
    /// # Errors
    /// [`WriteError`] when a digest does not have the size that `log` announces.
    pub fn to_bytes(&self, log: &EventLog) -> Result<Vec<u8>, WriteError> {
        let spec = spec(log);
        let mut out = self.version.to_le_bytes().to_vec();
        out.extend(self.announced.to_le_bytes());
        for (index, event) in self.events.iter().enumerate() {
            write::agile_event(event, index, &spec, &mut out)?;
        }
        Ok(out)
    }
}

fn spec(log: &EventLog) -> SpecId {
    match &log.format {
        Format::Agile(spec) => spec.clone(),
        Format::Legacy => SpecId::new(&log.banks()),
    }
}

impl EventLog {
    /// How many events `table` may share with this log: numbers of events that this log ends and the table
    /// begins with, largest first, 0 always among them. More than one besides 0 means that the same things
    /// were measured several times; PCR values tell which is right.
    #[must_use]
    pub fn overlaps(&self, table: &FinalEvents) -> Vec<usize> {
        let begins = self.in_this_format(table);
        let ends = &self.events[self.events.len().saturating_sub(begins.len())..];
        // Knuth, Morris and Pratt: linear, however often a hostile log repeats itself. `borders[n]` is the
        // longest beginning that the first n + 1 events of the table also end with.
        let longer = |borders: &[usize], mut length: usize, event: &Event| {
            while length > 0 && begins.get(length) != Some(event) {
                length = borders[length - 1];
            }
            if begins.get(length) == Some(event) { length + 1 } else { length }
        };
        let mut borders: Vec<usize> = Vec::with_capacity(begins.len());
        for (at, event) in begins.iter().enumerate() {
            let before = at.checked_sub(1).map(|last| borders[last]);
            borders.push(before.map_or(0, |length| longer(&borders, length, event)));
        }
        let mut length = ends.iter().fold(0, |length, event| longer(&borders, length, event));
        let mut found = vec![length];
        while length > 0 {
            length = borders[length - 1];
            found.push(length);
        }
        found
    }

    /// This log and after it the events of `table` that it does not have yet: no event twice, taking the
    /// longest [overlap](Self::overlaps).
    #[must_use]
    pub fn merged(&self, table: &FinalEvents) -> Self {
        self.merged_by(table, self.overlaps(table).first().copied().unwrap_or(0))
    }

    /// As [`Self::merged`], with the first `overlap` events of the table left out.
    #[must_use]
    pub fn merged_by(&self, table: &FinalEvents, overlap: usize) -> Self {
        let mut merged = self.clone();
        merged.events.extend(self.in_this_format(table).into_iter().skip(overlap));
        if !matches!(merged.end, End::Damaged { .. }) {
            merged.end = table.end;
        }
        merged
    }

    /// The table's events as this log would have them: a legacy one keeps nothing but SHA-1.
    fn in_this_format(&self, table: &FinalEvents) -> Vec<Event> {
        let mut events = table.events.clone();
        if self.format == Format::Legacy {
            for event in &mut events {
                event.digests.retain(|digest| digest.algorithm == HashAlg::Sha1.tpm_id());
            }
        }
        events
    }
}
