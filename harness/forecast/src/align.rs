//! A forecast held against what the TPM recorder saw.

use latchkey_record::forecast::Difference;
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex};
use latchkey_record::tpm::TpmRecord;
use latchkey_record::{Alignment, Certainty, Forecast, ForecastEvent, Mismatch};

/// PCRs that are aligned: 0 to 9 and 11 to 15. PCR 10 is IMA's: recorded, not forecast.
#[must_use]
pub fn is_aligned(pcr: PcrIndex) -> bool {
    matches!(pcr.get(), 0..=9 | 11..=15)
}

/// Aligns the boot that `record` holds (all its legs, from power-on or from the guest's reboot on) with its forecast, in
/// `bank`. `resets` are the values of [`latchkey_record::tpm::TpmExchange::reset`] of the boot's legs, in order.
///
/// Events are compared in order. After a difference the two are brought together again at the next digest that both
/// have, so that one missing event is one mismatch and not all that follow it. Where the record ends earlier than the
/// forecast (the outcome was clear before the last event), the rest is not missing.
#[must_use]
pub fn align(forecast: &Forecast, record: &TpmRecord, resets: &[u32], bank: HashAlg) -> Alignment {
    let mut alignment = Alignment::default();
    for (number, leg) in forecast.legs.iter().enumerate() {
        let seen = resets.get(number).map(|reset| extends(&record.after_reset(*reset), bank));
        let needed = leg.tried_after.unwrap_or(leg.events.len());
        one_leg(&mut alignment, number, &leg.events, needed, &seen.unwrap_or_default(), bank);
    }
    for (number, reset) in resets.iter().enumerate().skip(forecast.legs.len()) {
        one_leg(&mut alignment, number, &[], 0, &extends(&record.after_reset(*reset), bank), bank);
    }
    alignment
}

fn extends(record: &TpmRecord, bank: HashAlg) -> Vec<(PcrIndex, Digest)> {
    record
        .extends()
        .filter(|(_, pcr, _)| is_aligned(*pcr))
        .filter_map(|(_, pcr, digests)| Some((pcr, digests.iter().find(|d| d.alg() == bank)?.clone())))
        .collect()
}

fn fits(event: &ForecastEvent, seen: &(PcrIndex, Digest), bank: HashAlg) -> bool {
    event.pcr == seen.0
        && (matches!(event.certainty, Certainty::Open(_)) || event.digest(bank) == Some(&seen.1))
}

fn one_leg(
    alignment: &mut Alignment,
    leg: usize,
    expected: &[ForecastEvent],
    needed: usize,
    seen: &[(PcrIndex, Digest)],
    bank: HashAlg,
) {
    let (mut e, mut s) = (0, 0);
    while e < expected.len() && s < seen.len() {
        let event = &expected[e];
        if fits(event, &seen[s], bank) {
            match &event.certainty {
                Certainty::Open(reason) => *alignment.open.entry(reason.clone()).or_default() += 1,
                _ => alignment.matched += 1,
            }
            (e, s) = (e + 1, s + 1);
            continue;
        }
        let missing = expected[e..].iter().position(|event| fits(event, &seen[s], bank));
        let extra = seen[s..].iter().position(|seen| fits(event, seen, bank));
        match (missing, extra) {
            // Both could catch up; the shorter way is the likelier story.
            (Some(skip), Some(more)) if skip <= more => {
                skip_expected(alignment, leg, &expected[e..e + skip], &mut e, s, bank)
            }
            (_, Some(more)) => skip_seen(alignment, leg, &seen[s..s + more], &mut s),
            (Some(skip), None) => skip_expected(alignment, leg, &expected[e..e + skip], &mut e, s, bank),
            (None, None) if event.pcr == seen[s].0 => {
                alignment.mismatches.push(mismatch(
                    leg,
                    s,
                    Difference::Different,
                    Some(event),
                    Some(&seen[s]),
                    bank,
                ));
                (e, s) = (e + 1, s + 1);
            }
            (None, None) => skip_seen(alignment, leg, &seen[s..=s], &mut s),
        }
    }
    skip_seen(alignment, leg, &seen[s..], &mut s);
    if e < needed {
        skip_expected(alignment, leg, &expected[e..needed], &mut e, s, bank);
    }
}

fn skip_seen(alignment: &mut Alignment, leg: usize, extra: &[(PcrIndex, Digest)], s: &mut usize) {
    for seen in extra {
        let bank = seen.1.alg();
        alignment.mismatches.push(mismatch(leg, *s, Difference::Unexplained, None, Some(seen), bank));
        *s += 1;
    }
}

fn skip_expected(
    alignment: &mut Alignment,
    leg: usize,
    missing: &[ForecastEvent],
    e: &mut usize,
    s: usize,
    bank: HashAlg,
) {
    for event in missing {
        alignment.mismatches.push(mismatch(leg, s, Difference::Missing, Some(event), None, bank));
        *e += 1;
    }
}

fn mismatch(
    leg: usize,
    index: usize,
    kind: Difference,
    event: Option<&ForecastEvent>,
    seen: Option<&(PcrIndex, Digest)>,
    bank: HashAlg,
) -> Mismatch {
    let pcr = seen.map(|seen| seen.0).or(event.map(|event| event.pcr));
    Mismatch {
        index,
        leg,
        kind,
        // One of the two is always there.
        pcr: pcr.unwrap_or_else(|| PcrIndex::new(0).expect("there is a PCR 0")),
        expected: event.and_then(|event| event.digest(bank).cloned()),
        seen: seen.map(|seen| seen.1.clone()),
        what: event.map(|event| event.what.clone()),
        from: event.map(|event| event.from.clone()),
        event_type: event.map(|event| event.kind),
    }
}
