//! Who opens the root volume, and with which options. Where neither the initrd's `crypttab` nor the command line nor its
//! type leads to it, nobody does.
//!
//! Sources: systemd 252.31 and 257.3, `src/cryptsetup/cryptsetup-generator.c` (`parse_proc_cmdline_item`,
//! `add_crypttab_device`, `add_proc_cmdline_devices`, `split_locationspec`), `src/cryptsetup/cryptsetup.c` (`run`: plugins
//! try tokens only where there is no key file), `src/gpt-auto-generator/gpt-auto-generator.c` (`add_root_mount`); dracut,
//! `modules.d/90crypt/parse-crypt.sh` (`rd.auto`).

use std::collections::BTreeMap;

use latchkey_record::Outcome;

use crate::End;
use crate::cryptsetup::{known, unknown};
use crate::initrd::{CrypttabLine, Initrd};
use crate::options::{Options, boolean};

/// What a root volume is called that is found by its type.
const ROOT: &str = "root";
/// What a device begins with that a key file lies on (`fstab_node_to_udev_node`).
const DEVICES: [&str; 5] = ["/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="];

/// Whether systemd finds the root volume by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByType {
    /// It does not look for it.
    No,
    /// It does, and opens it with these options.
    With(Options),
    /// It looks for it, if the boot loader told it the disk.
    Perhaps,
}

/// The options that the root volume, which has this UUID, is opened with.
///
/// # Errors
/// How the boot ends where it is not opened, or where that is not known.
pub(super) fn attached(
    initrd: &Initrd,
    command_line: &str,
    uuid: Option<&str>,
    by_type: ByType,
) -> Result<Options, End> {
    let line = Line::read(command_line);
    let units = units(initrd.crypttab(), &line, uuid);
    // Two generators' units of the same name are one, the other one's.
    if by_type != ByType::No && units.iter().any(|unit| unit.name != ROOT) {
        return Err(unknown("the root volume may be opened under two names, which is not modelled".into()));
    }
    let options = |unit: &Unit<'_>| {
        without_key_file(initrd, &unit.name, unit.key)?;
        Options::given(initrd, &unit.options).map_err(unknown)
    };
    let options = units.iter().map(options).collect::<Result<Vec<_>, _>>()?;
    match options.as_slice() {
        [] => nobody_names_it(initrd, &line, by_type),
        [first, rest @ ..] if rest.iter().all(|other| other == first) => Ok(*first),
        _ => Err(unknown("which line of the initrd's crypttab is the root volume's is not known".into())),
    }
}

/// Neither `crypttab` nor the command line names the root volume.
fn nobody_names_it(initrd: &Initrd, line: &Line<'_>, by_type: ByType) -> Result<Options, End> {
    match by_type {
        ByType::With(options) => without_key_file(initrd, ROOT, None).map(|()| options),
        // GRUB's module `bli` sets `LoaderDevicePartUUID`.
        ByType::Perhaps => Err(unknown(
            "whether GRUB tells systemd the disk to look for the root volume is not known".into(),
        )),
        ByType::No if line.is_auto => {
            Err(unknown("rd.auto has dracut open whatever it finds, which is not modelled".into()))
        }
        ByType::No => Err(known(
            Outcome::EmergencyShell,
            "nothing opens the root volume: no crypttab, no rd.luks.uuid= and not its type".into(),
        )),
    }
}

/// Key files come before somebody is asked, and instead of the plugins.
fn without_key_file(initrd: &Initrd, name: &str, key: Option<&str>) -> Result<(), End> {
    match key.filter(|key| is_file(key)).or_else(|| initrd.key_file(name)) {
        Some(file) => Err(unknown(format!("the root volume has a key file, {file}, which is not modelled"))),
        None => Ok(()),
    }
}

/// Whether a key is a file: an absolute path, or a path on a device of its own.
fn is_file(key: &str) -> bool {
    let on_device = |(_, device): (&str, &str)| DEVICES.iter().any(|start| device.starts_with(start));
    key.starts_with('/') || key.rsplit_once(':').is_some_and(on_device)
}

/// What systemd-cryptsetup is called with.
#[derive(Debug)]
struct Unit<'a> {
    name: String,
    key: Option<&'a str>,
    options: Vec<&'a str>,
}

impl<'a> Unit<'a> {
    /// Options that the command line gives a volume stand in the place of its line's; keys do not.
    fn of_line(line: &'a CrypttabLine, device: Option<&Device<'a>>) -> Self {
        let options = match device.and_then(|device| device.options) {
            Some(options) => options.split(',').collect(),
            None => line.options.iter().map(String::as_str).collect(),
        };
        Self { name: line.name.clone(), key: line.key.as_deref(), options }
    }
}

