//! Building an image, or finding it built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use latchkey_supervise::Scratch;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::boot_files::{self, BootFiles};
use crate::drive::{self, Layout};
use crate::error::{io, tool};
use crate::image::{ARTEFACTS, DISK, MANIFEST};
use crate::mirror::Mirror;
use crate::packages::{self, Apt, Versions};
use crate::progress::begin;
use crate::recipe::OtherShim;
use crate::{Cache, Error, FirmwareCas, Image, Manifest, Pki, Progress, Recipe, Stage, system};

/// A source of this crate: its file, and its text.
macro_rules! source {
    ($file:literal) => {
        ($file, include_str!($file))
    };
}
/// The builder's own sources: whatever changes in them may make something else of the same inputs, and a stale image
/// is worse than one built once more. What changes elsewhere (signing, certificate files) raises `BUILDER`.
const SOURCES: [(&str, &str); 9] = [
    source!("boot_files.rs"),
    source!("build.rs"),
    source!("drive.rs"),
    source!("drive/xfs.rs"),
    source!("esp.rs"),
    source!("fat.rs"),
    source!("recipe.rs"),
    source!("system.rs"),
    source!("uki.rs"),
];
/// Raised when a crate below makes something else of the same inputs.
pub(crate) const BUILDER: &str = concat!(env!("CARGO_PKG_VERSION"), "/1");
/// Whether package versions are looked up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Refresh {
    /// Versions as they were resolved last: fast, no network, the same image as before.
    #[default]
    No,
    /// Ask the archive; newer packages make a new image.
    Yes,
}

/// The image of `recipe`, built when the cache has none.
///
/// # Errors
/// [`Error`] with what was being done; a failed or interrupted build leaves nothing in the cache but packages.
pub fn ensure(recipe: &Recipe, cache: &Cache, progress: &dyn Progress) -> Result<Image, Error> {
    ensure_with(recipe, cache, Refresh::No, progress)
}

/// As [`ensure`], with a say in whether package versions are looked up again.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_with(
    recipe: &Recipe,
    cache: &Cache,
    refresh: Refresh,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let pki = Pki::ensure(cache, progress)?;
    if refresh == Refresh::No
        && let Some(image) = finished(recipe, cache, &pki)?
    {
        return Ok(image);
    }
    // Whoever has an image also wants a firmware to boot it, offline too.
    FirmwareCas::ensure(cache, progress)?;
    let _lock = cache.lock(recipe.name, progress)?;
    // Whoever held the lock may have built it.
    if refresh == Refresh::No
        && let Some(image) = finished(recipe, cache, &pki)?
    {
        return Ok(image);
    }
    build(recipe, cache, &pki, refresh, progress).map_err(|e| cache.explain(e))
}

/// The packages in `archives` under their names in `own`, a directory that is made on the same file system.
fn linked(archives: &Path, own: &Path) -> Result<PathBuf, Error> {
    fs::create_dir(own).map_err(io("making", own))?;
    for entry in fs::read_dir(archives).map_err(io("listing", archives))?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "deb") {
            let link = own.join(entry.file_name());
            fs::hard_link(entry.path(), &link).map_err(io("making", &link))?;
        }
    }
    Ok(own.to_owned())
}

/// The finished image for the versions that were built last.
pub(crate) fn finished(recipe: &Recipe, cache: &Cache, pki: &Pki) -> Result<Option<Image>, Error> {
    let versions = Versions::remembered(cache, recipe);
    versions.map_or(Ok(None), |versions| finished_of(recipe, cache, pki, &versions))
}

/// The finished image for these versions.
fn finished_of(
    recipe: &Recipe,
    cache: &Cache,
    pki: &Pki,
    versions: &Versions,
) -> Result<Option<Image>, Error> {
    let dir = cache.root().join("images").join(directory(recipe, &key(recipe, pki, versions)));
    if !dir.join(MANIFEST).is_file() {
        return Ok(None);
    }
    let image = Image::open(&dir)?;
    let whole = image.manifest.as_ref().map(|manifest| manifest.disk_bytes);
    if fs::metadata(&image.path).ok().map(|disk| disk.len()) == whole {
        return Ok(Some(image));
    }
    tracing::warn!(image = %image.path.display(), "this image is damaged and will be built again");
    Ok(None)
}

