//! A scenario file as typed values.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use latchkey_provision::KeyRole;
use latchkey_record::text::steers;
use latchkey_record::{Day, Known, Outcome};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::Datetime;

use crate::diagnostic::{Diagnostic, no_image};
use crate::step::{Artefact, Attached, MachineSpec, Moved, SoFar, Step};

/// No scenario file is longer, in bytes: the longest of the catalogue has a hundredth of it.
const LONGEST: u64 = 256 << 10;

/// What a scenario file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(title = "Latchkey scenario")]
pub struct Text {
    /// The scenario in a few words.
    #[schemars(with = "String")]
    pub title: Spanned<String>,
    /// Which flow it belongs to, such as `certificate drill`: the catalogue is sorted by it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flow: String,
    /// Why it exists: the flow or the lockout that it stands for.
    pub why: String,
    /// Where that was published or reported: a specification, a project and its issue, a source file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Why what it does to the machine cannot be undone, where that is so: one that stays locked, of which nobody holds a key
    /// and which another VM does not open, is locked out then.
    #[serde(default = "nothing")]
    #[schemars(with = "String")]
    pub irreversible: Spanned<String>,
    /// Of the images that it is not for, why: `rlc9-grub = "it has no UKI"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub left_out: BTreeMap<String, Spanned<String>>,
    /// The machine that it runs on.
    #[schemars(with = "MachineSpec")]
    pub machine: Spanned<MachineSpec>,
    /// What is done, in order.
    #[schemars(with = "Vec<Step>")]
    pub step: Vec<Spanned<Step>>,
    /// What it is known to fail on, for a while. It runs all the same, and fails once it passes or the time is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<KnownFailure>")]
    pub known: Vec<Spanned<KnownFailure>>,
}

fn nothing() -> Spanned<String> {
    Spanned::new(0..0, String::new())
}

/// A failure that is expected on one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KnownFailure {
    /// One of the machine's images.
    pub image: String,
    /// The step that fails, as reports count them (0 is provisioning): a failure of another one is none that is known.
    pub step: u32,
    /// What is wrong, in a sentence.
    pub reason: String,
    /// Where it is looked after, such as an issue's address.
    pub tracker: String,
    /// The last day on which it is expected, such as `2027-01-31`.
    #[schemars(with = "String", extend("format" = "date"))]
    pub until: Datetime,
}

/// A scenario that was read and found sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The file's stem; how commands and reports call it.
    pub name: String,
    /// Where it was read.
    pub path: PathBuf,
    /// The scenario in a few words.
    pub title: String,
    /// Which flow it belongs to.
    pub flow: String,
    /// Why it exists.
    pub why: String,
    /// Where that was published or reported.
    pub source: String,
    /// Why what it does cannot be undone; empty where it can.
    pub irreversible: String,
    /// Why it is not for an image.
    pub left_out: BTreeMap<String, String>,
    /// The machine that it runs on.
    pub machine: MachineSpec,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What it is known to fail on, by image.
    pub known: BTreeMap<String, Expected>,
}

/// A failure that is expected for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Why, and until when.
    pub known: Known,
    /// The step that fails.
    pub step: u32,
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// A [`Diagnostic`] that points at the word that is wrong.
    pub fn load(path: &Path) -> Result<Self, Box<Diagnostic>> {
        let source = read(path).map_err(|e| Box::new(Diagnostic::unreadable(path, &e)))?;
        Self::parse(path, &source)
    }

    /// Takes `source` as the content of the scenario file at `path`.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn parse(path: &Path, source: &str) -> Result<Self, Box<Diagnostic>> {
        let grammar = |e: toml::de::Error| Box::new(Diagnostic::grammar(path, source, &e));
        let table = DeTable::parse(source).map_err(grammar)?;
        let wrong =
            |(span, problem, help): Problem| Box::new(Diagnostic::at(path, source, span, problem, help));
        printable(table.get_ref()).map_err(wrong)?;
        there_are_images(table.get_ref()).map_err(wrong)?;
        let text = Text::deserialize(toml::Deserializer::from(table)).map_err(grammar)?;
        check(&text).map_err(wrong)?;
        let known = known(&text).map_err(wrong)?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let irreversible_at = text.irreversible.span();
        let scenario = Self {
            name,
            path: path.to_owned(),
            title: text.title.into_inner(),
            flow: text.flow,
            why: text.why,
            source: text.source,
            irreversible: text.irreversible.into_inner(),
            left_out: text.left_out.into_iter().map(|(image, why)| (image, why.into_inner())).collect(),
            machine: text.machine.into_inner(),
            steps: text.step.into_iter().map(Spanned::into_inner).collect(),
            known,
        };
        if !scenario.irreversible.is_empty() && !scenario.shows_lockout() {
            let what = "this locks nobody out: somebody holds a key, or another VM was not tried after the last boot";
            let help = "end with `attach = { open-with = \"platform\", expect = \"refused\" }`, on a machine whose keys nobody \
                        holds; or leave `irreversible` out";
            return Err(wrong((irreversible_at, what.into(), help)));
        }
        Ok(scenario)
    }

    /// Whether a step is done on another VM.
    #[must_use]
    pub fn needs_another_vm(&self) -> bool {
        self.steps.iter().any(Step::is_on_another_vm)
    }

    /// Whether it shows that a machine which stays locked in the last boot is lost: nobody holds a key, another VM does not
    /// open its disk, and what was done to it cannot be undone.
    pub(crate) fn shows_lockout(&self) -> bool {
        let held = |role: &KeyRole| !matches!(role, KeyRole::Platform | KeyRole::LostPassphrase);
        let mut after = self.steps.iter().rev().take_while(|step| step.outcome().is_none());
        let shut = |step: &Step| matches!(step, Step::Attach(tried) if tried.open_with == KeyRole::Platform && tried.expect == Attached::Refused);
        let added = self.steps.iter().any(|step| matches!(step, Step::AddKey(_)));
        !self.irreversible.is_empty() && !added && !self.machine.keys.iter().any(held) && after.any(shut)
    }

    /// What its boots and answers have to come to, in order.
    pub fn outcomes(&self) -> impl Iterator<Item = Outcome> {
        self.steps.iter().filter_map(Step::outcome)
    }

    /// What it says of PCRs that move, and of what is behind that, boot by boot; and what that boot comes to.
    pub fn moved(&self) -> impl Iterator<Item = (&Moved, Outcome)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Boot(boot) => boot.moved.as_ref().map(|moved| (moved, boot.expect)),
            _ => None,
        })
    }

    /// The artefacts that its steps, or changes to come, put on the machine.
    pub fn artefacts(&self) -> impl Iterator<Item = Artefact> {
        self.steps.iter().chain(&self.machine.coming).filter_map(Step::artefact)
    }

    /// Whether its guest has to have dnf.
    #[must_use]
    pub fn needs_dnf(&self) -> bool {
        self.steps.iter().any(Step::needs_dnf)
    }
}

