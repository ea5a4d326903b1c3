//! A forecast on the terminal: the chain, one PCR's story, where two forecasts part.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use latchkey_record::logged::{
    LogComparison, LoggedDifference, LoggedEvent, LoggedPcr, LoggedToken, OnlyForecast,
};
use latchkey_record::pcr::{Digest, HashAlg, PcrIndex, PcrValues};
use latchkey_record::{Certainty, Forecast, ForecastEvent, Leg, Origin, Outcome, Unmodelled};

use crate::terminal::plain;
use serde::Serialize;

/// The digest of `event` in short, or why there is none.
fn short(event: &ForecastEvent) -> String {
    match (&event.certainty, event.digests.first()) {
        (Certainty::Open(_), _) | (_, None) => "open    ".into(),
        (_, Some(digest)) => digest.short(),
    }
}

fn row(event: &ForecastEvent) -> String {
    let mut row = format!(
        "  {:>3}  {:<9}  {}  {}, from {}",
        event.pcr.to_string(),
        event.stage,
        short(event),
        event.what,
        event.from
    );
    match &event.certainty {
        Certainty::Computed => {}
        Certainty::Measured => row.push_str(" [measured without the disk]"),
        Certainty::Open(why) => {
            let _ = write!(row, " [open: {why}]");
        }
    }
    plain(&row)
}

fn outcome(forecast: &Forecast) -> String {
    forecast.outcome.map_or("not certain".into(), |outcome| outcome.to_string())
}

/// The chain, the PCRs when a sealed key is tried, and the outcome.
#[must_use]
pub fn whole(forecast: &Forecast) -> String {
    let mut text = String::new();
    for (number, leg) in (1..).zip(&forecast.legs) {
        let reset = if number < forecast.legs.len() { ", which ends with a reset" } else { "" };
        let _ = writeln!(text, "start {number}: {} events{reset}", leg.events.len());
        let _ = writeln!(text, "  PCR  stage      digest    what");
        for (index, event) in leg.events.iter().enumerate() {
            if leg.tried_after == Some(index) {
                let _ = writeln!(text, "       -- the root volume is opened here --");
            }
            let _ = writeln!(text, "{}", row(event));
        }
    }
    for (bank, values) in &forecast.pcrs {
        let _ = writeln!(text, "\nPCRs when the root volume is opened, {bank}:");
        for (index, digest) in &values.0 {
            let _ = writeln!(text, "  {:>3}  {}", index.to_string(), digest.hex());
        }
    }
    let open = unmodelled(forecast);
    if !open.is_empty() {
        let _ = write!(text, "\n{open}");
    }
    for (variable, how) in &forecast.next {
        let _ = writeln!(text, "\nleaves {variable}: {how}");
    }
    let _ = write!(text, "\n{}", summary(forecast));
    text
}

/// What is not forecast, a line each.
#[must_use]
pub fn unmodelled(forecast: &Forecast) -> String {
    forecast.unmodelled.iter().map(|open| format!("unmodelled: {}\n", not_modelled(open))).collect()
}

fn not_modelled(open: &Unmodelled) -> String {
    let pcrs = open.pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    plain(&format!("{} ({}): {}; PCR {pcrs} may differ", open.what, open.stage, open.why))
}

/// The outcome alone, and why, in a line.
#[must_use]
pub fn summary(forecast: &Forecast) -> String {
    let by = forecast.reported_by.as_ref().map_or(String::new(), |who| format!(", reported by {who}"));
    format!("outcome: {}\n", plain(&format!("{}{by}: {}", outcome(forecast), forecast.because)))
}

/// What a forecast supposes, a line each; nothing where it supposes nothing.
#[must_use]
pub fn supposed(what: &[String]) -> String {
    what.iter().map(|what| format!("supposed: {}\n", plain(what))).collect()
}

/// What whoever relies on a log must know of it, a line each: it comes before all that hangs on the log.
#[must_use]
pub fn findings(comparison: &LogComparison) -> String {
    comparison.findings.iter().map(|finding| format!("about the log: {}\n", plain(finding))).collect()
}

