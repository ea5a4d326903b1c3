//! What is missing, cut off or damaged of the files that a disk is started by, each by its name. The forecast goes on without
//! it, as the firmware would, and its reason may be another program's by then.

use std::collections::BTreeSet;

use latchkey_disk::inspect::{EfiKind, EspContents, ImageDescription, Limit, Severity};
use latchkey_forecast::firmware::BootFile;

/// Where shim is that is started without a boot option; its fallback program takes no list from there (shim 15.8,
/// `fallback.c`, `find_boot_options`).
const REMOVABLE: &str = "/EFI/BOOT";
/// Most lines that are told of a disk, which may name files without end.
const MOST_TOLD: usize = 64;

/// What `options` have shim start: it takes the first word for a path (shim 15.8, `load-options.c`, `parse_load_options`).
/// Firmware marks options of its own with what is no text, and other programs take other words.
fn second_stage(options: &str) -> Option<&str> {
    let word = options.split_whitespace().next()?;
    (word.contains('\\') || word.to_ascii_lowercase().ends_with(".efi")).then_some(word)
}

/// UTF-16LE text up to its first NUL.
fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>())
}

/// What is wrong with the program at `path` of a disk, as an adjective; `None` where it is there and whole.
pub(super) fn wrong_with(description: &ImageDescription, path: &str) -> Option<&'static str> {
    let path = on_esp("", path);
    let is_it = |other: &str| other.eq_ignore_ascii_case(&path);
    if description.limits.iter().filter_map(unreadable).any(is_it) {
        return Some("damaged");
    }
    // What nobody can read has no files.
    let there = description.esp.iter().flat_map(|esp| &esp.images).any(|image| is_it(&image.path));
    (!there).then_some("missing")
}

/// What is not as it should be of a disk.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    /// In words.
    pub(super) told: Vec<String>,
    /// Something of it is a program that is to be started, or what leads to one.
    pub(super) breaks_chain: bool,
}

/// What is not as it should be of the disk of this `description`, which a machine with these boot options starts from.
pub(super) fn noticed(description: &ImageDescription, options: &[BootFile]) -> Noticed {
    let worth_telling =
        || description.limits.iter().filter(|limit| !matches!(limit, Limit::OtherMachine { .. }));
    let Some(esp) = &description.esp else {
        return Noticed { told: worth_telling().map(ToString::to_string).collect(), breaks_chain: false };
    };
    let lower = str::to_ascii_lowercase;
    let damaged: BTreeSet<String> = description.limits.iter().filter_map(unreadable).map(lower).collect();
    let there: BTreeSet<String> = esp.images.iter().map(|image| lower(&image.path)).collect();
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    let mut wanted = |path: String, who: String| {
        let name = lower(&path);
        if !there.contains(&name) && !damaged.contains(&name) && !seen.contains(&name) {
            missing.push(format!("esp:{path} is missing: {who}"));
        }
        seen.insert(name);
    };
    for BootFile { option, file, optional } in options {
        wanted(file.clone(), format!("{option} starts it"));
        if let Some(second) = second_stage(&utf16(optional)) {
            wanted(on_esp(directory(file), second), format!("{option} has shim start it"));
        }
    }
    for list in &esp.boot_lists {
        let above = directory(&list.path);
        for entry in &list.entries {
            wanted(on_esp(above, &entry.file), format!("esp:{} has the firmware start it", list.path));
            if let Some(second) = second_stage(&entry.options) {
                wanted(on_esp(above, second), format!("esp:{} has shim start it", list.path));
            }
        }
    }
    missing.extend(without_list(description, esp).into_iter().map(|above| {
        format!("esp:{above}/BOOTX64.CSV is missing: shim's fallback program makes no boot option for that directory")
    }));
    let is_chains = |limit: &Limit| match unreadable(limit) {
        Some(path) => seen.contains(&lower(path)) || is_list(path),
        None => limit.severity() == Severity::NotWhole,
    };
    let breaks_chain = !missing.is_empty() || description.limits.iter().any(is_chains);
    let mut told: Vec<String> = worth_telling().map(ToString::to_string).chain(missing).collect();
    let more = told.len().saturating_sub(MOST_TOLD);
    if more > 0 {
        told.truncate(MOST_TOLD);
        told.push(format!("and {more} more like these"));
    }
    Noticed { told, breaks_chain }
}

/// The file on the ESP that a limit is about, where it could not be read.
fn unreadable(limit: &Limit) -> Option<&str> {
    match limit {
        Limit::FileUnreadable { path, .. } => Some(path),
        _ => None,
    }
}

/// Whether a file on the ESP is a list of boot entries by its name.
fn is_list(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".csv")
}

/// Directories with a shim for which no list of boot entries is there, whole or damaged.
fn without_list<'a>(description: &'a ImageDescription, esp: &'a EspContents) -> Vec<&'a str> {
    let damaged = description.limits.iter().filter_map(unreadable).filter(|path| is_list(path));
    let lists = esp.boot_lists.iter().map(|list| list.path.as_str()).chain(damaged);
    // Directories that have one, or were told.
    let mut over: BTreeSet<String> = lists.map(|path| directory(path).to_ascii_lowercase()).collect();
    over.insert(REMOVABLE.to_ascii_lowercase());
    let shims = esp.images.iter().filter(|image| matches!(image.kind, EfiKind::Shim { .. }));
    shims.map(|shim| directory(&shim.path)).filter(|above| over.insert(above.to_ascii_lowercase())).collect()
}

/// A path of firmware's, with backslashes, as files on the ESP are called here; one without a leading separator is in `above`.
fn on_esp(above: &str, path: &str) -> String {
    let path = path.replace('\\', "/");
    if path.starts_with('/') { path } else { format!("{above}/{path}") }
}

