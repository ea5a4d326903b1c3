//! A boot of the bench's machine: begun, watched until its outcome is clear, judged, recorded.

use std::collections::BTreeMap;
use std::time::Duration;

use latchkey_machine::{Observation, Running};
use latchkey_provision::KeyRole;
use latchkey_record::boot::{BootKind, BootRecord, Milestone};
use latchkey_record::console::{ConsoleEvent, Pattern};
use latchkey_record::tpm::TpmRecord;
use latchkey_record::{ForecastEvent, HashAlg, Outcome, PcrIndex, PcrValues};

use crate::Error;
use crate::bench::{Bench, Measured, Power};
use crate::decision::Decision;
use crate::guest::Told;
use crate::judge::{DECISIVE, Evidence, Judgement, RUNNING, Sealed, comes_to, doubt, judge};
use crate::pcrs::{self, is_settled};
use crate::step::AtConsole;
use crate::watch::Event;

// Limits are for the reference host; the machine scales them.

/// From power-on until the console shows something decisive. An unattended login takes 35 s there; under TCG shim now and then
/// takes more than two minutes to hash what it starts after a guest's restart. The firmware's watchdog, which restarts what has
/// not come to a system five minutes after its boot option was started, is not waited for.
const DECISION: Duration = Duration::from_secs(270);
/// From the answer at the prompt until the console shows what came of it.
pub(crate) const ANSWERED: Duration = Duration::from_secs(120);
/// Until an initrd gives up: systemd waits for the root volume for a while, four minutes on our images.
pub(crate) const GIVES_UP: Duration = Duration::from_secs(420);
/// How many resets in one boot are a loop: the longest chain that ends has two, MokManager's and the fallback program's.
const LOOP: usize = 4;
/// From the login prompt until the SSH server greets.
pub(crate) const GREETING: Duration = Duration::from_secs(60);
/// How long the knock may take that shows that a locked machine's SSH server does not greet.
const SILENCE: Duration = Duration::from_secs(30);
/// A command in the guest.
pub(crate) const COMMAND: Duration = Duration::from_secs(90);
/// From `reboot` in the guest until the machine is reset.
const RESET: Duration = Duration::from_secs(120);

