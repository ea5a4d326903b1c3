//! What the guest tells of its own TPM, once it is open: PCRs, the lockout counter and the firmware's event log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use latchkey_measure::eventlog::{Event, EventLog};
use latchkey_record::results::Check;
use latchkey_record::tpm::TpmRecord;
use latchkey_record::{HashAlg, Leg, Outcome, PcrIndex, PcrValues};

use crate::Error;
use crate::bench::{Bench, Power};
use crate::boot::COMMAND;
use crate::pcrs::{self, is_settled};

/// Where Linux shows the event log, the firmware's final events included (Linux, `drivers/char/tpm/eventlog`).
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// What a shell exits with when there is no such command (POSIX, "Exit Status for Commands").
const COMMAND_NOT_FOUND: i32 = 127;
/// That the guest gave something.
const GIVEN: &str = "given";
/// How many PCRs [`is_settled`] has.
const SETTLED: usize = 12;

/// What the guest said of its TPM.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) pcrs: Option<BTreeMap<HashAlg, PcrValues>>,
    pub(crate) lockout_counter: Option<u32>,
    /// Its event log, as it gives it.
    pub(crate) event_log: Option<Vec<u8>>,
}

impl Bench<'_> {
    /// The guest's own account of its TPM, held against the recorder's and the forecast's. An image need not have the
    /// tools for it.
    pub(crate) fn ask_guest(&mut self) -> Result<Told, Error> {
        if self.lacks_tpm() {
            self.check("the guest's TPM", "none", self.guest_tpm()?);
            return Ok(Told::default());
        }
        let list = (0..PcrIndex::COUNT).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        // One command, since each costs a connection: the log on the first line, empty where there is none.
        let command = format!(
            "test ! -r {EVENT_LOG} || base64 --wrap=0 {EVENT_LOG}; echo; \
             tpm2_pcrread {}:{list} && tpm2_getcap properties-variable",
            self.bank
        );
        let output = self.running()?.guest(&command, &[], COMMAND)?;
        let text = output.text();
        let (log, text) = text.split_once('\n').unwrap_or_default();
        let record = self.running()?.observe()?.tpm_since_reset();
        let event_log = self.hear_event_log(log, &record);
        let has_tools = output.code != COMMAND_NOT_FOUND;
        let seen = if has_tools { GIVEN } else { "none: no tpm2-tools" };
        self.check_given("the guest's own account of its PCRs", seen);
        if !has_tools {
            return Ok(Told { event_log, ..Told::default() });
        }
        let pcrs = pcrs::parse_pcrread(text);
        let replayed = pcrs::replay(&record);
        let compared =
            pcrs.get(&self.bank).map_or(0, |bank| bank.0.keys().filter(|i| is_settled(**i)).count());
        let differ = pcrs::moved(&pcrs, &replayed, self.bank, is_settled);
        self.check(
            "PCRs that guest and recorder can be compared on",
            SETTLED.to_string(),
            compared.to_string(),
        );
        self.check(
            "PCRs on which the guest and the recorder differ",
            "none",
            pcrs::list_or_unknown(differ.as_deref()),
        );
        Ok(Told { pcrs: Some(pcrs), lockout_counter: lockout_counter(text), event_log })
    }

    /// Whether the machine has no TPM.
    pub(crate) fn lacks_tpm(&self) -> bool {
        self.tpm.as_ref().is_some_and(|tpm| tpm.banks.is_empty())
    }

    /// Whether the guest has a TPM, in a word.
    fn guest_tpm(&self) -> Result<&'static str, Error> {
        let output = self.running()?.guest("test -e /dev/tpm0", &[], COMMAND)?;
        Ok(if output.code == 0 { "there" } else { "none" })
    }

    /// What an open guest says of its TPM that no restart changes and no other TPM says: its PCRs, and its endorsement
    /// key. `None` where no guest is open, or it has no tools or no TPM.
    ///
    /// # Errors
    /// When the tools are there and do not tell: a fork that nothing can be held against must not pass for one that was.
    pub(crate) fn identity(&self) -> Result<Option<String>, Error> {
        let open = matches!(self.power, Power::On(_)) && self.outcome.is_some_and(Outcome::is_open);
        if !open || self.lacks_tpm() {
            return Ok(None);
        }
        let settled = (0..PcrIndex::COUNT).filter_map(|i| PcrIndex::new(i).ok()).filter(|i| is_settled(*i));
        let list = settled.map(|i| i.to_string()).collect::<Vec<_>>().join(",");
        // A primary key is made anew from the hierarchy's seed each time, and is the same one each time.
        let command = format!("tpm2_pcrread {}:{list} && tpm2_createprimary -C e -G ecc", self.bank);
        let output = self.running()?.guest(&command, &[], COMMAND)?;
        match output.code {
            0 => Ok(Some(output.text())),
            COMMAND_NOT_FOUND => Ok(None),
            code => {
                let said = String::from_utf8_lossy(&output.stderr);
                Err(Error::Bench(format!(
                    "the guest did not tell who its TPM is (exit code {code}): {}",
                    said.trim()
                )))
            }
        }
    }

    /// Asserts that the guest gave `what`, where that is known; notes what was `seen` otherwise.
    fn check_given(&mut self, what: &str, seen: &str) {
        // Of an image that was built here more is known: it has the tools.
        let told = self.forecast.as_ref().is_some_and(|made| made.forecast.guest_log);
        let is_needed = told && self.context.image.manifest.is_some();
        match given(what, is_needed, seen) {
            Some(check) => self.checks.push(check),
            None => self.note(&format!("{what}: {seen}")),
        }
    }

    fn hear_event_log(&mut self, base64: &str, record: &TpmRecord) -> Option<Vec<u8>> {
        let log = BASE64_STANDARD.decode(base64.trim()).ok().filter(|log| !log.is_empty());
        self.check_given("the guest's own event log", if log.is_some() { GIVEN } else { "none" });
        let log = log?;
        let leg = self.forecast.as_ref().and_then(|made| made.forecast.legs.last());
        let difference = difference(&EventLog::parse(&log), record, leg, self.bank);
        self.check(
            "the first difference between the guest's event log, the recorder and the forecast",
            "none",
            difference.unwrap_or_else(|| "none".to_owned()),
        );
        Some(log)
    }

    /// Writes the event log down, if the guest gave one.
    pub(crate) fn keep_event_log(
        &self,
        boot: u32,
        answered: bool,
        told: &Told,
    ) -> Result<Option<PathBuf>, Error> {
        let Some(log) = &told.event_log else { return Ok(None) };
        let name = format!("boot-{boot}{}.eventlog", if answered { "-answered" } else { "" });
        self.write(&name, log)?;
        Ok(Some(self.relative(&name)))
    }
}