/// Those that open the volume with this UUID: of its line in `crypttab`, or else of the command line, or else of the lines
/// that name a device otherwise, which is not known to be another.
fn units<'a>(table: &'a [CrypttabLine], line: &Line<'a>, uuid: Option<&str>) -> Vec<Unit<'a>> {
    if line.is_off {
        return Vec::new();
    }
    let table: &'a [CrypttabLine] = if line.ignores_table { &[] } else { table };
    let told = table.iter().map(|of_table| (of_table, line.told(of_table)));
    let used: Vec<(&'a CrypttabLine, Option<&Device<'a>>)> =
        told.filter(|(_, device)| !line.is_allow_list || device.is_some()).collect();
    let chosen = |by: &dyn Fn(&CrypttabLine) -> bool| -> Vec<Unit<'a>> {
        let chosen = used.iter().copied().filter(|&(of_table, _)| by(of_table));
        chosen.map(|(of_table, device)| Unit::of_line(of_table, device)).collect()
    };
    let own = chosen(&|of_table| uuid.is_some() && of_table.uuid() == uuid);
    if !own.is_empty() {
        return own;
    }
    let is_taken = used.iter().any(|(of_table, _)| of_table.told_by() == uuid);
    if let Some(uuid) = uuid
        && let Some(device) = line.devices.get(uuid)
        && device.is_created
        && !is_taken
    {
        let name = device.name.map_or_else(|| format!("luks-{uuid}"), str::to_owned);
        let options = device.options.or(line.options).unwrap_or_default().split(',').collect();
        return vec![Unit { name, key: device.key.or(line.key), options }];
    }
    chosen(&|of_table| of_table.uuid().is_none())
}

/// What the command line tells systemd-cryptsetup-generator.
#[derive(Debug, Default)]
struct Line<'a> {
    /// It opens nothing.
    is_off: bool,
    /// It does not read `crypttab`.
    ignores_table: bool,
    /// It opens those of `crypttab` alone that the command line knows.
    is_allow_list: bool,
    /// dracut opens whatever it finds.
    is_auto: bool,
    /// What is told of volumes, by their UUIDs.
    devices: BTreeMap<&'a str, Device<'a>>,
    /// Options and key of those that it names and says no more of.
    options: Option<&'a str>,
    key: Option<&'a str>,
}

