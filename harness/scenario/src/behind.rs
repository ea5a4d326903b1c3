//! What is behind PCRs that moved: where the measurements came from that one boot has and another has not.

use std::collections::BTreeSet;

use latchkey_images::Image;
use latchkey_record::{Certainty, Digest, ForecastEvent, Origin, PcrIndex, PcrValues};

use crate::location::Location;
use crate::step::place;

/// Where the events of PCR 0 to 9 and 11 to 15 came from of which one of two boots has more than the other, or, if there are
/// none, which stand elsewhere: files, variables, and what else there is, each by its name.
pub(crate) fn parted(then: &[ForecastEvent], now: &[ForecastEvent]) -> BTreeSet<String> {
    let more = |these: &[ForecastEvent], those: &[ForecastEvent]| {
        let mut left: Vec<&ForecastEvent> = those.iter().collect();
        let mut names = BTreeSet::new();
        for event in these.iter().filter(|event| PcrIndex::is_compared(event.pcr)) {
            let same = |other: &&ForecastEvent| {
                (other.pcr, &other.digests, &other.from) == (event.pcr, &event.digests, &event.from)
            };
            match left.iter().position(same) {
                Some(at) => drop(left.swap_remove(at)),
                None => names.extend(names_of(&event.from)),
            }
        }
        names
    };
    let names = &more(then, now) | &more(now, then);
    if !names.is_empty() {
        return names;
    }
    // The same measurements in another order are other values, too.
    let of = |events: &[ForecastEvent], pcr: PcrIndex| -> Vec<ForecastEvent> {
        events.iter().filter(|event| event.pcr == pcr).cloned().collect()
    };
    let pcrs: BTreeSet<PcrIndex> =
        now.iter().map(|event| event.pcr).filter(|pcr| PcrIndex::is_compared(*pcr)).collect();
    let pairs = pcrs.into_iter().flat_map(|pcr| of(then, pcr).into_iter().zip(of(now, pcr)));
    let elsewhere = pairs.filter(|(then, now)| then.digests != now.digests);
    elsewhere.flat_map(|(then, now)| [names_of(&then.from), names_of(&now.from)].concat()).collect()
}

/// The compared PCRs whose values are not known on one side, of which what was forecast differs: events that are declared open
/// are in no value, and hide none of the others.
pub(crate) fn unvalued(
    (then, events_then): (&PcrValues, &[ForecastEvent]),
    (now, events_now): (&PcrValues, &[ForecastEvent]),
) -> Vec<PcrIndex> {
    let of = |events: &'_ [ForecastEvent], pcr: PcrIndex| -> Vec<Vec<Digest>> {
        let known = events.iter().filter(|event| !matches!(event.certainty, Certainty::Open(_)));
        known.filter(|event| event.pcr == pcr).map(|event| event.digests.clone()).collect()
    };
    let all = (0..PcrIndex::COUNT).filter_map(|pcr| PcrIndex::new(pcr).ok()).filter(|pcr| pcr.is_compared());
    let unknown = all.filter(|pcr| !then.0.contains_key(pcr) || !now.0.contains_key(pcr));
    unknown.filter(|pcr| of(events_then, *pcr) != of(events_now, *pcr)).collect()
}

fn names_of(from: &Origin) -> Vec<String> {
    match from {
        // Of an initrd in several files each is one.
        Origin::File(file) | Origin::Part { file, .. } => file.split(" + ").map(str::to_owned).collect(),
        Origin::Variable(name) => vec![name.clone()],
        other => vec![other.to_string()],
    }
}

