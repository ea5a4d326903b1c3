//! A file system in memory, with the changes that a scenario would make.

use std::collections::BTreeMap;

use bytes::Bytes;
use latchkey_disk::esp::{Entry, EntryKind};
use latchkey_disk::{Esp, Kernels};
use latchkey_forecast::{Volume, VolumeError};

use crate::Error;

/// Characters of a file's name in one of FAT's directory entries for long names (Microsoft's "FAT: General Overview of
/// On-Disk Format" 1.03, page 28).
const NAME_PART: usize = 13;

/// Whether names that differ in case alone are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Same,
    Differs,
}

/// A place in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slot {
    Taken(Entry),
    /// So many directory entries in a row that nothing uses.
    Free(usize),
}

/// A file system in memory. A copy of it shares the files' bytes.
#[derive(Debug, Clone)]
pub(crate) struct Sheet {
    name: &'static str,
    case: Case,
    /// Of an XFS its features. What its guest changes then reaches a boot loader only once it was unmounted.
    pub(super) xfs: Option<u32>,
    uuid: Option<String>,
    label: Option<String>,
    /// What a file takes is a multiple of so many bytes.
    cluster: usize,
    /// By path without a slash at its start; the root's is empty.
    dirs: BTreeMap<String, Vec<Slot>>,
    files: BTreeMap<String, Bytes>,
}

impl Sheet {
    /// All of an EFI system partition.
    pub(crate) fn of_esp(esp: &Esp) -> Result<Self, Error> {
        let mut sheet = Self {
            name: "esp",
            case: Case::Same,
            xfs: None,
            uuid: esp.uuid().ok(),
            label: esp.label().ok().flatten(),
            cluster: esp.cluster()?,
            dirs: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        sheet.fill(&|path| Ok(esp.list(path)?), &|path| Ok(esp.read(path)?))?;
        Ok(sheet)
    }

    /// All of a partition with kernels.
    pub(crate) fn of_kernels(kernels: &Kernels) -> Result<Self, Error> {
        let mut sheet = Self {
            name: "boot",
            case: Case::Differs,
            xfs: kernels.xfs_features(),
            uuid: Some(kernels.uuid()),
            label: Some(kernels.label()),
            cluster: 1,
            dirs: BTreeMap::new(),
            files: BTreeMap::new(),
        };
        sheet.fill(&|path| Ok(kernels.list(path)?.unwrap_or_default()), &|path| {
            Ok(kernels.read(path)?.unwrap_or_default())
        })?;
        Ok(sheet)
    }

    fn fill(
        &mut self,
        list: &dyn Fn(&str) -> Result<Vec<Entry>, Error>,
        read: &dyn Fn(&str) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        let mut open = vec![String::new()];
        while let Some(dir) = open.pop() {
            let entries = list(&format!("/{dir}"))?;
            for entry in &entries {
                let path = join(&dir, &entry.name);
                match entry.kind {
                    EntryKind::Directory => open.push(path),
                    EntryKind::File { .. } => {
                        self.files.insert(self.key(&path), read(&format!("/{path}"))?.into());
                    }
                }
            }
            self.dirs.insert(self.key(&dir), entries.into_iter().map(Slot::Taken).collect());
        }
        Ok(())
    }

    pub(super) fn cluster(&self) -> usize {
        self.cluster
    }

    fn key(&self, path: &str) -> String {
        let parts = path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        match self.case {
            Case::Same => parts.to_lowercase(),
            Case::Differs => parts,
        }
    }

    /// Makes `bytes` the contents of the file at `path`, in a directory that is there.
    pub(crate) fn put(&mut self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let size = bytes.len() as u64;
        let new = self.files.insert(self.key(path), bytes).is_none();
        let (case, name) = (self.case, file_name(path).to_owned());
        let dir = self.dir_of(path)?;
        if new {
            add(dir, Entry { name, kind: EntryKind::File { size } });
            return Ok(());
        }
        for slot in dir {
            if let Slot::Taken(entry) = slot
                && same(case, &entry.name, &name)
            {
                entry.kind = EntryKind::File { size };
            }
        }
        Ok(())
    }

    /// Makes a directory and those above it, unless they are there.
    pub(crate) fn create_dir_all(&mut self, path: &str) -> Result<(), Error> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        for depth in 1..=parts.len() {
            let dir = parts[..depth].join("/");
            if self.dirs.contains_key(&self.key(&dir)) {
                continue;
            }
            let entry = Entry { name: parts[depth - 1].to_owned(), kind: EntryKind::Directory };
            add(self.dir_of(&dir)?, entry);
            self.dirs.insert(self.key(&dir), Vec::new());
        }
        Ok(())
    }

