//! Which packages there are, and fetching them: apt with directories of its own, so that neither the host's
//! packages nor its settings take part, except for how to reach the archive.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use latchkey_supervise::{self as supervise, Lock, lock};
use serde::{Deserialize, Serialize};

use crate::error::{io, tool};
use crate::mirror::Mirror;
use crate::{Cache, Error, Progress, Recipe};

/// Settings that say how to reach an archive, taken over from the host's apt.
const TAKEN_OVER: &[&str] = &[
    "Acquire::http",
    "Acquire::https",
    "Acquire::ftp",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::AllowInsecure",
    "Acquire::ForceIPv",
];

/// The versions a recipe's packages have: the system's by name, shim's, other shims' by artefact, and those of
/// a later release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions {
    /// Digest of the recipe they were resolved for: another recipe asks for other packages.
    pub(crate) recipe: String,
    pub(crate) system: BTreeMap<String, String>,
    pub(crate) shim: String,
    #[serde(default)]
    pub(crate) other_shims: BTreeMap<String, String>,
    /// Of the packages of a later release, by name.
    #[serde(default)]
    pub(crate) newer: BTreeMap<String, String>,
}

impl Versions {
    /// The versions of this recipe's image that was built last, if one was.
    pub(crate) fn remembered(cache: &Cache, recipe: &Recipe) -> Option<Self> {
        let text = fs::read_to_string(path(cache, recipe)).ok()?;
        let versions: Self = serde_json::from_str(&text).ok()?;
        (versions.recipe == recipe.digest()).then_some(versions)
    }

    pub(crate) fn remember(&self, cache: &Cache, recipe: &Recipe) -> Result<(), Error> {
        cache.dir("packages")?;
        let path = path(cache, recipe);
        let text = serde_json::to_string_pretty(self).map_err(|e| io("writing", &path)(e.into()))?;
        put_whole(&path, &text)
    }
}

fn path(cache: &Cache, recipe: &Recipe) -> PathBuf {
    // Named for the recipe's contents as well, so that two builds of the harness do not take turns.
    cache.root().join("packages").join(format!("{}-{}.json", recipe.name, &recipe.digest()[..8]))
}

/// Held while one of a directory's files is written.
const PART_LOCK: &str = ".part-lock";

/// Writes a file that another build may be reading: it is there whole or not at all. One at a time does so in a directory, so that
/// a part has one name, and what a killed build left there is written over.
pub(crate) fn put_whole(path: &Path, text: &str) -> Result<(), Error> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let waiting = || tracing::debug!(path = %path.display(), "another build writes beside it");
    let _turn =
        lock(&path.with_file_name(PART_LOCK), waiting).map_err(tool("waiting to write in the cache"))?;
    fs::write(&part, text).map_err(io("writing", &part))?;
    fs::rename(&part, path).map_err(io("renaming", &part))
}

/// The right to use apt here: its directories, one a suite, are everybody's, and it takes no locks of its own.
pub(crate) fn turn(cache: &Cache, progress: &dyn Progress) -> Result<Lock, Error> {
    cache.lock("apt", progress)
}

/// apt for one suite, in a directory of its own. Whoever uses it to fetch anything has the [`turn`].
#[derive(Debug)]
pub(crate) struct Apt {
    dir: PathBuf,
    suite: String,
}

