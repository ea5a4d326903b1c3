//! `latchkey forecast`.

use std::path::Path;

use anyhow::Result;
use latchkey_images::Error as Images;
use latchkey_record::PcrIndex;
use latchkey_report::forecast::{difference, explain, logged, summary, whole};
use latchkey_scenario::{ForetellError, Foretold, Given, SessionError, foretell};

use crate::args::{Common, ForecastArgs, Machines};
use crate::choice::variables;
use crate::progress::Live;
use crate::{UsageError, cache, json, print};

/// Prints the forecast of one machine, or where two differ. Differing forecasts are an answer, not a failure.
pub(crate) fn forecast(common: &Common, args: &ForecastArgs) -> Result<u8> {
    // Not for the parser: it asks for nothing that excludes something else that is there.
    let Machines { on, image, .. } = &args.machines;
    if !args.all && (on.is_some() || image.is_some() || args.against.is_some() || !args.scenarios.is_empty())
    {
        return Err(UsageError("--on, --image, --against and --scenario go with --all".into()).into());
    }
    let Some(machine) = args.machine.as_deref().filter(|_| !args.all) else {
        return crate::rehearse::all(common, args);
    };
    let variables = args.machines.variables.as_deref().map(variables).transpose()?;
    let log = args.log.as_deref().map(log).transpose()?;
    let given = Given { variables: variables.as_ref(), log: log.as_deref() };
    let Foretold { forecast: one, log } = told(common, machine, given)?;
    if let Some(other) = &args.diff {
        // A machine has variables of its own, beside a disk that has none.
        let given = Given { variables: given.variables.filter(|_| !Path::new(other).is_dir()), ..given };
        let other = told(common, other, given)?.forecast;
        let difference = difference(&one, &other);
        return print(&if common.json { json(&difference)? } else { difference.to_string() });
    }
    if let Some(log) = log {
        return print(&match common.json {
            true => json(&serde_json::json!({"forecast": one, "log": log}))?,
            false => format!("{}\n{}", summary(&one), logged(&log)),
        });
    }
    let explained = args.explain.map(PcrIndex::new).transpose()?.map(|pcr| explain(&one, pcr));
    print(&match explained {
        Some(explained) if common.json => json(&explained)?,
        Some(explained) => explained.to_string(),
        None if common.json => json(&one)?,
        None => whole(&one),
    })
}

/// The file that `--log` names.
fn log(path: &Path) -> Result<Vec<u8>, UsageError> {
    std::fs::read(path).map_err(|e| UsageError(format!("--log {}: {e}", path.display())))
}

fn told(common: &Common, subject: &str, given: Given<'_>) -> Result<Foretold> {
    let live = Live::new();
    let foretold = foretell(subject, given, &cache(common)?, &live);
    live.finish();
    let theirs = |error: &dyn std::fmt::Display| UsageError(error.to_string()).into();
    match foretold {
        Err(ForetellError::Session(SessionError::Images(Images::UnknownRecipe { .. })))
            if subject.contains(['/', '.']) =>
        {
            Err(theirs(&format!("there is no file or directory {subject}")))
        }
        Err(ForetellError::Session(SessionError::Images(error @ Images::UnknownRecipe { .. }))) => {
            Err(theirs(&format!("{error}; or name a machine's directory or a disk image that is there")))
        }
        // Another computer would not take it either: what the command line names is at fault.
        Err(ForetellError::Session(
            error @ (SessionError::Images(Images::UserImage { .. }) | SessionError::Variables { .. }),
        )) => Err(theirs(&error)),
        Err(error @ (ForetellError::HasVariables { .. } | ForetellError::NoLog)) => Err(theirs(&error)),
        // The host's own errors have exit codes of their own.
        Err(ForetellError::Session(error)) => Err(error.into()),
        other => Ok(other?),
    }
}
