//! What a verdict depends on besides scenario and harness, as text: what saved machines and verdicts are named by.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line each. What is not in here may change without a verdict being asked for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// What runs the guest's code.
    pub(crate) accelerator: String,
    /// The processor that the guest sees.
    pub(crate) processor: String,
    /// All programs and libraries that a machine is made of and runs on, by content.
    pub(crate) programs: String,
    /// The firmware's code, by content.
    pub(crate) firmware: String,
    /// Where the image lies.
    pub(crate) image: String,
    /// What tells it from others that were there: [`stamp`].
    pub(crate) stamp: String,
    /// The test keys.
    pub(crate) keys: String,
    /// A new machine's UEFI variables, by content.
    pub(crate) variables: String,
    /// The reference image that the user's image stands for.
    pub(crate) like: Option<String>,
    /// Artefacts that the user hands in: name and content.
    pub(crate) artefacts: Vec<(String, String)>,
}

impl Inputs {
    /// All of them, a line each.
    pub(crate) fn text(&self) -> String {
        // Named one by one: a field that is added and not written here does not compile.
        let Self {
            accelerator,
            processor,
            programs,
            firmware,
            image,
            stamp,
            keys,
            variables,
            like,
            artefacts,
        } = self;
        let mut lines = vec![
            format!("host {accelerator} {processor} {programs} {firmware}"),
            format!("image {image} {stamp}"),
            format!("keys {keys}"),
            format!("variables {variables}"),
        ];
        lines.extend(like.iter().map(|like| format!("like {like}")));
        lines.extend(artefacts.iter().map(|(name, content)| format!("{name} {content}")));
        lines.join("\n") + "\n"
    }
}

/// The directory in `own` that `path` lies in: it has a hash of what it was made of for a name.
pub(crate) fn own_name(path: &Path, own: &Path) -> Option<String> {
    let (path, own) = (path.canonicalize().ok()?, own.canonicalize().ok()?);
    Some(path.strip_prefix(own).ok()?.iter().next()?.to_string_lossy().into_owned())
}

/// The content of an image: BLAKE3, in hex, over its disk and the `artefacts` that lie beside it.
///
/// # Errors
/// When one cannot be read.
pub(crate) fn content(disk: &Path, artefacts: &[PathBuf]) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    for path in std::iter::once(disk).chain(artefacts.iter().map(PathBuf::as_path)) {
        let file = File::open(path)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        // Each with its length, so that nothing of one counts for another.
        hash.update(&name.len().to_le_bytes()).update(name).update(&file.metadata()?.len().to_le_bytes());
        hash.update_reader(file)?;
    }
    Ok(hash.finalize().to_hex().to_string())
}

/// What tells the image in `path` from others that were there or will be: its `content`, where that is known; what a user's
/// file was at its last change otherwise. The run is that with these `results`.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub(crate) fn stamp(path: &Path, content: Option<&str>, results: &Path) -> io::Result<String> {
    if let Some(content) = content {
        return Ok(format!("content {content}"));
    }
    let data = fs::metadata(path)?;
    if !data.is_file() {
        // A device's content changes and leaves no trace: what another run knew of it counts for nothing.
        return Ok(format!("in the run {} of process {}", results.display(), std::process::id()));
    }
    let (place, changed) = ((data.dev(), data.ino()), (data.ctime(), data.ctime_nsec()));
    Ok(format!("{} {place:?} {changed:?}", data.len()))
}

