//! `cargo xtask setup`: what is missing, installed; what is there, probed.

use std::path::Path;

use anyhow::{Context, Result};
use latchkey_supervise::run;

use crate::apt::BecomeRoot;
use crate::child::{self, succeeds};
use crate::exit::{Exit, ended_like, stop};
use crate::needs::{BROWSER, NEEDS, Need, ORDINARY_USERS_NEED, PIP, Proof, XMLLINT};
use crate::system::{Family, System};
use crate::{apt, handover, json, print, say, subids};

const ETC: &str = "/etc";

/// What the user asked of set-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Change nothing, tell what is missing.
    Check,
    /// Install packages and stop there; for this ordinary user, if one is named.
    Packages(Option<String>),
    /// Install packages, build the harness, probe the host.
    Complete,
}

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people, on standard error.
    Text,
    /// One JSON object on standard output.
    Json,
}

/// What everything has to be there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The verbs of the `latchkey` binary.
    Verbs,
    /// The project's own tests as well.
    Tests,
}

struct State {
    purpose: Purpose,
    system: System,
    missing: Vec<&'static Need>,
    /// The ordinary user it is for.
    user: Option<String>,
    /// Whether that user has no range of user or group numbers.
    rangeless: bool,
}

/// Looks at the machine on behalf of `user`, or of the one who runs this.
fn look(user: Option<&str>, purpose: Purpose) -> Result<State> {
    let system = System::this();
    let user = user.map(str::to_owned).or_else(|| (!is_root()).then(own_name));
    let mut needs: Vec<&'static Need> = NEEDS.iter().collect();
    if user.is_some() {
        needs.push(&ORDINARY_USERS_NEED);
    }
    if purpose == Purpose::Tests {
        needs.push(&XMLLINT);
        if !proven(PIP.proof) {
            needs.push(&PIP);
        }
        // Ubuntu's archive has no browser, only a reference to a snap.
        if !system.is_ubuntu && !proven(BROWSER.proof) {
            needs.push(&BROWSER);
        }
    }
    let missing = match system.family {
        Family::Apt => apt::missing(&system, &needs)?,
        Family::Fedora => missing_from_rpm(&needs, false),
        Family::Rhel => missing_from_rpm(&needs, true),
        Family::Other => needs.into_iter().filter(|need| !proven(need.proof)).collect(),
    };
    let rangeless = user.as_ref().is_some_and(|user| subids::lacking(Path::new(ETC), user));
    Ok(State { purpose, system, missing, user, rangeless })
}

impl State {
    fn is_complete(&self) -> bool {
        self.missing.is_empty() && !self.rangeless
    }

    /// What is missing, for people.
    fn list(&self) -> String {
        let mut text = list(&self.missing);
        if self.rangeless {
            text.push_str("\n  a range in /etc/subuid and /etc/subgid, to build images without root");
        }
        text
    }
}

