//! Which scenarios the command line means, and which images of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use latchkey_disk::inspect::no_program;
use latchkey_images::Image;
use latchkey_record::text::steers;
use latchkey_scenario::diagnostic::{Diagnostic, did_you_mean, no_image};
use latchkey_scenario::step::Artefact;
use latchkey_scenario::{Scenario, Session, SessionError, Variables};
use miette::{MietteHandlerOpts, ReportHandler as _};
use textwrap::{WordSeparator, WordSplitter};

use crate::args::Machines;
use crate::image::whose_fault;
use crate::{UsageError, say};

/// Bytes of the largest variable store or event log that is read: the former have 4 MiB, the latter far less.
const MOST: u64 = 64 << 20;
/// Most bytes of an artefact: more than an EFI system partition usually has room for.
const MOST_OF_ARTEFACT: u64 = 512 << 20;

/// The scenarios named, or all of the project's. A word with a slash or `.toml` is a path.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        let all = latchkey_scenarios::all().into_iter().map(|(name, text)| built_in(name, text));
        return all.map(|scenario| scenario.map_err(shown)).collect();
    }
    distinct(names.iter().map(|name| read(name)).collect::<Result<_>>()?)
}

/// The scenario `name`: one of the project's, or a path where it has a slash or `.toml`.
pub(crate) fn read(name: &str) -> Result<Scenario> {
    if name.contains('/') || name.ends_with(".toml") {
        return Scenario::load(Path::new(name)).map_err(shown);
    }
    let own = latchkey_scenarios::all();
    let text = own.iter().find(|(known, _)| *known == name).map(|(_, text)| text).ok_or_else(|| {
        let meant = did_you_mean(name, own.iter().map(|(name, _)| *name));
        let meant = meant.map_or(String::new(), |question| format!(" {question}"));
        let list = "`cargo xtask run --list` lists those there are, and a path names one of yours";
        UsageError(format!("there is no scenario `{name}`;{meant} {list}"))
    })?;
    built_in(name, text).map_err(shown)
}

fn built_in(name: &str, text: &str) -> Result<Scenario, Box<Diagnostic>> {
    Scenario::parse(Path::new(&format!("scenarios/{name}.toml")), text)
}

/// Refuses scenarios whose names are not for terminals, or the same.
pub(crate) fn distinct(scenarios: Vec<Scenario>) -> Result<Vec<Scenario>> {
    // A name is shown on terminals, and is a directory's in every run.
    if let Some(odd) = scenarios.iter().find(|scenario| scenario.name.contains(steers)) {
        let text = format!("{:?} has a character in its name that steers terminals; rename it", odd.path);
        return Err(UsageError(text).into());
    }
    // Their records go by their names.
    for (index, scenario) in scenarios.iter().enumerate() {
        if let Some(before) = scenarios[..index].iter().find(|before| before.name == scenario.name) {
            let (name, one, other) = (&scenario.name, &before.path, &scenario.path);
            let text = if one == other {
                format!("the scenario `{name}` was given twice")
            } else {
                let (one, other) = (one.display(), other.display());
                format!("two of these scenarios are called `{name}`: {one} and {other}; rename one")
            };
            return Err(UsageError(text).into());
        }
    }
    Ok(scenarios)
}

/// Each of `scenarios` with every image that it is for, or with the one that `machines` has. A user's own image stands in
/// for all of a scenario's, once.
pub(crate) fn rows<'a>(
    scenarios: &'a [Scenario],
    machines: &Machines,
) -> Result<Vec<(&'a Scenario, &'a str)>, UsageError> {
    let mut rows = on(scenarios, machines.on.as_deref())?;
    if machines.image.is_some() {
        rows.dedup_by_key(|(scenario, _)| &scenario.name);
    }
    Ok(rows)
}

/// Refuses `rows` two of which have one directory for their records: each would write over the other's.
pub(crate) fn apart(rows: &[(&Scenario, &str)], own: &Option<Image>) -> Result<(), UsageError> {
    let mut seen: BTreeMap<String, &Scenario> = BTreeMap::new();
    for (scenario, name) in rows {
        let record = scenario.record_name(goes_by(own, name));
        if let Some(before) = seen.insert(record.clone(), scenario) {
            let (one, other) = (before.path.display(), scenario.path.display());
            return Err(UsageError(format!(
                "a row of {one} and one of {other} have the same directory for their records, `{record}`: rename one of \
                 these files"
            )));
        }
    }
    Ok(())
}

