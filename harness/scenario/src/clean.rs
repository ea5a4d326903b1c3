//! Whether what a row leaves behind is clean: none of the secrets that it had to do with is in it, in any form.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use latchkey_provision::Secret;
use latchkey_record::{Status, StepResult};
use latchkey_report::leak::{Leak, Search};
use serde_json::Value;

use crate::bench::Bench;
use crate::watch::Event;

impl Bench<'_> {
    /// Remembers `secret`, by its `name`, as one that nothing may show that the row leaves behind.
    pub(crate) fn tell_secret(&mut self, name: impl Into<String>, secret: &Secret) {
        let name = name.into();
        self.watch.event(&Event::Secret { name: &name, secret });
        self.secrets.push((name, secret.clone()));
    }

    /// As [`Bench::tell_secret`], for all that the machine's keyslots and its owner's vault have.
    pub(crate) fn tell_keys(&mut self) {
        let held = self.keys.iter().map(|(role, secret)| (format!("the {role}"), secret.clone()));
        let platform = self.platform.clone().map(|secret| ("the platform's key".to_owned(), secret));
        let vault = self.escrow.as_ref().and_then(|(_, vault)| vault.secret().ok());
        let vault = vault.map(|secret| ("the vault's private key".to_owned(), secret));
        for (name, secret) in held.chain(platform).chain(vault).collect::<Vec<_>>() {
            self.tell_secret(name, &secret);
        }
    }

    /// `status`, unless a secret is in the row's record or in what its steps say: that is nobody's verdict, whatever else
    /// the row came to, and never remembered. What holds one goes out of the record, before reports are made of it or other
    /// rows take it over: files are removed, texts left out.
    pub(crate) fn unless_it_leaks(&mut self, status: Status) -> Status {
        unless_it_leaks(status, &self.secrets, &self.dir, &mut self.steps)
    }
}

/// What stands in the place of a text that held a secret.
const LEFT_OUT: &str = "(left out: a secret was in it)";
/// What a leak is told to be in that is in no file.
const STEPS: &str = "what the steps say";

fn unless_it_leaks(
    status: Status,
    secrets: &[(String, Secret)],
    record: &Path,
    steps: &mut Vec<StepResult>,
) -> Status {
    let all = secrets.iter().map(|(name, secret)| (name.clone(), secret.expose()));
    let found = Search::new(all).and_then(|search| Ok((search.directory(record)?, search)));
    let (mut leaks, search) = match found {
        Ok(found) => found,
        Err(error) => {
            // What was not looked at is not clean.
            *steps = steps.iter().map(emptied).collect();
            let left = removed(record).map_or(String::new(), |why| format!(", nor removed: {why}"));
            // What is looked at again is clean.
            let _ = fs::create_dir(record);
            return Status::InfrastructureError {
                reason: format!("the row's record could not be looked at{left}: {error}"),
            };
        }
    };
    let left: Vec<String> = leaks.iter().filter_map(|leak| removed(&leak.file)).collect();
    let said = serde_json::to_vec(&(&*steps, status.reason())).unwrap_or_default();
    let said = search.bytes(&said).into_iter().map(|(secret, form)| (secret.to_owned(), form));
    leaks.extend(said.map(|(secret, form)| Leak { file: STEPS.into(), secret, form }));
    if leaks.is_empty() {
        return status;
    }
    *steps = std::mem::take(steps).into_iter().map(|step| without_secrets(step, &search)).collect();
    let mut reason = leaks.iter().map(Leak::to_string).collect::<Vec<_>>().join("; ");
    reason.push_str(match left.is_empty() {
        true => "; it was taken out of the record",
        false => "; not all of it could be taken out of the record",
    });
    left.iter().for_each(|why| reason.push_str(&format!(": {why}")));
    if let Some(besides) = status.reason() {
        let besides = if holds_one(besides, &search) { LEFT_OUT } else { besides };
        // In brackets: what ends like a row that was interrupted is taken for one, and nobody's fault.
        reason.push_str(&format!("; besides, it came to this ({besides})"));
    }
    // A file may have one for its name.
    if holds_one(&reason, &search) {
        let names: BTreeSet<&str> = leaks.iter().map(|leak| leak.secret.as_str()).collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        reason = format!("the name of a file held one of these, and it was taken out of the record: {names}");
    }
    Status::InfrastructureError { reason }
}

/// Removes what is at `path`; gives why not, where it cannot.
fn removed(path: &Path) -> Option<String> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    match if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(error) if error.kind() != ErrorKind::NotFound => Some(error.to_string()),
        _ => None,
    }
}

fn holds_one(text: &str, search: &Search) -> bool {
    !search.bytes(text.as_bytes()).is_empty()
}

/// The step with other words in the place of every text that holds a secret.
fn without_secrets(step: StepResult, search: &Search) -> StepResult {
    let is_clean =
        |step: &StepResult| serde_json::to_vec(step).is_ok_and(|text| search.bytes(&text).is_empty());
    if is_clean(&step) {
        return step;
    }
    let reworded = serde_json::to_value(&step).map(|value| reworded(value, search));
    let reworded = reworded.and_then(serde_json::from_value::<StepResult>).ok().filter(is_clean);
    reworded.unwrap_or_else(|| emptied(&step))
}

fn reworded(value: Value, search: &Search) -> Value {
    let other = |text: String| if holds_one(&text, search) { LEFT_OUT.to_owned() } else { text };
    match value {
        Value::String(text) => Value::String(other(text)),
        Value::Array(all) => all.into_iter().map(|one| reworded(one, search)).collect(),
        Value::Object(all) => {
            all.into_iter().map(|(name, one)| (other(name), reworded(one, search))).collect()
        }
        number => number,
    }
}

