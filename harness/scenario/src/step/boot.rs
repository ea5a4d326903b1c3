//! Steps that boot the machine.

use std::collections::{BTreeMap, BTreeSet};

use latchkey_forecast::Keyboard;
use latchkey_images::Image;
use latchkey_record::{Outcome, PcrIndex, WitnessName};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Act, Fault, MOST_TIMES, Site, SoFar, once_each, times, up_to};
use crate::Error;
use crate::behind::{is_among, parted};
use crate::bench::Bench;
use crate::pcrs;
use crate::rehearsal::Rehearsal;

/// What is checked of a boot whose PCRs moved, besides which.
const BEHIND: &str = "the file or variable behind it";

/// See [`super::Step::Boot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table such as `{ expect = \"unlocked\" }`"
)]
pub struct Boot {
    /// What it must come to.
    pub expect: Outcome,
    /// How it begins; a guest that runs is restarted from within, one that is off is started.
    #[serde(default)]
    pub how: How,
    /// How often in a row, each time with the same outcome.
    #[serde(default = "once", deserialize_with = "times", skip_serializing_if = "is_once")]
    #[schemars(range(min = 1, max = MOST_TIMES))]
    pub times: u32,
    /// Who is at the console while shim's MokManager asks.
    #[serde(default, skip_serializing_if = "AtConsole::is_nobody")]
    pub at_console: AtConsole,
    /// Which PCRs must differ from the last boot that opened by itself. Without it none may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
    /// Who must report a refusal: `firmware`, `shim` or `grub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_by: Option<String>,
    /// What stands in the line of the console that decides it, such as the name of the error in shim's box. A rehearsal does
    /// not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// How many seconds a machine that waits for somebody must stay as it is once that is clear: it runs, its console comes to
    /// nothing else, its TPM unseals nothing and measures nothing else, its SSH server does not greet.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "seconds")]
    #[schemars(range(min = 1, max = LONGEST))]
    pub for_seconds: Option<u32>,
    /// What it comes to meanwhile by itself, where it does not stay as it is: a prompt that nobody answers may give up. A
    /// rehearsal takes it for true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Outcome>,
    /// How often the firmware restarts it meanwhile, to come to the same again: its watchdog does so where a boot option's
    /// program still runs after five minutes (UEFI 2.10, section 7.5, `SetWatchdogTimer`).
    #[serde(default, skip_serializing_if = "is_never", deserialize_with = "restarts")]
    #[schemars(range(min = 1, max = MOST_RESTARTS))]
    pub restarts: u32,
    /// Whether the TPM must refuse for being in dictionary-attack lockout. On the console that looks like any mismatch.
    #[serde(default, skip_serializing_if = "TpmLockout::is_none")]
    pub tpm_lockout: TpmLockout,
}

/// Whether a TPM refuses every key that counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TpmLockout {
    /// It does not.
    #[default]
    None,
    /// It does.
    Active,
}

impl TpmLockout {
    fn is_none(&self) -> bool {
        *self == Self::None
    }

    fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Active => "active",
        }
    }
}

/// Who is at the console before the kernel starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AtConsole {
    /// Nobody: what waits for ten seconds goes on.
    #[default]
    Nobody,
    /// Somebody who goes through MokManager's menus and grants what was asked for, with the password it was asked with.
    Grants,
}

impl AtConsole {
    fn is_nobody(&self) -> bool {
        *self == Self::Nobody
    }

    /// For a forecast.
    pub(crate) fn keyboard(self) -> Keyboard {
        match self {
            Self::Nobody => Keyboard::Nobody,
            Self::Grants => Keyboard::Somebody,
        }
    }
}

/// How a boot begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// `reboot` in a guest that runs; power-on of a machine that is off.
    #[default]
    Natural,
    /// Clean power-off first, then power-on.
    Cold,
}

/// Which PCRs moved, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Moved {
    /// Exactly these, of PCR 0 to 9 and 11 to 15.
    #[serde(deserialize_with = "once_each")]
    #[schemars(extend("uniqueItems" = true))]
    pub pcrs: Vec<PcrIndex>,
    /// By image: others that move there as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub also: BTreeMap<String, Vec<PcrIndex>>,
    /// The file or variable behind it: a place, as steps name files, a variable's name, or what else forecasts name. A
    /// measurement of it is in one of the two boots and not in the other, or stands elsewhere.
    pub by: String,
}

