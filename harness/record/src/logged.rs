//! How a forecast compares with the event log of a boot that was not this project's.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Digest, ForecastEvent, HashAlg, Outcome, PcrIndex};

/// A forecast held against an event log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogComparison {
    /// The bank whose digests were compared.
    pub bank: HashAlg,
    /// What whoever relies on the log must know of it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
    /// Files that are forecast to be measured and are not in the log, with what this disk comes to without each.
    pub only_forecast: Vec<OnlyForecast>,
    /// Programs that were logged and are not forecast, as the log names them.
    pub only_logged: Vec<String>,
    /// By PCR: those that the disk and the owner's variables decide over. The others are the platform's own.
    pub pcrs: BTreeMap<PcrIndex, LoggedPcr>,
    /// The disk's TPM tokens by number, held against the PCRs that the log comes to.
    pub tokens: BTreeMap<u32, LoggedToken>,
}

/// A file that the log does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnlyForecast {
    /// The file.
    pub file: String,
    /// What the machine would come to if it were not there; `None` where that hangs on something unmodelled.
    pub without: Option<Outcome>,
    /// Why, in a sentence.
    pub because: String,
}

/// One PCR's events, forecast and logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedPcr {
    /// How many are the same, from the first on.
    pub same: usize,
    /// Whether the firmware's own events of PCR 4, actions and separators, come otherwise: that is the platform's and not the
    /// disk's, and such events are left out of the comparison then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub another_platform: bool,
    /// The first pair that is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<LoggedDifference>,
}

/// Where a forecast and a log part; the side without an event has ended before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedDifference {
    /// What is forecast.
    pub forecast: Option<ForecastEvent>,
    /// What was logged.
    pub logged: Option<LoggedEvent>,
}

/// An event of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedEvent {
    /// Its digest; `None` where the log has none of this bank.
    pub digest: Option<Digest>,
    /// Its type and what it is about, in words.
    pub what: String,
}

/// Whether a token was sealed to the boot of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoggedToken {
    /// The PCRs that it is sealed to.
    pub pcrs: Vec<PcrIndex>,
    /// Their bank, as the token names it, if it does.
    pub bank: Option<String>,
    /// Whether the log's PCRs come to the token's policy; `None` where a log cannot tell.
    pub sealed_to_it: Option<bool>,
}
