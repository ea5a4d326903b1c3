//! The variable store against the files that the firmware's package ships: one blank, one that a real firmware
//! has written to.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use latchkey_disk::varstore::{
    Attributes, Error, SecureBoot, SecureBootKeys, VarStore, Variable, VariableId, vendor,
};
use latchkey_measure::{SignatureDb, SignatureList, Uuid, siglist};
use proptest::prelude::*;
use rstest::rstest;

fn shipped(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("/usr/share/OVMF").join(name)).unwrap()
}

fn named(store: &VarStore, name: &str, vendor: Uuid) -> Variable {
    store.get(&VariableId::new(name, vendor)).unwrap().clone()
}

#[rstest]
#[case("OVMF_VARS_4M.fd", 0, SecureBoot::Off)]
#[case("OVMF_VARS_4M.ms.fd", 20, SecureBoot::On)]
fn shipped_stores_are_read_and_come_back_unchanged(
    #[case] name: &str,
    #[case] least: usize,
    #[case] secure_boot: SecureBoot,
) {
    let image = shipped(name);
    let store = VarStore::parse(&image).unwrap();
    assert!(store.iter().count() >= least);
    assert_eq!(store.secure_boot(), secure_boot);
    assert_eq!(store.to_bytes().unwrap(), image);
}

