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
use crate::inputs::{Inputs, content, identity, own_name, stamp};
use crate::plan::Plan;
use crate::sharing::Sharing;
use crate::step::Artefact;
use crate::store::{Forks, Store, Verdicts, build};
use crate::variables::Variables;

mod directory;
mod once;
mod shared;
mod versions;

use directory::own_directory;
use once::Once;

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
    /// Or why it cannot be had.
    another_vm: Option<Result<AnotherVm, String>>,
    at_once: usize,
    /// What runs the machines, by content; known once it was asked for.
    programs: OnceLock<String>,
    /// Reference images by name, as they were when the run first asked for them: what is refreshed meanwhile is the next run's.
    images: Once<Image>,
    /// The content of those that the run has to do with, by path.
    contents: Once<String>,
    /// What decides over outcomes of those that rows ran on, by name.
    versions: Once<BTreeMap<String, String>>,
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
            images: Once::default(),
            contents: Once::default(),
            versions: Once::default(),
        })
    }

    /// With room for so many rows at once, or as many as are usual: those of all runs on this computer count.
    #[must_use]
    pub fn with_jobs(self, at_once: usize) -> Self {
        Self { at_once: at_once.max(jobs(None)), ..self }
    }

    /// With another VM for the disks of `scenarios`, if one of them has a step that needs it: one made of the stock image
    /// [`AnotherVm::IMAGE`], which is built when the cache has none. Where it cannot be had, the rows that need it tell why, and
    /// the others are run.
    #[must_use]
    pub fn with_another_vm<'a>(
        self,
        scenarios: impl IntoIterator<Item = &'a Scenario>,
        progress: &dyn Progress,
    ) -> Self {
        if !scenarios.into_iter().any(Scenario::needs_another_vm) {
            return self;
        }
        let another_vm = self.make_another_vm(progress).map_err(|error| error.to_string());
        Self { another_vm: Some(another_vm), ..self }
    }

    fn make_another_vm(&self, progress: &dyn Progress) -> Result<AnotherVm, SessionError> {
        let image = self.image(AnotherVm::IMAGE, progress)?;
        let variables = new_variables(&self.host, image.trust, &self.cache, progress)?;
        let content = self.content(&image)?;
        let inputs = self.inputs(&image, content.as_deref(), &variables)?;
        Ok(AnotherVm::new(image, variables, &inputs))
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

    /// The reference image `name`, built when the cache has none: the same one as long as the session lasts.
    ///
    /// # Errors
    /// When there is no such image, or it cannot be built.
    pub fn image(&self, name: &str, progress: &dyn Progress) -> Result<Image, SessionError> {
        let build = || reference(name, &self.cache, latchkey_images::Refresh::No, progress);
        Ok(self.images.get(name, build)?)
    }

    /// Where reference images lie.
    fn images_dir(&self) -> PathBuf {
        self.cache.root().join("images")
    }

    /// The content of a reference image; `None` for a user's, which may be a device, or change.
    fn content(&self, image: &Image) -> Result<Option<String>, SessionError> {
        if own_name(&image.path, &self.images_dir()).is_none() {
            return Ok(None);
        }
        let find = || {
            let artefacts =
                image.artefacts().iter().map(|name| image.artefact(name)).collect::<Result<Vec<_>, _>>()?;
            content(&image.path, &artefacts).map_err(file("hashing", &image.path))
        };
        self.contents.get(&image.path.to_string_lossy(), find).map(Some)
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
        // What nobody shares needs no name of its own.
        let (content, inputs) = match sharing {
            Some(_) => {
                let content = self.content(image)?;
                let inputs = self.inputs(image, content.as_deref(), &variables)?;
                (content, inputs)
            }
            None => (None, String::new()),
        };
        Ok(Context {
            sharing,
            inputs,
            host: &self.host,
            image,
            identity: identity(&image.path, &self.images_dir(), content.as_deref())
                .map_err(file("looking at", &image.path))?,
            pki: &self.pki,
            variables,
            platform: self.cache.root().join("platform"),
            machines: self.cache.root().join("machines"),
            artefacts: self.artefacts.clone(),
            results: self.results.clone(),
            another_vm: self.another_vm.as_ref().and_then(|vm| vm.as_ref().ok()),
            why_no_other_vm: self.another_vm.as_ref().and_then(|vm| vm.as_ref().err()).map(String::as_str),
            keep,
            at_once: self.at_once,
            reproduce,
            today: today(),
        })
    }

    /// Everything besides scenario and harness that a verdict on `image`, of this `content`, depends on.
    fn inputs(&self, image: &Image, content: Option<&str>, variables: &[u8]) -> Result<String, SessionError> {
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
            stamp: stamp(&image.path, content, &self.results).map_err(file("looking at", &image.path))?,
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
            images: self.versions_of(&scenarios),
            scenarios,
            left_out: Vec::new(),
            took_ms,
        }
    }
}

/// The harness' version, and which build of it: verdicts hang on that.
#[must_use]
pub fn harness() -> String {
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

/// The day, in UTC.
#[must_use]
pub fn today() -> Day {
    let now = time::OffsetDateTime::now_utc();
    let year = u16::try_from(now.year()).unwrap_or_default();
    Day::new(year, now.month().into(), now.day()).unwrap_or(Day::LAST)
}
