//! A step that installs somebody else's kernel as a package, with the guest's own dnf.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use latchkey_supervise::{Scratch, private_root, quoted, run, run_with};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::artefact::another_kernel;
use super::files::signer;
use super::place::{Place, Site, place};
use super::{Act, By, Fault, Signer, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::location::Location;
use crate::rehearsal::Rehearsal;

/// What installs packages.
pub(crate) const DNF: &str = "/usr/bin/dnf";
/// What every system has in the same directory.
pub(crate) const BESIDE: &str = "/usr/bin/env";
/// The package that has a kernel, as the RHEL family calls it.
const PACKAGE: &str = "kernel-core";
/// Newer than any that an image has, so that it is what an update would bring.
const VERSION: &str = "9999.0";
const RELEASE: &str = "1.foreign";
/// As many lines of what dnf says tell what went wrong.
const SAID: usize = 3;
/// How long dnf may take for all that it is asked, which is up to twenty seconds each time without KVM.
const LIMIT: Duration = Duration::from_secs(300);
/// Packages are made for this architecture.
const ARCH: &str = "x86_64";

/// See [`super::Step::InstallKernel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InstallKernel {
    /// Whose signature the kernel has.
    pub signer: Signer,
    /// The repositories of the guest that offer it; all of them when none is named. A vendor's own, from which kernels come,
    /// is none that can offer somebody else's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<RepositoryId>,
    /// Whether what keeps packages out is switched off for it, as somebody does who wants it.
    #[serde(default)]
    pub determined: bool,
    /// What becomes of it.
    pub expect: Installed,
}

/// What becomes of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Installed {
    /// It is installed.
    Installed,
    /// dnf does not install it since it is excluded or locked, and would if nothing were.
    KeptOut,
}

/// What a repository is called in dnf's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct RepositoryId(String);

/// A text that is no repository's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no repository: its name has letters, digits and `-_.:` alone")]
pub struct NoRepository(String);

impl TryFrom<String> for RepositoryId {
    type Error = NoRepository;
    fn try_from(text: String) -> Result<Self, NoRepository> {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        match !text.is_empty() && text.chars().all(sound) {
            true => Ok(Self(text)),
            false => Err(NoRepository(text)),
        }
    }
}

impl From<RepositoryId> for String {
    fn from(id: RepositoryId) -> Self {
        id.0
    }
}

impl Installed {
    fn words(self) -> &'static str {
        match self {
            Self::Installed => "installed",
            Self::KeptOut => "kept out",
        }
    }
}

impl InstallKernel {
    /// What the package has: another kernel beside the image's, and where GRUB starts it a snippet that puts it first. On an image
    /// of a user's, whose kernel is not known, it has its name alone; dnf goes by no more.
    fn files(&self, site: &dyn Site) -> Result<Vec<(Place, Bytes)>, Error> {
        let name = format!("{VERSION}-{RELEASE}.{ARCH}");
        let image = site.image();
        let manifest = match (&image.manifest, self.expect) {
            (Some(manifest), _) => manifest,
            (None, Installed::KeptOut) => {
                return Ok(vec![(
                    Place::Boot(format!("/vmlinuz-{name}")),
                    Bytes::from_static(b"no kernel\n"),
                )]);
            }
            (None, Installed::Installed) => {
                let why = "what a package with a kernel puts on this image is not known: `expect = \"installed\"` is \
                           for reference images";
                return Err(Error::Bench(why.into()));
            }
        };
        let kernel = place(image, &Location::Kernel)?;
        let signer = signer(site.pki(), self.signer);
        let bytes = site.once(format!("another kernel, signed by {:?}", self.signer), &|| {
            another_kernel(site, &Location::Kernel, signer)
        })?;
        if let Place::Esp(_) = kernel {
            return Ok(vec![(kernel.beside(&format!("{name}.efi")), bytes)]);
        }
        let (file, initrd) = (format!("vmlinuz-{name}"), place(image, &Location::Initrd)?);
        let snippet = format!(
            "title Another kernel ({name})\nversion {name}\nlinux /{file}\ninitrd {}\noptions {}\n",
            initrd.path(),
            manifest.command_line
        );
        let snippet_path = format!("/loader/entries/{}-{name}.conf", manifest.vendor);
        Ok(vec![(kernel.beside(&file), bytes), (Place::Boot(snippet_path), snippet.into())])
    }
}

