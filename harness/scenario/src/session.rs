//! What every scenario of a run shares: the host, the test keys, a new machine's variables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use latchkey_host::{Firmware, Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Image, Pki, Progress, Trust, reference, variables};
use latchkey_measure::hash::digest;
use latchkey_record::results::SCHEMA;
use latchkey_record::{Day, HashAlg, RunResults, ScenarioResult};

use crate::another_vm::AnotherVm;
use crate::context::{Context, Keep};
use crate::file::Scenario;
use crate::inputs::{Inputs, identity, stamp};
use crate::plan::Plan;
use crate::sharing::Sharing;
use crate::step::Artefact;
use crate::store::{Forks, Store, Verdicts, build};
use crate::variables::Variables;

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The host cannot run machines, or could not be looked at.
    #[error(transparent)]
    Host(#[from] latchkey_host::Error),
    /// Keys, certificates or images.
    #[error(transparent)]
    Images(#[from] latchkey_images::Error),
    /// An image is for firmware with Microsoft's keys, and the firmware's package has no variables with them.
    #[error(
        "there is no variable store with Microsoft's keys beside {}: install the one that Debian's package `ovmf` calls \
         OVMF_VARS_4M.ms.fd, or name a store with --variables", .beside.display()
    )]
    NoKeys {
        /// The store without keys.
        beside: PathBuf,
    },
    /// The user's variables are none that this firmware can use.
    #[error("these are no UEFI variables for {}: {why}", .firmware.display())]
    Variables {
        /// The firmware.
        firmware: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// The place for saved machines.
    #[error(transparent)]
    Store(Box<crate::Error>),
    /// A file or directory.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SessionError {
    let path = path.to_owned();
    move |source| SessionError::File { doing, path, source }
}

/// How many machines run at once: as many as the user wishes, or one more than there are processors, each of which keeps one
/// busy. A quarter of the time a machine waits for its countdown, its disk or for who talks to it.
#[must_use]
pub fn jobs(wish: Option<usize>) -> usize {
    wish.unwrap_or(std::thread::available_parallelism().map_or(1, usize::from) + 1).max(1)
}

/// What every scenario of a run shares.
#[derive(Debug)]
pub struct Session {
    cache: Cache,
    host: Host,
    pki: Pki,
    name: String,
    results: PathBuf,
    artefacts: BTreeMap<Artefact, PathBuf>,
    /// What the user hands in for every new machine.
    variables: Option<Vec<u8>>,
    store: Option<Store>,
    plan: Plan,
    verdicts: Verdicts,
    forks: Forks,
    another_vm: Option<AnotherVm>,
    at_once: usize,
    /// What runs the machines, by content; known once it was asked for.
    programs: OnceLock<String>,
}

impl Session {
    /// Looks at the host, makes what is missing in the cache, and makes a directory for the run under `results`.
    ///
    /// # Errors
    /// When the host cannot run machines, or something cannot be fetched or written.
    pub fn begin(cache: Cache, results: &Path, progress: &dyn Progress) -> Result<Self, SessionError> {
        let session = Self::look(cache, results, progress)?;
        fs::create_dir_all(results).map_err(file("making", results))?;
        let root = results.canonicalize().map_err(file("looking for", results))?;
        let (name, results) = own_directory(&root)?;
        Ok(Self { name, results, ..session })
    }

    /// As [`Session::begin`], for what is not a run: without a directory for one.
    ///
    /// # Errors
    /// As there.
    pub fn look(cache: Cache, results: &Path, progress: &dyn Progress) -> Result<Self, SessionError> {
        let host = Host::probe(cache.root(), Refresh::WhenStale)?;
        let pki = Pki::ensure(&cache, progress)?;
        Ok(Self {
            cache,
            host,
            pki,
            name: String::new(),
            results: results.to_owned(),
            artefacts: BTreeMap::new(),
            variables: None,
            store: None,
            plan: Plan::default(),
            verdicts: Verdicts::default(),
            forks: Forks::default(),
            another_vm: None,
            at_once: jobs(None),
            programs: OnceLock::new(),
        })
    }