impl Moved {
    /// The PCRs that have to move on the image with this name, in their order.
    #[must_use]
    pub fn on(&self, image: &str) -> Vec<PcrIndex> {
        let mut all = self.pcrs.clone();
        all.extend(self.also.get(image).into_iter().flatten());
        all.sort_unstable();
        all
    }
}

/// The longest that a step watches a machine on which nothing happens.
const LONGEST: u32 = 900;

/// A number of seconds, refused where it stands in the file.
fn seconds<'de, D: Deserializer<'de>>(text: D) -> Result<Option<u32>, D::Error> {
    up_to(text, "for-seconds", LONGEST).map(Some)
}

/// As often as the watchdog fits into that.
const MOST_RESTARTS: u32 = 2;

/// A number of restarts, refused where it stands in the file.
fn restarts<'de, D: Deserializer<'de>>(text: D) -> Result<u32, D::Error> {
    up_to(text, "restarts", MOST_RESTARTS)
}

fn is_never(times: &u32) -> bool {
    *times == 0
}

pub(super) fn once() -> u32 {
    1
}

pub(super) fn is_once(times: &u32) -> bool {
    *times == 1
}

impl Boot {
    /// A chain that stops before userspace measures less than a whole one: nothing to compare.
    fn is_whole(&self) -> bool {
        matches!(self.expect, Outcome::Unlocked | Outcome::FallbackPrompt | Outcome::NoPrompt)
    }

    /// The PCRs that have to move on a machine made of `image`.
    fn list_moved(&self, image: &Image) -> String {
        let name = image.like.as_ref().unwrap_or(&image.name);
        pcrs::list(&self.moved.as_ref().map_or_else(Vec::new, |moved| moved.on(name)))
    }

    /// What is said to be behind the PCRs that moved, and what is, of `names`; `None` where nothing moves on this image.
    fn behind(&self, names: &BTreeSet<String>, image: &Image) -> Option<(String, String)> {
        let by = &self.moved.as_ref().filter(|_| self.list_moved(image) != pcrs::list(&[]))?.by;
        let seen = match is_among(by, names, image) {
            true => by.clone(),
            false if names.is_empty() => "nothing".to_owned(),
            false => names.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        };
        Some((by.clone(), seen))
    }
}

impl Boot {
    fn act_once(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        if self.how == How::Cold {
            bench.switch_off()?;
        }
        let then = bench.baseline.as_ref().map(|then| then.events.clone());
        bench.boot(self.expect, self.at_console)?;
        bench.check_outcome(self.expect);
        if let Some(seconds) = self.for_seconds.filter(|_| bench.outcome == Some(self.expect)) {
            bench.stays(self.expect, self.then, seconds, self.restarts as usize)?;
        }
        // A lockout looks like a mismatch on the console. It is another thing.
        let lockout = if bench.locked_out { TpmLockout::Active } else { TpmLockout::None };
        bench.check("the TPM's lockout", self.tpm_lockout.word(), lockout.word());
        let Some(record) = bench.records.last() else { return Ok(()) };
        let (moved, reported_by) = (pcrs::list(&record.moved), record.reported_by.clone());
        let said = record.witnesses.iter().find(|witness| witness.name == WitnessName::Console);
        let said = said.map_or_else(String::new, |witness| witness.saw.clone());
        if let Some(expected) = &self.says {
            let seen = if said.contains(expected) { expected.clone() } else { said };
            bench.check("what the console says", expected.as_str(), seen);
        }
        if let Some(expected) = &self.reported_by {
            bench.check("reported by", expected.as_str(), reported_by.unwrap_or_else(|| "nobody".into()));
        }
        if let Some(then) = then.filter(|_| !bench.lacks_tpm() && self.is_whole()) {
            bench.check("PCRs that moved", self.list_moved(bench.context.image), moved);
            let names = parted(&then, &bench.events());
            if let Some((by, seen)) = self.behind(&names, bench.context.image) {
                bench.check(BEHIND, by, seen);
            }
        }
        Ok(())
    }

