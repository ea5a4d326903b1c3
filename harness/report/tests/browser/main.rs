//! The page in a real browser: clicked through, with text in it that would like to run. A browser is among what the
//! project's set-up installs for its tests.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod devtools;
mod keys;
mod matrix;
mod moved;
mod told;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use devtools::Browser;
use latchkey_record::RunResults;
use latchkey_report::RunDir;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use sha2::Digest as _;

const NAMES: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

const HOSTS: &str = "two_hosts_stand_side_by_side";

type InBrowser = fn(&mut Browser, &Path);

const CHANGED: &str = "what_was_changed_after_the_run_is_said";

const SEVEN: &str = "whoever_is_far_down_sees_which_column_is_which";

const MOVED: &str = "a_moved_pcr_leads_to_the_event_that_moved_it";

const REPLAY: &str = "a_console_is_played_stopped_and_wound";

const TOLD: &str = "rows_without_a_boot_that_tells_are_told";

const TRIALS: [(&str, InBrowser); 11] = [
    ("a_catalogue_at_a_glance", catalogue),
    ("a_passing_and_a_failing_scenario_clicked_through", clicked_through),
    ("text_that_would_run_is_shown_as_text", hostile),
    ("keys_lead_everywhere", keys::everywhere),
    ("a_thousand_boots_open_without_their_details", a_thousand),
    (HOSTS, hosts),
    (CHANGED, changed),
    (SEVEN, matrix::seven),
    (MOVED, moved::marked),
    (REPLAY, keys::replay),
    (TOLD, told::whole),
];

fn main() {
    let arguments = Arguments::from_args();
    let program = NAMES.iter().find_map(|name| which::which(name).ok());
    let trial = |(name, trial): (&'static str, InBrowser)| {
        let program = program.clone();
        Trial::test(name, move || in_browser(&program.ok_or_else(none)?, name, trial))
    };
    libtest_mimic::run(&arguments, TRIALS.map(trial).into()).exit();
}

fn none() -> String {
    format!(
        "there is no browser, none of {}: `cargo xtask setup` installs one where the system's packages have it",
        NAMES.join(", ")
    )
}

fn in_browser(program: &Path, name: &str, trial: InBrowser) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let run = dir.path().join("run");
    common::evidence(&run);
    let results = match name {
        "a_catalogue_at_a_glance" => common::catalogue(),
        "a_thousand_boots_open_without_their_details" => thousand(&run),
        HOSTS => common::on_two_hosts(),
        SEVEN => common::interrupted(),
        MOVED => moved::sample(&run),
        REPLAY => keys::a_minute(&run),
        TOLD => told::sample(),
        _ => common::run(2),
    };
    if name == CHANGED {
        std::fs::write(run.join("passing/boot.tpm.jsonl"), "")?;
        std::fs::write(run.join("failing/boot.forecast.json"), "{}")?;
    }
    RunDir::at(&run).write(&results)?;
    let mut browser = Browser::start(program, &dir.path().join("profile"));
    browser.open(&run.join("report.html"));
    trial(&mut browser, &run);
    let complaints = std::mem::take(&mut browser.complaints);
    drop(browser);
    dir.close()?;
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n").into()) }
}

/// Kept beside the build for somebody to look at.
fn keep(browser: &mut Browser, name: &str, width: u32, height: u32) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report");
    std::fs::create_dir_all(&dir).unwrap();
    let png = browser.screenshot(width, height);
    let bytes = base64::engine::general_purpose::STANDARD.decode(png).unwrap();
    std::fs::write(dir.join(format!("{name}.png")), bytes).unwrap();
}

fn click(browser: &mut Browser, selector: &str) {
    browser.until(&format!("document.querySelector({})", json!(selector)));
    browser.eval(&format!("document.querySelector({}).click()", json!(selector)));
}

fn shows(browser: &mut Browser, selector: &str, text: &str) {
    browser.until(&format!(
        "(document.querySelector({}) || {{}}).textContent?.includes({})",
        json!(selector),
        json!(text)
    ));
}

