//! Where the PCRs of a boot moved: marked by its record and that of the last boot before it that opened by itself.

use std::path::Path;

use latchkey_record::forecast::Leg;
use latchkey_record::tpm::{TpmExchange, command};
use latchkey_record::{Alignment, BootRecord, Outcome, RunResults, Status};
use sha2::{Digest as _, Sha256};

use crate::devtools::Browser;
use crate::{click, common, keep, shows};

/// A PCR, the byte that its digest is made of, and what is measured.
type Event = (u32, u8, &'static str);

/// A start of the firmware: what is measured before the sealed key is tried, and after that.
#[derive(Clone, Copy)]
struct Start(&'static [Event], &'static [Event]);

const FIRST: Start = Start(
    &[(7, 1, "SecureBoot"), (7, 2, "dbx"), (4, 1, "shim"), (4, 2, "grub"), (7, 3, "authority")],
    &[(14, 6, "MokList")],
);

/// `dbx` has changed, GRUB is missing, and `MokList` comes before the key is tried.
const SECOND: Start = Start(
    &[(7, 1, "SecureBoot"), (7, 9, "dbx"), (4, 1, "shim"), (14, 6, "MokList"), (7, 3, "authority")],
    &[],
);

/// `dbx` is missing.
const THIRD: Start =
    Start(&[(7, 1, "SecureBoot"), (4, 1, "shim"), (14, 6, "MokList"), (7, 3, "authority")], &[]);

impl Start {
    fn events(self) -> impl Iterator<Item = &'static Event> {
        self.0.iter().chain(self.1)
    }

    fn leg(self) -> Leg {
        let events = self.events().map(|(pcr, byte, what)| common::event(*pcr, *byte, what)).collect();
        Leg { events, tried_after: Some(self.0.len()) }
    }

    fn record(self, reset: u32) -> Vec<TpmExchange> {
        let extend = |(pcr, byte, _): &Event| common::extend(reset, 10, *pcr, *byte);
        let load = TpmExchange {
            code: command::LOAD,
            command: "Load".into(),
            handles: vec![],
            detail: None,
            ..common::extend(reset, 20, 0, 0)
        };
        self.0.iter().map(extend).chain([load]).chain(self.1.iter().map(extend)).collect()
    }
}

/// A boot that measured what was forecast, with its files.
fn boot(run: &Path, (scenario, number): (&str, u32), starts: &[Start], moved: &[u32]) -> BootRecord {
    let outcome = if number % 2 == 1 { Outcome::Unlocked } else { Outcome::FallbackPrompt };
    let forecast = common::forecast_of(starts.iter().map(|start| start.leg()).collect());
    let record = (0..).zip(starts).flat_map(|(reset, start)| start.record(reset));
    let tpm: String = record.map(|exchange| serde_json::to_string(&exchange).unwrap() + "\n").collect();
    let mut boot = common::boot(scenario, number, Some(outcome));
    boot.forecast_outcome = Some(outcome);
    boot.forecast = format!("{scenario}/boot-{number}.forecast.json").into();
    boot.forecast_sha256 = hex::encode(Sha256::digest(&forecast));
    boot.tpm = format!("{scenario}/boot-{number}.tpm.jsonl").into();
    boot.moved = moved.iter().map(|index| common::pcr(*index)).collect();
    let matched = starts.iter().map(|start| start.events().count()).sum();
    boot.alignment = Alignment { matched, ..Alignment::default() };
    std::fs::create_dir_all(run.join(scenario)).unwrap();
    std::fs::write(run.join(&boot.forecast), forecast).unwrap();
    std::fs::write(run.join(&boot.tpm), tpm).unwrap();
    boot
}

pub(crate) fn sample(run: &Path) -> RunResults {
    let moved = vec![
        boot(run, ("moved", 1), &[FIRST], &[]),
        boot(run, ("moved", 2), &[FIRST, SECOND], &[4, 7, 14]),
        boot(run, ("moved", 3), &[SECOND], &[4, 7, 14]),
        boot(run, ("moved", 4), &[THIRD], &[7]),
    ];
    let never_open = vec![boot(run, ("never-open", 2), &[SECOND], &[7])];
    let lost = vec![boot(run, ("lost", 1), &[FIRST], &[]), boot(run, ("lost", 2), &[SECOND], &[7])];
    std::fs::remove_file(run.join("lost/boot-1.tpm.jsonl")).unwrap();
    let rows = [("moved", moved), ("never-open", never_open), ("lost", lost)];
    let scenarios = rows.map(|(name, boots)| common::scenario(name, Status::Passed, boots)).into();
    RunResults { scenarios, ..common::run(1) }
}

pub(crate) fn marked(browser: &mut Browser, _: &Path) {
    browser.eval("location.hash = '#s/0/b/1'");
    shows(browser, ".boot-head .moved", "PCR 4, 7, 14");
    click(browser, ".boot-head .moved a[href$='/pcrs/7']");
    // One is led there, and the keyboard with one.
    browser.until("document.activeElement.dataset.moved === '7'");
    shows(browser, "[data-moved='7']", "moved here: another digest than in boot 1; boot 1 has 0202020202");
    let is_seen = "(({ top, bottom }) => top > 0 && bottom < innerHeight)(document.activeElement.getBoundingClientRect())";
    browser.until(is_seen);
    keep(browser, "moved-light", 1200, 900);
    shows(browser, "[data-moved='4'] .what", "grub");
    shows(browser, "[data-moved='4']", "boot 1 measured this next, and this boot nothing more");
    shows(browser, "[data-moved='14']", "boot 1 did not measure this");
    shows(browser, ".moves li:nth-child(2)", "PCR 7 at dbx (esp:/EFI/dbx): another digest than in boot 1");
    // What counts is the last start, up to where the key is tried.
    let places = "[...document.querySelectorAll('.events')].map((start) => \
                  [...start.querySelectorAll('[data-moved]')].map((row) => row.dataset.moved).join()).join(';')";
    assert!(browser.eval(places) == ";7,4,14");
    shows(browser, ".pcrs .notice.good", "11 events measured as forecast");
    // Against the last boot that opened by itself, though it had moved as well.
    browser.eval("location.hash = '#s/0/b/2/pcrs'");
    shows(browser, ".moves a", "boot 1");
    browser.eval("location.hash = '#s/0/b/3/pcrs/7'");
    shows(browser, "[data-moved='7']", "boot 3 measured this here, and this boot did not");
    shows(browser, "[data-moved='7']", "boot 3 has 0909090909");
    let before =
        "document.querySelector('[data-moved]').previousElementSibling.textContent.includes('MokList')";
    assert!(browser.eval(before) == true);
    browser.eval("location.hash = '#s/0/b/0/pcrs'");
    shows(browser, ".pcrs .notice.good", "6 events measured as forecast");
    assert!(browser.eval("document.querySelectorAll('[data-moved], .moves').length") == 0);
    untold(browser);
}

/// Where there is nothing to hold a boot against, that is said.
fn untold(browser: &mut Browser) {
    browser.eval("location.hash = '#s/1/b/0/pcrs'");
    shows(browser, ".pcrs .notice.warn", "PCR 7 moved since it last opened by itself");
    shows(browser, ".pcrs .notice.warn", "no boot before this one opened by itself");
    browser.eval("location.hash = '#s/2/b/1/pcrs'");
    shows(browser, ".pcrs .notice.warn", "PCR 7 moved since boot 1");
    shows(browser, ".pcrs .notice.warn", "lost/boot-1.tpm.jsonl is not in this report");
}
