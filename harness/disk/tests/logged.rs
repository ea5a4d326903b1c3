//! Variables out of an event log: a log that firmware would write for a store gives back what decides over Secure Boot.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_disk::VarStore;
use latchkey_disk::varstore::{
    Attributes, LogError, LoggedOptions, SecureBoot, Variable, VariableId, vendor,
};
use latchkey_measure::eventlog::{EventLog, EventType};
use latchkey_measure::variable_event::VariableEvent;
use latchkey_measure::{HashAlg, Uuid};
use rstest::rstest;

const MEASURED: [(&str, Uuid); 5] = [
    ("SecureBoot", vendor::GLOBAL),
    ("PK", vendor::GLOBAL),
    ("KEK", vendor::GLOBAL),
    ("db", vendor::IMAGE_SECURITY),
    ("dbx", vendor::IMAGE_SECURITY),
];
const LEVEL: &[u8] = b"sbat,1,2024010900\nshim,4\n";

fn store(name: &str) -> VarStore {
    VarStore::parse(&std::fs::read(format!("/usr/share/OVMF/{name}")).unwrap()).unwrap()
}

fn measure(log: &mut EventLog, kind: EventType, name: &str, vendor: Uuid, data: &[u8]) {
    let event = VariableEvent::new(vendor, name, data).to_bytes();
    log.measure(7, kind, &event, &event);
}

/// What firmware with `store` writes, `without` one of the variables.
fn log(store: &VarStore, without: &str) -> EventLog {
    let mut log = EventLog::agile(&[HashAlg::Sha1, HashAlg::Sha256]);
    for (name, vendor) in MEASURED.into_iter().filter(|(name, _)| *name != without) {
        let on = [u8::from(store.secure_boot() == SecureBoot::On)];
        let data = match store.get(&VariableId::new(name, vendor)) {
            _ if name == "SecureBoot" => &on[..],
            Some(variable) => &variable.data,
            None => &[],
        };
        measure(&mut log, EventType::EFI_VARIABLE_DRIVER_CONFIG, name, vendor, data);
    }
    log
}

fn taken(log: &EventLog) -> Result<VarStore, LogError> {
    let mut blank = store("OVMF_VARS_4M.fd");
    blank.take_logged(log)?;
    Ok(VarStore::parse(&blank.to_bytes().unwrap()).unwrap())
}

#[rstest]
#[case::microsofts("OVMF_VARS_4M.ms.fd", SecureBoot::On)]
#[case::none("OVMF_VARS_4M.fd", SecureBoot::Off)]
fn what_decides_over_secure_boot_comes_back(#[case] name: &str, #[case] secure_boot: SecureBoot) {
    let theirs = store(name);
    let mut log = log(&theirs, "none");
    measure(&mut log, EventType::EFI_VARIABLE_AUTHORITY, "SbatLevel", vendor::SHIM, LEVEL);
    measure(&mut log, EventType::EFI_VARIABLE_AUTHORITY, "MokSBState", vendor::SHIM, &[1]);
    measure(&mut log, EventType::EFI_VARIABLE_DRIVER_CONFIG, "dbt", vendor::IMAGE_SECURITY, b"list");
    let ours = taken(&EventLog::parse(&log.to_bytes().unwrap())).unwrap();
    assert_eq!(ours.secure_boot(), secure_boot);
    for (name, vendor) in &MEASURED[1..] {
        let id = VariableId::new(name, *vendor);
        let data = |store: &VarStore| store.get(&id).map(|variable| variable.data.clone());
        assert_eq!(data(&ours), data(&theirs), "{name}");
    }
    let data = |name: &str, vendor| ours.get(&VariableId::new(name, vendor)).unwrap().data.clone();
    assert_eq!(data("MokSBState", vendor::SHIM), [1]);
    assert_eq!(data("dbt", vendor::IMAGE_SECURITY), b"list");
    let level = ours.get(&VariableId::new("SbatLevel", vendor::SHIM)).unwrap();
    assert_eq!((&level.data[..], level.attributes), (LEVEL, Attributes::BOOT));
}

