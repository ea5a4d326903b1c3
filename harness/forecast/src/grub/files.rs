//! Files as GRUB opens them: opening measures.
//!
//! Source: GRUB 2.06, `grub-core/kern/verifiers.c` (all but signatures and the memory disk), `grub-core/commands/tpm.c`.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use latchkey_disk::esp::{Entry, EntryKind};
use latchkey_record::{Origin, Stage};

use super::devices::{self, Device};
use super::run::{FILES, Run, Stop};
use crate::chain::kind;

/// Most bytes of files that one boot may read. Initrds have some hundred megabytes at most, and what is read is kept.
const MOST_BYTES: usize = 2 << 30;
/// Most questions that one boot may ask file systems, each search by UUID or label and each file or directory that was not
/// asked for before: a large directory takes a while to go through.
const MOST_QUESTIONS: usize = 10_000;
/// Longest name of a file, in bytes. Events are called by it.
const LONGEST: usize = 1024;

/// A path on a device.
type Place = (Device, String);

/// What file systems were asked, with their answers: nobody writes to them as GRUB runs, so that each file is read once,
/// however often a script asks for it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    files: BTreeMap<Place, Option<Bytes>>,
    kinds: BTreeMap<Place, Option<EntryKind>>,
    lists: BTreeMap<Place, Option<Rc<[Entry]>>>,
    questions: usize,
    bytes: usize,
}

impl Run<'_, '_> {
    /// A file as GRUB finds it by `name`, with the name by which a forecast calls it. Opening it measures it.
    pub(crate) fn open(&mut self, name: &str) -> Result<Option<(String, Bytes)>, Stop> {
        self.counted()?;
        let found = self.find(name)?;
        if let Some((label, bytes)) = &found
            && !label.starts_with("memdisk:")
            && self.core.modules.contains("tpm")
        {
            let what = format!("file {name}");
            self.chain.measure_part(Stage::Grub, FILES, kind::IPL, bytes, &what, Origin::File(label.clone()));
        }
        Ok(found)
    }

