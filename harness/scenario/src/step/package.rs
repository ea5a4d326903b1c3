//! A step that installs somebody else's kernel as a package, with the guest's own dnf.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use latchkey_supervise::{quoted, run};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::signed_anew;
use super::place::{Place, Site, place};
use super::{Act, By, Fault, Signer, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::location::Location;
use crate::rehearsal::Rehearsal;

/// What installs packages.
pub(crate) const DNF: &str = "/usr/bin/dnf";
/// The package that has a kernel, as the RHEL family calls it.
const PACKAGE: &str = "kernel-core";
/// Newer than any that an image has, so that it is what an update would bring.
const VERSION: &str = "9999.0";
const RELEASE: &str = "1.foreign";
/// As many lines of what dnf says tell what went wrong.
const SAID: usize = 3;
/// Packages are made for this architecture.
const ARCH: &str = "x86_64";

/// See [`super::Step::InstallKernel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InstallKernel {
    /// Whose signature the kernel has.
    pub signer: Signer,
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
    /// dnf does not install it, and would if nothing were excluded or locked.
    KeptOut,
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
    /// What the package has: a kernel beside the image's, and where GRUB starts it a snippet that puts it first.
    fn files(&self, site: &dyn Site) -> Result<Vec<(Place, Bytes)>, Error> {
        let image = site.image();
        let kernel = place(image, &Location::Kernel)?;
        let bytes = signed_anew(site, &kernel, self.signer)?;
        let name = format!("{VERSION}-{RELEASE}.{ARCH}");
        Ok(match (&kernel, &image.manifest) {
            (Place::Boot(_), Some(manifest)) => {
                let initrd = place(image, &Location::Initrd)?;
                let file = format!("vmlinuz-{name}");
                let snippet = format!(
                    "title Another kernel ({name})\nversion {name}\nlinux /{file}\ninitrd {}\noptions {}\n",
                    initrd.path(),
                    manifest.command_line
                );
                let snippet_path = format!("/loader/entries/{}-{name}.conf", manifest.vendor);
                vec![(kernel.beside(&file), bytes), (Place::Boot(snippet_path), snippet.into())]
            }
            _ => vec![(kernel.beside(&format!("{name}.efi")), bytes)],
        })
    }
}

impl Act for InstallKernel {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let repository = repository(&self.files(bench)?)?;
        let output = bench.running()?.guest(&self.command(), &repository, COMMAND)?;
        let (said, text) = (String::from_utf8_lossy(&output.stderr).into_owned(), output.text());
        let is_there = |word: &str| text.lines().any(|line| line.trim() == word);
        let seen = match (is_there(INSTALLED), is_there(OFFERED)) {
            (true, _) => Some(Installed::Installed),
            (false, true) => Some(Installed::KeptOut),
            (false, false) => None,
        };
        let words = seen.map_or("neither installed nor to be had", Installed::words).to_owned();
        let seen = if seen == Some(self.expect) {
            words
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

/// What the command says on a line of its own: the package is installed, and dnf would install it were nothing excluded.
const INSTALLED: &str = "latchkey: installed";
const OFFERED: &str = "latchkey: offered";

impl InstallKernel {
    /// Asks dnf for the package, all of whose repositories have it: each stands for the one that is handed in, and keeps
    /// what else its configuration says. Nobody's signature on packages is asked for, since it is not what keeps them out
    /// that a machine trusts.
    fn command(&self) -> String {
        let package = format!("{PACKAGE}-{VERSION}-{RELEASE}.{ARCH}");
        let free = "--disableexcludes=all --disableplugin=versionlock";
        let how = if self.determined { free } else { "" };
        format!(
            "repository=$(mktemp -d) && tar -x -C \"$repository\" || exit 1; \
             ask() {{ {DNF} --assumeyes \"--setopt=*.baseurl=file://$repository\" '--setopt=*.mirrorlist=' \
             '--setopt=*.metalink=' '--setopt=*.gpgcheck=0' '--setopt=*.repo_gpgcheck=0' \"$@\"; }}; \
             ask {how} install {PACKAGE}; \
             is_among() {{ ask {free} --quiet repoquery \"$@\" {package} | grep --quiet --fixed-strings {VERSION}; }}; \
             if is_among --installed; then echo {installed}; fi; \
             if is_among; then echo {offered}; fi; \
             rm -rf \"$repository\"; sync",
            installed = quoted(INSTALLED),
            offered = quoted(OFFERED),
        )
    }
}

/// A repository, as a tar archive, with a package that has these `files`.
fn repository(files: &[(Place, Bytes)]) -> Result<Bytes, Error> {
    let dir = tempfile::tempdir().map_err(Error::file("making", Path::new("a directory for a package")))?;
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
         %description\n%{{summary}}\n%install\ncp -a {}/. %{{buildroot}}/\n%files\n{listed}",
        tree.display()
    );
    fs::write(&spec, text).map_err(Error::file("writing", &spec))?;
    let making = |e: latchkey_supervise::Error| Error::Bench(format!("making a package with a kernel: {e}"));
    let define = |name: &str, path: &Path| format!("{name} {}", path.display());
    let (top, rpms) = (define("_topdir", &dir.path().join("top")), define("_rpmdir", &made));
    let spec = spec.display().to_string();
    run("rpmbuild", &["-bb", "--quiet", "--target", ARCH, "--define", &top, "--define", &rpms, &spec])
        .map_err(making)?;
    let made = made.display().to_string();
    run("createrepo_c", &["--quiet", &made]).map_err(making)?;
    Ok(run("tar", &["-c", "-C", &made, "."]).map_err(making)?.stdout.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

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