/// A user's image goes by its own name, whatever the scenario calls the one that it was written for.
pub(crate) fn goes_by<'a>(own: &'a Option<Image>, name: &'a str) -> &'a str {
    own.as_ref().map_or(name, |image| &image.name)
}

/// Each of `scenarios` with every image that it is for, or with the image `on` alone.
fn on<'a>(scenarios: &'a [Scenario], on: Option<&str>) -> Result<Vec<(&'a Scenario, &'a str)>, UsageError> {
    let all = scenarios.iter().flat_map(|scenario| {
        scenario.machine.image.names().iter().map(move |name| (scenario, name.as_str()))
    });
    let Some(on) = on else { return Ok(all.collect()) };
    let rows: Vec<_> = all.clone().filter(|(_, name)| on == *name).collect();
    if !rows.is_empty() {
        return Ok(rows);
    }
    if !latchkey_images::names().contains(&on) {
        return Err(UsageError(no_image(on)));
    }
    let images: BTreeSet<&str> = all.map(|(_, name)| name).collect();
    let images = images.into_iter().collect::<Vec<_>>().join(", ");
    Err(UsageError(match scenarios {
        [one] => format!("the scenario `{}` is not for the image {on}; it is for {images}", one.name),
        _ => format!("none of these scenarios is for the image {on}; they are for {images}"),
    }))
}

/// The user's own image, when there is one, and the reference image that it stands for. Without that, or scenarios by
/// name, those of every other boot chain would be run on it.
pub(crate) fn own(machines: &Machines, named: bool) -> Result<Option<Image>> {
    let Some(path) = &machines.image else { return Ok(None) };
    let image = Image::from_user(path).map_err(whose_fault)?;
    if let Some(on) = &machines.on {
        stands_for(path, &image, on)?;
    }
    if !named && machines.on.is_none() {
        let text = format!(
            "--image without scenarios is for those of one reference image: add `--on` with that which {} stands for \
             (`cargo xtask image list` tells what they are, `cargo xtask image inspect` what yours is), or name scenarios",
            path.display()
        );
        return Err(UsageError(text).into());
    }
    Ok(Some(Image { like: machines.on.clone(), ..image }))
}

/// Refuses a user's `image` for the reference image `on` that starts something else: its scenarios change files that this one
/// has not. A release cannot be told from the other by what lies on the disk, since shim is updated in both.
fn stands_for(path: &Path, image: &Image, on: &str) -> Result<(), UsageError> {
    let (its, theirs) = (image.uki.is_some(), on.ends_with("-uki"));
    if its == theirs || !latchkey_images::names().contains(&on) {
        return Ok(());
    }
    let word = |is_uki: bool| if is_uki { "a UKI" } else { "GRUB" };
    Err(UsageError(format!(
        "--on {on} contradicts --image: {on} starts {}, and {} starts {} (`cargo xtask image inspect` tells what it stands for)",
        word(theirs),
        path.display(),
        word(its)
    )))
}

/// What the command line hands in for machines, looked at before anything is begun.
#[derive(Debug)]
pub(crate) struct HandedIn {
    artefacts: BTreeMap<Artefact, PathBuf>,
    variables: Option<Variables>,
}

impl HandedIn {
    /// Of `machines`: each artefact has to be a file that is there, and the variables some.
    pub(crate) fn of(machines: &Machines) -> Result<Self> {
        let variables = machines.variables.as_deref().map(variables).transpose()?;
        Ok(Self { artefacts: artefacts(&machines.artefacts)?, variables })
    }

    /// Tells of each artefact that none of `scenarios` puts anywhere: it changes nothing.
    pub(crate) fn tell_unused(&self, scenarios: &[Scenario]) {
        let used: BTreeSet<Artefact> = scenarios.iter().flat_map(Scenario::artefacts).collect();
        for unused in self.artefacts.keys().filter(|artefact| !used.contains(*artefact)) {
            let name = unused.name();
            say(&format!(
                "--artefact {name}: none of these scenarios puts it on a machine, so it changes nothing"
            ));
        }
    }