/// Whether what a scenario calls `by` is among `names` on a machine made of `image`: a file as it is called there, or a
/// variable, whose name may be written in small letters. FAT does not tell them apart.
pub(crate) fn is_among(by: &str, names: &BTreeSet<String>, image: &Image) -> bool {
    let file = by.parse::<Location>().ok().and_then(|location| place(image, &location).ok());
    let name = file.map_or_else(|| by.to_owned(), |place| place.to_string());
    names.iter().any(|known| match name.starts_with("boot:") {
        true => *known == name,
        false => known.eq_ignore_ascii_case(&name),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_record::{HashAlg, Stage};

    use super::*;

    fn event(pcr: u32, byte: u8, from: Origin) -> ForecastEvent {
        ForecastEvent {
            pcr: PcrIndex::new(pcr).unwrap(),
            kind: 0,
            digests: vec![Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap()],
            stage: Stage::Firmware,
            what: String::new(),
            from,
            certainty: Certainty::Computed,
        }
    }

    fn file(name: &str) -> Origin {
        Origin::File(name.into())
    }

    #[test]
    fn only_what_is_there_is_behind_it() {
        let image = Image {
            name: "i".into(),
            like: None,
            path: "/nowhere".into(),
            format: latchkey_disk::Format::Qcow2,
            signing: latchkey_images::Signing::Unavailable,
            trust: latchkey_images::Trust::Platform,
            manifest: None,
            uki: Some("/EFI/Linux/a.efi".into()),
        };
        let names = ["dbx", "esp:/EFI/Linux/A.efi", "boot:/grub.cfg"].map(str::to_owned).into();
        for by in ["uki", "DBX", "esp:/efi/linux/a.efi", "boot:/grub.cfg"] {
            assert!(is_among(by, &names, &image), "{by}");
        }
        for by in ["the moon", "db", "esp:/EFI/Linux/b.efi", "boot:/GRUB.cfg", "initrd", ""] {
            assert!(!is_among(by, &names, &image), "{by}");
        }
    }

    /// A PCR with an event that is declared open has no value; what else is measured there counts all the same.
    #[test]
    fn an_open_event_hides_no_other() {
        let open = |byte| ForecastEvent {
            certainty: Certainty::Open("tables of the host".into()),
            ..event(1, byte, file("acpi"))
        };
        let unknown = PcrValues::default();
        let order = |byte| event(1, byte, Origin::Variable("BootOrder".into()));
        let moved = |then: &[ForecastEvent], now: &[ForecastEvent]| {
            unvalued((&unknown, then), (&unknown, now)).iter().map(|pcr| pcr.get()).collect::<Vec<_>>()
        };
        assert_eq!(moved(&[open(1), order(2)], &[open(9), order(2)]), [0_u8; 0]);
        assert_eq!(moved(&[open(1), order(2)], &[open(1), order(3)]), [1]);
        let values = PcrValues([(PcrIndex::new(1).unwrap(), order(2).digests.remove(0))].into());
        assert!(unvalued((&values, &[order(2)]), (&values, &[order(3)])).is_empty(), "those are compared");
    }

    #[test]
    fn what_one_boot_has_more_is_behind_what_moved() {
        let dbx = || Origin::Variable("dbx".into());
        let then = [event(7, 1, dbx()), event(4, 1, file("esp:/a")), event(4, 2, file("esp:/b"))];
        let now = [event(7, 2, dbx()), event(4, 2, file("esp:/b")), event(4, 3, file("boot:/c + esp:/d"))];
        let names: Vec<String> = parted(&then, &now).into_iter().collect();
        assert_eq!(names, ["boot:/c", "dbx", "esp:/a", "esp:/d"]);
        assert!(parted(&then, &then).is_empty());
        // The same once more is another value; PCR 10 is nobody's.
        let twice = [&then[..], &then[2..]].concat();
        assert_eq!(parted(&then, &twice).into_iter().collect::<Vec<_>>(), ["esp:/b"]);
        assert!(parted(&[], &[event(10, 1, dbx())]).is_empty());
        let turned = [event(4, 2, file("esp:/b")), event(7, 1, dbx()), event(4, 1, file("esp:/a"))];
        assert_eq!(parted(&then, &turned).into_iter().collect::<Vec<_>>(), ["esp:/a", "esp:/b"]);
        let apart = [event(4, 1, file("esp:/a")), event(4, 2, file("esp:/b")), event(7, 1, dbx())];
        assert!(parted(&then, &apart).is_empty(), "each PCR has its own order");
    }
}