impl Act for InstallKernel {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let repository = repository(&self.files(bench)?)?;
        let output = bench.running()?.guest(&self.command(), &repository, LIMIT)?;
        let (said, text) = (String::from_utf8_lossy(&output.stderr).into_owned(), output.text());
        if says(&text, OTHER_DNF) {
            return Err(Error::Bench(format!("the guest's {DNF} is dnf5, which is asked otherwise")));
        }
        let words = became(&text);
        let seen = if words == self.expect.words() {
            words.to_owned()
        } else {
            // Its words are the last ones of what went wrong.
            let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            format!("{words} (dnf: {})", lines[lines.len().saturating_sub(SAID)..].join("; "))
        };
        bench.check(&format!("the package {PACKAGE}"), self.expect.words(), seen);
        Ok(())
    }

    /// What a vendor lets dnf install stands in no file that forecasts read: it is taken for what is expected.
    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        if self.expect == Installed::KeptOut {
            return Ok(());
        }
        for (place, bytes) in self.files(rehearsal)? {
            rehearsal.put(&place, &bytes, By::Guest)?;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let whose = match self.signer {
            Signer::Nobody => "an unsigned kernel",
            Signer::Stranger => "a stranger's kernel",
            Signer::Community => "the community's kernel",
        };
        let how = if self.determined { "dnf, nothing excluded" } else { "dnf" };
        match self.expect {
            Installed::Installed => format!("install {whose} with {how}"),
            Installed::KeptOut => format!("try to install {whose} with {how}: kept out"),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()
    }

    fn needs_dnf(&self) -> bool {
        true
    }
}

/// What became of the package, by what the command said.
fn became(said: &str) -> &'static str {
    match (says(said, INSTALLED), says(said, HIDDEN), says(said, WOULD)) {
        (true, ..) => Installed::Installed.words(),
        (_, true, true) => Installed::KeptOut.words(),
        (_, false, _) => "not installed, though nothing excludes it",
        (_, _, false) => "excluded, and not to be installed without that either",
    }
}

fn says(said: &str, word: &str) -> bool {
    said.lines().any(|line| line.trim() == word)
}

/// What the command says on lines of its own: the package is installed; dnf does not see it, as it is configured; dnf would
/// install it were nothing excluded; and it is another dnf.
const INSTALLED: &str = "latchkey: installed";
const HIDDEN: &str = "latchkey: hidden";
const WOULD: &str = "latchkey: would install";
const OTHER_DNF: &str = "latchkey: dnf5";

impl InstallKernel {
    /// Asks dnf for the package: each repository stands for the one that is handed in, and keeps what else its
    /// configuration says. Nobody's signature on packages is asked for, since it is not what keeps them out that a machine
    /// trusts. What keeps it out has to be what is excluded or locked: dnf does not see the package, and a transaction
    /// that is only tested (`tsflags=test`) succeeds once it does.
    fn command(&self) -> String {
        let package = format!("{PACKAGE}-{VERSION}-{RELEASE}.{ARCH}");
        let free = "--disableexcludes=all --disableplugin=versionlock";
        let from: String =
            self.from.iter().map(|id| format!(" {}", quoted(format!("--repo={}", id.0)))).collect();
        let how = if self.determined { free } else { "" };
        let [installed, hidden, would, other] = [INSTALLED, HIDDEN, WOULD, OTHER_DNF].map(quoted);
        format!(
            "repository=$(mktemp -d) && trap 'rm -rf \"$repository\"' EXIT && tar -x -C \"$repository\" || exit 1; \
             if {DNF} --version 2>&1 | grep --quiet '^dnf5'; then echo {other}; exit 0; fi; \
             ask() {{ {DNF} --assumeyes{from} \"--setopt=*.baseurl=file://$repository\" '--setopt=*.mirrorlist=' \
             '--setopt=*.metalink=' '--setopt=*.gpgcheck=0' '--setopt=*.repo_gpgcheck=0' \"$@\" >&2; }}; \
             sees() {{ ask \"$@\" 2>&1 | grep --quiet --fixed-strings {package}; }}; \
             ask {how} install {PACKAGE}; \
             if sees {free} --quiet repoquery --qf '%{{name}}-%{{version}}-%{{release}}.%{{arch}}' --installed {PACKAGE}; \
             then echo {installed}; sync; exit 0; fi; \
             sees --quiet repoquery --qf '%{{name}}-%{{version}}-%{{release}}.%{{arch}}' {PACKAGE} || echo {hidden}; \
             ! ask {free} --setopt=tsflags=test install {PACKAGE} || echo {would}"
        )
    }
}

