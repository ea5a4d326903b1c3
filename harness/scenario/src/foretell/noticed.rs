//! What is missing, cut off or damaged of the files that a disk is started by, each by its name. The forecast goes on without
//! it, as the firmware would, and its reason may be another program's by then.

use latchkey_disk::VarStore;
use latchkey_disk::inspect::{EfiKind, EspContents, ImageDescription, Limit};
use latchkey_disk::varstore::{VariableId, vendor};
use latchkey_measure::Uuid;

/// Length of a device path node's head, and the types of two nodes: a partition, and a file (UEFI 2.10, sections 10.3.1,
/// 10.3.5.1 and 10.3.5.4).
const HEAD: usize = 4;
const PARTITION: [u8; 2] = [4, 1];
const FILE: [u8; 2] = [4, 4];
/// Where shim is that is started without a boot option; its fallback program takes no list from there (shim 15.8,
/// `fallback.c`, `find_boot_options`).
const REMOVABLE: &str = "/EFI/BOOT";

/// A boot option that leads to a file on the EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootFile {
    /// Its variable, such as `Boot0001`.
    option: String,
    /// The file, as the option has it.
    pub(super) file: String,
    /// What its data have shim start.
    starts: Option<String>,
}

#[cfg(test)]
impl BootFile {
    /// One that has shim start nothing of its own.
    pub(super) fn of(option: &str, file: &str) -> Self {
        Self { option: option.to_owned(), file: file.to_owned(), starts: None }
    }
}

/// The boot options in the variable store `store` that lead to a file on the partition `esp`, in the order in which they are
/// tried. What is no store has none.
pub(super) fn options(store: &[u8], esp: Uuid) -> Vec<BootFile> {
    let Ok(store) = VarStore::parse(store) else { return Vec::new() };
    let data = |name: &str| {
        let found = store.get(&VariableId::new(name, vendor::GLOBAL));
        found.map(|variable| variable.data.clone()).unwrap_or_default()
    };
    let order = data("BootOrder");
    let names = order.chunks_exact(2).map(|n| format!("Boot{:04X}", u16::from_le_bytes([n[0], n[1]])));
    names.filter_map(|name| boot_file(&name, &data(&name), esp)).collect()
}

/// That of one option (`EFI_LOAD_OPTION`, UEFI 2.10, section 3.1.3).
fn boot_file(option: &str, data: &[u8], esp: Uuid) -> Option<BootFile> {
    let length = usize::from(u16::from_le_bytes(data.get(4..6)?.try_into().ok()?));
    let title = data.get(6..)?.chunks_exact(2).position(|unit| unit == [0, 0])?;
    let path = 6 + 2 * (title + 1);
    let end = path.checked_add(length)?;
    let file = file_on(data.get(path..end)?, esp)?;
    let starts = second_stage(&utf16(data.get(end..)?)).map(str::to_owned);
    Some(BootFile { option: option.to_owned(), file, starts })
}

/// What `options` have shim start: it takes the first word for a path (shim 15.8, `load-options.c`, `parse_load_options`).
/// Firmware marks options of its own with what is no text, and other programs take other words.
fn second_stage(options: &str) -> Option<&str> {
    let word = options.split_whitespace().next()?;
    (word.contains('\\') || word.to_ascii_lowercase().ends_with(".efi")).then_some(word)
}

/// The file that a device path names behind the partition `esp`.
fn file_on(mut path: &[u8], esp: Uuid) -> Option<String> {
    let mut is_on = false;
    loop {
        let size = usize::from(u16::from_le_bytes(path.get(2..HEAD)?.try_into().ok()?));
        let node = path.get(..size).filter(|node| node.len() >= HEAD)?;
        if node.starts_with(&PARTITION) {
            is_on = node.get(24..40) == Some(&esp.to_bytes_le()[..]);
        }
        if node.starts_with(&FILE) && is_on {
            return Some(utf16(&node[HEAD..]));
        }
        path = &path[size..];
    }
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
    let unreadable = |limit: &Limit| matches!(limit, Limit::FileUnreadable { path, .. } if is_it(path));
    if description.limits.iter().any(unreadable) {
        return Some("damaged");
    }
    // What nobody can read has no files.
    let there = description.esp.iter().flat_map(|esp| &esp.images).any(|image| is_it(&image.path));
    (!there).then_some("missing")
}

