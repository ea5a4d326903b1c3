//! A rehearsal as a place where steps change files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use latchkey_forecast::Volume;
use latchkey_images::{Image, Pki};

use super::Rehearsal;
use crate::Error;
use crate::step::{Artefact, By, Place, Room, Site, room_for};

impl Site for Rehearsal<'_> {
    fn image(&self) -> &Image {
        self.desk.context.image
    }

    fn pki(&self) -> &Pki {
        self.desk.context.pki
    }

    fn artefacts(&self) -> &BTreeMap<Artefact, PathBuf> {
        &self.desk.context.artefacts
    }

    fn bytes_in_image(&self, place: &Place) -> Result<Bytes, Error> {
        let read = self.desk.volumes.at(place)?.read(place.path());
        let bytes = read.map_err(|e| Error::Bench(e.to_string()))?;
        bytes.ok_or_else(|| Error::Bench(format!("the image has no {place}")))
    }

    fn once(&self, what: String, make: &dyn Fn() -> Result<Vec<u8>, Error>) -> Result<Bytes, Error> {
        self.desk.once(what, make)
    }

    fn put(&mut self, place: &Place, bytes: &Bytes, by: By) -> Result<(), Error> {
        self.changes(place, by)?;
        let full = self.room == Room::Gone && matches!(place, Place::Esp(_));
        let sheet = self.volumes.at_mut(place)?;
        // What a file had is free once it is overwritten.
        let had = || sheet.read(place.path()).ok().flatten().map_or(0, |file| file.len());
        if full && had() < bytes.len() {
            return Err(Error::Verdict(format!("the ESP is full: it has no room for {place}")));
        }
        sheet.create_dir_all(place.path().rsplit_once('/').map_or("", |(dir, _)| dir))?;
        sheet.put(place.path(), bytes.clone())
    }

    /// What the file had is free once it is written over.
    fn put_as_it_fits(&mut self, place: &Place, bytes: &Bytes) -> Result<(), Error> {
        self.changes(place, By::Guest)?;
        if self.room == Room::Left || !matches!(place, Place::Esp(_)) {
            return Err(room_for(place));
        }
        let sheet = self.volumes.at_mut(place)?;
        let had = sheet.read(place.path()).ok().flatten().map_or(0, |file| file.len());
        let fits = had.next_multiple_of(sheet.cluster());
        if fits >= bytes.len() {
            return Err(room_for(place));
        }
        sheet.put(place.path(), bytes.slice(..fits))
    }

    fn has_room_beside(&mut self, place: &Place, _bytes: &Bytes) -> Result<bool, Error> {
        Ok(!matches!(place, Place::Esp(_)) || self.room == Room::Left)
    }

    fn remove(&mut self, place: &Place, by: By) -> Result<(), Error> {
        self.changes(place, by)?;
        if matches!(place, Place::Esp(_)) {
            self.room = Room::Left;
        }
        self.volumes.at_mut(place)?.remove(place.path()).map(drop)
    }

    fn rename(&mut self, from: &Place, name: &str, by: By) -> Result<(), Error> {
        self.changes(from, by)?;
        self.volumes.at_mut(from)?.rename(from.path(), name)?;
        match by {
            By::Guest | By::AnotherVm if from.is_called(name) => Err(Error::Verdict(format!(
                "{from} is called {name} already: `mv` refuses to rename a file to itself"
            ))),
            _ => Ok(()),
        }
    }
}
