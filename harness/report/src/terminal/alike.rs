//! Rows that are counted, not told: many of them have the same to say.

use std::borrow::Cow;

use latchkey_record::results::NOT_REACHED;
use latchkey_record::{RunResults, ScenarioResult, Status};

use super::{ALIKE, Page, said, sign};
use crate::account::{Account, common_reason, of_any_machine};
use crate::grouped::grouped;

/// What is said of a row that says nothing about a machine, and the reason, or the word that it begins with, where it has one.
pub(super) type Common<'a> = (&'static str, Cow<'a, str>);

/// `None` of a row that says something.
pub(super) fn common(result: &ScenarioResult) -> Option<Common<'_>> {
    let why = match &result.status {
        Status::Skipped { reason } => {
            reason.split_once(": ").map_or(reason.as_str(), |(word, _)| word).into()
        }
        status => common_reason(status)?.into(),
    };
    Some((said(&result.status), why))
}

/// Rows that say nothing about a machine, all for one reason.
pub(super) struct Alike<'a> {
    pub(super) common: Common<'a>,
    first: &'a ScenarioResult,
    count: usize,
}

impl Alike<'_> {
    /// How many, and why: in full what the first of them says, which is what one that begins with the same word says, too.
    pub(super) fn line(&self, page: &Page) -> String {
        let (mark, style) = sign(&self.first.status);
        let account = Account::of(self.first);
        let why = account.as_ref().map_or("", Account::headline);
        let why = of_any_machine(why.strip_prefix(NOT_REACHED).unwrap_or(why));
        page.styled(&format!("{mark} {} {}: {why}", self.count, self.common.0), style)
    }
}

/// What more rows than a few ended with.
pub(super) fn alike(results: &RunResults) -> Vec<Alike<'_>> {
    let rows = results.scenarios.iter().filter_map(|result| Some((common(result)?, result)));
    let mut groups = Vec::new();
    for (common, rows) in grouped(rows) {
        let first = rows.first().copied().filter(|_| rows.len() > ALIKE);
        groups.extend(first.map(|first| Alike { common, first, count: rows.len() }));
    }
    groups
}
