//! Asking dpkg what is there, and apt for what is not.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::exit::{Exit, stop};
use crate::needs::{Bookworm, NEEDS, Need};
use crate::say;
use crate::system::System;

use super::Sources;
use super::failure::{lists_were_locked, remedy};
use super::plan::{From, plan};

/// Ours alone: apt's lists of the derived sources, and the log. Below /var, since apt downloads as a user of
/// its own who cannot look into a home directory.
const OURS: &str = "/var/cache/latchkey/apt";
/// Everything apt printed, the latest last.
pub(crate) const LOG: &str = "/var/cache/latchkey/apt/log";
/// The machine's lock on its package lists.
const LISTS_LOCK: &str = "/var/lib/apt/lists/lock";
/// How often apt is asked again after somebody else was updating the lists.
const LISTS_TRIES: usize = 5;
/// QEMU's first major version that can save a machine with `mapped-ram` (QEMU, `docs/devel/migration`).
const QEMU_MAJOR: u32 = 9;
/// How many of apt's complaints are shown when it failed.
const SHOWN: usize = 12;

/// Those of `needs` that are not installed.
pub(crate) fn missing<'a>(system: &System, needs: &[&'a Need]) -> Result<Vec<&'a Need>> {
    let format = "--showformat=${db:Status-Status} ${Package} ${Version} ${Provides}\n";
    let printed = latchkey_supervise::run("dpkg-query", &["--show", format])?.text();
    Ok(missing_from(system, needs, &printed))
}

fn missing_from<'a>(system: &System, needs: &[&'a Need], printed: &str) -> Vec<&'a Need> {
    let installed: Vec<_> = printed.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    let there = |need: &Need| {
        installed.iter().any(|line| {
            let mut fields = line.splitn(3, ' ');
            let (name, version) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            let mut provided = fields.next().unwrap_or_default().split(',').map(str::trim);
            let by_name = name == need.debian && !outdated(system, need, version);
            by_name || provided.any(|p| p.split(' ').next() == Some(need.debian))
        })
    };
    needs.iter().filter(|need| !there(need)).copied().collect()
}

/// Whether Debian 12's own QEMU is installed where the one from backports is needed.
fn outdated(system: &System, need: &Need, version: &str) -> bool {
    let upstream = version.split_once(':').map_or(version, |(_, rest)| rest);
    let major = upstream.split('.').next().and_then(|m| m.parse::<u32>().ok());
    let of_qemu = need.bookworm == Bookworm::Backports && need.debian.starts_with("qemu-");
    system.is_bookworm() && of_qemu && major.is_some_and(|m| m < QEMU_MAJOR)
}

/// Installs `missing`. Apt's own words go to a log, whose end is shown when it fails.
///
/// Apt is the one child that is not killed with this process: dpkg stopped half-way would leave packages
/// half-configured. An interrupt from the terminal reaches it directly, and it ends in its own way.
pub(crate) fn install(system: &System, missing: &[&Need]) -> Result<()> {
    let ours = Path::new(OURS);
    fs::create_dir_all(ours).with_context(|| format!("making {OURS}"))?;
    let turn = File::create(ours.join("lock")).with_context(|| format!("opening {OURS}/lock"))?;
    if flock(&turn, FlockOperation::NonBlockingLockExclusive).is_err() {
        say("waiting for another set-up to finish");
        flock(&turn, FlockOperation::LockExclusive).context("waiting for another set-up")?;
    }
    let plan = plan(system, &Sources::of_machine(Path::new("/etc/apt")), missing, NEEDS).map_err(|_| {
        stop(
            Exit::Infrastructure,
            format!(
                "no apt source of this machine has the suite {}, from which backports could be derived: \
                 add a Debian mirror to /etc/apt/sources.list.d, then run this again",
                system.codename
            ),
        )
    })?;
    let apt = match &plan.from {
        From::Machine => Apt { options: Vec::new(), log: LOG.into() },
        From::Private(sources) => Apt { options: private(ours, sources)?, log: LOG.into() },
    };
    say("updating the package lists");
    let updated = apt.update()?;
    say(&format!("installing {} packages", plan.packages.len()));
    let mut line = ["install", "--yes", "--no-install-recommends"].map(OsString::from).to_vec();
    line.extend(plan.packages.iter().map(OsString::from));
    let installed = apt.run(&line)?;
    if installed.success {
        return Ok(());
    }
    // Lists that could not be updated need not matter, for instance those of a vendor's repository, so that was
    // no reason to stop; but it is the likeliest reason for what followed, even where apt let it pass.
    let told: String = updated.output.lines().filter(|l| is_complaint(l)).map(|l| format!("{l}\n")).collect();
    Err(failed(&format!("{told}{}", installed.output), &apt.log))
}

/// Whether a line of apt's is an error or a warning.
fn is_complaint(line: &str) -> bool {
    ["E:", "W:", "Err:"].iter().any(|sign| line.starts_with(sign))
}

