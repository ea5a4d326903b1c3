//! What the harness costs and what forking saves, as ratios of what was done in one run.
//!
//! One machine is provisioned and saved. It is then started in turn by the harness and by nothing but a shell, each time
//! from a fork of its own, so that both begin with the same bytes. Machines are thrown away as they are: nothing that is
//! timed here is judged.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use latchkey_machine::{Forked, Machine, Running, Saved};
use latchkey_supervise::{Scratch, Wanted};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bench::{Bench, Power};
use crate::context::Context;
use crate::file::Scenario;
use crate::runner::each_mib;
use crate::watch::Watch;

/// What both wait for: the line with which `getty` asks (util-linux, `login:`).
const LOGIN: &str = " login:";
/// More than any boot takes.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often somebody looks whether the user wants to stop.
const TICK: Duration = Duration::from_millis(100);

/// Times of one run, in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Times {
    /// From the wish to boot to the login prompt: by the harness, its forecast included.
    pub harness: Vec<f64>,
    /// The same, by a shell that starts swtpm and QEMU and reads the console.
    pub bare: Vec<f64>,
    /// From a saved machine to a command that ran in its logged-in guest.
    pub fork: Vec<f64>,
    /// To save it.
    pub save: f64,
}

/// Boots `scenario`'s machine `pairs` times by the harness and as often without it, in turn, then saves one that is logged
/// in and forks it as often.
///
/// # Errors
/// When a machine cannot be made, booted or saved.
pub fn times(
    scenario: &Scenario,
    context: &Context<'_>,
    pairs: u16,
    watch: &dyn Watch,
) -> Result<Times, Error> {
    let wanted = Wanted { each_mib: each_mib(scenario), things: 2, at_once: context.at_once };
    let _room = latchkey_supervise::room(wanted, || ())?;
    let scratch = Scratch::new(&context.machines, "bench-")?;
    let dir = |name: &str| scratch.path().join(name);
    let mut bench = Bench::new(scenario, context, watch, scratch.path())?;
    bench.provision(scenario, scratch.path())?;
    let off = match std::mem::replace(&mut bench.power, Power::Lost) {
        Power::Off(machine) => machine.save()?,
        _ => return Err(Error::Bench("a machine that was just provisioned is not off".into())),
    };
    let mut times = Times { harness: Vec::new(), bare: Vec::new(), fork: Vec::new(), save: 0.0 };
    for pair in 0..pairs {
        bench.note(&format!("pair {} of {pairs}", pair + 1));
        let (ours, bare) = (dir(&format!("harness-{pair}")), dir(&format!("bare-{pair}")));
        let by_us = |bench: &mut Bench<'_>| {
            let took = by_the_harness(bench, fork_off(&off, context, &ours)?, pair);
            bench.power = Power::Lost;
            took
        };
        let by_a_shell = || by_a_shell(&fork_off(&off, context, &bare)?, context);
        // Whoever comes second finds the host's caches warm: in turn. Neither runs beside the other.
        let (ours, bare) = if pair % 2 == 0 {
            let ours = by_us(&mut bench)?;
            (ours, by_a_shell()?)
        } else {
            let bare = by_a_shell()?;
            (by_us(&mut bench)?, bare)
        };
        times.harness.push(ours);
        times.bare.push(bare);
    }
    by_the_harness(&mut bench, fork_off(&off, context, &dir("to-fork"))?, pairs)?;
    let Power::On(running) = std::mem::replace(&mut bench.power, Power::Lost) else {
        return Err(Error::Bench("the machine that was to be saved does not run".into()));
    };
    answers(&running)?;
    let begun = Instant::now();
    let on = running.save()?;
    times.save = begun.elapsed().as_secs_f64();
    for fork in 0..pairs {
        let begun = Instant::now();
        match on.fork(context.host, &dir(&format!("fork-{fork}")), &[])? {
            Forked::On(running) => answers(&running)?,
            Forked::Off(_) => return Err(Error::Bench("a fork of a running machine is off".into())),
        }
        times.fork.push(begun.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// Boots `machine` as a step does, its forecast included, and gives the seconds until the login prompt. It runs then.
fn by_the_harness(bench: &mut Bench<'_>, machine: Machine, number: u16) -> Result<f64, Error> {
    let begun = Instant::now();
    bench.power = Power::Off(machine);
    bench.foresee(u32::from(number) + 1, latchkey_forecast::Keyboard::Nobody)?;
    bench.switch_on()?;
    let running = bench.running()?;
    let login = [latchkey_record::console::Pattern::Login];
    running.wait_for(running.boot_mark(), &login, PATIENCE)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn fork_off(saved: &Saved, context: &Context<'_>, dir: &Path) -> Result<Machine, Error> {
    match saved.fork(context.host, dir, &[])? {
        Forked::Off(machine) => Ok(machine),
        Forked::On(_) => Err(Error::Bench("a fork of a machine that is off runs".into())),
    }
}

fn answers(running: &Running) -> Result<(), Error> {
    running.guest_ok("true", &[], PATIENCE)?;
    Ok(())
}

/// Starts the machine as its script for people does, and gives the seconds until the login prompt.
fn by_a_shell(machine: &Machine, context: &Context<'_>) -> Result<f64, Error> {
    let script = machine.by_hand(context.host);
    let (console, writer) =
        std::io::pipe().map_err(Error::file("making a pipe for the console of", machine.dir()))?;
    let begun = Instant::now();
    // What the shell starts ends with it, whatever becomes of this process.
    let shell = latchkey_supervise::start_tree("sh", "sh", &["-c", &script], |e| {
        e.stdin_null().stdout_file(writer).stderr_null()
    })?;
    let (tell, told) = mpsc::channel();
    std::thread::Builder::new()
        .name("bare-console".into())
        .spawn(move || {
            // Pieces end where a line would: the prompt itself has no end.
            let pieces = BufReader::new(console).split(b':').map_while(Result::ok);
            pieces.take_while(|piece| tell.send(piece.clone()).is_ok()).for_each(drop);
        })
        .map_err(Error::file("starting a thread to read the console of", machine.dir()))?;
    let mut shown = String::new();
    while begun.elapsed() < PATIENCE {
        if latchkey_supervise::cancelled() {
            return Err(latchkey_supervise::Error::Cancelled.into());
        }
        match told.recv_timeout(TICK) {
            Ok(piece) => shown.push_str(&format!("{}:", String::from_utf8_lossy(&piece))),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if shown.ends_with(LOGIN) {
            let took = begun.elapsed().as_secs_f64();
            drop(shell);
            return Ok(took);
        }
    }
    Err(Error::Bench("the console of a machine that a shell started showed no login prompt".into()))
}
