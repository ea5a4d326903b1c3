//! Waiting for the guest: for events, with a deadline, and never past the end of QEMU or swtpm.
//!
//! Every limit is written for the reference host of [`latchkey_host::Host::deadline_scale`] and scaled here.

use std::time::{Duration, Instant};

use latchkey_record::console::{ConsoleEvent, Pattern};
use latchkey_supervise::cancelled;

use crate::Error;
use crate::error::Part;
use crate::observation::is_guest_reset;
use crate::running::{Beginning, Running};
use crate::ssh::GuestOutput;

/// How often the ends of QEMU and swtpm and the user's wish to stop are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How long what QEMU told before it ended may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// QEMU's event for a machine that is switched off, by the guest or by whoever ends QEMU (qapi/run-state.json).
const SHUTDOWN: &str = "SHUTDOWN";
/// Who has shown something within this time has not come to a standstill, and may take this many times as long: a computer
/// with much else to do is no verdict.
const SPEAKS: Duration = Duration::from_secs(20);
const LENIENCE: u32 = 2;
/// How many of the console's lines an error shows.
const CONSOLE_LINES: usize = 15;

impl Running {
    /// Waits until `look` finds what it looks for, and gives it. It is asked again whenever a witness has
    /// something new.
    ///
    /// # Errors
    /// [`Error::Expired`] after `limit` (scaled), saying that `awaited` was awaited; [`Error::SwitchedOff`] when the
    /// guest switched the machine off; [`Error::TooMuch`] when it sent more than is kept; [`Error::Died`] and
    /// [`Error::Stopped`] when the harness' own parts failed.
    pub fn wait_until<T>(
        &self,
        awaited: &str,
        limit: Duration,
        look: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, Error> {
        self.wait(awaited, limit, look, |_| false)
    }

    /// As [`Running::wait_until`], with a limit twice as long while the console goes on showing things.
    ///
    /// # Errors
    /// As [`Running::wait_until`].
    pub fn wait_while_it_shows<T>(
        &self,
        awaited: &str,
        limit: Duration,
        look: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, Error> {
        self.wait(awaited, limit, look, |running| running.console.silent_for() < running.scaled(SPEAKS))
    }

    /// As [`Running::wait_until`]; `goes_on` says whether it may take longer.
    fn wait<T>(
        &self,
        awaited: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
        goes_on: impl Fn(&Self) -> bool,
    ) -> Result<T, Error> {
        let (begun, limit) = (Instant::now(), self.scaled(limit));
        loop {
            let heard = self.bell.rings();
            if let Some(found) = look(self) {
                return Ok(found);
            }
            self.check(awaited)?;
            let waited = begun.elapsed();
            if waited >= if goes_on(self) { limit * LENIENCE } else { limit } {
                let console = self.console.tail(CONSOLE_LINES);
                return Err(Error::Expired { awaited: awaited.to_owned(), waited, console });
            }
            self.bell.wait(heard, TICK);
        }
    }

    /// Lets `time` pass, as clocks tell it, a guest's too: it is not scaled.
    ///
    /// # Errors
    /// When the machine ends meanwhile, or the user asks to stop.
    pub fn pass(&self, time: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let heard = self.bell.rings();
            self.check("time to pass")?;
            self.bell.wait(heard, TICK);
        }
        Ok(())
    }

    /// Waits for the first of `wanted` on the console after `mark` ([`crate::console::Console::mark`]); gives it and
    /// the mark after it. While the console goes on showing things, `limit` is twice as long.
    ///
    /// # Errors
    /// As [`Running::wait_until`].
    pub fn wait_for(
        &self,
        mark: usize,
        wanted: &[Pattern],
        limit: Duration,
    ) -> Result<(ConsoleEvent, usize), Error> {
        let words: Vec<&str> = wanted.iter().map(|pattern| pattern.words()).collect();
        let awaited = format!("the console to show one of: {}", words.join("; "));
        let look = |running: &Self| {
            let events = running.console.events(mark);
            let at = events.iter().position(|event| wanted.contains(&event.pattern))?;
            Some((events[at].clone(), mark + at + 1))
        };
        self.wait_while_it_shows(&awaited, limit, look)
    }

    /// The console's mark where this boot began.
    #[must_use]
    pub fn boot_mark(&self) -> usize {
        self.beginning.console
    }

    /// Runs `command` in the guest over SSH, with `input` on its standard input: the place for secrets, since
    /// commands are seen in process lists and logs. While the guest's SSH server does not let the client in it is asked again.
    ///
    /// # Errors
    /// [`Error::Refused`] when it lets nobody in to the end of `limit`, or does not know the machine's key; [`Error::Ssh`]
    /// when the connection breaks; [`Error::TooMuch`] when it prints more than is kept; as [`Running::wait_until`] otherwise. A
    /// command that fails is no error here: see [`Running::guest_ok`].
    pub fn guest(&self, command: &str, input: &[u8], limit: Duration) -> Result<GuestOutput, Error> {
        let mut running = self.ssh.command(command, input);
        let awaited = format!("`{command}` in the guest");
        let ended = self.wait_until(&awaited, limit, |_| running.proceed().transpose());
        ended.map_err(|error| running.in_vain(error))?
    }

    /// As [`Running::guest`], for a command that has to succeed.
    ///
    /// # Errors
    /// As [`Running::guest`], and [`Error::Command`] when it exits with anything but 0.
    pub fn guest_ok(&self, command: &str, input: &[u8], limit: Duration) -> Result<GuestOutput, Error> {
        let output = self.guest(command, input, limit)?;
        if output.code == 0 {
            return Ok(output);
        }
        let stderr = output.stderr_end();
        Err(Error::Command { command: command.to_owned(), code: output.code, stderr })
    }

    /// Waits until the guest resets the machine, which QEMU tells, and begins a new boot there. Only a reset after
    /// `mark` counts ([`crate::qmp::Qmp::mark`], taken before the guest was told to): a boot may hold resets of its own.
    ///
    /// # Errors
    /// As [`Running::wait_until`].
    pub fn wait_for_reset(&mut self, mark: usize, limit: Duration) -> Result<(), Error> {
        let (qmp, at_ms) = self.wait_until("the guest to reset the machine", limit, |running| {
            let events = running.qmp.events(mark);
            let at = events.iter().position(is_guest_reset)?;
            Some((mark + at + 1, events[at].at_ms))
        })?;
        // The firmware uses the TPM after each reset, so both count the same resets.
        let resets = self.qmp.events(0).iter().take(qmp).filter(|event| is_guest_reset(event)).count();
        let tpm = u32::try_from(resets).unwrap_or(u32::MAX);
        let console = self.console.events(0).iter().filter(|event| event.at_ms <= at_ms).count();
        self.beginning = Beginning { at_ms, console, qmp, tpm };
        self.banner.again();
        Ok(())
    }

    /// A limit for the reference host, as long as it has to be on this one.
    #[must_use]
    pub fn scaled(&self, limit: Duration) -> Duration {
        limit.mul_f64(self.scale)
    }

    /// Whether the guest has switched the machine off, or QEMU is about to end because it was told to.
    pub(crate) fn shut_down(&self) -> bool {
        // A signal that ends QEMU makes the same event; it says who asked (qapi/run-state.json).
        self.qmp.events(0).iter().any(|event| event.name == SHUTDOWN && event.data["guest"] == true)
    }

    /// Fails when the machine does not run any more.
    pub(crate) fn check(&self, awaited: &str) -> Result<(), Error> {
        if cancelled() {
            return Err(latchkey_supervise::Error::Cancelled.into());
        }
        let awaited = || awaited.to_owned();
        let died = |part| Err(Error::Died { part, awaited: awaited(), said: self.said(part) });
        let dead = if !self.qemu.is_running()? {
            Some(Part::Qemu)
        } else if !self.swtpm.is_running()? {
            Some(Part::Swtpm)
        } else {
            None
        };
        if dead.is_some() {
            // QEMU tells before it ends, and before it ends the TPM; it may not have been read yet.
            let _ = self.qmp.wait_for(0, &[SHUTDOWN], LAST_WORDS);
        }
        if self.shut_down() {
            return Err(Error::SwitchedOff { awaited: awaited(), console: self.console.tail(CONSOLE_LINES) });
        }
        if let Some(part) = dead {
            // A QEMU that died, or was asked to end by a signal, has taken the TPM along.
            let asked = self.qmp.events(0).iter().any(|event| event.name == SHUTDOWN);
            return died(if self.qemu.is_running()? && !asked { part } else { Part::Qemu });
        }
        if self.stopped() {
            let state = self.qmp.run_state()?;
            let said = self.said(Part::Qemu);
            return Err(Error::Stopped { state, awaited: awaited(), said });
        }
        match self.console.too_much().or_else(|| self.swtpm.too_much()) {
            Some(what) => Err(Error::TooMuch { dir: self.dir().to_owned(), what }),
            None => Ok(()),
        }
    }

    /// Whether QEMU told that the processors stand still.
    fn stopped(&self) -> bool {
        let events = self.qmp.events(0);
        let last = events.iter().rev().find(|event| matches!(event.name.as_str(), "STOP" | "RESUME"));
        last.is_some_and(|event| event.name == "STOP")
    }
}
