//! Forecasts as people read them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use latchkey_record::logged::{
    LogComparison, LoggedDifference, LoggedEvent, LoggedPcr, LoggedToken, OnlyForecast,
};
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};
use latchkey_record::{Certainty, Forecast, ForecastEvent, Leg, Origin, Outcome, Stage, Unmodelled};
use latchkey_report::forecast::{difference, explain, findings, logged, whole};

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

fn digest(byte: u8) -> Digest {
    Digest::new(HashAlg::Sha256, &[byte; 32]).unwrap()
}

fn event(index: u32, byte: u8, what: &str, certainty: Certainty) -> ForecastEvent {
    ForecastEvent {
        pcr: pcr(index),
        kind: 0,
        digests: if matches!(certainty, Certainty::Open(_)) { vec![] } else { vec![digest(byte)] },
        stage: Stage::Shim,
        what: what.into(),
        from: Origin::File(format!("esp:/EFI/rocky/{what}")),
        certainty,
    }
}

fn forecast(uki: u8, outcome: Option<Outcome>) -> Forecast {
    let events = vec![
        event(0, 1, "pei", Certainty::Measured),
        event(1, 2, "tables", Certainty::Open("made by QEMU".into())),
        event(4, uki, "uki.efi", Certainty::Computed),
        event(11, 4, "phase", Certainty::Computed),
    ];
    Forecast {
        legs: vec![
            Leg { events: vec![event(4, 9, "fbx64.efi", Certainty::Computed)], tried_after: None },
            Leg { events, tried_after: Some(3) },
        ],
        outcome,
        because: "token 0 frees keyslot 0".into(),
        reported_by: None,
        pcrs: [(HashAlg::Sha256, PcrValues([(pcr(0), digest(7)), (pcr(4), digest(uki))].into()))].into(),
        systemd: None,
        guest_log: true,
        untried: false,
        prompts: None,
        repeats_from: None,
        unmodelled: vec![Unmodelled {
            stage: Stage::Firmware,
            what: "variable BootNext".into(),
            why: "a one-time boot option is not modelled".into(),
            pcrs: vec![pcr(1)],
        }],
        next: BTreeMap::from([("SbatLevel".into(), "raised to 2024010900".into())]),
    }
}

#[test]
fn the_whole_chain() {
    insta::assert_snapshot!(whole(&forecast(3, Some(Outcome::Unlocked))));
}

#[test]
fn one_pcr() {
    let forecast = forecast(3, Some(Outcome::Unlocked));
    insta::assert_snapshot!(format!(
        "{}--\n{}",
        explain(&forecast, &[], pcr(4)),
        explain(&forecast, &[], pcr(12))
    ));
}

#[test]
fn one_that_is_not_forecast_says_why() {
    let forecast = forecast(3, None);
    let said = [10, 16, 20, 23].map(|index| explain(&forecast, &[], pcr(index)).to_string());
    let whys = ["IMA", "debugging", "dynamic launch", "applications"];
    for (said, why) in said.iter().zip(whys) {
        assert!(said.contains("is not forecast") && said.contains(why), "{said}");
    }
}

#[test]
fn one_pcr_as_json() {
    let forecast = forecast(3, None);
    let told = |index| serde_json::to_value(explain(&forecast, &[], pcr(index))).unwrap();
    let four = told(4);
    assert_eq!((&four["pcr"], &four["events"][0]["what"]), (&4.into(), &"uki.efi".into()), "{four}");
    assert_eq!(four["values"]["sha256"], serde_json::to_value(digest(3)).unwrap());
    assert!(four["not_forecast"].is_null() && told(10)["not_forecast"].is_string());
    // An event that is open, so that nobody knows the value.
    assert_eq!(
        (told(1)["events"].as_array().unwrap().len(), &told(1)["values"]),
        (1, &serde_json::json!({}))
    );
}

#[test]
fn where_two_part() {
    let (one, other) = (forecast(3, Some(Outcome::Unlocked)), forecast(5, None));
    let none: [String; 0] = [];
    let (one, other) = ((&one, &none[..]), (&other, &none[..]));
    insta::assert_snapshot!(format!("{}--\n{}", difference(one, other), difference(one, one)));
}

#[test]
fn one_that_is_reset_first_is_compared_from_its_end() {
    let (one, mut other) = (forecast(3, None), forecast(3, None));
    other.legs.remove(0);
    assert_eq!(difference((&one, &[]), (&other, &[])).at, None);
    other.legs[0].events.pop();
    let found = difference((&one, &[]), (&other, &[]));
    assert_eq!((found.at, found.one.is_some(), found.other), (Some((2, 3)), true, None));
}

