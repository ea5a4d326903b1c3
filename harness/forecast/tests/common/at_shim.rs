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

/// Where a signed program tells where its signatures are, and where they begin (PE format, "Optional Header Data Directories").
fn signatures_of(program: &[u8]) -> (usize, usize) {
    let number = |at: usize| u32::from_le_bytes(program[at..at + 4].try_into().unwrap()) as usize;
    // The fifth directory of a PE32+ image.
    let directory = number(0x3c) + 24 + 112 + 4 * 8;
    (directory, number(directory))
}

/// A signed program that was cut off: so many bytes of its signatures are left, or are missing in front of them.
pub(crate) fn cut_off(mut program: Vec<u8>, left: isize) -> Vec<u8> {
    let (_, signatures) = signatures_of(&program);
    program.truncate(signatures.checked_add_signed(left).unwrap());
    program
}

/// A program with one signature whose table of signatures has so many zeros more, as a part of that signature or behind it.
pub(crate) fn with_zeros(mut program: Vec<u8>, zeros: u32, inside: bool) -> Vec<u8> {
    let (directory, signature) = signatures_of(&program);
    program.resize(program.len() + zeros as usize, 0);
    for size in [Some(directory + 4), inside.then_some(signature)].into_iter().flatten() {
        let number = u32::from_le_bytes(program[size..size + 4].try_into().unwrap()) + zeros;
        program[size..size + 4].copy_from_slice(&number.to_le_bytes());
    }
    program
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
