//! What the overview and a row's page tell of rows that came to no verdict, or to one that no boot shows.

use std::path::Path;

use latchkey_record::results::{Check, ImageVersions, NOT_REACHED};
use latchkey_record::{Outcome, RunResults, ScenarioResult, Status, StepResult};

use crate::devtools::Browser;
use crate::{common, keep, shows};

fn step(number: u32, what: &str, status: Status) -> StepResult {
    StepResult {
        number,
        what: what.into(),
        status,
        checks: vec![],
        boots: vec![],
        took_ms: 0,
        shared_with: None,
    }
}

fn passed(name: &str) -> ScenarioResult {
    let mut row =
        common::scenario(name, Status::Passed, vec![common::boot("passing", 1, Some(Outcome::Unlocked))]);
    row.image_identity = Some("rlc9-uki-0123456789abcdef, content a9ea4f07b7e5a26f".into());
    row
}

/// A row whose one boot opened, and that ended with `status` at its second step of three.
fn ended(name: &str, status: Status) -> ScenarioResult {
    let mut row = passed(name);
    let not_reached = Status::Skipped { reason: format!("{NOT_REACHED}step 2 ended the row") };
    row.steps.push(step(2, "write a letter", status.clone()));
    row.steps.push(step(3, "boot: fallback-prompt", not_reached));
    (row.status, row.conclusion) = (status, None);
    row
}

/// A row whose boot came to what was expected, and did not stay so.
fn gave_up() -> ScenarioResult {
    let check = |what: &str, held: bool| Check {
        what: what.into(),
        expected: "unlocked".into(),
        seen: if held { "unlocked" } else { "emergency-shell" }.into(),
        held,
    };
    let mut row = passed("gave-up");
    row.status = Status::Failed { reason: "900 s later: expected unlocked, saw emergency-shell".into() };
    (row.conclusion, row.steps[0].status) = (None, row.status.clone());
    row.steps[0].checks = vec![check("outcome", true), check("900 s later", false)];
    row
}

/// One whose machine restarts for ever.
fn looping() -> ScenarioResult {
    let mut row = passed("loops");
    let boot = &mut row.steps[0].boots[0];
    (boot.outcome, boot.forecast_outcome) = (Some(Outcome::RestartLoop), Some(Outcome::RestartLoop));
    row.steps[0].checks.clear();
    row
}

pub(crate) fn sample() -> RunResults {
    let failed = |reason: String| Status::Failed { reason };
    let broken = |reason: &str| Status::InfrastructureError { reason: reason.into() };
    let console: String = (1..=5).map(|number| format!("\n    console line {number}")).collect();
    let mut unclear =
        common::scenario("unclear", failed("never clear".into()), vec![common::boot("passing", 1, None)]);
    unclear.steps[0].checks.clear();
    unclear.image_identity = Some("rlc9-uki-fedcba9876543210, content a9ea4f07b7e5a26f".into());
    let mut locked = passed("locked");
    (locked.image, locked.conclusion) = ("rlc9-grub".into(), None);
    locked.image_identity = Some("rlc9-grub-fedcba9876543210, content a9ea4f07b7e5a26f".into());
    locked.steps[0].shared_with = Some("first-boot on rlc9-grub".into());
    let mut older = ScenarioResult { scenario: "of-an-older-run".into(), ..locked.clone() };
    older.image_identity = Some("rlc9-grub-fedcba9876543210".into());
    let mut reused = passed("reused");
    reused.reused = Some("20260101-000000-1".into());
    reused.steps[0].shared_with = locked.steps[0].shared_with.clone();
    let scenarios = vec![
        ended("written", failed(format!("the letter: lost{console}"))),
        unclear,
        ended("stopped", broken("interrupted")),
        ended("full", broken("copying to /m/machine-aaaaaa/root.img: No space left on device")),
        ended("full-too", broken("copying to /m/machine-bbbbbb/root.img: No space left on device")),
        locked,
        reused,
        older,
        gave_up(),
        looping(),
    ];
    let versions = [("kernel", "6.1.192-3"), ("shim", "15.8-1")];
    let images = vec![ImageVersions {
        image: "rlc9-uki".into(),
        identity: scenarios[0].image_identity.clone().unwrap(),
        versions: versions.map(|(what, is)| (what.to_owned(), is.to_owned())).into(),
    }];
    RunResults { scenarios, images, harness: "0.1.0, build a; 0.1.0, build b".into(), ..common::run(1) }
}

