//! Somebody answers at the console.

use std::time::Duration;

use latchkey_provision::{KeyRole, Secret};
use latchkey_record::Outcome;
use latchkey_record::console::{ConsoleEvent, Pattern};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::boot::{is_once, once};
use super::{Act, Fault, MOST_TIMES, SoFar, times};
use crate::Error;
use crate::bench::Bench;
use crate::boot::{ANSWERED, GIVES_UP, decision};
use crate::judge::DECISIVE;
use crate::rehearsal::Rehearsal;
use crate::watch::Event;

/// What is checked of the console once nobody asks any more.
const GIVEN_UP: &str = "the console says that there were too many attempts";

/// See [`super::Step::Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table such as `{ with = \"fallback-passphrase\", expect = \"unlocked-by-passphrase\" }`"
)]
pub struct Answer {
    /// Which key: a role of the machine's `keys`, or `wrong-passphrase`.
    pub with: KeyRole,
    /// How often a wrong one is typed.
    #[serde(default = "once", deserialize_with = "times", skip_serializing_if = "is_once")]
    #[schemars(range(min = 1, max = MOST_TIMES))]
    pub times: u32,
    /// What it must come to.
    pub expect: Outcome,
}

impl Act for Answer {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        if self.expect.is_open() {
            bench.answer(self.with)?;
        } else {
            bench.answer_wrongly(self.with, self.times)?;
        }
        bench.check_outcome(self.expect);
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.answer(self.with, self.times)?;
        rehearsal.check_outcome(self.expect);
        Ok(())
    }

    fn describe(&self) -> String {
        let times = if self.times == 1 { String::new() } else { format!(", {} times", self.times) };
        format!("answer with {}{times}: {}", self.with, self.expect)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.prompt()?;
        if self.with == KeyRole::WrongPassphrase && self.expect.is_open() {
            let help = "expect \"fallback-prompt\", or \"emergency-shell\" after the third";
            return Err(("a wrong passphrase opens nothing".into(), help));
        }
        if self.with == KeyRole::BinaryRecoveryKey && !self.expect.is_open() {
            so_far.holds(self.with)?;
        } else if self.with != KeyRole::WrongPassphrase {
            so_far.typed(self.with)?;
            if self.times != 1 {
                let help = "leave `times` out, or answer with \"wrong-passphrase\"";
                return Err(("the right key is typed once; then nothing asks any more".into(), help));
            }
        }
        so_far.boots(self.expect);
        Ok(())
    }
}

impl Bench<'_> {
    /// Types `times` passphrases that open nothing here, each when it is asked for, and records what comes of it.
    fn answer_wrongly(&mut self, role: KeyRole, times: u32) -> Result<(), Error> {
        if self.outcome != Some(Outcome::FallbackPrompt) {
            return Err(Error::Verdict("nothing asks for a key".into()));
        }
        let boot = self.last_boot();
        self.under_way = Some((boot, Some(role)));
        let (begun, mut told_wrong) = (self.mark, false);
        let asks = [Pattern::PassphrasePrompt, Pattern::RecoveryKeyPrompt];
        // Where the journal is not shown on the console, as on stock images, the next decision is all that tells.
        let refused: Vec<Pattern> = DECISIVE.iter().copied().chain([Pattern::WrongPassphrase]).collect();
        for left in (0..times).rev() {
            let secret = self.keys.get(role).cloned().unwrap_or_else(Secret::generate);
            self.tell_secret(format!("the {role}"), &secret);
            let running = self.running()?;
            // What cannot be typed is tried as a person would who sees it in hexadecimal digits.
            let digits = Zeroizing::new(hex::encode(secret.expose()));
            let typed = running.console().type_secret(secret.typed().unwrap_or(&digits));
            typed.map_err(Error::file("typing at the console of", running.dir()))?;
            let (event, mark) = self.console_shows(&refused, GIVES_UP)?;
            if event.pattern == Pattern::WrongPassphrase {
                (self.mark, told_wrong) = (mark, true);
            }
            if left > 0 {
                self.mark = self.console_shows(&asks, ANSWERED)?.1;
            }
        }
        self.witness(boot, Some(role), self.mark, DECISIVE, GIVES_UP)?;
        // Who shows that a passphrase was wrong also shows that it is the last one that is asked for.
        if told_wrong && self.outcome == Some(Outcome::EmergencyShell) {
            let shown = self.running()?.console().events(begun);
            let gives_up = shown.iter().any(|event| event.pattern == Pattern::TooManyAttempts);
            self.check(GIVEN_UP, "yes", if gives_up { "yes" } else { "no" });
        }
        Ok(())
    }

    /// Waits until the console shows one of `patterns`, and tells which and where that ends.
    fn console_shows(&self, patterns: &[Pattern], limit: Duration) -> Result<(ConsoleEvent, usize), Error> {
        let watch = self.watch;
        let note = |note: &str| watch.event(&Event::Note(note));
        Ok(decision(self.running()?, self.mark, patterns, limit, note)?)
    }
}
