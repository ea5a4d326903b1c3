//! What all rehearsals on one image have in common: the image's files, read once, and what was computed of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use latchkey_disk::gpt::Gpt;
use latchkey_disk::{Access, OpenDisk};
use latchkey_forecast::Memo;
use latchkey_machine::Hardware;
use latchkey_record::HashAlg;

use super::sheet::Sheet;
use crate::Error;
use crate::context::Context;
use crate::model::{Model, first_sectors};
use crate::step::Place;

/// What rehearsals on one image share.
#[derive(Debug)]
pub struct Desk<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) table: Vec<u8>,
    pub(super) partitions: Gpt,
    pub(super) volumes: Volumes,
    pub(super) memo: Memo,
    models: RefCell<BTreeMap<String, Rc<Model>>>,
    made: RefCell<BTreeMap<String, Bytes>>,
}

impl<'a> Desk<'a> {
    /// Reads the image of `context`: its partition table, and all that boot loaders can read.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn new(context: &'a Context<'a>) -> Result<Self, Error> {
        let mut disk = OpenDisk::open(&context.image.path, Access::ReadOnly)?;
        let partitions = disk.table()?;
        let table = first_sectors(&disk, &context.image.path)?;
        let esp = Sheet::of_esp(&disk.esp()?)?;
        let kernels = disk.kernels()?;
        let boot =
            kernels.as_ref().map(|kernels| Ok::<_, Error>((kernels.number(), Sheet::of_kernels(kernels)?)));
        let boot = boot.transpose()?;
        drop(kernels);
        disk.close()?;
        let (models, made) = (RefCell::default(), RefCell::default());
        let volumes = Volumes { esp, boot };
        Ok(Self { context, table, partitions, volumes, memo: Memo::default(), models, made })
    }

    /// What the forecasts of machines with this hardware and these banks are made from.
    pub(super) fn model_of(&self, hardware: &Hardware, banks: &[HashAlg]) -> Result<Rc<Model>, Error> {
        let key = format!("{hardware:?} {banks:?}");
        if let Some(model) = self.models.borrow().get(&key) {
            return Ok(model.clone());
        }
        let Context { host, variables, platform, .. } = self.context;
        // The same bytes, so that what is known of them is known of all models.
        let firmware = self.models.borrow().values().next().map(|model| model.firmware.clone());
        let model = Rc::new(match firmware {
            Some(firmware) => Model::with_firmware(firmware, host, hardware, variables, banks, platform)?,
            None => Model::new(host, hardware, variables, banks, platform)?,
        });
        self.models.borrow_mut().insert(key, model.clone());
        Ok(model)
    }

    /// What `make` makes, which is called `what`: made once for all rehearsals on this image.
    pub(super) fn once(
        &self,
        what: String,
        make: &dyn Fn() -> Result<Vec<u8>, Error>,
    ) -> Result<Bytes, Error> {
        if let Some(made) = self.made.borrow().get(&what) {
            return Ok(made.clone());
        }
        let made = Bytes::from(make()?);
        self.made.borrow_mut().insert(what, made.clone());
        Ok(made)
    }
}

/// The file systems that boot loaders read.
#[derive(Debug, Clone)]
pub(super) struct Volumes {
    pub(super) esp: Sheet,
    /// The partition with kernels, where there is one, and its number.
    pub(super) boot: Option<(u32, Sheet)>,
}

impl Volumes {
    /// The one that `place` is on.
    pub(super) fn at(&self, place: &Place) -> Result<&Sheet, Error> {
        match (place, &self.boot) {
            (Place::Esp(_), _) => Ok(&self.esp),
            (Place::Boot(_), Some((_, sheet))) => Ok(sheet),
            (Place::Boot(_), None) => Err(no_kernels()),
        }
    }

    /// The same, to be changed.
    pub(super) fn at_mut(&mut self, place: &Place) -> Result<&mut Sheet, Error> {
        match (place, &mut self.boot) {
            (Place::Esp(_), _) => Ok(&mut self.esp),
            (Place::Boot(_), Some((_, sheet))) => Ok(sheet),
            (Place::Boot(_), None) => Err(no_kernels()),
        }
    }
}

fn no_kernels() -> Error {
    Error::Bench("the disk has no partition with kernels".into())
}