pub(crate) fn whole(browser: &mut Browser, _: &Path) {
    shows(browser, "h1", "3 failed, 2 could not be judged: infrastructure; 4 passed; 1 interrupted");
    assert_eq!(browser.eval("document.querySelector('.verdict').className"), "verdict bad");
    shows(browser, ".facts", "7 booted, 2 shared, 1 of earlier runs");
    warnings(browser);
    attention(browser);
    cells(browser);
    keep(browser, "told-light", 1200, 1000);
    versions(browser);
    stops(browser);
    pages(browser);
    // Whatever is known to fail is worth a look.
    let known = "verdictHead([{ scenario: { status: { is: 'known' }, steps: [] }, index: 0 }]).className";
    assert_eq!(browser.eval(known), "verdict warn");
    // A boot's clock begins with the boot.
    let at = "extendsByLeg([{ reset: 0, at_ms: 12000, code: 386, response: { code: 0 }, \
              detail: { extend: { pcr: 4, digests: ['sha256:00'] } } }], 'sha256', 10000)[0][0].at";
    assert_eq!(browser.eval(at), 2000);
}

/// Rows that look alike and are not of the same image, or build.
fn warnings(browser: &mut Browser) {
    let told = "[...document.querySelectorAll('main .notice.warn')].map((one) => one.textContent).join()";
    let told = browser.eval(told).to_string();
    assert!(told.contains("Not all rows of rlc9-uki are of the same image"), "{told}");
    assert!(told.contains("2 builds of the harness") && !told.contains("rlc9-grub"), "{told}");
    shows(browser, ".matrix thead th:nth-child(2) .identity", "2 images");
    shows(browser, ".matrix thead th:nth-child(3) .identity", "fedcba98-a9ea4f07");
    let short = |identity: &str| format!("shortIdentity('debian12-{identity}', 'debian12')");
    for (identity, told) in [
        ("5a2890759e76ddc2-3d77487b9ed94c02, content a9ea4f07b7e5a26f", "5a289075-3d77487b-a9ea4f07"),
        ("5a2890759e76ddc2-3d77487b9ed94c02", "5a289075-3d77487b"),
        ("5a2890759e76ddc2", "5a289075"),
        ("of-my-own", "of-my-own"),
    ] {
        assert_eq!(browser.eval(&short(identity)), told);
    }
    // Of two contents one that is not told may be either.
    let images = "differentImages(['x', 'x, content a', 'x, content b', 'x', null]).join()";
    assert_eq!(browser.eval(images), "x, content a,x, content b,");
}

fn attention(browser: &mut Browser) {
    let kinds =
        "[...document.querySelectorAll('section > .attention > li')].map((one) => one.className).join()";
    assert_eq!(browser.eval(kinds), "bad,bad,bad,infra");
    shows(browser, ".attention .infra", "2: copying to /m/machine-…/root.img: No space left");
    assert_eq!(
        browser.eval("document.querySelector('.heard').textContent"),
        "console line 3\nconsole line 4\nconsole line 5"
    );
    shows(browser, ".known summary", "1 interrupted");
    let quoting = "isInterrupted({ is: 'infrastructure-error', reason: 'x failed:\\n    foo: interrupted' })";
    assert!(browser.eval(quoting) == false);
    // On paper nobody opens anything.
    for (event, open) in [("beforeprint", true), ("afterprint", false)] {
        browser.eval(&format!("window.dispatchEvent(new Event('{event}'))"));
        browser.until(&format!("document.querySelector('details.known').open === {open}"));
    }
}

