//! Which system this is.

use std::path::Path;

/// A system, as far as it decides how things are installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// How its packages are managed.
    pub(crate) family: Family,
    /// Its release's code name, such as `bookworm`; empty when it has none.
    pub(crate) codename: String,
    /// Whether it is Ubuntu or a child of it.
    pub(crate) is_ubuntu: bool,
    /// Its name for people.
    pub(crate) name: String,
}

/// How packages are managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// `apt-get` and `dpkg`: Debian, Ubuntu and their children.
    Apt,
    /// `dnf` with Fedora's names.
    Fedora,
    /// `dnf` with the names of RHEL's family.
    Rhel,
    /// Any other.
    Other,
}

impl System {
    /// This one, by `/etc/os-release`.
    pub(crate) fn this() -> Self {
        let read = |path| std::fs::read_to_string(Path::new(path)).ok();
        let text = read("/etc/os-release").or_else(|| read("/usr/lib/os-release"));
        Self::parse(&text.unwrap_or_default())
    }

    /// From the text of an os-release file (os-release(5)).
    pub(crate) fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
            value.map(|v| v.trim().trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
        };
        let words = format!("{} {}", field("ID"), field("ID_LIKE"));
        let is = |word: &str| words.split_whitespace().any(|w| w == word);
        let family = if is("debian") || is("ubuntu") {
            Family::Apt
        } else if is("rhel") || is("centos") {
            Family::Rhel
        } else if is("fedora") {
            Family::Fedora
        } else {
            Family::Other
        };
        let name =
            [field("PRETTY_NAME"), field("ID"), "this system".into()].into_iter().find(|n| !n.is_empty());
        Self {
            family,
            codename: field("VERSION_CODENAME"),
            is_ubuntu: is("ubuntu"),
            name: name.unwrap_or_default(),
        }
    }

    /// Whether this is Debian 12, where QEMU comes from backports.
    pub(crate) fn is_bookworm(&self) -> bool {
        self.family == Family::Apt && self.codename == "bookworm"
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::debian("ID=debian\nVERSION_CODENAME=bookworm\n", Family::Apt, "bookworm")]
    #[case::sid("PRETTY_NAME=\"Debian GNU/Linux trixie/sid\"\nID=debian", Family::Apt, "")]
    #[case::ubuntu("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble", Family::Apt, "noble")]
    #[case::mint("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_CODENAME=wilma", Family::Apt, "wilma")]
    #[case::fedora("ID=fedora\nVERSION_CODENAME=\"\"", Family::Fedora, "")]
    #[case::rocky("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"", Family::Rhel, "")]
    #[case::rhel("ID='rhel'\nID_LIKE='fedora'", Family::Rhel, "")]
    #[case::arch("ID=arch", Family::Other, "")]
    #[case::nothing("", Family::Other, "")]
    fn os_release(#[case] text: &str, #[case] family: Family, #[case] codename: &str) {
        let system = System::parse(text);
        assert_eq!((system.family, system.codename.as_str()), (family, codename));
        assert!(!system.name.is_empty());
        assert_eq!(system.is_ubuntu, text.contains("ubuntu"));
    }

    #[test]
    fn only_debians_own_bookworm_is_bookworm() {
        assert!(System::parse("ID=debian\nVERSION_CODENAME=bookworm").is_bookworm());
        assert!(!System::parse("ID=debian\nVERSION_CODENAME=trixie").is_bookworm());
    }
}
