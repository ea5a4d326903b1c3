//! Boot options: what the firmware makes of those in its variables before it tries them.
//!
//! Sources: edk2 `MdeModulePkg/Library/UefiBootManagerLib` (options of its own, recognised by their optional data),
//! `OvmfPkg/Library/QemuBootOrderLib` (options on disks that QEMU was given a `bootindex` for come first),
//! `OvmfPkg/Library/PlatformBootManagerLib` (menu and shell); UEFI 2.10, sections 3.1.3 and 10.3.

use latchkey_disk::varstore::{Attributes, Variable, VariableId, vendor};
use latchkey_disk::{Partition, VarStore};
use uuid::{Uuid, uuid};

use super::place::{END, OF_GPT, Place, behind, place};
use crate::BootDisk;
use crate::firmware::FirmwareImage;
use crate::stub::utf16;

/// `mBmAutoCreateBootOptionGuid`: the optional data of options that the firmware made by itself.
const AUTOMATIC: Uuid = uuid!("8108ac4e-9f11-4d59-850e-e21a522c59b2");
/// The firmware volume that menu and shell lie in (OVMF's DXE volume), and the two programs.
const VOLUME: Uuid = uuid!("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1");
const MENU: Uuid = uuid!("462caa21-7614-4503-836e-8ab6f4662331");
const SHELL: Uuid = uuid!("7c04a583-9e3e-4f1c-ad65-e05268d0b4d1");
/// `LOAD_OPTION_ACTIVE`, `LOAD_OPTION_HIDDEN`, `LOAD_OPTION_CATEGORY_APP`.
const ACTIVE: u32 = 0x1;
const HIDDEN: u32 = 0x8;
const CATEGORY: u32 = 0x1f00;
const APPLICATION: u32 = 0x100;

/// A boot option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootOption {
    pub(crate) number: u16,
    pub(crate) data: Vec<u8>,
    pub(crate) title: String,
    pub(crate) place: Place,
    /// Whether its path begins with the disk's, and not with a partition or a file.
    pub(crate) names_disk: bool,
    /// What the program is given.
    pub(crate) optional: Vec<u8>,
    pub(crate) attributes: u32,
}

impl BootOption {
    /// Whether the firmware tries it by itself.
    pub(crate) fn is_tried(&self) -> bool {
        self.attributes & ACTIVE != 0 && self.attributes & CATEGORY == 0
    }

    fn parse(number: u16, data: &[u8], disk: &[u8]) -> Option<Self> {
        let attributes = u32::from_le_bytes(data.get(..4)?.try_into().ok()?);
        let length = usize::from(u16::from_le_bytes(data.get(4..6)?.try_into().ok()?));
        let units: Vec<u16> = data[6..].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        let end = units.iter().position(|unit| *unit == 0)?;
        let title = String::from_utf16_lossy(&units[..end]);
        let path_at = 6 + 2 * (end + 1);
        let path = data.get(path_at..path_at + length)?;
        Some(Self {
            number,
            data: data.to_vec(),
            title,
            place: place(path, disk),
            names_disk: behind(path, disk).is_some(),
            optional: data[path_at + length..].to_vec(),
            attributes,
        })
    }
}

/// A boot option that leads to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    /// Its variable, such as `Boot0001`.
    pub option: String,
    /// The file's path on its partition, with forward slashes.
    pub file: String,
    /// What the file is given.
    pub optional: Vec<u8>,
}

/// The boot options in `variables` that a firmware, from which the boot disk hangs at `disk`, tries by itself and that lead to
/// a file on `partition`, in the order in which it tries them.
#[must_use]
pub fn boot_files(variables: &VarStore, partition: &Partition, disk: BootDisk) -> Vec<BootFile> {
    let options = order(variables).into_iter().filter_map(|number| read(variables, number, disk));
    let leads = |option: BootOption| {
        let file = option.place.file_on(partition)?.to_owned();
        Some(BootFile { option: format!("Boot{:04X}", option.number), file, optional: option.optional })
    };
    options.filter(BootOption::is_tried).filter_map(leads).collect()
}

/// A boot option's variable: attributes, title, device path, optional data.
pub(crate) fn encode(attributes: u32, title: &str, path: &[u8], optional: &[u8]) -> Vec<u8> {
    let mut data = attributes.to_le_bytes().to_vec();
    data.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
    data.extend(utf16(title));
    data.extend(path);
    data.extend(optional);
    data
}

