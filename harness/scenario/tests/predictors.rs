//! Another predictor, given the same disk and variables as a forecast.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "common/cvmutils.rs"]
mod cvmutils;

use cvmutils::Cvmutils;
use latchkey_disk::{Access, OpenDisk, VarStore};
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Pki, Silent, reference, variables};
use latchkey_measure::HashAlg;
use latchkey_record::PcrIndex;
use latchkey_scenario::foretell;
use rstest::rstest;

/// Where they agree, they do to the byte. cvmutils does not know that shim takes certificate files: 16.1 takes the one
/// that is called `.bak`, 15.8 does not. The boots of `first-boot`, which open what is sealed to the forecast, say who
/// is right.
#[rstest]
#[case::certificate_file_inactive("rlc9-uki", true)]
#[case::certificate_file_taken("rlc10-uki", false)]
fn cvmutils_predicts_the_same_where_no_certificate_file_is_taken(#[case] name: &str, #[case] agrees: bool) {
    let cache = Cache::of_user().unwrap();
    let host = Host::probe(cache.root(), Refresh::WhenStale).unwrap();
    let image = reference(name, &cache, latchkey_images::Refresh::No, &Silent).unwrap();
    let template = std::fs::read(&host.firmware.vars_template).unwrap();
    let pki = Pki::ensure(&cache, &Silent).unwrap();
    let cas = FirmwareCas::ensure(&cache, &Silent).unwrap();
    let store = VarStore::parse(&variables(&pki, &cas, &template).unwrap()).unwrap();
    let mut disk = OpenDisk::open(&image.path, Access::ReadOnly).unwrap();
    let esp = disk.esp().unwrap();
    let predicted = Cvmutils::about(&cache, &esp, &store).unwrap().predict().unwrap();
    drop(esp);
    disk.close().unwrap();

    let forecast = foretell(name, &cache, &Silent).unwrap();
    let values = &forecast.pcrs[&HashAlg::Sha256].0;
    let forecast = [4, 7].map(|pcr| values[&PcrIndex::new(pcr).unwrap()].hex());
    if agrees {
        assert_eq!(forecast, predicted);
    } else {
        assert!(forecast[0] != predicted[0] && forecast[1] != predicted[1], "{forecast:?} {predicted:?}");
    }
}
