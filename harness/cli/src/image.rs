//! `latchkey image`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use latchkey_disk::ImageDescription;
use latchkey_disk::inspect::{EfiKind, Layout, Menu};
use latchkey_images::{Error, Listed, Refresh, Usable, list, look, prune, reference};
use latchkey_scenario::diagnostic::no_image;
use serde::Serialize;

use crate::args::{Common, ImageVerb};
use crate::progress::Live;
use crate::{USAGE, UsageError, cache, cache_as_it_is, print};

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
    let known = latchkey_images::names();
    // Before the first is built, which takes minutes.
    if let Some(wrong) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(UsageError(no_image(wrong)).into());
    }
    let cache = cache(common)?;
    let named = names.iter().map(String::as_str).collect();
    let names: Vec<&str> = if names.is_empty() { known } else { named };
    let live = Live::new();
    let refresh = if refresh { Refresh::Yes } else { Refresh::No };
    let mut built = Vec::new();
    for name in names {
        built.push(reference(name, &cache, refresh, &live)?);
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
    Ok(list(&cache_as_it_is(common)?)?)
}

fn show_list(common: &Common) -> Result<u8> {
    let rows = listed(common)?;
    if common.json {
        return print(&crate::json(&rows)?);
    }
    let line = |row: &Listed| {
        let state = row.built.as_ref().map_or("not built".to_owned(), |built| {
            format!("built {}, {}, {}", to_the_second(&built.at), mib(built.bytes), built.path.display())
        });
        format!("{:<12} {}\n{:<12} {state}\n", row.name, row.title, "")
    };
    print(&rows.iter().map(line).collect::<String>())
}

/// A time of RFC 3339 without what is less than a second.
fn to_the_second(time: &str) -> String {
    let Some((seconds, rest)) = time.split_once('.') else { return time.to_owned() };
    format!("{seconds}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit()))
}

/// A recipe's image where the word is a recipe's name and no file has it, else a file. Of one that nothing can be done with
/// it is told as of any other, and the exit code says so.
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
    let code = if usable.run.is_some() && usable.forecast.is_some() { USAGE } else { 0 };
    let stands_for = StandsFor::told(&description);
    if common.json {
        print(&crate::json(&Described { description, usable: usable.into(), stands_for })?)?;
        return Ok(code);
    }
    let told = |verb: &str, against: Option<String>| match against {
        None => format!("  {verb}: yes\n"),
        Some(why) => format!("  {verb}: no, {}\n", why.replace('\n', "\n  ")),
    };
    let (run, forecast) = (told("run --image", usable.run), told("forecast", usable.forecast));
    let stands_for = stands_for.map_or(String::new(), |StandsFor { image, as_it_has }| {
        format!("  stands for: {image} ({as_it_has})\n")
    });
    print(&format!("{description}\nUsable\n{run}{forecast}{stands_for}"))?;
    Ok(code)
}

/// A description, and what can be done with the disk.
#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    description: ImageDescription,
    usable: UsableFor,
    #[serde(skip_serializing_if = "Option::is_none")]
    stands_for: Option<StandsFor>,
}

/// What can be done with a disk.
#[derive(Serialize)]
struct UsableFor {
    /// Whether machines can be made of it.
    run: bool,
    /// Whether it can be forecast as it is.
    forecast: bool,
    /// Why not, each in words.
    why_not: BTreeMap<&'static str, String>,
}

impl From<Usable> for UsableFor {
    fn from(Usable { run, forecast }: Usable) -> Self {
        let (can_run, can_be_forecast) = (run.is_none(), forecast.is_none());
        let against = [("run", run), ("forecast", forecast)];
        let why_not = against.into_iter().filter_map(|(what, why)| Some((what, why?))).collect();
        Self { run: can_run, forecast: can_be_forecast, why_not }
    }
}

/// The reference image that a user's stands for, as `--on` takes it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct StandsFor {
    image: &'static str,
    /// What both have.
    as_it_has: String,
}

