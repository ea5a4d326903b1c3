//! Steps that put a file in another's place, and back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artefact::artefact;
use super::files::{By, Change};
use super::place::{Site, place, room_for};
use super::{Artefact, Fault, SoFar};
use crate::Error;
use crate::location::Location;

/// See [`super::Step::Replace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Replace {
    /// Which file: a path on the ESP, or `uki` for the one the image boots.
    pub file: Location,
    /// The artefact to put there.
    pub with: Artefact,
    /// Who does it.
    pub by: By,
    /// What that comes to.
    #[serde(default, skip_serializing_if = "Replaced::is_done")]
    pub expect: Replaced,
}

/// What putting a file in another's place comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Replaced {
    /// It is there.
    #[default]
    Done,
    /// It is written beside the other first, as packages do, in the guest: there is no room for it, and the other stays.
    NoRoom,
    /// It is written over the other, in the guest, and there is room for its beginning alone.
    CutOff,
}

impl Replaced {
    fn is_done(&self) -> bool {
        *self == Self::Done
    }
}

/// See [`super::Step::Restore`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Restore {
    /// Which file, as `replace` named it.
    pub file: Location,
    /// Who does it.
    pub by: By,
}

impl Change for Replace {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let bytes = artefact(site, self.with)?;
        let place = place(site.image(), &self.file)?;
        match self.expect {
            Replaced::Done => site.put(&place, &bytes, self.by),
            Replaced::NoRoom if site.has_room_beside(&place, &bytes)? => Err(room_for(&place)),
            Replaced::NoRoom => Ok(()),
            Replaced::CutOff => site.put_as_it_fits(&place, &bytes),
        }
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        let (file, with, by) = (&self.file, self.with.name(), self.by);
        match self.expect {
            Replaced::Done => format!("replace {file} with {with} {by}"),
            Replaced::NoRoom => format!("try to replace {file} with {with} {by}: no room"),
            Replaced::CutOff => {
                format!("write {with} over {file} {by}: there is room for its beginning alone")
            }
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        if self.expect != Replaced::Done && self.by != By::Guest {
            return Err(("only a guest's update finds no room".into(), "say `by = \"guest\"`"));
        }
        so_far.changed(self.by)
    }

    fn artefact(&self) -> Option<Artefact> {
        Some(self.with)
    }
}

impl Change for Restore {
    fn change(&self, site: &mut dyn Site) -> Result<(), Error> {
        let place = place(site.image(), &self.file)?;
        let bytes = site.bytes_in_image(&place)?;
        site.put(&place, &bytes, self.by)
    }

    fn by(&self) -> By {
        self.by
    }

    fn describe(&self) -> String {
        format!("restore {} {}", self.file, self.by)
    }
}
