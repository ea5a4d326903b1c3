//! The matrix of scenarios by image: read far down, on narrow screens, and on paper.

use std::path::Path;

use serde_json::json;

use crate::devtools::Browser;
use crate::{click, keep, shows};

/// How many of the elements that a selector names lie on top, where somebody can read them.
fn readable(browser: &mut Browser, selector: &str) -> u64 {
    let script = format!(
        "[...document.querySelectorAll({})].filter((one) => {{ const box = one.getBoundingClientRect(); \
         const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2); \
         return top !== null && one.contains(top); }}).length",
        json!(selector)
    );
    browser.eval(&script).as_u64().unwrap()
}

pub(crate) fn seven(browser: &mut Browser, _: &Path) {
    shows(browser, "h1", "1 failed, 1 could not be judged");
    shows(browser, "h1", "10 not reached; 1 skipped");
    left_out(browser);
    // They fit, and scroll with the page.
    browser.resize(1280, 900);
    let fits = "document.querySelector('.matrix').offsetWidth <= document.querySelector('.matrix').parentNode.clientWidth";
    assert!(browser.eval(fits) == true);
    browser.eval("document.querySelector('.matrix tr:nth-child(12)').scrollIntoView()");
    keep(browser, "seven-light", 1280, 900);
    assert_eq!(readable(browser, ".matrix thead th"), 8);
    // Who goes up by keys sees where he is.
    browser.eval("document.querySelector('.matrix tr:nth-child(12) a.cell').focus()");
    for _ in 0..20 {
        browser.press("k");
        assert!(browser.eval("document.activeElement.matches('a.cell')") == true);
        assert_eq!(readable(browser, "a.cell:focus"), 1);
    }
    in_a_box(browser);
    on_a_phone(browser);
}

/// What was not run says why, shortly, and not how long it took.
fn left_out(browser: &mut Browser) {
    let cells = "[...document.querySelectorAll('a.cell[title^=\"not-reached: \"]')]";
    assert!(browser.eval(&format!("{cells}.length")) == 10);
    let told = format!(
        "{cells}.every((cell) => cell.textContent.includes('not reached') && !cell.textContent.includes('0.0 s'))"
    );
    assert!(browser.eval(&told) == true);
    shows(browser, "a.cell[title^='needs-dnf: no package']", "skipped");
    shows(browser, "a.cell[title^='needs-dnf: no package']", "needs-dnf");
    assert!(browser.eval("document.querySelector('.matrix').textContent.includes('no package')") == false);
    // Where there is no row by its scenario's own account, that is told; it is none of those that somebody picks.
    let told = "document.querySelector('tr:last-child td:last-child').textContent";
    assert_eq!(browser.eval(told), "left out: it has no UKI");
    click(browser, ".pick:nth-last-of-type(2)");
    browser.until("document.querySelectorAll('a.cell').length === 10");
    assert_eq!(browser.eval(told), "");
    click(browser, ".pick");
    browser.until("document.querySelectorAll('a.cell').length === 110");
}

/// Where they do not fit, heads and names stay in sight of a box.
fn in_a_box(browser: &mut Browser) {
    browser.resize(1000, 800);
    browser.eval("document.querySelector('.matrix tr:nth-child(12)').scrollIntoView({ block: 'center' })");
    browser.eval("document.querySelector('.matrix').parentNode.scrollLeft = 10000");
    keep(browser, "seven-box", 1000, 800);
    let moved = "document.querySelector('.matrix').parentNode.scrollLeft > 100";
    assert!(browser.eval(moved) == true);
    assert!(readable(browser, ".matrix thead th") >= 4);
    assert_eq!(readable(browser, ".matrix thead th:last-child"), 1);
    assert_eq!(readable(browser, ".matrix tr:nth-child(12) th"), 1);
    let wide = browser.eval("document.documentElement.scrollWidth <= window.innerWidth");
    assert!(wide == true, "the page is wider than its window");
}

/// There a scenario's images stand below one another; each tells its name, and the scenario's stays with them.
fn on_a_phone(browser: &mut Browser) {
    browser.resize(390, 500);
    browser.eval("document.querySelector('.matrix tr:nth-child(12) td:last-child a').scrollIntoView()");
    keep(browser, "seven-phone", 390, 500);
    assert_eq!(readable(browser, ".matrix tr:nth-child(12) th"), 1);
    assert_eq!(readable(browser, ".matrix tr:nth-child(12) td:last-child .on"), 1);
    let wide = browser.eval("document.documentElement.scrollWidth <= window.innerWidth");
    assert!(wide == true, "the page is wider than a phone");
}

/// Of a page that is dark on its screen.
pub(crate) fn is_printed_dark_on_light(browser: &mut Browser) {
    let ink = "getComputedStyle(document.body).color";
    assert!(browser.eval(ink) == "rgb(226, 231, 238)");
    browser.call("Emulation.setEmulatedMedia", json!({"media": "print"}));
    assert!(browser.eval(ink) == "rgb(28, 36, 48)");
    assert!(
        browser.eval("getComputedStyle(document.querySelector('.matrix').parentNode).overflowY") == "visible"
    );
    browser.call("Emulation.setEmulatedMedia", json!({"media": ""}));
}
