//! What shim reads and is not as it should be, and what of it counts for which version: levels, lists and certificate files.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_shim::{PLAIN, SBAT, measured, told, uki_by, with};
use common::{Memory, PLATFORM, STRANGER, VENDOR, shim_of, variables};
use latchkey_forecast::Keyboard::Nobody;
use latchkey_measure::{SignatureList, Uuid, samples, shim, sign_pe};
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

/// What lies behind the last list does not matter; 16.1 takes nothing that the section has in the file alone, and 15.6 looks into
/// its owner's list alone.
#[rstest]
#[case("15.8", true, true)]
#[case("16.1", true, true)]
#[case("15.8", false, true)]
#[case("16.1", false, false)]
#[case("15.6", true, false)]
#[case("15.7", true, true)]
fn lists_of_a_certificate_file(#[case] version: &str, #[case] in_memory: bool, #[case] counts: bool) {
    let section = [of_stranger(), vec![0; 40]].concat();
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

fn of_stranger() -> Vec<u8> {
    SignatureList::x509(Uuid::nil(), STRANGER.certificate()).to_bytes()
}

/// Up to 15.6 the owner's list counts as it is stored, without what shim brings along; 15.4 does not ask whether it shall count
/// later.
#[rstest]
#[case("15.4", &["14 MokList", "14 MokListX", "7 authority SbatLevel", "7 authority Shim", "4 second stage"])]
#[case("15.6",
    &["14 MokList", "14 MokListX", "7 authority SbatLevel", "14 MokListTrusted", "7 authority Shim", "4 second stage"])]
#[case("15.7", &PLAIN)]
fn whose_word_counts_hangs_on_the_version(#[case] version: &str, #[case] expected: &[&str]) {
    assert_eq!(measured(&told(&disk(version), &variables(), Nobody), 0), expected);
}

#[rstest]
#[case("15.6", "7 authority MokList")]
#[case("15.7", "7 authority MokListRT")]
fn an_owners_certificate_counts_in_the_list_that_is_looked_at(#[case] version: &str, #[case] expected: &str) {
    let esp = disk(version).with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER));
    let forecast = told(&esp, &with(&[("MokList", &of_stranger())]), Nobody);
    assert!(measured(&forecast, 0).contains(&expected.to_owned()), "{:?}", measured(&forecast, 0));
}

/// What is in front of a list that is longer than what is left counts; what comes of any other that is none nobody knows.
#[rstest]
#[case::whole(76, false)]
#[case::cut_off(68, false)]
#[case::within_its_header(20, true)]
fn lists_in_front_of_one_that_is_none(#[case] bytes: usize, #[case] said: bool) {
    let second = SignatureList::sha256(Uuid::nil(), &[[1; 32]]).to_bytes();
    let list = [&of_stranger()[..], &second[..bytes]].concat();
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(&STRANGER));
    let forecast = told(&esp, &with(&[("MokList", &list)]), Nobody);
    assert!(measured(&forecast, 0).contains(&"4 second stage".to_owned()), "{}", forecast.because);
    let open = forecast.unmodelled.iter().any(|open| open.what == "variable MokList");
    assert_eq!(open, said, "{:?}", forecast.unmodelled);
}

/// Such a list leaves open what it might decide: whether somebody vouches, or whether what somebody vouches for is forbidden.
#[rstest]
#[case::might_vouch("MokList", false, true)]
#[case::others_vouch("MokList", true, false)]
#[case::cannot_vouch("MokListX", false, false)]
#[case::might_forbid("MokListX", true, true)]
fn what_the_rest_of_an_owners_list_may_decide(
    #[case] name: &str,
    #[case] by_vendor: bool,
    #[case] open: bool,
) {
    let signer = if by_vendor { &VENDOR } else { &STRANGER };
    let esp = disk("15.8").with("/EFI/BOOT/grubx64.efi", uki_by(signer));
    let forecast = told(&esp, &with(&[(name, &[0; 20])]), Nobody);
    assert_eq!(forecast.because.contains("sizes do not add up"), open, "{}", forecast.because);
    assert!(!open || forecast.outcome.is_none(), "{:?}", forecast.outcome);
    let starts = measured(&forecast, 0).contains(&"4 second stage".to_owned());
    assert_eq!(starts, by_vendor && !open, "{}", forecast.because);
}

/// One that is built into shim leaves open all that shim decides.
#[rstest]
#[case::whole(0, false)]
#[case::within_its_header(20, true)]
fn lists_that_are_built_in(#[case] bytes: u8, #[case] open: bool) {
    let mut file =
        shim::replace_vendor_cert(&samples::shim("15.8", 4096).unwrap(), VENDOR.certificate()).unwrap();
    // The second of two sizes in front of the certificate and two offsets: of what the vendor revoked, zeros behind it.
    let certificate = VENDOR.certificate();
    let at = file.windows(certificate.len()).position(|part| part == certificate).unwrap();
    file[at - 12] = bytes;
    let esp = disk("15.8").with("/EFI/BOOT/BOOTX64.EFI", sign_pe(&file, &PLATFORM).unwrap());
    let forecast = told(&esp, &variables(), Nobody);
    assert_eq!(forecast.because.contains("sizes do not add up"), open, "{}", forecast.because);
    assert_eq!(measured(&forecast, 0).is_empty(), open, "{:?}", measured(&forecast, 0));
}
