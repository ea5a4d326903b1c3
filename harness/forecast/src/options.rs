//! What the root volume is opened with.
//!
//! Sources: systemd 252.39 to 262, `src/cryptsetup/cryptsetup.c` (`parse_one_option`, `use_token_plugins`),
//! `src/shared/tpm2-util.c` (`tpm2_parse_pcr_argument_to_mask`), `src/gpt-auto-generator/gpt-auto-generator.c`
//! (`add_cryptsetup`).

use crate::cryptsetup::Way;
use crate::initrd::{Feature, Initrd};

/// Where a volume key goes unless another PCR is named (`TPM2_PCR_SYSTEM_IDENTITY`).
const IDENTITY: u8 = 15;
/// What `parse_boolean` takes for a no, and for a yes.
const NO: [&str; 6] = ["0", "no", "n", "false", "f", "off"];
const YES: [&str; 6] = ["1", "yes", "y", "true", "t", "on"];
/// The last PCR.
const LAST: u32 = 23;

/// The options that count here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A TPM is named to open the volume with, which is one of the tries.
    pub(crate) names_tpm: bool,
    /// Into which PCR the volume key is measured.
    pub(crate) measured_into: Option<u8>,
    /// How many tries there are, where that is given.
    pub(crate) tries: Option<u32>,
    /// Nobody is asked for anything.
    pub(crate) is_headless: bool,
    /// An empty passphrase is tried before somebody is asked.
    pub(crate) tries_empty: bool,
    /// The PCRs that tokens have to be bound to for systemd's own code to try them.
    pub(crate) pcrs: Pcrs,
    /// The volume key is needed for more than opening, and libcryptsetup's plugins give none.
    needs_key: bool,
}

/// Which PCRs `tpm2-pcrs=` names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Pcrs {
    /// None are asked for.
    #[default]
    Any,
    /// These, a bit each.
    These(u32),
    /// Some by a name or in a bank, which is not modelled.
    Unknown,
}

impl Pcrs {
    /// With those that one more option names.
    fn and(self, value: &str) -> Self {
        let named = value.split('+').map(str::parse).collect::<Result<Vec<u32>, _>>();
        match (self, named.ok().and_then(mask)) {
            _ if value.is_empty() => Self::These(0),
            (Self::Unknown, _) | (_, None) => Self::Unknown,
            (Self::Any, Some(more)) => Self::These(more),
            (Self::These(mask), Some(more)) => Self::These(mask | more),
        }
    }
}

/// Numbers of PCRs as a mask, a bit each; `None` where one is none.
pub(crate) fn mask(pcrs: impl IntoIterator<Item = u32>) -> Option<u32> {
    pcrs.into_iter().try_fold(0, |mask, pcr| (pcr <= LAST).then(|| mask | 1_u32 << pcr))
}

impl Options {
    /// Of a volume that was found by its type, behind a UKI that measured itself.
    pub(crate) fn by_type(initrd: &Initrd) -> Self {
        let names_tpm = initrd.knows(Feature::AutomaticTpm);
        Self { names_tpm, measured_into: Some(IDENTITY), needs_key: true, ..Self::default() }
    }

