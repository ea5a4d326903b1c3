//! A disk shown as files.
//!
//! Parts of it are shown through FUSE by a daemon, the *shower*, which opens a disk that is only read itself. A disk
//! that is written is opened by a second one, the *holder*, which hands it out over NBD on a private socket: QEMU lets
//! only one part of a disk be writable in one process (each view would allow its own resizing, which its neighbour
//! forbids).
//!
//! What could stay behind when this process is killed are mounts without a daemon: a guardian takes them away.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use latchkey_supervise::Scratch;
use serde_json::{Value, json};

mod mounts;
mod process;

use crate::open::Access;
use mounts::Guardian;
use process::{DEADLINE, Process, Unheard, hear};

/// Longest path of a unix socket in bytes (`sizeof sun_path` less its final zero, unix(7)).
const SOCKET_PATH: usize = 107;
/// What shows and holds disks.
const DAEMON: &str = "qemu-storage-daemon";

/// Why a disk could not be shown as files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A daemon could not be started or ended.
    #[error(transparent)]
    Tool(#[from] latchkey_supervise::Error),
    /// Talking to it, or making its files, failed.
    #[error("running qemu-storage-daemon: {0}")]
    Io(#[from] io::Error),
    /// The shell that is to unmount the disk, should this process be killed, ended before anything was mounted.
    #[error("the shell that guards a disk's mounts ended by itself")]
    Unguarded,
    /// The directory for temporary files has a path that is too long for a socket.
    #[error(
        "running qemu-storage-daemon: the path {0} is too long for a socket; set TMPDIR to a shorter one"
    )]
    LongPath(PathBuf),
    /// It cannot show a file.
    #[error("qemu-storage-daemon could not {what}: {said}; is there a /dev/fuse that this user may open?")]
    Unshown {
        /// What it was asked to do.
        what: String,
        /// Its answer.
        said: String,
    },
    /// It refused a command.
    #[error("qemu-storage-daemon could not {what}: {said}")]
    Refused {
        /// What it was asked to do.
        what: String,
        /// Its answer.
        said: String,
    },
    /// It ended by itself.
    #[error("qemu-storage-daemon ended while it was to {what}: {said}")]
    Gone {
        /// What it was asked to do.
        what: String,
        /// Its log.
        said: String,
    },
    /// A daemon, or the shell that guards a disk's mounts, did not do its part in time.
    #[error("{who} did not {what} within {} seconds", .limit.as_secs())]
    Silent {
        /// Which of them.
        who: &'static str,
        /// What it was asked to do.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
}

/// A disk that is being shown. Dropping it writes everything out and leaves nothing mounted.
#[derive(Debug)]
pub(crate) struct Storage {
    /// `None` once it was ended.
    running: Option<Running>,
    mounts: Vec<PathBuf>,
    /// How long writing everything out may take.
    limit: Duration,
    dir: Scratch,
}

#[derive(Debug)]
struct Running {
    /// Of a disk that is written.
    holder: Option<Process>,
    shower: Process,
    guardian: Guardian,
}

impl Storage {
    /// Opens a disk: `file` is the path, `format` the rest of QEMU's `BlockdevOptions` (driver and its settings).
    pub(crate) fn open(file: &Path, mut format: Value, access: Access) -> Result<Self, Error> {
        let writable = access == Access::ReadWrite;
        let locking = if access == Access::Frozen { "off" } else { "auto" };
        let root = latchkey_supervise::private_root()?;
        mounts::sweep(&root);
        let dir = Scratch::new(&root, "disk-")?;
        let (exports, socket) = (dir.path().join("exports"), dir.path().join("nbd"));
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(Error::LongPath(socket));
        }
        std::fs::create_dir(&exports)?;
        // Flushing writes out what QEMU keeps, and need not wait for the host's disk: overlays are not meant to
        // outlive a power cut of the host.
        let file = json!({
            "driver": "file", "node-name": "file", "filename": file, "read-only": !writable,
            "cache": { "no-flush": true }, "locking": locking,
        });
        format["node-name"] = "disk".into();
        format["file"] = "file".into();
        format["read-only"] = (!writable).into();
        let mut opening: Vec<String> =
            [file, format].iter().flat_map(|node| ["--blockdev".to_owned(), node.to_string()]).collect();
        let mut holder = None;
        if writable {
            let server = json!({ "addr": { "type": "unix", "path": socket }, "max-connections": 0 });
            let export =
                json!({ "type": "nbd", "id": "disk", "node-name": "disk", "name": "disk", "writable": true });
            let server = ["--nbd-server".to_owned(), server.to_string()];
            let export = ["--export".to_owned(), export.to_string()];
            let args = [std::mem::take(&mut opening), server.to_vec(), export.to_vec()].concat();
            holder = Some(Process::start(&args, &dir.path().join("holder.log"))?);
        }
        let mut guardian = Guardian::start(&exports)?;
        let shower = Process::start(&opening, &dir.path().join("shower.log"))?;
        guardian.ready(DEADLINE)?;
        let running = Some(Running { holder, shower, guardian });
        Ok(Self { running, mounts: Vec::new(), limit: DEADLINE, dir })
    }

    /// Shows a part of the disk (all of it when `part` is `None`; else offset and size in bytes) as a file.
    pub(crate) fn show(&mut self, name: &str, part: Option<(u64, u64)>) -> Result<PathBuf, Error> {
        let what = format!("show {name} as a file");
        let path = self.dir.path().join("exports").join(name);
        let Some(running) = &mut self.running else {
            return Err(Error::Gone { what, said: "it was ended before".into() });
        };
        std::fs::write(&path, "")?;
        let writable = running.holder.is_some();
        let mut nodes = Vec::new();
        let mut shown = "disk".to_owned();
        if writable {
            shown = format!("{name}-client");
            let socket = json!({ "type": "unix", "path": self.dir.path().join("nbd") });
            nodes.push(json!({ "driver": "nbd", "node-name": shown, "server": socket, "export": "disk" }));
        }
        if let Some((offset, size)) = part {
            nodes.push(json!({
                "driver": "raw", "node-name": name, "file": shown, "offset": offset, "size": size,
                "read-only": !writable,
            }));
            name.clone_into(&mut shown);
        }
        for node in &nodes {
            running.shower.command(&what, "blockdev-add", node)?;
        }
        let export = json!({
            "type": "fuse", "id": name, "node-name": shown, "mountpoint": path,
            "writable": writable, "allow-other": "off",
        });
        running.shower.command(&what, "block-export-add", &export).map_err(|e| match e {
            Error::Refused { what, said } => Error::Unshown { what, said },
            other => other,
        })?;
        self.mounts.push(path.clone());
        Ok(path)
    }

    /// Ends the daemons in order: everything is written out and nothing is mounted when this returns.
    pub(crate) fn close(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        // QEMU ends without complaint when its last writes fail, so they are made, and checked, before.
        let flushed = match self.mounts.first() {
            Some(file) if running.holder.is_some() => flush(file, self.limit),
            _ => Ok(()),
        };
        // Whoever does not write in time does not end in order either.
        let (shown, held) = match flushed {
            Ok(()) | Err(Error::Io(_)) => {
                (running.shower.quit(), running.holder.as_mut().map_or(Ok(()), Process::quit))
            }
            Err(_) => (Ok(()), Ok(())),
        };
        running.shower.kill();
        if let Some(holder) = &running.holder {
            holder.kill();
        }
        for path in &self.mounts {
            mounts::unmount_if_mounted(path);
        }
        running.guardian.dismiss(&self.mounts);
        shown.and(held)?;
        flushed
    }
}

