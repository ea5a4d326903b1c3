//! A disk that is elsewhere, held against the event log of an earlier boot: what was put there since, and what it comes to
//! without that.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use latchkey_disk::varstore::{VariableId, vendor};
use latchkey_disk::{Access, OpenDisk, VarStore};
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Pki, Refresh as Images, Silent, reference, variables};
use latchkey_measure::eventlog::{Event, EventLog, EventType};
use latchkey_measure::variable_event::VariableEvent;
use latchkey_measure::{HashAlg, Uuid};
use latchkey_record::{Forecast, Origin, Outcome, Stage};
use latchkey_scenario::{Given, Variables, foretell};

const IMAGE: &str = "rlc10-uki";
/// The file that shim 16.1 takes.
const CERTIFICATE: &str = "esp:/EFI/rocky/shim_certificate.efi.bak";
const ENDS: &[u8] = b"Exit Boot Services Invocation";

/// What firmware with the test platform's keys would have logged of `forecast`, but for what came from the certificate file.
fn before_the_file(forecast: &Forecast, store: &VarStore) -> Vec<u8> {
    let mut log = EventLog::agile(&[HashAlg::Sha256]);
    let security = vendor::IMAGE_SECURITY;
    let told: [(&str, Uuid); 5] = [
        ("SecureBoot", vendor::GLOBAL),
        ("PK", vendor::GLOBAL),
        ("KEK", vendor::GLOBAL),
        ("db", security),
        ("dbx", security),
    ];
    for (name, vendor) in told {
        let stored = store.get(&VariableId::new(name, vendor)).map(|variable| variable.data.clone());
        let data = if name == "SecureBoot" { vec![1] } else { stored.unwrap_or_default() };
        let event = VariableEvent::new(vendor, name, &data).to_bytes();
        log.measure(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, &event, &event);
    }
    let events = forecast.legs.last().unwrap().events.iter();
    let rest = events.filter(|event| {
        let of_variables = event.pcr.get() == 7 && event.kind == EventType::EFI_VARIABLE_DRIVER_CONFIG.0;
        let added = event.from == Origin::File(CERTIFICATE.into());
        event.stage != Stage::Userspace && !of_variables && !added && !event.digests.is_empty()
    });
    log.events.extend(rest.map(|event| Event {
        register: event.pcr.into(),
        kind: EventType(event.kind),
        digests: event.digests.iter().map(Into::into).collect(),
        data: Vec::new(),
    }));
    log.measure(5, EventType::EFI_ACTION, ENDS, ENDS);
    log.to_bytes().unwrap()
}

#[test]
fn the_file_that_was_put_there_since_is_named_and_what_it_comes_to_without_it() {
    let cache = Cache::of_user().unwrap();
    let host = Host::probe(cache.root(), Refresh::WhenStale).unwrap();
    let template = std::fs::read(&host.firmware.vars_template).unwrap();
    let pki = Pki::ensure(&cache, &Silent).unwrap();
    let store = variables(&pki, &FirmwareCas::ensure(&cache, &Silent).unwrap(), &template).unwrap();
    let store = VarStore::parse(&store).unwrap();
    let now = foretell(IMAGE, Given::default(), &cache, &Silent).unwrap();
    assert!(now.log.is_none() && now.supposed[0].contains("a test platform's keys"), "{:?}", now.supposed);

    let log = before_the_file(&now.forecast, &store);
    let given = Given { log: Some(&log), variables: None };
    let held = foretell(IMAGE, given, &cache, &Silent).unwrap();
    // The log's variables are the same as the platform's, so that the forecast is.
    assert_eq!(held.forecast, now.forecast);
    assert!(held.supposed[0].contains("what the log's did"), "{:?}", held.supposed);
    let told = held.log.unwrap();
    let [file] = &told.only_forecast[..] else { panic!("{:?}", told.only_forecast) };
    assert_eq!((file.file.as_str(), file.without), (CERTIFICATE, Some(Outcome::Unlocked)));
    assert!(told.findings.is_empty() && told.only_logged.is_empty(), "{told:?}");
    let differ: Vec<u8> =
        told.pcrs.iter().filter(|(_, of_pcr)| of_pcr.first.is_some()).map(|(pcr, _)| pcr.get()).collect();
    assert_eq!(differ, [4]);

    // What the owner may have enrolled is in no log, unless it measures what it would without.
    assert!(held.supposed.iter().all(|it| !it.contains("MokList")), "{:?}", held.supposed);
    let mut enrolled = EventLog::parse(&log);
    let list = enrolled.events.iter_mut().find(|event| event.register == 14).unwrap();
    *list.digests[0].bytes.last_mut().unwrap() ^= 1;
    let enrolled = enrolled.to_bytes().unwrap();
    let supposed = |variables: Option<&Variables>| {
        let given = Given { log: Some(&enrolled), variables };
        foretell(IMAGE, given, &cache, &Silent).unwrap().supposed
    };
    assert!(supposed(None).last().unwrap().contains("MokList"));
    let stored = Variables::Store(store.to_bytes().unwrap());
    assert!(supposed(Some(&stored)).is_empty());

    // A file of variables is not asked for what the log has, and the other way round.
    let given = Given { log: Some(&log), variables: Some(&stored) };
    let held = foretell(IMAGE, given, &cache, &Silent).unwrap();
    assert!(held.supposed.is_empty() && held.forecast == now.forecast, "{:?}", held.supposed);
}

/// What locks machines out leaves no program behind that could tell of it.
#[test]
fn a_disk_that_lost_a_boot_file_is_forecast_and_the_file_is_named() {
    let cache = Cache::of_user().unwrap();
    let image = reference(IMAGE, &cache, Images::No, &Silent).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("snapshot.raw");
    let (from, to) = (image.path.to_str().unwrap(), disk.to_str().unwrap());
    latchkey_supervise::run("qemu-img", &["convert", "-O", "raw", from, to]).unwrap();
    let told = || foretell(to, Given::default(), &cache, &Silent).unwrap();
    let whole = told();
    assert!(whole.noticed.is_empty() && whole.advice.is_none(), "{whole:?}");

    let edit = |act: &dyn Fn(&latchkey_disk::Esp)| {
        let mut open = OpenDisk::open(&disk, Access::ReadWrite).unwrap();
        act(&open.esp().unwrap());
        open.close().unwrap();
    };
    let list = "/EFI/rocky/BOOTX64.CSV";
    // An odd number of bytes is no UTF-16.
    edit(&|esp| esp.write(list, &esp.read(list).unwrap()[..31]).unwrap());
    let cut_off = told();
    assert!(
        cut_off.noticed[0].starts_with("/EFI/rocky/BOOTX64.CSV cannot be read: "),
        "{:?}",
        cut_off.noticed
    );
    edit(&|esp| esp.remove(list).unwrap());
    let gone = told();
    let named = |it: &String| it.starts_with("esp:/EFI/rocky/BOOTX64.CSV is missing: ");
    assert!(gone.noticed.iter().any(named), "{:?}", gone.noticed);
    assert_eq!(gone.forecast.outcome, Some(Outcome::RestartLoop));
    assert!(gone.advice.unwrap().contains("put back what is missing"));
}
