//! A machine that is switched off: disk overlay, UEFI variables and TPM state, as one unit.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use latchkey_disk::{Format, Overlay};
use latchkey_host::Host;
use latchkey_record::pcr::HashAlg;
use latchkey_tpm::{TpmFacts, copy_state, manufacture};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::credential::Credential;
use crate::hardware::Hardware;
use crate::{Error, by_hand, ssh};

const DESCRIPTION: &str = "machine.json";
const DISK: &str = "disk.qcow2";
const VARIABLES: &str = "variables.fd";
/// The TPM's state directory, beside [`RUN`].
pub(crate) const TPM: &str = "tpm";
const KEY: &str = "ssh_key";
const PUBLIC_KEY: &str = "ssh_key.pub";
/// The SMBIOS string that lets the key in.
const ACCESS: &str = "ssh_access";
const RUN: &str = "run";
/// Goes up when an older version could not run what a newer one wrote.
const VERSION: u32 = 1;

/// What a new machine is made from.
#[derive(Debug, Clone)]
pub struct NewMachine<'a> {
    /// The image; never written to.
    pub base: &'a Path,
    /// Its format.
    pub format: Format,
    /// The firmware's variable store, as the platform delivers it.
    pub variables: &'a [u8],
    /// The TPM's active PCR banks.
    pub banks: &'a [HashAlg],
    /// The virtual hardware.
    pub hardware: Hardware,
}

/// A machine that is switched off. Only [`Machine::start`] makes it run, and takes it away meanwhile, so nobody
/// changes its files under a running guest.
#[derive(Debug)]
pub struct Machine {
    dir: PathBuf,
    hardware: Hardware,
    /// The directory of the saved machine that it was forked from.
    over: Option<PathBuf>,
}

/// The files of a machine that is switched off, for those who change them from outside.
#[derive(Debug)]
pub struct Offline<'a> {
    /// The overlay, in qcow2.
    pub disk: &'a Path,
    /// The UEFI variable store.
    pub variables: &'a Path,
    /// The TPM's state directory.
    pub tpm: &'a Path,
}

#[derive(Serialize, Deserialize)]
struct Description {
    version: u32,
    hardware: Hardware,
    #[serde(default)]
    over: Option<PathBuf>,
}

impl Machine {
    /// Makes a machine in `dir`, which is created (mode 0700) and must not hold anything yet: an empty overlay
    /// over the image, the given variables, a fresh TPM, and a key of its own for SSH.
    ///
    /// # Errors
    /// When a file cannot be written or a tool fails.
    pub fn create(host: &Host, dir: &Path, new: &NewMachine<'_>) -> Result<Self, Error> {
        let dir = fresh_directory(dir)?;
        Overlay::create(new.base, new.format, &dir.join(DISK))?;
        let variables = dir.join(VARIABLES);
        fs::write(&variables, new.variables)
            .map_err(Error::io("writing the variable store to", &variables))?;
        manufacture(&host.tools.swtpm.path, &dir.join(TPM), new.banks)?;
        ssh::make_key(&dir.join(KEY))?;
        let public = dir.join(PUBLIC_KEY);
        let public = fs::read_to_string(&public).map_err(Error::io("reading", &public))?;
        Credential::new("tmpfiles.extra", ssh::access(&public)).write(&dir.join(ACCESS))?;
        Self { dir, hardware: new.hardware.clone(), over: None }.described()
    }

