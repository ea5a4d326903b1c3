//! What every scenario of a run shares: the host, the test keys, a new machine's variables.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use latchkey_disk::VarStore;
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Image, Pki, Progress, Trust, reference, variables};
use latchkey_record::RunResults;
use latchkey_record::ScenarioResult;
use latchkey_record::results::SCHEMA;

use crate::context::{Context, Keep};
use crate::step::Artefact;

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
}

impl Session {
    /// Looks at the host, makes what is missing in the cache, and makes a directory for the run under `results`.
    ///
    /// # Errors
    /// When the host cannot run machines, or something cannot be fetched or written.
    pub fn begin(cache: Cache, results: &Path, progress: &dyn Progress) -> Result<Self, SessionError> {
        let host = Host::probe(cache.root(), Refresh::WhenStale)?;
        let pki = Pki::ensure(&cache, progress)?;
        fs::create_dir_all(results).map_err(file("making", results))?;
        let root = results.canonicalize().map_err(file("looking for", results))?;
        let name = run_name();
        let results = root.join(&name);
        fs::create_dir(&results).map_err(file("making", &results))?;
        Ok(Self { cache, host, pki, name, results, artefacts: BTreeMap::new(), variables: None })
    }

    /// With artefacts that the user hands in, instead of those that are made.
    #[must_use]
    pub fn with_artefacts(self, artefacts: BTreeMap<Artefact, PathBuf>) -> Self {
        Self { artefacts, ..self }
    }

    /// With UEFI variables that the user hands in, a whole variable store, instead of those that go with an image.
    ///
    /// # Errors
    /// [`SessionError::Variables`] when they are none, or none for this firmware.
    pub fn with_variables(self, variables: Vec<u8>) -> Result<Self, SessionError> {
        let wrong = |why| SessionError::Variables { firmware: self.host.firmware.code.clone(), why };
        VarStore::parse(&variables).map_err(|e| wrong(e.to_string()))?;
        let (has, wants) = (variables.len() as u64, self.host.firmware.vars_size);
        if has != wants {
            return Err(wrong(format!("they take {has} bytes of flash, and it has {wants}")));
        }
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
        Ok(Context {
            host: &self.host,
            image,
            pki: &self.pki,
            variables,
            platform: self.cache.root().join("platform"),
            machines: self.cache.root().join("machines"),
            artefacts: self.artefacts.clone(),
            results: self.results.clone(),
            keep,
            reproduce,
        })
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
            harness: env!("CARGO_PKG_VERSION").to_owned(),
            host: format!(
                "{}, QEMU {}, OVMF {firmware}, swtpm {}",
                self.host.accelerator, tools.qemu.version, tools.swtpm.version
            ),
            scenarios,
            took_ms,
        }
    }
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
