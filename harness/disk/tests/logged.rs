//! Variables out of an event log: a log that firmware would write for a store gives back what decides over Secure Boot.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Attributes, LogError, SecureBoot, Variable, VariableId, vendor};
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
    let ours = taken(&EventLog::parse(&log.to_bytes().unwrap())).unwrap();
    assert_eq!(ours.secure_boot(), secure_boot);
    for (name, vendor) in &MEASURED[1..] {
        let id = VariableId::new(name, *vendor);
        let data = |store: &VarStore| store.get(&id).map(|variable| variable.data.clone());
        assert_eq!(data(&ours), data(&theirs), "{name}");
    }
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