fn key(recipe: &Recipe, pki: &Pki, versions: &Versions) -> String {
    let mut hash = Sha256::new();
    let packages = versions.system.iter().map(|(name, version)| format!("{name} {version}\n"));
    for part in [BUILDER, recipe.name, &recipe.digest(), &pki.fingerprint(), &versions.shim] {
        hash.update(format!("{part}\n"));
    }
    packages.for_each(|line| hash.update(line));
    let others = versions.other_shims.iter().chain(&versions.newer);
    others.for_each(|(name, version)| hash.update(format!("{name} {version}\n")));
    SOURCES.iter().for_each(|(_, text)| hash.update(text));
    hex::encode(hash.finalize())
}

fn directory(recipe: &Recipe, key: &str) -> String {
    format!("{}-{}", recipe.name, &key[..16])
}

fn build(
    recipe: &Recipe,
    cache: &Cache,
    pki: &Pki,
    refresh: Refresh,
    progress: &dyn Progress,
) -> Result<Image, Error> {
    let started = Instant::now();
    // What cannot work is said before anything is fetched.
    let mode = system::Mode::here()?;
    cache.check_room()?;
    let mirror = Mirror::of_host(Path::new("/etc/apt"))?;
    let spec = &recipe.spec;
    let turn = packages::turn(cache, progress)?;
    let apt = Apt::new(cache, &mirror, &spec.rootfs.suite)?;
    let shims = Shims::new(recipe, cache, &mirror)?;
    let mut versions = match Versions::remembered(cache, recipe).filter(|_| refresh == Refresh::No) {
        Some(versions) => versions,
        None => resolve(recipe, &apt, &shims, progress)?,
    };
    // Versions are remembered once there is an image of them: until then, and if it never comes to that, the one before is
    // the good one.
    let built = |versions: &Versions| {
        let image = finished_of(recipe, cache, pki, versions)?;
        if image.is_some() {
            versions.remember(cache, recipe)?;
        }
        Ok::<_, Error>(image)
    };
    if let Some(image) = built(&versions)? {
        return Ok(image);
    }

    let scratch = Scratch::new(&cache.dir("work")?, "build-").map_err(tool("making a work directory"))?;
    let work = scratch.path();
    begin(progress, Stage::Download, "fetching packages");
    let shim_dir = work.join("shim");
    let fetch = |versions: &Versions| {
        // What an earlier attempt with other versions left must not lie below this one's.
        for dir in [shim_dir.clone(), work.join(OTHER_SHIMS), work.join(system::NEWER)] {
            if dir.exists() {
                fs::remove_dir_all(&dir).map_err(io("removing", &dir))?;
            }
        }
        shims.unpack(recipe, versions, &shim_dir)?;
        shims.unpack_newer(versions, &work.join(system::NEWER))?;
        apt.download_all(&spec.rootfs.packages)
    };
    let archives = match fetch(&versions) {
        Err(e) if !e.is_interrupt() => {
            // The archive has no versions but the newest: what was resolved long ago may be gone.
            tracing::info!("resolving again, since fetching failed: {e}");
            versions = resolve(recipe, &apt, &shims, progress)?;
            if let Some(image) = built(&versions)? {
                return Ok(image);
            }
            fetch(&versions)?
        }
        fetched => fetched?,
    };
    // What another build fetches or forgets meanwhile is nothing to this one.
    let archives = linked(&archives, &work.join("archives"))?;
    drop(turn);

    let system = system::install(recipe, &apt, &archives, work, mode, progress)?;
    let installed = read_packages(&system.boot.join("packages"))?;
    if installed != versions.system {
        // The archive moved on between asking and installing: the image is named for what is in it.
        versions.system = installed;
        if let Some(image) = built(&versions)? {
            return Ok(image);
        }
    }
    let key = key(recipe, pki, &versions);

    begin(progress, Stage::Boot, "building and signing boot files");
    let out = work.join("image");
    let artefacts = out.join(ARTEFACTS);
    fs::create_dir_all(&artefacts).map_err(io("making", &artefacts))?;
    let layout = Layout::new(spec.disk, &key);
    let boot = BootFiles::make(recipe, pki, &system.boot, &shim_dir.join("usr/lib/shim"), &layout)?;
    boot.check()?;
    boot_files::keep_other_shims(recipe, pki, &work.join(OTHER_SHIMS), &artefacts)?;
    let files = boot.esp(recipe);

    begin(progress, Stage::Disk, "making file systems");
    let raw = work.join("disk.raw");
    layout.write(&raw, &files)?;
    if let (Some((place, uuid)), Some(kernels)) = (layout.boot, boot.kernels()) {
        let file_system = spec.disk.boot_filesystem;
        drive::write_kernels(&raw, place, uuid, file_system, &kernels, &work.join("boot-partition"))?;
    }
    system.into_ext4(&raw, layout.root.start, spec.disk.root_filesystem, layout.root_uuid)?;

    begin(progress, Stage::Compress, "compressing the image");
    drive::compress(&raw, &out.join(DISK))?;

    let manifest = Manifest {
        recipe: recipe.name.to_owned(),
        title: recipe.title.to_owned(),
        key: key.clone(),
        built: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
        build_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        pki: pki.fingerprint(),
        kernel: boot.kernel.clone(),
        command_line: spec.boot.command_line(),
        vendor: spec.boot.vendor.clone(),
        uki: boot.uki_path(recipe),
        disk_bytes: fs::metadata(out.join(DISK)).map_err(io("looking at", out.join(DISK)))?.len(),
        layout,
        esp: files.iter().map(|(path, data)| (path.clone(), hex::encode(Sha256::digest(data)))).collect(),
        shim: versions.shim.clone(),
        packages: versions.system.clone(),
    };
    let path = out.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|e| io("writing", &path)(e.into()))?;
    fs::write(&path, text).map_err(io("writing", &path))?;
    let place = cache.dir("images")?.join(directory(recipe, &key));
    publish(&out, &place)?;
    versions.remember(cache, recipe)?;
    begin(progress, Stage::Done, &format!("image {} is ready", recipe.name));
    Image::open(&place)
}

