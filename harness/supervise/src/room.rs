//! Room in this computer's memory, and turns on its processors, shared by all processes of this user that ask for them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::lock::RETRY;
use crate::{Error, cancelled, lock, private_dir, private_root};

/// What stays free for whoever else uses this computer, in MiB.
const SPARE_MIB: u64 = 512;

/// Of so many turns somebody sees whether others have them.
const MOST_TURNS: usize = 64;

/// Room that is held until this is dropped or its process dies.
#[derive(Debug)]
pub struct Room {
    _places: Vec<File>,
    _turn: File,
}

/// What somebody asks for who has one thing that keeps a processor busy, and perhaps others that wait for it meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What each of the things takes, in MiB.
    pub each_mib: u64,
    /// How many things.
    pub things: usize,
    /// How many such askers may be at it at once on this computer. Whoever lets more of them may pass one that lets fewer.
    pub at_once: usize,
}

/// What the computer has, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
}

/// Waits until there is room for what is `wanted`, and fewer than so many others are at it, and holds it. What is too large
/// for this computer gets it when nobody else has any: better tried alone than never. Calls `waiting`, once, if it has to
/// wait.
///
/// # Errors
/// [`Error::Lock`] when the files that stand for it cannot be made, [`Error::Cancelled`] when the user asks to stop.
pub fn room(wanted: Wanted, waiting: impl FnOnce()) -> Result<Room, Error> {
    let memory = || {
        let computer = fs::read_to_string("/proc/meminfo").ok().and_then(|text| told(&text))?;
        Some(own_groups().map_or(computer, |groups| groups.and(computer)))
    };
    // One place for all of the user's processes, whatever each has for its temporary files.
    let common = Path::new("/tmp").join(format!("latchkey-{}", rustix::process::getuid().as_raw()));
    let dir = private_dir(&common).map(|()| common).or_else(|_| private_root())?;
    take(&dir, memory, wanted, waiting)
}

/// As [`room`], by files in `dir`, each of which stands for one thing, or one asker.
fn take(
    dir: &Path,
    memory: impl Fn() -> Option<Memory>,
    wanted: Wanted,
    waiting: impl FnOnce(),
) -> Result<Room, Error> {
    let mut waiting = Some(waiting);
    let mut tell = || waiting.take().map_or((), |waiting| waiting());
    let mut next = None;
    loop {
        // In turn: two that each hold half of what both want would wait for ever.
        let first = match next.take() {
            Some(first) => first,
            None => lock(&dir.join("room.lock"), &mut tell)?,
        };
        match look(dir, &memory, wanted)? {
            Look::Room(room) => return Ok(room),
            // Whoever comes after this one would only take what it waits for.
            Look::NoMemory => next = Some(first),
            // Somebody behind may let more be at it at once, and need not wait.
            Look::NoTurn => drop(first),
        }
        if cancelled() {
            return Err(Error::Cancelled);
        }
        tell();
        std::thread::sleep(RETRY);
    }
}

/// What somebody finds whose turn it is to look.
enum Look {
    Room(Room),
    /// What is wanted does not fit beside what others hold.
    NoMemory,
    /// It fits, and as many are at it as the asker lets.
    NoTurn,
}