/// A repository, as a tar archive, with a package that has these `files`.
fn repository(files: &[(Place, Bytes)]) -> Result<Bytes, Error> {
    let dir = Scratch::new(&private_root()?, "package-")?;
    let (tree, made, spec) =
        (dir.path().join("tree"), dir.path().join("repository"), dir.path().join("kernel.spec"));
    let mut listed = String::new();
    for (place, bytes) in files {
        let path = place.in_guest();
        let file = tree.join(path.trim_start_matches('/'));
        let parent = file.parent().unwrap_or(&tree);
        fs::create_dir_all(parent).map_err(Error::file("making", parent))?;
        fs::write(&file, bytes).map_err(Error::file("writing", &file))?;
        listed += &format!("{path}\n");
    }
    // Files as they are: nothing is stripped, linked to or looked into for what it needs.
    let text = format!(
        "%define debug_package %{{nil}}\n%define __os_install_post %{{nil}}\n%define _build_id_links none\n\
         %define _binary_payload w.ufdio\nName: {PACKAGE}\nVersion: {VERSION}\nRelease: {RELEASE}\n\
         Summary: Somebody else's kernel\nLicense: GPL-2.0-only\nBuildArch: {ARCH}\nAutoReqProv: no\n\
         %description\n%{{summary}}\n%install\ncp -a \"$TREE\"/. \"%{{buildroot}}\"/\n%files\n{listed}",
    );
    fs::write(&spec, text).map_err(Error::file("writing", &spec))?;
    let making = |e: latchkey_supervise::Error| Error::Bench(format!("making a package with a kernel: {e}"));
    let define = |name: &str, path: &Path| format!("--define={name} {}", path.display());
    let defines = [
        define("_topdir", &dir.path().join("top")),
        define("_tmppath", &dir.path().join("temporary")),
        define("_rpmdir", &made),
    ];
    let spec = spec.display().to_string();
    let mut line = vec!["-bb", "--quiet", "--target", ARCH];
    line.extend(defines.iter().map(String::as_str).chain([spec.as_str()]));
    run_with("rpmbuild", &line, |e| e.env("TREE", &tree)).map_err(making)?;
    let made = made.display().to_string();
    run("createrepo_c", &["--quiet", &made]).map_err(making)?;
    Ok(run("tar", &["-c", "-C", &made, "."]).map_err(making)?.stdout.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::installed(&[INSTALLED], "installed")]
    #[case::a_guard(&[HIDDEN, WOULD], "kept out")]
    #[case::a_full_disk(&[], "not installed, though nothing excludes it")]
    #[case::a_conflict_that_went_away(&[WOULD], "not installed, though nothing excludes it")]
    #[case::a_broken_repository(&[HIDDEN], "excluded, and not to be installed without that either")]
    fn a_guard_is_one_if_nothing_else_keeps_the_package_out(#[case] said: &[&str], #[case] expected: &str) {
        assert_eq!(became(&said.join("\n")), expected);
    }

    #[test]
    fn the_command_is_one_that_a_shell_takes_and_asks_the_repositories_that_are_named() {
        let id = |text: &str| RepositoryId::try_from(text.to_owned());
        assert!(id("").is_err() && id("a b").is_err() && id("$(x)").is_err());
        let (signer, expect) = (Signer::Community, Installed::KeptOut);
        let step = InstallKernel { signer, from: vec![id("baseos").unwrap()], determined: true, expect };
        let command = step.command();
        run("sh", &["-n", "-c", &command]).unwrap();
        assert!(
            command.contains("--repo=baseos")
                && command.contains("--disableplugin=versionlock install kernel-core;"),
            "{command}"
        );
    }

    #[test]
    fn a_package_has_its_files_where_the_guest_has_them() {
        let files = [
            (Place::Boot("/vmlinuz-1".into()), Bytes::from_static(b"kernel")),
            (Place::Esp("/EFI/Linux/a.efi".into()), Bytes::from_static(b"uki")),
        ];
        let dir = tempfile::tempdir().unwrap();
        let (tar, at) = (dir.path().join("tar"), dir.path().display().to_string());
        fs::write(&tar, repository(&files).unwrap()).unwrap();
        run("tar", &["-x", "-f", tar.to_str().unwrap(), "-C", &at]).unwrap();
        assert!(dir.path().join("repodata/repomd.xml").is_file());
        let package = dir.path().join(format!("{ARCH}/{PACKAGE}-{VERSION}-{RELEASE}.{ARCH}.rpm"));
        let listed =
            run("rpm", &["--query", "--list", "--package", package.to_str().unwrap()]).unwrap().text();
        assert_eq!(listed.lines().collect::<Vec<_>>(), ["/boot/efi/EFI/Linux/a.efi", "/boot/vmlinuz-1"]);
    }
}
