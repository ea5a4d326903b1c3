//! A disk that nobody here made: Debian 12 as it comes, put together by Debian's own `mkosi`.
//!
//! What this crate builds and what the project forecasts could be wrong in the same way. This disk shares nothing with
//! the builder: shim signed by Microsoft, GRUB and kernel by Debian, partitions and boot configuration by mkosi, and
//! firmware that trusts Microsoft alone. It is treated as a user's own image is.
//!
//! mkosi is that of Debian 13, in a tree that mmdebstrap makes for it and that is gone afterwards.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use latchkey_supervise::Scratch;
use sha2::{Digest, Sha256};

use crate::build::{BUILDER, Refresh, publish};
use crate::drive::compress;
use crate::error::{io, tool};
use crate::image::DISK;
use crate::mirror::Mirror;
use crate::packages::Apt;
use crate::progress::begin;
use crate::recipe::{Files, digest, files};
use crate::system::{Mode, mmdebstrap, pack, put, quoted};
use crate::{Cache, Error, Image, Progress, Stage, Trust};

/// Its name, as users type it.
pub(crate) const NAME: &str = "debian12";
/// What it is, in one line.
pub(crate) const TITLE: &str =
    "Debian 12 as it comes, by mkosi: shim signed by Microsoft, Debian's GRUB 2.06 and kernel 6.1";
/// What mkosi reads, and the script that runs it.
pub(crate) const FILES: Files = files!("debian12":
    "build.sh",
    "mkosi.conf",
    "mkosi.extra/etc/systemd/network/20-wired.network",
    "mkosi.images/initrd/mkosi.conf",
    "mkosi.images/initrd/mkosi.extra/etc/crypttab",
    "mkosi.repart/10-esp.conf",
    "mkosi.repart/20-root.conf",
);
/// Whose mkosi: the first one that installs a signed shim and GRUB.
const TOOLS_SUITE: &str = "trixie";
const TOOLS: &str = "mkosi,systemd-repart,dosfstools,e2fsprogs,mtools";
/// The release on the disk.
const SUITE: &str = "bookworm";
/// Where the archive's keyring lies for mkosi's apt.
const KEYRING: &str = "/etc/apt/keyrings/archive.gpg";

/// The image, made when the cache has none.
///
/// # Errors
/// [`Error`] with what was being done; [`Error::InUse`] when a new one is asked for while machines stand on the old.
pub(crate) fn ensure(cache: &Cache, refresh: Refresh, progress: &dyn Progress) -> Result<Image, Error> {
    if refresh == Refresh::No
        && let Some(image) = finished(cache)?
    {
        return Ok(image);
    }
    let _lock = cache.lock(NAME, progress)?;
    match (finished(cache)?, refresh) {
        (Some(image), Refresh::No) => return Ok(image),
        (Some(_), Refresh::Yes) => crate::catalogue::unused(cache)?,
        (None, _) => {}
    }
    build(cache, progress).map_err(|e| cache.explain(e))
}

/// The finished image, if there is one.
pub(crate) fn finished(cache: &Cache) -> Result<Option<Image>, Error> {
    let disk = place(cache).join(DISK);
    if !disk.is_file() {
        return Ok(None);
    }
    let image = Image::from_user(&disk)?;
    Ok(Some(Image { name: NAME.to_owned(), trust: Trust::Microsoft, ..image }))
}

/// Its directory: the archive's versions are those of the day on which it was made.
fn place(cache: &Cache) -> PathBuf {
    let mut hash = Sha256::new();
    for part in [BUILDER, &digest(FILES.iter()), include_str!("stock.rs")] {
        hash.update(format!("{part}\n"));
    }
    cache.root().join("images").join(format!("{NAME}-{}", &hex::encode(hash.finalize())[..16]))
}

fn build(cache: &Cache, progress: &dyn Progress) -> Result<Image, Error> {
    let mode = Mode::here()?;
    cache.check_room()?;
    let mirror = Mirror::of_host(Path::new("/etc/apt"))?;
    let apt = Apt::new(cache, &mirror, TOOLS_SUITE)?;
    let scratch = Scratch::new(&cache.dir("work")?, "stock-").map_err(tool("making a work directory"))?;
    let work = scratch.path();
    let recipe = work.join("stock.tar");
    pack(&tree(work, &mirror, &apt)?, &recipe)?;

    begin(progress, Stage::System, "installing mkosi");
    let (mode, format) = match mode {
        Mode::Root => ("root", "directory"),
        Mode::Unshare => ("unshare", "null"),
    };
    let raw = format!("{NAME}.raw");
    let mut args: Vec<OsString> = [
        format!("--mode={mode}"),
        format!("--format={format}"),
        "--variant=apt".to_owned(),
        "--architectures=amd64".to_owned(),
        format!("--aptopt={}", apt.host_settings_file()?.display()),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
        format!("--include={TOOLS}"),
        format!("--customize-hook=tar-in {} /", quoted(&recipe)),
        "--customize-hook=unshare --mount --pid --fork sh \"$1\"/stock/build.sh \"$1\"".to_owned(),
        format!("--customize-hook=copy-out /stock/out/{raw} {}", quoted(work)),
        TOOLS_SUITE.to_owned(),
    ]
    .map(OsString::from)
    .into();
    args.extend([work.join("tree").into_os_string(), apt.sources_file().into_os_string()]);
    mmdebstrap(&args, &work.join("mmdebstrap.log"), "mkosi makes the disk", progress)?;

    begin(progress, Stage::Compress, "compressing the image");
    let out = work.join("image");
    fs::create_dir_all(&out).map_err(io("making", &out))?;
    compress(&work.join(raw), &out.join(DISK))?;
    cache.dir("images")?;
    publish(&out, &place(cache))?;
    begin(progress, Stage::Done, &format!("image {NAME} is ready"));
    finished(cache)?.ok_or_else(|| Error::Damaged { path: place(cache), why: "it has no disk".to_owned() })
}

/// What goes into mkosi's tree: its configuration, and apt's for the archive of this machine.
fn tree(work: &Path, mirror: &Mirror, apt: &Apt) -> Result<PathBuf, Error> {
    let tree = work.join("recipe");
    for (path, text) in FILES {
        put(&tree.join("stock").join(path), text)?;
    }
    let sandbox = tree.join("stock/sandbox");
    put(&sandbox.join("etc/apt/sources.list.d/mkosi.sources"), &mirror.stanzas(SUITE, KEYRING))?;
    let settings = apt.host_settings_file()?;
    let settings = fs::read_to_string(&settings).map_err(io("reading", &settings))?;
    put(&sandbox.join("etc/apt/apt.conf.d/90-host"), &settings)?;
    if let Some(keyring) = mirror.keyring() {
        let copy = sandbox.join(KEYRING.trim_start_matches('/'));
        put(&copy, "")?;
        fs::copy(keyring, &copy).map_err(io("copying", keyring))?;
    }
    Ok(tree)
}
