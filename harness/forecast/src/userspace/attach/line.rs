//! What the command line tells of volumes.
//!
//! Source: systemd 252.31 and 257.3, `src/cryptsetup/cryptsetup-generator.c` (`parse_proc_cmdline_item`).

use std::collections::BTreeMap;

use crate::command_line::Word;
use crate::initrd::CrypttabLine;
use crate::options::boolean;

/// What the command line tells systemd-cryptsetup-generator.
#[derive(Debug, Default)]
pub(super) struct Line<'a> {
    /// It opens nothing.
    pub(super) is_off: bool,
    /// It does not read `crypttab`.
    pub(super) ignores_table: bool,
    /// It opens those of `crypttab` alone that the command line knows.
    pub(super) is_allow_list: bool,
    /// dracut opens whatever it finds.
    pub(super) is_auto: bool,
    /// What is told of volumes, by their UUIDs.
    pub(super) devices: BTreeMap<&'a str, Device<'a>>,
    /// Options and key of those that it names and says no more of.
    pub(super) options: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

/// What the command line tells of one volume.
#[derive(Debug, Default)]
pub(super) struct Device<'a> {
    /// It is to be opened, whether it is in `crypttab` or not.
    pub(super) is_created: bool,
    /// Its data lie somewhere else than its header.
    pub(super) has_data: bool,
    pub(super) name: Option<&'a str>,
    pub(super) options: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

impl<'a> Line<'a> {
    pub(super) fn read(words: &'a [Word]) -> Self {
        let mut line = Self::default();
        for word in words {
            match (word.bare(), word.value()) {
                ("luks", how) => line.is_off = !is_on(how).unwrap_or(!line.is_off),
                ("luks.crypttab", how) => line.ignores_table = !is_on(how).unwrap_or(!line.ignores_table),
                ("auto", how) if word.name() == "rd.auto" => line.is_auto = is_on(how).unwrap_or(true),
                (name, Some(value)) => line.of_volumes(name, value),
                _ => {}
            }
        }
        line
    }

    fn of_volumes(&mut self, name: &str, value: &'a str) {
        let assigned = value.split_once('=');
        // What `sscanf` takes for a UUID, and behind it what comes before the next blank.
        let by_uuid = assigned.and_then(|(uuid, value)| {
            let is_hex = uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            let value = value.split_ascii_whitespace().next()?;
            (is_hex && !uuid.is_empty()).then_some((uuid, value))
        });
        match (name, by_uuid) {
            ("luks.uuid", _) => {
                self.create(value.strip_prefix("luks-").unwrap_or(value));
            }
            ("luks.name", Some((uuid, name))) => self.create(uuid).name = Some(name),
            ("luks.options", None) => self.options = Some(value),
            ("luks.options", Some((uuid, options))) if is_uuid(uuid) => {
                self.device(uuid).options = Some(options);
            }
            ("luks.key", _) => match assigned.filter(|(uuid, _)| uuid.bytes().all(is_of_word)) {
                Some((uuid, key)) if is_uuid(uuid) => self.device(uuid).key = Some(key),
                Some(_) => {}
                None => self.key = Some(value),
            },
            ("luks.data", _) => {
                if let Some((uuid, _)) = assigned.filter(|(uuid, _)| is_uuid(uuid)) {
                    self.device(uuid).has_data = true;
                }
            }
            _ => {}
        }
    }

    fn device(&mut self, uuid: &'a str) -> &mut Device<'a> {
        self.devices.entry(uuid).or_default()
    }

    fn create(&mut self, uuid: &'a str) -> &mut Device<'a> {
        self.is_allow_list = true;
        let device = self.device(uuid);
        device.is_created = true;
        device
    }

    /// What is told of a line of `crypttab`.
    pub(super) fn told(&self, of_table: &CrypttabLine) -> Option<&Device<'a>> {
        self.devices.get(of_table.told_by()?)
    }
}

/// What a switch says; one without a value says yes.
fn is_on(how: Option<&str>) -> Option<bool> {
    how.map_or(Some(true), boolean)
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// Whether it is a whole UUID, with dashes or without (`id128_is_valid`).
fn is_uuid(text: &str) -> bool {
    let has_dashes = text.len() == 36;
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 if has_dashes => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    (has_dashes || text.len() == 32) && text.bytes().enumerate().all(fits)
}
