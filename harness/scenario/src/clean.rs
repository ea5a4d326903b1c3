//! Whether what a row leaves behind is clean: none of the secrets that it had to do with is in it, in any form.

use std::path::Path;

use latchkey_provision::Secret;
use latchkey_record::{Status, StepResult};
use latchkey_report::leak::{Error, Leak, Search};
use serde::Serialize;

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
    /// the row came to, and never remembered.
    pub(crate) fn unless_it_leaks(&self, status: Status) -> Status {
        unless_it_leaks(status, &self.secrets, &self.dir, &self.steps)
    }
}

fn unless_it_leaks(
    status: Status,
    secrets: &[(String, Secret)],
    record: &Path,
    steps: &[StepResult],
) -> Status {
    let leaks = match leaks(secrets, record, (steps, status.reason())) {
        Ok(leaks) if leaks.is_empty() => return status,
        Ok(leaks) => leaks.iter().map(Leak::to_string).collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    };
    let besides = match status.reason() {
        Some(reason) => format!("; besides, it came to this: {reason}"),
        None => String::new(),
    };
    Status::InfrastructureError { reason: format!("{leaks}{besides}") }
}

fn leaks(secrets: &[(String, Secret)], record: &Path, said: impl Serialize) -> Result<Vec<Leak>, Error> {
    let search = Search::new(secrets.iter().map(|(name, secret)| (name.clone(), secret.expose())))?;
    let mut leaks = search.directory(record)?;
    let said = serde_json::to_vec(&said).unwrap_or_default();
    let said = search.bytes(&said).into_iter().map(|(secret, form)| (secret.to_owned(), form));
    leaks.extend(said.map(|(secret, form)| Leak { file: "what the steps say".into(), secret, form }));
    Ok(leaks)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
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
        let judged = |status, steps: &[StepResult]| unless_it_leaks(status, &secrets, dir.path(), steps);
        std::fs::write(dir.path().join("console"), "nothing").unwrap();
        assert_eq!(judged(Status::Passed, &[step("boot")]), Status::Passed);
        let said = judged(Status::Passed, &[step(secret.typed().unwrap())]);
        assert!(said.reason().unwrap().contains("what the steps say holds the key"), "{said:?}");
        std::fs::write(dir.path().join("console"), secret.expose()).unwrap();
        for status in [Status::Passed, Status::Failed { reason: "another outcome".into() }] {
            let besides = status.reason().map(str::to_owned).unwrap_or_default();
            let Status::InfrastructureError { reason } = judged(status, &[]) else { unreachable!() };
            assert!(
                reason.contains("console holds the key as it is") && reason.contains(&besides),
                "{reason}"
            );
            assert!(!reason.contains(secret.typed().unwrap()));
        }
        let gone = unless_it_leaks(Status::Passed, &secrets, &dir.path().join("gone"), &[]);
        assert!(matches!(gone, Status::InfrastructureError { .. }), "what was not looked at is not clean");
    }
}
