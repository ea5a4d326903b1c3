//! `latchkey forecast`.

use anyhow::Result;
use latchkey_record::{Forecast, PcrIndex};
use latchkey_report::forecast::{difference, explain, whole};
use latchkey_scenario::{ForetellError, SessionError, foretell};

use crate::args::{Common, ForecastArgs};
use crate::progress::Live;
use crate::{UsageError, cache, json, print};

/// Prints the forecast of one machine, or where two differ. Differing forecasts are an answer, not a failure.
pub(crate) fn forecast(common: &Common, args: &ForecastArgs) -> Result<u8> {
    // Not for the parser: it asks for nothing that excludes something else that is there.
    if !args.all && (args.on.is_some() || args.against.is_some() || !args.scenarios.is_empty()) {
        return Err(UsageError("--on, --against and --scenario go with --all".into()).into());
    }
    let Some(machine) = args.machine.as_deref().filter(|_| !args.all) else {
        return crate::rehearse::all(common, args);
    };
    let one = told(common, machine)?;
    if let Some(other) = &args.diff {
        let other = told(common, other)?;
        let difference = difference(&one, &other);
        return print(&if common.json { json(&difference)? } else { difference.to_string() });
    }
    let explained = args.explain.map(PcrIndex::new).transpose()?.map(|pcr| explain(&one, pcr));
    print(&match explained {
        Some(explained) if common.json => json(&explained)?,
        Some(explained) => explained.to_string(),
        None if common.json => json(&one)?,
        None => whole(&one),
    })
}

fn told(common: &Common, subject: &str) -> Result<Forecast> {
    let live = Live::new();
    let forecast = foretell(subject, &cache(common)?, &live);
    live.finish();
    match forecast {
        Err(ForetellError::Session(SessionError::Images(error)))
            if !std::path::Path::new(subject).exists() =>
        {
            Err(UsageError(format!("{error}; or name a machine's directory or a disk image")).into())
        }
        // The host's own errors have exit codes of their own.
        Err(ForetellError::Session(error)) => Err(error.into()),
        other => Ok(other?),
    }
}