/// The JSON schema of scenario files, for editors.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Text).into()
}

type Problem = (std::ops::Range<usize>, String, &'static str);

/// The text of a scenario file.
fn read(path: &Path) -> std::io::Result<String> {
    let found = std::fs::metadata(path)?;
    // Opening a pipe would wait for its writer, whatever is asked meanwhile; that of /dev/stdin is open.
    if found.file_type().is_fifo() && !path.starts_with("/dev") {
        return Err(std::io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(std::io::Error::other(format!("it is longer than {} KiB", LONGEST >> 10)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        std::io::Error::other(format!("its line {line} is no UTF-8 text"))
    })
}

/// Nothing in a scenario has a say over the terminal that shows it: of what steers one its texts have ends of lines and
/// tabs.
fn printable(table: &DeTable<'_>) -> Result<(), Problem> {
    fn odd(value: &Spanned<DeValue<'_>>) -> Option<std::ops::Range<usize>> {
        match value.get_ref() {
            DeValue::String(text) => {
                text.contains(|c: char| steers(c) && c != '\n' && c != '\t').then(|| value.span())
            }
            DeValue::Array(all) => all.iter().find_map(odd),
            DeValue::Table(all) => all.values().find_map(odd),
            _ => None,
        }
    }
    let Some(at) = table.values().find_map(odd) else { return Ok(()) };
    Err((
        at,
        "there is a character in this text that steers terminals".into(),
        "leave it out; an end of line and a tab may stand here",
    ))
}

/// The machine's images are reference images.
fn there_are_images(table: &DeTable<'_>) -> Result<(), Problem> {
    let machine = table.get("machine").and_then(|machine| machine.get_ref().as_table());
    let image = machine.and_then(|machine| machine.get("image"));
    let all = image.iter().flat_map(|image| match image.get_ref() {
        DeValue::Array(all) => all.iter().collect::<Vec<_>>(),
        _ => vec![*image],
    });
    let known = latchkey_images::names();
    let named = all.filter_map(|one| Some((one.get_ref().as_str()?, one.span())));
    match named.into_iter().find(|(name, _)| !known.contains(name)) {
        Some((name, at)) => Err((at, no_image(name), IMAGES)),
        None => Ok(()),
    }
}

/// What the grammar cannot say: steps that make no sense where they stand.
fn check(text: &Text) -> Result<(), Problem> {
    if text.title.get_ref().trim().is_empty() {
        return Err((text.title.span(), "the title is empty".into(), "say in a few words what happens"));
    }
    let (machine, machine_at) = (text.machine.get_ref(), text.machine.span());
    let images = machine.image.names();
    let help = "name each image once, such as `image = [\"rlc9-uki\", \"rlc9-grub\"]`";
    if images.is_empty() {
        return Err((machine_at, "the machine has no image".into(), help));
    }
    if let Some((_, twice)) = images.iter().enumerate().find(|(i, name)| images[..*i].contains(name)) {
        return Err((machine_at, format!("the machine's image {twice} stands twice"), help));
    }
    if let Some(role) = machine.keys.iter().find(|role| !role.is_handed_out()) {
        let what = format!("a machine cannot have the key {role} before its first boot");
        return Err((machine_at, what, "leave it out; `add-key` adds one, and nobody has a wrong one"));
    }
    for (image, why) in &text.left_out {
        let problem = |what: String, help| Err((why.span(), what, help));
        if images.contains(image) {
            return problem(
                format!("`{image}` is one of the machine's images"),
                "leave it out here, or there",
            );
        }
        if !latchkey_images::names().contains(&image.as_str()) {
            return problem(no_image(image), IMAGES);
        }
        if why.get_ref().trim().is_empty() {
            return problem(
                format!("`{image}` is left out for no reason"),
                "say why the scenario is not for it",
            );
        }
    }
    if !machine.coming.iter().all(Step::is_change_from_outside) {
        let what = "a coming change is none that is made from outside, on a disk that nothing runs on";
        let help = "name a `rename`, `replace` or `restore` with `by = \"rescue\"`";
        return Err((machine_at, what.into(), help));
    }
    let mut so_far = SoFar::new(machine);
    for step in &text.step {
        step.get_ref().check(&mut so_far).map_err(|(what, help)| (step.span(), what, help))?;
    }
    if !so_far.booted() {
        let help = "add a step such as `boot = { expect = \"unlocked\" }`";
        return Err((0..0, "the scenario never boots".into(), help));
    }
    Ok(())
}

/// What helps who named an image that is none.
const IMAGES: &str =
    "`cargo xtask image list` tells the reference images; one of your own stands for one of them";

/// The failures that are known, by image.
fn known(text: &Text) -> Result<BTreeMap<String, Expected>, Problem> {
    let images = text.machine.get_ref().image.names();
    let mut all = BTreeMap::new();
    for entry in &text.known {
        let problem = |what: String, help| Err((entry.span(), what, help));
        let KnownFailure { image, step, reason, tracker, until } = entry.get_ref();
        if !images.contains(image) || all.contains_key(image) {
            let what = format!("`{image}` is none of the machine's images, or its failure is told twice");
            return problem(what, "name one of the images under [machine], once");
        }
        let last = text.step.len();
        if usize::try_from(*step).is_ok_and(|step| step > last) {
            return problem("there is no such step".into(), "count steps from 1; 0 is provisioning");
        }
        if reason.trim().is_empty() || tracker.trim().is_empty() {
            let help = "say what is wrong, and where somebody looks after it";
            return problem("a known failure needs a reason and a tracker".into(), help);
        }
        let day = match (until.date, until.time) {
            (Some(date), None) => Day::new(date.year, date.month, date.day).ok(),
            _ => None,
        };
        let Some(until) = day else {
            return problem(
                format!("`{until}` is no day"),
                "write a day without a time: `until = 2027-01-31`",
            );
        };
        let known = Known { reason: reason.clone(), tracker: tracker.clone(), until };
        all.insert(image.clone(), Expected { known, step: *step });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    const ADDS: &str = "add-key = { key = \"added-passphrase\" }";
    const SHUT: &str = "attach = { open-with = \"platform\", expect = \"refused\" }";
    const BOOT: &str = "boot = { expect = \"no-prompt\" }";

    /// A machine is lost when nobody holds a key, another VM does not open it after its last boot, and nothing brings it
    /// back.
    #[rstest]
    #[case::all_of_it("\"platform\", \"lost-passphrase\"", "it is gone", &[BOOT, SHUT], true)]
    #[case::it_can_be_undone("\"platform\"", "", &[BOOT, SHUT], false)]
    #[case::somebody_holds_a_key("\"platform\", \"fallback-passphrase\"", "it is gone", &[BOOT, SHUT], false)]
    #[case::somebody_added_a_key("\"platform\"", "it is gone", &[ADDS, BOOT, SHUT], false)]
    #[case::nobody_tried("\"platform\"", "it is gone", &[BOOT], false)]
    #[case::it_was_tried_before("\"platform\"", "it is gone", &[SHUT, BOOT], false)]
    #[case::with_something_else(
        "\"platform\"", "it is gone", &[BOOT, "attach = { open-with = \"wrong-passphrase\", expect = \"refused\" }"], false
    )]
    fn a_lockout_is_shown(
        #[case] keys: &str,
        #[case] irreversible: &str,
        #[case] steps: &[&str],
        #[case] shown: bool,
    ) {
        let steps: String = steps.iter().map(|step| format!("[[step]]\n{step}\n")).collect();
        let text = format!(
            "title = \"t\"\nwhy = \"w\"\nirreversible = \"{irreversible}\"\n[machine]\nimage = \"rlc9-uki\"\nkeys = [{keys}]\n\
             seal = {{ pcrs = [4], bank = \"sha256\" }}\n[[step]]\nboot = {{ expect = \"unlocked\" }}\n{steps}"
        );
        let read = Scenario::parse(Path::new("s.toml"), &text);
        // Whoever says that it cannot be undone says that somebody is locked out.
        match irreversible.is_empty() {
            true => assert!(!shown && !read.unwrap().shows_lockout()),
            false => assert_eq!(read.is_ok_and(|scenario| scenario.shows_lockout()), shown),
        }
    }
}