/// A forecast held against an event log, but for the [`findings`]: files, then PCRs, then tokens.
#[must_use]
pub fn logged(comparison: &LogComparison) -> String {
    let mut text = String::new();
    for OnlyForecast { file, without, because } in &comparison.only_forecast {
        let _ = writeln!(text, "measured now and not logged: {}", plain(file));
        let outcome = match without {
            // Taking away what the machine starts with would read as advice.
            Some(outcome) if !matches!(outcome, Outcome::Unlocked | Outcome::FallbackPrompt) => continue,
            Some(outcome) => outcome.to_string(),
            None => "not certain".into(),
        };
        let _ = writeln!(text, "  without it: {outcome}: {}", plain(because));
    }
    for program in &comparison.only_logged {
        let _ = writeln!(text, "logged and not measured now: {}", plain(program));
    }
    let _ = writeln!(text, "by PCR ({}):", comparison.bank);
    for (pcr, LoggedPcr { same, another_platform, first }) in &comparison.pcrs {
        let platform =
            if *another_platform { " (the platform's own events left out, which differ)" } else { "" };
        let Some(LoggedDifference { forecast, logged }) = first else {
            let events = match same {
                0 => "no event in either".to_owned(),
                1 => "the same, 1 event".to_owned(),
                more => format!("the same, {more} events"),
            };
            let _ = writeln!(text, "  {:<3} {events}{platform}", pcr.to_string());
            continue;
        };
        let _ = writeln!(text, "  {:<3} differs from its event {same} on{platform}", pcr.to_string());
        let line = match forecast {
            Some(event) => plain(&format!("{}  {}, from {}", short(event), event.what, event.from)),
            None => "nothing more".to_owned(),
        };
        let _ = writeln!(text, "      forecast  {line}");
        let line = match logged {
            Some(LoggedEvent { digest, what }) => {
                let digest = digest.as_ref().map_or_else(|| "none    ".into(), Digest::short);
                format!("{digest}  {}", plain(&shortened(what)))
            }
            None => "nothing more".to_owned(),
        };
        let _ = writeln!(text, "      logged    {line}");
    }
    for (number, LoggedToken { pcrs, bank, sealed_to_it }) in &comparison.tokens {
        let list = pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        let bound = match bank {
            _ if pcrs.is_empty() => "no PCR".to_owned(),
            Some(bank) => format!("PCR {list}, {}", plain(bank)),
            None => format!("PCR {list}, bank not named"),
        };
        let told = match sealed_to_it {
            Some(true) => "was sealed to what this log comes to",
            Some(false) => "was not sealed to what this log comes to",
            None => "may have been sealed to this boot or not: this log alone does not tell",
        };
        let _ = writeln!(text, "token {number} ({bound}) {told}");
    }
    text
}

/// Text of a log on a line that people can read: of a long one the beginning and the end, where a path has its file. The end
/// begins with the path's partition if there is room for it.
fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    const BEGINNING: usize = 40;
    let length = text.chars().count();
    if length <= MOST {
        return text.to_owned();
    }
    let from_partition = text.find("/HD(").map(|at| text[at..].chars().count());
    let end = from_partition.filter(|end| *end <= MOST - BEGINNING).unwrap_or(MOST - BEGINNING);
    let beginning: String = text.chars().take(MOST - end).collect();
    let end: String = text.chars().skip(length - end).collect();
    format!("{beginning}...{end}")
}

/// How one PCR comes to its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Which one.
    pub pcr: PcrIndex,
    /// Why it is not forecast, where it is none that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_forecast: Option<&'static str>,
    /// What is measured into it before the root volume is opened, in order, from the last start on.
    pub events: Vec<ForecastEvent>,
    /// Its value then, by bank; none where an event of it is open.
    pub values: BTreeMap<HashAlg, Digest>,
    /// What the forecast supposes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supposed: Vec<String>,
    /// What of it is not forecast.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmodelled: Vec<Unmodelled>,
}

