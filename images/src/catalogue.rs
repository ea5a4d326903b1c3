//! Which images there are, and away with those that nothing makes any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::build::finished;
use crate::error::io;
use crate::packages::Versions;
use crate::stock::{STOCK, Stock};
use crate::{Cache, Error, Image, Pki, Progress, Recipe, Refresh, Silent, ensure_with};

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

/// The reference image `name`, built when the cache has none. It stays as long as `cache`, or a clone of it, is there.
///
/// # Errors
/// [`Error::UnknownRecipe`]; otherwise as [`crate::ensure_with`].
pub fn reference(
    name: &str,
    cache: &Cache,
    refresh: Refresh,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    cache.use_images(progress)?;
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
        Ok(Listed { name, title, built: look_up(name, cache)?.map(built) })
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
/// [`Error::InUse`] while a run has images, or there are machines, since each is an overlay over its image. Saved machines are
/// none of them: their names have their image's in them, so that whoever removes it never asks for them again.
pub fn prune(cache: &Cache, progress: &dyn Progress) -> Result<Vec<(PathBuf, u64)>, Error> {
    // Held to the end: whoever wants an image meanwhile waits, and finds what is left.
    let alone = cache.images_alone()?;
    let machines = directories(&cache.root().join("machines"))?;
    if alone.is_none() || !machines.is_empty() {
        return Err(Error::InUse { machines });
    }
    let mut locks = Vec::new();
    let mut wanted = BTreeSet::new();
    for name in names() {
        locks.push(cache.lock(name, progress)?);
        let image = look_up(name, cache)?;
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

/// The reference image `name` as it would be used now, if it is built; nothing is built for it. It stays as long as `cache`, or a
/// clone of it, is there.
///
/// # Errors
/// [`Error::UnknownRecipe`]; when the cache cannot be read.
pub fn current(name: &str, cache: &Cache) -> Result<Option<Image>, Error> {
    // Whoever only looks makes no cache.
    if cache.root().join("images").is_dir() {
        cache.use_images(&Silent)?;
    }
    look_up(name, cache)
}

/// As [`current`], of an image that may go away.
fn look_up(name: &str, cache: &Cache) -> Result<Option<Image>, Error> {
    if let Some(stock) = Stock::named(name) {
        return stock.finished(cache);
    }
    // Nothing was signed with keys that are not made yet.
    let Some(pki) = Pki::made(cache)? else { return Ok(None) };
    finished(&Recipe::named(name)?, cache, &pki)
}

/// The packages that `image` is made of and their versions, shim's among them. One that was unpacked over it out of a later
/// release has that one's version, and is left out where nobody knows it any more: the manifest has the version below it.
/// Empty for an image that no recipe made.
#[must_use]
pub fn package_versions(image: &Image, cache: &Cache) -> BTreeMap<String, String> {
    let Some(manifest) = &image.manifest else { return BTreeMap::new() };
    let Ok(recipe) = Recipe::named(&manifest.recipe) else { return BTreeMap::new() };
    let mut all = manifest.packages.clone();
    all.insert(recipe.spec.shim.package.clone(), manifest.shim.clone());
    if let Some(newer) = &recipe.spec.rootfs.newer {
        newer.packages.iter().for_each(|name| drop(all.remove(name)));
        // Those that are remembered are this image's where they lead to it.
        let versions = Versions::remembered(cache, &recipe);
        let leads_here = look_up(recipe.name, cache).ok().flatten().is_some_and(|now| now.path == image.path);
        all.extend(versions.filter(|_| leads_here).into_iter().flat_map(|versions| versions.newer));
    }
    all
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::mpsc;

    use super::*;
    use crate::{Layout, Manifest, Signing, Stage, Trust};

    /// A cache with the directory of an image that no recipe makes, and that directory.
    fn cache() -> (tempfile::TempDir, Cache, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let image = dir.path().join("images/earlier-0123456789abcdef");
        fs::create_dir_all(&image).unwrap();
        fs::write(image.join("disk.qcow2"), "disk").unwrap();
        (dir, cache, image)
    }

    fn in_use(cache: &Cache) -> Vec<PathBuf> {
        match prune(cache, &Silent) {
            Err(Error::InUse { machines }) => machines,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_no_recipe_makes_is_removed_when_nobody_uses_images() {
        let (dir, cache, image) = cache();
        let used = Cache::at(dir.path()).unwrap();
        assert!(current("rlc9-uki", &used).unwrap().is_none());
        // A run that began has no machine yet.
        let clone = used.clone();
        drop(used);
        assert!(in_use(&cache).is_empty() && image.is_dir());
        drop(clone);
        let machine = dir.path().join("machines/machine-1");
        fs::create_dir_all(&machine).unwrap();
        assert_eq!(in_use(&cache), std::slice::from_ref(&machine));
        fs::remove_dir(machine).unwrap();
        list(&cache).unwrap();
        // A process that another test starts has this one's files until it is another program.
        while cache.images_alone().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(prune(&cache, &Silent).unwrap(), [(image.clone(), 4)]);
        assert!(!image.exists());
    }

    #[test]
    fn who_wants_an_image_waits_for_those_that_are_being_removed() {
        let (_dir, cache, _) = cache();
        let alone = cache.images_alone().unwrap().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| cache.use_images(&Told(tell)));
            told.recv().unwrap();
            drop(alone);
            waiting.join().unwrap().unwrap();
        });
        assert!(cache.images_alone().unwrap().is_none());
    }

    /// Tells that somebody waits.
    struct Told(mpsc::Sender<()>);

    impl Progress for Told {
        fn report(&self, stage: Stage, _: &str, _: f64) {
            assert_eq!(stage, Stage::Waiting);
            self.0.send(()).unwrap();
        }
    }

    /// What lies over a package is none of the manifest's.
    #[test]
    fn versions_are_those_of_what_is_on_the_image() {
        let (dir, cache, _) = cache();
        let packages = [("grub-efi-amd64-bin", "2.12-9"), ("systemd", "257.13-1")];
        let of = |name: &str| {
            let recipe = Recipe::named(name).unwrap();
            let manifest = Manifest {
                recipe: name.to_owned(),
                title: String::new(),
                key: String::new(),
                built: String::new(),
                build_ms: 0,
                pki: String::new(),
                kernel: String::new(),
                command_line: String::new(),
                vendor: String::new(),
                uki: None,
                disk_bytes: 0,
                layout: Layout::new(recipe.spec.disk, ""),
                esp: BTreeMap::new(),
                shim: "16.1-2".to_owned(),
                packages: packages.map(|(name, version)| (name.to_owned(), version.to_owned())).into(),
            };
            let image = Image {
                name: name.to_owned(),
                like: None,
                path: dir.path().join("disk.qcow2"),
                format: latchkey_disk::Format::Qcow2,
                signing: Signing::Available,
                trust: Trust::Platform,
                uki: None,
                manifest: Some(manifest),
            };
            let own = Image { manifest: None, ..image.clone() };
            assert!(package_versions(&own, &cache).is_empty());
            let found = package_versions(&image, &cache);
            found.iter().map(|(name, is)| format!("{name} {is}")).collect::<Vec<_>>()
        };
        let all = ["grub-efi-amd64-bin 2.12-9", "shim-unsigned 16.1-2", "systemd 257.13-1"];
        assert_eq!(of("rlc10-grub"), all);
        assert_eq!(of("rlc10-bls"), all[1..], "its GRUB is that of a later release");
    }

    #[test]
    fn an_error_tells_who_uses_the_images() {
        let said = |machines| Error::InUse { machines }.to_string();
        assert!(said(vec![]).contains("wait for it"), "{}", said(vec![]));
        assert!(said(vec!["/m/one".into()]).contains("/m/one"));
    }
}
