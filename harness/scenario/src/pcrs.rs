//! PCR values out of a TPM record, at the moment that counts.

use std::collections::BTreeMap;

use latchkey_measure::hash::extend;
use latchkey_record::tpm::{TpmExchange, TpmRecord, command};
use latchkey_record::{HashAlg, PcrIndex, PcrValues};

/// PCRs that a running system leaves alone, so that the guest can be asked for them at any time. systemd
/// extends 11, 12 and 15 as the boot goes on.
#[must_use]
pub fn is_settled(index: PcrIndex) -> bool {
    matches!(index.get(), 0..=9 | 13 | 14)
}

/// Every bank after all extends of `record`.
#[must_use]
pub fn replay(record: &TpmRecord) -> BTreeMap<HashAlg, PcrValues> {
    values(record, record.exchanges.len())
}

/// Every bank when the sealed key was first tried: when an object was loaded or a PCR policy begun. Without a
/// try, after all extends.
#[must_use]
pub fn at_first_try(record: &TpmRecord) -> BTreeMap<HashAlg, PcrValues> {
    let tries = |e: &TpmExchange| matches!(e.code, command::LOAD | command::POLICY_PCR);
    let end = record.exchanges.iter().position(tries).unwrap_or(record.exchanges.len());
    values(record, end)
}

fn values(record: &TpmRecord, end: usize) -> BTreeMap<HashAlg, PcrValues> {
    let before = TpmRecord { exchanges: record.exchanges[..end].to_vec(), doubts: Vec::new() };
    let mut banks: BTreeMap<HashAlg, PcrValues> = BTreeMap::new();
    for (_, index, digests) in before.extends() {
        for digest in digests {
            let bank = banks.entry(digest.alg()).or_default();
            let pcr = bank.0.entry(index).or_insert_with(|| index.start_value(digest.alg()));
            *pcr = extend(pcr, digest);
        }
    }
    // A PCR that nobody extended still has a value, and one that is extended later has moved.
    for (alg, bank) in &mut banks {
        for index in (0..PcrIndex::COUNT).filter_map(|i| PcrIndex::new(i).ok()) {
            bank.0.entry(index).or_insert_with(|| index.start_value(*alg));
        }
    }
    banks
}

/// The compared PCRs of `bank` on which `now` and `then` differ; `None` when one of them lacks the bank.
#[must_use]
pub fn moved(
    now: &BTreeMap<HashAlg, PcrValues>,
    then: &BTreeMap<HashAlg, PcrValues>,
    bank: HashAlg,
    counts: fn(PcrIndex) -> bool,
) -> Option<Vec<PcrIndex>> {
    let (now, then) = (now.get(&bank)?, then.get(&bank)?);
    Some(now.moved_since(then).into_iter().filter(|index| counts(*index)).collect())
}

/// As [`list`], for a comparison that may have been impossible.
#[must_use]
pub fn list_or_unknown(pcrs: Option<&[PcrIndex]>) -> String {
    pcrs.map_or_else(|| "unknown: the bank is missing".to_owned(), list)
}

/// PCRs as people write them: `4, 7, 14`, or `none`.
#[must_use]
pub fn list(pcrs: &[PcrIndex]) -> String {
    if pcrs.is_empty() {
        return "none".into();
    }
    pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Reads what `tpm2_pcrread` prints for one bank: `  4 : 0xABCD...` lines under the bank's name.
#[must_use]
pub fn parse_pcrread(text: &str) -> BTreeMap<HashAlg, PcrValues> {
    let mut banks: BTreeMap<HashAlg, PcrValues> = BTreeMap::new();
    let mut bank = None;
    for line in text.lines() {
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        let (name, value) = (name.trim(), value.trim());
        if value.is_empty() {
            bank = name.parse::<HashAlg>().ok();
            continue;
        }
        let index = name.parse().ok().and_then(|index| PcrIndex::new(index).ok());
        let (Some(alg), Some(index), Some(hex)) = (bank, index, value.strip_prefix("0x")) else { continue };
        if let Ok(digest) = format!("{alg}:{}", hex.to_lowercase()).parse() {
            banks.entry(alg).or_default().0.insert(index, digest);
        }
    }
    banks
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use latchkey_record::Digest;
    use latchkey_record::tpm::{TpmDetail, TpmResponse};

    fn exchange(code: u32, detail: Option<TpmDetail>) -> TpmExchange {
        let response = TpmResponse { code: 0, words: "SUCCESS".into() };
        TpmExchange { at_ms: 0, reset: 0, code, command: String::new(), handles: vec![], detail, response }
    }

    fn extends(pcr: u32) -> TpmExchange {
        let digests = vec![Digest::new(HashAlg::Sha256, &[1; 32]).unwrap()];
        exchange(command::PCR_EXTEND, Some(TpmDetail::Extend { pcr: PcrIndex::new(pcr).unwrap(), digests }))
    }

    #[test]
    fn what_comes_after_the_first_try_does_not_count() {
        let exchanges = vec![extends(4), exchange(command::LOAD, None), extends(11)];
        let record = TpmRecord { exchanges, doubts: vec![] };
        let (tried, all) = (at_first_try(&record), replay(&record));
        let moved: Vec<u8> = moved(&all, &tried, HashAlg::Sha256, PcrIndex::is_compared)
            .unwrap()
            .into_iter()
            .map(PcrIndex::get)
            .collect();
        assert_eq!(moved, [11]);
    }

    #[test]
    fn tpm2_pcrread_is_read() {
        let text = "  sha256:\n    0 : 0xABCDABCDABCDABCDABCDABCDABCDABCDABCDABCDABCDABCDABCDABCDABCDABCD\n    10: 0xnonsense\n  sha1:\n";
        let banks = parse_pcrread(text);
        let bank = &banks[&HashAlg::Sha256];
        assert_eq!(bank.0.len(), 1);
        assert_eq!(bank.0[&PcrIndex::new(0).unwrap()].short(), "abcdabcd");
    }
}