fn directory(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(above, _)| above)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    /// `Boot0001`, which starts the shim in `/EFI/rocky` with `optional`.
    fn option(optional: &[u8]) -> BootFile {
        let file = "/EFI/rocky/shimx64.efi".to_owned();
        BootFile { option: "Boot0001".to_owned(), file, optional: optional.to_vec() }
    }

    fn image(path: &str, kind: Value) -> Value {
        json!({"path": path, "size": 1, "sha256": "", "sbat": [], "signed_by": [], "kind": kind})
    }

    fn shim(path: &str) -> Value {
        image(path, json!({"kind": "shim", "version": null, "vendor_certificate": null, "sbat_levels": null}))
    }

    fn described(images: &[Value], lists: &Value, limits: &Value) -> ImageDescription {
        let esp = json!({
            "layout": {"layout": "unknown"}, "images": images, "boot_lists": lists, "certificate_files": [],
        });
        let description = json!({
            "path": "/mine.vhd", "format": {"format": "raw"}, "size": 1, "partitions": [], "esp": esp, "limits": limits,
        });
        serde_json::from_value(description).unwrap()
    }

    fn list(options: &str) -> Value {
        let entry = json!({"file": "shimx64.efi", "label": "l", "options": options, "comment": ""});
        json!([{"path": "/EFI/rocky/BOOTX64.CSV", "entries": [entry]}])
    }

    const CUT_OFF: &str = "/EFI/rocky/BOOTX64.CSV";

    #[rstest]
    #[case::whole(&[], list(r"\EFI\Linux\a.efi "), json!([]), &[])]
    #[case::the_uki(&["/EFI/Linux/a.efi"], list(r"\EFI\Linux\a.efi"), json!([]), &["esp:/EFI/Linux/a.efi is missing: esp:/EFI/rocky/BOOTX64.CSV has shim start it"])]
    #[case::a_part_of_its_path(&[], list(r"\EFI\Lin"), json!([]), &["esp:/EFI/Lin is missing: esp:/EFI/rocky/BOOTX64.CSV has shim start it"])]
    #[case::the_shim(&["/EFI/rocky/shimx64.efi"], list(""), json!([]), &["esp:/EFI/rocky/shimx64.efi is missing: Boot0001 starts it"])]
    #[case::the_list(&[], json!([]), json!([]), &["esp:/EFI/rocky/BOOTX64.CSV is missing: shim's fallback program"])]
    #[case::a_part_of_the_list(&[], json!([]), json!([{"limit": "file-unreadable", "path": CUT_OFF, "what": "odd"}]), &["/EFI/rocky/BOOTX64.CSV cannot be read: odd"])]
    fn what_is_missing_is_named_with_who_starts_it(
        #[case] gone: &[&str],
        #[case] lists: Value,
        #[case] limits: Value,
        #[case] expected: &[&str],
    ) {
        let uki = image("/EFI/Linux/a.efi", json!({"kind": "uki", "kernel": null, "command_line": null}));
        let mut images = vec![shim("/EFI/BOOT/BOOTX64.EFI"), shim("/EFI/rocky/shimx64.efi"), uki];
        images.retain(|image| !gone.contains(&image["path"].as_str().unwrap()));
        let Noticed { told, breaks_chain } = noticed(&described(&images, &lists, &limits), &[option(&[])]);
        assert_eq!(breaks_chain, !expected.is_empty());
        assert_eq!(told.len(), expected.len(), "{told:?}");
        assert!(told.iter().zip(expected).all(|(told, said)| told.starts_with(said)), "{told:?}");
    }

    /// What the firmware marks options of its own with is no text.
    #[rstest]
    #[case::another_uki(&text(r"\EFI\Linux\b.efi"), Some("esp:/EFI/Linux/b.efi is missing: Boot0001 has shim start it"))]
    #[case::beside_shim(&text("b.efi quiet"), Some("esp:/EFI/rocky/b.efi is missing: Boot0001 has shim start it"))]
    #[case::the_firmwares_own(&[0x81, 0x08, 0x09, 0x81], None)]
    fn what_an_option_has_shim_start_is_looked_for(#[case] optional: &[u8], #[case] expected: Option<&str>) {
        let images = [shim("/EFI/BOOT/BOOTX64.EFI"), shim("/EFI/rocky/shimx64.efi")];
        let told = noticed(&described(&images, &list(""), &json!([])), &[option(optional)]).told;
        assert_eq!(told.first().map(String::as_str), expected);
    }

    /// What nobody is to start stands in nobody's way; and who names files without end is not told of all.
    #[test]
    fn what_is_told_has_an_end_and_what_nobody_starts_breaks_nothing() {
        let images = [shim("/EFI/rocky/shimx64.efi")];
        let other = json!([{"limit": "file-unreadable", "path": "/EFI/other.efi", "what": "odd"}]);
        let of_other = noticed(&described(&images, &list(""), &other), &[option(&[])]);
        assert_eq!((of_other.told.len(), of_other.breaks_chain), (1, false));
        let entry = |n| json!({"file": format!("{n}.efi"), "label": "l", "options": "", "comment": ""});
        let entries: Vec<_> = (0..100_000).map(entry).collect();
        let lists = json!([{"path": "/EFI/rocky/BOOTX64.CSV", "entries": entries}]);
        let told = noticed(&described(&images, &lists, &json!([])), &[]).told;
        assert_eq!(told.len(), MOST_TOLD + 1);
        assert_eq!(told[MOST_TOLD], "and 99936 more like these");
    }
}