/// How one PCR comes to its value, by a forecast that supposes this: its events, in order.
#[must_use]
pub fn explain(forecast: &Forecast, supposed: &[String], pcr: PcrIndex) -> Explained {
    let before = |leg: &Leg| leg.events[..leg.tried_after.unwrap_or(leg.events.len())].to_vec();
    let events = forecast.legs.last().map(before).unwrap_or_default();
    let value = |(bank, values): (&HashAlg, &PcrValues)| Some((*bank, values.0.get(&pcr)?.clone()));
    Explained {
        pcr,
        not_forecast: not_forecast(pcr),
        events: events.into_iter().filter(|event| event.pcr == pcr).collect(),
        values: forecast.pcrs.iter().filter_map(value).collect(),
        supposed: supposed.to_vec(),
        unmodelled: forecast.unmodelled.iter().filter(|open| open.pcrs.contains(&pcr)).cloned().collect(),
    }
}

/// Why nothing is said about `pcr` ([`PcrIndex::is_compared`]).
fn not_forecast(pcr: PcrIndex) -> Option<&'static str> {
    match pcr.get() {
        10 => Some("IMA extends it all through the boot, in no fixed order"),
        16 => Some("it is for debugging, and no part of a boot"),
        17..=22 => Some("it is for a dynamic launch, and no part of a boot like this"),
        23 => Some("it is for applications, and no part of a boot"),
        _ => None,
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pcr, not_forecast, events, values, supposed: what, unmodelled } = self;
        if let Some(why) = not_forecast {
            return writeln!(f, "  PCR {pcr} is not forecast: {why}");
        }
        if events.is_empty() {
            writeln!(f, "  nothing is measured into PCR {pcr}")?;
        }
        events.iter().try_for_each(|event| writeln!(f, "{}", row(event)))?;
        values.values().try_for_each(|value| writeln!(f, "PCR {pcr} is then {value}"))?;
        f.write_str(&supposed(what))?;
        unmodelled.iter().try_for_each(|open| writeln!(f, "unmodelled: {}", not_modelled(open)))
    }
}

/// Where two forecasts part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForecastDifference {
    /// Counts the first one's starts of the firmware from 1, and events of the start from 0; `None` when every event is the
    /// same. Starts are compared from the last one back.
    pub at: Option<(usize, usize)>,
    /// Which start of the other's that is.
    pub start_of_other: Option<usize>,
    /// The first one's event there, if it has one.
    pub one: Option<ForecastEvent>,
    /// The other's.
    pub other: Option<ForecastEvent>,
    /// Files that only the first one's last start measures as they are.
    pub only_one: Vec<String>,
    /// Files that only the other's does.
    pub only_other: Vec<String>,
    /// PCRs that differ when the root volume is opened, by bank.
    pub pcrs: Vec<(HashAlg, Vec<PcrIndex>)>,
    /// Both outcomes, in words.
    pub outcomes: [String; 2],
    /// What each of them supposes.
    pub supposed: [Vec<String>; 2],
    /// What of each is not forecast.
    pub unmodelled: [Vec<Unmodelled>; 2],
}

