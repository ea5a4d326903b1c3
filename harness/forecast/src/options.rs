//! What the root volume is opened with: options of the generator that found it, of the initrd's `crypttab`, or of the
//! command line.
//!
//! Sources: systemd 252.39 to 262, `src/cryptsetup/cryptsetup.c` (`parse_one_option`, `use_token_plugins`),
//! `src/cryptsetup/cryptsetup-generator.c` (`parse_proc_cmdline_item`: options of the command line are of the volumes that
//! it names), `src/gpt-auto-generator/gpt-auto-generator.c` (`add_cryptsetup`).

use crate::cryptsetup::Way;
use crate::initrd::{Feature, Initrd};

/// Where a volume key goes unless another PCR is named (`TPM2_PCR_SYSTEM_IDENTITY`).
const IDENTITY: u8 = 15;
/// What `parse_boolean` takes for a no.
const NO: [&str; 6] = ["0", "no", "n", "false", "f", "off"];

/// The options that count here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A TPM is named to open the volume with, which is one of the tries.
    pub(crate) names_tpm: bool,
    /// Into which PCR the volume key is measured.
    pub(crate) measured_into: Option<u8>,
    /// The volume key is needed for more than opening, and libcryptsetup's plugins give none.
    needs_key: bool,
}

impl Options {
    /// Of a volume that was found by its type, behind a UKI that measured itself.
    pub(crate) fn by_type(initrd: &Initrd) -> Self {
        let names_tpm = initrd.knows(Feature::AutomaticTpm);
        Self { names_tpm, measured_into: Some(IDENTITY), needs_key: true }
    }

    /// Of a volume with this UUID that `crypttab` or the command line names.
    pub(crate) fn given(initrd: &Initrd, command_line: &str, uuid: Option<&str>) -> Self {
        let mut found = Self::default();
        let (mut keyslot, mut fixed) = (false, false);
        let options = initrd.crypttab().iter().map(String::as_str).chain(by_line(command_line, uuid));
        for (name, value) in options.filter_map(|option| option.split_once('=')) {
            match name {
                "tpm2-device" => found.names_tpm = true,
                "tpm2-measure-pcr" if initrd.knows(Feature::MeasuresKey) => {
                    found.measured_into = match value.parse() {
                        Ok(pcr) => Some(pcr),
                        Err(_) => (!is_no(value)).then_some(IDENTITY),
                    };
                }
                "tpm2-measure-keyslot-nvpcr" if initrd.knows(Feature::MeasuresKeyslot) => {
                    keyslot = !value.is_empty() && !is_no(value);
                }
                "fixate-volume-key" if initrd.knows(Feature::FixesKey) => fixed = true,
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

fn is_no(value: &str) -> bool {
    NO.iter().any(|no| no.eq_ignore_ascii_case(value))
}

/// The options that a command line gives a volume: those of its UUID, and those of none where the line names volumes.
fn by_line<'a>(line: &'a str, uuid: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let words = || line.split_ascii_whitespace().map(|word| word.strip_prefix("rd.").unwrap_or(word));
    let names = words().any(|word| word.starts_with("luks.uuid=") || word.starts_with("luks.name="));
    let of = move |given: &'a str| match given.split_once('=') {
        Some((to, options)) if to.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') => {
            uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(to)).then_some(options)
        }
        _ => names.then_some(given),
    };
    words().filter_map(|word| word.strip_prefix("luks.options=")).filter_map(of).flat_map(|o| o.split(','))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";

    #[rstest]
    #[case::of_none("rd.luks.options=tpm2-device=auto", &[])]
    #[case::of_named_ones("rd.luks.uuid=0ed3a7ab rd.luks.options=tries=1,tpm2-device=auto", &["tries=1", "tpm2-device=auto"])]
    #[case::of_this_one("luks.options=0ED3A7AB-6c6d-4cd5-8c29-53b0e1a0b1c2=tpm2-device=auto", &["tpm2-device=auto"])]
    #[case::of_another("rd.luks.name=0ed3a7ab=root rd.luks.options=1ed3a7ab=tpm2-device=auto", &[])]
    fn a_line_gives_options_to_volumes_that_it_names(#[case] line: &str, #[case] expected: &[&str]) {
        assert_eq!(super::by_line(line, Some(UUID)).collect::<Vec<_>>(), expected);
    }
}