fn clicked_through(browser: &mut Browser, _: &Path) {
    shows(browser, "h1", "1 of 3 rows failed; 1 passed; 1 skipped");
    shows(browser, ".matrix", "skipped");
    shows(browser, ".known summary", "1 not run");
    shows(browser, ".known", "1: needs-vendor-key");
    shows(browser, ".account-facts", "first wrong event of boot 1");
    keep(browser, "overview-light", 1200, 900);
    screens(browser);
    click(browser, "a.cell.good");
    shows(browser, ".cards", "as forecast");
    click(browser, ".cards a");
    shows(browser, ".term", "new red plain");
    shows(browser, ".term", "login:");
    click(browser, ".jump");
    shows(browser, ".time", "0:01 of");
    assert!(browser.eval("document.querySelector('.term').textContent.includes('login:')") == false);
    click(browser, ".play");
    shows(browser, ".term", "login:");
    shows(browser, ".play", "Play");
    click(browser, "#tab-pcrs");
    shows(browser, ".notice.good", "3 events measured as forecast");
    for (tab, text) in [
        ("tpm", "PCR 4 with sha256:"),
        ("events", "the kernel starts"),
        ("checks", "Witnesses"),
        ("qemu", "-name"),
    ] {
        click(browser, &format!("#tab-{tab}"));
        if tab == "tpm" {
            shows(browser, ".panel", "extends 3");
        } else {
            shows(browser, ".panel", text);
        }
    }
    shows(browser, ".files", "passing/power-1.cast");
    click(browser, ".brand");
    click(browser, ".attention p a");
    shows(browser, ".turn", "the sealed key is tried");
    shows(browser, "#first-difference", "esp:/EFI/certificate");
    shows(browser, "#first-difference", "0202020202");
    shows(browser, "#first-difference", "0909090909");
    // Starts of a boot that goes on for ever stand beside those that it repeats.
    let again = "[2, 3, 4].map((n) => legOf({ legs: ['a', 'b', 'c'], repeats_from: 1 }, n)).join('')";
    assert!(browser.eval(again) == "cbc");
    assert!(browser.eval("legOf({ legs: ['a'], repeats_from: null }, 1) === undefined") == true);
    // Three wrong passphrases at a prompt that was forecast.
    let records = "[[1, 'fallback-prompt'], [1, 'emergency-shell'], [2, 'emergency-shell']].map(([number, outcome]) => \
                   ({ number, outcome, alignment: {}, forecast_outcome: 'fallback-prompt' }))";
    let as_forecast = format!("bootsOf({{ steps: [{{ boots: {records} }}] }}).map(isAsForecast).join()");
    assert!(browser.eval(&as_forecast) == "true,true,false");
    assert!(browser.eval("outcomeWord({ outcome: null, contradictions: [] })") == "unclear");
    // Nothing that happened speaks against its forecast.
    let unclear = "accounts({ step: { boots: [1], checks: [] }, nth: 0, isAnswer: false, boot: { outcome: null, \
        contradictions: [], forecast_outcome: 'fallback-prompt', alignment: { matched: 3 } } })[1].className";
    assert!(browser.eval(unclear) == "account none");
    assert!(browser.eval("outcomeWord({ outcome: null, contradictions: [{}] })") == "contradiction");
    click(browser, ".notice.bad button");
    keep(browser, "difference-light", 1200, 900);
    click(browser, "#theme-button");
    keep(browser, "difference-dark", 1200, 900);
    keep(browser, "difference-phone", 390, 844);
    // A table may scroll inside itself; the page does not.
    let wide = browser.eval("document.documentElement.scrollWidth <= window.innerWidth");
    assert!(wide == true, "the page is wider than a phone");
    exchanges_on_a_phone(browser);
}