impl Apt {
    /// apt for `suite` of `mirror`, keeping its lists and archives in the cache.
    pub(crate) fn new(cache: &Cache, mirror: &Mirror, suite: &str) -> Result<Self, Error> {
        let dir = cache.dir("apt")?.join(suite);
        for sub in ["lists/partial", "archives/partial", "empty"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).map_err(io("making", &sub))?;
        }
        let write = |name: &str, text: String| put_whole(&dir.join(name), &text);
        write("sources.list", mirror.sources(suite))?;
        write("status", String::new())?;
        let d = dir.display();
        let mut conf = format!(
            "Dir \"{d}\";\nDir::Etc \"{d}\";\nDir::Etc::main \"/dev/null\";\nDir::Etc::parts \"{d}/empty\";\n\
             Dir::Etc::sourcelist \"{d}/sources.list\";\nDir::Etc::sourceparts \"{d}/empty\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"{d}/empty\";\n\
             Dir::State \"{d}\";\nDir::State::lists \"{d}/lists\";\nDir::State::status \"{d}/status\";\n\
             Dir::Cache \"{d}\";\nDir::Cache::archives \"{d}/archives\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nDir::Bin::dpkg \"/bin/true\";\n\
             Dir::Etc::trusted \"/dev/null\";\nDir::Etc::trustedparts \"{d}/empty\";\n\
             APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAPT::Install-Recommends \"false\";\n\
             APT::Sandbox::User \"root\";\nDebug::NoLocking \"true\";\n\
             Acquire::Languages \"none\";\nAcquire::GzipIndexes \"true\";\n"
        );
        conf += &host_settings()?;
        write("apt.conf", conf)?;
        Ok(Self { dir, suite: suite.to_owned() })
    }

    /// Fetches the archive's lists of packages.
    pub(crate) fn update(&self) -> Result<(), Error> {
        self.apt_get(&["update", "--error-on=any"]).map(drop)
    }

    /// Removes downloaded packages that the archive does not have any more.
    pub(crate) fn forget_superseded(&self) -> Result<(), Error> {
        self.apt_get(&["autoclean"]).map(drop)
    }

    /// The packages and versions that installing `packages` on top of the essential ones comes to.
    pub(crate) fn resolve(&self, packages: &[String]) -> Result<BTreeMap<String, String>, Error> {
        let mut args = vec!["--simulate", "install", "?essential"];
        args.extend(packages.iter().map(String::as_str));
        let versions = parse_simulation(&self.apt_get(&args)?);
        if versions.is_empty() {
            return Err(Error::Apt {
                what: format!("the packages of {}", self.suite),
                why: "it would install nothing".to_owned(),
            });
        }
        Ok(versions)
    }

    /// The version of `package` that would be installed.
    pub(crate) fn candidate(&self, package: &str) -> Result<String, Error> {
        let said = self.run("apt-cache", &["policy", package])?;
        let candidate = said.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        candidate.filter(|v| *v != "(none)").map(str::to_owned).ok_or_else(|| Error::Apt {
            what: format!("the version of {package} in {}", self.suite),
            why: "it is not in the archive".to_owned(),
        })
    }

    /// Downloads what `resolve` gave and tells where the packages are.
    pub(crate) fn download_all(&self, packages: &[String]) -> Result<PathBuf, Error> {
        let mut args = vec!["--download-only", "--yes", "install", "?essential"];
        args.extend(packages.iter().map(String::as_str));
        self.apt_get(&args)?;
        Ok(self.dir.join("archives"))
    }

    /// Downloads one package and unpacks it below `to`.
    pub(crate) fn unpack(&self, package: &str, version: &str, to: &Path) -> Result<(), Error> {
        let doing = format!("fetching {package} {version} from {}", self.suite);
        let fetched = to.join("package");
        fs::create_dir_all(&fetched).map_err(io("making", &fetched))?;
        let wanted = format!("{package}={version}");
        supervise::run_with("apt-get", &["--quiet", "download", &wanted], |e| {
            self.environment(e).dir(&fetched)
        })
        .map_err(tool(&doing))?;
        let deb = fs::read_dir(&fetched)
            .map_err(io("listing", &fetched))?
            .flatten()
            .map(|entry| entry.path())
            .find(|p| p.extension().is_some_and(|e| e == "deb"))
            .ok_or_else(|| Error::Apt { what: doing.clone(), why: "nothing was downloaded".to_owned() })?;
        let args = [std::ffi::OsStr::new("--extract"), deb.as_os_str(), to.as_os_str()];
        supervise::run("dpkg-deb", &args).map_err(tool(doing))?;
        fs::remove_dir_all(&fetched).map_err(io("removing", &fetched))
    }

    /// The file with apt's settings for reaching the archive, for mmdebstrap.
    pub(crate) fn host_settings_file(&self) -> Result<PathBuf, Error> {
        let path = self.dir.join("host.conf");
        put_whole(&path, &host_settings()?)?;
        Ok(path)
    }

    /// The file with the archive's sources, for mmdebstrap.
    pub(crate) fn sources_file(&self) -> PathBuf {
        self.dir.join("sources.list")
    }

    fn apt_get(&self, args: &[&str]) -> Result<String, Error> {
        let mut line = vec!["--quiet"];
        line.extend(args);
        self.run("apt-get", &line)
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String, Error> {
        let doing = format!("asking {program} about {} packages", self.suite);
        let said = supervise::run_with(program, args, |e| self.environment(e)).map_err(tool(doing))?;
        Ok(said.text())
    }

    fn environment(&self, e: duct::Expression) -> duct::Expression {
        e.stdin_null()
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
    }
}

/// The lines of the host's apt settings that say how to reach an archive.
fn host_settings() -> Result<String, Error> {
    let said = supervise::run("apt-config", &["dump"]).map_err(tool("reading apt's settings"))?;
    Ok(reaching(&said.text()))
}

fn reaching(dump: &str) -> String {
    dump.lines()
        .filter(|line| TAKEN_OVER.iter().any(|prefix| line.starts_with(prefix)))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// `Inst NAME (VERSION ...)` lines of `apt-get --simulate install`.
fn parse_simulation(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            Some((name.split(' ').next()?.to_owned(), rest.split([' ', ')']).next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn what_a_killed_build_left_of_a_file_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = &dir.path().join("recipe.json");
        fs::write(dir.path().join("recipe.json.part"), "half of what was once to be").unwrap();
        std::thread::scope(|scope| {
            for text in ["one", "two", "six"] {
                scope.spawn(move || put_whole(path, text).unwrap());
            }
        });
        assert!(["one", "two", "six"].contains(&fs::read_to_string(path).unwrap().as_str()));
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [PART_LOCK, "recipe.json"]);
    }

    #[test]
    fn a_simulation_gives_names_and_versions() {
        let said = "NOTE: This is only a simulation!\nInst libc6 (2.36-9 Debian:12/stable [amd64])\nConf libc6 (2.36-9)\n\
                    Inst a [1] (2 x)\nInst broken\n";
        let versions = parse_simulation(said);
        assert_eq!(versions.get("libc6").map(String::as_str), Some("2.36-9"));
        assert_eq!(versions.len(), 2);
    }

    #[test]
    fn only_settings_for_reaching_an_archive_are_taken_over() {
        let dump = "APT \"\";\nDPkg::Post-Invoke:: \"rm\";\nAcquire::http::Proxy \"http://p.example:3128\";\n\
                    Acquire::Check-Valid-Until \"false\";\nAcquire::IndexTargets \"\";\nAcquire::Languages \"none\";\n";
        assert_eq!(
            reaching(dump),
            "Acquire::http::Proxy \"http://p.example:3128\";\nAcquire::Check-Valid-Until \"false\";\n"
        );
    }
}
