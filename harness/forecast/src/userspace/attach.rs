//! Who opens the root volume, and with which options. Where neither the initrd's `crypttab` nor the command line nor its
//! type leads to it, nobody does.
//!
//! Sources: systemd 252.31 and 257.3, `src/cryptsetup/cryptsetup-generator.c` (`add_crypttab_devices`,
//! `add_proc_cmdline_devices`, `split_locationspec`), `src/cryptsetup/cryptsetup.c` (`run`: plugins
//! try tokens only where there is no key file; `parse_one_option`), `src/gpt-auto-generator/gpt-auto-generator.c` (`add_root_mount`); dracut,
//! `modules.d/90crypt/parse-crypt.sh` (`rd.auto`).

mod line;
mod root;

use latchkey_record::Outcome;

use crate::command_line::Word;
use crate::cryptsetup::{known, unknown};
use crate::initrd::{CrypttabLine, Initrd};
use crate::options::Options;
use crate::{End, RootVolume};
use line::{Device, Line};
use root::Whose;

pub(super) use root::Root;

/// What a root volume is called that is found by its type.
const ROOT: &str = "root";
/// What a device begins with that a key file lies on (`fstab_node_to_udev_node`).
const DEVICES: [&str; 5] = ["/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="];

/// Options of volumes that are no LUKS (`arg_type`), but for `tmp=`.
const NO_LUKS: [&str; 10] = [
    "swap",
    "plain",
    "tmp",
    "bitlk",
    "tcrypt",
    "tcrypt-hidden",
    "tcrypthidden",
    "tcrypt-system",
    "tcrypt-veracrypt",
    "veracrypt",
];

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

/// Why the root volume's tokens say nothing, and with which options it is opened, where that is known all the same.
#[derive(Debug)]
pub(super) struct Unattached {
    pub(super) end: End,
    pub(super) options: Option<Options>,
    holds: Holds,
}

/// For which contents of the root partition an end holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// LUKS2 with a header.
    Luks,
    /// That, and what nobody recognises.
    Encrypted,
    /// Whatever is there.
    Anything,
}

impl Unattached {
    /// Not modelled, which holds for such contents.
    fn not_modelled(why: &str, holds: Holds) -> Self {
        Self { end: unknown(why.to_owned()), options: None, holds }
    }

    /// Whether it comes before what the root partition's contents say.
    pub(super) fn comes_before(&self, root: RootVolume<'_>) -> bool {
        match root {
            RootVolume::Unrecognised => self.holds != Holds::Luks,
            RootVolume::Luks(_) | RootVolume::Plain => self.holds == Holds::Anything,
        }
    }
}

impl From<End> for Unattached {
    fn from(end: End) -> Self {
        Self { end, options: None, holds: Holds::Luks }
    }
}

/// The options that the root volume is opened with.
///
/// # Errors
/// How the boot ends where it is not opened, or where that is not known.
pub(super) fn attached(
    initrd: &Initrd,
    words: &[Word],
    root: Root<'_>,
    by_type: ByType,
) -> Result<Options, Unattached> {
    let not_modelled = |why: &str| Err(Unattached::not_modelled(why, Holds::Luks));
    let whatever_is_encrypted = |why: &str| Err(Unattached::not_modelled(why, Holds::Encrypted));
    let line = Line::read(words);
    let units = units(initrd.crypttab(), &line, root);
    if let Some(why) = root.one_of_several(by_type)
        && (by_type != ByType::No || !units.iter().any(|unit| unit.is_sure))
    {
        return Err(Unattached::not_modelled(why, Holds::Anything));
    }
    if initrd.opens_by_scripts() {
        return whatever_is_encrypted("the initrd opens volumes without systemd, which is not modelled");
    }
    // Where the header is somewhere else, nothing on the partition tells its UUID.
    let is_its = |uuid: &str| root.uuid.is_none_or(|own| own == uuid);
    if !line.is_off && line.devices.iter().any(|(&uuid, device)| device.has_data && is_its(uuid)) {
        return whatever_is_encrypted(
            "luks.data= says where the root volume's data lie, which is not modelled",
        );
    }
    if units.iter().any(Unit::has_header_elsewhere) {
        return whatever_is_encrypted(
            "header= says where the root volume's header lies, which is not modelled",
        );
    }
    // Two generators' units of the same name are one, the other one's.
    if by_type != ByType::No && units.iter().any(|unit| unit.name != ROOT) {
        return not_modelled("the root volume may be opened under two names, which is not modelled");
    }
    if units.iter().any(Unit::is_no_luks) {
        return whatever_is_encrypted("the root volume is to be opened as something else than LUKS");
    }
    let mut all = units.iter().map(|unit| Options::given(initrd, &unit.options));
    let Some(options) = all.next() else { return nobody_names_it(initrd, &line, by_type) };
    let is_sure = units.iter().all(|unit| unit.is_sure) && all.all(|other| other == options);
    if units.len() > 1 && !is_sure {
        return not_modelled("which line of the initrd's crypttab is the root volume's is not known");
    }
    units.iter().try_for_each(|unit| without_key_file(initrd, &unit.name, unit.key, options))?;
    Ok(options)
}