/// Has everything that was written to the shown disk `file` written out. Done by a thread of its own, since nothing ends the wait
/// for a daemon that hangs but its end.
fn flush(file: &Path, limit: Duration) -> Result<(), Error> {
    let (tell, told) = mpsc::channel();
    let path = file.to_owned();
    std::thread::Builder::new().name("flush".into()).spawn(move || {
        // Nobody listens any more where it took too long.
        let _ = tell.send(File::open(path).and_then(|file| file.sync_all()));
    })?;
    let what = || "write everything out".to_owned();
    match hear(&told, Instant::now() + limit) {
        Ok(written) => Ok(written?),
        Err(Unheard::Gone) => Err(Error::Gone { what: what(), said: "nobody told whether it did".into() }),
        Err(Unheard::Cancelled) => Err(latchkey_supervise::Error::Cancelled.into()),
        Err(Unheard::Silent) => Err(Error::Silent { who: DAEMON, what: what(), limit }),
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            tracing::warn!("closing a disk: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    /// A shown disk of 1 MiB, and the file that shows it.
    fn shown(dir: &Path) -> (Storage, PathBuf) {
        let disk = dir.join("disk.raw");
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let mut storage = Storage::open(&disk, json!({ "driver": "raw" }), Access::ReadWrite).unwrap();
        let file = storage.show("disk", None).unwrap();
        (storage, file)
    }

    fn mounted(path: &Path) -> bool {
        std::fs::read_to_string("/proc/self/mounts").unwrap().contains(path.to_str().unwrap())
    }

    #[test]
    fn killed_daemons_leave_nothing_mounted_and_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, file) = shown(dir.path());
        assert!(mounted(&file));
        let running = storage.running.as_ref().unwrap();
        running.shower.kill();
        running.holder.as_ref().unwrap().kill();
        assert!(mounted(&file) && std::fs::metadata(&file).is_err());
        storage.close().unwrap_err();
        assert!(!mounted(&file));
        assert!(!file.exists(), "its directory is gone too");
    }

    #[test]
    fn a_lost_holder_is_an_error_to_whoever_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (storage, file) = shown(dir.path());
        storage.running.as_ref().unwrap().holder.as_ref().unwrap().kill();
        let open = File::options().write(true).open(&file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&open, b"lost", 0).unwrap_err();
        drop(open);
        storage.close().unwrap_err();
        assert!(!mounted(&file));
    }

    #[rstest]
    #[case::the_shower(|running: &Running| running.shower.pid())]
    #[case::the_holder(|running: &Running| running.holder.as_ref().and_then(Process::pid))]
    fn a_daemon_that_hangs_is_ended_and_an_error(#[case] pid: fn(&Running) -> Option<u32>) {
        let dir = tempfile::tempdir().unwrap();
        let (mut storage, file) = shown(dir.path());
        let pid = pid(storage.running.as_ref().unwrap()).unwrap();
        // The shell's own `kill`: a bare system has no other.
        latchkey_supervise::run("sh", &["-c", &format!("kill -STOP {pid}")]).unwrap();
        storage.limit = Duration::from_millis(100);
        let error = storage.close().unwrap_err();
        assert!(matches!(error, Error::Silent { .. }), "{error}");
        assert!(!mounted(&file) && !file.exists());
    }

    #[test]
    fn what_the_daemon_says_reaches_the_user() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("not.qcow2");
        std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
        let error =
            Storage::open(&disk, json!({ "driver": "qcow2" }), Access::ReadOnly).unwrap_err().to_string();
        assert!(error.contains("qcow2 format"), "{error}");
    }
}