/// What the command line tells of one volume.
#[derive(Debug, Default)]
struct Device<'a> {
    /// It is to be opened, whether it is in `crypttab` or not.
    is_created: bool,
    name: Option<&'a str>,
    options: Option<&'a str>,
    key: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Self {
        let mut line = Self::default();
        for word in text.split_ascii_whitespace() {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let bare = name.strip_prefix("rd.").unwrap_or(name);
            match (bare, value) {
                ("luks", how) => line.is_off = !is_on(how).unwrap_or(!line.is_off),
                ("luks.crypttab", how) => line.ignores_table = !is_on(how).unwrap_or(!line.ignores_table),
                ("auto", how) if name == "rd.auto" => line.is_auto = is_on(how).unwrap_or(true),
                (_, Some(value)) => line.of_volumes(bare, value),
                _ => {}
            }
        }
        line
    }

    fn of_volumes(&mut self, name: &str, value: &'a str) {
        let assigned = value.split_once('=');
        // What `sscanf` takes for a UUID.
        let by_uuid = assigned.filter(|(uuid, value)| {
            !uuid.is_empty() && !value.is_empty() && uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
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
            ("luks.data", Some((uuid, _))) if is_uuid(uuid) => {
                self.device(uuid);
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
    fn told(&self, of_table: &CrypttabLine) -> Option<&Device<'a>> {
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::initrd::crypttab;

    const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";
    const OTHER: &str = "1ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";

    /// Name, key and options; `@` stands for the volume's UUID, `%` for another.
    #[rstest]
    #[case::nothing("", "quiet", &[])]
    #[case::options_alone("", "rd.luks.options=tpm2-device=auto", &[])]
    #[case::options_of_it_alone("", "luks.options=@=discard", &[])]
    #[case::named_by_the_command_line("", "rd.luks.uuid=luks-@ luks.options=tries=1,discard", &["luks-@ - tries=1,discard"])]
    #[case::with_a_name("", "rd.luks.name=@=root luks.options=discard luks.options=@=tpm2-device=auto", &["root - tpm2-device=auto"])]
    #[case::no_name("", "rd.luks.name=root", &[])]
    #[case::another("", "rd.luks.uuid=%", &[])]
    #[case::a_part_of_its_uuid("", "rd.luks.uuid=0ed3a7ab", &[])]
    #[case::options_of_no_uuid("", "luks.uuid=@ luks.options=discard luks.options=0ed3=luks", &["luks-@ - discard"])]
    #[case::its_own_line("data UUID=% none a\nroot UUID=@ none luks,discard", "", &["root none luks,discard"])]
    #[case::its_own_path("root /dev/disk/by-uuid/@ - discard", "", &["root - discard"])]
    #[case::not_in_the_table("data UUID=% none tpm2-device=auto", "", &[])]
    #[case::by_another_name("data UUID=% none a\nroot PARTLABEL=root none discard", "", &["root none discard"])]
    #[case::other_options_for_its_line("root UUID=@ /key discard", "luks.options=@=tries=1 luks.key=@=/other", &["root /key tries=1"])]
    #[case::for_the_uuid_in_its_name("luks-@ PARTLABEL=root none discard", "luks.options=@=tries=1", &["luks-@ none tries=1"])]
    #[case::for_no_line_of_another_name("root PARTLABEL=root none discard", "luks.options=@=tries=1", &["root none discard"])]
    #[case::not_on_the_list("root PARTLABEL=root none discard", "luks.uuid=@ luks.options=tpm2-device=auto", &["luks-@ - tpm2-device=auto"])]
    #[case::another_is_on_the_list("root UUID=@ none discard", "luks.uuid=%", &[])]
    #[case::on_the_list("root UUID=@ none discard", "luks.uuid=@ luks.options=tpm2-device=auto", &["root none discard"])]
    #[case::on_the_list_by_its_options("root UUID=@ none discard", "luks.uuid=% luks.options=@=tries=1", &["root none tries=1"])]
    #[case::on_the_list_by_its_name("luks-@ PARTLABEL=root none discard", "luks.uuid=@", &["luks-@ none discard"])]
    #[case::switched_off("root UUID=@ none discard", "rd.luks=0", &[])]
    #[case::switched_on_again("root UUID=@ none discard", "luks=no luks", &["root none discard"])]
    #[case::how_is_not_said("root UUID=@ none discard", "luks=perhaps", &["root none discard"])]
    #[case::without_the_table("root UUID=@ none discard", "luks.crypttab=no", &[])]
    #[case::the_list_instead("root UUID=@ none discard", "luks.crypttab=no luks.uuid=@", &["luks-@ - "])]
    #[case::a_key_for_all("", "luks.uuid=@ luks.key=/key", &["luks-@ /key "])]
    #[case::a_key_of_its_own("", "luks.uuid=@ luks.key=/key luks.key=@=/own:LABEL=x", &["luks-@ /own:LABEL=x "])]
    #[case::a_key_of_another("", "luks.uuid=@ luks.key=%=/key", &["luks-@ - "])]
    fn table_and_command_line_say_who_opens_it(
        #[case] table: &str,
        #[case] line: &str,
        #[case] expected: &[&str],
    ) {
        let filled = |text: &str| text.replace('@', UUID).replace('%', OTHER);
        let (table, line) = (crypttab::read(&filled(table)), filled(line));
        let told =
            |unit: &Unit<'_>| format!("{} {} {}", unit.name, unit.key.unwrap_or("-"), unit.options.join(","));
        let units = units(&table, &Line::read(&line), Some(UUID));
        let expected: Vec<String> = expected.iter().map(|text| filled(text)).collect();
        assert_eq!(units.iter().map(told).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case("/etc/key", true)]
    #[case("/key:UUID=1", true)]
    #[case("key:/dev/sdb1", true)]
    #[case("none", false)]
    #[case("-", false)]
    #[case("key", false)]
    #[case("key:name", false)]
    fn a_key_is_a_file_by_its_path(#[case] key: &str, #[case] expected: bool) {
        assert_eq!(is_file(key), expected);
    }

    /// How it ends where no line names the volume, or where several may.
    #[rstest]
    #[case::nobody("", ByType::No, Err(Some(Outcome::EmergencyShell)))]
    #[case::by_type("", ByType::With(Options::default()), Ok(()))]
    #[case::perhaps_by_type("", ByType::Perhaps, Err(None))]
    #[case::dracut("rd.auto", ByType::No, Err(None))]
    #[case::not_dracut("rd.auto=0", ByType::No, Err(Some(Outcome::EmergencyShell)))]
    #[case::under_two_names("rd.luks.uuid=@", ByType::With(Options::default()), Err(None))]
    #[case::under_one_name("rd.luks.name=@=root", ByType::With(Options::default()), Ok(()))]
    #[case::named_where_grub_may_tell("rd.luks.name=@=root", ByType::Perhaps, Ok(()))]
    #[case::with_a_key_file("rd.luks.name=@=root rd.luks.key=/key", ByType::No, Err(None))]
    fn who_opens_it_decides_how_it_ends(
        #[case] line: &str,
        #[case] by_type: ByType,
        #[case] expected: Result<(), Option<Outcome>>,
    ) {
        let line = line.replace('@', UUID);
        let told = attached(&Initrd::default(), &line, Some(UUID), by_type);
        assert_eq!(told.map(|_| ()).map_err(|end| end.outcome), expected);
    }
}
