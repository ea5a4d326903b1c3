//! Another predictor, given the same disk and variables as a forecast.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/cvmutils.rs"]
mod cvmutils;

use cvmutils::Cvmutils;
use latchkey_disk::{Access, Esp, OpenDisk, VarStore};
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Pki, Silent, reference, variables};
use latchkey_machine::{Format, Hardware, Machine, NewMachine};
use latchkey_measure::HashAlg;
use latchkey_record::PcrIndex;
use latchkey_scenario::{Given, foretell};
use rstest::rstest;

/// The file that shim 16.1 takes and 15.8 does not.
const CERTIFICATE: &str = "/EFI/rocky/shim_certificate.efi.bak";

/// What a machine made of the image called `name`, with or without its certificate file, has in PCR 4 and 7 by a forecast and
/// by cvmutils.
fn told(name: &str, certificate: bool) -> [[String; 2]; 2] {
    let cache = Cache::of_user().unwrap();
    let host = Host::probe(cache.root(), Refresh::WhenStale).unwrap();
    let image = reference(name, &cache, latchkey_images::Refresh::No, &Silent).unwrap();
    let template = std::fs::read(&host.firmware.vars_template).unwrap();
    let pki = Pki::ensure(&cache, &Silent).unwrap();
    let cas = FirmwareCas::ensure(&cache, &Silent).unwrap();
    let variables = variables(&pki, &cas, &template).unwrap();
    let new = NewMachine {
        base: &image.path,
        format: Format::Qcow2,
        variables: &variables,
        banks: &[HashAlg::Sha256],
        hardware: Hardware::default(),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::create(&host, &dir.path().join("machine"), &new).unwrap();
    let store = VarStore::parse(&variables).unwrap();
    let ask = |esp: &Esp| {
        if !certificate {
            esp.remove(CERTIFICATE).unwrap();
        }
        Cvmutils::about(&cache, esp, &store).unwrap().predict().unwrap()
    };
    let predicted = machine.offline(|files| {
        let mut disk = OpenDisk::open(files.disk, Access::ReadWrite).unwrap();
        let predicted = ask(&disk.esp().unwrap());
        disk.close().unwrap();
        predicted
    });
    drop(machine);
    let forecast =
        foretell(dir.path().to_str().unwrap(), Given::default(), &cache, &Silent).unwrap().forecast;
    let values = &forecast.pcrs[&HashAlg::Sha256].0;
    [[4, 7].map(|pcr| values[&PcrIndex::new(pcr).unwrap()].hex()), predicted]
}

#[rstest]
#[case::certificate_file_not_taken("rlc9-uki", true)]
#[case::no_certificate_file("rlc10-uki", false)]
fn cvmutils_predicts_the_same(#[case] name: &str, #[case] certificate: bool) {
    let [forecast, predicted] = told(name, certificate);
    assert_eq!(forecast, predicted);
}

/// It does not know that shim 16.1 takes the file: it says the same with it and without it. The boots of `first-boot`, which open
/// what is sealed to the forecast, say who is right.
#[test]
fn cvmutils_knows_nothing_of_certificate_files() {
    let [forecast, predicted] = told("rlc10-uki", true);
    let [_, without] = told("rlc10-uki", false);
    assert_eq!(predicted, without);
    assert!(forecast[0] != predicted[0] && forecast[1] != predicted[1], "{forecast:?} {predicted:?}");
}
