//! `latchkey forecast`.

use std::path::Path;

use anyhow::Result;
use latchkey_images::Error as Images;
use latchkey_machine::Error::NoMachine;
use latchkey_record::PcrIndex;
use latchkey_report::forecast::{
    difference, explain, findings, logged, summary, supposed, unmodelled, whole,
};
use latchkey_report::terminal::plain;
use latchkey_scenario::diagnostic::no_image;
use latchkey_scenario::{ForetellError, Foretold, Given, ModelError, SessionError, foretell};

use crate::args::{Common, ForecastArgs, Machines};
use crate::choice::{bytes_of, variables};
use crate::progress::Live;
use crate::{UsageError, cache, json, print};

/// Prints the forecast of one machine, or where two differ. Differing forecasts are an answer, not a failure.
pub(crate) fn forecast(common: &Common, args: &ForecastArgs) -> Result<u8> {
    // Not for the parser: it asks for nothing that excludes something else that is there.
    let Machines { on, image, artefacts, .. } = &args.machines;
    let of_all = on.is_some() || image.is_some() || args.against.is_some();
    if !args.all && (of_all || !args.scenarios.is_empty() || !artefacts.is_empty()) {
        let text = "--on, --image, --artefact, --against and --scenario go with --all";
        return Err(UsageError(text.into()).into());
    }
    let Some(machine) = args.machine.as_deref().filter(|_| !args.all) else {
        return crate::rehearse::all(common, args);
    };
    let variables = args.machines.variables.as_deref().map(variables).transpose()?;
    let log = args.log.as_deref().map(log_in).transpose()?;
    let given = Given { variables: variables.as_ref(), log: log.as_deref() };
    let one = told(common, machine, given, args)?;
    if let Some(other) = &args.diff {
        // A machine has variables of its own, beside a disk that has none.
        let given = Given { variables: given.variables.filter(|_| !Path::new(other).is_dir()), ..given };
        let other = told(common, other, given, args)?;
        let sides = [&one, &other].map(|it| (&it.forecast, it.supposed.as_slice()));
        let difference = difference(sides[0], sides[1]);
        return print(&if common.json { json(&difference)? } else { difference.to_string() });
    }
    let noticed: String =
        one.noticed.iter().map(|what| format!("about the disk: {}\n", plain(what))).collect();
    if let Some(pcr) = args.explain {
        let explained = explain(&one.forecast, &one.supposed, PcrIndex::new(pcr)?);
        let findings = one.log.as_ref().map(findings).unwrap_or_default();
        return print(&if common.json {
            json(&explained)?
        } else {
            format!("{findings}{noticed}{explained}")
        });
    }
    if common.json {
        return print(&json(&one)?);
    }
    let supposed = supposed(&one.supposed);
    let next = one.advice.as_ref().map_or(String::new(), |what| format!("next: {}\n", plain(what)));
    print(&match &one.log {
        Some(log) => {
            let unmodelled = unmodelled(&one.forecast);
            let (findings, outcome) = (findings(log), summary(&one.forecast));
            format!("{findings}{noticed}{outcome}{supposed}{unmodelled}\n{}{next}", logged(log))
        }
        None => format!("{}{noticed}{supposed}{next}", whole(&one.forecast)),
    })
}

/// The log in the file of `--log`. What a tool made of one as JSON (`systemd-pcrlock cel`) is told from other text: whoever has
/// it may take it for the log.
fn log_in(path: &Path) -> Result<Vec<u8>, UsageError> {
    let bytes = bytes_of("--log", path)?;
    if is_json(&bytes) {
        let why = "it is JSON, which a tool made of an event log; give the log itself, as the kernel has it in \
                   /sys/kernel/security/tpm0/binary_bios_measurements";
        return Err(UsageError(format!("--log {}: {why}", path.display())));
    }
    Ok(bytes)
}

/// Whether it begins with a value in JSON, or a sequence of such does, which has a record separator before each (RFC 7464,
/// section 2.2).
fn is_json(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    let text = text.strip_prefix(b"\x1e").unwrap_or(text);
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<serde::de::IgnoredAny>();
    matches!(text.first(), Some(b'{' | b'[')) && matches!(values.next(), Some(Ok(_)))
}

fn told(common: &Common, subject: &str, given: Given<'_>, args: &ForecastArgs) -> Result<Foretold> {
    let live = Live::new();
    let foretold = foretell(subject, given, &cache(common)?, &live);
    live.finish();
    let theirs = |error: &dyn std::fmt::Display| UsageError(error.to_string()).into();
    let log = args.log.as_deref().unwrap_or(Path::new("")).display();
    let of_log = |why: &dyn std::fmt::Display| format!("--log {log}: {why}");
    match foretold {
        Err(ForetellError::Session(SessionError::Images(Images::UnknownRecipe { .. })))
            if subject.contains(['/', '.']) =>
        {
            Err(theirs(&format!("there is no file or directory {subject}")))
        }
        Err(ForetellError::Session(SessionError::Images(Images::UnknownRecipe { .. }))) => {
            Err(theirs(&format!("{}; or name a machine's directory or a disk image", no_image(subject))))
        }
        Err(ForetellError::Session(SessionError::Variables { why, .. })) if given.variables.is_none() => {
            Err(theirs(&of_log(&why)))
        }
        // Another computer would not take it either: what the command line names is at fault.
        Err(ForetellError::Session(
            error @ (SessionError::Images(Images::UserImage { .. }) | SessionError::Variables { .. }),
        )) => Err(theirs(&error)),
        Err(error @ ForetellError::HasVariables { .. }) => Err(theirs(&error)),
        Err(error @ (ForetellError::NoLog(_) | ForetellError::NoBankInCommon)) => {
            Err(theirs(&of_log(&error)))
        }
        // A file system of theirs that cannot be read.
        Err(ForetellError::Model(ModelError::Forecast(error))) if Path::new(subject).is_file() => {
            Err(theirs(&format!("{subject}: {error}")))
        }
        Err(ForetellError::Model(ModelError::Machine(error @ NoMachine { .. }))) => {
            Err(theirs(&format!("{error}{}", no_machine(Path::new(subject)))))
        }
        // The host's own errors have exit codes of their own.
        Err(ForetellError::Session(error)) => Err(error.into()),
        other => Ok(other?),
    }
}

/// What to give in the place of a directory that was never a machine's, as a copy of `/boot` is.
fn no_machine(dir: &Path) -> &'static str {
    if [dir, &dir.join("machine")].iter().any(|dir| dir.join("machine.json").exists()) {
        return "";
    }
    "; a directory has to be a machine that `run --keep` left: of somebody else's machine give the whole disk"
}
