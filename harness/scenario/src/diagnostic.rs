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
            help: Some("`cargo xtask run --list` names the scenarios there are".into()),
        }
    }

    pub(crate) fn grammar(path: &Path, source: &str, error: &toml::de::Error) -> Self {
        let (problem, help) = in_two(error.message());
        Self {
            problem,
            text: NamedSource::new(path.display().to_string(), source.to_owned()),
            at: error.span().map(SourceSpan::from),
            help: Some(help),
        }
    }

    pub(crate) fn at(path: &Path, source: &str, span: Range<usize>, problem: String, help: &str) -> Self {
        Self {
            problem,
            text: NamedSource::new(path.display().to_string(), source.to_owned()),
            at: Some(SourceSpan::from(span)),
            help: Some(help.to_owned()),
        }
    }
}

/// What is wrong, and what to do about it. Messages of this grammar's own types have a colon between the two; of what serde
/// and TOML say, the second is found here.
fn in_two(message: &str) -> (String, String) {
    let serdes = ["invalid ", "missing ", "unknown "].iter().any(|first| message.starts_with(first));
    if let Some((problem, help)) = message.rsplit_once(": ").filter(|_| !serdes) {
        return (problem.to_owned(), help.to_owned());
    }
    let schema = "docs/scenario.schema.json has what may stand here, for you and your editor";
    let missing = || Some(format!("add {}; {schema}", message.strip_prefix("missing field ")?));
    (message.to_owned(), nearest(message).or_else(missing).unwrap_or_else(|| schema.to_owned()))
}

/// The word that was probably meant. serde's message has the wrong word and the right ones in backticks.
fn nearest(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let wrong = words.next().filter(|_| message.starts_with("unknown"))?;
    did_you_mean(wrong, words)
}

/// The question whether it was one of `right` that was meant, where one of them is near.
pub fn did_you_mean<'a>(wrong: &str, right: impl IntoIterator<Item = &'a str>) -> Option<String> {
    right
        .into_iter()
        .map(|right| (strsim::damerau_levenshtein(wrong, right), right))
        .filter(|(distance, right)| *distance <= right.len().max(wrong.len()) / 2)
        .min()
        .map(|(_, right)| format!("did you mean `{right}`?"))
}
