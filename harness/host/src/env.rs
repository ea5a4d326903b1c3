//! What a search may look at: variables, and the file system below a root.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The surroundings of a probe. Tests make their own; everyone else takes the process's.
#[derive(Debug, Clone)]
pub struct Env {
    variables: BTreeMap<OsString, OsString>,
    root: PathBuf,
}

impl Env {
    /// The variables and the file system of this process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect(), root: PathBuf::from("/") }
    }

    /// No variables at all, and well-known absolute places looked up below `root`.
    #[must_use]
    pub fn rooted(root: &Path) -> Self {
        Self { variables: BTreeMap::new(), root: root.to_owned() }
    }

    /// The same with one variable set.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(name.into(), value.as_ref().to_owned());
        self
    }

    /// A variable's value; an empty one counts as not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|v| !v.is_empty())
    }

    /// Where the well-known absolute path `place` is.
    #[must_use]
    pub(crate) fn place(&self, place: &str) -> PathBuf {
        self.root.join(place.trim_start_matches('/'))
    }
}
