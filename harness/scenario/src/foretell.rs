//! A forecast without a scenario: of a machine that was kept, or of the first boot of a machine made of an image.

use std::path::{Path, PathBuf};

use latchkey_disk::Access;
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, Image, Progress, reference};
use latchkey_machine::{Hardware, Machine, NewMachine};
use latchkey_record::{Forecast, HashAlg};
use latchkey_supervise::Scratch;

use crate::model::{Model, tpm_state};
use crate::session::new_variables;
use crate::{ModelError, SessionError};

/// Why nothing could be foretold.
#[derive(Debug, thiserror::Error)]
pub enum ForetellError {
    /// The host, the keys or the image.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The machine's files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The image is no usable disk.
    #[error(transparent)]
    Disk(#[from] latchkey_disk::open::Error),
    /// A scratch directory.
    #[error(transparent)]
    Supervise(#[from] latchkey_supervise::Error),
}

/// Forecasts the next boot of `subject`: the directory of a machine that is off, the name of a recipe, or a disk image
/// (qcow2, raw, fixed VHD), of which a machine is then made for as long as its files are read. Nothing is booted, and
/// nothing given is written to.
///
/// # Errors
/// [`ForetellError`] says what cannot be read, built or measured.
pub fn foretell(subject: &str, cache: &Cache, progress: &dyn Progress) -> Result<Forecast, ForetellError> {
    let host = Host::probe(cache.root(), Refresh::WhenStale).map_err(SessionError::from)?;
    let path = Path::new(subject);
    if path.is_dir() {
        let inner = path.join("machine");
        let dir = if inner.is_dir() { inner } else { path.to_owned() };
        let machine = Machine::open(&dir).map_err(ModelError::from)?;
        return of(machine, &host, cache);
    }
    let image = if path.is_file() {
        Image::from_user(path).map_err(SessionError::from)?
    } else {
        reference(subject, cache, latchkey_images::Refresh::No, progress).map_err(SessionError::from)?
    };
    let variables = new_variables(&host, image.trust, cache, progress)?;
    let machines: PathBuf = cache.root().join("machines");
    let scratch = Scratch::new(&machines, "forecast-")?;
    let new = NewMachine {
        base: &image.path,
        format: latchkey_disk::format::detect(&image.path).map_err(latchkey_disk::open::Error::from)?,
        variables: &variables,
        banks: &[HashAlg::Sha256],
        hardware: Hardware::default(),
    };
    let machine = Machine::create(&host, &scratch.path().join("machine"), &new).map_err(ModelError::from)?;
    of(machine, &host, cache)
}

fn of(mut machine: Machine, host: &Host, cache: &Cache) -> Result<Forecast, ForetellError> {
    let tpm = tpm_state(host, &machine)?;
    let read = |files: latchkey_machine::Offline<'_>| std::fs::read(files.variables);
    let variables = machine.offline(read).map_err(|source| ModelError::File {
        doing: "reading the variables of",
        path: machine.dir().to_owned(),
        source,
    })?;
    let platform = cache.root().join("platform");
    let model = Model::new(host, machine.hardware(), &variables, &tpm.banks, &platform)?;
    Ok(machine.offline(|files| model.forecast(&files, Access::ReadOnly, &tpm))?)
}
