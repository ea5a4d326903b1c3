//! A forecast held against what the TPM recorder saw.

use latchkey_record::forecast::Difference;
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex};
use latchkey_record::tpm::TpmRecord;
use latchkey_record::{Alignment, Certainty, Forecast, ForecastEvent, Mismatch};

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
        let seen = extends(&record.after_reset(*reset), bank);
        let again = forecast.repeats_from.and_then(|from| {
            let rest = forecast.legs.get(from..)?;
            rest.get((number - forecast.legs.len()).checked_rem(rest.len())?)
        });
        let expected = again.map(|leg| &leg.events[..]).unwrap_or_default();
        // What goes on for ever is looked at while it goes on.
        let needed = if number + 1 == resets.len() { 0 } else { expected.len() };
        one_leg(&mut alignment, number, expected, needed, &seen, bank);
    }
    alignment
}

fn extends(record: &TpmRecord, bank: HashAlg) -> Vec<(PcrIndex, Digest)> {
    record
        .extends()
        .filter(|(_, pcr, _)| pcr.is_compared())
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_record::tpm::{TpmDetail, TpmExchange, TpmResponse, command};
    use latchkey_record::{Leg, Origin, Stage};
    use rstest::rstest;

    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap()
    }

    /// `open` stands for an event whose digest is not forecast.
    fn event(pcr: u32, byte: Option<u8>) -> ForecastEvent {
        ForecastEvent {
            pcr: PcrIndex::new(pcr).unwrap(),
            kind: 0,
            digests: byte.map(digest).into_iter().collect(),
            stage: Stage::Shim,
            what: format!("thing {byte:?}"),
            from: Origin::File(format!("esp:/{byte:?}")),
            certainty: byte.map_or(Certainty::Open("made by QEMU".into()), |_| Certainty::Computed),
        }
    }

    fn record(seen: &[(u32, u8)]) -> TpmRecord {
        let exchange = |(pcr, byte): &(u32, u8)| TpmExchange {
            at_ms: 0,
            reset: 0,
            code: command::PCR_EXTEND,
            command: "PCR_Extend".into(),
            handles: vec![],
            detail: Some(TpmDetail::Extend {
                pcr: PcrIndex::new(*pcr).unwrap(),
                digests: vec![digest(*byte)],
            }),
            response: TpmResponse { code: 0, words: "SUCCESS".into() },
        };
        TpmRecord { exchanges: seen.iter().map(exchange).collect(), doubts: vec![] }
    }

    fn forecast(events: Vec<ForecastEvent>, tried_after: Option<usize>) -> Forecast {
        Forecast {
            legs: vec![Leg { events, tried_after }],
            outcome: None,
            because: String::new(),
            reported_by: None,
            pcrs: std::collections::BTreeMap::new(),
            systemd: None,
            guest_log: true,
            untried: false,
            prompts: None,
            repeats_from: None,
            unmodelled: vec![],
            next: std::collections::BTreeMap::new(),
        }
    }

    #[rstest]
    #[case::all_as_forecast(&[(4, 1), (7, 2), (1, 9), (4, 3)], 3, 1, &[])]
    #[case::pcr_10_is_not_compared(&[(4, 1), (10, 8), (7, 2), (1, 9), (4, 3)], 3, 1, &[])]
    #[case::another_digest(&[(4, 1), (7, 5), (1, 9), (4, 3)], 2, 1, &[(1, Difference::Different)])]
    #[case::one_too_many(&[(4, 1), (14, 5), (7, 2), (1, 9), (4, 3)], 3, 1, &[(1, Difference::Unexplained)])]
    #[case::one_is_missing(&[(4, 1), (1, 9), (4, 3)], 2, 1, &[(1, Difference::Missing)])]
    #[case::the_end_is_missing(&[(4, 1), (7, 2)], 2, 0, &[(2, Difference::Missing), (2, Difference::Missing)])]
    #[case::more_at_the_end(
        &[(4, 1), (7, 2), (1, 9), (4, 3), (11, 4)], 3, 1, &[(4, Difference::Unexplained)]
    )]
    #[case::nothing_at_all(&[], 0, 0, &[(0, Difference::Missing); 4])]
    fn differences_are_told_one_by_one(
        #[case] seen: &[(u32, u8)],
        #[case] matched: usize,
        #[case] open: usize,
        #[case] differences: &[(usize, Difference)],
    ) {
        let events = vec![event(4, Some(1)), event(7, Some(2)), event(1, None), event(4, Some(3))];
        let aligned = align(&forecast(events, None), &record(seen), &[0], HashAlg::Sha256);
        let told: Vec<_> = aligned.mismatches.iter().map(|m| (m.index, m.kind)).collect();
        assert_eq!((aligned.matched, told.as_slice()), (matched, differences));
        assert_eq!(aligned.open.values().sum::<usize>(), open);
    }

    #[rstest]
    #[case::each_as_forecast(["1", "23", "23", "2"], 0)]
    #[case::another_in_between(["1", "23", "24", "2"], 1)]
    #[case::too_short_in_between(["1", "23", "2", "23"], 1)]
    fn what_goes_on_for_ever_is_compared_as_often_as_it_was_seen(
        #[case] legs: [&str; 4],
        #[case] wrong: usize,
    ) {
        let leg = |bytes: &[u8]| Leg {
            events: bytes.iter().map(|byte| event(4, Some(*byte))).collect(),
            tried_after: None,
        };
        let made =
            Forecast { legs: vec![leg(&[1]), leg(&[2, 3])], repeats_from: Some(1), ..forecast(vec![], None) };
        let mut seen = record(&[]);
        for (reset, digits) in (0..).zip(legs) {
            let events: Vec<(u32, u8)> = digits.bytes().map(|digit| (4, digit - b'0')).collect();
            let exchanges = record(&events).exchanges.into_iter();
            seen.exchanges.extend(exchanges.map(|exchange| TpmExchange { reset, ..exchange }));
        }
        assert_eq!(align(&made, &seen, &[0, 1, 2, 3], HashAlg::Sha256).mismatches.len(), wrong);
    }

    #[test]
    fn what_follows_the_root_volumes_turn_may_be_missing_but_not_different() {
        let made = forecast(vec![event(4, Some(1)), event(11, Some(2)), event(11, Some(3))], Some(1));
        let told = |seen: &[(u32, u8)]| align(&made, &record(seen), &[0], HashAlg::Sha256).mismatches;
        assert!(told(&[(4, 1)]).is_empty() && told(&[(4, 1), (11, 2)]).is_empty());
        let wrong = told(&[(4, 1), (11, 9)]);
        assert_eq!(wrong.len(), 1);
        assert!(wrong[0].to_string().contains("esp:/Some(2)"), "{}", wrong[0]);
    }

    #[test]
    fn a_reset_that_was_not_forecast_is_unexplained() {
        let made = forecast(vec![event(4, Some(1))], None);
        let mut seen = record(&[(4, 1), (4, 1)]);
        seen.exchanges[1].reset = 1;
        let aligned = align(&made, &seen, &[0, 1], HashAlg::Sha256);
        assert_eq!(aligned.mismatches.len(), 1);
        assert_eq!((aligned.mismatches[0].leg, aligned.mismatches[0].kind), (1, Difference::Unexplained));
    }
}