    /// `session` with all of it.
    pub(crate) fn into(self, session: Session) -> Result<Session> {
        let session = session.with_artefacts(self.artefacts);
        let Some(variables) = self.variables else { return Ok(session) };
        session.with_variables(&variables).map_err(|error| match error {
            theirs @ SessionError::Variables { .. } => UsageError(theirs.to_string()).into(),
            ours => ours.into(),
        })
    }
}

/// The UEFI variables in a file that `--variables` names.
pub(crate) fn variables(path: &Path) -> Result<Variables, UsageError> {
    let unusable = |why: &dyn std::fmt::Display| UsageError(format!("--variables {}: {why}", path.display()));
    Variables::parse(bytes_of("--variables", path)?).map_err(|e| unusable(&e))
}

/// What is in the file that `option` names: a plain one, of a size that variables and logs have.
pub(crate) fn bytes_of(option: &str, path: &Path) -> Result<Vec<u8>, UsageError> {
    let unusable = |why: String| UsageError(format!("{option} {}: {why}", path.display()));
    let found = std::fs::metadata(path).map_err(|e| unusable(e.to_string()))?;
    if !found.is_file() || found.len() > MOST {
        return Err(unusable(format!("it is no file of at most {} MiB", MOST >> 20)));
    }
    std::fs::read(path).map_err(|e| unusable(e.to_string()))
}

/// The files of `NAME=PATH`s, each of a kind that its name stands for: what a machine cannot start would come out as a verdict
/// on the machine.
fn artefacts(words: &[String]) -> Result<BTreeMap<Artefact, PathBuf>, UsageError> {
    let mut all = BTreeMap::new();
    for word in words {
        let wrong = |why: String| UsageError(format!("--artefact {word}: {why}"));
        let (name, path) = word.split_once('=').ok_or_else(|| wrong("expected NAME=PATH".into()))?;
        let artefact = Artefact::named(name).map_err(UsageError)?;
        if !std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= MOST_OF_ARTEFACT) {
            return Err(wrong(format!("{path} is no file of at most {} MiB", MOST_OF_ARTEFACT >> 20)));
        }
        let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
        // All others are started, or looked into, by firmware, shim and what follows.
        let is_program = artefact != Artefact::InitrdWithoutTpm;
        if let Some(what) = no_program(&bytes).filter(|_| is_program) {
            return Err(wrong(format!(
                "{path} is {what}; {name} has to be a PE image, as UEFI programs are"
            )));
        }
        if all.insert(artefact, PathBuf::from(path)).is_some() {
            return Err(wrong(format!("{name} was given twice")));
        }
    }
    Ok(all)
}

/// A diagnostic as people read it: with the place in the file.
fn shown(diagnostic: Box<Diagnostic>) -> anyhow::Error {
    UsageError(Shown(diagnostic).to_string()).into()
}

/// A diagnostic as wide as the terminal, or 80 columns, in colours where those are wanted. Its lines are broken at blanks alone:
/// a name or a path that is broken at a hyphen can be neither copied nor looked for.
struct Shown(Box<Diagnostic>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handler = MietteHandlerOpts::new()
            .break_words(false)
            .word_separator(WordSeparator::AsciiSpace)
            .word_splitter(WordSplitter::NoHyphenation);
        handler.build().debug(self.0.as_ref(), f)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_record::Outcome;

    use super::*;

    #[test]
    fn a_name_is_not_broken_at_its_hyphens() {
        let (_, own) = latchkey_scenarios::all().into_iter().find(|(name, _)| *name == "first-boot").unwrap();
        let wrong = own.replacen("\"unlocked\"", "\"unlockd\"", 1);
        let said = shown(Scenario::parse(Path::new("mine.toml"), &wrong).unwrap_err()).to_string();
        for outcome in Outcome::ALL {
            assert!(said.contains(&format!("`{}`", outcome.code())), "{outcome}: {said}");
        }
        assert!(said.contains("mine.toml:") && said.contains("help: "), "{said}");
    }
}
