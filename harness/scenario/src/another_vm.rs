//! Another VM: one that is nobody's, runs, and to which the disk of a machine that is off is attached.

use std::fs;
use std::path::Path;
use std::time::Duration;

use latchkey_host::Host;
use latchkey_images::Image;
use latchkey_machine::{Forked, Format, Hardware, HotPlug, Machine, NewMachine, Running, Saved};
use latchkey_measure::hash::digest;
use latchkey_record::HashAlg;
use latchkey_record::console::Pattern;
use latchkey_supervise::Scratch;

use crate::Error;
use crate::bench::Bench;
use crate::boot::{COMMAND, GREETING, decision};
use crate::context::Context;
use crate::store::{Forks, MACHINE};

/// From power-on to the login prompt, on the reference host; nobody judges it, so it has its time beside busy machines.
const STARTS: Duration = Duration::from_secs(420);

/// What such a VM is made of.
#[derive(Debug)]
pub struct AnotherVm {
    image: Image,
    variables: Vec<u8>,
    key: String,
}

impl AnotherVm {
    /// The stock image that it is made of, whose disk is not encrypted: the latest systemd and cryptsetup, to which no token
    /// and no header is too new.
    pub const IMAGE: &str = "rlc10-uki";

    /// One made of `image` and `variables`; `inputs` is everything that these and the host depend on, as text.
    pub(crate) fn new(image: Image, variables: Vec<u8>, inputs: &str) -> Self {
        let key = digest(HashAlg::Sha256, format!("another VM\n{inputs}").as_bytes()).hex()[..32].to_owned();
        Self { image, variables, key }
    }

    /// What tells it from others, as text.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// One that runs, in the directory `dir`, which is made: a fork of the one that was started before, if machines are
    /// forked.
    fn start(&self, context: &Context<'_>, dir: &Path, note: impl Fn(&str)) -> Result<Running, Error> {
        let sharing = context.sharing.as_ref().filter(|sharing| sharing.forks == Forks::Yes);
        let Some(store) = sharing.map(|sharing| sharing.store) else {
            return self.boot(context.host, dir, note);
        };
        let claim = store.claim(&self.key, || note("waiting for another row to start another VM"))?;
        let place = match store.saved(&self.key) {
            Some(place) => place,
            None if !store.takes(&self.key) => {
                drop(claim);
                return self.boot(context.host, dir, note);
            }
            None => {
                let part = store.begin(&self.key)?;
                let booted = self.boot(context.host, &dir.join("first"), &note)?;
                let saved = booted.save().map_err(of_helper)?;
                let machine = part.path().join(MACHINE);
                fs::rename(saved.dir(), &machine).map_err(Error::file("renaming", saved.dir()))?;
                part.finish()?
            }
        };
        let forked = Saved::open(&place.join(MACHINE));
        let forked =
            forked.and_then(|saved| saved.fork(context.host, &dir.join("fork"), &[])).map_err(of_helper);
        if let Err(error) = &forked
            && error.is_of_what_was_saved()
        {
            // What it is not is the reason, and not that nobody could write it down.
            if let Err(error) = store.discard(&self.key, error) {
                tracing::warn!("{error}");
            }
        }
        drop(claim);
        match forked? {
            Forked::On(running) => Ok(*running),
            Forked::Off(_) => Err(Error::Bench("the other VM was saved while it was off".into())),
        }
    }

    fn boot(&self, host: &Host, dir: &Path, note: impl Fn(&str)) -> Result<Running, Error> {
        let new = NewMachine {
            base: &self.image.path,
            format: Format::Qcow2,
            variables: &self.variables,
            banks: &[HashAlg::Sha256],
            hardware: Hardware::default().with_hot_plug(HotPlug::Scsi),
        };
        let running = Machine::create(host, dir, &new)?.start(host, &[])?;
        let tell = |pattern: &str| note(&format!("another VM: {pattern}"));
        let (event, _) = decision(&running, 0, &[Pattern::Login], STARTS, tell).map_err(of_helper)?;
        if event.pattern != Pattern::Login {
            return Err(Error::Bench(format!("another VM did not start: {}", event.text)));
        }
        running
            .wait_until("the SSH server's greeting", GREETING, |running| running.ssh_banner())
            .map_err(of_helper)?;
        Ok(running)
    }
}

impl Bench<'_> {
    /// Attaches the machine's disk to another VM, has `work` done there, and takes the disk away again. The machine is
    /// switched off for it; of its three parts only the disk changes.
    pub(crate) fn on_another_vm<T>(
        &mut self,
        work: impl FnOnce(&Running) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let context = self.context;
        let missing = || Error::Bench("there is no other VM to attach the disk to".into());
        let vm = context.another_vm.ok_or_else(missing)?;
        self.switch_off()?;
        let scratch = Scratch::new(&context.machines, "another-vm-")?;
        let watch = self.watch;
        let note = |text: &str| watch.event(&crate::watch::Event::Note(text));
        note("starting another VM");
        let running = vm.start(context, &scratch.path().join("vm"), note)?;
        note("attaching the disk to another VM");
        self.switch_off()?.offline(|files| {
            running.attach(files.disk).map_err(of_helper)?;
            let settled = format!("udevadm wait --settle --timeout=60 {}", Running::ATTACHED);
            let done = match running.guest_ok(&settled, &[], COMMAND) {
                Ok(_) => work(&running),
                Err(error) => Err(of_helper(error)),
            };
            // Whatever became of the work: what the guest knows of the disk goes to its file.
            let written = format!("sync && blockdev --flushbufs {}", Running::ATTACHED);
            let gone = running.guest_ok(&written, &[], COMMAND).and_then(|_| running.detach());
            let done = done?;
            gone.map_err(of_helper)?;
            Ok(done)
        })
    }
}

/// What goes wrong with another VM says nothing about the machine whose disk it has.
pub(crate) fn of_helper(error: latchkey_machine::Error) -> Error {
    if error.is_of_the_guest() { Error::Bench(format!("another VM: {error}")) } else { error.into() }
}