fn cells(browser: &mut Browser) {
    let cell = |number: u32| format!("a.cell[href='#s/{number}']");
    for (number, text) in [
        (0, "ended at step 2 of 3"),
        (1, "ended at step 1"),
        (2, "interrupted"),
        (5, "locked 12.0 s + 5.0 s shared"),
        (6, "open 12.0 s↺"),
    ] {
        shows(browser, &cell(number), text);
    }
    let good =
        "[0, 1, 2, 3].filter((n) => document.querySelector(`a.cell[href='#s/${n}'] .account.good`)).length";
    assert_eq!(browser.eval(good), 0);
    // A boot that never became clear is judged neither way.
    assert!(browser.eval("document.querySelector('a.cell .dot.unclear').classList.contains('bad')") == false);
    let unclear = "agreement({ status: { is: 'passed' }, steps: RUN.scenarios[1].steps })[1].textContent";
    assert_eq!(browser.eval(unclear), "·1 not judged");
}

/// What is on an image is told beside which one it is; where nobody knows, that is told.
fn versions(browser: &mut Browser) {
    let told = "[...document.querySelectorAll('.images tr')].map((row) => [...row.children].map((one) => one.textContent).join()).join(';')";
    assert_eq!(browser.eval(told), "image,shim,kernel;rlc9-uki01234567-a9ea4f07,15.8-1,6.1.192-3");
    shows(browser, "section:last-child p", "No versions are known of rlc9-uki, rlc9-grub.");
}

/// Where no boot shows why a row ended, its line does.
fn stops(browser: &mut Browser) {
    let marks = |number: u32| {
        let dots = format!("[...document.querySelectorAll(\"a.cell[href='#s/{number}'] .dot\")]");
        format!("{dots}.map((dot) => dot.className.split(' ').filter(Boolean).slice(1).join('.')).join()")
    };
    for (number, expected) in [
        (0, "open,stop.bad"),
        (1, "unclear,stop.bad"),
        (2, "open,stop.warn"),
        (3, "open,stop.infra"),
        (5, "open"),
        (8, "open.bad"),
        (9, "shut"),
    ] {
        assert_eq!(browser.eval(&marks(number)), expected, "{number}");
    }
    browser.eval("location.hash = '#s/8'");
    shows(browser, ".card.bad", "afterwards✗900 s later");
    browser.eval("location.hash = '#s/9/b/0/pcrs'");
    shows(browser, ".pcrs", "restarts: no values");
    assert!(browser.eval("document.querySelector('.values') === null") == true);
}

fn pages(browser: &mut Browser) {
    browser.eval("location.hash = '#s/0'");
    shows(browser, ".card.stop", "✗ failedwrite a letter");
    shows(browser, ".scenario-head .facts", "shim 15.8-1, kernel 6.1.192-3");
    assert_eq!(browser.eval("document.title"), "written on rlc9-uki, Latchkey 20260102-030405-abcd");
    shows(browser, ".scenario-head .facts", "it ended at step 2 of 3");
    shows(browser, ".steps li.dim", "boot: fallback-prompt");
    shows(browser, ".steps li.dim", "not reached");
    assert_eq!(browser.eval("document.querySelectorAll('.lane i').length"), 2);
    keep(browser, "told-row-light", 1200, 1000);
    browser.eval("location.hash = '#s/1/b/0/checks'");
    browser.until("document.title === 'boot 1, unclear on rlc9-uki, Latchkey 20260102-030405-abcd'");
    shows(browser, ".boot-head .accounts", "not judged");
    shows(browser, ".witnesses .mark", "·");
    browser.eval("location.hash = '#s/5'");
    shows(browser, ".scenario-head .facts", "its last boot left it locked");
}