/// Takes what is `wanted`, if it is there.
fn look(dir: &Path, memory: impl Fn() -> Option<Memory>, wanted: Wanted) -> Result<Look, Error> {
    let Wanted { each_mib, things, at_once } = wanted;
    let shared = dir.join("room.mib");
    // Where nobody tells there is room for one.
    let Memory { total, available } = memory().unwrap_or(Memory { total: 0, available: 0 });
    let places = (total / each_mib.max(1)).max(1);
    let mut free = Vec::new();
    for place in 0..places {
        free.extend(held(&dir.join(format!("room-{place}")))?);
    }
    let taken = places - u64::try_from(free.len()).unwrap_or(places);
    // What others leave is known while nobody holds any: whoever does may not have used it yet.
    let left = if taken == 0 {
        let left = available.saturating_sub(SPARE_MIB);
        // Whoever cannot read it waits until nobody holds any.
        let _ = fs::write(&shared, left.to_string());
        left
    } else {
        fs::read_to_string(&shared).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let all = taken.saturating_add(u64::try_from(things).unwrap_or(u64::MAX));
    let fits = free.len() >= things && all.saturating_mul(each_mib) <= left;
    if !fits && taken > 0 {
        return Ok(Look::NoMemory);
    }
    let (mut own, mut others) = (None, 0);
    for turn in 0..MOST_TURNS.max(at_once) {
        match held(&dir.join(format!("turn-{turn}")))? {
            Some(turn) => own = own.or(Some(turn)),
            None => others += 1,
        }
    }
    free.truncate(things);
    Ok(match own.filter(|_| others < at_once.max(1)) {
        Some(turn) => Look::Room(Room { _places: free, _turn: turn }),
        None => Look::NoTurn,
    })
}

/// The file `path`, locked; `None` while somebody else has it.
fn held(path: &Path) -> Result<Option<File>, Error> {
    let failed = |source: io::Error| Error::Lock { path: path.to_owned(), source };
    let file = File::create(path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

impl Memory {
    /// What there is of a part of what `other` has.
    fn and(self, other: Self) -> Self {
        Self { total: self.total.min(other.total), available: self.available.min(other.available) }
    }
}

/// Where control groups are (cgroup v2; Linux, Documentation/admin-guide/cgroup-v2.rst).
const GROUPS: &str = "/sys/fs/cgroup";

/// What the control groups of this process, a container's or a service's for example, may have at most and have left; `None`
/// where none has a limit.
fn own_groups() -> Option<Memory> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    least(Path::new(GROUPS), Path::new(path))
}

/// The least that the group `path` below `root`, or one that it is in, has.
fn least(root: &Path, path: &Path) -> Option<Memory> {
    path.ancestors().filter_map(|group| limited(&root.join(group))).reduce(Memory::and)
}

/// What one group may have and has left ("Memory", "Memory Interface Files" there).
fn limited(dir: &Path) -> Option<Memory> {
    let number = |name: &str| fs::read_to_string(dir.join(name)).ok()?.trim().parse::<u64>().ok();
    let (most, used) = (number("memory.max")?, number("memory.current")?);
    let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
    // What it holds of files goes when somebody needs the room.
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok())?;
    let left = most.saturating_sub(used.saturating_sub(cached));
    Some(Memory { total: most >> 20, available: left >> 20 })
}

/// `MemTotal` and `MemAvailable` of /proc/meminfo (proc(5)), which counts in KiB.
fn told(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1024)
    };
    Some(Memory { total: field("MemTotal:")?, available: field("MemAvailable:")? })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const EACH: u64 = 1000;

    fn memory(total: u64, available: u64) -> impl Fn() -> Option<Memory> {
        move || Some(Memory { total, available })
    }

    #[test]
    fn a_container_has_what_its_groups_may_have() {
        let root = tempfile::tempdir().unwrap();
        let write = |group: &str, most: &str| {
            let dir = root.path().join(group);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("memory.max"), most).unwrap();
            fs::write(dir.join("memory.current"), "3221225472\n").unwrap();
            fs::write(dir.join("memory.stat"), "anon 5\ninactive_file 1073741824\nactive_file 7\n").unwrap();
        };
        let least = || least(root.path(), Path::new("pod/container"));
        assert_eq!(least(), None);
        write("pod/container", "max\n");
        assert_eq!(least(), None);
        // The one that it is in counts as well.
        write("pod", "4294967296\n");
        assert_eq!(least(), Some(Memory { total: 4096, available: 2048 }));
        write("pod/container", "8589934592\n");
        assert_eq!(least(), Some(Memory { total: 4096, available: 2048 }));
        write("pod/container", "2147483648\n");
        assert_eq!(least(), Some(Memory { total: 2048, available: 0 }));
    }

    /// So many things, of somebody who lets as many be at it as want to.
    fn things(things: usize) -> Wanted {
        Wanted { each_mib: EACH, things, at_once: 100 }
    }

    /// Whoever wants as much as `wanted` waits, and gets it once `held` is given back.
    fn waits_for(held: Room, dir: &Path, memory: impl Fn() -> Option<Memory> + Send, wanted: Wanted) {
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let waits = move || take(dir, memory, wanted, || tell.send(()).unwrap()).map(drop);
            let waiting = scope.spawn(waits);
            told.recv().unwrap();
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }

    #[test]
    fn whoever_finds_no_room_waits_until_there_is_some() {
        let dir = tempfile::tempdir().unwrap();
        let three = || memory(9 * EACH, 3 * EACH + SPARE_MIB);
        let first = take(dir.path(), three(), things(2), || panic!("there is room for three")).unwrap();
        let _second = take(dir.path(), three(), things(1), || panic!("there is room for one")).unwrap();
        waits_for(first, dir.path(), three(), things(2));
    }

    #[test]
    fn what_is_too_large_gets_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        for total in [0, EACH, 2 * EACH + SPARE_MIB] {
            let all = take(dir.path(), memory(total, 0), things(5), || panic!("nobody has any")).unwrap();
            drop(all);
        }
        assert!(take(dir.path(), || None, things(1), || panic!("nobody has any")).is_ok());
    }

    #[test]
    fn what_is_held_and_not_used_yet_is_no_room() {
        let dir = tempfile::tempdir().unwrap();
        // As much is available all the time.
        let two = || memory(9 * EACH, 2 * EACH + SPARE_MIB);
        let first = take(dir.path(), two(), things(1), || panic!("nobody has any")).unwrap();
        let _second = take(dir.path(), two(), things(1), || panic!("there is room for two")).unwrap();
        waits_for(first, dir.path(), two(), things(1));
    }

    /// What waits beside an asker's busy thing needs memory and no turn.
    #[test]
    fn no_more_are_at_it_than_each_asker_lets() {
        let dir = tempfile::tempdir().unwrap();
        let enough = || memory(99 * EACH, 98 * EACH);
        let turns = |at_once| Wanted { at_once, ..things(2) };
        let first = take(dir.path(), enough(), turns(2), || panic!("nobody is at it")).unwrap();
        let _second = take(dir.path(), enough(), turns(2), || panic!("one is at it")).unwrap();
        // Who wants to have more at once than the others has them.
        drop(take(dir.path(), enough(), turns(3), || panic!("two are at it")).unwrap());
        waits_for(first, dir.path(), enough(), turns(2));
    }

    /// Whoever waits for a turn alone keeps nobody from one that is free to others.
    #[test]
    fn whoever_lets_more_be_at_it_passes_one_who_waits_for_a_turn() {
        let dir = tempfile::tempdir().unwrap();
        let enough = || memory(99 * EACH, 98 * EACH);
        let turns = |at_once| Wanted { at_once, ..things(1) };
        let first = take(dir.path(), enough(), turns(1), || panic!("nobody is at it")).unwrap();
        let ((tell, told), (tell_passed, passed)) = (mpsc::channel(), mpsc::channel());
        let dir = dir.path();
        let has_passed = std::thread::scope(|scope| {
            scope.spawn(move || take(dir, enough(), turns(1), || tell.send(()).unwrap()).map(drop));
            told.recv().unwrap();
            scope.spawn(move || {
                let second = take(dir, enough(), turns(2), || ());
                tell_passed.send(second.is_ok()).unwrap();
            });
            let has_passed = passed.recv_timeout(Duration::from_secs(20));
            // Both end, whatever became of them.
            drop(first);
            has_passed
        });
        assert_eq!(has_passed, Ok(true));
    }

    #[test]
    fn the_kernel_tells_what_there_is() {
        let text = "MemTotal:  4096 kB\nMemFree: 1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(told(text), Some(Memory { total: 4, available: 2 }));
        assert_eq!(told("nothing"), None);
    }
}