    /// Removes the file at `path`.
    pub(crate) fn remove(&mut self, path: &str) -> Result<Bytes, Error> {
        let missing = || Error::Bench(format!("there is no {}:{path}", self.name));
        let bytes = self.files.get(&self.key(path)).cloned().ok_or_else(missing)?;
        self.files.remove(&self.key(path));
        let (case, name) = (self.case, file_name(path));
        for slot in self.dir_of(path)? {
            if let Slot::Taken(entry) = slot
                && same(case, &entry.name, name)
            {
                *slot = Slot::Free(width(name));
            }
        }
        Ok(bytes)
    }

    /// Gives the file at `path` another name in its directory: Linux makes the new entry before the old one goes
    /// (`fs/fat/namei_vfat.c`, `vfat_rename`). One that differs in case alone, where that counts for nothing, is another
    /// spelling of the same entry.
    pub(crate) fn rename(&mut self, path: &str, name: &str) -> Result<(), Error> {
        let missing = || Error::Bench(format!("there is no {}:{path}", self.name));
        let bytes = self.files.get(&self.key(path)).cloned().ok_or_else(missing)?;
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let to = join(dir, name);
        if self.key(&to) == self.key(path) {
            return self.spell(path, name);
        }
        self.put(&to, bytes)?;
        self.remove(path).map(drop)
    }

    /// Spells the name of the file at `path`, which stays where it is, as `name`.
    fn spell(&mut self, path: &str, name: &str) -> Result<(), Error> {
        let (case, old) = (self.case, file_name(path));
        for slot in self.dir_of(path)? {
            if let Slot::Taken(entry) = slot
                && same(case, &entry.name, old)
            {
                name.clone_into(&mut entry.name);
            }
        }
        Ok(())
    }

    fn dir_of(&mut self, path: &str) -> Result<&mut Vec<Slot>, Error> {
        let dir = self.key(path.rsplit_once('/').map_or("", |(dir, _)| dir));
        let missing = Error::Bench(format!("there is no directory for {}:{path}", self.name));
        self.dirs.get_mut(&dir).ok_or(missing)
    }
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

fn same(case: Case, one: &str, other: &str) -> bool {
    match case {
        Case::Same => one.eq_ignore_ascii_case(other),
        Case::Differs => one == other,
    }
}

/// Directory entries that a name takes: one, and those for the long form.
fn width(name: &str) -> usize {
    1 + name.len().div_ceil(NAME_PART)
}

/// Puts an entry where FAT does: into the first row of free places that is long enough, or at the end.
fn add(dir: &mut Vec<Slot>, entry: Entry) {
    let wanted = width(&entry.name);
    let at = dir.iter().position(|slot| matches!(slot, Slot::Free(count) if *count >= wanted));
    match at.map(|at| (at, &dir[at])) {
        Some((at, Slot::Free(count))) => {
            let left = count - wanted;
            dir[at] = Slot::Taken(entry);
            if left > 0 {
                dir.insert(at + 1, Slot::Free(left));
            }
        }
        _ => dir.push(Slot::Taken(entry)),
    }
}

impl Volume for Sheet {
    fn name(&self) -> &str {
        self.name
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        Ok(self.files.get(&self.key(path)).cloned())
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        let taken = |slot: &Slot| match slot {
            Slot::Taken(entry) => Some(entry.clone()),
            Slot::Free(_) => None,
        };
        Ok(self.dirs.get(&self.key(path)).map(|slots| slots.iter().filter_map(taken).collect()))
    }