    /// Opens the machine in `dir`, which [`Machine::create`] or [`Machine::copy`] made.
    ///
    /// # Errors
    /// [`Error::NoMachine`] when one of its parts is missing, [`Error::Io`] when one cannot be read.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        if !dir.try_exists().map_err(Error::io("looking for", dir))? {
            return Err(Error::NoMachine { dir: dir.to_owned(), problem: "it is not there".into() });
        }
        let dir = absolute(dir)?;
        let missing = |problem: String| Error::NoMachine { dir: dir.clone(), problem };
        let description: Description = told(&dir, DESCRIPTION)?;
        if description.version != VERSION {
            return Err(missing(format!("it has version {}", description.version)));
        }
        if let Some(part) = [DISK, VARIABLES, TPM, KEY, ACCESS].iter().find(|part| !dir.join(part).exists()) {
            return Err(missing(format!("{part} is missing")));
        }
        Ok(Self { dir, hardware: description.hardware, over: description.over })
    }

    /// Copies the whole machine to `to`, as [`Machine::create`] would make it: same disk, variables, TPM, key.
    /// Data that the file system can share are shared.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy(&self, to: &Path) -> Result<Self, Error> {
        let to = fresh_directory(to)?;
        self.copy_parts(&[DISK, VARIABLES, KEY, PUBLIC_KEY, ACCESS], &to)?;
        copy_state(&self.tpm(), &to.join(TPM))?;
        Self { dir: to, hardware: self.hardware.clone(), over: self.over.clone() }.described()
    }

    /// As [`Machine::copy`], with a disk that lies over this one's, which must not be written to any more.
    pub(crate) fn branch(&self, to: &Path) -> Result<Self, Error> {
        let to = fresh_directory(to)?;
        Overlay::create(&self.disk(), Format::Qcow2, &to.join(DISK))?;
        self.copy_parts(&[VARIABLES, KEY, PUBLIC_KEY, ACCESS], &to)?;
        copy_state(&self.tpm(), &to.join(TPM))?;
        Self { dir: to, hardware: self.hardware.clone(), over: Some(self.dir.clone()) }.described()
    }

    fn copy_parts(&self, parts: &[&str], to: &Path) -> Result<(), Error> {
        for part in parts {
            let line: Vec<OsString> = ["--reflink=auto", "--sparse=auto", "--preserve=mode", "--"]
                .map(OsString::from)
                .into_iter()
                .chain([self.dir.join(part).into(), to.join(part).into()])
                .collect();
            latchkey_supervise::run("cp", &line)?;
        }
        Ok(())
    }

    fn described(self) -> Result<Self, Error> {
        let description =
            Description { version: VERSION, hardware: self.hardware.clone(), over: self.over.clone() };
        let path = self.dir.join(DESCRIPTION);
        let text = serde_json::to_string_pretty(&description)
            .map_err(|e| Error::NoMachine { dir: self.dir.clone(), problem: e.to_string() })?;
        // Last, so that a directory with a description holds a whole machine.
        fs::write(&path, text).map_err(Error::io("writing", &path))?;
        Ok(self)
    }

    /// Its directory, absolute.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its virtual hardware.
    #[must_use]
    pub fn hardware(&self) -> &Hardware {
        &self.hardware
    }

    /// The same machine with other hardware.
    ///
    /// # Errors
    /// When its description cannot be written.
    pub fn with_hardware(self, hardware: Hardware) -> Result<Self, Error> {
        Self { hardware, ..self }.described()
    }

    /// Calls `change` with the machine's files. All three are there, since whoever changes one answers for its
    /// still fitting the others.
    pub fn offline<T>(&mut self, change: impl FnOnce(Offline<'_>) -> T) -> T {
        let (disk, variables, tpm) = (self.disk(), self.variables(), self.tpm());
        change(Offline { disk: &disk, variables: &variables, tpm: &tpm })
    }

    /// What its TPM would answer now; asked on a copy.
    ///
    /// # Errors
    /// As [`TpmFacts::read`].
    pub fn tpm_facts(&self, host: &Host) -> Result<TpmFacts, Error> {
        Ok(TpmFacts::read(&host.tools.swtpm.path, &self.tpm())?)
    }

    /// A shell script that starts the machine by hand, its console on the terminal.
    #[must_use]
    pub fn by_hand(&self, host: &Host) -> String {
        by_hand::script(self, host)
    }

    /// The directory of the saved machine that this one was forked from, if it was.
    pub(crate) fn over(&self) -> Option<&Path> {
        self.over.as_deref()
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.dir.join(DISK)
    }

    pub(crate) fn variables(&self) -> PathBuf {
        self.dir.join(VARIABLES)
    }

    pub(crate) fn tpm(&self) -> PathBuf {
        self.dir.join(TPM)
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join(KEY)
    }

    pub(crate) fn access(&self) -> PathBuf {
        self.dir.join(ACCESS)
    }

    /// Where sockets and the like lie while it runs.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.join(RUN)
    }

    /// An empty [`Machine::run_dir`], whatever an earlier, killed run left there.
    pub(crate) fn fresh_run_dir(&self) -> Result<PathBuf, Error> {
        let run = self.run_dir();
        match fs::remove_dir_all(&run) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("emptying", &run)(e)),
            _ => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&run).map_err(Error::io("creating", &run))?;
        Ok(run)
    }
}

fn fresh_directory(dir: &Path) -> Result<PathBuf, Error> {
    if dir.exists() && fs::read_dir(dir).map_err(Error::io("listing", dir))?.next().is_some() {
        let taken = std::io::Error::from(std::io::ErrorKind::DirectoryNotEmpty);
        return Err(Error::io("making a machine in", dir)(taken));
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::io("creating", dir))?;
    absolute(dir)
}

/// The directory's absolute path, which has to be UTF-8 to stand on QEMU's command line.
fn absolute(dir: &Path) -> Result<PathBuf, Error> {
    let dir = dir.canonicalize().map_err(Error::io("looking for", dir))?;
    if dir.to_str().is_none() {
        return Err(Error::NoMachine { dir, problem: "its path is not UTF-8".into() });
    }
    Ok(dir)
}
/// What the file `name` of the machine in `dir` says. One that is not there, or says something else, makes it no machine; that
/// it cannot be read just now says nothing of it.
pub(crate) fn told<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T, Error> {
    let none = |problem| Error::NoMachine { dir: dir.to_owned(), problem };
    let path = dir.join(name);
    let text = fs::read(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => none(format!("{name}: {error}")),
        _ => Error::io("reading", &path)(error),
    })?;
    serde_json::from_slice(&text).map_err(|error| none(format!("{name}: {error}")))
}