/// Neither `crypttab` nor the command line names the root volume.
fn nobody_names_it(initrd: &Initrd, line: &Line<'_>, by_type: ByType) -> Result<Options, Unattached> {
    let end = match by_type {
        ByType::With(options) => {
            return without_key_file(initrd, ROOT, None, options).map(|()| options);
        }
        ByType::Perhaps => {
            unknown("whether systemd knows the disk to look for the root volume is not known".into())
        }
        ByType::No if line.is_auto => {
            unknown("rd.auto has dracut open whatever it finds, which is not modelled".into())
        }
        ByType::No => known(
            Outcome::EmergencyShell,
            "nothing opens the root volume: no crypttab, no rd.luks.uuid= and not its type".into(),
        ),
    };
    Err(end.into())
}

/// Key files come before somebody is asked, and instead of the plugins.
fn without_key_file(
    initrd: &Initrd,
    name: &str,
    key: Option<&str>,
    options: Options,
) -> Result<(), Unattached> {
    match key.filter(|key| is_file(key)).or_else(|| initrd.key_file(name)) {
        Some(file) => {
            let end = unknown(format!("the root volume has a key file, {file}, which is not modelled"));
            Err(Unattached { end, options: Some(options), holds: Holds::Luks })
        }
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
    /// It is the root volume's for sure.
    is_sure: bool,
}

impl<'a> Unit<'a> {
    /// Options that the command line gives a volume stand in the place of its line's; keys do not.
    fn of_line(line: &'a CrypttabLine, device: Option<&Device<'a>>, is_sure: bool) -> Self {
        let options = match device.and_then(|device| device.options) {
            Some(options) => options.split(',').collect(),
            None => line.options.iter().map(String::as_str).collect(),
        };
        Self { name: line.name.clone(), key: line.key.as_deref(), options, is_sure }
    }

    /// Whether its options say where its header is.
    fn has_header_elsewhere(&self) -> bool {
        self.options.iter().any(|option| option.starts_with("header="))
    }

    /// Whether its options make it another kind of volume.
    fn is_no_luks(&self) -> bool {
        self.options.iter().any(|option| NO_LUKS.contains(option) || option.starts_with("tmp="))
    }
}

/// Those that open the root volume: of its lines in `crypttab` and of the command line, or else of the lines that are not
/// known to be another volume's. Swap space, for one, is not what a root is on.
fn units<'a>(table: &'a [CrypttabLine], line: &Line<'a>, root: Root<'_>) -> Vec<Unit<'a>> {
    if line.is_off {
        return Vec::new();
    }
    let table: &'a [CrypttabLine] = if line.ignores_table { &[] } else { table };
    let told = table.iter().map(|of_table| (of_table, line.told(of_table)));
    let used: Vec<(&'a CrypttabLine, Option<&Device<'a>>)> =
        told.filter(|(_, device)| !line.is_allow_list || device.is_some()).collect();
    let chosen = |whose: Whose| -> Vec<Unit<'a>> {
        let chosen = used.iter().filter(|(of_table, _)| root.whose(of_table) == whose);
        chosen.map(|&(of_table, device)| Unit::of_line(of_table, device, whose == Whose::Roots)).collect()
    };
    let mut own = chosen(Whose::Roots);
    let is_taken = used.iter().any(|(of_table, _)| of_table.told_by() == root.uuid);
    if let Some(uuid) = root.uuid
        && let Some(device) = line.devices.get(uuid)
        && device.is_created
        && !is_taken
    {
        let name = device.name.map_or_else(|| format!("luks-{uuid}"), str::to_owned);
        let options = device.options.or(line.options).unwrap_or_default().split(',').collect();
        own.push(Unit { name, key: device.key.or(line.key), options, is_sure: true });
    }
    if own.is_empty() {
        own = chosen(Whose::Unknown);
        own.retain(|unit| !unit.is_no_luks());
    }
    own
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::command_line::words;
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
    #[case::in_quotes("", "rd.luks.uuid=\"luks-@\" 'rd.luks.options=tpm2-device=auto,tries=1'", &["luks-@ - tpm2-device=auto,tries=1"])]
    #[case::options_up_to_a_blank("", "luks.uuid=@ luks.options='@=discard x'", &["luks-@ - discard"])]
    #[case::quotes_in_the_table("root UUID=\"@\" none discard", "luks.options=@=tries=1", &["root none discard"])]
    #[case::which_the_list_does_not_know("root UUID=\"@\" none discard", "luks.uuid=@", &["luks-@ - "])]
    #[case::beside_swap_space("root PARTLABEL=root none luks\nswap PARTLABEL=swap /dev/urandom swap\ntmp LABEL=tmp - tmp=xfs", "", &["root none luks"])]
    #[case::a_key_of_another("", "luks.uuid=@ luks.key=%=/key", &["luks-@ - "])]
    fn table_and_command_line_say_who_opens_it(
        #[case] table: &str,
        #[case] line: &str,
        #[case] expected: &[&str],
    ) {
        let filled = |text: &str| text.replace('@', UUID).replace('%', OTHER);
        let (table, words) = (crypttab::read(&filled(table)), words(&filled(line)));
        let told =
            |unit: &Unit<'_>| format!("{} {} {}", unit.name, unit.key.unwrap_or("-"), unit.options.join(","));
        let root = Root { uuid: Some(UUID), partitions: &[] };
        let units = units(&table, &Line::read(&words), root);
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
    #[case::with_data_elsewhere("rd.luks.uuid=@ rd.luks.data=@=/dev/sdb", ByType::No, Err(None))]
    #[case::with_anothers_data_elsewhere("rd.luks.uuid=@ rd.luks.data=1ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2=/dev/sdb", ByType::No, Ok(()))]
    #[case::with_its_header_elsewhere(
        "rd.luks.uuid=@ rd.luks.options=luks,header=/header",
        ByType::No,
        Err(None)
    )]
    #[case::switched_off("luks=no rd.luks.data=@=/dev/sdb", ByType::No, Err(Some(Outcome::EmergencyShell)))]
    #[case::as_something_else("rd.luks.uuid=@ rd.luks.options=plain", ByType::No, Err(None))]
    #[case::with_a_key_file("rd.luks.name=@=root rd.luks.key=/key", ByType::No, Err(None))]
    fn who_opens_it_decides_how_it_ends(
        #[case] line: &str,
        #[case] by_type: ByType,
        #[case] expected: Result<(), Option<Outcome>>,
    ) {
        let words = words(&line.replace('@', UUID));
        let root = Root { uuid: Some(UUID), partitions: &[] };
        let told = attached(&Initrd::default(), &words, root, by_type);
        assert_eq!(told.map(|_| ()).map_err(|unattached| unattached.end.outcome), expected);
    }

    /// What nobody recognises may be encrypted all the same: its header is elsewhere, or it has none.
    #[rstest]
    #[case::nobody("", ByType::No, false)]
    #[case::by_type("", ByType::With(Options::default()), false)]
    #[case::perhaps_by_type("", ByType::Perhaps, false)]
    #[case::with_a_header("rd.luks.name=1=root rd.luks.data=1=/dev/sda3", ByType::No, true)]
    fn what_nobody_recognises_may_have_a_header(
        #[case] line: &str,
        #[case] by_type: ByType,
        #[case] is_open: bool,
    ) {
        let told = |line: &str| {
            let root = Root { uuid: None, partitions: &[] };
            attached(&Initrd::default(), &words(line), root, by_type)
        };
        let uuid = "00000000-0000-0000-0000-000000000001";
        let comes_first = told(&line.replace("=1=", &format!("={uuid}=")))
            .is_err_and(|unattached| unattached.comes_before(RootVolume::Unrecognised));
        assert_eq!(comes_first, is_open);
    }
}