#[test]
fn a_store_that_firmware_wrote_has_its_keys_where_they_belong() {
    let store = VarStore::parse(&shipped("OVMF_VARS_4M.ms.fd")).unwrap();
    for (name, owner) in [
        ("PK", vendor::GLOBAL),
        ("KEK", vendor::GLOBAL),
        ("db", vendor::IMAGE_SECURITY),
        ("dbx", vendor::IMAGE_SECURITY),
    ] {
        let variable = named(&store, name, owner);
        assert_eq!(variable.attributes, Attributes::AUTHENTICATED, "{name}");
        let database = SignatureDb::parse(&variable.data).unwrap();
        assert_eq!(database.to_bytes(), variable.data, "{name}");
        assert!(
            database.lists().iter().any(|l| [siglist::X509, siglist::SHA256].contains(&l.kind())),
            "{name}"
        );
    }
    assert_eq!(named(&store, "Boot0000", vendor::GLOBAL).attributes, Attributes::RUNTIME);
    // Deleted copies are still in flash; each variable counts once.
    let mut ids: Vec<_> = store.iter().map(|v| v.id.clone()).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[test]
fn our_enrolment_sets_what_the_firmwares_own_one_sets() {
    let theirs = VarStore::parse(&shipped("OVMF_VARS_4M.ms.fd")).unwrap();
    let database = |name, owner| SignatureDb::parse(&named(&theirs, name, owner).data).unwrap();
    let keys = SecureBootKeys {
        pk: database("PK", vendor::GLOBAL),
        kek: database("KEK", vendor::GLOBAL),
        db: database("db", vendor::IMAGE_SECURITY),
        dbx: database("dbx", vendor::IMAGE_SECURITY),
    };
    let mut ours = VarStore::parse(&shipped("OVMF_VARS_4M.fd")).unwrap();
    ours.enrol(&keys);
    let ours = VarStore::parse(&ours.to_bytes().unwrap()).unwrap();
    assert_eq!(ours.secure_boot(), SecureBoot::On);
    for variable in ours.iter() {
        let same = theirs.get(&variable.id).unwrap();
        assert_eq!((&variable.data, variable.attributes), (&same.data, same.attributes), "{}", variable.id);
        assert_eq!(variable.public_key_index, same.public_key_index);
    }
    assert_eq!(ours.iter().count(), 6);
}

#[test]
fn editing_keeps_everything_else() {
    let image = shipped("OVMF_VARS_4M.ms.fd");
    let before = VarStore::parse(&image).unwrap();
    let mut store = before.clone();
    store.set_secure_boot(SecureBoot::Off);
    let bytes = store.to_bytes().unwrap();
    assert_eq!(bytes.len(), image.len());
    let after = VarStore::parse(&bytes).unwrap();
    assert_eq!(after.secure_boot(), SecureBoot::Off);
    let others =
        |s: &VarStore| s.iter().filter(|v| v.id.name != "SecureBootEnable").cloned().collect::<Vec<_>>();
    assert_eq!(others(&after), others(&before));
    // The work space behind the store is not touched.
    assert_eq!(bytes[0x40000..], image[0x40000..]);
}

#[test]
fn a_full_store_says_so_and_an_empty_value_removes() {
    let mut store = VarStore::parse(&shipped("OVMF_VARS_4M.fd")).unwrap();
    let id = VariableId::new("Big", Uuid::nil());
    store.set(Variable::new(id.clone(), Attributes::BOOT, vec![1; 1 << 20]));
    assert!(matches!(store.to_bytes(), Err(Error::Full { .. })));
    store.set(Variable::new(id.clone(), Attributes::BOOT, Vec::new()));
    assert!(store.get(&id).is_none() && store.to_bytes().is_ok());
}

/// A store with `Twice` written twice in the given states, and what counts.
#[rstest]
#[case(&[0x3c, 0x3f], Some(1))] // replaced and done
#[case(&[0x3e, 0x3f], Some(1))] // the power went before the old one was marked deleted
#[case(&[0x3e, 0x7f], Some(0))] // the power went while the new one was written
#[case(&[0x3f, 0x3e], Some(0))]
#[case(&[0x3d, 0xff], None)]
fn of_several_copies_the_right_one_counts(#[case] states: &[u8], #[case] counts: Option<u8>) {
    let mut store = VarStore::parse(&shipped("OVMF_VARS_4M.fd")).unwrap();
    for (value, name) in [(0, "Copy0"), (1, "Copy1")] {
        store.set(Variable::new(VariableId::new(name, Uuid::nil()), Attributes::BOOT, vec![value]));
    }
    let mut image = store.to_bytes().unwrap();
    // Sixty bytes of header, twelve of name, one of data, three of padding.
    for (copy, state) in states.iter().enumerate() {
        let at = 0x64 + copy * 76;
        assert_eq!(image[at..at + 2], [0xaa, 0x55]);
        image[at + 2] = *state;
        image[at + 60 + 8] = b'X'; // the digit, so that both have one name
    }
    let read = VarStore::parse(&image).unwrap();
    let value = read.get(&VariableId::new("CopyX", Uuid::nil())).map(|v| v.data[0]);
    assert_eq!(value, counts);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_set_comes_back(
        variables in proptest::collection::vec(
            ("\\PC{1,20}", any::<u128>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 1..300)), 0..20),
    ) {
        let mut store = VarStore::parse(&shipped("OVMF_VARS_4M.fd")).unwrap();
        for (name, vendor, attributes, data) in variables {
            let id = VariableId::new(&name, Uuid::from_u128(vendor));
            store.set(Variable::new(id, Attributes(attributes), data));
        }
        let back = VarStore::parse(&store.to_bytes().unwrap()).unwrap();
        prop_assert_eq!(back.iter().collect::<Vec<_>>(), store.iter().collect::<Vec<_>>());
    }

    #[test]
    fn damage_never_panics(
        changes in proptest::collection::vec((0_usize..0x3000, any::<u8>()), 1..20),
        keep in 0_usize..0x45000,
    ) {
        let mut image = shipped("OVMF_VARS_4M.ms.fd");
        for (at, value) in changes {
            image[at] = value;
        }
        for bytes in [&image[..], &image[..keep]] {
            if let Ok(mut store) = VarStore::parse(bytes) {
                store.enrol(&SecureBootKeys {
                    pk: SignatureDb::new().with(SignatureList::sha256(Uuid::nil(), &[[1; 32]])),
                    ..SecureBootKeys::default()
                });
                let _ = store.to_bytes();
            }
        }
    }
}
