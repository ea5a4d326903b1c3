//! What is wrong with a scenario file, pointing at the word.

use std::ops::Range;
use std::path::Path;

use miette::{NamedSource, SourceSpan};

/// A mistake in a scenario file.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{problem}")]
pub struct Diagnostic {
    problem: String,
    #[source_code]
    text: NamedSource<String>,
    #[label("here")]
    at: Option<SourceSpan>,
    #[help]
    help: Option<String>,
}

impl Diagnostic {
    pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self {
            problem: format!("reading scenario {}: {error}", path.display()),
            text: NamedSource::new(path.display().to_string(), String::new()),
            at: None,
            help: Some(
                match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        "`cargo xtask scenario new FILE` writes one to begin from; `cargo xtask run --list` names those there are"
                    }
                    _ => "name a scenario file, as `cargo xtask scenario new FILE` writes one",
                }
                .into(),
            ),
        }
    }

    pub(crate) fn grammar(path: &Path, source: &str, error: &toml::de::Error) -> Self {
        let (problem, help) = in_two(error.message());
        match error.span() {
            Some(span) => Self::at(path, source, span, problem, &help),
            None => Self {
                problem,
                text: NamedSource::new(path.display().to_string(), source.to_owned()),
                at: None,
                help: Some(help),
            },
        }
    }

    pub(crate) fn at(path: &Path, source: &str, span: Range<usize>, problem: String, help: &str) -> Self {
        let shown = is_readable(source, &span);
        let line = 1 + source.get(..span.start).map_or(0, |before| before.matches('\n').count());
        Self {
            problem: if shown {
                problem
            } else {
                format!("{problem} (line {line}, which is too long to show)")
            },
            text: NamedSource::new(path.display().to_string(), source.to_owned()),
            at: shown.then(|| SourceSpan::from(span)),
            help: Some(help.to_owned()),
        }
    }
}

/// Whether the line that `span` begins in can be shown: nobody reads one of thousands of characters.
fn is_readable(source: &str, span: &Range<usize>) -> bool {
    const MOST: usize = 500;
    let Some((before, after)) = source.split_at_checked(span.start) else { return true };
    let length = |text: Option<&str>| text.map_or(0, str::len);
    length(before.rsplit('\n').next()) + length(after.split('\n').next()) <= MOST
}

/// What is wrong, and what to do about it. Messages of this grammar's own types have a colon between the two; of what serde
/// and TOML say, the second is found here.
fn in_two(message: &str) -> (String, String) {
    if message.starts_with("wanted exactly 1 element") {
        let what = match message.contains("more than 1") {
            true => "two things stand here, where there is room for one",
            false => "nothing stands here, where one thing has to",
        };
        return (
            what.into(),
            "let each `[[step]]` do one thing, such as `boot = { expect = \"unlocked\" }`".into(),
        );
    }
    if message.ends_with("expected a TOML datetime") {
        return (
            "this is no day".into(),
            "write it without quotes and without a time: `until = 2027-01-31`".into(),
        );
    }
    if message.starts_with("invalid type: map, expected a sequence") {
        return (
            "one thing stands here, where a list of them has to".into(),
            "two brackets begin each thing of a list: `[[step]]`, `[[known]]`".into(),
        );
    }
    let serdes = ["invalid ", "missing ", "unknown "].iter().any(|first| message.starts_with(first));
    if let Some((problem, help)) = message.rsplit_once(": ").filter(|_| !serdes) {
        return (problem.to_owned(), help.to_owned());
    }
    let schema = "`cargo xtask schema scenario` has what may stand here, for you and your editor";
    let missing = || match message.strip_prefix("missing field ")? {
        "`step`" => {
            Some(format!("add steps, such as\n[[step]]\nboot = {{ expect = \"unlocked\" }}\n{schema}"))
        }
        field => Some(format!("add {field}; {schema}")),
    };
    (message.to_owned(), nearest(message).or_else(missing).unwrap_or_else(|| schema.to_owned()))
}

/// The word that was probably meant. serde's message has the wrong word and the right ones in backticks.
fn nearest(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let wrong = words.next().filter(|_| message.starts_with("unknown"))?;
    let right: Vec<&str> = words.collect();
    // What follows a table's head belongs to the table.
    if ABOVE.contains(&wrong) && right.contains(&"image") {
        return Some(format!("`{wrong}` belongs to the whole file: put it above `[machine]`"));
    }
    let other = OTHERS.iter().filter(|(said, _)| *said == wrong).map(|(_, meant)| *meant);
    let other = other.into_iter().find(|meant| right.contains(meant));
    other.map(|meant| format!("did you mean `{meant}`?")).or_else(|| did_you_mean(wrong, right))
}

/// What a scenario tells of itself, before its machine.
const ABOVE: [&str; 4] = ["title", "flow", "why", "source"];

/// What is called otherwise elsewhere, or by people.
const OTHERS: [(&str, &str); 7] = [
    ("passphrase", "fallback-passphrase"),
    ("path", "file"),
    ("file", "path"),
    ("from", "find"),
    ("to", "with"),
    ("from", "file"),
    ("artefact", "with"),
];

/// The question whether it was one of `right` that was meant, where one of them is near.
pub fn did_you_mean<'a>(wrong: &str, right: impl IntoIterator<Item = &'a str>) -> Option<String> {
    right
        .into_iter()
        .map(|right| (strsim::damerau_levenshtein(wrong, right), right))
        .filter(|(distance, right)| *distance <= right.len().max(wrong.len()) / 3)
        .min()
        .map(|(_, right)| format!("did you mean `{right}`?"))
}

/// That there is no reference image of this name, which there are, and which may be meant.
#[must_use]
pub fn no_image(name: &str) -> String {
    let known = latchkey_images::names();
    let meant = did_you_mean(name, known.iter().copied());
    let meant = meant.map_or(String::new(), |question| format!("; {question}"));
    format!("there is no image `{name}`, only {}{meant}", known.join(", "))
}
