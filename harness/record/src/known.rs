//! What a scenario is known to fail on, for a while.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A text that names no day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no day: write it as 2027-01-31")]
pub struct NoDay(String);

/// A day of the calendar, in UTC. Written as `2027-01-31`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Day {
    year: u16,
    month: u8,
    day: u8,
}

impl Day {
    /// The last day that this type knows: whatever is to end some day has ended by then.
    pub const LAST: Self = Self { year: 9999, month: 12, day: 31 };

    /// The day `day` of `month`, both from 1.
    ///
    /// # Errors
    /// When the calendar has no such day.
    pub fn new(year: u16, month: u8, day: u8) -> Result<Self, NoDay> {
        // Gregorian: every fourth year, of full centuries every fourth.
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        let this = Self { year, month, day };
        if year <= 9999 && (1..=days).contains(&day) { Ok(this) } else { Err(NoDay(this.to_string())) }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Day {
    type Err = NoDay;

    fn from_str(text: &str) -> Result<Self, NoDay> {
        let wrong = || NoDay(text.to_owned());
        let well_formed = text.len() == 10 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        let mut parts = text.split('-');
        let mut next = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits).ok_or_else(wrong)?;
            part.parse::<u16>().map_err(|_| wrong())
        };
        let (year, month, day) = (next(4)?, next(2)?, next(2)?);
        let small = |number: u16| u8::try_from(number).map_err(|_| wrong());
        let known = Self::new(year, small(month)?, small(day)?).map_err(|_| wrong())?;
        if well_formed { Ok(known) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Day {
    type Error = NoDay;
    fn try_from(text: String) -> Result<Self, NoDay> {
        text.parse()
    }
}

impl From<Day> for String {
    fn from(day: Day) -> Self {
        day.to_string()
    }
}

/// Why a failure is expected, who looks after it, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Known {
    /// What is wrong, in a sentence.
    pub reason: String,
    /// Where it is looked after: an address or a number that its people know.
    pub tracker: String,
    /// The last day on which the failure is expected.
    pub until: Day,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "known until {}: {} ({})", self.until, self.reason, self.tracker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for day in ["2027-01-31", "2028-02-29", "2000-02-29", "0001-12-31"] {
            assert_eq!(day.parse::<Day>().map(|d| d.to_string()).as_deref(), Ok(day));
        }
        for wrong in [
            "2027-02-29",
            "2100-02-29",
            "2027-13-01",
            "2027-00-10",
            "2027-1-31",
            "2027-01-31 ",
            "+027-01-31",
            "",
        ] {
            assert_eq!(wrong.parse::<Day>(), Err(NoDay(wrong.into())));
        }
    }

    #[test]
    fn earlier_days_come_first() {
        let days = ["2026-12-31", "2027-01-30", "2027-01-31", "2027-02-01"].map(|day| day.parse::<Day>());
        assert!(days.is_sorted_by(|a, b| a.as_ref().ok() < b.as_ref().ok()));
    }
}
