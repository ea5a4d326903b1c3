//! Machines that are not what was saved, and those whose disks lie over them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use latchkey_machine::Error as Machine;
use serde::Deserialize;

use super::MACHINE;
use super::entry::take_away;
use crate::Error;

/// What is added to the name of a machine that is not what was saved.
const DAMAGED: &str = "damaged";

/// What a machine's own description says here: the saved machine that its disk lies over.
#[derive(Deserialize)]
struct Description {
    over: Option<PathBuf>,
}

/// Whether the entry `key` of `machines` is marked.
pub(super) fn is_marked(machines: &Path, key: &str) -> bool {
    mark_of(machines, key).exists()
}

/// Marks the entry `key` of `machines`, from which no fork could be made for that `error`, the one below it that the error is
/// of, and all that lie over this one: whoever forked them would find the same.
pub(super) fn mark(machines: &Path, key: &str, error: &Error) -> Result<(), Error> {
    let dir = match error {
        Error::Machine(Machine::Altered { dir, .. } | Machine::NoMachine { dir, .. }) => Some(dir),
        _ => None,
    };
    let below = dir.and_then(|dir| key_of(&absolute(machines), dir));
    mark_all(machines, &with_those_above(machines, below.into_iter().chain([key.to_owned()]).collect()))
}

/// Removes the machines of a build that are marked, and those that lie over them. Nobody else uses it meanwhile.
pub(super) fn sweep(build: &Path) {
    let entries = fs::read_dir(build).into_iter().flatten().flatten().map(|entry| entry.path());
    let marks = entries.filter(|path| path.extension().is_some_and(|end| end == DAMAGED));
    let marked: BTreeSet<String> = marks.filter_map(|mark| name(&mark.with_extension(""))).collect();
    // One may have been saved over another before that was marked.
    let all = with_those_above(build, marked);
    let left = |error: Error| tracing::warn!("a damaged machine is left: {error}");
    if let Err(error) = mark_all(build, &all) {
        return left(error);
    }
    for key in &all {
        // The mark goes last: without it the machine would count.
        let mark = mark_of(build, key);
        let removed = take_away(&build.join(key))
            .and_then(|()| fs::remove_file(&mark).map_err(Error::file("removing", &mark)));
        if let Err(error) = removed {
            left(error);
        }
    }
}

fn mark_all(machines: &Path, keys: &BTreeSet<String>) -> Result<(), Error> {
    let mark = |key| {
        let mark = mark_of(machines, key);
        File::create(&mark).map(drop).map_err(Error::file("writing", &mark))
    };
    // One that cannot be marked keeps none of the others.
    keys.iter().map(|key| mark(key)).fold(Ok(()), Result::and)
}

fn mark_of(machines: &Path, key: &str) -> PathBuf {
    machines.join(format!("{key}.{DAMAGED}"))
}

/// The entries `keys` of `machines`, and all that have one of them below.
fn with_those_above(machines: &Path, mut keys: BTreeSet<String>) -> BTreeSet<String> {
    if keys.is_empty() {
        return keys;
    }
    let place = absolute(machines);
    let entries = fs::read_dir(machines).into_iter().flatten().flatten().map(|entry| entry.path());
    let over = |entry: PathBuf| Some((name(&entry)?, key_of(&place, &below(&entry)?)?));
    let all: Vec<(String, String)> = entries.filter_map(over).collect();
    loop {
        let is_new = |(key, below): &&(String, String)| keys.contains(below) && !keys.contains(key);
        let more: Vec<String> = all.iter().filter(is_new).map(|(key, _)| key.clone()).collect();
        if more.is_empty() {
            return keys;
        }
        keys.extend(more);
    }
}

/// The saved machine that the one in the entry `entry` lies over. What is no whole entry has none.
fn below(entry: &Path) -> Option<PathBuf> {
    if entry.extension().is_some() {
        return None;
    }
    let text = fs::read(entry.join(MACHINE).join("machine.json")).ok()?;
    serde_json::from_slice::<Description>(&text).ok()?.over
}

/// The entry of `machines`, an absolute path, in which the saved machine `dir` lies.
fn key_of(machines: &Path, dir: &Path) -> Option<String> {
    let first = dir.strip_prefix(machines).ok()?.iter().next()?;
    Some(first.to_string_lossy().into_owned())
}

/// As machines have their own paths.
fn absolute(dir: &Path) -> PathBuf {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
}

fn name(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::in_use::alone_at_last;
    use super::super::{Store, Verdicts};
    use super::*;

    /// Saves a machine that lies over the one of the entry `below`.
    fn saved(store: &Store, key: &str, below: Option<&str>) -> PathBuf {
        let part = store.begin(key).unwrap();
        let machine = part.path().join(MACHINE);
        fs::create_dir(&machine).unwrap();
        let over = below.map(|below| absolute(store.machines()).join(below).join(MACHINE));
        let told = serde_json::json!({ "version": 1, "over": over });
        fs::write(machine.join("machine.json"), told.to_string()).unwrap();
        part.finish().unwrap()
    }

    fn altered(entry: &Path) -> Error {
        let dir = absolute(entry).join(MACHINE);
        Machine::Altered { dir, part: "disk.qcow2".into() }.into()
    }

    #[test]
    fn a_damaged_base_takes_all_that_lies_over_it_along_and_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        let base = saved(&store, "base", None);
        let above = [
            saved(&store, "child", Some("base")),
            saved(&store, "sibling", Some("base")),
            saved(&store, "grandchild", Some("child")),
        ];
        let others = [saved(&store, "other", None), saved(&store, "beside", Some("other"))];
        // Whoever forks the child finds the base altered.
        store.discard("child", &altered(&base)).unwrap();
        for key in ["base", "child", "sibling", "grandchild"] {
            assert!(store.saved(key).is_none(), "{key}");
        }
        assert!(store.saved("other").is_some() && store.saved("beside").is_some());
        // Its disk was forked before that.
        let late = saved(&store, "late", Some("grandchild"));
        let dir = store.dir.clone();
        drop(store);
        drop(alone_at_last(&dir));
        let next = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        assert!(!base.exists() && !late.exists() && !above.iter().any(|dir| dir.exists()));
        assert!(others.iter().all(|dir| dir.is_dir()));
        let marks = fs::read_dir(next.machines()).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(marks.filter(|path| path.extension().is_some_and(|end| end == DAMAGED)).count(), 0);
    }

    #[test]
    fn what_lies_below_a_damaged_machine_stays() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::open(cache.path(), Verdicts::Reuse).unwrap();
        saved(&store, "base", None);
        let child = saved(&store, "child", Some("base"));
        store.discard("child", &altered(&child)).unwrap();
        assert!(store.saved("base").is_some() && store.saved("child").is_none());
        // What is known of it is of the entry itself, wherever it is read from.
        let source = std::io::ErrorKind::NotFound.into();
        let gone = Error::Saved { path: "/elsewhere/story.json".into(), source };
        store.discard("base", &gone).unwrap();
        assert!(store.saved("base").is_none());
    }
}
