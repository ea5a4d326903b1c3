//! Which images of one name are not the same in two runs, and what is in another version on them.

use std::collections::{BTreeMap, BTreeSet};

use latchkey_record::RunResults;
use serde::Serialize;

use super::Pair;

/// What is in another version on an image than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionChange {
    /// What it is, such as `shim`.
    pub what: String,
    /// Its versions: of several images of one name one after the other, and `none told` where a run tells none.
    #[serde(flatten)]
    pub version: Pair<String>,
}

/// Stands for the version of what a run does not tell one of.
const UNTOLD: &str = "none told";

/// By image what is in other versions, where both runs tell some.
pub(super) fn versions(one: &RunResults, other: &RunResults) -> BTreeMap<String, Vec<VersionChange>> {
    let (before, after) = (versions_of(one), versions_of(other));
    let differ = |(image, was): (&&str, &Versions<'_>)| {
        let is = after.get(*image)?;
        let names: BTreeSet<&str> = was.keys().chain(is.keys()).copied().collect();
        let change = |what: &str| {
            let version = Pair::of(told(was, what), told(is, what))?;
            Some(VersionChange { what: what.to_owned(), version })
        };
        let changes: Vec<_> = names.into_iter().filter_map(change).collect();
        (!changes.is_empty()).then(|| ((*image).to_owned(), changes))
    };
    before.iter().filter_map(differ).collect()
}

/// Of an image, of all those of its name: by what it is, in which versions.
type Versions<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

fn versions_of(run: &RunResults) -> BTreeMap<&str, Versions<'_>> {
    let mut all = BTreeMap::<_, Versions<'_>>::new();
    for one in &run.images {
        let of_image = all.entry(one.image.as_str()).or_default();
        for (what, version) in &one.versions {
            of_image.entry(what).or_default().insert(version);
        }
    }
    all
}

fn told(versions: &Versions<'_>, what: &str) -> String {
    let all = versions.get(what).map(|all| all.iter().copied().collect::<Vec<_>>().join("; "));
    all.unwrap_or_else(|| UNTOLD.to_owned())
}

/// What stands between an image and its content, which an older run does not tell.
const CONTENT: &str = ", content ";

/// Images of one name that are different ones.
pub(super) fn different(one: &RunResults, other: &RunResults) -> BTreeMap<String, Pair<String>> {
    let of = |run: &RunResults| -> BTreeMap<String, BTreeSet<String>> {
        let mut all = BTreeMap::<_, BTreeSet<_>>::new();
        for row in &run.scenarios {
            all.entry(row.image.clone()).or_default().extend(row.image_identity.clone());
        }
        all
    };
    let told = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join("; ");
    let (before, after) = (of(one), of(other));
    let differ = |(name, was): (&String, &BTreeSet<String>)| {
        let is = after.get(name).filter(|is| !is.is_empty() && !was.is_empty())?;
        (!are_same(was, is)).then(|| (name.clone(), Pair { one: told(was), other: told(is) }))
    };
    before.iter().filter_map(differ).collect()
}

/// Whether they are the same images, as far as both sides tell their content.
fn are_same(one: &BTreeSet<String>, other: &BTreeSet<String>) -> bool {
    let (one, other) = (contents(one), contents(other));
    let fit = |(one, other): (&BTreeSet<_>, &BTreeSet<_>)| one.is_empty() || other.is_empty() || one == other;
    one.keys().eq(other.keys()) && one.values().zip(other.values()).all(fit)
}

/// The contents that are told of each image.
fn contents(identities: &BTreeSet<String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all = BTreeMap::<_, BTreeSet<_>>::new();
    for identity in identities {
        let (image, content) = match identity.rsplit_once(CONTENT) {
            Some((image, content)) => (image, Some(content)),
            None => (identity.as_str(), None),
        };
        all.entry(image).or_default().extend(content);
    }
    all
}