    /// As [`Self::open`], without measuring.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<(String, Bytes)>, Stop> {
        let Some(place) = self.place(name)? else { return Ok(None) };
        let label = match place.0 {
            Device::Memdisk => "memdisk",
            Device::Partition(number) => match devices::volume(self.chain.target, number) {
                Some(volume) => volume.name(),
                None => return self.readable(number).map(|()| None),
            },
        };
        let bytes = match self.seen.files.get(&place) {
            Some(known) => known.clone(),
            None => {
                let read = self.read(&place)?;
                self.seen.files.insert(place.clone(), read.clone());
                read
            }
        };
        Ok(bytes.map(|bytes| (format!("{label}:{}", place.1), bytes)))
    }

    /// Reads a file that was not read yet.
    fn read(&mut self, (device, path): &Place) -> Result<Option<Bytes>, Stop> {
        self.asks()?;
        let read = match device {
            Device::Memdisk => {
                let file = self.core.memdisk.as_deref().map(|disk| devices::in_memdisk(disk, path));
                match file.transpose() {
                    Ok(file) => file.flatten().map(Bytes::from),
                    Err(devices::Unreadable) => {
                        return self.unmodelled("GRUB's memory disk cannot be read here");
                    }
                }
            }
            Device::Partition(number) => match devices::volume(self.chain.target, *number) {
                Some(volume) => volume.read(path)?,
                None => None,
            },
        };
        self.keeps(read.as_ref().map_or(0, Bytes::len))?;
        Ok(read)
    }

    /// So many bytes more that are kept.
    fn keeps(&mut self, length: usize) -> Result<(), Stop> {
        self.seen.bytes = self.seen.bytes.saturating_add(length);
        match self.seen.bytes > MOST_BYTES {
            true => self.unmodelled("it reads more than is read here"),
            false => Ok(()),
        }
    }

    /// One question more to file systems.
    pub(super) fn asks(&mut self) -> Result<(), Stop> {
        self.seen.questions += 1;
        match self.seen.questions > MOST_QUESTIONS {
            true => self.unmodelled("it asks file systems more questions than are answered here"),
            false => Ok(()),
        }
    }

    /// Whether a directory or file is there, which measures nothing: whether it is a directory. It is looked for in the
    /// directory that it stands in, where a link is a file, wherever it leads (`grub-core/commands/test.c`, `get_fileinfo`).
    pub(crate) fn looks(&mut self, name: &str) -> Result<Option<bool>, Stop> {
        let Some(place) = self.place(name)? else { return Ok(None) };
        let Device::Partition(number) = place.0 else { return Ok(self.find(name)?.map(|_| false)) };
        let Some(volume) = devices::volume(self.chain.target, number) else {
            return self.readable(number).map(|()| None);
        };
        if place.1 == "/" {
            return Ok(Some(true));
        }
        let kind = match self.seen.kinds.get(&place) {
            Some(known) => *known,
            None => {
                self.asks()?;
                let kind = volume.kind(&place.1)?;
                self.seen.kinds.insert(place.clone(), kind);
                kind
            }
        };
        let there = kind.map(|kind| kind == EntryKind::Directory);
        // A FAT has no links, and one to a file is a file as well.
        if there == Some(false) || devices::esp_number(self.chain.target) == Some(number) {
            return Ok(there);
        }
        let (directory, name) = place.1.rsplit_once('/').unwrap_or_default();
        let directory = if directory.is_empty() { "/" } else { directory };
        let entries = self.list_at((place.0, directory.to_owned()))?;
        let listed = entries.as_ref().and_then(|entries| entries.iter().find(|entry| entry.name == name));
        Ok(listed.map(|entry| entry.kind == EntryKind::Directory).or(there))
    }

    /// What is in a directory, in the order in which it lies there. Measures nothing.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Rc<[Entry]>>, Stop> {
        match self.place(name)? {
            Some(place) => self.list_at(place),
            None => Ok(None),
        }
    }

    fn list_at(&mut self, place: Place) -> Result<Option<Rc<[Entry]>>, Stop> {
        let Device::Partition(number) = place.0 else { return Ok(None) };
        let Some(volume) = devices::volume(self.chain.target, number) else {
            return self.readable(number).map(|()| None);
        };
        if let Some(known) = self.seen.lists.get(&place) {
            return Ok(known.clone());
        }
        self.asks()?;
        let list: Option<Rc<[Entry]>> = volume.list(&place.1)?.map(Rc::from);
        let length = |entry: &Entry| size_of::<Entry>() + entry.name.len();
        self.keeps(list.iter().flat_map(|list| list.iter()).map(length).sum())?;
        self.seen.lists.insert(place, list.clone());
        Ok(list)
    }

    fn place(&mut self, name: &str) -> Result<Option<Place>, Stop> {
        let (device, path) = match name.strip_prefix('(') {
            Some(rest) => match rest.split_once(')') {
                Some(parted) => parted,
                None => return Ok(None),
            },
            None => (self.env.get("root"), name),
        };
        // Behind a device that is no path, but a list of blocks.
        if !path.is_empty() && !path.starts_with('/') {
            return Ok(None);
        }
        let Some(device) = Device::parse(device) else { return Ok(None) };
        if path.len() > LONGEST {
            return self.unmodelled("a file's name that is as long as this one is not modelled");
        }
        let mut clean = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            clean.push('/');
            clean.push_str(part);
        }
        Ok(Some((device, if clean.is_empty() { "/".into() } else { clean })))
    }

    /// Ends the forecast when partition `number` may have files that are not seen here.
    pub(crate) fn readable(&mut self, number: u32) -> Result<(), Stop> {
        match devices::unread(self.chain.target, number) {
            Some(number) => {
                self.unmodelled(&format!("the file system of partition {number} is none that is read here"))
            }
            None => Ok(()),
        }
    }
}
