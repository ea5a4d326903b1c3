//! The firmware that machines run, read once.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use latchkey_forecast::firmware::{FirmwareImage, unpack};
use latchkey_measure::hash::digest;
use latchkey_record::pcr::{Digest, HashAlg};

use super::{ModelError, file};

/// The firmware in the file `path` with this hash. All models of a process have one copy of it.
pub(super) fn firmware(path: &Path, sha256: &str, cache: &Path) -> Result<FirmwareImage, ModelError> {
    static READ: Mutex<BTreeMap<PathBuf, FirmwareImage>> = Mutex::new(BTreeMap::new());
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let name = cache.join(sha256);
    if let Some(known) = read.get(&name) {
        return Ok(known.clone());
    }
    let image = hashed(path, sha256, cache)?;
    read.insert(name, image.clone());
    Ok(image)
}

/// The same, unpacked and hashed in the cache when that was done before.
fn hashed(path: &Path, sha256: &str, cache: &Path) -> Result<FirmwareImage, ModelError> {
    let image = unpacked(path, sha256, cache)?;
    let remembered = cache.join(format!("{sha256}.{}.digests", image.dxe_volume.len()));
    let known = fs::read(&remembered).ok().and_then(|text| serde_json::from_slice::<Vec<Digest>>(&text).ok());
    let dxe_digests = known.unwrap_or_else(|| {
        let computed = HashAlg::ALL.map(|alg| digest(alg, &image.dxe_volume)).to_vec();
        keep(&remembered, &serde_json::to_vec(&computed).unwrap_or_default());
        computed
    });
    Ok(FirmwareImage { dxe_digests, ..image })
}

fn unpacked(path: &Path, sha256: &str, cache: &Path) -> Result<FirmwareImage, ModelError> {
    let remembered = cache.join(format!("{sha256}.unpacked"));
    let known = fs::read(&remembered).ok().and_then(|bytes| FirmwareImage::of_unpacked(&bytes.into()).ok());
    if let Some(known) = known {
        return Ok(known);
    }
    let not_understood = |source| ModelError::Firmware { path: path.to_owned(), source };
    let code = fs::read(path).map_err(file("reading", path))?;
    let unpacked = unpack(&code).map_err(not_understood)?;
    keep(&remembered, &unpacked);
    FirmwareImage::of_unpacked(&unpacked.into()).map_err(not_understood)
}

/// As [`remember`], where that is possible, with the lock that it takes; what is at hand does not hang on it.
fn keep(path: &Path, contents: &[u8]) {
    let locked = || {
        let dir = path.parent().unwrap_or(path);
        fs::create_dir_all(dir).map_err(file("creating", dir))?;
        let _turn =
            latchkey_supervise::lock(&beside(path, "lock"), || ()).map_err(latchkey_machine::Error::from)?;
        remember(path, contents)
    };
    if let Err(error) = locked() {
        tracing::debug!("what is known of the firmware is not kept: {error}");
    }
}

/// Writes a file of the cache, whose lock somebody has to hold: apart, then renamed, so that nobody reads half of it. What was
/// left by whoever was killed meanwhile is written over.
pub(super) fn remember(path: &Path, contents: &[u8]) -> Result<(), ModelError> {
    let part = beside(path, "part");
    let written = fs::write(&part, contents).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // There may be no room for it.
        let _ = fs::remove_file(&part);
    }
    written.map_err(file("writing", path))
}

/// The file whose name ends with `.end` besides.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    /// The file's own word is what the cache has; what is damaged there is made again.
    #[test]
    fn a_firmware_is_unpacked_and_hashed_once() {
        let cache = tempfile::tempdir().unwrap();
        let code = Path::new("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd");
        let unpacked = FirmwareImage::parse(&fs::read(code).unwrap()).unwrap();
        let size = unpacked.dxe_volume.len();
        let dxe_digests = HashAlg::ALL.map(|alg| digest(alg, &unpacked.dxe_volume)).to_vec();
        let unpacked = FirmwareImage { dxe_digests, ..unpacked };
        let [volumes, digests] =
            ["hash.unpacked".into(), format!("hash.{size}.digests")].map(|name| cache.path().join(name));
        for _ in 0..2 {
            assert!(hashed(code, "hash", cache.path()).unwrap() == unpacked);
            // From now on the code is not needed.
            let gone = Path::new("/there/is/none");
            assert!(hashed(gone, "hash", cache.path()).unwrap() == unpacked);
            hashed(gone, "another", cache.path()).unwrap_err();
            // Nor is anything hashed.
            let other = vec![digest(HashAlg::Sha256, b"other")];
            fs::write(&digests, serde_json::to_vec(&other).unwrap()).unwrap();
            assert_eq!(hashed(gone, "hash", cache.path()).unwrap().dxe_digests, other);
            [&volumes, &digests].iter().for_each(|file| fs::write(file, "damaged").unwrap());
        }
    }

    #[test]
    fn what_a_killed_run_left_of_a_file_does_not_stay() {
        let cache = tempfile::tempdir().unwrap();
        let [path, left] = ["hash.unpacked", "hash.unpacked.part"].map(|name| cache.path().join(name));
        fs::write(&left, "half of something longer").unwrap();
        keep(&path, b"whole");
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(!left.exists());
        // What is in the way stays, and nothing else.
        let taken = cache.path().join("taken");
        fs::create_dir(&taken).unwrap();
        remember(&taken, b"whole").unwrap_err();
        assert!(taken.is_dir() && !beside(&taken, "part").exists());
    }
}
