//! A run's directory: `results.json`, the reports beside it, and what was recorded of each scenario.

use std::fs::{self, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use latchkey_record::RunResults;
use latchkey_record::results::SCHEMA;
use serde::Deserialize;

use crate::account::capped;
use crate::html::{Evidence, Missing};
use crate::terminal::plain;
use crate::{html, json, junit};

/// More of one file is not put into a report; the longest console of a boot is a hundredth of it.
const FILE_LIMIT: u64 = 16 << 20;
/// Longer results are none: the whole catalogue's are a sixteenth of it.
const RESULTS_LIMIT: u64 = 256 << 20;

/// So many characters of a strange schema's name are shown.
const NAME_SHOWN: usize = 60;

/// The name of the results in a run's directory.
const RESULTS: &str = "results.json";

/// What went wrong with a run's directory.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// There is no run.
    #[error("reading {}: {source}; name the directory of a run, or its {RESULTS}", path.display())]
    Read {
        /// The results' file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The results are not this version's.
    #[error("{} is no {SCHEMA}: {why}", path.display())]
    Schema {
        /// The results' file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A report cannot be kept.
    #[error("writing {}: {source}", path.display())]
    Write {
        /// The report's file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A report cannot be made, which is a bug.
    #[error("making {what}: {why}")]
    Format {
        /// Which report.
        what: &'static str,
        /// Why not.
        why: String,
    },
}

/// As much of results as any schema of them has.
#[derive(Deserialize)]
struct Named {
    schema: Option<String>,
}

/// The directory of one run.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// `path` is the directory, or the `results.json` in it. Nothing is read yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let of_file = path.file_name().is_some_and(|name| name == RESULTS).then(|| path.parent()).flatten();
        Self { path: of_file.unwrap_or(path).to_owned() }
    }

    /// Where the results are.
    #[must_use]
    pub fn results_path(&self) -> PathBuf {
        self.path.join(RESULTS)
    }

    /// Where the HTML report is.
    #[must_use]
    pub fn html_path(&self) -> PathBuf {
        self.path.join("report.html")
    }

    /// Reads the results.
    ///
    /// # Errors
    /// When there are none, or they are of another schema.
    pub fn results(&self) -> Result<RunResults, RunDirError> {
        let path = self.results_path();
        // What is wrong may be told in the file's own words.
        let schema = |why: String| RunDirError::Schema { path: path.clone(), why: plain(&capped(&why)) };
        let text = match read_file(&path, RESULTS_LIMIT) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(schema(format!("it is longer than {} MiB", RESULTS_LIMIT >> 20))),
            Err(source) => return Err(RunDirError::Read { path: path.clone(), source }),
        };
        // A list's first word would be taken for the schema.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(schema(format!("it is no {RESULTS}")));
        }
        // Told before the rest is read: another schema's fields would be a riddle.
        let named: Named = serde_json::from_slice(&text).map_err(|e| schema(e.to_string()))?;
        match named.schema.as_deref() {
            Some(SCHEMA) => {}
            Some(other) => {
                let said: String = other.chars().take(NAME_SHOWN).collect();
                let advice = "made by another version of Latchkey: read it with that one";
                return Err(schema(format!("it says `{said}`; {advice}")));
            }
            None => return Err(schema("it names no schema".into())),
        }
        serde_json::from_slice(&text).map_err(|e| schema(e.to_string()))
    }

    /// Writes `results.json` and every report made from it, each whole or not at all.
    ///
    /// # Errors
    /// When one cannot be made or written. The results are written first.
    pub fn write(&self, results: &RunResults) -> Result<(), RunDirError> {
        self.write_results(results)?;
        self.write_reports(results)
    }

    /// Writes `results.json` alone.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn write_results(&self, results: &RunResults) -> Result<(), RunDirError> {
        let text =
            json::results(results).map_err(|e| RunDirError::Format { what: RESULTS, why: e.to_string() })?;
        self.put(RESULTS, &text)
    }

    /// Writes the reports, `junit.xml` and `report.html`, and leaves `results.json` alone.
    ///
    /// # Errors
    /// When one cannot be made or written.
    pub fn write_reports(&self, results: &RunResults) -> Result<(), RunDirError> {
        let format = |what| move |e: String| RunDirError::Format { what, why: e };
        self.put(
            "junit.xml",
            &junit::results(results, &self.seen_from_here())
                .map_err(|e| format("junit.xml")(e.to_string()))?,
        )?;
        let page = html::page(results, self).map_err(|e| format("report.html")(e.to_string()))?;
        self.put("report.html", &page)
    }

    /// The directory as a CI job names it: seen from where the command runs, which is where the job's files are taken from.
    fn seen_from_here(&self) -> PathBuf {
        let here = std::env::current_dir().unwrap_or_default();
        self.path.strip_prefix(here).unwrap_or(&self.path).to_owned()
    }

    /// Writes a file by a new one beside it that takes its place: what lies there may be somebody else's link.
    fn put(&self, name: &str, text: &str) -> Result<(), RunDirError> {
        let path = self.path.join(name);
        let prefix = format!(".{name}.");
        // Whoever was killed while writing it left one.
        let left = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            let _ = fs::remove_file(entry.path());
        }
        // As far as the user's umask goes.
        let readable = Permissions::from_mode(0o666);
        let part = tempfile::Builder::new().prefix(&prefix).permissions(readable).tempfile_in(&self.path);
        let written = part.and_then(|mut part| {
            part.write_all(text.as_bytes())?;
            Ok(part.persist(&path)?)
        });
        written.map(drop).map_err(|source| RunDirError::Write { path, source })
    }
}

impl Evidence for RunDir {
    /// A path that leads out of the directory is not followed, by dots or by links: results come from other people, too, and a
    /// report is passed on.
    fn place(&self, name: &Path) -> Result<PathBuf, Missing> {
        let absent = |_: io::Error| Missing::Absent;
        let root = self.path.canonicalize().map_err(absent)?;
        let path = root.join(name).canonicalize().map_err(absent)?;
        if !path.starts_with(&root) {
            return Err(Missing::Elsewhere);
        }
        // Opening a pipe would wait for its writer.
        if fs::metadata(&path).map_err(absent)?.is_file() { Ok(path) } else { Err(Missing::Absent) }
    }

    fn file(&self, name: &Path) -> Result<Vec<u8>, Missing> {
        let bytes = read_file(&self.place(name)?, FILE_LIMIT).map_err(|_| Missing::Absent)?;
        bytes.ok_or(Missing::TooLong)
    }
}

/// The file at `path`, which is no link; `None` where it is longer than `limit`.
fn read_file(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Err(io::Error::other("it is a link, which may lead anywhere and is not followed"));
    }
    // Opening a pipe would wait for its writer, and a device may never end.
    if !found.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    if found.len() <= limit {
        fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    }
    Ok((found.len().max(bytes.len() as u64) <= limit).then_some(bytes))
}