/// Where other shims are unpacked, each in a directory named for its artefact.
const OTHER_SHIMS: &str = "other-shims";

/// apt for each release that a shim comes from, and for a later release that packages come from.
struct Shims {
    own: Apt,
    others: BTreeMap<String, Apt>,
    newer: Option<Apt>,
}

impl Shims {
    fn new(recipe: &Recipe, cache: &Cache, mirror: &Mirror) -> Result<Self, Error> {
        let suites = recipe.spec.other_shims.values().map(|shim| &shim.suite);
        let others = suites.map(|suite| Ok((suite.clone(), Apt::new(cache, mirror, suite)?)));
        let others = others.collect::<Result<_, Error>>()?;
        let newer = recipe.spec.rootfs.newer.as_ref();
        let newer = newer.map(|newer| Apt::new(cache, mirror, &newer.suite)).transpose()?;
        Ok(Self { own: Apt::new(cache, mirror, &recipe.spec.shim.suite)?, others, newer })
    }

    fn update(&self) -> Result<(), Error> {
        self.own.update()?;
        self.others.values().chain(&self.newer).try_for_each(Apt::update)
    }

    /// The others, with their names and where they come from.
    fn others<'a>(
        &'a self,
        recipe: &'a Recipe,
    ) -> impl Iterator<Item = (&'a String, &'a OtherShim, &'a Apt)> {
        let all = recipe.spec.other_shims.iter();
        all.filter_map(|(name, shim)| Some((name, shim, self.others.get(&shim.suite)?)))
    }

    fn candidates(&self, recipe: &Recipe) -> Result<BTreeMap<String, String>, Error> {
        self.others(recipe)
            .map(|(name, shim, apt)| Ok((name.clone(), apt.candidate(&shim.package)?)))
            .collect()
    }

    fn newer_candidates(&self, recipe: &Recipe) -> Result<BTreeMap<String, String>, Error> {
        let Some((apt, newer)) = self.newer.as_ref().zip(recipe.spec.rootfs.newer.as_ref()) else {
            return Ok(BTreeMap::new());
        };
        newer.packages.iter().map(|name| Ok((name.clone(), apt.candidate(name)?))).collect()
    }

    /// Unpacks the packages of a later release, each in a directory of `dir`.
    fn unpack_newer(&self, versions: &Versions, dir: &Path) -> Result<(), Error> {
        let Some(apt) = &self.newer else { return Ok(()) };
        versions.newer.iter().try_for_each(|(name, version)| apt.unpack(name, version, &dir.join(name)))
    }

    /// Unpacks the recipe's shim into `dir`, the others beside it.
    fn unpack(&self, recipe: &Recipe, versions: &Versions, dir: &Path) -> Result<(), Error> {
        self.own.unpack(&recipe.spec.shim.package, &versions.shim, dir)?;
        self.others(recipe).try_for_each(|(name, shim, apt)| {
            let version = versions.other_shims.get(name).map(String::as_str).unwrap_or_default();
            apt.unpack(&shim.package, version, &dir.with_file_name(OTHER_SHIMS).join(name))
        })
    }
}

