//! `latchkey image`.

use std::path::PathBuf;

use anyhow::Result;
use latchkey_disk::ImageDescription;
use latchkey_images::{Cache, Error, Listed, Refresh, Usable, list, look, prune, reference};
use latchkey_scenario::diagnostic::no_image;
use serde::Serialize;

use crate::args::{Common, ImageVerb};
use crate::progress::Live;
use crate::{UsageError, cache, print};

/// Lists, builds, describes and removes images.
pub(crate) fn image(common: &Common, verb: &ImageVerb) -> Result<u8> {
    match verb {
        ImageVerb::Build { recipes, refresh } => build(common, recipes, *refresh),
        ImageVerb::List => show_list(common),
        ImageVerb::Inspect { image } => describe(common, image),
        ImageVerb::Prune => remove_old(common),
    }
}

fn build(common: &Common, names: &[String], refresh: bool) -> Result<u8> {
    let cache = cache(common)?;
    let named = names.iter().map(String::as_str).collect();
    let names: Vec<&str> = if names.is_empty() { latchkey_images::names() } else { named };
    let live = Live::new();
    let refresh = if refresh { Refresh::Yes } else { Refresh::No };
    let mut built = Vec::new();
    for name in names {
        built.push(match reference(name, &cache, refresh, &live) {
            Err(Error::UnknownRecipe { .. }) => return Err(UsageError(no_image(name)).into()),
            other => other?,
        });
    }
    live.finish();
    if common.json {
        let rows: Vec<_> = built
            .iter()
            .map(|image| serde_json::json!({"name": image.name, "path": image.path, "manifest": image.manifest}))
            .collect();
        return print(&crate::json(&rows)?);
    }
    print(
        &built.iter().map(|image| format!("{}  {}\n", image.name, image.path.display())).collect::<String>(),
    )
}

/// Whoever asks what there is makes no cache, and no keys in it.
fn listed(common: &Common) -> Result<Vec<Listed>> {
    Ok(list(&Cache::as_it_is(common.cache.as_deref())?)?)
}

fn show_list(common: &Common) -> Result<u8> {
    let rows = listed(common)?;
    if common.json {
        return print(&crate::json(&rows)?);
    }
    let line = |row: &Listed| {
        let state = row.built.as_ref().map_or("not built".to_owned(), |built| {
            format!("built {}, {}, {}", built.at, mib(built.bytes), built.path.display())
        });
        format!("{:<12} {}\n{:<12} {state}\n", row.name, row.title, "")
    };
    print(&rows.iter().map(line).collect::<String>())
}

/// A recipe's image where the word is a recipe's name and no file has it, else a file.
fn describe(common: &Common, image: &str) -> Result<u8> {
    let path = PathBuf::from(image);
    let path = if path.exists() || !latchkey_images::names().contains(&image) {
        path
    } else {
        let built = listed(common)?.into_iter().find(|row| row.name == image).and_then(|row| row.built);
        let missing =
            || UsageError(format!("{image} is not built yet; `cargo xtask image build {image}` does it"));
        built.ok_or_else(missing)?.path
    };
    if !path.exists() {
        return Err(UsageError(format!("there is no file {image}, and {}", no_image(image))).into());
    }
    let description = look(&path).map_err(whose_fault)?;
    let usable = Usable::of(&description);
    if common.json {
        return print(&crate::json(&Described { description, usable })?);
    }
    let told = |verb: &str, against: Option<String>| match against {
        None => format!("  {verb}: yes\n"),
        Some(why) => format!("  {verb}: no, {}\n", why.replace('\n', "\n  ")),
    };
    let (run, forecast) = (told("run --image", usable.run), told("forecast", usable.forecast));
    print(&format!("{description}\nUsable\n{run}{forecast}"))
}

/// A description, and what can be done with the disk.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    description: ImageDescription,
    usable: Usable,
}

/// What is wrong with a user's disk is the command line's fault: another computer would not take it either.
pub(crate) fn whose_fault(error: Error) -> anyhow::Error {
    match error {
        Error::UserImage { .. } => UsageError(error.to_string()).into(),
        ours => ours.into(),
    }
}

fn remove_old(common: &Common) -> Result<u8> {
    let cache = cache(common)?;
    let mut removed = prune(&cache, &Live::new())?;
    removed.extend(latchkey_scenario::store::prune(cache.root())?);
    if common.json {
        let rows: Vec<_> =
            removed.iter().map(|(path, bytes)| serde_json::json!({"path": path, "bytes": bytes})).collect();
        return print(&crate::json(&rows)?);
    }
    let lines: String = removed
        .iter()
        .map(|(path, bytes)| format!("removed {}, {}\n", path.display(), mib(*bytes)))
        .collect();
    print(if lines.is_empty() { "nothing to remove\n" } else { &lines })
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
