//! Disks that nobody here made: Debian as it comes, put together by Debian's own `mkosi`.
//!
//! What this crate builds and what the project forecasts could be wrong in the same way. These disks share nothing with
//! the builder: shim signed by Microsoft, GRUB and kernel by Debian, partitions and boot configuration by mkosi, and
//! firmware that trusts Microsoft alone. They are treated as a user's own image is.
//!
//! mkosi is that of Debian 13, in a tree that mmdebstrap makes for it and that is gone afterwards. What it makes depends on
//! the archive's packages of that day: a disk lies in a directory named for its content as well, and [`Made`] tells which
//! one was made last.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use latchkey_supervise::Scratch;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::build::{BUILDER, Refresh, publish};
use crate::drive::compress;
use crate::error::{io, tool};
use crate::image::DISK;
use crate::mirror::{Mirror, below};
use crate::packages::{Apt, put_whole};
use crate::progress::begin;
use crate::recipe::{Files, digest, files};
use crate::system::{Mode, mmdebstrap, pack, put, quoted};
use crate::{Cache, Error, Image, Progress, Stage, Trust};

/// A disk of Debian's, and how users call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Its name, as users type it.
    pub(crate) name: &'static str,
    /// What it is, in one line.
    pub(crate) title: &'static str,
    /// The release on it, by its code name.
    suite: &'static str,
    /// Its root file system.
    root: &'static str,
}

/// All there are.
pub(crate) const STOCK: [Stock; 2] = [
    Stock {
        name: "debian12",
        title: "Debian 12 as it comes, by mkosi: shim signed by Microsoft, Debian's GRUB 2.06, kernel 6.1, systemd 252",
        suite: "bookworm",
        root: "ext4",
    },
    Stock {
        name: "debian13",
        title: "Debian 13 as it comes, by mkosi, on XFS: shim signed by Microsoft, Debian's GRUB 2.12, kernel 6.12, systemd 257",
        suite: "trixie",
        root: "xfs",
    },
];
/// What mkosi reads, and the script that runs it.
pub(crate) const FILES: Files = files!("debian":
    "build.sh",
    "mkosi.conf",
    "mkosi.extra/etc/systemd/network/20-wired.network",
    "mkosi.images/initrd/mkosi.conf",
    "mkosi.images/initrd/mkosi.extra/etc/crypttab",
    "mkosi.repart/10-esp.conf",
    "mkosi.repart/20-root.conf",
    "room/10-esp.conf",
    "room/20-root.conf",
);
/// Whose mkosi: the first one that installs a signed shim and GRUB.
const TOOLS_SUITE: &str = "trixie";
const TOOLS: &str = "mkosi,systemd-repart,dosfstools,e2fsprogs,mtools,xfsprogs";
/// Below which directory the archives' keyrings lie for mkosi's apt, each under its own path.
const KEYRINGS: &str = "/etc/apt/keyrings";

impl Stock {
    /// The one called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        STOCK.into_iter().find(|stock| stock.name == name)
    }

    /// The image, made when the cache has none.
    ///
    /// # Errors
    /// [`Error`] with what was being done.
    pub(crate) fn ensure(
        self,
        cache: &Cache,
        refresh: Refresh,
        progress: &dyn Progress,
    ) -> Result<Image, Error> {
        if refresh == Refresh::No
            && let Some(image) = self.finished(cache)?
        {
            return Ok(image);
        }
        let _lock = cache.lock(self.name, progress)?;
        // Whoever held the lock may have built it.
        if refresh == Refresh::No
            && let Some(image) = self.finished(cache)?
        {
            return Ok(image);
        }
        build(self, cache, progress).map_err(|e| cache.explain(e))
    }

    /// The finished image that was made last, if there is one.
    pub(crate) fn finished(self, cache: &Cache) -> Result<Option<Image>, Error> {
        let Some(made) = Made::remembered(cache, self) else { return Ok(None) };
        let disk = cache.root().join("images").join(self.directory(&made)).join(DISK);
        match fs::metadata(&disk) {
            Ok(found) if found.len() == made.disk_bytes => {}
            Ok(_) => {
                tracing::warn!(image = %disk.display(), "this image is damaged and will be built again");
                return Ok(None);
            }
            Err(_) => return Ok(None),
        }
        let image = Image::from_user(&disk)?;
        Ok(Some(Image { name: self.name.to_owned(), trust: Trust::Microsoft, ..image }))
    }

    /// What it is made by, besides the archive's packages.
    fn key(self) -> String {
        let mut hash = Sha256::new();
        for part in [BUILDER, self.suite, &digest(FILES.iter()), include_str!("stock.rs")] {
            hash.update(format!("{part}\n"));
        }
        hex::encode(hash.finalize())
    }

    /// The name of the directory of a disk that was made.
    fn directory(self, made: &Made) -> String {
        format!("{}-{}-{}", self.name, &self.key()[..16], &made.disk[..16])
    }
}

