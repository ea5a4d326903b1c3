//! FUSE mounts, and the guardian that takes them away when nobody else can.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use latchkey_supervise::Supervised;

use super::Error;
use super::process::{Unheard, hear};

/// It says when it is there: until then the signal that every child gets when its owner dies would end it. A line on the pipe
/// means "all is unmounted"; end of file means "the owner is gone".
const GUARD: &str = r#"echo
exec > /dev/null
read -r line && exit 0
for file in "$1"/*; do umount -l -- "$file" || fusermount3 -u -z -- "$file"; done"#;

/// How long it may take to unmount something.
const PATIENCE: Duration = Duration::from_secs(5);

/// Unmounts everything in a directory when its owner goes away without a word. It is a child that outlives this
/// process on purpose, for the moment that takes.
#[derive(Debug)]
pub(super) struct Guardian {
    child: Supervised,
    pipe: os_pipe::PipeWriter,
    /// Where it says that it is there.
    says: Receiver<io::Result<()>>,
}

impl Guardian {
    /// Has `exports` guarded, from when [`Self::ready`] has returned.
    pub(super) fn start(exports: &Path) -> Result<Self, Error> {
        let (stdin, pipe) = os_pipe::pipe()?;
        let (mut output, stdout) = os_pipe::pipe()?;
        // Every child gets a signal when this process dies; for this one that is taken back.
        let args = ["--pdeathsig", "clear", "--", "sh", "-c", GUARD, "latchkey-disk-guardian"];
        let args: Vec<_> = args.iter().map(AsRef::as_ref).chain([exports.as_os_str()]).collect();
        let child = latchkey_supervise::start_guardian("disk guardian", "setpriv", &args, |e| {
            e.stdin_file(stdin).stdout_file(stdout).stderr_null().dir("/")
        })?;
        let (tell, says) = mpsc::channel();
        std::thread::Builder::new().name("disk guardian".into()).spawn(move || {
            // Nobody listens any more where it took too long.
            let _ = tell.send(output.read_exact(&mut [0]));
        })?;
        Ok(Self { child, pipe, says })
    }

    /// Waits up to `limit` until it is there; only then may anything be mounted.
    pub(super) fn ready(&mut self, limit: Duration) -> Result<(), Error> {
        match hear(&self.says, Instant::now() + limit) {
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Error::Unguarded),
            Ok(there) => Ok(there?),
            Err(Unheard::Gone) => Err(Error::Unguarded),
            Err(Unheard::Cancelled) => Err(latchkey_supervise::Error::Cancelled.into()),
            Err(Unheard::Silent) => Err(Error::Silent {
                who: "the shell that guards a disk's mounts",
                what: "begin".into(),
                limit,
            }),
        }
    }

    /// Lets it go. What of `paths` is still mounted it takes away first.
    pub(super) fn dismiss(self, paths: &[PathBuf]) {
        let Self { child, mut pipe, .. } = self;
        if !mounts().iter().any(|path| paths.contains(path)) {
            // It may be gone already, and needs no telling then.
            let _ = pipe.write_all(b"done\n");
        }
        drop(pipe);
        // Dropping it kills it if it should still be there.
        let _ = child.wait_for(PATIENCE);
    }
}

/// Unmounts what a killed run and its killed guardian left under `root`: mounts that nobody serves.
pub(super) fn sweep(root: &Path) {
    for path in mounts().into_iter().filter(|m| m.starts_with(root)) {
        let dead = std::fs::metadata(&path)
            .is_err_and(|e| e.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()));
        if dead {
            tracing::info!(path = %path.display(), "unmounting what a killed run left");
            unmount(&path);
        }
    }
}

/// Takes `path` away if it is still mounted, served or not.
pub(super) fn unmount_if_mounted(path: &Path) {
    if mounts().iter().any(|m| m == path) {
        unmount(path);
    }
}

/// The FUSE mounts of this mount namespace.
fn mounts() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fuse = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        kind.starts_with("fuse").then(|| PathBuf::from(unescaped(path)))
    });
    fuse.collect()
}

/// A path as the kernel's table of mounts has it: space, tab, newline, backslash and `#` are octal there (proc_mounts(5); Linux,
/// fs/proc_namespace.c).
fn unescaped(path: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")];
    escapes.iter().fold(path.to_owned(), |path, (escape, is)| path.replace(escape, is))
}

fn unmount(path: &Path) {
    // Not cut short by a user who wants to stop: it is part of stopping.
    let done = |program, args: &[&std::ffi::OsStr]| {
        let child =
            latchkey_supervise::start(program, program, args, |e| e.stdin_null().stdout_null().stderr_null());
        let ended = child.and_then(|child| Ok(child.wait_for(PATIENCE)?.is_some_and(|o| o.status.success())));
        ended.unwrap_or(false)
    };
    // Somebody else, its owner or its guardian, may just have done it.
    let is_mounted = || mounts().iter().any(|mount| mount == path);
    if !done("umount", &["-l".as_ref(), path.as_os_str()])
        && !done("fusermount3", &["-u".as_ref(), "-z".as_ref(), path.as_os_str()])
        && is_mounted()
    {
        tracing::warn!("{} could not be unmounted, by umount or fusermount3", path.display());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_guardian_that_never_comes_is_not_waited_for_for_ever() {
        let (_stdin, pipe) = os_pipe::pipe().unwrap();
        let (_tell, says) = mpsc::channel();
        let child = latchkey_supervise::start("waits", "tail", &["-f", "/dev/null"], |e| e).unwrap();
        let error = Guardian { child, pipe, says }.ready(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("guards a disk's mounts did not begin"), "{error}");
    }
}
