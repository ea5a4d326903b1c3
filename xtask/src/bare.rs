//! `cargo xtask test --bare`: the README's two commands, from nothing.
//!
//! A fresh Debian 12 tree stands for a newcomer's machine: it has what Rust itself asks for (a linker), git and
//! certificates, and nothing of what the harness needs. Every command runs in a mount and a PID namespace of
//! its own, so whatever it mounts or starts is gone with it, however it ends; the tree is a scratch directory,
//! in which nothing of this machine is ever visible from outside those namespaces.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use latchkey_supervise::{Scratch, run};

use crate::apt::Sources;
use crate::exit::{Exit, stop};
use crate::system::System;
use crate::{child, handover, print, say, setup};

/// The release of the tree.
const RELEASE: &str = "bookworm";
/// What a developer's machine has before Latchkey: git, certificates, and the linker Rust asks for.
const DEVELOPERS_OWN: &str = "--include=git,ca-certificates,gcc,libc6-dev";
/// Where the toolchain is seen in the tree.
const TOOLCHAIN: &str = "/opt/rust";
/// The ordinary user in the tree.
const ORDINARY: Who = Who { id: 1000, home: "/home/newcomer" };
const ROOT: Who = Who { id: 0, home: "/root" };
/// Settings of apt that say how this machine reaches its mirror.
const REACH: &[&str] = &["::Proxy", "Check-Valid-Until", "Check-Date", "CaInfo", "CAInfo", "Verify-Peer"];
/// Variables that say how this machine reaches the network.
const NETWORK: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "all_proxy",
    "CARGO_HTTP_CAINFO",
    "CARGO_HTTP_PROXY",
];

/// Mounts and enters the tree. Arguments: the tree, the toolchain, the user's number, the home, the command.
/// Mounts are private to this namespace (`unshare --mount` makes them so), so nothing has to be undone.
const ENTER: &str = r#"set -e
tree=$1 toolchain=$2 id=$3 home=$4; shift 4
mount --bind "$tree" "$tree"
mount --rbind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
mkdir -p "$tree/opt/rust"
mount --bind "$toolchain" "$tree/opt/rust"
mount -o remount,bind,ro "$tree/opt/rust"
cd "$tree"
exec chroot --userspec="$id:$id" "$tree" /usr/bin/env --chdir="$home/latchkey" "$@""#;

#[derive(Clone, Copy)]
struct Who {
    id: u32,
    home: &'static str,
}

/// One command in the tree, and how it has to end.
struct Trial {
    who: Who,
    command: &'static [&'static str],
    ends: Exit,
    /// What its output has to contain.
    says: &'static str,
}

const TRIALS: &[Trial] = &[
    Trial {
        who: ORDINARY,
        command: &["cargo", "xtask", "run", "certificate-rename"],
        ends: Exit::NeedsRoot,
        says: "xtask setup --packages --user 1000",
    },
    Trial {
        who: ROOT,
        command: &["cargo", "xtask", "run", "certificate-rename"],
        ends: Exit::Expected,
        says: "",
    },
    Trial { who: ROOT, command: &["cargo", "xtask", "test"], ends: Exit::Expected, says: " 0 failed" },
];

/// The verb.
pub(crate) fn bare() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(stop(Exit::NeedsRoot, "`test --bare` mounts and changes root: run it as root"));
    }
    setup::ensure(setup::Purpose::Verbs)?;
    latchkey_supervise::cancel_on_signals();
    let changed = run(
        "git",
        &[OsString::from("-C"), handover::workspace().into(), "status".into(), "--porcelain".into()],
    );
    if changed.is_ok_and(|printed| !printed.stdout.is_empty()) {
        say("there are changes that are not committed: they are not tested, HEAD is");
    }
    let scratch = Scratch::new(&handover::workspace().join("target/bare"), "tree-")?;
    let machine = Machine::make(&scratch.path().join("tree"))?;
    let mut lines = Vec::new();
    let mut failed = 0;
    for trial in TRIALS {
        let began = Instant::now();
        let outcome = machine.run(trial)?;
        let name = format!("{} as {}", trial.command.join(" "), trial.who.name());
        let line = format!("{:<56} {:>12}  {outcome}", name, minutes(began.elapsed()));
        say(&line);
        failed += usize::from(outcome != Outcome::AsExpected);
        lines.push(line);
        if failed > 0 {
            // The later ones stand on the earlier.
            break;
        }
    }
    let passed = lines.len() - failed;
    let told = print(&format!("{}\n{passed} passed, {failed} failed\n", lines.join("\n")));
    if failed > 0 {
        return Err(stop(Exit::Verdict, "the README does not hold on a fresh Debian 12"));
    }
    told
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    AsExpected,
    Ended(Option<i32>),
    Unsaid(&'static str),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AsExpected => f.write_str("as expected"),
            Self::Ended(Some(code)) => write!(f, "FAILED: ended with {code}"),
            Self::Ended(None) => f.write_str("FAILED: was killed"),
            Self::Unsaid(text) => write!(f, "FAILED: its output lacks `{}`", text.trim()),
        }
    }
}