    fn uuid(&self) -> Option<String> {
        self.uuid.clone()
    }

    fn label(&self) -> Option<String> {
        self.label.clone()
    }

    fn xfs_features(&self) -> Option<u32> {
        self.xfs
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    fn sheet() -> Sheet {
        let mut sheet = Sheet {
            name: "esp",
            case: Case::Same,
            xfs: None,
            uuid: None,
            label: None,
            cluster: 4096,
            dirs: BTreeMap::from([(String::new(), Vec::new())]),
            files: BTreeMap::new(),
        };
        sheet.create_dir_all("/EFI/rocky").unwrap();
        for name in ["one.efi", "shim_certificate.efi.bak", "two.efi"] {
            sheet.put(&format!("/EFI/rocky/{name}"), Bytes::from(name.to_owned())).unwrap();
        }
        sheet
    }

    fn names(sheet: &Sheet) -> Vec<String> {
        sheet.list("/efi/ROCKY").unwrap().unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn a_renamed_file_stands_at_the_end_and_one_renamed_back_takes_its_place_again() {
        let mut sheet = sheet();
        sheet.rename("/EFI/rocky/shim_certificate.efi.bak", "shim_certificate.efi").unwrap();
        assert_eq!(names(&sheet), ["one.efi", "two.efi", "shim_certificate.efi"]);
        sheet.rename("/EFI/rocky/shim_certificate.efi", "shim_certificate.efi.bak").unwrap();
        assert_eq!(names(&sheet), ["one.efi", "shim_certificate.efi.bak", "two.efi"]);
        let bytes = sheet.read("/efi/rocky/SHIM_CERTIFICATE.EFI.BAK").unwrap().unwrap();
        assert_eq!(&bytes[..], b"shim_certificate.efi.bak");
    }

    #[rstest]
    #[case::its_own("two.efi")]
    #[case::another_case("TWO.efi")]
    fn a_file_that_is_renamed_to_the_same_name_stays_where_it_is(#[case] name: &str) {
        let mut sheet = sheet();
        sheet.remove("/EFI/rocky/one.efi").unwrap();
        sheet.rename("/EFI/rocky/two.efi", name).unwrap();
        assert_eq!(names(&sheet), ["shim_certificate.efi.bak", name]);
        assert_eq!(&sheet.read("/EFI/rocky/two.efi").unwrap().unwrap()[..], b"two.efi");
    }

    #[test]
    fn names_that_differ_in_case_are_two_where_case_counts() {
        let mut sheet = Sheet { case: Case::Differs, ..sheet() };
        sheet.put("/vmlinuz", Bytes::from("kernel")).unwrap();
        sheet.rename("/vmlinuz", "vmlinuz").unwrap();
        assert_eq!(&sheet.read("/vmlinuz").unwrap().unwrap()[..], b"kernel");
        sheet.rename("/vmlinuz", "VMLINUZ").unwrap();
        assert_eq!(sheet.read("/vmlinuz").unwrap(), None);
        assert_eq!(&sheet.read("/VMLINUZ").unwrap().unwrap()[..], b"kernel");
        assert!(sheet.rename("/vmlinuz", "vmlinuz").is_err(), "it is not there");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let mut sheet = sheet();
        assert!(sheet.remove("/EFI/rocky/three.efi").unwrap_err().to_string().contains("three.efi"));
        assert!(sheet.rename("/EFI/rocky/three.efi", "four.efi").is_err());
        assert!(sheet.put("/EFI/none/x", Bytes::new()).unwrap_err().to_string().contains("no directory"));
        assert!(sheet.remove("/EFI/rocky/two.efi").is_ok());
        assert_eq!(sheet.read("/EFI/rocky/two.efi").unwrap(), None);
    }
}