impl StandsFor {
    /// By the release that its shim is of, and its layout; `None` where that does not tell. Debian's own shim is of no release
    /// that the reference images stand for.
    fn told(description: &ImageDescription) -> Option<Self> {
        let images = &description.esp.as_ref()?.images;
        let shims = images.iter().filter_map(|image| match &image.kind {
            EfiKind::Shim { version, vendor_certificate, .. } => Some((*version, vendor_certificate)),
            _ => None,
        });
        let mut versions = Vec::new();
        for (version, vendor) in shims {
            if vendor.as_ref().is_some_and(|certificate| certificate.subject.contains("Debian")) {
                return None;
            }
            versions.push(version?);
        }
        let first = versions.first()?;
        let release = |major: u16| if major < 16 { "rlc9" } else { "rlc10" };
        if versions.iter().any(|version| release(version.major) != release(first.major)) {
            return None;
        }
        let (layout, words) = match (description.layout(), description.menu) {
            (Layout::Uki { .. }, _) => ("uki", "a UKI"),
            (Layout::Grub { .. }, Some(Menu::Entries)) => ("grub", "GRUB, a /boot with entries in grub.cfg"),
            (Layout::Grub { .. }, Some(Menu::Snippets)) => ("bls", "GRUB, a /boot with snippets"),
            (Layout::Grub { .. }, None) | (Layout::Unknown, _) => return None,
        };
        let name = format!("{}-{layout}", release(first.major));
        let image = latchkey_images::names().into_iter().find(|known| *known == name)?;
        Some(Self { image, as_it_has: format!("shim {first}, {words}") })
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn shim(version: &Value, vendor: &str) -> Value {
        let vendor = json!({
            "subject": vendor, "issuer": vendor, "not_before": "", "not_after": "", "sha256": "",
        });
        json!({
            "path": "/EFI/rocky/shimx64.efi", "size": 1, "sha256": "", "sbat": [], "signed_by": [],
            "kind": {
                "kind": "shim", "version": version, "vendor_certificate": vendor, "sbat_levels": null,
            },
        })
    }

    fn stands_for(shims: &[Value], layout: &str, menu: Option<&str>) -> Option<StandsFor> {
        let esp = json!({
            "layout": {"layout": layout, "path": "/EFI/x.efi"}, "images": shims, "boot_lists": [],
            "certificate_files": [],
        });
        let description = json!({
            "path": "/mine.vhd", "format": {"format": "raw"}, "size": 1, "partitions": [], "esp": esp, "menu": menu,
            "limits": [],
        });
        StandsFor::told(&serde_json::from_value(description).unwrap())
    }

    #[rstest]
    #[case(15, "uki", None, Some(("rlc9-uki", "shim 15.8, a UKI")))]
    #[case(15, "grub", Some("entries"), Some(("rlc9-grub", "shim 15.8, GRUB, a /boot with entries in grub.cfg")))]
    #[case(16, "uki", None, Some(("rlc10-uki", "shim 16.8, a UKI")))]
    #[case(16, "grub", Some("snippets"), Some(("rlc10-bls", "shim 16.8, GRUB, a /boot with snippets")))]
    #[case::of_no_reference_image(15, "grub", Some("snippets"), None)]
    #[case::without_a_boot(16, "grub", None, None)]
    #[case::not_clear(16, "unknown", None, None)]
    fn an_image_stands_for_the_reference_image_with_its_shim_and_its_layout(
        #[case] major: u16,
        #[case] layout: &str,
        #[case] menu: Option<&str>,
        #[case] expected: Option<(&str, &str)>,
    ) {
        let told = stands_for(&[shim(&json!({"major": major, "minor": 8}), "CN=CIQ")], layout, menu);
        assert_eq!(told.as_ref().map(|it| (it.image, it.as_it_has.as_str())), expected);
    }

    #[test]
    fn times_are_told_to_the_second() {
        assert_eq!(to_the_second("2026-11-30T18:16:01.123456789Z"), "2026-11-30T18:16:01Z");
        assert_eq!(to_the_second("2026-11-30T18:16:01.5+01:00"), "2026-11-30T18:16:01+01:00");
        assert_eq!(to_the_second("2026-11-30T18:16:01Z"), "2026-11-30T18:16:01Z");
    }

    #[test]
    fn what_can_be_done_is_true_in_json_and_what_cannot_says_why() {
        let told = |run: Option<&str>| {
            let usable = Usable { run: run.map(str::to_owned), forecast: None };
            serde_json::to_value(UsableFor::from(usable)).unwrap()
        };
        assert_eq!(told(None), json!({"run": true, "forecast": true, "why_not": {}}));
        assert_eq!(told(Some("w")), json!({"run": false, "forecast": true, "why_not": {"run": "w"}}));
    }

    #[test]
    fn an_image_that_does_not_tell_stands_for_none() {
        let version = |major: u16| json!({"major": major, "minor": 8});
        let of = |shims: &[Value]| stands_for(shims, "uki", None);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[shim(&Value::Null, "CN=CIQ")]), None);
        assert_eq!(of(&[shim(&version(15), "CN=CIQ"), shim(&version(16), "CN=CIQ")]), None);
        assert_eq!(of(&[shim(&version(16), "CN=Debian Secure Boot CA")]), None);
    }
}
