//! One self-contained page: the run at a glance, and every boot down to its last measurement.
//!
//! Nothing in it can be trusted: a guest writes the console, a user the titles, somebody else the file names. So the page holds
//! data as JSON only, with `<` escaped, and its own script puts it on screen as text. Should that ever fail, the page's
//! policy still names the one script that may run, by its hash, and allows no connection.
//!
//! The files beside `results.json` are compressed, each once however many boots share it, and unpacked when somebody looks
//! at them: a thousand boots open as fast as three.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use latchkey_record::RunResults;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::account::Account;

const PAGE: &str = include_str!("html/page.html");

const STYLES: &[&str] =
    &[include_str!("html/theme.css"), include_str!("html/layout.css"), include_str!("html/detail.css")];

/// In the order in which they run.
const SCRIPTS: &[&str] = &[
    include_str!("html/dom.js"),
    include_str!("html/data.js"),
    include_str!("html/words.js"),
    include_str!("html/terminal.js"),
    include_str!("html/player.js"),
    include_str!("html/align.js"),
    include_str!("html/pcrs.js"),
    include_str!("html/exchanges.js"),
    include_str!("html/boot.js"),
    include_str!("html/scenario.js"),
    include_str!("html/overview.js"),
    include_str!("html/app.js"),
];

/// Where the files are that results name.
pub trait Evidence {
    /// The bytes of the file that the results call `name`.
    ///
    /// # Errors
    /// When there is none that may be shown, and why.
    fn file(&self, name: &Path) -> Result<Vec<u8>, Missing>;
}

/// Why a file is not in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// It cannot be read.
    #[error("it was not there when the report was made")]
    Absent,
    /// Its path leads out of the run's directory.
    #[error("its path leads out of the run's directory")]
    Elsewhere,
    /// It is not the file that the results tell of.
    #[error("it has another SHA-256 than the results tell: it was changed after the run, and is no evidence")]
    Changed,
    /// It is longer than a report takes.
    #[error("it is too long for a report")]
    TooLong,
}

/// The run as one HTML page, with the files that `evidence` has.
///
/// # Errors
/// When a value cannot be written as JSON, which for these types is a bug.
pub fn page(results: &RunResults, evidence: &impl Evidence) -> Result<String, serde_json::Error> {
    let mut store = Store::default();
    for boot in results.scenarios.iter().flat_map(|s| &s.steps).flat_map(|s| &s.boots) {
        store.add(&boot.forecast, Some(&boot.forecast_sha256), evidence)?;
        for name in [&boot.console, &boot.tpm, &boot.command_line] {
            store.add(name, None, evidence)?;
        }
    }
    let (style, script) = (STYLES.concat(), SCRIPTS.concat());
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; base-uri 'none'; form-action 'none'",
        hash(&script),
        hash(&style)
    );
    let mut data = element("run", &serde_json::to_value(results)?)?;
    let account = |account: Account| json!({ "step": account.step, "facts": account.facts });
    let accounts = results.scenarios.iter().map(|row| Account::of(row).map(account)).collect::<Vec<_>>();
    data.push_str(&element("accounts", &json!(accounts))?);
    data.push_str(&element("files", &Value::Object(store.index))?);
    data.push_str(&store.elements);
    // Filled in one pass from the left: what was put in is not looked at again.
    let parts =
        [("{{policy}}", &policy), ("{{style}}", &style), ("{{data}}", &data), ("{{script}}", &script)];
    let mut page = String::with_capacity(PAGE.len() + style.len() + script.len() + data.len());
    let mut rest = PAGE;
    for (mark, text) in parts {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        page.push_str(before);
        page.push_str(text);
        rest = after;
    }
    page.push_str(rest);
    Ok(page)
}

/// As a content security policy names an inline script or style.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64.encode(Sha256::digest(text)))
}

/// A value as an element that no browser runs. `<` begins nothing in it, neither the element's end nor a comment.
fn element(id: &str, value: &Value) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(value)?.replace('<', "\\u003c");
    Ok(format!("<script type=\"application/json\" id=\"{id}\">{text}</script>\n"))
}

/// The files, each once.
#[derive(Default)]
struct Store {
    /// By name: the number of its element, or why there is none.
    index: serde_json::Map<String, Value>,
    /// By content: several boots may have the same forecast.
    numbers: BTreeMap<[u8; 32], usize>,
    elements: String,
}

impl Store {
    /// Takes the file called `name`, which has this SHA-256 in hex where the results tell one.
    fn add(
        &mut self,
        name: &Path,
        sha256: Option<&str>,
        evidence: &impl Evidence,
    ) -> Result<(), serde_json::Error> {
        let key = name.to_string_lossy().into_owned();
        if self.index.contains_key(&key) {
            return Ok(());
        }
        let whole = |bytes: Vec<u8>| match sha256 {
            Some(told) if !hex::encode(Sha256::digest(&bytes)).eq_ignore_ascii_case(told) => {
                Err(Missing::Changed)
            }
            _ => Ok(bytes),
        };
        let entry = match evidence.file(name).and_then(whole) {
            Err(missing) => json!(missing.to_string()),
            Ok(bytes) => {
                let next = self.numbers.len();
                let number = *self.numbers.entry(Sha256::digest(&bytes).into()).or_insert(next);
                if number == next {
                    let packed = BASE64.encode(deflated(&bytes));
                    self.elements.push_str(&element(&format!("file-{number}"), &json!(packed))?);
                }
                json!(number)
            }
        };
        self.index.insert(key, entry);
        Ok(())
    }
}

/// Raw DEFLATE, which browsers call `deflate-raw`.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    // A vector takes everything.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_own_parts_end_nothing_early() {
        assert!(SCRIPTS.iter().all(|s| !s.contains("</script") && !s.contains("<!--")));
        assert!(STYLES.iter().all(|s| !s.contains("</style")));
    }

    #[test]
    fn the_pages_own_script_never_takes_text_for_markup_or_code() {
        let markup = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("];
        for word in markup {
            assert!(SCRIPTS.iter().all(|s| !s.contains(word)), "{word}");
        }
    }

    #[test]
    fn every_mark_is_in_the_page_once_and_in_order() {
        let marks = ["{{policy}}", "{{style}}", "{{data}}", "{{script}}"];
        let places: Vec<_> = marks.iter().filter_map(|mark| PAGE.find(mark)).collect();
        assert!(places.len() == 4 && places.is_sorted(), "{places:?}");
        assert_eq!(PAGE.matches("{{").count(), 4);
    }
}
