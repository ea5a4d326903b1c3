//! The remembered answer, and what makes it stale.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use latchkey_supervise::{Lock, lock};
use serde::{Deserialize, Serialize};

use crate::accelerator::Kvm;
use crate::{Env, Error, Host, firmware, tools};

/// Raised when the remembered form or the way of probing changes.
const FORMAT: u32 = 2;
const FILE: &str = "host.json";
/// What it is called until it is whole. One that a killed run left is written over by the next, which has the [`turn`].
const PART: &str = "host.json.part";
const LOCK: &str = "host.lock";

/// Everything the answer depends on, gathered without starting a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    format: u32,
    /// The programs and firmware files, each with what changes when its content does.
    files: Vec<Stamp>,
    firmware: firmware::Found,
    kernel: String,
    processor: String,
    kvm: Kvm,
    /// The variables that steer the probe.
    overrides: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    key: Key,
    host: Host,
}

impl Key {
    pub(crate) fn of(env: &Env, tools: &tools::Found, firmware: &firmware::Found) -> Result<Self, Error> {
        let paths = tools.all().into_iter().chain([firmware.code.as_path(), firmware.vars.as_path()]);
        Ok(Self {
            format: FORMAT,
            files: paths.map(stamp).collect::<Result<_, _>>()?,
            firmware: firmware.clone(),
            kernel: line(&env.place("/proc/sys/kernel/osrelease")),
            processor: processor(&env.place("/proc/cpuinfo")),
            kvm: Kvm::of(env),
            overrides: ["LATCHKEY_ACCELERATOR", "LATCHKEY_PROBE_SECONDS"]
                .into_iter()
                .filter_map(|name| Some(format!("{name}={}", env.get(name)?.to_string_lossy())))
                .collect(),
        })
    }
}

fn stamp(path: &Path) -> Result<Stamp, Error> {
    let meta = fs::metadata(path).map_err(Error::file("looking at", path))?;
    let ns = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Ok(Stamp {
        path: path.to_owned(),
        size: meta.size(),
        modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
        // Package managers restore the time of modification, but nobody can set this one.
        changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
    })
}

fn line(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn processor(cpuinfo: &Path) -> String {
    let text = fs::read_to_string(cpuinfo).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|l| l.trim_matches([' ', '\t', ':']).to_owned())
        .unwrap_or_default()
}

/// Lets one process probe at a time: the others wait, then find its answer.
pub(crate) fn turn(dir: &Path) -> Result<Lock, Error> {
    fs::create_dir_all(dir).map_err(Error::file("making the cache directory", dir))?;
    let waiting = || tracing::info!("another run probes this host; waiting for its answer");
    Ok(lock(&dir.join(LOCK), waiting)?)
}

/// The remembered answer, when it still holds. One that cannot be read counts as none.
pub(crate) fn recall(dir: &Path, key: &Key) -> Option<Host> {
    let text = fs::read(dir.join(FILE)).ok()?;
    let remembered: Remembered = serde_json::from_slice(&text).ok()?;
    (remembered.key == *key).then_some(remembered.host)
}

/// Remembers the answer, whole or not at all; for whoever has the [`turn`].
pub(crate) fn remember(dir: &Path, key: Key, host: &Host) -> Result<(), Error> {
    let path = dir.join(FILE);
    let remembered = Remembered { key, host: host.clone() };
    let write = || -> std::io::Result<()> {
        let part = dir.join(PART);
        fs::write(&part, serde_json::to_vec_pretty(&remembered)?)?;
        fs::rename(part, &path)
    };
    write().map_err(Error::file("remembering the probe's answer in", &path))
}
