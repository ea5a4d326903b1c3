//! What shim reads and is not as it should be: levels and certificate files.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_shim::{SBAT, measured, told, uki_by, with};
use common::{Memory, STRANGER, VENDOR, shim_of, variables};
use latchkey_forecast::Keyboard::Nobody;
use latchkey_measure::{SignatureList, Uuid, samples, sign_pe};
use latchkey_record::Outcome;
use rstest::rstest;

fn disk(version: &str) -> Memory {
    Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of(version))
        .with("/EFI/BOOT/grubx64.efi", uki_by(&VENDOR))
}

/// Of a level that is stored its version and date decide whether it stays; shim then needs two columns of each line, and reads
/// a generation as far as there are digits.
#[rstest]
#[case::no_number("sbat,1,2030010100\nshim,x\n", true, None)]
#[case::more_than_a_number("sbat,1,2030010100\nshim,4x\n", true, None)]
#[case::too_high("sbat,1,2030010100\nshim,5x\n", true, Some("shim,4"))]
#[case::one_column("sbat,1,2030010100\nshim\n", true, Some("line 2"))]
#[case::later_version("sbat,2,2020010100\n", true, Some("sbat,1"))]
#[case::longer_version("sbat,10,2020010100\n", true, Some("sbat,1"))]
#[case::earlier_and_damaged("sbat,1,2020010100\nshim\n", false, None)]
fn a_level_that_is_not_as_it_should_be(
    #[case] level: &str,
    #[case] stays: bool,
    #[case] refused: Option<&str>,
) {
    let forecast = told(&disk("15.8"), &with(&[("SbatLevel", level.as_bytes())]), Nobody);
    assert_eq!(forecast.next.contains_key("SbatLevel"), !stays, "{:?}", forecast.next);
    assert_eq!(forecast.outcome == Some(Outcome::RefusedByShim), refused.is_some(), "{}", forecast.because);
    if let Some(why) = refused {
        assert!(forecast.because.contains(why) && forecast.because.contains("off"), "{}", forecast.because);
    }
}

/// What lies behind the last list does not matter; 16.1 takes nothing that the section has in the file alone.
#[rstest]
#[case("15.8", true, true)]
#[case("16.1", true, true)]
#[case("15.8", false, true)]
#[case("16.1", false, false)]
fn lists_of_a_certificate_file(#[case] version: &str, #[case] in_memory: bool, #[case] counts: bool) {
    let section = [SignatureList::x509(Uuid::nil(), STRANGER.certificate()).to_bytes(), vec![0; 40]].concat();
    let mut file = samples::program(&[(".sbat", SBAT.as_bytes()), (".db", &section)]).unwrap();
    if !in_memory {
        let header = file.windows(8).position(|bytes| bytes == b".db\0\0\0\0\0").unwrap();
        file[header + 8..header + 12].fill(0);
    }
    let esp = disk(version)
        .with("/EFI/BOOT/shim_certificate.efi", sign_pe(&file, &VENDOR).unwrap())
        .with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER));
    let forecast = told(&esp, &variables(), Nobody);
    assert_eq!(forecast.outcome != Some(Outcome::RefusedByShim), counts, "{}", forecast.because);
    assert!(measured(&forecast, 0).contains(&"4 certificate file".to_owned()));
}
