//! What tests of shim and of its fallback program have in common.

use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Attributes, Variable, VariableId, vendor};
use latchkey_forecast::{Keyboard, Memo};
use latchkey_measure::{Signer, samples, sign_pe};
use latchkey_record::{Forecast, Stage};

use super::{Memory, at_keyboard, variables};

pub(crate) const SBAT: &str = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";
/// What a boot with nothing special measures from shim on.
pub(crate) const PLAIN: [&str; 6] = [
    "14 MokList",
    "14 MokListX",
    "7 authority SbatLevel",
    "14 MokListTrusted",
    "7 authority MokListRT",
    "4 second stage",
];

pub(crate) fn program(sections: &[(&str, &[u8])], signer: &Signer) -> Vec<u8> {
    let all = [&[(".sbat", SBAT.as_bytes())], sections].concat();
    sign_pe(&samples::program(&all).unwrap(), signer).unwrap()
}

pub(crate) fn uki_by(signer: &Signer) -> Vec<u8> {
    sign_pe(&samples::uki(&[0x90; 600], "quiet").unwrap(), signer).unwrap()
}

pub(crate) fn shims(name: &str) -> VariableId {
    VariableId::new(name, vendor::SHIM)
}

pub(crate) fn with(pairs: &[(&str, &[u8])]) -> VarStore {
    let mut store = variables();
    for (name, data) in pairs {
        store.set(Variable::new(shims(name), Attributes::BOOT, data.to_vec()));
    }
    store
}

pub(crate) fn told(esp: &Memory, variables: &VarStore, keyboard: Keyboard) -> Forecast {
    at_keyboard(keyboard, &Memo::default(), esp, None, variables, None)
}

/// What a start of the machine measures from shim on, PCR and words.
pub(crate) fn measured(forecast: &Forecast, leg: usize) -> Vec<String> {
    let events = forecast.legs[leg].events.iter().filter(|event| event.stage == Stage::Shim);
    events.map(|event| format!("{} {}", event.pcr, event.what)).collect()
}

/// What of one start lands in PCR 4, firmware and shim.
pub(crate) fn programs(forecast: &Forecast) -> Vec<&str> {
    let events =
        forecast.legs[0].events.iter().filter(|event| event.pcr.get() == 4 && event.what != "separator");
    events.map(|event| event.what.split(" EFI").next().unwrap()).collect()
}