/// What tells the image in `path` from others of its name, in words. One of those in `own` has a hash of what it was made of
/// in its directory's name, and besides that its `content`, where that is known.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub(crate) fn identity(path: &Path, own: &Path, content: Option<&str>) -> io::Result<String> {
    if let Some(name) = own_name(path, own) {
        let content = content.and_then(|content| content.get(..16));
        return Ok(content.map_or(name.clone(), |content| format!("{name}, content {content}")));
    }
    let data = fs::metadata(path)?;
    let changed = time::OffsetDateTime::from(data.modified()?);
    let changed = changed.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    Ok(format!("{}, {} bytes, changed {changed}", path.display(), data.len()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;
    use std::fs::{self, File};
    use std::path::Path;
    use std::time::SystemTime;

    use super::{Inputs, content, identity, own_name, stamp};

    #[test]
    fn whatever_changes_makes_another_key() {
        let of = |name: &str| name.to_owned();
        let one = || Inputs {
            accelerator: of("tcg"),
            processor: of("max"),
            programs: of("p"),
            firmware: of("f"),
            image: of("/i"),
            stamp: of("s"),
            keys: of("k"),
            variables: of("v"),
            like: None,
            artefacts: vec![(of("shim"), of("a"))],
        };
        let others = [
            Inputs { accelerator: of("kvm"), ..one() },
            Inputs { processor: of("host"), ..one() },
            Inputs { programs: of("q"), ..one() },
            Inputs { firmware: of("g"), ..one() },
            Inputs { image: of("/j"), ..one() },
            Inputs { stamp: of("t"), ..one() },
            Inputs { keys: of("l"), ..one() },
            Inputs { variables: of("w"), ..one() },
            Inputs { like: Some(of("rlc9-uki")), ..one() },
            Inputs { like: Some(of("rlc9-grub")), ..one() },
            Inputs { artefacts: Vec::new(), ..one() },
            Inputs { artefacts: vec![(of("uki"), of("a"))], ..one() },
            Inputs { artefacts: vec![(of("shim"), of("b"))], ..one() },
        ];
        let texts: BTreeSet<String> = others.iter().chain([&one()]).map(Inputs::text).collect();
        assert_eq!(texts.len(), others.len() + 1);
        assert_eq!(one().text(), one().text());
    }

    #[test]
    fn an_image_that_changed_is_another_whatever_its_time_says() {
        let dir = tempfile::tempdir().unwrap();
        let (path, results) = (dir.path().join("disk"), Path::new("r"));
        let of = |path: &Path| stamp(path, None, results).unwrap();
        let written = |text: &str| {
            fs::write(&path, text).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            of(&path)
        };
        let one = written("one");
        assert_eq!(of(&path), one);
        fs::rename(&path, dir.path().join("before")).unwrap();
        assert_ne!(written("two"), one);
        // Nobody sees from outside what a device holds.
        assert_ne!(of(Path::new("/dev/null")), stamp(Path::new("/dev/null"), None, Path::new("s")).unwrap());
    }

    /// Recipe and versions do not tell all that an image is made of.
    #[test]
    fn an_image_that_was_built_again_with_other_bytes_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("images");
        let built = own.join("rlc9-uki-0123");
        fs::create_dir_all(&built).unwrap();
        let (disk, shim) = (built.join("disk.qcow2"), built.join("shim.efi"));
        let of = |bytes: &str, artefact: &str| {
            fs::write(&disk, bytes).unwrap();
            fs::write(&shim, artefact).unwrap();
            let content = content(&disk, std::slice::from_ref(&shim)).unwrap();
            let told = (
                stamp(&disk, Some(&content), Path::new("r")).unwrap(),
                identity(&disk, &own, Some(&content)).unwrap(),
            );
            (content, told)
        };
        let one = of("one", "a");
        assert_eq!(of("one", "a"), one);
        let all: BTreeSet<_> = [one.clone(), of("two", "a"), of("one", "b"), of("onea", "")].into();
        assert_eq!(all.len(), 4);
        assert!(one.1.1.starts_with("rlc9-uki-0123, content ") && one.1.0.ends_with(&one.0), "{one:?}");
        assert_eq!(
            own_name(&built.join("../../images/rlc9-uki-0123/disk.qcow2"), &own).unwrap(),
            "rlc9-uki-0123"
        );
        assert!(own_name(dir.path(), &own).is_none());
    }

    #[test]
    fn an_image_is_told_from_others_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("images");
        fs::create_dir_all(own.join("rlc9-uki-0123")).unwrap();
        let (built, users) = (own.join("rlc9-uki-0123/disk.qcow2"), dir.path().join("disk.vhd"));
        fs::write(&built, "a").unwrap();
        fs::write(&users, "four").unwrap();
        assert_eq!(identity(&built, &own, None).unwrap(), "rlc9-uki-0123");
        let told = identity(&users, &own, None).unwrap();
        assert!(told.contains("disk.vhd, 4 bytes, changed 20"), "{told}");
        File::open(&users).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(identity(&users, &own, None).unwrap().ends_with("changed 1970-01-01T00:00:00Z"));
        assert!(identity(&dir.path().join("none"), &own, None).is_err());
    }
}
