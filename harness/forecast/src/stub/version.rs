//! Which systemd-stub a UKI has, and which later versions' rules a vendor took into it.
//!
//! Red Hat's 252 (github.com/redhat-plumbers/systemd-rhel9, tags `v252-N` as the packages' releases) measures the sections
//! that 254 measures since `252-20` (fe66c59550, 16b3bb1a1b), loads 254's add-ons since `252-28` (2f27293823), and leaves the
//! blanks at a command line's end where they are (`src/boot/efi/util.c`, `mangle_stub_cmdline`, up to `252-76`).

use latchkey_measure::PeImage;

/// How the stub's own section names it.
const MARK: &str = "#### LoaderInfo: systemd-stub ";
/// How the releases of Red Hat Enterprise Linux 9's packages end, and those of its rebuilds.
const RED_HAT: &str = ".el9";
/// What Red Hat took from 254, and in which releases of its 252.
const TAKEN_FROM: u16 = 254;
const SECTIONS_IN: u16 = 20;
const ADDONS_IN: u16 = 28;

/// A systemd-stub's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// Its own, the major one.
    pub(super) number: u16,
    /// The one by whose rules it measures the UKI's sections.
    pub(super) sections: u16,
    /// The one by whose rules it loads add-ons.
    pub(super) addons: u16,
    /// Whether blanks at the end of a command line stay.
    pub(super) keeps_blanks: bool,
}

impl Version {
    /// The version of the stub in `image`, out of the section `.sdmagic`.
    pub(super) fn of(image: &PeImage<'_>) -> Option<Self> {
        let text = std::str::from_utf8(image.section(".sdmagic")?).ok()?;
        Self::parse(text.strip_prefix(MARK)?.split(' ').next()?)
    }

    /// Reads a version as `252.39-1~deb12u2`, `252-55.el9_7.7`, `257.13` or `v260-rc1`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (number, rest) = digits(text);
        let own = Self::upstream(number.parse().ok()?);
        let Some(release) = rest.strip_prefix('-').filter(|_| own.number == 252) else { return Some(own) };
        let (release, dist) = digits(release);
        let (Ok(release), true) = (release.parse::<u16>(), dist.contains(RED_HAT)) else { return Some(own) };
        let since = |first| if release >= first { TAKEN_FROM } else { own.number };
        Some(Self { sections: since(SECTIONS_IN), addons: since(ADDONS_IN), keeps_blanks: true, ..own })
    }

    /// As it was released.
    pub(super) fn upstream(number: u16) -> Self {
        Self { number, sections: number, addons: number, keeps_blanks: false }
    }
}

/// The digits that `text` begins with, and the rest.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::debian("252.39-1~deb12u2", Some((252, 252, 252, false)))]
    #[case::before_it_took_anything("252-18.el9", Some((252, 252, 252, true)))]
    #[case::with_later_sections("252-27.el9", Some((252, 254, 252, true)))]
    #[case::with_addons("252-55.el9_7.7", Some((252, 254, 254, true)))]
    #[case::of_a_rebuild("252-55.el9_7.7.rocky.0.1", Some((252, 254, 254, true)))]
    #[case::of_somebody_else("252-55.fc37", Some((252, 252, 252, false)))]
    #[case::of_its_next_generation("257-13.el10", Some((257, 257, 257, false)))]
    #[case::out_of_a_checkout("v260-rc1", Some((260, 260, 260, false)))]
    #[case::without_a_number("main", None)]
    #[case::with_too_large_a_number("99999", None)]
    fn versions(#[case] text: &str, #[case] expected: Option<(u16, u16, u16, bool)>) {
        let told = Version::parse(text).map(|v| (v.number, v.sections, v.addons, v.keeps_blanks));
        assert_eq!(told, expected);
    }
}