/// Neither form of one PCR's story, nor of a difference, is without what it hangs on.
#[test]
fn what_is_supposed_and_unmodelled_is_told_with_a_part_of_a_forecast() {
    let (one, mut other) = (forecast(3, None), forecast(3, None));
    let [both, alone] = ["its TPM is the one".to_owned(), "it is of another\ndisk".to_owned()];
    let open = "unmodelled: variable BootNext (firmware): a one-time boot option is not modelled; PCR 1 may differ\n";
    let told = |index| explain(&one, std::slice::from_ref(&both), pcr(index));
    assert!(told(1).to_string().ends_with(&format!("supposed: its TPM is the one\n{open}")), "{}", told(1));
    assert!(told(4).to_string().ends_with("supposed: its TPM is the one\n"), "{}", told(4));
    let json = serde_json::to_value(told(1)).unwrap();
    assert_eq!(
        (&json["supposed"][0], &json["unmodelled"][0]["pcrs"][0]),
        (&"its TPM is the one".into(), &1.into())
    );

    other.unmodelled[0].what = "variable OsIndications".into();
    let both_sides = [both.clone()];
    let found = difference((&one, &[both, alone]), (&other, &both_sides));
    let said = found.to_string();
    for line in [
        "supposed: its TPM is the one",
        "supposed of one: it is of another\u{fffd}disk",
        "unmodelled of one: variable BootNext (firmware): a one-time boot option is not modelled; PCR 1 may differ",
        "unmodelled of the other: variable OsIndications (firmware): a one-time boot option is not modelled; PCR 1 may differ",
    ] {
        assert!(said.lines().any(|it| it == line), "{line}\nis not in\n{said}");
    }
    let json = serde_json::to_value(found).unwrap();
    assert_eq!(json["supposed"][1], serde_json::json!(["its TPM is the one"]));
    assert_eq!(json["unmodelled"][1][0]["what"], "variable OsIndications");
}

fn held_against_a_log(hostile: &str) -> LogComparison {
    let first = LoggedDifference {
        forecast: Some(event(4, 5, "shimx64.efi", Certainty::Computed)),
        logged: Some(LoggedEvent { digest: Some(digest(6)), what: format!("EV_IPL {hostile}") }),
    };
    let of = |same, another_platform, first| LoggedPcr { same, another_platform, first };
    LogComparison {
        bank: HashAlg::Sha256,
        findings: vec![format!("it is of another disk{hostile}")],
        only_forecast: [
            ("shimx64.efi", Some(Outcome::NoBootOption)),
            ("shim_certificate.efi", Some(Outcome::Unlocked)),
            ("fbx64.efi", None),
        ]
        .map(|(name, without)| OnlyForecast {
            file: format!("esp:/EFI/rocky/{name}{hostile}"),
            without,
            because: format!("of its own reason{hostile}"),
        })
        .into(),
        only_logged: vec![format!("\\EFI\\rocky\\grubx64.efi{hostile}")],
        pcrs: [
            (pcr(4), of(2, true, Some(first))),
            (pcr(7), of(1, false, None)),
            (pcr(12), of(0, false, None)),
        ]
        .into(),
        tokens: [(Some(true), 0), (Some(false), 1), (None, 2)]
            .map(|(sealed_to_it, number)| {
                (
                    number,
                    LoggedToken {
                        pcrs: vec![pcr(4), pcr(7)],
                        bank: Some(format!("sha256{hostile}")),
                        sealed_to_it,
                    },
                )
            })
            .into(),
    }
}

#[test]
fn what_a_log_tells() {
    let held = held_against_a_log("");
    insta::assert_snapshot!(format!("{}{}", findings(&held), logged(&held)));
}

/// As long as a path on Hyper-V is.
#[test]
fn a_long_path_is_shown_with_its_partition_and_its_file() {
    let place = "AcpiEx(@@@0000,@@@0000,0x0,VMBus,,)/VenHw(9B17E5A2-0891-42DD-B653-80B5C22809BA,D96361BAA104294DB60572E2FFB1DC7F\
                 1A78B3F8821E1848A1C363D806EC15BB)/Scsi(0x0,0x0)";
    let end = r"/HD(1,GPT,CB96A8E9-CADE-4BA7-B68E-69B6D1EA59CB,0x800,0x100000)/\EFI\BOOT\BOOTX64.EFI (82973696 bytes)";
    let shown = |what: String| {
        let mut held = held_against_a_log("");
        let first = held.pcrs.get_mut(&pcr(4)).unwrap().first.as_mut().unwrap();
        first.logged = Some(LoggedEvent { digest: None, what });
        let told = logged(&held);
        told.lines().find(|line| line.starts_with("      logged")).unwrap().to_owned()
    };
    let line = shown(format!("EV_EFI_BOOT_SERVICES_APPLICATION {place}{end}"));
    assert!(line.contains("EV_EFI_BOOT_SERVICES_APPLICATION AcpiEx(@@@0000,@@@0000,0x0,VMBus,,)"), "{line}");
    assert!(line.ends_with(&format!("...{end}")), "{line}");
    // What has no partition, or too long a name, has its end.
    let line = shown(format!("EV_IPL {}/HD({}.efi", "ä".repeat(300), "ö".repeat(300)));
    assert!(line.contains("EV_IPL ää") && line.contains("...öö") && line.ends_with("ö.efi"), "{line}");
    assert_eq!(
        line.chars().filter(|c| "äö".contains(*c)).count(),
        200 - "EV_IPL ".len() - ".efi".len(),
        "{line}"
    );
}

/// Nothing that stands on a disk or in a log makes a line of its own, or speaks to the terminal.
#[test]
fn a_log_forges_no_line() {
    let told = |hostile| {
        let held = held_against_a_log(hostile);
        findings(&held) + &logged(&held)
    };
    let (plain, forged) = (told(""), told("\ntoken 0\x1b[8m"));
    assert_eq!(plain.lines().count(), forged.lines().count());
    assert!(!forged.contains(|c: char| c.is_control() && c != '\n'));
}
