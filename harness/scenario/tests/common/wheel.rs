//! Files that PyPI publishes, got as this machine's pip gets packages, once a cache.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use latchkey_images::Cache;
use latchkey_supervise::{lock, run_with};

/// One file of one version of a package, and no other.
pub(crate) struct Wheel {
    /// What pip is asked for: `NAME==VERSION`.
    pub(crate) package: &'static str,
    /// The file's SHA-256 in hexadecimal digits.
    pub(crate) sha256: &'static str,
    /// The file's name.
    pub(crate) file: &'static str,
}

impl Wheel {
    /// Where it lies, after it was downloaded if it was not there.
    pub(crate) fn ensure(&self, cache: &Cache) -> Result<PathBuf> {
        let dir = cache.root().join("python");
        std::fs::create_dir_all(&dir)?;
        let _lock = lock(&dir.join("lock"), || {})?;
        let wheel = dir.join(self.file);
        if !wheel.is_file() {
            let pinned = dir.join("pinned.txt");
            std::fs::write(&pinned, format!("{} --hash=sha256:{}\n", self.package, self.sha256))?;
            let pinned = pinned.to_string_lossy();
            let args = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"];
            let args = args.into_iter().chain(["--requirement", &pinned]).collect::<Vec<_>>();
            run_with("pip3", &args, |e| e.dir(&dir).stdin_null()).with_context(|| {
                format!("getting {} by pip: does its index answer (`pip3 config list`)?", self.package)
            })?;
            ensure!(wheel.is_file(), "pip downloaded no {}", self.file);
        }
        Ok(wheel)
    }
}
