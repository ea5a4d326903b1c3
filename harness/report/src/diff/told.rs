//! What changed, as a person reads it.

use std::fmt;

use super::{BootChange, Change, Pair, Row, RunDiff, Side, Turn};
use crate::grouped::grouped;
use crate::terminal::plain;

impl fmt::Display for Pair<String> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", plain(&self.one), plain(&self.other))
    }
}

impl fmt::Display for RunDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.runs)?;
        if let Some(harness) = &self.harness {
            writeln!(f, "harness: {harness}")?;
        }
        if let Some(hosts) = &self.hosts {
            writeln!(f, "hosts: {hosts}")?;
        }
        for (name, pair) in &self.images {
            writeln!(f, "image {}: {pair}", plain(name))?;
        }
        for (image, changes) in &self.versions {
            let changes = changes.iter().map(|change| format!("{} {}", plain(&change.what), change.version));
            writeln!(f, "{}: {}", plain(image), changes.collect::<Vec<_>>().join(", "))?;
        }
        for (with, rows) in grouped(self.rows.iter().enumerate().map(|(at, row)| (told_with(at, row), row))) {
            let Some(first) = rows.first() else { continue };
            if let (With::Unfinished(side), true) = (with, rows.len() > 1) {
                self.unfinished(f, side, &rows)?;
                continue;
            }
            let images: Vec<String> = rows.iter().map(|row| plain(&row.image)).collect();
            told(f, &format!("{} on {}", plain(&first.scenario), images.join(", ")), &first.change)?;
        }
        let count = |wanted: fn(&Change) -> bool| self.rows.iter().filter(|row| wanted(&row.change)).count();
        write!(f, "{} worse, ", count(|c| c.turn() == Some(Turn::Worse)))?;
        let newly = count(|c| c.turn() == Some(Turn::NewlyFailed));
        if newly > 0 {
            write!(f, "{newly} failed and not run before, ")?;
        }
        // A row that vanished counts as that, as its line says.
        let lost = count(|c| matches!(c, Change::Differs { turn: Some(Turn::Lost), .. }));
        if lost > 0 {
            write!(f, "{lost} lost coverage, ")?;
        }
        write!(
            f,
            "{} better, {} otherwise changed, {} new, {} vanished, {} the same",
            count(|c| c.turn() == Some(Turn::Better)),
            count(|c| matches!(c, Change::Differs { turn: None, .. })),
            count(|c| matches!(c, Change::New { turn: None, .. })),
            count(|c| matches!(c, Change::Vanished { .. })),
            self.same
        )?;
        if self.not_run > 0 {
            write!(f, ", {} run in neither", self.not_run)?;
        }
        writeln!(f)
    }
}

/// So many rows that one of the runs did not come to are named.
const NAMED: usize = 8;

impl RunDiff {
    /// Tells in a line of `rows`, two and more, to which the run on this side did not come, or not to their end.
    fn unfinished(&self, f: &mut fmt::Formatter<'_>, side: Side, rows: &[&Row]) -> fmt::Result {
        let (sign, run, only) = match side {
            Side::One => ("~", &self.runs.one, ", and the other run did"),
            Side::Other => ("-", &self.runs.other, ""),
        };
        let named = rows.iter().take(NAMED).map(|row| plain(&format!("{} on {}", row.scenario, row.image)));
        let named = named.collect::<Vec<_>>().join(", ");
        let more = match rows.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let (count, run) = (rows.len(), plain(run));
        let what = format!("{count} rows that {run} did not come to, or not to their end{only}");
        writeln!(f, "{sign} {what}: {named}{more}")
    }
}

/// With which others a row is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum With<'a> {
    /// A run that ended early did not come to many rows.
    Unfinished(Side),
    /// A scenario that went away went away on many images.
    Gone(&'a str, Option<Turn>, &'a str),
    /// With none: by its place.
    Nobody(usize),
}

fn told_with(at: usize, row: &Row) -> With<'_> {
    if let Some(side) = row.unfinished {
        return With::Unfinished(side);
    }
    match &row.change {
        Change::Vanished { turn, status } => With::Gone(&row.scenario, *turn, status),
        _ => With::Nobody(at),
    }
}

/// What became of the row, or rows, of this name.
fn told(f: &mut fmt::Formatter<'_>, name: &str, change: &Change) -> fmt::Result {
    match change {
        Change::New { turn, status } => {
            let sign = if *turn == Some(Turn::NewlyFailed) { "✗" } else { "+" };
            writeln!(f, "{sign} {name}: new, {}", plain(status))
        }
        Change::Vanished { status, .. } => writeln!(f, "- {name}: vanished, was {}", plain(status)),
        Change::Differs { turn, status, conclusion, boots } => {
            let status = status.as_ref().map_or(String::new(), |status| format!(": {status}"));
            let sign = match turn {
                Some(Turn::Worse | Turn::NewlyFailed) => "✗",
                Some(Turn::Lost) => "-",
                Some(Turn::Better) => "✓",
                None => "~",
            };
            writeln!(f, "{sign} {name}{status}")?;
            if let Some(conclusion) = conclusion {
                writeln!(f, "    in the end {conclusion}")?;
            }
            boots.iter().try_for_each(|boot| writeln!(f, "    {boot}"))
        }
    }
}

impl fmt::Display for BootChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.outcome.as_ref().map(ToString::to_string));
        parts.extend(self.forecast.as_ref().map(|forecast| format!("forecast {forecast}")));
        parts.extend(self.reported_by.as_ref().map(|by| format!("reported by {by}")));
        parts.extend(self.lockout_counter.as_ref().map(|counter| format!("lockout counter {counter}")));
        for (bank, pcrs) in &self.pcrs {
            let list: Vec<_> = pcrs.iter().map(ToString::to_string).collect();
            let differ = if list.len() == 1 { "differs" } else { "differ" };
            parts.push(format!("PCR {} ({bank}) {differ}", list.join(", ")));
        }
        write!(f, "step {}, boot {}: {}", self.step, self.boot, parts.join("; "))
    }
}
