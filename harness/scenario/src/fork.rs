//! A bench saved with its machine, and forked: what is known of the machine so far goes where the machine goes.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use latchkey_forecast::TpmState;
use latchkey_machine::{Forked, Saved};
use latchkey_provision::{Keys, Secret, Vault};
use latchkey_record::{HashAlg, Outcome, StepResult};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Error;
use crate::bench::{Bench, Measured, Power};
use crate::foresight::Forecasted;
use crate::judge::Sealed;
use crate::store::{MACHINE, copy_files};

const STORY: &str = "story.json";
const KEYS: &str = "keys.json";
const RECORD: &str = "record";

/// What is known of a saved machine. Paths of records are as the row has them that saved it.
#[derive(Serialize, Deserialize)]
struct Story {
    /// The row that did the steps.
    row: String,
    /// The run in which it did them.
    run: String,
    bank: HashAlg,
    baseline: Option<Measured>,
    outcome: Option<Outcome>,
    locked_out: bool,
    mark: usize,
    next_boot: u32,
    sealed: Sealed,
    forecast: Option<Forecasted>,
    tpm: Option<TpmState>,
    powered_on: u32,
    steps: Vec<StepResult>,
    /// What an open guest said of its TPM when it was saved.
    identity: Option<String>,
}

impl Bench<'_> {
    /// Saves the machine, as it is, into the empty directory `place`. Afterwards there is none on the bench: fork it.
    pub(crate) fn save(&mut self, place: &Path) -> Result<(), Error> {
        self.note("saving the machine for the rows that go on from here");
        let identity = self.identity()?;
        self.save_running_console()?;
        let saved = match std::mem::replace(&mut self.power, Power::Lost) {
            Power::On(running) => running.save()?,
            Power::Off(machine) => machine.save()?,
            Power::Lost => return Err(Error::Bench("the machine was lost in an earlier step".into())),
        };
        let machine = place.join(MACHINE);
        fs::rename(saved.dir(), &machine).map_err(Error::file("renaming", saved.dir()))?;
        let story = Story {
            row: self.row.clone(),
            run: self.run(),
            bank: self.bank,
            baseline: self.baseline.clone(),
            outcome: self.outcome,
            locked_out: self.locked_out,
            mark: self.mark,
            next_boot: self.next_boot,
            sealed: self.sealed,
            forecast: self.forecast.clone(),
            tpm: self.tpm.clone(),
            powered_on: self.powered_on,
            steps: self.steps.clone(),
            identity,
        };
        write_private(&place.join(STORY), &story)?;
        write_private(&place.join(KEYS), &(&self.keys, &self.platform, &self.escrow, &self.secrets))?;
        copy_files(&self.dir, &place.join(RECORD))
    }

    /// Puts a fork of the machine that was saved in `place` on the bench, in the directory `dir`.
    pub(crate) fn fork(&mut self, place: &Path, dir: &Path) -> Result<(), Error> {
        self.note("forking a saved machine");
        let story: Story = read(&place.join(STORY))?;
        type Kept = (Keys, Option<Secret>, Option<(String, Vault)>, Vec<(String, Secret)>);
        let (keys, platform, escrow, secrets) = read::<Kept>(&place.join(KEYS))?;
        (self.keys, self.platform, self.escrow) = (keys, platform, escrow);
        // Whoever saved it had to do with these, and what it left behind is this row's as well.
        secrets.iter().for_each(|(name, secret)| self.tell_secret(name.as_str(), secret));
        copy_files(&place.join(RECORD), &self.dir)?;
        let saved = Saved::open(&place.join(MACHINE))?;
        self.power = match saved.fork(self.context.host, dir, &[])? {
            Forked::Off(machine) => Power::Off(machine),
            Forked::On(running) => Power::On(running),
        };
        let Story { row, run, bank, baseline, outcome, locked_out, mark, next_boot, sealed, .. } = story;
        let row = if run == self.run() { row } else { StepResult::row_of(&row, &run) };
        (self.bank, self.outcome, self.locked_out, self.mark) = (bank, outcome, locked_out, mark);
        (self.next_boot, self.sealed, self.powered_on) = (next_boot, sealed, story.powered_on);
        self.tpm = story.tpm;
        self.baseline = baseline.map(|measured| Measured {
            event_log: measured.event_log.map(|path| self.own(&path)),
            ..measured
        });
        self.forecast = story.forecast.map(|made| Forecasted { path: self.own(&made.path), ..made });
        self.steps = story.steps.into_iter().map(|step| self.adopt(step, &row)).collect();
        if let Some(then) = story.identity {
            let now = self.identity()?.unwrap_or_default();
            if now != then {
                let why = format!(
                    "the fork is not the machine that was saved: its TPM said\n{then}\nand says\n{now}"
                );
                return Err(Error::Bench(why));
            }
        }
        Ok(())
    }

    /// A step of `row`, as one that this row shares with it; its own when it is the row that did it.
    pub(crate) fn adopt(&self, mut step: StepResult, row: &str) -> StepResult {
        if row != self.row {
            step.shared_with.get_or_insert_with(|| row.to_owned());
        }
        self.readdressed(step)
    }

    /// A step whose files lie in this row's directory now.
    pub(crate) fn readdressed(&self, mut step: StepResult) -> StepResult {
        for boot in &mut step.boots {
            for path in boot.files_mut() {
                *path = self.own(path);
            }
        }
        step
    }

    /// A file of another row's record, as this row's directory has it.
    fn own(&self, path: &Path) -> PathBuf {
        path.file_name().map_or_else(|| path.to_owned(), |name| self.relative(&name.to_string_lossy()))
    }
}

fn write_private(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|e| Error::file("writing", path)(e.into()))?;
    // There may be keys in it.
    let text = Zeroizing::new(text);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(&text)).map_err(Error::file("writing", path))
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Error> {
    let damaged = |source| Error::Saved { path: path.to_owned(), source };
    let text = fs::read(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => damaged(error),
        _ => Error::file("reading", path)(error),
    })?;
    serde_json::from_slice(&Zeroizing::new(text)).map_err(|e| damaged(e.into()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_does_not_parse_is_damaged_and_what_cannot_be_read_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let story = dir.path().join(STORY);
        let of_story = || read::<Story>(&story).err().unwrap().is_of_what_was_saved();
        assert!(of_story(), "it is gone");
        fs::write(&story, "{").unwrap();
        assert!(of_story(), "it ends early");
        fs::write(&story, "[]").unwrap();
        assert!(of_story());
        fs::remove_file(&story).unwrap();
        // The system does not read this one.
        fs::create_dir(&story).unwrap();
        assert!(!of_story());
    }

    #[test]
    fn a_machine_is_damaged_that_is_none_and_not_one_whose_files_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let of_machine = || Error::from(Saved::open(dir.path()).err().unwrap()).is_of_what_was_saved();
        assert!(of_machine(), "it is gone");
        fs::write(dir.path().join("machine.json"), "{").unwrap();
        assert!(of_machine());
        fs::remove_file(dir.path().join("machine.json")).unwrap();
        fs::create_dir(dir.path().join("machine.json")).unwrap();
        assert!(!of_machine());
        let altered = latchkey_machine::Error::Altered { dir: dir.path().to_owned(), part: "memory".into() };
        assert!(Error::from(altered).is_of_what_was_saved());
        let full = Error::file("reading", dir.path())(ErrorKind::StorageFull.into());
        assert!(!full.is_of_what_was_saved());
    }
}