/// The device path of a file on a partition of a GPT disk, as boot options keep it.
pub(crate) fn file_path(partition: &Partition, path: &str) -> Vec<u8> {
    let mut out = vec![4, 1, 42, 0];
    out.extend(partition.index.to_le_bytes());
    out.extend(partition.first_lba.to_le_bytes());
    out.extend((partition.last_lba - partition.first_lba + 1).to_le_bytes());
    out.extend(partition.guid.to_bytes_le());
    out.extend(OF_GPT);
    let name = utf16(&path.replace('/', "\\"));
    out.extend([4, 4]);
    out.extend(u16::try_from(name.len() + 4).unwrap_or(u16::MAX).to_le_bytes());
    out.extend(name);
    out.extend(END);
    out
}

impl BootDisk {
    /// Its device path, and the title that the firmware gives it.
    fn path(self) -> (Vec<u8>, &'static str) {
        // ACPI(PNP0A03,0): the PCI root; then Pci(slot,0).
        let mut path = vec![2, 1, 12, 0, 0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0];
        let slot = match self {
            Self::Nvme { slot } | Self::Virtio { slot } => slot,
        };
        path.extend([1, 1, 6, 0, 0, slot]);
        let title = match self {
            Self::Nvme { .. } => {
                // Namespace 1 without an EUI-64.
                path.extend([3, 0x17, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                "UEFI QEMU NVMe Ctrl disk0 1"
            }
            Self::Virtio { .. } => "UEFI Misc Device",
        };
        path.extend(END);
        (path, title)
    }
}

fn inside(program: Uuid) -> Vec<u8> {
    let mut path = vec![4, 7, 20, 0];
    path.extend(VOLUME.to_bytes_le());
    path.extend([4, 6, 20, 0]);
    path.extend(program.to_bytes_le());
    path.extend(END);
    path
}

/// What a build has in its volume and offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    /// It has a shell, and puts it into the menu.
    Offered,
    /// It has none. Options for it, an earlier build's, are removed (`RemoveStaleFvFileOptions`).
    Absent,
}

impl Shell {
    /// In this firmware: a build without one is Debian 13's.
    pub(crate) fn of(firmware: &FirmwareImage) -> Self {
        if firmware.program(SHELL).is_some() { Self::Offered } else { Self::Absent }
    }
}

fn id(name: &str) -> VariableId {
    VariableId::new(name, vendor::GLOBAL)
}

/// The numbers in `BootOrder`.
pub(crate) fn order(variables: &VarStore) -> Vec<u16> {
    let order = variables.get(&id("BootOrder")).map(|variable| variable.data.clone()).unwrap_or_default();
    order.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect()
}

/// Writes `BootOrder`.
pub(crate) fn set_order(variables: &mut VarStore, order: &[u16]) {
    let data = order.iter().flat_map(|number| number.to_le_bytes()).collect();
    variables.set(Variable::new(id("BootOrder"), Attributes::RUNTIME, data));
}

/// The option with this number, as its variable has it.
pub(crate) fn read(variables: &VarStore, number: u16, disk: BootDisk) -> Option<BootOption> {
    BootOption::parse(number, &variables.get(&id(&format!("Boot{number:04X}")))?.data, &disk.path().0)
}

/// Writes a new option under the lowest number that no variable has, as shim's fallback does, and gives that.
pub(crate) fn add(variables: &mut VarStore, data: Vec<u8>) -> Option<u16> {
    let number = (0..u16::MAX).find(|n| variables.get(&id(&format!("Boot{n:04X}"))).is_none())?;
    variables.set(Variable::new(id(&format!("Boot{number:04X}")), Attributes::RUNTIME, data));
    Some(number)
}

/// The number of the option with exactly this value.
pub(crate) fn find(variables: &VarStore, data: &[u8]) -> Option<u16> {
    let found = variables.iter().find(|v| v.id.vendor == vendor::GLOBAL && v.data == data && is_option(v))?;
    u16::from_str_radix(&found.id.name[4..], 16).ok()
}

fn is_option(variable: &Variable) -> bool {
    let name = &variable.id.name;
    name.len() == 8 && name.starts_with("Boot") && name[4..].bytes().all(|b| b.is_ascii_hexdigit())
}

/// Brings the options up to date as the firmware does before it tries them, and gives them in their order. `leads` tells
/// whether a path that does not name the disk leads to a file on it.
pub(crate) fn refresh<E>(
    variables: &mut VarStore,
    disk: BootDisk,
    shell: Shell,
    leads: impl Fn(&BootOption) -> Result<bool, E>,
) -> Result<Vec<BootOption>, E> {
    let (path, title) = disk.path();
    let automatic = AUTOMATIC.to_bytes_le();
    let mut order = self::order(variables);
    let mut wanted = vec![
        encode(ACTIVE | HIDDEN | APPLICATION, "UiApp", &inside(MENU), &[]),
        encode(ACTIVE, title, &path, &automatic),
    ];
    if shell == Shell::Offered {
        wanted.push(encode(ACTIVE, "EFI Internal Shell", &inside(SHELL), &[]));
    }
    // Options of the firmware's own making for devices that are gone, and for a shell that it has not.
    let gone = |number: u16, variables: &VarStore| {
        let place = read(variables, number, disk).map(|option| option.place);
        shell == Shell::Absent && place == Some(Place::Inside(SHELL))
    };
    order.retain(|number| {
        let name = id(&format!("Boot{number:04X}"));
        let stale =
            variables.get(&name).is_none_or(|v| v.data.ends_with(&automatic) && !wanted.contains(&v.data))
                || gone(*number, variables);
        if stale {
            variables.remove(&name);
        }
        !stale
    });
    // What is not in the order does not count: its number is free, and its value is overwritten; but for the one that is asked
    // for once (edk2 `BmGetFreeOptionNumber`).
    let once = variables.get(&id("BootNext")).and_then(|variable| variable.data.first_chunk().copied());
    let once = once.map(u16::from_le_bytes);
    for data in wanted {
        let is_it = |number: &u16| {
            variables.get(&id(&format!("Boot{number:04X}"))).is_some_and(|variable| variable.data == data)
        };
        if !order.iter().any(is_it)
            && let Some(number) = (0..u16::MAX).find(|n| !order.contains(n) && Some(*n) != once)
        {
            variables.set(Variable::new(id(&format!("Boot{number:04X}")), Attributes::RUNTIME, data));
            order.push(number);
        }
    }
    let (mut sorted, mut rest) = (Vec::new(), Vec::new());
    for number in order {
        let Some(option) = read(variables, number, disk) else { continue };
        // The order is made anew of active options (`CollectActiveOptions`); the others keep their variables.
        if option.attributes & ACTIVE == 0 {
            continue;
        }
        // What is on the disk that QEMU names comes first; a path that names the disk is taken at its word (`Match`). Of the
        // rest some are taken out of the order (`BootOrderComplete`), and their variables are removed (`PruneBootVariables`).
        if option.names_disk || leads(&option)? {
            sorted.push(option);
        } else if option.place.is_dropped() {
            variables.remove(&id(&format!("Boot{number:04X}")));
        } else {
            rest.push(option);
        }
    }
    sorted.extend(rest);
    let order: Vec<u16> = sorted.iter().map(|option| option.number).collect();
    if order != self::order(variables) {
        set_order(variables, &order);
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    const DISK: BootDisk = BootDisk::Nvme { slot: 3 };

    fn store() -> VarStore {
        // Any build's store without keys will do; the package is among what set-up installs.
        VarStore::parse(&std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap()).unwrap()
    }

    fn all(variables: &mut VarStore) -> Vec<BootOption> {
        refresh(variables, DISK, Shell::Offered, |_| Ok::<_, ()>(false)).unwrap()
    }

    fn lost_file() -> Vec<u8> {
        let (type_guid, guid) = (Uuid::nil(), Uuid::from_u128(7));
        let on = Partition {
            index: 1,
            type_guid,
            guid,
            name: String::new(),
            first_lba: 2048,
            last_lba: 4095,
            no_auto: false,
        };
        file_path(&on, "/EFI/lost.efi")
    }

    /// What QEMU does not name is dropped where it is on a partition or behind the PCI root, and nowhere else.
    #[rstest]
    #[case::file_that_is_missing(lost_file(), false)]
    #[case::file_that_is_missing_on_the_disk(behind_disk(&lost_file()), true)]
    #[case::another_disk([&[2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 0, 9][..], &END].concat(), false)]
    #[case::file_on_any_disk(lost_file()[42..].to_vec(), true)]
    #[case::nothing(END.to_vec(), true)]
    fn what_leads_nowhere_may_leave_the_order(#[case] path: Vec<u8>, #[case] stays: bool) {
        let mut variables = store();
        let lost = add(&mut variables, encode(ACTIVE, "Lost", &path, &[])).unwrap();
        set_order(&mut variables, &[lost]);
        let options = all(&mut variables);
        assert_eq!(options.iter().any(|option| option.number == lost), stays);
        assert_eq!(
            (order(&variables).contains(&lost), read(&variables, lost, DISK).is_some()),
            (stays, stays)
        );
    }

    fn behind_disk(path: &[u8]) -> Vec<u8> {
        let disk = DISK.path().0;
        [disk.strip_suffix(&END).unwrap(), path].concat()
    }

    fn described(options: &[BootOption]) -> Vec<(u16, &str)> {
        options.iter().map(|option| (option.number, option.title.as_str())).collect()
    }

    /// As in the store that OVMF's package brings with Microsoft's keys: the machine that enrolled them left its options,
    /// and no order.
    #[test]
    fn options_without_an_order_are_overwritten() {
        let mut variables = store();
        let left = [
            encode(ACTIVE, "EFI Internal Shell", &inside(SHELL), &[]),
            encode(ACTIVE, "UEFI QEMU HARDDISK", &END, &AUTOMATIC.to_bytes_le()),
        ];
        for data in left {
            add(&mut variables, data).unwrap();
        }
        let options = all(&mut variables);
        let expected = [(1, "UEFI QEMU NVMe Ctrl disk0 1"), (0, "UiApp"), (2, "EFI Internal Shell")];
        assert_eq!(described(&options), expected);
        assert_eq!(order(&variables), [1, 0, 2]);
        // Nothing changes at the next start.
        assert_eq!(described(&all(&mut variables)), expected);
    }

    #[test]
    fn a_shell_that_the_build_has_not_is_removed() {
        let mut variables = store();
        let shell = add(&mut variables, encode(ACTIVE, "EFI Internal Shell", &inside(SHELL), &[])).unwrap();
        set_order(&mut variables, &[shell]);
        let options = refresh(&mut variables, DISK, Shell::Absent, |_| Ok::<_, ()>(false)).unwrap();
        let expected = [(1, "UEFI QEMU NVMe Ctrl disk0 1"), (0, "UiApp")];
        assert_eq!(described(&options), expected);
        assert_eq!(order(&variables), [1, 0]);
    }

    #[test]
    fn an_option_that_is_not_active_leaves_the_order_and_stays_a_variable() {
        let mut variables = store();
        let off = add(&mut variables, encode(0, "Off", &DISK.path().0, &[])).unwrap();
        set_order(&mut variables, &[off]);
        let options = all(&mut variables);
        assert!(options.iter().all(|option| option.number != off) && !order(&variables).contains(&off));
        assert_eq!(read(&variables, off, DISK).unwrap().title, "Off");
    }

    #[test]
    fn the_number_that_is_asked_for_once_is_given_to_nobody() {
        let mut variables = store();
        let once = add(&mut variables, encode(ACTIVE, "Once", &DISK.path().0, &[])).unwrap();
        variables.set(Variable::new(id("BootNext"), Attributes::RUNTIME, once.to_le_bytes().to_vec()));
        assert!(all(&mut variables).iter().all(|option| option.number != once));
        assert_eq!(read(&variables, once, DISK).unwrap().title, "Once");
    }

    #[test]
    fn an_option_that_is_in_the_order_is_found_again() {
        let mut variables = store();
        let shell = add(&mut variables, encode(ACTIVE, "EFI Internal Shell", &inside(SHELL), &[])).unwrap();
        set_order(&mut variables, &[shell]);
        let options = all(&mut variables);
        let expected = [(2, "UEFI QEMU NVMe Ctrl disk0 1"), (0, "EFI Internal Shell"), (1, "UiApp")];
        assert_eq!(described(&options), expected);
    }
}