/// What the store had before and the log's machine had not is gone.
#[test]
fn what_the_log_does_not_have_is_not_kept() {
    let mut store = store("OVMF_VARS_4M.ms.fd");
    let other = VariableId::new("MokSBState", vendor::SHIM);
    store.set(Variable::new(other.clone(), Attributes::BOOT, vec![1]));
    store.take_logged(&log(&self::store("OVMF_VARS_4M.fd"), "none")).unwrap();
    assert!(store.get(&other).is_none() && store.get(&VariableId::new("PK", vendor::GLOBAL)).is_none());
}

#[rstest]
#[case("SecureBoot")]
#[case("PK")]
#[case("db")]
#[case("dbx")]
fn a_log_without_one_of_them_tells_nothing(#[case] without: &'static str) {
    let log = log(&store("OVMF_VARS_4M.ms.fd"), without);
    assert_eq!(taken(&log).unwrap_err(), LogError::Lacks(without));
}

#[test]
fn a_log_that_contradicts_itself_is_not_believed() {
    let mut changed = log(&store("OVMF_VARS_4M.ms.fd"), "none");
    *changed.events[3].data.last_mut().unwrap() ^= 1;
    assert_eq!(taken(&changed).unwrap_err(), LogError::Disagrees("db".into()));

    let mut unowned = log(&store("OVMF_VARS_4M.fd"), "SecureBoot");
    measure(&mut unowned, EventType::EFI_VARIABLE_DRIVER_CONFIG, "SecureBoot", vendor::GLOBAL, &[1]);
    assert_eq!(taken(&unowned).unwrap_err(), LogError::NoPlatformKey);
}

/// `EFI_LOAD_OPTION` with this path.
fn load_option(path: &[u8], options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(path.len()).unwrap().to_le_bytes();
    let title: Vec<u8> = "Rocky\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    [&1u32.to_le_bytes(), &length[..], &title, path, options].concat()
}

/// A file on the partition `guid`, where it hangs left out.
fn on(guid: Uuid) -> Vec<u8> {
    file_on(guid, "\\shimx64.efi")
}

fn file_on(guid: Uuid, name: &str) -> Vec<u8> {
    [&[4, 1, 42, 0], &[1; 20][..], &guid.to_bytes_le(), &[2, 2], &file(name)].concat()
}

/// A file's node, and the end.
fn file(name: &str) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let size = u16::try_from(name.len() + 4).unwrap().to_le_bytes();
    [&[4, 4], &size[..], &name, &[0x7f, 0xff, 4, 0]].concat()
}

#[test]
fn boot_options_that_lead_to_the_disk_are_taken_in_their_order() {
    let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let pci = [2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 0, 3];
    let options = [
        ("Boot0000", load_option(&on(other), b"")),
        ("Boot0003", load_option(&[&pci[..], &on(ours)].concat(), b"uki")),
        ("Boot000A", load_option(&on(ours), b"")),
        ("Boot0004", load_option(&pci, b"")),
        ("Boot0005", load_option(b"\x01\x01\x00\x00", b"")),
        ("Boot0006", vec![1, 0, 0]),
    ];
    let mut log = log(&store("OVMF_VARS_4M.ms.fd"), "none");
    let order: Vec<u8> = [5u16, 6, 10, 0, 4, 3, 10, 7].into_iter().flat_map(u16::to_le_bytes).collect();
    for (name, data) in options.iter().chain([&("BootOrder", order)]) {
        let event = VariableEvent::new(vendor::GLOBAL, name, data).to_bytes();
        // As edk2 does it; the specification's other form has all of the event hashed.
        let hashed = if *name == "Boot000A" { &event } else { data };
        log.measure(1, EventType::EFI_VARIABLE_BOOT, hashed, &event);
    }
    let mut blank = store("OVMF_VARS_4M.fd");
    assert_eq!(blank.take_logged_options(&log, &[ours]), LoggedOptions::Told(2));
    let data = |name: &str| blank.get(&VariableId::new(name, vendor::GLOBAL)).map(|v| v.data.clone());
    assert_eq!(data("BootOrder").unwrap(), [10, 0, 3, 0]);
    assert_eq!(data("Boot0003").unwrap(), load_option(&on(ours), b"uki"));
    assert_eq!(data("Boot000A").unwrap(), load_option(&on(ours), b""));
    assert!(data("Boot0000").is_none() && data("Boot0004").is_none());

    // What was not measured is not believed.
    let at = log.events.iter().position(|e| e.register == 1).unwrap() + 1;
    *log.events[at].data.last_mut().unwrap() ^= 1;
    let told = |partition| store("OVMF_VARS_4M.fd").take_logged_options(&log, &[partition]);
    assert_eq!(told(ours), LoggedOptions::Told(1));
    // Options that all lead elsewhere are an answer, and so is one that was not measured.
    assert_eq!(told(Uuid::from_u128(3)), LoggedOptions::Told(0));
}

