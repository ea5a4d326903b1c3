//! A run that is killed leaves no daemon and no mount behind.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, iter};

use latchkey_disk::{Access, OpenDisk};

/// Names the disk for the process that is to be killed.
const DISK: &str = "LATCHKEY_TEST_KILLED_DISK";

/// Not a test of its own: the part of the next one that runs in a process of its own and is killed there.
#[test]
fn open_a_disk_and_wait_to_be_killed() {
    let Some(path) = std::env::var_os(DISK) else { return };
    let mut disk = OpenDisk::open(&PathBuf::from(path), Access::ReadWrite).unwrap();
    let root = disk.table().unwrap().partitions.pop().unwrap();
    println!("\nSHOWN {}", disk.partition_file(&root).unwrap().display());
    std::thread::park();
}

#[test]
fn sigkill_leaves_neither_mount_nor_daemon() {
    let dir = tempfile::tempdir().unwrap();
    is_killed_and_leaves_nothing(dir.path(), &std::env::var_os("PATH").unwrap());
}

/// The signal that a child gets when its parent dies would end the guardian, too, until `setpriv` has taken that back for it.
#[test]
fn sigkill_leaves_nothing_where_the_guardian_is_slow_to_come() {
    let dir = tempfile::tempdir().unwrap();
    is_killed_and_leaves_nothing(dir.path(), &where_the_guardian(dir.path(), "sleep 1"));
}

#[test]
fn without_its_guardian_nothing_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let disk = common::raw_disk(dir.path());
    let path = where_the_guardian(dir.path(), "exit 1");
    let args = ["--exact", "open_a_disk_and_wait_to_be_killed", "--nocapture"];
    let shown = latchkey_supervise::run_with(std::env::current_exe().unwrap(), &args, |e| {
        let e = e.env(DISK, &disk).env("TMPDIR", dir.path()).env("PATH", path);
        // What is kept of its standard error is the end.
        e.env("RUST_BACKTRACE", "0").stdin_null()
    });
    assert!(shown.unwrap_err().to_string().contains("Unguarded"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
}

/// A `PATH` with a `setpriv`, laid down in `dir`, that does `what` before it takes the guardian's signal back.
fn where_the_guardian(dir: &Path, what: &str) -> OsString {
    let usual = std::env::var_os("PATH").unwrap();
    let setpriv =
        std::env::split_paths(&usual).map(|dir| dir.join("setpriv")).find(|it| it.exists()).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in \"--pdeathsig clear \"*) {what} ;; esac\nexec {} \"$@\"\n",
        setpriv.display()
    );
    let tools = dir.join("tools");
    fs::create_dir(&tools).unwrap();
    fs::write(tools.join("setpriv"), script).unwrap();
    fs::set_permissions(tools.join("setpriv"), fs::Permissions::from_mode(0o755)).unwrap();
    std::env::join_paths(iter::once(tools).chain(std::env::split_paths(&usual))).unwrap()
}

/// Kills a process that shows a disk as soon as it does; it works in `dir` and finds its tools by `path`.
fn is_killed_and_leaves_nothing(dir: &Path, path: &OsStr) {
    let disk = common::raw_disk(dir);
    let (lines, stdout) = os_pipe::pipe().unwrap();
    let args = ["--exact", "open_a_disk_and_wait_to_be_killed", "--nocapture"];
    let victim = latchkey_supervise::start("victim", std::env::current_exe().unwrap(), &args, |e| {
        // In a directory of its own, where no other run sweeps.
        e.env(DISK, &disk).env("TMPDIR", dir).env("PATH", path).stdin_null().stdout_file(stdout)
    })
    .unwrap();
    let shown = BufReader::new(lines)
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("SHOWN ").map(PathBuf::from))
        .unwrap();
    let scratch = shown.ancestors().nth(2).unwrap().to_owned();
    assert!(left(&scratch).len() >= 4, "two mounts and two daemons: {:?}", left(&scratch));

    victim.kill();

    let deadline = Instant::now() + Duration::from_secs(30);
    while (!left(&scratch).is_empty() || scratch.exists()) && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(left(&scratch).is_empty() && !scratch.exists(), "{:?}", left(&scratch));
}

/// Mounts and processes that still speak of `scratch`.
fn left(scratch: &Path) -> Vec<String> {
    let name = scratch.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found: Vec<String> = mounts.lines().filter(|l| l.contains(name)).map(str::to_owned).collect();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let open = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let log = |fd: fs::DirEntry| fs::read_link(fd.path()).ok();
        if open.filter_map(log).any(|target| target.starts_with(scratch)) {
            found.push(process.path().display().to_string());
        }
    }
    found
}
