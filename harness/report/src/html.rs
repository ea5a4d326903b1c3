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
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use latchkey_record::{RunResults, ScenarioResult};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::account::{Account, common_reason};

/// So many bytes of files are read for a page, before they are packed: the whole catalogue on one host has a third of it.
const EVIDENCE_LIMIT: u64 = 512 << 20;

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
    include_str!("html/attention.js"),
    include_str!("html/matrix.js"),
    include_str!("html/overview.js"),
    include_str!("html/app.js"),
];

/// Where the files are that results name.
pub trait Evidence {
    /// Where the file is that the results call `name`: the same however they spell it.
    ///
    /// # Errors
    /// When there is none that may be shown, and why.
    fn place(&self, name: &Path) -> Result<PathBuf, Missing>;

    /// The bytes of the file that the results call `name`, or of the one at such a place.
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
    /// The report has as much as it takes.
    #[error("the files before it are as much as a report takes")]
    Full,
}

/// The run as one HTML page, with the files that `evidence` has.
///
/// # Errors
/// When a value cannot be written as JSON, which for these types is a bug.
pub fn page(results: &RunResults, evidence: &impl Evidence) -> Result<String, serde_json::Error> {
    let mut store = Store::of(EVIDENCE_LIMIT);
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
    let mut data = element("run", results)?;
    let account = |row: &ScenarioResult| {
        let Account { step, facts, heard, .. } = Account::of(row)?;
        Some(json!({ "step": step, "facts": facts, "heard": heard, "common": common_reason(&row.status) }))
    };
    let accounts = results.scenarios.iter().map(account).collect::<Vec<_>>();
    data.push_str(&element("accounts", &json!(accounts))?);
    let rows = results.scenarios.iter().enumerate();
    let locked = rows.filter(|(_, row)| row.is_left_locked()).map(|(at, _)| at).collect::<Vec<_>>();
    data.push_str(&element("locked", &locked)?);
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
fn element(id: &str, value: &impl Serialize) -> Result<String, serde_json::Error> {
    let text = serde_json::to_string(value)?.replace('<', "\\u003c");
    Ok(format!("<script type=\"application/json\" id=\"{id}\">{text}</script>\n"))
}

/// A SHA-256.
type Sum = [u8; 32];

/// The files, each once.
struct Store {
    /// By name: the number of its element, or why there is none.
    index: serde_json::Map<String, Value>,
    /// By place, since one file has many names: the number of its element, with its SHA-256, or why there is none.
    places: BTreeMap<PathBuf, Result<(usize, Sum), Missing>>,
    /// By content: several boots may have the same forecast.
    numbers: BTreeMap<Sum, usize>,
    elements: String,
    /// So many bytes may still be read.
    left: u64,
}

impl Store {
    /// Takes no more than `left` bytes.
    fn of(left: u64) -> Self {
        let (index, elements) = (serde_json::Map::new(), String::new());
        Self { index, places: BTreeMap::new(), numbers: BTreeMap::new(), elements, left }
    }

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
        let is_told = |sum: &Sum| sha256.is_none_or(|told| hex::encode(sum).eq_ignore_ascii_case(told));
        let found = match evidence.place(name) {
            Err(missing) => Err(missing),
            Ok(place) => match self.places.get(&place) {
                Some(known) => *known,
                None => {
                    let found = match self.read(&place, evidence) {
                        Ok((bytes, sum)) if is_told(&sum) => Ok((self.put(&bytes, sum)?, sum)),
                        Ok(_) => Err(Missing::Changed),
                        Err(missing) => Err(missing),
                    };
                    self.places.insert(place, found);
                    found
                }
            },
        };
        let entry = match found {
            Ok((number, sum)) if is_told(&sum) => json!(number),
            Ok(_) => json!(Missing::Changed.to_string()),
            Err(missing) => json!(missing.to_string()),
        };
        self.index.insert(key, entry);
        Ok(())
    }

    /// Reads the file at `place`, unless that is more than may be read. What comes after such a one is not read either.
    fn read(&mut self, place: &Path, evidence: &impl Evidence) -> Result<(Vec<u8>, Sum), Missing> {
        if self.left == 0 {
            return Err(Missing::Full);
        }
        let bytes = evidence.file(place)?;
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.unwrap_or(0);
        let sum = Sha256::digest(&bytes).into();
        left.map(|_| (bytes, sum)).ok_or(Missing::Full)
    }

    /// The number of the element that holds these bytes, which is made unless it is there.
    fn put(&mut self, bytes: &[u8], sum: Sum) -> Result<usize, serde_json::Error> {
        let next = self.numbers.len();
        let number = *self.numbers.entry(sum).or_insert(next);
        if number == next {
            let packed = BASE64.encode(deflated(bytes));
            self.elements.push_str(&element(&format!("file-{number}"), &packed)?);
        }
        Ok(number)
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
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::cell::Cell;

    use super::*;

    /// Every file holds its name; counts how often one is read.
    #[derive(Default)]
    struct Names {
        read: Cell<usize>,
    }

    impl Evidence for Names {
        fn place(&self, name: &Path) -> Result<PathBuf, Missing> {
            Ok(name.components().filter(|part| part.as_os_str() != ".").collect())
        }

        fn file(&self, name: &Path) -> Result<Vec<u8>, Missing> {
            self.read.set(self.read.get() + 1);
            Ok(name.as_os_str().as_encoded_bytes().to_vec())
        }
    }

    #[test]
    fn a_file_of_many_names_is_read_once() {
        let (names, mut store) = (Names::default(), Store::of(1000));
        let sum = hex::encode(Sha256::digest("big"));
        let told = [("big", None), ("./big", None), ("././big", Some(sum.as_str())), (".//big", Some("00"))];
        for (name, told) in told {
            store.add(Path::new(name), told, &names).unwrap();
        }
        let found = ["big", "./big", "././big"].map(|name| store.index[name].as_u64());
        assert_eq!((found, names.read.get()), ([Some(0); 3], 1));
        assert_eq!(store.index[".//big"], Missing::Changed.to_string(), "its SHA-256 is another one's");
    }

    #[test]
    fn a_page_takes_no_more_than_its_limit() {
        let (names, mut store) = (Names::default(), Store::of(7));
        for name in ["one", "three", "two"] {
            store.add(Path::new(name), None, &names).unwrap();
        }
        let full = Missing::Full.to_string();
        assert_eq!((&store.index["three"], &store.index["two"]), (&json!(full), &json!(full)));
        assert_eq!((store.index["one"].as_u64(), names.read.get()), (Some(0), 2));
        assert_eq!(store.elements.matches("<script").count(), 1);
    }

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