/// The name of the user who runs this, or the number of one who has none.
fn own_name() -> String {
    let named = run("id", &["-un"]).map(|captured| captured.text().trim().to_owned());
    named.unwrap_or_else(|_| rustix::process::geteuid().as_raw().to_string())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn missing_from_rpm(needs: &[&'static Need], rhel: bool) -> Vec<&'static Need> {
    let named = needs.iter().filter_map(|need| Some((*need, need.rpm(rhel)?)));
    named
        .filter(|(_, name)| !succeeds("rpm", &["-q", "--whatprovides", name]))
        .map(|(need, _)| need)
        .collect()
}

fn proven(proof: Proof) -> bool {
    match proof {
        Proof::Program(name) => on_path(name),
        Proof::OneOf(names) => names.iter().any(|name| on_path(name)),
        Proof::Library(name) => succeeds("pkg-config", &["--exists", name]),
        Proof::OneOfPlaces(places, variable) => {
            std::env::var_os(variable).is_some() || places.iter().any(|place| is_there(Path::new(place)))
        }
        Proof::Implied => true,
    }
}

/// Whether it is a file, or a directory with something in it.
fn is_there(path: &Path) -> bool {
    path.is_file() || path.read_dir().is_ok_and(|mut entries| entries.next().is_some())
}

fn on_path(program: &str) -> bool {
    handover::find(program).is_some()
}

/// The verb `setup`.
pub(crate) fn setup(aim: &Aim, form: Form) -> Result<()> {
    let user = if let Aim::Packages(user) = aim { user.as_deref() } else { None };
    let state = look(user, Purpose::Tests)?;
    if *aim == Aim::Check {
        return check(&state, form);
    }
    // How it ended counts more than that nobody could be told on standard output.
    if let Err(error) = complete(&state) {
        let _ = answer(form, || report(&state.system, false, &state.missing, &[], None));
        return Err(error);
    }
    let installed = &state.missing;
    if let Aim::Packages(_) = aim {
        return answer(form, || report(&state.system, true, &[], installed, None));
    }
    let latchkey = handover::build()?;
    let path = handover::search_path();
    let line: &[&str] = if form == Form::Json { &["probe", "--json"] } else { &["probe"] };
    let probe = latchkey_supervise::start("latchkey probe", latchkey, line, |e| {
        let e = e.env("PATH", path);
        if form == Form::Json { e.stdout_capture() } else { e }
    })?;
    let probe = child::output(probe, || {})?;
    if !probe.status.success() {
        let _ = answer(form, || report(&state.system, false, &[], installed, None));
        return Err(ended_like(probe.status.code(), "the probe of this host failed: see above"));
    }
    if form == Form::Text {
        say("set-up is complete");
    }
    let host = String::from_utf8_lossy(&probe.stdout);
    answer(form, || report(&state.system, true, &[], installed, Some(host.trim())))
}

/// Prints the `report` where JSON was asked for.
fn answer(form: Form, report: impl FnOnce() -> String) -> Result<()> {
    match form {
        Form::Text => Ok(()),
        Form::Json => print(&(report() + "\n")),
    }
}

/// Makes sure that nothing is missing that `purpose` needs.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    complete(&look(None, purpose)?)
}

fn complete(state: &State) -> Result<()> {
    if state.is_complete() {
        return Ok(());
    }
    if state.system.family != Family::Apt {
        return Err(stop(Exit::SetupIncomplete, by_hand(state)));
    }
    if !is_root() {
        let executable = std::env::current_exe().context("finding this program")?;
        let how = if on_path("sudo") { BecomeRoot::Sudo } else { BecomeRoot::Su };
        let command = apt::command_for_people(&executable.to_string_lossy(), state.user.as_deref(), how);
        let message = format!("{}\nonly root can change that; run\n\n    {command}\n", state.list());
        return Err(stop(Exit::NeedsRoot, message));
    }
    say(&state.list());
    if !state.missing.is_empty() {
        apt::install(&state.system, &state.missing)?;
    }
    if let Some(user) = state.user.as_deref().filter(|_| state.rangeless) {
        subids::add(Path::new(ETC), user)?;
    }
    let still = look(state.user.as_deref(), state.purpose)?;
    if still.is_complete() {
        return Ok(());
    }
    let message = format!("apt reported success, but: {}\nsee its log, {}", still.list(), apt::LOG);
    Err(stop(Exit::Infrastructure, message))
}

fn check(state: &State, form: Form) -> Result<()> {
    let told = answer(form, || report(&state.system, state.is_complete(), &state.missing, &[], None));
    if state.is_complete() {
        if form == Form::Text {
            say("nothing is missing");
        }
        return told;
    }
    Err(stop(Exit::SetupIncomplete, format!("{}\n`cargo xtask setup` installs it", state.list())))
}

fn list(missing: &[&Need]) -> String {
    let widest = missing.iter().map(|need| need.debian.len()).max().unwrap_or_default();
    let lines = missing.iter().map(|need| format!("\n  {:widest$}  {}", need.debian, need.why));
    format!("missing:{}", lines.collect::<String>())
}

/// What to do on a system on which nothing is installed from here.
fn by_hand(state: &State) -> String {
    let mut text = String::new();
    if !state.missing.is_empty() {
        text = packages_by_hand(&state.system, &state.missing);
    }
    if let Some(user) = state.user.as_deref().filter(|_| state.rangeless) {
        text.push_str(&format!(
            "to build images without root, as root run\n\n    \
             usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}\n"
        ));
    }
    text
}

fn packages_by_hand(system: &System, missing: &[&Need]) -> String {
    let rhel = system.family == Family::Rhel;
    let packages: Vec<&str> = missing.iter().filter_map(|need| need.rpm(rhel)).collect();
    let packages = packages.join(" ");
    match system.family {
        Family::Fedora => format!("missing on {}; as root, run\n\n    dnf install {packages}\n", system.name),
        Family::Rhel => format!(
            "missing on {}; as root, run (EPEL has what the release lacks)\n\n    \
             dnf install epel-release && dnf install --enablerepo=crb {packages}\n",
            system.name
        ),
        Family::Apt | Family::Other => {
            let lines = missing.iter().map(|need| {
                let what = match need.proof {
                    Proof::Program(name) => format!("the program {name}"),
                    Proof::OneOf(names) => format!("one of {}", names.join(", ")),
                    Proof::Library(name) => format!("the library {name} with its headers"),
                    Proof::OneOfPlaces(places, _) => format!("something in one of {}", places.join(", ")),
                    Proof::Implied => need.debian.to_owned(),
                };
                format!("\n  {what}: {} (Debian's package {})", need.why, need.debian)
            });
            format!(
                "missing on {}, where it has to be installed by hand:{}",
                system.name,
                lines.collect::<String>()
            )
        }
    }
}

fn report(
    system: &System,
    complete: bool,
    missing: &[&Need],
    installed: &[&Need],
    host: Option<&str>,
) -> String {
    let needs = |needs: &[&Need]| {
        json::array(needs.iter().map(|need| {
            format!("{{\"package\":{},\"why\":{}}}", json::string(need.debian), json::string(need.why))
        }))
    };
    format!(
        "{{\"system\":{},\"complete\":{},\"missing\":{},\"installed\":{},\"host\":{}}}",
        json::string(&system.name),
        complete,
        needs(missing),
        needs(installed),
        host.unwrap_or("null")
    )
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    fn some(names: &[&str]) -> Vec<&'static Need> {
        NEEDS.iter().filter(|need| names.contains(&need.debian)).collect()
    }

    #[rstest]
    #[case::fedora("ID=fedora", "dnf install qemu-system-x86-core tpm2-tss-devel\n")]
    #[case::rhel("ID=rhel", "--enablerepo=crb qemu-kvm tpm2-tss-devel\n")]
    #[case::other("ID=arch", "the library tss2-esys with its headers: the TPM tools of the tests")]
    fn what_to_do_by_hand(#[case] os_release: &str, #[case] expected: &str) {
        let missing = some(&["qemu-system-x86", "qemu-system-data", "libtss2-dev"]);
        let told = packages_by_hand(&System::parse(os_release), &missing);
        assert!(told.contains(expected), "{told}");
    }

    #[rstest]
    #[case::nowhere("nowhere", false)]
    #[case::an_empty_directory("empty", false)]
    #[case::a_descriptor("descriptors", true)]
    #[case::a_file("descriptors/50-ovmf.json", true)]
    fn firmware_is_proven_where_the_probe_looks(#[case] place: &str, #[case] expected: bool) {
        let root = tempfile::tempdir().unwrap();
        for dir in ["empty", "descriptors"] {
            std::fs::create_dir(root.path().join(dir)).unwrap();
        }
        std::fs::write(root.path().join("descriptors/50-ovmf.json"), "{}").unwrap();
        assert_eq!(is_there(&root.path().join(place)), expected);
    }

    #[test]
    fn the_firmware_is_not_taken_to_be_there() {
        let firmware = NEEDS.iter().find(|need| need.debian == "ovmf");
        assert!(firmware.is_some_and(|need| matches!(need.proof, Proof::OneOfPlaces(..))));
    }

    #[test]
    fn the_list_says_why() {
        assert_eq!(
            list(&some(&["swtpm", "gdisk"])),
            "missing:\n  swtpm  the machines' TPM\n  gdisk  checks partition tables"
        );
    }

    #[test]
    fn the_report_is_one_object() {
        let system = System::parse("PRETTY_NAME=\"A \\\"B\\\"\"");
        let report = report(&system, false, &some(&["swtpm"]), &[], Some("{\"x\":1}"));
        assert!(
            report.ends_with(
                "\"complete\":false,\"missing\":[{\"package\":\"swtpm\",\"why\":\"the machines' TPM\"}],\
             \"installed\":[],\"host\":{\"x\":1}}"
            ),
            "{report}"
        );
    }
}
