//! Installing the system and building its initrd: mmdebstrap, as root or in a user namespace.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use latchkey_supervise as supervise;

use crate::error::{io, tool};
use crate::packages::Apt;
use crate::progress::begin;
use crate::{Error, Progress, Recipe, Stage};

/// How often the log is looked at while mmdebstrap runs.
const LOOK: Duration = Duration::from_millis(200);
/// How long mmdebstrap may take to remove what it made when it is told to end.
const TIDIES: Duration = Duration::from_secs(10);
/// How many lines of mmdebstrap's log an error carries.
const LOG_LINES: usize = 25;
/// What mmdebstrap says when it runs the first of our hooks after the packages are installed.
const INSTALLED: &str = "running --customize-hook";

/// Which way mmdebstrap gets to act as root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is root. The system is a directory.
    Root,
    /// In a user namespace with subordinate ids. The system is a tar file, since its owners mean nothing outside.
    Unshare,
}

impl Mode {
    /// The way that works for this user.
    pub(crate) fn here() -> Result<Self, Error> {
        if rustix::process::geteuid().is_root() {
            return Ok(Self::Root);
        }
        let missing = |missing: String| Error::NoUserNamespace { missing };
        for program in ["newuidmap", "newgidmap"] {
            which::which(program).map_err(|_| missing(program.to_owned()))?;
        }
        let works = supervise::run("unshare", &["--user", "--map-root-user", "--map-auto", "true"]);
        works.map_err(|e| missing(format!("a user namespace, and `unshare --map-auto` failed ({e})")))?;
        Ok(Self::Unshare)
    }
}

/// Where packages of a later release are unpacked, each in a directory, before the system is there.
pub(crate) const NEWER: &str = "newer";

/// An installed system.
#[derive(Debug)]
pub(crate) struct System {
    mode: Mode,
    /// A directory or a tar file, by mode.
    path: PathBuf,
    /// What the recipe left in `/boot` for the UKI.
    pub(crate) boot: PathBuf,
}

/// Installs `recipe`'s system below `work`, from packages that lie in `archives`.
pub(crate) fn install(
    recipe: &Recipe,
    apt: &Apt,
    archives: &Path,
    work: &Path,
    mode: Mode,
    progress: &dyn Progress,
) -> Result<System, Error> {
    let overlay = work.join("overlay");
    for (path, text) in recipe.overlay() {
        put(&overlay.join(path), text)?;
    }
    put(&overlay.join("etc/hostname"), &format!("{}\n", recipe.name))?;
    for script in ["customize.sh", "clean.sh"] {
        put(&work.join(script), recipe.file(script)?)?;
    }
    pack(&overlay, &work.join("overlay.tar"))?;
    for name in newer(recipe) {
        pack(&work.join(NEWER).join(name), &work.join(format!("{name}.tar")))?;
    }
    let boot = work.join("boot");
    fs::create_dir_all(&boot).map_err(io("making", &boot))?;
    let system = System { mode, path: work.join(if mode == Mode::Root { "tree" } else { "tree.tar" }), boot };

    begin(progress, Stage::System, "unpacking packages");
    let args = arguments(recipe, apt, archives, work, &system)?;
    mmdebstrap(&args, &work.join("mmdebstrap.log"), "building the initrd", progress)?;
    Ok(system)
}

/// The packages of a later release.
fn newer(recipe: &Recipe) -> impl Iterator<Item = &String> {
    recipe.spec.rootfs.newer.iter().flat_map(|newer| &newer.packages)
}

fn arguments(
    recipe: &Recipe,
    apt: &Apt,
    archives: &Path,
    work: &Path,
    system: &System,
) -> Result<Vec<OsString>, Error> {
    let spec = &recipe.spec.rootfs;
    let (mode, format) = match system.mode {
        Mode::Root => ("root", "directory"),
        Mode::Unshare => ("unshare", "tar"),
    };
    let mut args = vec![
        format!("--mode={mode}"),
        format!("--format={format}"),
        "--variant=essential".to_owned(),
        "--architectures=amd64".to_owned(),
        "--skip=essential/unlink,download/empty,cleanup/apt".to_owned(),
        format!("--aptopt={}", apt.host_settings_file()?.display()),
        "--aptopt=APT::Install-Recommends \"false\"".to_owned(),
        format!("--include={}", spec.packages.join(",")),
    ];
    args.extend(spec.exclude.iter().map(|glob| format!("--dpkgopt=path-exclude={glob}")));
    // Hooks are shell words; mmdebstrap's own `sync-in`, `upload` and `sync-out` also cross into a user namespace.
    let (archives, overlay) = (quoted(archives), quoted(&work.join("overlay.tar")));
    args.push("--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives".to_owned());
    args.push(format!("--setup-hook=sync-in {archives} /var/cache/apt/archives"));
    args.push(format!("--customize-hook=tar-in {overlay} /"));
    for name in newer(recipe) {
        args.push(format!("--customize-hook=tar-in {} /", quoted(&work.join(format!("{name}.tar")))));
    }
    for script in ["customize.sh", "clean.sh"] {
        args.push(format!("--customize-hook=upload {} /{script}", quoted(&work.join(script))));
        args.push(format!("--customize-hook=chroot \"$1\" sh /{script}"));
        args.push(format!("--customize-hook=rm \"$1\"/{script}"));
        if script == "customize.sh" {
            args.push(format!("--customize-hook=sync-out /boot {}", quoted(&system.boot)));
        }
    }
    args.push(spec.suite.clone());
    let mut args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
    args.push(system.path.clone().into_os_string());
    args.push(apt.sources_file().into_os_string());
    Ok(args)
}