/// Nobody scrolls sideways to read what the TPM was told.
fn exchanges_on_a_phone(browser: &mut Browser) {
    browser.eval("location.hash = '#s/1/b/0/tpm'");
    click(browser, ".picks .pick:last-child");
    shows(browser, ".exchanges", "PCR 7 with sha256:");
    keep(browser, "exchanges-phone", 390, 844);
    let fits = "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)(document.querySelector('.exchanges').parentNode)";
    assert!(browser.eval(fits) == true, "its exchanges are wider than a phone");
    let beside = "(([after, , command]) => after.getBoundingClientRect().top === command.getBoundingClientRect().top)\
                  (document.querySelector('.exchanges tbody tr').children)";
    assert!(browser.eval(beside) == true, "what was told stands beside when");
}

/// What lies in a run's directory is evidence as long as it is what the verdict was made of.
fn changed(browser: &mut Browser, _: &Path) {
    browser.eval("location.hash = '#s/0/b/0/pcrs'");
    shows(browser, ".pcrs", "not the one that was judged");
    browser.eval("location.hash = '#s/1/b/0/pcrs'");
    shows(browser, "#panel", "another SHA-256 than the results tell");
}

/// What a narrow screen broke in two is one line for who searches or copies it; and a title that nobody finished hides nothing.
fn screens(browser: &mut Browser) {
    let whole = |browser: &mut Browser, columns: u32, text: &str| {
        let text = json!(text);
        browser.eval(&format!(
            "(() => {{ const s = new Screen({columns}, 5); s.write({text}); return s.wholeText(); }})()"
        ))
    };
    assert!(
        whole(browser, 20, &format!("{}\r\nb", "a".repeat(25))) == format!("{}\nb", "a".repeat(25)).as_str()
    );
    let scrolled = format!("{}\r\n{}", "a".repeat(45), "b\r\n".repeat(9));
    assert!(whole(browser, 20, &scrolled) == format!("{}{}", "a".repeat(45), "\nb".repeat(9)).as_str());
    assert!(whole(browser, 20, "\x1b]0;never ended\r\nkept") == "\nkept");
    assert!(whole(browser, 20, "\x1b]0;never ended") == "0;never ended");
    assert!(whole(browser, 20, "\x1bPq\ndevice\x1b\\shown") == "shown");
    for cleared in ["\x1b[H\x1b[J", "\x1b[H\x1b[2K", "\x1b[H\x1b[K"] {
        let text = format!("{}{cleared}one\r\n\x1b[2Ktwo", "a".repeat(25));
        assert!(whole(browser, 20, &text) == "one\ntwo", "{cleared:?}");
    }
    let anew = format!("{}\x1b[2J\x1b[Hnext", "a".repeat(25));
    assert!(whole(browser, 20, &anew) == format!("{}\nnext", "a".repeat(25)).as_str());
    let reset = format!("{}\r\n{}\x1bcnew", "a".repeat(90), "b".repeat(25));
    assert!(whole(browser, 20, &reset).as_str().unwrap().ends_with("\nnew"));
    assert!(
        whole(browser, 20, &format!("\x1b]0;{}kept", "x".repeat(300))).as_str().unwrap().ends_with("kept")
    );
}

fn hosts(browser: &mut Browser, _: &Path) {
    shows(browser, ".matrix thead", "rlc9-uki, kvm");
    shows(browser, ".matrix thead", "rlc9-uki, tcg");
    assert!(browser.eval("document.querySelectorAll('.matrix tbody tr').length") == 3);
    assert!(browser.eval("document.querySelectorAll('.matrix tbody tr:first-child a.cell').length") == 2);
    keep(browser, "hosts-light", 1200, 900);
    click(browser, "a.cell.bad");
    shows(browser, ".scenario-head", "rlc9-uki, kvm");
    shows(browser, ".facts", "kvm, QEMU 10");
}