    /// With rows that share what `plan` finds in common, and verdicts that are used again.
    ///
    /// # Errors
    /// When the cache has no place for saved machines.
    pub fn with_sharing(self, plan: Plan, forks: Forks, verdicts: Verdicts) -> Result<Self, SessionError> {
        let store = Store::open(self.cache.root(), verdicts).map_err(|e| SessionError::Store(Box::new(e)))?;
        let plan = if forks == Forks::Yes { plan } else { Plan::default() };
        Ok(Self { store: Some(store), plan, verdicts, forks, ..self })
    }

    /// With so many rows at once, unless others are at it as well: those of all runs on this computer count.
    #[must_use]
    pub fn with_jobs(self, at_once: usize) -> Self {
        Self { at_once, ..self }
    }

    /// With another VM for the disks of `scenarios`, if one of them has a step that needs it: one made of the stock image
    /// [`AnotherVm::IMAGE`], which is built when the cache has none.
    ///
    /// # Errors
    /// When that image cannot be built.
    pub fn with_another_vm<'a>(
        self,
        scenarios: impl IntoIterator<Item = &'a Scenario>,
        progress: &dyn Progress,
    ) -> Result<Self, SessionError> {
        if !scenarios.into_iter().any(Scenario::needs_another_vm) {
            return Ok(self);
        }
        let image = self.image(AnotherVm::IMAGE, progress)?;
        let variables = new_variables(&self.host, image.trust, &self.cache, progress)?;
        let inputs = self.inputs(&image, &variables)?;
        Ok(Self { another_vm: Some(AnotherVm::new(image, variables, &inputs)), ..self })
    }

    /// With artefacts that the user hands in, instead of those that are made.
    #[must_use]
    pub fn with_artefacts(self, artefacts: BTreeMap<Artefact, PathBuf>) -> Self {
        Self { artefacts, ..self }
    }

    /// With machines on this firmware instead of the host's.
    #[must_use]
    pub fn with_firmware(mut self, firmware: Firmware) -> Self {
        self.host.firmware = firmware;
        self
    }

    /// With UEFI variables that the user hands in, instead of those that go with an image.
    ///
    /// # Errors
    /// [`SessionError::Variables`] when they are none for this firmware.
    pub fn with_variables(self, variables: &Variables) -> Result<Self, SessionError> {
        let (variables, _) = variables.for_host(&self.host, &[])?;
        Ok(Self { variables: Some(variables), ..self })
    }

    /// The reference image `name`, built when the cache has none.
    ///
    /// # Errors
    /// When there is no such image, or it cannot be built.
    pub fn image(&self, name: &str, progress: &dyn Progress) -> Result<Image, SessionError> {
        Ok(reference(name, &self.cache, latchkey_images::Refresh::No, progress)?)
    }

    /// What a scenario runs on with `image`.
    ///
    /// # Errors
    /// When there are no variables for its machine.
    pub fn context<'a>(
        &'a self,
        image: &'a Image,
        keep: Keep,
        reproduce: String,
        progress: &dyn Progress,
    ) -> Result<Context<'a>, SessionError> {
        let variables = match &self.variables {
            Some(variables) => variables.clone(),
            None => new_variables(&self.host, image.trust, &self.cache, progress)?,
        };
        let sharing = self.store.as_ref();
        let sharing = sharing.map(|store| Sharing {
            store,
            plan: &self.plan,
            verdicts: self.verdicts,
            forks: self.forks,
        });
        Ok(Context {
            sharing,
            inputs: self.inputs(image, &variables)?,
            host: &self.host,
            image,
            identity: identity(&image.path, &self.cache.root().join("images"))
                .map_err(file("looking at", &image.path))?,
            pki: &self.pki,
            variables,
            platform: self.cache.root().join("platform"),
            machines: self.cache.root().join("machines"),
            artefacts: self.artefacts.clone(),
            results: self.results.clone(),
            another_vm: self.another_vm.as_ref(),
            keep,
            at_once: self.at_once,
            reproduce,
            today: today(),
        })
    }

    /// Everything besides scenario and harness that a verdict on `image` depends on.
    fn inputs(&self, image: &Image, variables: &[u8]) -> Result<String, SessionError> {
        let programs = match self.programs.get() {
            Some(known) => known.clone(),
            None => self.host.tools.fingerprint()?,
        };
        let artefacts = self.artefacts.iter().map(|(artefact, path)| {
            let bytes = fs::read(path).map_err(file("reading", path))?;
            Ok((artefact.name().to_owned(), digest(HashAlg::Sha256, &bytes).to_string()))
        });
        let inputs = Inputs {
            accelerator: self.host.accelerator.to_string(),
            processor: self.host.accelerator.processor(),
            programs: self.programs.get_or_init(|| programs).clone(),
            firmware: self.host.firmware.code_sha256.clone(),
            image: image.path.display().to_string(),
            stamp: stamp(&image.path, &self.cache.root().join("images"), &self.results)
                .map_err(file("looking at", &image.path))?,
            keys: self.pki.fingerprint(),
            variables: digest(HashAlg::Sha256, variables).to_string(),
            like: image.like.clone(),
            artefacts: artefacts.collect::<Result<_, SessionError>>()?,
        };
        Ok(inputs.text())
    }

    /// Saved machines and verdicts, when rows share.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The run's directory, absolute.
    #[must_use]
    pub fn results(&self) -> &Path {
        &self.results
    }

    /// The run as one record.
    #[must_use]
    pub fn report(&self, scenarios: Vec<ScenarioResult>, took_ms: u64) -> RunResults {
        let tools = &self.host.tools;
        let firmware = self.host.firmware.version.as_deref().unwrap_or("of unknown version");
        RunResults {
            schema: SCHEMA.into(),
            run: self.name.clone(),
            harness: harness(),
            host: format!(
                "{}, QEMU {}, OVMF {firmware}, swtpm {}",
                self.host.accelerator, tools.qemu.version, tools.swtpm.version
            ),
            scenarios,
            left_out: Vec::new(),
            took_ms,
        }
    }
}