impl Bench<'_> {
    /// Starts a machine that is off, or restarts one whose guest runs, and records what comes of it; what is expected tells
    /// how long it may take.
    pub(crate) fn boot(&mut self, expected: Outcome, at_console: AtConsole) -> Result<(), Error> {
        let number = self.next_boot;
        self.next_boot += 1;
        let kind = match &self.power {
            Power::On(_) if self.outcome.is_some_and(Outcome::is_open) => {
                self.foresee_reboot(number, at_console.keyboard())?;
                let Power::On(running) = &mut self.power else {
                    return Err(Error::Bench("the machine was lost".into()));
                };
                // The connection may break before the exit code is through; the reset is what counts.
                let mark = running.qmp().mark();
                match running.guest("systemctl --no-block reboot", &[], COMMAND) {
                    Ok(_) | Err(latchkey_machine::Error::Ssh { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                running.wait_for_reset(mark, RESET)?;
                BootKind::GuestReboot
            }
            Power::On(_) => {
                self.switch_off()?;
                self.foresee(number, at_console.keyboard())?;
                self.switch_on()?;
                BootKind::ColdStart
            }
            _ => {
                self.foresee(number, at_console.keyboard())?;
                self.switch_on()?;
                BootKind::ColdStart
            }
        };
        self.under_way = Some(((number, kind), None));
        let mark = match at_console {
            AtConsole::Nobody => self.running()?.boot_mark(),
            AtConsole::Grants => self.grant()?,
        };
        let limit = if expected == Outcome::EmergencyShell { GIVES_UP } else { DECISION };
        self.witness((number, kind), None, mark, DECISIVE, limit)
    }

    /// Types the key of `role` at the prompt and records what comes of it.
    pub(crate) fn answer(&mut self, role: KeyRole) -> Result<(), Error> {
        let key = self.key(role)?;
        let text = key.typed().ok_or_else(|| Error::Bench(format!("nobody can type the key {role}")))?;
        if self.outcome != Some(Outcome::FallbackPrompt) {
            return Err(Error::Verdict("nothing asks for a key".into()));
        }
        let boot = self.last_boot();
        let running = self.running()?;
        let line = running.console();
        let typed = line.type_secret(text);
        typed.map_err(Error::file("typing at the console of", running.dir()))?;
        let after: Vec<Pattern> = DECISIVE.iter().copied().chain([Pattern::WrongPassphrase]).collect();
        self.witness(boot, Some(role), self.mark, &after, ANSWERED)
    }

    /// The boot that an answer continues: its number, and how it began.
    pub(crate) fn last_boot(&self) -> (u32, BootKind) {
        let earlier = self.steps.iter().flat_map(|step| &step.boots).chain(&self.records).next_back();
        earlier.map_or((0, BootKind::ColdStart), |boot| (boot.number, boot.kind))
    }

    /// Watches the console from `mark` on until it shows one of `decisive`, asks the other witnesses, and records
    /// the judgement.
    pub(crate) fn witness(
        &mut self,
        boot: (u32, BootKind),
        typed: Option<KeyRole>,
        mark: usize,
        decisive: &[Pattern],
        limit: Duration,
    ) -> Result<(), Error> {
        self.under_way = Some((boot, typed));
        let watch = self.watch;
        let running = self.running()?;
        let (event, mark) = decision(running, mark, decisive, limit, |note| watch.event(&Event::Note(note)))?;
        if event.pattern == Pattern::WrongPassphrase {
            // That is clear, and no record of its own: its boot's has the console.
            self.under_way = None;
            return Err(Error::Verdict(format!("the key that was typed opens nothing: {}", event.text)));
        }
        let open = event.pattern == Pattern::Login;
        let banner = if open { greeting(running)? } else { silence(running)? };
        // Asked before QEMU is: one that has ended has closed its console as well.
        let is_closed = running.console().is_closed();
        let seen = running.observe()?;
        let tpm = seen.tpm_since_reset();
        if let Some(why) = doubt(&tpm, is_closed) {
            return Err(Error::Bench(why));
        }
        let evidence = Evidence {
            decisive: &event,
            typed,
            sealed: match &self.forecast {
                Some(made) if made.forecast.untried && self.sealed == Sealed::Yes => Sealed::OutOfReach,
                _ => self.sealed,
            },
            banner: banner.as_deref(),
            run_state: &seen.run_state,
            tpm: &tpm,
        };
        let judgement = judge(&evidence);
        let at_first_try = self.at_first_try(&tpm);
        let told =
            if judgement.outcome.is_some_and(Outcome::is_open) { self.ask_guest()? } else { Told::default() };
        let event_log = self.keep_event_log(boot.0, typed.is_some(), &told)?;
        let measured = Measured {
            at_first_try,
            by_guest: told.pcrs,
            lockout_counter: told.lockout_counter,
            event_log,
            events: self.events(),
        };
        self.outcome = judgement.outcome;
        self.locked_out = tpm.locked_out();
        self.mark = mark;
        let clear = event.at_ms.saturating_sub(seen.began_ms);
        self.record(boot, typed, &seen, clear, judgement, measured)
    }

    /// Watches a machine that has come to `outcome` for `seconds` more, and asserts that nothing has changed after them: it was
    /// restarted as often as `restarts` says, and measured and came to the same again; or to what it comes to `then`.
    pub(crate) fn stays(
        &mut self,
        outcome: Outcome,
        then: Option<Outcome>,
        seconds: u32,
        restarts: usize,
    ) -> Result<(), Error> {
        let (running, mark) = (self.running()?, self.mark);
        let all = |seen: &Observation| -> Vec<_> {
            let tpm = seen.tpm_since_reset();
            tpm.extends().map(|(_, pcr, digests)| (pcr, digests.to_vec())).collect()
        };
        let (resets, before) = (running.resets().len(), all(&running.observe()?));
        running.pass(Duration::from_secs(seconds.into()))?;
        let (watch, mut shown) = (self.watch, mark);
        for _ in 0..restarts {
            // It may be on its way.
            shown = decision(running, shown, DECISIVE, GIVES_UP, |note| watch.event(&Event::Note(note)))?.1;
        }
        let greeting = silence(running)?.map(|banner| format!("the SSH server greets: {banner}"));
        let later = running.console().events(mark).into_iter();
        let mut ends = later.filter(|event| DECISIVE.contains(&event.pattern));
        let shown = match (ends.find(|event| comes_to(event.pattern) != outcome), then) {
            (Some(event), then) if then != Some(comes_to(event.pattern)) => Some(event.text),
            (None, Some(_)) => Some(format!("nothing but {outcome}")),
            _ => None,
        };
        let again = running.resets().len().saturating_sub(resets);
        let reset = (again != restarts).then(|| format!("so many restarts: {again}"));
        let is_closed = running.console().is_closed();
        let now = running.observe()?;
        let in_doubt = doubt(&now.tpm, is_closed);
        let measured = (all(&now) != before).then(|| "other measurements".to_owned());
        let unsealed = now.tpm_since_reset().unsealed().then(|| "the TPM gave the key away".to_owned());
        let state = Some(now.run_state).filter(|state| state != RUNNING);
        let told = [shown, reset, unsealed, measured, state, greeting].into_iter().flatten().next();
        let expected = then.unwrap_or(outcome);
        let seen = told.unwrap_or_else(|| expected.to_string());
        if let Some(name) = self.records.last().and_then(|boot| boot.tpm.file_name()) {
            let name = name.to_string_lossy();
            // What was judged ends before a restart: that is in a file of its own.
            let name = if restarts == 0 { name.into_owned() } else { format!("restarted-{name}") };
            self.write_tpm(&name, &now.tpm)?;
            let restarted = (restarts > 0).then(|| self.relative(&name));
            if let Some(boot) = self.records.last_mut() {
                boot.tpm_restarted = restarted;
            }
        }
        self.save_running_console()?;
        if let Some(why) = in_doubt {
            return Err(Error::Bench(why));
        }
        self.outcome = Some(expected);
        self.check(&format!("{seconds} s later"), expected.to_string(), seen);
        Ok(())
    }

    /// The PCRs when the sealed key was first tried, of the bank that is compared: firmware sends a digest for every algorithm
    /// it knows, also of banks that this TPM does not have.
    fn at_first_try(&self, tpm: &TpmRecord) -> BTreeMap<HashAlg, PcrValues> {
        let mut values = pcrs::at_first_try(tpm);
        values.retain(|alg, _| *alg == self.bank);
        values
    }

    /// What the forecast of the boot that is under way has the last start of the firmware measure.
    pub(crate) fn events(&self) -> Vec<ForecastEvent> {
        let last = self.forecast.as_ref().and_then(|made| made.forecast.legs.last());
        last.map(|leg| leg.events.clone()).unwrap_or_default()
    }

    /// Records a boot, or an answer, whose outcome never became clear: the step that it belongs to failed before. Nothing
    /// else is lost if that fails as well.
    pub(crate) fn record_unclear(&mut self) {
        let (Some((boot, typed)), Power::On(running)) = (self.under_way.take(), &self.power) else { return };
        let seen = running.last_seen();
        let tpm = seen.tpm_since_reset();
        let at_first_try = self.at_first_try(&tpm);
        let measured =
            Measured { at_first_try, by_guest: None, lockout_counter: None, event_log: None, events: vec![] };
        let clear = seen.until_ms.saturating_sub(seen.began_ms);
        let judgement = Judgement::unclear(&seen, &tpm);
        if let Err(error) = self.record(boot, typed, &seen, clear, judgement, measured) {
            tracing::warn!("of the boot that was under way: {error}");
        }
    }

    fn record(
        &mut self,
        (number, kind): (u32, BootKind),
        typed: Option<KeyRole>,
        seen: &Observation,
        clear_after_ms: u64,
        judgement: Judgement,
        measured: Measured,
    ) -> Result<(), Error> {
        // An answer continues its boot, and has a record of its own.
        let tpm = format!("boot-{number}{}.tpm.jsonl", if typed.is_some() { "-answered" } else { "" });
        self.write_tpm(&tpm, &seen.tpm)?;
        self.save_running_console()?;
        let foresight = self.compare_with_forecast(typed.is_some(), &seen.tpm, &judgement)?;
        let moved = match &self.baseline {
            // Without a TPM nothing moves. What a boot measured that was never clear is no whole boot's, and where a loop is caught
            // is chance.
            _ if self.lacks_tpm()
                || judgement.is_unclear()
                || judgement.outcome == Some(Outcome::RestartLoop) =>
            {
                Vec::new()
            }
            Some(then) => {
                pcrs::moved(&measured.at_first_try, &then.at_first_try, self.bank, PcrIndex::is_compared)
                    .ok_or_else(|| Error::Bench(format!("the TPM's record has no {} bank", self.bank)))?
            }
            None => Vec::new(),
        };
        self.under_way = None;
        self.records.push(BootRecord {
            number,
            kind,
            outcome: judgement.outcome,
            reported_by: judgement.reported_by.map(str::to_owned),
            waiting_for_key: judgement.waiting_for_key,
            began_ms: seen.began_ms,
            clear_after_ms,
            witnesses: judgement.witnesses,
            contradictions: judgement.contradictions,
            pcrs: measured.at_first_try.clone(),
            guest_pcrs: measured.by_guest.clone(),
            event_log: measured.event_log.clone(),
            moved,
            lockout_counter: measured.lockout_counter,
            alignment: foresight.alignment,
            forecast_outcome: foresight.outcome,
            forecast_sha256: foresight.sha256,
            forecast: foresight.path,
            milestones: milestones(seen),
            console: self.relative(&format!("power-{}.cast", self.powered_on)),
            tpm: self.relative(&tpm),
            tpm_restarted: None,
            command_line: self.relative(&format!("power-{}.qemu.txt", self.powered_on)),
        });
        self.compare_with_baseline(&measured);
        if judgement.outcome == Some(Outcome::Unlocked) {
            self.baseline = Some(measured);
        }
        Ok(())
    }

    /// Where recorder and guest can both be asked, they have to agree on what moved.
    fn compare_with_baseline(&mut self, now: &Measured) {
        let Some(then) = self.baseline.clone() else { return };
        let (Some(told), Some(told_then)) = (&now.by_guest, &then.by_guest) else { return };
        let by_guest = pcrs::moved(told, told_then, self.bank, is_settled);
        let by_recorder = pcrs::moved(&now.at_first_try, &then.at_first_try, self.bank, is_settled);
        self.check(
            "PCRs that moved, by the guest's account",
            pcrs::list_or_unknown(by_recorder.as_deref()),
            pcrs::list_or_unknown(by_guest.as_deref()),
        );
    }
}

/// Waits for a decisive pattern and passes on what the console shows meanwhile.
pub(crate) fn decision(
    running: &Running,
    mark: usize,
    decisive: &[Pattern],
    limit: Duration,
    note: impl Fn(&str),
) -> Result<(ConsoleEvent, usize), latchkey_machine::Error> {
    let (mut told, mut resets) = (mark, 0);
    let mut decision = Decision::new(decisive);
    running.wait_while_it_shows("the console to show how the boot ends", limit, |running| {
        let reset_at = running.resets();
        if reset_at.len() >= LOOP {
            let at_ms = reset_at.last().copied().unwrap_or_default();
            let text = format!("QEMU tells of {LOOP} resets, and the console of nothing decisive");
            return Some((ConsoleEvent { at_ms, pattern: Pattern::RestartLoop, text }, told));
        }
        for event in running.console().events(told) {
            told += 1;
            note(event.pattern.words());
            let since = reset_at.iter().filter(|at| **at <= event.at_ms).count();
            if std::mem::replace(&mut resets, since) != since {
                decision.reset();
            }
            if let Some(event) = decision.see(event) {
                return Some((event, told));
            }
        }
        None
    })
}

/// The SSH server's greeting, when it comes at all.
fn greeting(running: &Running) -> Result<Option<String>, latchkey_machine::Error> {
    match running.wait_until("the SSH server's greeting", GREETING, |r| r.ssh_banner()) {
        Ok(banner) => Ok(Some(banner.text)),
        Err(latchkey_machine::Error::Expired { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Knocks at a machine that seems locked: only a knock that began after now and was given its time counts. That nobody could
/// knock says nothing of the machine.
fn silence(running: &Running) -> Result<Option<String>, Error> {
    let from = running.now_ms();
    let heard = running.wait_until("a knock at the SSH port to be answered or not", SILENCE, |r| {
        match r.ssh_banner() {
            Some(banner) => Some(Some(banner.text)),
            None => r.ssh_silent_since(from).then_some(None),
        }
    });
    heard.map_err(|error| match error {
        latchkey_machine::Error::Expired { .. } => Error::Bench(format!("nobody could knock: {error}")),
        error => error.into(),
    })
}

fn milestones(seen: &Observation) -> Vec<Milestone> {
    let since = |at_ms: u64| at_ms.saturating_sub(seen.began_ms);
    let console =
        seen.console.iter().map(|e| Milestone { at_ms: since(e.at_ms), what: e.pattern.words().to_owned() });
    let qmp = seen.qmp.iter().map(|e| Milestone { at_ms: since(e.at_ms), what: format!("QEMU: {}", e.name) });
    let ssh = seen.ssh_banner.iter().map(|b| Milestone { at_ms: since(b.at_ms), what: "SSH greets".into() });
    let mut all: Vec<Milestone> = console.chain(qmp).chain(ssh).collect();
    all.sort_by_key(|milestone| milestone.at_ms);
    all
}