fn catalogue(browser: &mut Browser, _: &Path) {
    shows(browser, "h1", "1 failed, 1 could not be judged");
    assert!(browser.eval("document.querySelectorAll('a.cell').length") == 110);
    shows(browser, ".known summary", "2 known to fail");
    shows(browser, ".matrix", "↺ reused");
    shows(browser, ".matrix", "⇄ 1 shared");
    keep(browser, "catalogue-light", 1400, 1000);
    browser.eval("document.querySelector('.matrix').scrollIntoView()");
    keep(browser, "catalogue-matrix", 1400, 1000);
    assert!(browser.eval("document.querySelector('.known').open") == true);
    shows(browser, ".known", "https://bugs.example/7");
    click(browser, "#theme-button");
    keep(browser, "catalogue-dark", 1400, 1000);
    matrix::is_printed_dark_on_light(browser);
    keep(browser, "catalogue-phone", 390, 844);
    let wide = browser.eval("document.documentElement.scrollWidth <= window.innerWidth");
    assert!(wide == true, "the page is wider than a phone");
    browser.eval("document.querySelector('.matrix').scrollIntoView()");
    keep(browser, "catalogue-phone-matrix", 390, 844);
    click(browser, "a.cell.warn");
    shows(browser, ".scenario-head", "needs-vendor-key");
    browser.eval("location.hash = '#s/40'");
    shows(browser, ".scenario-head", "Known until 2027-01-31: its shim is revoked");
    browser.eval("location.hash = '#s/21'");
    shows(browser, ".steps", "done once for this and first-boot on rlc9-grub");
    keep(browser, "scenario-dark", 1400, 1000);
}

fn hostile(browser: &mut Browser, _: &Path) {
    for scenario in 0..3 {
        for part in ["", "/b/0", "/b/0/pcrs", "/b/0/tpm", "/b/0/events", "/b/0/checks", "/b/0/qemu"] {
            browser.eval(&format!("location.hash = '#s/{scenario}{part}'"));
            browser.until(&format!("document.getElementById('main').dataset.at.startsWith('{scenario}/')"));
            browser.until("!document.getElementById('panel')?.textContent.startsWith('Reading')");
        }
    }
    browser.eval("location.hash = '#s/0/b/0'");
    shows(browser, ".term", "onerror=");
    shows(browser, ".scenario-head .title", common::HOSTILE);
    assert!(browser.eval("typeof window.pwned") == "undefined");
    assert!(browser.eval("document.querySelectorAll('img, iframe, object').length") == 0);
}

/// A thousand boots, each with a console of its own, as long when packed as all of a real boot's files (the runs of the
/// catalogue have 47 KB a boot in their reports).
fn thousand(run: &Path) -> RunResults {
    let mut results = common::run(1000);
    let steps = results.scenarios.iter_mut().flat_map(|row| &mut row.steps);
    for (number, boot) in steps.flat_map(|step| &mut step.boots).enumerate() {
        let mut text = json!({"version": 2, "width": 80, "height": 25}).to_string() + "\n";
        let mut line = sha2::Sha256::digest(number.to_le_bytes());
        for at in 0..1000 {
            line = sha2::Sha256::digest(line);
            let shown: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&json!([at, "o", format!("{shown}\r\n")]).to_string());
            text.push('\n');
        }
        boot.console = format!("passing/power-{number}.cast").into();
        std::fs::write(run.join(&boot.console), text).unwrap();
    }
    results
}

fn a_thousand(browser: &mut Browser, run: &Path) {
    assert!(std::fs::metadata(run.join("report.html")).unwrap().len() > 40_000_000);
    shows(browser, ".matrix", "passing");
    // Nothing of a boot is unpacked or drawn before somebody asks for it.
    assert!(browser.eval("unpacked.size") == 0);
    assert!(browser.eval("document.querySelectorAll('.term, .events').length") == 0);
    browser.eval("location.hash = '#s/0/b/999/pcrs'");
    shows(browser, ".boot-head", "Boot 1000");
    browser.until("document.querySelector('.events')");
    assert!(browser.eval("unpacked.size <= 4") == true);
}