impl Who {
    fn name(self) -> &'static str {
        if self.id == 0 { "root" } else { "an ordinary user" }
    }
}

/// The tree, ready to run commands in.
struct Machine {
    tree: PathBuf,
    toolchain: PathBuf,
}

impl Machine {
    fn make(tree: &Path) -> Result<Self> {
        let toolchain = toolchain()?;
        let began = Instant::now();
        say("making a fresh Debian 12 tree");
        debian(tree)?;
        network(tree)?;
        for tool in ["cargo-nextest"] {
            if let Some(path) = handover::find(tool) {
                fs::copy(&path, tree.join("usr/local/bin").join(tool))
                    .with_context(|| format!("copying {tool}"))?;
            }
        }
        fs::create_dir_all(inside(tree, ORDINARY.home)).context("making a home")?;
        for who in [ROOT, ORDINARY] {
            clone(tree, who)?;
        }
        say(&format!("the tree is ready after {}", minutes(began.elapsed())));
        Ok(Self { tree: tree.to_owned(), toolchain })
    }

    /// Runs one command; what it prints is shown, on standard error, and kept to be judged.
    fn run(&self, trial: &Trial) -> Result<Outcome> {
        say(&format!("{}$ {}", trial.who.name(), trial.command.join(" ")));
        let mut line: Vec<OsString> =
            ["--mount", "--", "sh", "-c", ENTER, "enter"].map(OsString::from).to_vec();
        line.extend([self.tree.clone().into(), self.toolchain.clone().into()]);
        line.extend([trial.who.id.to_string().into(), trial.who.home.into()]);
        line.extend(environment(trial.who));
        line.extend(trial.command.iter().map(OsString::from));
        let (out, out_in) = std::io::pipe().context("making a pipe")?;
        let unshare = latchkey_supervise::start_tree("unshare", "unshare", &line, |e| {
            e.stdin_null().stderr_to_stdout().stdout_file(out_in)
        })?;
        let kept = child::show_and_keep(out);
        let status = child::wait(unshare, || {})?;
        let said = kept.join().unwrap_or_default();
        Ok(match status.code() {
            Some(code) if code == i32::from(trial.ends as u8) => {
                if said.contains(trial.says) {
                    Outcome::AsExpected
                } else {
                    Outcome::Unsaid(trial.says)
                }
            }
            // A download or the host failed in there: that says nothing of the README.
            Some(code) if code == i32::from(Exit::Infrastructure as u8) => {
                let message =
                    format!("`{}` met an infrastructure error, told above", trial.command.join(" "));
                return Err(stop(Exit::Infrastructure, message));
            }
            other => Outcome::Ended(other),
        })
    }
}

/// Where the absolute path `place` of the tree is.
fn inside(tree: &Path, place: &str) -> PathBuf {
    tree.join(place.trim_start_matches('/'))
}

/// The toolchain that runs this, as one directory.
fn toolchain() -> Result<PathBuf> {
    let printed = run("rustc", &["--print", "sysroot"])?.text();
    let sysroot = PathBuf::from(printed.trim());
    if sysroot == Path::new("/usr") || !sysroot.join("bin/cargo").is_file() {
        let message = format!(
            "{} is not a toolchain that can be shown in another tree: use one that rustup installed",
            sysroot.display()
        );
        return Err(stop(Exit::Infrastructure, message));
    }
    Ok(sysroot)
}

