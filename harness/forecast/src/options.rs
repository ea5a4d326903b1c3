//! What the root volume is opened with: options of the generator that found it, of the initrd's `crypttab`, or of the
//! command line.
//!
//! Sources: systemd 252.39 to 262, `src/cryptsetup/cryptsetup.c` (`parse_one_option`, `use_token_plugins`),
//! `src/cryptsetup/cryptsetup-generator.c` (`parse_proc_cmdline_item`: options of the command line are of the volumes that
//! it names), `src/gpt-auto-generator/gpt-auto-generator.c` (`add_cryptsetup`).

use crate::cryptsetup::Way;
use crate::initrd::{CrypttabLine, Feature, Initrd};

/// Where a volume key goes unless another PCR is named (`TPM2_PCR_SYSTEM_IDENTITY`).
const IDENTITY: u8 = 15;
/// What `parse_boolean` takes for a no, and for a yes.
const NO: [&str; 6] = ["0", "no", "n", "false", "f", "off"];
const YES: [&str; 6] = ["1", "yes", "y", "true", "t", "on"];
/// The last PCR.
const LAST: u8 = 23;

/// The options that count here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A TPM is named to open the volume with, which is one of the tries.
    pub(crate) names_tpm: bool,
    /// Into which PCR the volume key is measured.
    pub(crate) measured_into: Option<u8>,
    /// How often somebody is asked is given (`tries=`), which is not modelled.
    pub(crate) has_tries: bool,
    /// The volume key is needed for more than opening, and libcryptsetup's plugins give none.
    needs_key: bool,
}

impl Options {
    /// Of a volume that was found by its type, behind a UKI that measured itself.
    pub(crate) fn by_type(initrd: &Initrd) -> Self {
        let names_tpm = initrd.knows(Feature::AutomaticTpm);
        Self { names_tpm, measured_into: Some(IDENTITY), has_tries: false, needs_key: true }
    }

    /// Of a volume with this UUID that `crypttab` or the command line names.
    pub(crate) fn given(initrd: &Initrd, command_line: &str, uuid: Option<&str>) -> Self {
        let mut found = Self::default();
        let (mut keyslot, mut fixed) = (false, false);
        let options = of_volume(initrd.crypttab(), command_line, uuid);
        for (name, value) in options.into_iter().filter_map(|option| option.split_once('=')) {
            match name {
                "tpm2-device" => found.names_tpm = true,
                "tpm2-measure-pcr" if initrd.knows(Feature::MeasuresKey) => {
                    match value.parse::<u8>() {
                        Ok(pcr) if pcr <= LAST => found.measured_into = Some(pcr),
                        Ok(_) => {}
                        Err(_) if is_no(value) => found.measured_into = None,
                        Err(_) if is(value, &YES) => found.measured_into = Some(IDENTITY),
                        // What it cannot read it passes over.
                        Err(_) => {}
                    }
                }
                "tries" => found.has_tries = true,
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
    is(value, &NO)
}

fn is(value: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// The options of the volume with this UUID: those that the command line gives it, or else those of its line in `crypttab`,
/// or else, where the command line names volumes and `crypttab` does not have it, those that it gives all
/// (`cryptsetup-generator.c`, `add_crypttab_devices`, `get_uuid_device`).
fn of_volume<'a>(crypttab: &'a [CrypttabLine], line: &'a str, uuid: Option<&'a str>) -> Vec<&'a str> {
    let words = || line.split_ascii_whitespace().map(|word| word.strip_prefix("rd.").unwrap_or(word));
    let given: Vec<&str> = words().filter_map(|word| word.strip_prefix("luks.options=")).collect();
    let to = |given: &&'a str| given.split_once('=').filter(|(to, _)| is_uuid(to));
    let own =
        given.iter().filter_map(to).rfind(|(to, _)| uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(to)));
    if let Some((_, options)) = own {
        return options.split(',').collect();
    }
    let lines = of_table(crypttab, uuid);
    if !lines.is_empty() {
        return lines.into_iter().flat_map(|line| line.options.iter().map(String::as_str)).collect();
    }
    let names = words().any(|word| word.starts_with("luks.uuid=") || word.starts_with("luks.name="));
    let of_all = given.iter().rfind(|given| names && to(given).is_none());
    of_all.into_iter().flat_map(|options| options.split(',')).collect()
}

fn is_uuid(text: &str) -> bool {
    text.len() > 1 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// The lines of a `crypttab` that are about the volume with this UUID, or that may be: what names a device otherwise is
/// not known to be another.
fn of_table<'a>(crypttab: &'a [CrypttabLine], uuid: Option<&str>) -> Vec<&'a CrypttabLine> {
    let named = |line: &&CrypttabLine| {
        let prefix = ["UUID=", "/dev/disk/by-uuid/"];
        prefix.iter().find_map(|prefix| line.device.strip_prefix(prefix)).map(str::to_owned)
    };
    let own = |line: &&CrypttabLine| {
        named(line).is_some_and(|named| uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(&named)))
    };
    let all = || crypttab.iter();
    let sure: Vec<&CrypttabLine> = all().filter(own).collect();
    if sure.is_empty() { all().filter(|line| named(line).is_none()).collect() } else { sure }
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
    #[case::the_last("rd.luks.uuid=0ed3a7ab rd.luks.options=a=1 rd.luks.options=b=2", &["b=2"])]
    fn a_line_gives_options_to_volumes_that_it_names(#[case] line: &str, #[case] expected: &[&str]) {
        assert_eq!(super::of_volume(&[], line, Some(UUID)), expected);
    }

    /// The table's own line, or one that may be it; the command line's options for the volume stand in its place, those for
    /// all do not.
    #[rstest]
    #[case::its_own("data UUID=1ed3a7ab none luks,tpm2-device=auto\nroot UUID=0ED3A7AB-6C6D-4CD5-8C29-53B0E1A0B1C2 none discard", "", &["discard"])]
    #[case::by_another_name("data UUID=1ed3a7ab none a\nroot PARTLABEL=root none tpm2-device=auto", "", &["tpm2-device=auto"])]
    #[case::not_in_it("data UUID=1ed3a7ab none tpm2-device=auto", "", &[])]
    #[case::the_line_wins("root PARTLABEL=root none tpm2-device=auto", "luks.options=0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2=discard", &["discard"])]
    #[case::but_not_for_all("root PARTLABEL=root none discard", "luks.uuid=0ed3a7ab luks.options=tpm2-device=auto", &["discard"])]
    fn a_volume_has_the_options_of_its_line(
        #[case] table: &str,
        #[case] line: &str,
        #[case] expected: &[&str],
    ) {
        let table = crate::initrd::crypttab(table);
        assert_eq!(super::of_volume(&table, line, Some(UUID)), expected);
    }
}
