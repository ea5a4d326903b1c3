//! Which images there are, and away with those that nothing makes any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::build::finished;
use crate::error::io;
use crate::{Cache, Error, Image, Pki, Progress, Recipe};

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

/// All reference images, and which of them are built.
///
/// # Errors
/// When a recipe or the cache cannot be read.
pub fn list(cache: &Cache, progress: &dyn Progress) -> Result<Vec<Listed>, Error> {
    let row = |name: &'static str| {
        let recipe = Recipe::named(name)?;
        let built = current(&recipe, cache, progress)?.map(|image| Built {
            bytes: image.path.parent().map_or(0, bytes),
            at: image.manifest.map(|manifest| manifest.built).unwrap_or_default(),
            path: image.path,
        });
        Ok(Listed { name, title: recipe.spec.title, built })
    };
    Recipe::names().into_iter().map(row).collect()
}

/// Removes finished images that no recipe makes any more, with these package versions, this builder and these keys;
/// gives their directories and sizes in bytes.
///
/// # Errors
/// [`Error::InUse`] while there are machines, since each is an overlay over its image.
pub fn prune(cache: &Cache, progress: &dyn Progress) -> Result<Vec<(PathBuf, u64)>, Error> {
    let machines = directories(&cache.root().join("machines"))?;
    if !machines.is_empty() {
        return Err(Error::InUse { machines });
    }
    let mut locks = Vec::new();
    let mut wanted = BTreeSet::new();
    for name in Recipe::names() {
        let recipe = Recipe::named(name)?;
        locks.push(cache.lock(name, progress)?);
        let image = current(&recipe, cache, progress)?;
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

fn current(recipe: &Recipe, cache: &Cache, progress: &dyn Progress) -> Result<Option<Image>, Error> {
    finished(recipe, cache, &Pki::ensure(cache, progress)?)
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
