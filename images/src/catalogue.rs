//! Which images there are, and away with those that nothing makes any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::build::finished;
use crate::error::io;
use crate::stock::{STOCK, Stock};
use crate::{Cache, Error, Image, Pki, Progress, Recipe, Refresh, ensure_with};

/// A reference image, built or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The recipe's name.
    pub name: &'static str,
    /// What it is, in one line.
    pub title: String,
    /// The finished image, if there is one.
    pub built: Option<Built>,
}

/// Where a finished image lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Built {
    /// The disk.
    pub path: PathBuf,
    /// When it was built, RFC 3339.
    pub at: String,
    /// Bytes on disk, artefacts included.
    pub bytes: u64,
}

/// The names of all reference images.
#[must_use]
pub fn names() -> Vec<&'static str> {
    Recipe::names().into_iter().chain(STOCK.iter().map(|stock| stock.name)).collect()
}

/// The reference image `name`, built when the cache has none.
///
/// # Errors
/// [`Error::UnknownRecipe`]; otherwise as [`crate::ensure_with`].
pub fn reference(
    name: &str,
    cache: &Cache,
    refresh: Refresh,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    if let Some(stock) = Stock::named(name) {
        return stock.ensure(cache, refresh, progress);
    }
    ensure_with(&Recipe::named(name)?, cache, refresh, progress)
}

/// All reference images, and which of them are built.
///
/// # Errors
/// When a recipe or the cache cannot be read.
pub fn list(cache: &Cache) -> Result<Vec<Listed>, Error> {
    let row = |name: &'static str| {
        let title = match Stock::named(name) {
            Some(stock) => stock.title.to_owned(),
            None => Recipe::named(name)?.title.to_owned(),
        };
        Ok(Listed { name, title, built: current(name, cache)?.map(built) })
    };
    names().into_iter().map(row).collect()
}

fn built(image: Image) -> Built {
    let written = || {
        let modified = fs::metadata(&image.path).and_then(|disk| disk.modified()).ok()?;
        OffsetDateTime::from(modified).format(&Rfc3339).ok()
    };
    let at = image.manifest.as_ref().map(|manifest| manifest.built.clone()).or_else(written);
    Built { at: at.unwrap_or_default(), bytes: image.path.parent().map_or(0, bytes), path: image.path }
}

/// Removes finished images that no recipe makes any more, with these package versions, this builder and these keys;
/// gives their directories and sizes in bytes.
///
/// # Errors
/// [`Error::InUse`] while machines run, since each is an overlay over its image. Saved machines are none of them: their names
/// have their image's in them, so that whoever removes it never asks for them again.
pub fn prune(cache: &Cache, progress: &dyn Progress) -> Result<Vec<(PathBuf, u64)>, Error> {
    let machines = directories(&cache.root().join("machines"))?;
    if !machines.is_empty() {
        return Err(Error::InUse { machines });
    }
    let mut locks = Vec::new();
    let mut wanted = BTreeSet::new();
    for name in names() {
        locks.push(cache.lock(name, progress)?);
        let image = current(name, cache)?;
        wanted.extend(image.and_then(|image| image.path.parent().map(Path::to_owned)));
    }
    let mut removed = Vec::new();
    for dir in directories(&cache.root().join("images"))?.into_iter().filter(|dir| !wanted.contains(dir)) {
        let size = bytes(&dir);
        fs::remove_dir_all(&dir).map_err(io("removing", &dir))?;
        removed.push((dir, size));
    }
    Ok(removed)
}

/// The reference image `name` as it would be used now, if it is built; nothing is built for it.
///
/// # Errors
/// [`Error::UnknownRecipe`]; when the cache cannot be read.
pub fn current(name: &str, cache: &Cache) -> Result<Option<Image>, Error> {
    if let Some(stock) = Stock::named(name) {
        return stock.finished(cache);
    }
    // Nothing was signed with keys that are not made yet.
    let Some(pki) = Pki::made(cache)? else { return Ok(None) };
    finished(&Recipe::named(name)?, cache, &pki)
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(parent) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(io("listing", parent))?,
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => bytes(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}