    /// Of a volume with these.
    pub(crate) fn given(initrd: &Initrd, options: &[&str]) -> Self {
        let mut found = Self::default();
        let (mut keyslot, mut fixed) = (false, false);
        // What systemd cannot read it passes over.
        for &option in options {
            let Some(assigned) = option.split_once('=') else {
                found.is_headless |= option == "headless";
                found.tries_empty |= option == "try-empty-password";
                continue;
            };
            match assigned {
                ("headless", value) => found.is_headless = boolean(value).unwrap_or(found.is_headless),
                ("try-empty-password", value) => {
                    found.tries_empty = boolean(value).unwrap_or(found.tries_empty);
                }
                ("tpm2-device", _) => found.names_tpm = true,
                ("tpm2-pcrs", value) => found.pcrs = found.pcrs.and(value),
                ("tpm2-measure-pcr", value) if initrd.knows(Feature::MeasuresKey) => {
                    let before = found.measured_into;
                    found.measured_into = match value.parse::<u8>() {
                        Ok(pcr) if u32::from(pcr) <= LAST => Some(pcr),
                        Ok(_) => before,
                        Err(_) => boolean(value).map_or(before, |measures| measures.then_some(IDENTITY)),
                    };
                }
                ("tries", value) => found.tries = value.parse().ok().or(found.tries),
                ("tpm2-measure-keyslot-nvpcr", value) if initrd.knows(Feature::MeasuresKeyslot) => {
                    keyslot = !value.is_empty() && boolean(value) != Some(false);
                }
                ("fixate-volume-key", _) if initrd.knows(Feature::FixesKey) => fixed = true,
                _ => {}
            }
        }
        found.needs_key = found.measured_into.is_some() || keyslot || fixed;
        found
    }

    /// Who tries the tokens.
    pub(crate) fn way(self, initrd: &Initrd) -> Way {
        match initrd.systemd() {
            // They let the plugin try first, whatever is to be measured, Red Hat's 252 among them
            // (redhat-plumbers/systemd-rhel9, `run`; `use_token_plugins` came with 255).
            Some(..=254) if initrd.has_token_plugin() || !self.names_tpm => Way::Plugin,
            _ if !self.needs_key => Way::Plugin,
            _ if self.names_tpm => Way::Own,
            _ => Way::NoTpm,
        }
    }
}

/// What `parse_boolean` makes of a word.
pub(crate) fn boolean(value: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
    if is(&YES) { Some(true) } else { is(&NO).then_some(false) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn with(change: impl Fn(&mut Options)) -> Options {
        let mut options = Options::default();
        change(&mut options);
        options
    }

    #[rstest]
    #[case::headless(&["luks", "headless"], |o: &mut Options| o.is_headless = true)]
    #[case::headless_by_value(&["headless=1"], |o: &mut Options| o.is_headless = true)]
    #[case::not_headless(&["headless", "headless=no"], |_: &mut Options| {})]
    #[case::how_is_not_said(&["headless", "headless="], |o: &mut Options| o.is_headless = true)]
    #[case::an_empty_passphrase(&["try-empty-password"], |o: &mut Options| o.tries_empty = true)]
    #[case::an_empty_passphrase_by_value(&["try-empty-password=yes"], |o: &mut Options| o.tries_empty = true)]
    #[case::tries(&["tries=1", "tries=many"], |o: &mut Options| o.tries = Some(1))]
    #[case::pcrs(&["tpm2-pcrs=0+7"], |o: &mut Options| o.pcrs = Pcrs::These(0x81))]
    #[case::more_pcrs(&["tpm2-pcrs=0", "tpm2-pcrs=7"], |o: &mut Options| o.pcrs = Pcrs::These(0x81))]
    #[case::no_pcrs(&["tpm2-pcrs=7", "tpm2-pcrs="], |o: &mut Options| o.pcrs = Pcrs::These(0))]
    #[case::without_a_value(&["tpm2-device", "tpm2-pcrs", "tries"], |_: &mut Options| {})]
    fn options_are_read_with_and_without_values(#[case] given: &[&str], #[case] change: fn(&mut Options)) {
        assert_eq!(Options::given(&Initrd::default(), given), with(change));
    }

    #[rstest]
    #[case(&["tpm2-pcrs=24"])]
    #[case(&["tpm2-pcrs=secure-boot-policy", "tpm2-pcrs=7"])]
    #[case(&["tpm2-pcrs=7:sha256"])]
    fn pcrs_that_are_named_otherwise_are_not_known(#[case] given: &[&str]) {
        assert_eq!(Options::given(&Initrd::default(), given).pcrs, Pcrs::Unknown);
    }
}
