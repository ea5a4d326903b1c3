//! The host as one value.

use std::path::Path;

use latchkey_supervise::Scratch;
use serde::{Deserialize, Serialize};

use crate::accelerator::{self, Accelerator, Attempt};
use crate::firmware::{self, Firmware};
use crate::tools::{self, Tools};
use crate::{Env, Error, cache};

/// The firmware's time to hand-over, in seconds, on the host that deadlines are written for: two idle cores,
/// TCG, QEMU 10.0.
const REFERENCE_HANDOVER: f64 = 4.0;
/// The least scale: a guest's own timers (systemd's for a device, shim's, the watchdog's) do not shrink on a fast host, and
/// most limits wait for some of them.
const LEAST_SCALE: f64 = 1.0;
/// The greatest scale: a probe that fell into a busy minute shall not turn minutes into hours.
const MOST_SCALE: f64 = 20.0;

/// Whether an earlier answer will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// It will, as long as nothing it depends on has changed.
    #[default]
    WhenStale,
    /// Probe again.
    Always,
}

/// Where machines run: everything that was found out about this computer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The programs.
    pub tools: Tools,
    /// The firmware.
    pub firmware: Firmware,
    /// The accelerator in which the firmware came up.
    pub accelerator: Accelerator,
    /// What was tried, in order; the last is [`Host::accelerator`] and came up.
    pub attempts: Vec<Attempt>,
    /// From the start of QEMU to the firmware's hand-over, in seconds.
    pub handover_seconds: f64,
    /// Every deadline is multiplied by this. 1 is a host of two cores under TCG whose firmware hands over in
    /// 4 s; between 1 and 20.
    pub deadline_scale: f64,
}

impl Host {
    /// Looks at this computer, or recalls what an earlier look into `cache_dir` found.
    ///
    /// # Errors
    /// When a tool or the firmware is missing, an override names nothing usable, the firmware comes up in no
    /// accelerator, the cache directory cannot be written, or the user asked to stop.
    pub fn probe(cache_dir: &Path, refresh: Refresh) -> Result<Self, Error> {
        Self::probe_in(&Env::of_process(), cache_dir, refresh)
    }

    /// As [`Host::probe`], in other surroundings.
    ///
    /// # Errors
    /// As [`Host::probe`].
    pub fn probe_in(env: &Env, cache_dir: &Path, refresh: Refresh) -> Result<Self, Error> {
        let tools = tools::Found::search(env)?;
        let firmware = firmware::Found::search(env)?;
        let key = cache::Key::of(env, &tools, &firmware)?;
        let recalled = || cache::recall(cache_dir, &key).filter(|_| refresh == Refresh::WhenStale);
        if let Some(host) = recalled() {
            return Ok(host);
        }
        let _turn = cache::turn(cache_dir)?;
        if let Some(host) = recalled() {
            return Ok(host);
        }
        let host = Self::look(env, tools.ask()?, firmware.read()?, cache_dir)?;
        cache::remember(cache_dir, key, &host)?;
        Ok(host)
    }

    fn look(env: &Env, tools: Tools, firmware: Firmware, cache_dir: &Path) -> Result<Self, Error> {
        let scratch = Scratch::new(cache_dir, "probe-")?;
        let (accelerator, handover, attempts) =
            accelerator::choose(env, &tools.qemu.path, &firmware, scratch.path())?;
        let handover_seconds = handover.as_secs_f64();
        let deadline_scale = (handover_seconds / REFERENCE_HANDOVER).clamp(LEAST_SCALE, MOST_SCALE);
        Ok(Self { tools, firmware, accelerator, attempts, handover_seconds, deadline_scale })
    }
}