/// A log without boot options, as Azure's firmware writes one, of programs with these device paths.
fn log_without_options(programs: &[Vec<u8>]) -> EventLog {
    let mut log = log(&store("OVMF_VARS_4M.ms.fd"), "none");
    log.measure(1, EventType::SEPARATOR, &[0; 4], &[0; 4]);
    for path in programs {
        let event = [&[7; 24][..], &(path.len() as u64).to_le_bytes(), path].concat();
        log.measure(4, EventType::EFI_BOOT_SERVICES_APPLICATION, b"program", &event);
    }
    log
}

const SHIM: &str = r"\EFI\rocky\shimx64.efi";
const UKI: &str = r"\EFI\Linux\rocky.efi";

/// What is logged of what shim starts has its path alone, and of a file with certificates shim's own.
#[rstest]
#[case::grub(SHIM, &[r"\EFI\rocky\grubx64.efi", ""], None)]
#[case::a_uki(SHIM, &[UKI], Some(UKI))]
#[case::a_uki_after_certificates(SHIM, &[r"\EFI\ROCKY\shimx64.efi", UKI], Some(UKI))]
#[case::grub_after_mokmanager(SHIM, &[r"\EFI\rocky\mmx64.efi", r"\EFI\rocky\grubx64.efi"], None)]
#[case::a_uki_after_mokmanager(
    SHIM,
    &[r"\EFI\rocky\mmx64.efi", r"\EFI\Linux\rlc9.efi"],
    Some(r"\EFI\Linux\rlc9.efi")
)]
#[case::the_fallback_program(r"\EFI\BOOT\BOOTX64.EFI", &[r"\EFI\BOOT\fbx64.efi"], None)]
#[case::nothing(r"\EFI\BOOT\BOOTX64.EFI", &[], None)]
fn a_log_without_boot_options_tells_by_what_was_started(
    #[case] first: &str,
    #[case] then: &[&str],
    #[case] starts: Option<&str>,
) {
    let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let driver = [&[4u8, 6, 20, 0], &[9; 16][..], &[0x7f, 0xff, 4, 0]].concat();
    let vmbus = [2u8, 3, 8, 0, 0, 0, 0, 0];
    let mut programs =
        vec![driver, file_on(other, r"\other.efi"), [&vmbus[..], &file_on(ours, first)].concat()];
    programs.extend(then.iter().map(|path| file(path)));
    let log = log_without_options(&programs);
    let mut blank = store("OVMF_VARS_4M.fd");
    let told = blank.take_logged_options(&EventLog::parse(&log.to_bytes().unwrap()), &[ours]);
    assert_eq!(told, LoggedOptions::Derived { file: first.into(), starts: starts.map(str::to_owned) });
    let data = |name: &str| blank.get(&VariableId::new(name, vendor::GLOBAL)).unwrap().data.clone();
    assert_eq!(data("BootOrder"), [0, 0]);
    let option = data("Boot0000");
    let path = file_on(ours, first);
    let title = 2 * "from an event log\0".len();
    assert_eq!((&option[..4], usize::from(option[4]), option[5]), (&[1, 0, 0, 0][..], path.len(), 0));
    let (taken, asked) = option[6 + title..].split_at(path.len());
    let word = starts.map(|word| word.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect());
    let word: Vec<u8> = word.unwrap_or_default();
    assert_eq!((taken, asked), (&path[..], &word[..]));
}

#[test]
fn a_log_without_boot_options_and_programs_of_the_disk_does_not_tell() {
    let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    for programs in [vec![], vec![on(other)], vec![file(SHIM)], vec![vec![4, 1, 42, 0], vec![4, 4, 0, 0]]] {
        let mut blank = store("OVMF_VARS_4M.fd");
        let told = blank.take_logged_options(&log_without_options(&programs), &[ours]);
        assert_eq!(told, LoggedOptions::Untold);
        assert!(blank.get(&VariableId::new("BootOrder", vendor::GLOBAL)).is_none_or(|it| it.data.is_empty()));
    }
}