/// The harness' version, and which build of it: verdicts hang on that.
fn harness() -> String {
    static KNOWN: OnceLock<String> = OnceLock::new();
    let version = env!("CARGO_PKG_VERSION");
    let told = || build().map_or_else(|_| version.to_owned(), |build| format!("{version}, build {build}"));
    KNOWN.get_or_init(told).clone()
}

/// A new machine's UEFI variables, Secure Boot on.
pub(crate) fn new_variables(
    host: &Host,
    trust: Trust,
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Vec<u8>, SessionError> {
    let template = &host.firmware.vars_template;
    match trust {
        Trust::Platform => {
            let template = fs::read(template).map_err(file("reading", template))?;
            let pki = Pki::ensure(cache, progress)?;
            Ok(variables(&pki, &FirmwareCas::ensure(cache, progress)?, &template)?)
        }
        Trust::Microsoft => {
            let enrolled = host.firmware.enrolled_variables();
            let enrolled = enrolled.ok_or_else(|| SessionError::NoKeys { beside: template.clone() })?;
            fs::read(&enrolled).map_err(file("reading", &enrolled))
        }
    }
}

/// A directory below `root` that no other run has, and its name.
fn own_directory(root: &Path) -> Result<(String, PathBuf), SessionError> {
    let base = run_name();
    let mut name = base.clone();
    let mut number = 1;
    loop {
        let path = root.join(&name);
        match fs::create_dir(&path) {
            // Two runs of one process may begin in the same second.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                number += 1;
                name = format!("{base}-{number}");
            }
            made => return made.map(|()| (name, path.clone())).map_err(file("making", &path)),
        }
    }
}

/// The day, in UTC.
#[must_use]
pub fn today() -> Day {
    let now = time::OffsetDateTime::now_utc();
    let year = u16::try_from(now.year()).unwrap_or_default();
    Day::new(year, now.month().into(), now.day()).unwrap_or(Day::LAST)
}

/// The start in UTC, and the process id, which keeps two runs that begin in the same second apart.
fn run_name() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (date, time) = (now.date(), now.time());
    format!(
        "{:04}{:02}{:02}-{:02}{:02}{:02}-{:x}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second(),
        std::process::id()
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;

    #[test]
    fn runs_that_begin_at_once_have_directories_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let names: BTreeSet<String> = (0..5).map(|_| super::own_directory(root.path()).unwrap().0).collect();
        assert_eq!(names.len(), 5);
    }
}