/// A Debian 12 from this machine's own mirror.
fn debian(tree: &Path) -> Result<()> {
    let of_machine = Sources::of_machine(Path::new("/etc/apt"));
    let mut sources = of_machine.of_release(RELEASE);
    if sources.is_empty() {
        sources = of_machine.another_suite(&System::this().codename, RELEASE);
    }
    if sources.is_empty() {
        let message = format!(
            "no apt source of this machine leads to a Debian mirror, from which {RELEASE} could come"
        );
        return Err(stop(Exit::Infrastructure, message));
    }
    let beside = tree.with_extension("apt");
    fs::create_dir_all(&beside).with_context(|| format!("making {}", beside.display()))?;
    let mut line: Vec<OsString> = ["--variant=apt", "--quiet", DEVELOPERS_OWN].map(OsString::from).to_vec();
    line.extend(reach()?.into_iter().map(|option| format!("--aptopt={option}").into()));
    line.extend([RELEASE.into(), tree.into()]);
    for (name, text) in [("own.list", sources.to_lines()), ("own.sources", sources.to_stanzas())] {
        if !text.is_empty() {
            let path = beside.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            line.push(path.into());
        }
    }
    let log = beside.join("log");
    let written = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let child = latchkey_supervise::start_tree("mmdebstrap", "mmdebstrap", &line, |e| {
        e.stdin_null().stderr_to_stdout().stdout_file(written)
    })?;
    let status = child::wait(child, || {})?;
    if !status.success() {
        let said = fs::read_to_string(&log).unwrap_or_default();
        return Err(stop(Exit::Infrastructure, format!("making the tree failed ({status}):\n{said}")));
    }
    Ok(())
}

/// The settings of this machine's apt without which its mirror may be out of reach.
fn reach() -> Result<Vec<String>> {
    let dump = run("apt-config", &["dump", "Acquire"])?.text();
    Ok(reach_in(&dump))
}

fn reach_in(dump: &str) -> Vec<String> {
    let set = dump.lines().filter(|line| !line.ends_with(" \"\";"));
    set.filter(|line| line.split(' ').next().is_some_and(|name| REACH.iter().any(|r| name.ends_with(r))))
        .map(str::to_owned)
        .collect()
}

/// Gives the tree this machine's way to the network, and the keys and certificates it trusts.
fn network(tree: &Path) -> Result<()> {
    let files = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"];
    for file in files {
        let to = inside(tree, file);
        if Path::new(file).exists() {
            // The tree's own may be a link that leads nowhere.
            let _ = fs::remove_file(&to);
            fs::copy(file, &to).with_context(|| format!("copying {file}"))?;
        }
    }
    for dir in ["/usr/share/keyrings", "/etc/apt/keyrings", "/etc/apt/trusted.gpg.d"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let to = inside(tree, dir).join(entry.file_name());
            if entry.path().is_file() && !to.exists() {
                fs::create_dir_all(inside(tree, dir)).with_context(|| format!("making {dir}"))?;
                fs::copy(entry.path(), &to).with_context(|| format!("copying {}", entry.path().display()))?;
            }
        }
    }
    Ok(())
}

/// Clones HEAD; what is not committed is not tested.
fn clone(tree: &Path, who: Who) -> Result<()> {
    let to = inside(tree, who.home).join("latchkey");
    let from = format!("file://{}", handover::workspace().display());
    run("git", &[OsString::from("clone"), "--quiet".into(), from.into(), to.into()])?;
    let cargo_home = inside(tree, who.home).join(".cargo");
    fs::create_dir_all(&cargo_home).context("making a cargo home")?;
    let of_machine = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    for name in ["config.toml", "config"] {
        if let Some(path) = of_machine.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file()) {
            fs::copy(&path, cargo_home.join(name)).with_context(|| format!("copying {}", path.display()))?;
        }
    }
    let owner = format!("{0}:{0}", who.id);
    run("chown", &[OsString::from("--recursive"), owner.into(), inside(tree, who.home).into()])?;
    Ok(())
}

fn environment(who: Who) -> Vec<OsString> {
    let mut set: Vec<OsString> = vec!["-i".into()];
    set.push(format!("HOME={}", who.home).into());
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    set.push(format!("PATH={TOOLCHAIN}/bin:{path}").into());
    set.push("LANG=C.UTF-8".into());
    for name in NETWORK {
        if let Some(value) = std::env::var_os(name) {
            let mut assignment = OsString::from(format!("{name}="));
            assignment.push(value);
            set.push(assignment);
        }
    }
    set
}

fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Acquire::http::Proxy \"http://p.example.org:3128\";", true)]
    #[case("Acquire::https::CaInfo \"/c.pem\";", true)]
    #[case("Acquire::Check-Valid-Until \"false\";", true)]
    #[case("Acquire::http::Proxy \"\";", false)]
    #[case("Acquire::Languages \"none\";", false)]
    #[case("Acquire \"\";", false)]
    fn settings_that_say_how_to_reach_the_mirror(#[case] line: &str, #[case] taken: bool) {
        assert_eq!(reach_in(line).len(), usize::from(taken));
    }

    #[rstest]
    #[case(5, "5.0 s")]
    #[case(75, "1 min 15 s")]
    fn times_for_people(#[case] seconds: u64, #[case] expected: &str) {
        assert_eq!(minutes(Duration::from_secs(seconds)), expected);
    }
}
