//! Files as GRUB opens them: opening measures.
//!
//! Source: GRUB 2.06, `grub-core/kern/verifiers.c` (all but signatures and the memory disk), `grub-core/commands/tpm.c`.

use bytes::Bytes;
use latchkey_disk::esp::Entry;
use latchkey_record::{Origin, Stage};

use super::devices::{self, Device};
use super::run::{FILES, Run, Stop};
use crate::chain::kind;

impl Run<'_, '_> {
    /// A file as GRUB finds it by `name`, with the name by which a forecast calls it. Opening it measures it.
    pub(crate) fn open(&mut self, name: &str) -> Result<Option<(String, Bytes)>, Stop> {
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
        let Some((device, path)) = self.place(name) else { return Ok(None) };
        let (label, bytes) = match device {
            Device::Memdisk => {
                let Some(disk) = self.core.memdisk.as_deref() else { return Ok(None) };
                let Ok(file) = devices::in_memdisk(disk, &path) else {
                    return self.unmodelled("GRUB's memory disk cannot be read here");
                };
                ("memdisk".to_owned(), file.map(Bytes::from))
            }
            Device::Partition(number) => match devices::volume(self.chain.target, number) {
                Some(volume) => (volume.name().to_owned(), volume.read(&path)?),
                None => return self.readable(number).map(|()| None),
            },
        };
        Ok(bytes.map(|bytes| (format!("{label}:{path}"), bytes)))
    }

    /// Whether a directory or file is there, which measures nothing: its kind.
    pub(crate) fn looks(&mut self, name: &str) -> Result<Option<bool>, Stop> {
        let Some((Device::Partition(number), path)) = self.place(name) else {
            return Ok(self.find(name)?.map(|_| false));
        };
        let Some(volume) = devices::volume(self.chain.target, number) else {
            return self.readable(number).map(|()| None);
        };
        if path == "/" || volume.list(&path)?.is_some() {
            return Ok(Some(true));
        }
        Ok(volume.read(&path)?.map(|_| false))
    }

    /// What is in a directory, in the order in which it lies there. Measures nothing.
    pub(crate) fn list(&mut self, name: &str) -> Result<Option<Vec<Entry>>, Stop> {
        let Some((Device::Partition(number), path)) = self.place(name) else { return Ok(None) };
        match devices::volume(self.chain.target, number) {
            Some(volume) => Ok(volume.list(&path)?),
            None => self.readable(number).map(|()| None),
        }
    }

    fn place(&self, name: &str) -> Option<(Device, String)> {
        let (device, path) = match name.strip_prefix('(') {
            Some(rest) => rest.split_once(')')?,
            None => (self.env.get("root"), name),
        };
        // Behind a device that is no path, but a list of blocks.
        if !path.is_empty() && !path.starts_with('/') {
            return None;
        }
        let mut clean = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            clean.push('/');
            clean.push_str(part);
        }
        Some((Device::parse(device)?, if clean.is_empty() { "/".into() } else { clean }))
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