/// Runs mmdebstrap, with what it prints in `log`. `customizing` says what its hooks do, once packages are installed.
pub(crate) fn mmdebstrap(
    args: &[OsString],
    log: &Path,
    customizing: &str,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let output = File::create(log).map_err(io("making", log))?;
    let output_too = output.try_clone().map_err(io("opening", log))?;
    let child = supervise::start_tree("mmdebstrap", "mmdebstrap", args, |e| {
        e.stdin_null()
            .stdout_file(output)
            .stderr_file(output_too)
            .env("LC_ALL", "C.UTF-8")
            .env("TMPDIR", "/tmp")
    })
    .map_err(tool("installing the system"))?;
    let mut stage = Stage::System;
    loop {
        if let Some(ended) = child.wait_for(LOOK).map_err(tool("installing the system"))? {
            if ended.status.success() {
                return Ok(());
            }
            let status = ended.status.to_string();
            return Err(Error::System { status, log: tail(log) });
        }
        if supervise::cancelled() {
            // It has a tree of its own to take away, which without root nobody else can.
            child.end(TIDIES).map_err(tool("installing the system"))?;
            return Err(tool("installing the system")(supervise::Error::Cancelled));
        }
        let said = tail(log);
        if stage == Stage::System && said.contains(INSTALLED) {
            stage = Stage::Initrd;
            begin(progress, stage, customizing);
        } else if let Some(line) = said.lines().rev().find_map(|l| l.strip_prefix("I: ")) {
            progress.report(stage, line, stage.begins_at());
        }
    }
}

/// The last lines of a log that may be long.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8192)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

impl System {
    /// Makes an ext4 file system of the system in `disk`, at `offset` bytes, of `mib` MiB, and removes the system.
    pub(crate) fn into_ext4(self, disk: &Path, offset: u64, mib: u64, uuid: uuid::Uuid) -> Result<(), Error> {
        let doing = "making the root file system";
        let tree = match self.mode {
            Mode::Root => self.path.clone(),
            Mode::Unshare => self.path.with_extension("d"),
        };
        let mut mkfs: Vec<OsString> =
            ["mkfs.ext4", "-q", "-F", "-L", "root", "-m", "0", "-J", "size=16", "-U"]
                .map(OsString::from)
                .into();
        mkfs.push(uuid.to_string().into());
        mkfs.push("-E".into());
        // Tables are written here, where it is cheap, and not in the background of every test machine.
        mkfs.push(
            format!("offset={offset},hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0")
                .into(),
        );
        mkfs.extend([OsString::from("-d"), tree.clone().into(), disk.into(), format!("{mib}M").into()]);
        match self.mode {
            Mode::Root => {
                run_line(&mkfs).map_err(tool(doing))?;
                fs::remove_dir_all(&tree).map_err(io("removing", &tree))
            }
            Mode::Unshare => {
                let mut line: Vec<OsString> =
                    ["unshare", "--user", "--map-root-user", "--map-auto", "sh", "-c"]
                        .map(OsString::from)
                        .into();
                line.push(UNPACKED.into());
                line.extend([OsString::from("unpacked"), self.path.clone().into(), tree.into()]);
                line.extend(mkfs);
                run_line(&line).map_err(tool(doing))?;
                fs::remove_file(&self.path).map_err(io("removing", &self.path))
            }
        }
    }
}

/// Unpacks the tar file `$1` to `$2`, runs the rest of the line, and removes `$2` whatever came of it.
const UNPACKED: &str = r#"tar=$1 tree=$2; shift 2; trap 'rm -rf -- "$tree"' EXIT; trap 'exit 143' TERM; mkdir -p "$tree"
tar --extract --exclude='./dev/*' --numeric-owner --xattrs --xattrs-include='*' --file "$tar" --directory "$tree" && "$@""#;

/// Runs a whole command line.
fn run_line(line: &[OsString]) -> Result<supervise::Captured, supervise::Error> {
    let program = line.first().map_or(OsStr::new("true"), |p| p.as_os_str());
    let args = line.get(1..).unwrap_or_default();
    supervise::run(program, args)
}

/// Packs `dir` so that root owns everything, whoever runs this and whatever his umask is.
pub(crate) fn pack(dir: &Path, tar: &Path) -> Result<(), Error> {
    let how = "--create --format=gnu --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@1704067200";
    let mut args: Vec<OsString> = how.split(' ').map(OsString::from).collect();
    args.extend(["--file".into(), tar.into(), "--directory".into(), dir.into(), ".".into()]);
    supervise::run("tar", &args).map(drop).map_err(tool("packing the recipe's files"))
}

pub(crate) fn put(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(io("making", dir))?;
    }
    fs::write(path, text).map_err(io("writing", path))
}

/// A path as one word of a shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_shell() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