/// Finds the first event that differs, and the PCRs that do; each forecast with what it supposes.
#[must_use]
pub fn difference(
    (one, of_one): (&Forecast, &[String]),
    (other, of_other): (&Forecast, &[String]),
) -> ForecastDifference {
    // The last start is the one that counts: a machine that the fallback program resets first has one more.
    let legs = one.legs.len().min(other.legs.len());
    let leg = |forecast: &'_ Forecast, leg: usize| forecast.legs.len() - legs + leg;
    let event = |forecast: &Forecast, number: usize, index: usize| {
        forecast.legs.get(leg(forecast, number)).and_then(|leg| leg.events.get(index)).cloned()
    };
    let length = |number: usize| {
        let of =
            |forecast: &Forecast| forecast.legs.get(leg(forecast, number)).map_or(0, |leg| leg.events.len());
        of(one).max(of(other))
    };
    let all = (0..legs).flat_map(|leg| (0..length(leg)).map(move |index| (leg, index)));
    let same = |a: &Option<ForecastEvent>, b: &Option<ForecastEvent>| match (a, b) {
        (Some(a), Some(b)) => a.pcr == b.pcr && a.digests == b.digests,
        _ => false,
    };
    let first = all
        .map(|(leg, index)| (leg, index, event(one, leg, index), event(other, leg, index)))
        .find(|(_, _, a, b)| !same(a, b));
    let moved = |bank: &HashAlg| Some(other.pcrs.get(bank)?.moved_since(one.pcrs.get(bank)?));
    ForecastDifference {
        at: first.as_ref().map(|(number, index, ..)| (leg(one, *number) + 1, *index)),
        start_of_other: first.as_ref().map(|(number, ..)| leg(other, *number) + 1),
        only_one: files_alone(one, other),
        only_other: files_alone(other, one),
        pcrs: one.pcrs.keys().filter_map(|bank| Some((*bank, moved(bank)?))).collect(),
        outcomes: [outcome(one), outcome(other)],
        supposed: [of_one.to_vec(), of_other.to_vec()],
        unmodelled: [one.unmodelled.clone(), other.unmodelled.clone()],
        one: first.as_ref().and_then(|(_, _, a, _)| a.clone()),
        other: first.and_then(|(_, _, _, b)| b),
    }
}

/// Files whose measurements in the last start of `one` are not in that of `other`.
fn files_alone(one: &Forecast, other: &Forecast) -> Vec<String> {
    let events =
        |forecast: &'_ Forecast| forecast.legs.last().map(|leg| leg.events.clone()).unwrap_or_default();
    let others = events(other);
    let mut files: Vec<String> = Vec::new();
    for event in events(one) {
        let there = others.iter().any(|it| it.pcr == event.pcr && it.digests == event.digests);
        let Origin::File(file) = event.from else { continue };
        if !there && !files.contains(&file) {
            files.push(file);
        }
    }
    files
}

impl fmt::Display for ForecastDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parting(f)?;
        let supposed = self.supposed.each_ref().map(|what| what.iter().map(|it| plain(it)).collect());
        of_both(f, "supposed", &supposed)?;
        let unmodelled = self.unmodelled.each_ref().map(|what| what.iter().map(not_modelled).collect());
        of_both(f, "unmodelled", &unmodelled)
    }
}

/// Lines about both forecasts once, and such as are about one alone with that.
fn of_both(f: &mut fmt::Formatter<'_>, what: &str, lines: &[Vec<String>; 2]) -> fmt::Result {
    let [one, other] = lines;
    for line in one {
        let of = if other.contains(line) { "" } else { " of one" };
        writeln!(f, "{what}{of}: {line}")?;
    }
    let mut alone = other.iter().filter(|line| !one.contains(line));
    alone.try_for_each(|line| writeln!(f, "{what} of the other: {line}"))
}

impl ForecastDifference {
    /// Where they part, and what they come to.
    fn parting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((start, index)) = self.at else {
            return writeln!(
                f,
                "both measure the same; outcomes: {}, {}",
                self.outcomes[0], self.outcomes[1]
            );
        };
        let starts = match self.start_of_other {
            Some(other) if other != start => format!("start {start} of one and start {other} of the other"),
            _ => format!("start {start}"),
        };
        writeln!(f, "the first difference is event {index} of {starts}:")?;
        let said = |event: &Option<ForecastEvent>| event.as_ref().map_or("    nothing".into(), row);
        writeln!(f, "one:    {}\nother:  {}", said(&self.one).trim_start(), said(&self.other).trim_start())?;
        for (side, files) in [("one", &self.only_one), ("the other", &self.only_other)] {
            for file in files {
                writeln!(f, "only {side} measures it so: {}", plain(file))?;
            }
        }
        for (bank, pcrs) in &self.pcrs {
            let list = pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            writeln!(f, "PCRs that differ ({bank}): {}", if list.is_empty() { "none" } else { &list })?;
        }
        writeln!(f, "outcomes: {}, {}", self.outcomes[0], self.outcomes[1])
    }
}
