//! PyPI's `cvmutils`, Red Hat's predictor of PCR 4 and 7, asked about a disk and variables.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use latchkey_disk::esp::EntryKind;
use latchkey_disk::varstore::{VariableId, vendor};
use latchkey_disk::{Esp, VarStore};
use latchkey_images::Cache;
use latchkey_supervise::run_with;

#[path = "wheel.rs"]
mod wheel;

use wheel::Wheel;

const CVMUTILS: Wheel = Wheel {
    package: "cvmutils==0.3.3",
    sha256: "5aca173bc98326e09eec47945c7e45662c5611545e0974513866ad78804a9104",
    file: "cvmutils-0.3.3-py3-none-any.whl",
};

/// What is run in Python: both PCRs of the first boot chain, in hexadecimal digits.
const PREDICT: &str = "
from cvmutils.sb import SecureBoot
from cvmutils.pcr import PCR
from cvmutils.efi import bootchains_from_shim_fallback
variables = SecureBoot(False)
variables.load_uefi_from_efivars('vars', True)
pcr = PCR(bootchains_from_shim_fallback('esp')[0], variables)
print(pcr.predicted_pcr4(), pcr.predicted_pcr7())
";

/// The predictor with what it is asked about.
pub(crate) struct Cvmutils {
    python: PathBuf,
    wheel: PathBuf,
    files: tempfile::TempDir,
}

impl Cvmutils {
    /// Gets the predictor from where this machine's pip gets packages, once a cache, and lays out for it the files of `esp`
    /// and the variables of `store`.
    pub(crate) fn about(cache: &Cache, esp: &Esp, store: &VarStore) -> Result<Self> {
        let wheel = CVMUTILS.ensure(cache)?;
        let files = tempfile::tempdir()?;
        unpack(esp, "", &files.path().join("esp"))?;
        unpack_variables(store, &files.path().join("vars"))?;
        // Not what a version manager puts in its place: the predictor's time is taken, and that one's start is not its.
        let said = run_with("python3", &["-c", "import sys; print(sys.executable)"], |e| e.stdin_null())?;
        Ok(Self { python: said.text().trim().into(), wheel, files })
    }

    /// PCR 4 and 7 in SHA-256, as hexadecimal digits. One process from its start to its end.
    pub(crate) fn predict(&self) -> Result<[String; 2]> {
        let said = run_with(&self.python, &["-c", PREDICT], |e| {
            e.dir(self.files.path()).env("PYTHONPATH", &self.wheel).stdin_null()
        })?;
        let text = said.text();
        let mut words = text.split_whitespace().map(|word| word.trim_start_matches("0x").to_lowercase());
        let mut next = || words.next().with_context(|| format!("cvmutils said {text:?}"));
        let predicted = [next()?, next()?];
        let digest = |word: &String| word.len() == 64 && word.chars().all(|c| c.is_ascii_hexdigit());
        ensure!(predicted.iter().all(digest), "cvmutils said {text:?}");
        Ok(predicted)
    }
}

/// Writes everything below `path` of the file system into the directory `to`.
fn unpack(esp: &Esp, path: &str, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in esp.list(if path.is_empty() { "/" } else { path })? {
        let (path, to) = (format!("{path}/{}", entry.name), to.join(&entry.name));
        match entry.kind {
            EntryKind::Directory => unpack(esp, &path, &to)?,
            EntryKind::File { .. } => fs::write(to, esp.read(&path)?)?,
        }
    }
    Ok(())
}

/// Writes the variables that cvmutils reads, as efivarfs shows them without their attributes.
fn unpack_variables(store: &VarStore, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let known = [
        ("PK", vendor::GLOBAL),
        ("KEK", vendor::GLOBAL),
        ("db", vendor::IMAGE_SECURITY),
        ("dbx", vendor::IMAGE_SECURITY),
    ];
    for (name, owner) in known {
        let variable = store.get(&VariableId::new(name, owner)).with_context(|| format!("no {name}"))?;
        fs::write(to.join(format!("{name}-{owner}")), &variable.data)?;
    }
    Ok(fs::write(to.join(format!("SecureBoot-{}", vendor::GLOBAL)), [1])?)
}