/// What is not as it should be of the disk of this `description`, which a machine with these boot options starts from, in words.
pub(super) fn noticed(description: &ImageDescription, options: &[BootFile]) -> Vec<String> {
    let worth_telling =
        description.limits.iter().filter(|limit| !matches!(limit, Limit::OtherMachine { .. }));
    let mut told: Vec<String> = worth_telling.map(ToString::to_string).collect();
    let Some(esp) = &description.esp else { return told };
    let mut missing: Vec<(String, String)> = Vec::new();
    let mut wanted = |path: String, who: String| {
        let known = missing.iter().any(|(other, _)| other.eq_ignore_ascii_case(&path));
        if !known && wrong_with(description, &path) == Some("missing") {
            missing.push((path, who));
        }
    };
    for BootFile { option, file, starts } in options {
        wanted(on_esp("", file), format!("{option} starts it"));
        if let Some(second) = starts {
            wanted(on_esp(directory(&on_esp("", file)), second), format!("{option} has shim start it"));
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
    told.extend(missing.into_iter().map(|(path, who)| format!("esp:{path} is missing: {who}")));
    told.extend(without_list(description, esp).into_iter().map(|above| {
        format!("esp:{above}/BOOTX64.CSV is missing: shim's fallback program makes no boot option for that directory")
    }));
    told
}

/// Directories with a shim for which no list of boot entries is there, whole or damaged.
fn without_list<'a>(description: &'a ImageDescription, esp: &'a EspContents) -> Vec<&'a str> {
    let unreadable = description.limits.iter().filter_map(|limit| match limit {
        Limit::FileUnreadable { path, .. } if path.to_ascii_lowercase().ends_with(".csv") => Some(path),
        _ => None,
    });
    let lists: Vec<&str> =
        esp.boot_lists.iter().map(|list| &list.path).chain(unreadable).map(|path| directory(path)).collect();
    let mut without: Vec<&str> = Vec::new();
    for shim in esp.images.iter().filter(|image| matches!(image.kind, EfiKind::Shim { .. })) {
        let above = directory(&shim.path);
        let has = |dirs: &[&str]| dirs.iter().any(|dir| dir.eq_ignore_ascii_case(above));
        if !above.eq_ignore_ascii_case(REMOVABLE) && !has(&lists) && !has(&without) {
            without.push(above);
        }
    }
    without
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

    const ESP: Uuid = Uuid::from_u128(7);

    fn text(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    /// A boot option for `file` on the partition `on`.
    fn option(on: Uuid, file: &str, data: &[u8]) -> Vec<u8> {
        let mut path = vec![4, 1, 42, 0];
        path.resize(24, 0);
        path.extend(on.to_bytes_le());
        path.extend([2, 2, 4, 4]);
        path.extend(u16::try_from(text(file).len() + HEAD).unwrap().to_le_bytes());
        path.extend(text(file));
        path.extend([0x7f, 0xff, 4, 0]);
        let size = u16::try_from(path.len()).unwrap().to_le_bytes();
        [&[1, 0, 0, 0][..], &size, &text("a title"), &path, data].concat()
    }

    #[test]
    fn an_option_tells_the_file_and_what_shim_is_to_start() {
        let read = |data: &[u8]| boot_file("Boot0001", data, ESP).map(|it| (it.file, it.starts));
        let shim = || r"\EFI\rocky\shimx64.efi".to_owned();
        let uki = r"\EFI\Linux\a.efi";
        assert_eq!(read(&option(ESP, &shim(), &text(uki))), Some((shim(), Some(uki.to_owned()))));
        // What the firmware marks options of its own with.
        assert_eq!(read(&option(ESP, &shim(), &[0x81, 0x08, 0x09, 0x81])), Some((shim(), None)));
        assert_eq!(read(&option(Uuid::from_u128(8), &shim(), &[])), None);
        let whole = option(ESP, &shim(), &[]);
        assert!((0..whole.len() - HEAD).all(|end| read(&whole[..end]).is_none()));
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
        let options = [BootFile::of("Boot0001", r"\EFI\rocky\shimx64.efi")];
        let told = noticed(&described(&images, &lists, &limits), &options);
        assert_eq!(told.len(), expected.len(), "{told:?}");
        assert!(told.iter().zip(expected).all(|(told, said)| told.starts_with(said)), "{told:?}");
    }
}