    fn rehearse_once(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.boot(self.at_console.keyboard())?;
        rehearsal.check_outcome(self.expect);
        let lockout = if rehearsal.locked_out() { TpmLockout::Active } else { TpmLockout::None };
        rehearsal.check("the TPM's lockout", self.tpm_lockout.word(), lockout.word());
        if let Some(expected) = &self.reported_by {
            let seen = rehearsal.reported_by();
            rehearsal.check("reported by", expected.as_str(), seen);
        }
        self.then.into_iter().for_each(|then| rehearsal.comes_to(Some(then)));
        if let Some((seen, names)) = rehearsal.moved().filter(|_| self.is_whole()) {
            rehearsal.check("PCRs that moved", self.list_moved(Site::image(rehearsal)), seen);
            if let Some((by, seen)) = self.behind(&names, Site::image(rehearsal)) {
                rehearsal.check(BEHIND, by, seen);
            }
        }
        Ok(())
    }
}

impl Act for Boot {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        for _ in 0..self.times {
            self.act_once(bench)?;
            if !bench.holds_so_far() {
                break;
            }
        }
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        (0..self.times).try_for_each(|_| self.rehearse_once(rehearsal))
    }

    fn describe(&self) -> String {
        let times = if self.times == 1 { String::new() } else { format!(" {} times", self.times) };
        let granted =
            if self.at_console == AtConsole::Grants { ", granting what MokManager asks" } else { "" };
        let again = match self.restarts {
            0 => String::new(),
            1 => ", restarted once".into(),
            times => format!(", restarted {times} times"),
        };
        let then = self.then.map_or_else(String::new, |then| format!(", then {then}"));
        let stays =
            self.for_seconds.map_or_else(String::new, |seconds| format!(", for {seconds} s{again}{then}"));
        match &self.moved {
            Some(moved) => format!("boot{times}{granted}: {}{stays}, since {} moved", self.expect, moved.by),
            None => format!("boot{times}{granted}: {}{stays}", self.expect),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        if matches!(self.expect, Outcome::UnlockedByPassphrase | Outcome::UnlockedByRecoveryKey) {
            let help = "expect \"fallback-prompt\" here, and add an `answer` step after it";
            return Err(("a boot cannot end with a typed key: it ends at the prompt".into(), help));
        }
        if self.at_console == AtConsole::Grants {
            so_far.uses_request()?;
            if self.times != 1 {
                let help = "boot once with `at-console`, and again in a step of its own";
                return Err(("MokManager asks in the first of these boots alone".into(), help));
            }
        }
        let waits = [Outcome::FallbackPrompt, Outcome::RefusedByShim, Outcome::EmergencyShell];
        if self.for_seconds.is_some() && !waits.contains(&self.expect) {
            let help =
                "leave `for-seconds` out; it is for fallback-prompt, refused-by-shim and emergency-shell";
            return Err(("nothing waits for anybody here".into(), help));
        }
        if self.restarts > 0 && (self.for_seconds.is_none() || self.expect != Outcome::RefusedByShim) {
            let help = "leave `restarts` out; it is for refused-by-shim, with `for-seconds`";
            return Err(("nothing is watched that the firmware restarts".into(), help));
        }
        let gives_up = self.expect == Outcome::FallbackPrompt && self.then == Some(Outcome::EmergencyShell);
        if self.then.is_some() && !(gives_up && self.for_seconds.is_some() && self.times == 1) {
            let help = "leave `then` out; it is for a prompt that gives up, `then = \"emergency-shell\"`, with `for-seconds`";
            return Err(("nothing else comes of this by itself".into(), help));
        }
        if self.moved.is_some() {
            if !self.is_whole() {
                let help = "leave `moved` out; what a refusal measures is part of its forecast";
                return Err(("a boot that stops before userspace is compared with none".into(), help));
            }
            so_far.has_baseline()?;
        }
        for image in self.moved.iter().flat_map(|moved| moved.also.keys()) {
            so_far.is_for(image)?;
        }
        so_far.boots(self.then.unwrap_or(self.expect));
        Ok(())
    }
}

impl Bench<'_> {
    pub(super) fn check_outcome(&mut self, expected: Outcome) {
        let Some(record) = self.records.last() else { return };
        let contradictions: Vec<String> = record.contradictions.iter().map(ToString::to_string).collect();
        let seen = record.outcome.map_or_else(|| contradictions.join("; "), |outcome| outcome.to_string());
        self.check("outcome", expected.code(), seen);
    }
}