/// The assertion that a guest gave `what`, where it has to: of another, whatever is `seen` is as good.
fn given(what: &str, is_needed: bool, seen: &str) -> Option<Check> {
    let check = || Check {
        what: what.to_owned(),
        expected: GIVEN.to_owned(),
        seen: seen.to_owned(),
        held: seen == GIVEN,
    };
    is_needed.then(check)
}

/// The first thing in which a guest's event log differs from what the recorder saw extended since the reset, or from the
/// kinds of event that were forecast. Userspace extends PCRs after the log's end, and only those that are its own.
fn difference(log: &EventLog, record: &TpmRecord, leg: Option<&Leg>, bank: HashAlg) -> Option<String> {
    if let Some(finding) = log.replay().findings.first() {
        return Some(format!("log incomplete: {finding}"));
    }
    let logged: Vec<&Event> = log.events.iter().filter(|event| event.is_measured()).collect();
    let mut extended =
        record.extends().map(|(_, pcr, digests)| (pcr, digests.iter().find(|d| d.alg() == bank)));
    let mut forecast = leg.map(|leg| leg.events.as_slice()).unwrap_or_default().iter();
    for (index, event) in logged.iter().enumerate() {
        let of_log = format!("event {index} of the log, {} in PCR {}", event.kind, event.register);
        let Some((pcr, digest)) = extended.next() else {
            return Some(format!("{of_log}: never extended"));
        };
        if u32::from(pcr.get()) != event.register || event.digest(bank).as_ref() != digest {
            return Some(format!("{of_log}: the recorder saw another extend, of PCR {pcr}"));
        }
        if let Some(expected) = forecast.next().filter(|expected| expected.kind != event.kind.0) {
            return Some(format!("{of_log}: forecast was the type {:#x}, {}", expected.kind, expected.what));
        }
    }
    let unlogged = extended.find(|(pcr, _)| is_settled(*pcr));
    unlogged.map(|(pcr, _)| format!("log incomplete: PCR {pcr} was extended after the log's last event"))
}