/// The step without anything that was said in it.
fn emptied(step: &StepResult) -> StepResult {
    let reason = LEFT_OUT.to_owned();
    let status = match &step.status {
        Status::Passed => Status::Passed,
        Status::Failed { .. } => Status::Failed { reason },
        Status::Known { known, .. } => Status::Known { reason, known: known.clone() },
        Status::Skipped { .. } => Status::Skipped { reason },
        Status::InfrastructureError { .. } => Status::InfrastructureError { reason },
    };
    StepResult {
        number: step.number,
        what: LEFT_OUT.to_owned(),
        status,
        checks: Vec::new(),
        boots: Vec::new(),
        took_ms: step.took_ms,
        shared_with: step.shared_with.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use serde_json::json;

    use super::*;

    fn step(said: &str) -> StepResult {
        StepResult {
            number: 1,
            what: said.to_owned(),
            status: Status::Passed,
            checks: Vec::new(),
            boots: Vec::new(),
            took_ms: 0,
            shared_with: None,
        }
    }

    #[test]
    fn a_row_that_shows_a_secret_has_no_verdict() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::generate();
        let secrets = [("the key".to_owned(), secret.clone())];
        let judged =
            |status, steps: &[StepResult]| unless_it_leaks(status, &secrets, dir.path(), &mut steps.to_vec());
        std::fs::write(dir.path().join("console"), "nothing").unwrap();
        assert_eq!(judged(Status::Passed, &[step("boot")]), Status::Passed);
        let said = judged(Status::Passed, &[step(secret.typed().unwrap())]);
        assert!(said.reason().unwrap().contains("what the steps say holds the key"), "{said:?}");
        for status in [
            Status::Passed,
            Status::Failed { reason: "another outcome".into() },
            Status::InfrastructureError { reason: "saving the machine: interrupted".into() },
        ] {
            std::fs::write(dir.path().join("console"), secret.expose()).unwrap();
            let besides = status.reason().map(str::to_owned).unwrap_or_default();
            let Status::InfrastructureError { reason } = judged(status, &[]) else { unreachable!() };
            assert!(
                reason.contains("console holds the key as it is") && reason.contains(&besides),
                "{reason}"
            );
            assert!(!reason.contains(secret.typed().unwrap()));
            assert!(!reason.ends_with(": interrupted"), "{reason}");
        }
        let mut steps = vec![step("boot")];
        let gone = unless_it_leaks(Status::Passed, &secrets, &dir.path().join("gone"), &mut steps);
        assert!(matches!(gone, Status::InfrastructureError { .. }), "what was not looked at is not clean");
        assert_eq!(steps[0].what, LEFT_OUT);
    }

    /// A step with a boot, each text of which says `said`.
    fn talkative(said: &str) -> StepResult {
        let check = json!({ "what": "it opens", "expected": "yes", "seen": said, "held": false });
        let boot = json!({
            "number": 1, "kind": "cold-start", "outcome": "unlocked", "reported_by": null,
            "waiting_for_key": false, "began_ms": 0, "clear_after_ms": 0,
            "witnesses": [{ "name": "console", "saw": said }, { "name": "tpm", "saw": "nothing" }],
            "contradictions": [], "pcrs": { "sha256": { "4": format!("sha256:{}", "00".repeat(32)) } }, "guest_pcrs": null, "moved": [4],
            "lockout_counter": null, "alignment": { "matched": 3, "open": { said: 2 } }, "forecast_outcome": null,
            "forecast_sha256": "", "forecast": "f", "milestones": [{ "at_ms": 5, "what": said }],
            "console": "c", "tpm": "t", "command_line": "l",
        });
        serde_json::from_value(json!({
            "number": 3, "what": "boot: unlocked", "status": { "is": "failed", "reason": said },
            "checks": [check], "boots": [boot], "took_ms": 7,
        }))
        .unwrap()
    }

    #[test]
    fn what_shows_a_secret_goes_out_of_the_record_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret::generate();
        let typed = secret.typed().unwrap();
        let secrets = [("the key".to_owned(), secret.clone())];
        let files = ["console", "other", format!("{typed}.txt").as_str()].map(|name| dir.path().join(name));
        std::fs::write(&files[0], format!("Password: {typed}")).unwrap();
        std::fs::write(&files[1], "nothing").unwrap();
        std::fs::write(&files[2], "nothing").unwrap();
        let mut steps = vec![step("boot"), talkative(&format!("it said {typed}"))];
        let failed = Status::Failed { reason: format!("it said {typed}") };
        let status = unless_it_leaks(failed, &secrets, dir.path(), &mut steps);
        let all = serde_json::to_string(&(&steps, &status)).unwrap();
        assert!(!all.contains(typed) && all.contains("the key"), "{all}");
        assert_eq!(files.map(|file| file.exists()), [false, true, false]);
        assert_eq!(steps, [step("boot"), talkative(LEFT_OUT)]);
        // Nothing is left to be found.
        assert_eq!(unless_it_leaks(status.clone(), &secrets, dir.path(), &mut steps), status);
        std::fs::write(dir.path().join("console"), typed).unwrap();
        let status = unless_it_leaks(Status::Passed, &secrets, dir.path(), &mut steps);
        let reason = status.reason().unwrap();
        assert!(reason.contains("console holds the key as it is"), "{reason}");
        assert!(reason.contains("taken out of the record"), "{reason}");
    }

    #[test]
    fn a_secret_between_texts_empties_the_step() {
        let search = Search::new([("the key".to_owned(), "[],\"boots\":[],".as_bytes())]).unwrap();
        let emptied = without_secrets(step("boot"), &search);
        assert_eq!((emptied.what.as_str(), emptied.number), (LEFT_OUT, 1));
    }
}
