//! Laws of extending, and a TPM's own banks.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use latchkey_measure::bank::{Banks, MissingDigest, StartupLocality};
use latchkey_measure::{Digest, HashAlg, hash};
use latchkey_record::pcr::PcrIndex;
use proptest::prelude::*;
use rstest::rstest;

use HashAlg::{Sha1, Sha256};
use tools::Tools;

fn pcr(number: u32) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

fn digests(data: &[u8]) -> Vec<Digest> {
    HashAlg::ALL.map(|alg| hash::digest(alg, data)).into()
}

#[rstest]
#[case(StartupLocality::Zero, 0)]
#[case(StartupLocality::Three, 3)]
#[case(StartupLocality::Four, 4)]
fn pcr_0_starts_as_the_locality(#[case] locality: StartupLocality, #[case] last: u8) {
    let banks = Banks::started(&HashAlg::ALL, locality);
    for alg in HashAlg::ALL {
        let mut expected = vec![0; alg.size() - 1];
        expected.push(last);
        assert_eq!(banks.get(alg, pcr(0)).unwrap().bytes(), expected);
        assert_eq!(banks.get(alg, pcr(1)), Banks::new(&[alg]).get(alg, pcr(1)));
    }
    assert_eq!(StartupLocality::from_number(last), Some(locality));
    assert_eq!(StartupLocality::from_number(1), None);
}

#[test]
fn a_tpm_agrees_on_start_values_and_extends() {
    let tools = Tools::start();
    let mut banks = Banks::new(&HashAlg::ALL);
    let agree = |banks: &Banks| {
        for alg in HashAlg::ALL {
            assert_eq!(banks.values(alg), tools.bank(alg), "{alg}");
        }
    };
    agree(&banks);
    for (number, data) in [(0, "crtm"), (4, "shim"), (4, "uki"), (23, "debug"), (4, "shim")] {
        let list: Vec<String> =
            digests(data.as_bytes()).iter().map(|d| format!("{}={}", d.alg(), d.hex())).collect();
        tools.run(&format!("tpm2_pcrextend {number}:{}", list.join(",")));
        banks.extend(pcr(number), &digests(data.as_bytes())).unwrap();
    }
    agree(&banks);
    let partly = hash::digest(Sha256, b"one bank only");
    tools.run(&format!("tpm2_pcrextend 7:sha256={}", partly.hex()));
    banks.extend_present(pcr(7), &[partly]);
    agree(&banks);
    tools.end();
}

#[test]
fn no_bank_in_use_falls_behind_unnoticed() {
    let mut banks = Banks::new(&[Sha1, Sha256]);
    let before = banks.clone();
    let missing = banks.extend(pcr(7), &[hash::digest(Sha1, b"x")]);
    assert_eq!(missing, Err(MissingDigest { pcr: pcr(7), bank: Sha256 }));
    assert_eq!(banks, before);
    assert!(banks.get(HashAlg::Sha384, pcr(7)).is_none());
    assert!(banks.values(HashAlg::Sha384).0.is_empty());
}

proptest! {
    #[test]
    fn extending_is_a_fold(
        steps in proptest::collection::vec((0_u32..24, any::<[u8; 4]>()), 0..24),
        cut in 0_usize..24,
    ) {
        let cut = cut.min(steps.len());
        let run = |mut banks: Banks, part: &[(u32, [u8; 4])]| {
            for (number, data) in part {
                banks.extend(pcr(*number), &digests(data)).unwrap();
            }
            banks
        };
        let whole = run(Banks::new(&HashAlg::ALL), &steps);
        prop_assert_eq!(&run(run(Banks::new(&HashAlg::ALL), &steps[..cut]), &steps[cut..]), &whole);
        // Each PCR is the fold of what was measured into it, whatever went into the others.
        for number in 0..24 {
            for alg in HashAlg::ALL {
                let own = steps.iter().filter(|(n, _)| *n == number);
                let folded = own.fold(pcr(number).start_value(alg), |value, (_, data)| {
                    hash::extend(&value, &hash::digest(alg, data))
                });
                prop_assert_eq!(whole.get(alg, pcr(number)), Some(&folded));
            }
        }
    }

    #[test]
    fn order_matters(a in any::<[u8; 4]>(), b in any::<[u8; 4]>(), number in 0_u32..24) {
        prop_assume!(a != b);
        let run = |first: &[u8], second: &[u8]| {
            let mut banks = Banks::new(&[Sha256]);
            banks.extend(pcr(number), &digests(first)).unwrap();
            banks.extend(pcr(number), &digests(second)).unwrap();
            banks
        };
        prop_assert_ne!(run(&a, &b), run(&b, &a));
    }
}