/// The line `TPM2_PT_LOCKOUT_COUNTER: 0x0` of `tpm2_getcap properties-variable`.
fn lockout_counter(text: &str) -> Option<u32> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("TPM2_PT_LOCKOUT_COUNTER:"))?;
    u32::from_str_radix(value.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_measure::eventlog::EventType;
    use latchkey_measure::hash::digest;
    use latchkey_record::tpm::{TpmDetail, TpmExchange, TpmResponse, command};
    use latchkey_record::{Certainty, ForecastEvent, Origin, Stage};
    use rstest::rstest;

    use super::*;

    const ALG: HashAlg = HashAlg::Sha256;

    fn pcr(index: u32) -> PcrIndex {
        PcrIndex::new(index).unwrap()
    }

    fn extend(index: u32, data: &[u8]) -> TpmExchange {
        let response = TpmResponse { code: 0, words: "SUCCESS".into() };
        let detail = Some(TpmDetail::Extend { pcr: pcr(index), digests: vec![digest(ALG, data)] });
        let code = command::PCR_EXTEND;
        TpmExchange { at_ms: 0, reset: 0, code, command: String::new(), handles: vec![], detail, response }
    }

    fn forecast(index: u32, kind: EventType, data: &[u8]) -> ForecastEvent {
        ForecastEvent {
            pcr: pcr(index),
            kind: kind.0,
            digests: vec![digest(ALG, data)],
            stage: Stage::Shim,
            what: "a thing".into(),
            from: Origin::File("esp:/a".into()),
            certainty: Certainty::Computed,
        }
    }

    fn log() -> EventLog {
        let mut log = EventLog::agile(&[ALG]);
        log.remark(0, b"not extended");
        log.measure(4, EventType::SEPARATOR, b"a", b"a");
        log.measure(8, EventType::IPL, b"b", b"b");
        EventLog::parse(&log.to_bytes().unwrap())
    }

    fn leg() -> Leg {
        let events = vec![forecast(4, EventType::SEPARATOR, b"a"), forecast(8, EventType::IPL, b"b")];
        Leg { events, ..Leg::default() }
    }

    #[rstest]
    #[case::all_agree(vec![extend(4, b"a"), extend(8, b"b"), extend(10, b"i"), extend(11, b"u")], None)]
    #[case::never_extended(vec![extend(4, b"a")], Some("never extended"))]
    #[case::another_digest(vec![extend(4, b"a"), extend(8, b"c")], Some("another extend, of PCR 8"))]
    #[case::another_pcr(vec![extend(4, b"a"), extend(9, b"b")], Some("another extend, of PCR 9"))]
    #[case::not_logged(vec![extend(4, b"a"), extend(8, b"b"), extend(14, b"x")], Some("PCR 14 was extended after"))]
    fn the_log_is_held_against_the_recorder(
        #[case] exchanges: Vec<TpmExchange>,
        #[case] expected: Option<&str>,
    ) {
        let record = TpmRecord { exchanges, doubts: vec![] };
        let told = difference(&log(), &record, Some(&leg()), ALG);
        match expected {
            Some(part) => assert!(told.as_ref().is_some_and(|told| told.contains(part)), "{told:?}"),
            None => assert_eq!(told, None),
        }
    }

    #[test]
    fn another_type_than_forecast_is_told() {
        let record = TpmRecord { exchanges: vec![extend(4, b"a"), extend(8, b"b")], doubts: vec![] };
        let mut leg = leg();
        leg.events[1].kind = EventType::SEPARATOR.0;
        let told = difference(&log(), &record, Some(&leg), ALG).unwrap();
        assert!(told.contains("EV_IPL in PCR 8") && told.contains("a thing"), "{told}");
    }

    #[test]
    fn a_log_that_is_cut_off_is_incomplete() {
        let bytes = log().to_bytes().unwrap();
        let record = TpmRecord { exchanges: vec![extend(4, b"a"), extend(8, b"b")], doubts: vec![] };
        let cut = EventLog::parse(&bytes[..bytes.len() - 1]);
        assert!(difference(&cut, &record, None, ALG).unwrap().contains("log incomplete"));
    }

    #[rstest]
    #[case::given(GIVEN, true)]
    #[case::not_given("none", false)]
    fn what_a_guest_has_to_give_is_asserted_and_what_it_need_not_is_not(
        #[case] seen: &str,
        #[case] held: bool,
    ) {
        let check = given("its log", true, seen).unwrap();
        assert_eq!((check.expected.as_str(), check.seen.as_str(), check.held), (GIVEN, seen, held));
        assert_eq!(given("its log", false, seen), None);
    }

    #[test]
    fn twelve_pcrs_are_settled() {
        let settled = (0..PcrIndex::COUNT).filter_map(|i| PcrIndex::new(i).ok()).filter(|i| is_settled(*i));
        assert_eq!(settled.count(), SETTLED);
    }

    #[test]
    fn the_counter_is_read() {
        assert_eq!(lockout_counter("  a: 0x1\n  TPM2_PT_LOCKOUT_COUNTER: 0x1F\n"), Some(31));
        assert_eq!(lockout_counter("nothing"), None);
    }
}
