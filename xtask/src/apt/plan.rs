//! What apt is asked for.

use crate::needs::{Bookworm, Need};
use crate::system::System;

use super::Sources;

/// Where Debian 12's newer packages are.
pub(super) const BACKPORTS: &str = "bookworm-backports";

/// Which sources apt installs from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The machine's own.
    Machine,
    /// The machine's own of this release and these besides, in a configuration that is ours alone.
    Private(Sources),
}

/// What to install from where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) from: From,
    /// Packages as `apt-get install` takes them, some with `/suite`.
    pub(super) packages: Vec<String>,
}

/// Backports are wanted but cannot be derived.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoMirror;

/// Plans the installation of `missing`. On Debian 12 QEMU's packages go together: when one is missing all are
/// asked for, so that those already there are drawn to the same version.
pub(super) fn plan(
    system: &System,
    sources: &Sources,
    missing: &[&Need],
    all: &[Need],
) -> Result<Plan, NoMirror> {
    let from_backports = |need: &Need| system.is_bookworm() && need.bookworm == Bookworm::Backports;
    if !missing.iter().any(|need| from_backports(need)) {
        let packages = missing.iter().map(|need| need.debian.to_owned()).collect();
        return Ok(Plan { from: From::Machine, packages });
    }
    let together =
        all.iter().filter(|need| from_backports(need)).map(|need| format!("{}/{BACKPORTS}", need.debian));
    let others = missing.iter().filter(|need| !from_backports(need)).map(|need| need.debian.to_owned());
    let packages = together.chain(others).collect();
    if sources.has(BACKPORTS) {
        return Ok(Plan { from: From::Machine, packages });
    }
    let backports = sources.another_suite(&system.codename, BACKPORTS);
    if backports.is_empty() {
        return Err(NoMirror);
    }
    Ok(Plan { from: From::Private(sources.of_release(&system.codename).and(backports)), packages })
}

/// How an ordinary user becomes root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BecomeRoot {
    /// With their own password.
    Sudo,
    /// With root's.
    Su,
}

/// The one command that an ordinary user is told: this same program, which as root needs no toolchain.
pub(crate) fn command_for_people(executable: &str, user: Option<&str>, how: BecomeRoot) -> String {
    let user = user.map(|user| format!(" --user {}", quoted(user))).unwrap_or_default();
    let command = format!("{} setup --packages{user}", quoted(executable));
    match how {
        BecomeRoot::Sudo => format!("sudo {command}"),
        BecomeRoot::Su => format!("su -c {}", quoted(&command)),
    }
}

/// `text` as one word of a shell command.
fn quoted(text: &str) -> String {
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;
    use crate::needs::NEEDS;

    const PLAIN: &str =
        "deb http://m.example.org/debian bookworm main\ndeb http://v.example.org/d stable main\n";
    const WITH_BACKPORTS: &str = "deb http://m.example.org/debian bookworm main\ndeb http://m.example.org/debian bookworm-backports main\n";

    fn planned(release: &str, sources: &str, missing: &[&str]) -> Result<Plan, NoMirror> {
        let system = System::parse(&format!("ID=debian\nVERSION_CODENAME={release}"));
        let missing: Vec<&Need> = NEEDS.iter().filter(|n| missing.contains(&n.debian)).collect();
        plan(&system, &Sources::lines(sources), &missing, NEEDS)
    }

    #[rstest]
    #[case::nothing_of_qemu("bookworm", PLAIN, &["swtpm", "gdisk"])]
    #[case::a_newer_release("trixie", PLAIN, &["qemu-system-x86", "swtpm"])]
    fn the_machines_own_sources_do(#[case] release: &str, #[case] sources: &str, #[case] missing: &[&str]) {
        let plan = planned(release, sources, missing).unwrap();
        assert_eq!(
            plan,
            Plan { from: From::Machine, packages: missing.iter().map(|p| (*p).into()).collect() }
        );
    }

    #[rstest]
    #[case::all_of_it(&["qemu-system-x86", "qemu-utils", "swtpm"])]
    #[case::utilities_are_there_already(&["qemu-system-x86", "swtpm"])]
    #[case::only_the_bios_is_missing(&["seabios", "swtpm"])]
    fn qemu_comes_from_backports_as_a_whole(#[case] missing: &[&str]) {
        let expected = [
            "qemu-system-x86/bookworm-backports",
            "qemu-system-common/bookworm-backports",
            "qemu-system-data/bookworm-backports",
            "seabios/bookworm-backports",
            "qemu-utils/bookworm-backports",
            "swtpm",
        ];
        let plan = planned("bookworm", PLAIN, missing).unwrap();
        assert_eq!(plan.packages, expected);
        let From::Private(sources) = plan.from else { panic!("{:?}", plan.from) };
        assert_eq!(
            sources.to_lines(),
            "deb http://m.example.org/debian bookworm main\ndeb http://m.example.org/debian bookworm-backports main\n"
        );
        let plan = planned("bookworm", WITH_BACKPORTS, missing).unwrap();
        assert_eq!(
            (plan.from, plan.packages.as_slice()),
            (From::Machine, expected.map(String::from).as_slice())
        );
    }

    #[test]
    fn a_machine_without_a_mirror_of_its_release_is_told() {
        assert_eq!(
            planned("bookworm", "deb http://v.example.org/d stable main", &["seabios"]),
            Err(NoMirror)
        );
    }

    #[rstest]
    #[case("/w/xtask", None, BecomeRoot::Sudo, "sudo /w/xtask setup --packages")]
    #[case("/w/xtask", Some("ann"), BecomeRoot::Sudo, "sudo /w/xtask setup --packages --user ann")]
    #[case("/my w/xtask", Some("ann"), BecomeRoot::Sudo, "sudo '/my w/xtask' setup --packages --user ann")]
    #[case("/w/xtask", Some("ann"), BecomeRoot::Su, "su -c '/w/xtask setup --packages --user ann'")]
    #[case("/o'w/xtask", None, BecomeRoot::Sudo, r"sudo '/o'\''w/xtask' setup --packages")]
    fn the_command_can_be_pasted(
        #[case] executable: &str,
        #[case] user: Option<&str>,
        #[case] how: BecomeRoot,
        #[case] expected: &str,
    ) {
        assert_eq!(command_for_people(executable, user, how), expected);
    }
}
