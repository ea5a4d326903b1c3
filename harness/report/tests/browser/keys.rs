//! The keyboard, with keys that the browser itself gets: what it does with Enter, Space and arrows is part of it.

use std::path::Path;

use latchkey_record::RunResults;
use serde_json::json;

use crate::devtools::Browser;
use crate::{click, common, shows};

/// What is waited for is what is drawn: the address is there before the page has followed it.
pub(crate) fn everywhere(browser: &mut Browser, _: &Path) {
    browser.press("j");
    browser.until("document.activeElement.classList.contains('cell')");
    browser.press("Enter");
    browser.until("drawn === '#s/0' && document.querySelector('.cards')");
    browser.press("2");
    browser.until("drawn === '#s/0/b/0/pcrs' && document.querySelector('.events')");
    browser.press("j");
    browser.until("drawn === '#s/0/b/1/pcrs'");
    browser.press("k");
    browser.until("drawn === '#s/0/b/0/pcrs'");
    browser.eval("document.querySelector('#tab-pcrs').focus()");
    for (key, tab) in [("ArrowRight", "tpm"), ("ArrowRight", "events"), ("ArrowLeft", "tpm")] {
        browser.press(key);
        browser
            .until(&format!("document.activeElement.id === 'tab-{tab}' && location.hash.endsWith('/{tab}')"));
    }
    browser.eval("document.querySelector('.skip').click()");
    browser.until("document.activeElement.id === 'main' && drawn === '#s/0/b/0/tpm'");
    browser.press("u");
    browser.until("drawn === '#s/0'");
    browser.press("u");
    // One is where one was.
    browser.until("document.activeElement.matches('a.cell[href=\"#s/0\"]')");
    browser.press("t");
    browser.until("document.documentElement.dataset.theme === 'dark'");
    help(browser);
    search(browser);
}

fn help(browser: &mut Browser) {
    for closes in ["Escape", "Enter"] {
        browser.press("?");
        browser.until("document.getElementById('help').open");
        // What lies behind it is left alone.
        browser.press("t");
        browser.press(closes);
        browser.until("!document.getElementById('help').open");
        assert!(browser.eval("document.documentElement.dataset.theme") == "dark");
    }
}

fn search(browser: &mut Browser) {
    browser.press("/");
    browser.until("document.activeElement.id === 'search' && document.activeElement.value === ''");
    for letter in ["f", "a", "i", "l"] {
        browser.press(letter);
    }
    browser.until("document.querySelectorAll('a.cell').length === 1");
    browser.press("Escape");
    // What is shown is what the field still says.
    browser.until(
        "document.activeElement.id !== 'search' && document.getElementById('search').value === 'fail'",
    );
    assert!(browser.eval("document.querySelectorAll('a.cell').length") == 1);
    browser.press("j");
    browser.press("Enter");
    browser.until("drawn === '#s/1'");
}

/// A boot whose console shows a line each tenth of a second: long enough for somebody to stop it on a busy machine.
pub(crate) fn a_minute(run: &Path) -> RunResults {
    let mut results = common::run(1);
    let boot = &mut results.scenarios[0].steps[0].boots[0];
    boot.clear_after_ms = 60_000;
    let mut cast = json!({"version": 2, "width": 80, "height": 25}).to_string() + "\n";
    for tenth in 0_u32..600 {
        cast.push_str(&json!([f64::from(tenth) / 10.0, "o", format!("line {tenth}\r\n")]).to_string());
        cast.push('\n');
    }
    std::fs::write(run.join(&boot.console), cast).unwrap();
    results
}

pub(crate) fn replay(browser: &mut Browser, _: &Path) {
    browser.eval("location.hash = '#s/0/b/0'");
    shows(browser, ".time", "1:00 of 1:00");
    shows(browser, ".term", "line 599");
    browser.press("ArrowLeft");
    shows(browser, ".time", "0:55 of");
    shows(browser, ".term", "line 550");
    assert!(browser.eval("document.querySelector('.term').textContent.includes('line 551')") == false);
    browser.press("ArrowRight");
    shows(browser, ".time", "1:00 of");
    click(browser, ".jump");
    shows(browser, ".time", "0:01 of");
    browser.eval(
        "(() => { const speed = document.querySelector('.controls select'); speed.value = '1'; \
         speed.dispatchEvent(new Event('change')); })()",
    );
    browser.press(" ");
    shows(browser, ".play", "Pause");
    browser.until("activePlayer.now > 1500");
    browser.press(" ");
    shows(browser, ".play", "Play");
    let stopped = browser.eval("activePlayer.now");
    let later = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => activePlayer.now)";
    assert!(browser.eval(later) == stopped && stopped.as_f64().is_some_and(|at| at < 60_000.0));
    // The slider and the button have their own keys, and are not done twice.
    click(browser, ".jump");
    browser.eval("document.querySelector('.controls input').focus()");
    browser.press("ArrowLeft");
    browser.until("activePlayer.now === 950");
    browser.eval("document.querySelector('.play').focus()");
    browser.press("Enter");
    shows(browser, ".play", "Pause");
    browser.press(" ");
    shows(browser, ".play", "Play");
}
