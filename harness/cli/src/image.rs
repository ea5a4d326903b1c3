//! `latchkey image`.

use anyhow::Result;
use latchkey_images::{Recipe, Refresh, ensure_with};

use crate::args::{Common, ImageVerb};
use crate::progress::Live;
use crate::{UsageError, cache, print};

/// Lists, builds, describes and removes images.
pub(crate) fn image(common: &Common, verb: &ImageVerb) -> Result<u8> {
    match verb {
        ImageVerb::Build { recipes, refresh } => build(common, recipes, *refresh),
        ImageVerb::List | ImageVerb::Inspect { .. } | ImageVerb::Prune => anyhow::bail!("not ready"),
    }
}

fn build(common: &Common, names: &[String], refresh: bool) -> Result<u8> {
    let cache = cache(common)?;
    let names: Vec<&str> =
        if names.is_empty() { Recipe::names() } else { names.iter().map(String::as_str).collect() };
    let live = Live::new();
    let refresh = if refresh { Refresh::Yes } else { Refresh::No };
    let mut built = Vec::new();
    for name in names {
        let recipe = Recipe::named(name).map_err(|e| UsageError(e.to_string()))?;
        built.push(ensure_with(&recipe, &cache, refresh, &live)?);
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