fn failed(output: &str, log: &Path) -> anyhow::Error {
    let complaints: Vec<&str> = output.lines().filter(|l| is_complaint(l)).collect();
    let all: Vec<&str> = output.lines().filter(|l| !l.trim().is_empty()).collect();
    let lines = if complaints.is_empty() { all } else { complaints };
    // Errors at the beginning are causes, those after them consequences.
    let end = lines[..lines.len().min(SHOWN)].join("\n  ");
    let message = format!(
        "apt could not install what is missing:\n  {end}\n{}\nthe whole log: {}",
        remedy(output),
        log.display()
    );
    stop(Exit::Infrastructure, message)
}

/// Makes an apt configuration of our own from `sources`, so that the machine's /etc/apt stays as it is.
fn private(ours: &Path, sources: &Sources) -> Result<Vec<OsString>> {
    let parts = ours.join("sources.list.d");
    let lists = ours.join("lists");
    for dir in [&parts, &lists.join("partial")] {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    for (name, text) in [("latchkey.list", sources.to_lines()), ("latchkey.sources", sources.to_stanzas())] {
        let path = parts.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    let settings = [
        "Dir::Etc::sourcelist=/dev/null".to_owned(),
        format!("Dir::Etc::sourceparts={}", parts.display()),
        format!("Dir::State::lists={}", lists.display()),
        // The machine's own caches describe its own sources.
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        "Acquire::Languages=none".to_owned(),
    ];
    Ok(settings.into_iter().flat_map(|s| [OsString::from("-o"), s.into()]).collect())
}

struct Apt {
    options: Vec<OsString>,
    log: PathBuf,
}

/// How one run of apt went.
struct Said {
    success: bool,
    output: String,
}

impl Apt {
    fn update(&self) -> Result<Said> {
        let mut said = self.run(&["update".into()])?;
        for _ in 1..LISTS_TRIES {
            if said.success || !lists_were_locked(&said.output) {
                break;
            }
            say("waiting for another package manager to finish");
            let lock = File::options().write(true).open(LISTS_LOCK).context("opening apt's lock")?;
            fcntl_lock(&lock, FlockOperation::LockExclusive).context("waiting for apt's lock")?;
            drop(lock);
            said = self.run(&["update".into()])?;
        }
        Ok(said)
    }

    fn run(&self, line: &[OsString]) -> Result<Said> {
        let opened = File::options().create(true).append(true).read(true).open(&self.log);
        let mut log = opened.with_context(|| format!("opening {}", self.log.display()))?;
        let before = log.seek(SeekFrom::End(0))?;
        let status = Command::new("apt-get")
            .args(["--quiet", "-o", "DPkg::Lock::Timeout=600", "-o", "Dpkg::Use-Pty=0"])
            .args(["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"])
            .args(&self.options)
            .args(line)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("NEEDRESTART_SUSPEND", "1")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .status()
            .context("starting apt-get")?;
        let mut output = Vec::new();
        log.seek(SeekFrom::Start(before))?;
        log.read_to_end(&mut output)?;
        Ok(Said { success: status.success(), output: String::from_utf8_lossy(&output).into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::installed("bookworm", "installed swtpm 0.7.1-1.3 \n", "swtpm", true)]
    #[case::removed("bookworm", "config-files swtpm 0.7.1-1.3 \n", "swtpm", false)]
    #[case::half("bookworm", "unpacked swtpm 0.7.1-1.3 \n", "swtpm", false)]
    #[case::another_name("bookworm", "installed swtpm-libs 0.7.1-1.3 \n", "swtpm", false)]
    #[case::provided(
        "trixie",
        "installed pkgconf 1.8.1-4 pkg-config (= 1.8.1-4), pkgconfig\n",
        "pkg-config",
        true
    )]
    #[case::from_backports("bookworm", "installed qemu-utils 1:10.0.2+ds-2~bpo12+1 \n", "qemu-utils", true)]
    #[case::too_old_here("bookworm", "installed qemu-utils 1:7.2+dfsg-7+deb12u15 \n", "qemu-utils", false)]
    #[case::what_there_is_elsewhere(
        "jammy",
        "installed qemu-utils 1:6.2+dfsg-2ubuntu6 \n",
        "qemu-utils",
        true
    )]
    #[case::the_bios_has_other_numbers("bookworm", "installed seabios 1.16.3-2~bpo12+1 \n", "seabios", true)]
    #[case::nothing("bookworm", "", "swtpm", false)]
    fn what_dpkg_says(#[case] release: &str, #[case] printed: &str, #[case] name: &str, #[case] there: bool) {
        let system = System::parse(&format!("ID=debian\nVERSION_CODENAME={release}"));
        let needs: Vec<&Need> = NEEDS.iter().filter(|n| n.debian == name).collect();
        assert_eq!(missing_from(&system, &needs, printed).is_empty(), there);
    }
}