fn resolve(recipe: &Recipe, apt: &Apt, shims: &Shims, progress: &dyn Progress) -> Result<Versions, Error> {
    begin(progress, Stage::Resolve, "asking the archive for package versions");
    apt.update()?;
    shims.update()?;
    apt.forget_superseded()?;
    Ok(Versions {
        recipe: recipe.digest(),
        system: apt.resolve(&recipe.spec.rootfs.packages)?,
        shim: shims.own.candidate(&recipe.spec.shim.package)?,
        other_shims: shims.candidates(recipe)?,
        newer: shims.newer_candidates(recipe)?,
    })
}

/// Moves a complete image to its place. Whatever lies there is no complete image, or it would have been found; but for a
/// disk that is the same, which machines may stand on: it stays.
pub(crate) fn publish(out: &Path, place: &Path) -> Result<(), Error> {
    let size = |dir: &Path| fs::metadata(dir.join(DISK)).ok().map(|disk| disk.len());
    if !out.join(MANIFEST).exists() && size(place).is_some() && size(place) == size(out) {
        return Ok(());
    }
    if place.exists() {
        fs::remove_dir_all(place).map_err(io("removing", place))?;
    }
    // What the manifest speaks of must be on the disk before its directory gets its name.
    fs::File::open(out.join(DISK)).and_then(|f| f.sync_all()).map_err(io("syncing", out.join(DISK)))?;
    fs::rename(out, place).map_err(io("renaming", out))
}

fn read_packages(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let text = fs::read_to_string(path).map_err(io("reading", path))?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, version)| (name.to_owned(), version.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;

    use super::*;

    /// What shapes no image: who asks for one, where it lies, what is fetched, which keys there are (their fingerprint is
    /// part of an image's name), the firmware, stock disks (which name their own source), users' images.
    const SHAPES_NOTHING: [&str; 11] = [
        "cache.rs",
        "catalogue.rs",
        "error.rs",
        "firmware.rs",
        "image.rs",
        "lib.rs",
        "mirror.rs",
        "packages.rs",
        "pki.rs",
        "progress.rs",
        "user.rs",
    ];

    #[test]
    fn every_source_is_known_to_shape_an_image_or_not_to() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let dirs = [root.clone(), root.join("drive")];
        let all = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(|entry| entry.unwrap().path());
        let all: BTreeSet<String> = all
            .filter(|path| path.is_file())
            .map(|path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned())
            .collect();
        let named = SOURCES.iter().map(|(file, _)| *file).chain(SHAPES_NOTHING).chain(["stock.rs"]);
        assert_eq!(all, named.map(str::to_owned).collect());
    }
}