/// What was made last of a stock disk, by this builder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    /// SHA-256 of the disk file, in hex.
    disk: String,
    /// Its size in bytes: another size means that it is damaged.
    disk_bytes: u64,
}

impl Made {
    /// The disk file at `path`.
    fn of(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(io("opening", path))?;
        let mut hash = Sha256::new();
        let disk_bytes = std::io::copy(&mut file, &mut hash).map_err(io("reading", path))?;
        Ok(Self { disk: hex::encode(hash.finalize()), disk_bytes })
    }

    /// Where it is remembered; named for what makes it as well, so that two builds of the harness do not take turns.
    fn path(cache: &Cache, stock: Stock) -> PathBuf {
        cache.root().join("packages").join(format!("{}-{}.json", stock.name, &stock.key()[..8]))
    }

    fn remembered(cache: &Cache, stock: Stock) -> Option<Self> {
        let made: Self = serde_json::from_slice(&fs::read(Self::path(cache, stock)).ok()?).ok()?;
        // It becomes part of a path.
        let sound = made.disk.len() == 64 && made.disk.bytes().all(|byte| byte.is_ascii_hexdigit());
        sound.then_some(made)
    }

    fn remember(&self, cache: &Cache, stock: Stock) -> Result<(), Error> {
        cache.dir("packages")?;
        let path = Self::path(cache, stock);
        let text = serde_json::to_string_pretty(self).map_err(|e| io("writing", &path)(e.into()))?;
        put_whole(&path, &text)
    }
}

fn build(stock: Stock, cache: &Cache, progress: &dyn Progress) -> Result<Image, Error> {
    let mode = Mode::here()?;
    cache.check_room()?;
    let mirror = Mirror::of_host(Path::new("/etc/apt"))?;
    let apt = Apt::new(cache, &mirror, TOOLS_SUITE)?;
    let scratch = Scratch::new(&cache.dir("work")?, "stock-").map_err(tool("making a work directory"))?;
    let work = scratch.path();
    let recipe = work.join("stock.tar");
    pack(&tree(work, stock, &mirror, &apt)?, &recipe)?;

    begin(progress, Stage::System, "installing mkosi");
    let (mode, format) = match mode {
        Mode::Root => ("root", "directory"),
        Mode::Unshare => ("unshare", "null"),
    };
    let Stock { name, suite, root, .. } = stock;
    let raw = format!("{name}.raw");
    let mut args: Vec<OsString> = [
        format!("--mode={mode}"),
        format!("--format={format}"),
        "--variant=apt".to_owned(),
        "--architectures=amd64".to_owned(),
        format!("--aptopt={}", apt.host_settings_file()?.display()),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
        format!("--include={TOOLS}"),
        format!("--customize-hook=tar-in {} /", quoted(&recipe)),
        format!(
            "--customize-hook=unshare --mount --pid --fork sh \"$1\"/stock/build.sh \"$1\" {name} {suite} {root}"
        ),
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
    let made = Made::of(&out.join(DISK))?;
    let place = cache.dir("images")?.join(stock.directory(&made));
    publish(&out, &place)?;
    made.remember(cache, stock)?;
    begin(progress, Stage::Done, &format!("image {name} is ready"));
    stock.finished(cache)?.ok_or_else(|| Error::Damaged { path: place, why: "it has no disk".to_owned() })
}

/// What goes into mkosi's tree: its configuration, and apt's for the archive of this machine.
fn tree(work: &Path, stock: Stock, mirror: &Mirror, apt: &Apt) -> Result<PathBuf, Error> {
    let tree = work.join("recipe");
    for (path, text) in FILES {
        put(&tree.join("stock").join(path), &text.replace("@ROOT@", stock.root))?;
    }
    let sandbox = tree.join("stock/sandbox");
    put(
        &sandbox.join("etc/apt/sources.list.d/mkosi.sources"),
        &mirror.stanzas(stock.suite, Path::new(KEYRINGS)),
    )?;
    let settings = apt.host_settings_file()?;
    let settings = fs::read_to_string(&settings).map_err(io("reading", &settings))?;
    put(&sandbox.join("etc/apt/apt.conf.d/90-host"), &settings)?;
    for keyring in mirror.keyrings() {
        let copy = sandbox.join(below(Path::new(KEYRINGS), keyring).strip_prefix("/").unwrap_or(keyring));
        put(&copy, "")?;
        fs::copy(keyring, &copy).map_err(io("copying", keyring))?;
    }
    Ok(tree)
}
