//! LUKS2 headers that `cryptsetup` wrote, whole and damaged.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Cursor;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use common::run;
use latchkey_disk::luks::{Copy, Error, Header};
use proptest::prelude::*;
use rstest::rstest;

const TOKEN: &str = r#"{"type":"systemd-tpm2","keyslots":["1"],"tpm2-blob":"AAAA","tpm2-pcrs":[4,7],
    "tpm2-pcr-bank":"sha256","tpm2-primary-alg":"ecc","tpm2-policy-hash":"00","tpm2-pin":false}"#;

fn formatted(dir: &Path, kind: &str) -> Vec<u8> {
    let device = dir.join("device");
    std::fs::File::create(&device).unwrap().set_len(20 << 20).unwrap();
    let (key, new_key) = (dir.join("key"), dir.join("new-key"));
    std::fs::write(&key, "one").unwrap();
    std::fs::write(&new_key, "two").unwrap();
    let [device, key, new_key] = [&device, &key, &new_key].map(|p| p.to_str().unwrap().to_owned());
    let pbkdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let mut format =
        vec!["luksFormat", "--batch-mode", "--type", kind, "--label", "vault", "--key-file", &key];
    if kind == "luks1" {
        format.drain(4..6);
    }
    run("cryptsetup", &[&format[..], &pbkdf, &[&device]].concat());
    if kind == "luks2" {
        let add = ["luksAddKey", "--batch-mode", "--key-file", &key];
        run("cryptsetup", &[&add[..], &pbkdf, &[&device, &new_key]].concat());
        let token = dir.join("token.json");
        std::fs::write(&token, TOKEN).unwrap();
        run("cryptsetup", &["token", "import", "--json-file", token.to_str().unwrap(), &device]);
    }
    std::fs::read(device).unwrap()
}

/// The first megabyte of a formatted device: both headers are in it.
static DEVICE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = formatted(dir.path(), "luks2");
    bytes.truncate(1 << 20);
    bytes
});

fn read(bytes: &[u8]) -> Result<Header, Error> {
    Header::read(&mut Cursor::new(bytes))
}

#[test]
fn what_cryptsetup_wrote_is_read_as_cryptsetup_tells_it() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = formatted(dir.path(), "luks2");
    let header = read(&bytes).unwrap();
    assert_eq!((header.label.as_str(), header.copy), ("vault", Copy::Primary));
    assert_eq!(header.keyslots.len(), 2);
    assert_eq!((header.keyslots[&0].kdf.as_str(), header.keyslots[&0].iterations), ("pbkdf2", 1000));
    assert_eq!(header.passphrase_keyslots(), [0]);
    let token = &header.tokens[&0];
    assert_eq!((token.kind.as_str(), token.keyslots.as_slice()), ("systemd-tpm2", [1].as_slice()));
    assert_eq!((token.pcrs(), token.pcr_bank()), (vec![4, 7], Some("sha256")));
    assert_eq!(header.segments[&0].encryption, "aes-xts-plain64");
    assert_eq!(header.segments[&0].size, None);
    assert!(header.requirements.is_empty());
    let dump = run("cryptsetup", &["luksDump", dir.path().join("device").to_str().unwrap()]);
    assert!(dump.contains(&header.uuid), "{dump}");
    assert!(dump.contains(&format!("Epoch:         \t{}", header.sequence)), "{dump}");
    assert!(dump.contains(&format!("offset: {} [bytes]", header.segments[&0].offset)), "{dump}");
    let json = serde_json::to_string(&header).unwrap();
    assert_eq!(serde_json::from_str::<Header>(&json).unwrap(), header);
}

/// Which token cryptsetup looks for a plugin for, one after the other, is the order in which it tries them.
#[rstest]
#[case::as_they_lie(&[], &["third", "first", "second"])]
#[case::preferred(&[("1", "prefer")], &["second", "third", "first"])]
#[case::ignored(&[("0", "ignore")], &["second"])]
fn tokens_are_tried_as_cryptsetup_tries_them(#[case] priorities: &[(&str, &str)], #[case] expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    formatted(dir.path(), "luks2");
    let [device, token] = ["device", "token.json"].map(|name| dir.path().join(name).display().to_string());
    run("cryptsetup", &["token", "remove", "--token-id", "0", &device]);
    for (number, kind, slot) in [("2", "third", "0"), ("0", "first", "0"), ("1", "second", "1")] {
        std::fs::write(&token, format!(r#"{{"type":"{kind}","keyslots":["{slot}"]}}"#)).unwrap();
        run("cryptsetup", &["token", "import", "--token-id", number, "--json-file", &token, &device]);
    }
    for (slot, priority) in priorities {
        run("cryptsetup", &["config", "--batch-mode", "--key-slot", slot, "--priority", priority, &device]);
    }
    let header = read(&std::fs::read(&device).unwrap()).unwrap();
    let again: Header = serde_json::from_str(&serde_json::to_string(&header).unwrap()).unwrap();
    assert!(header.tokens.iter().eq(&again.tokens), "their order is kept");
    let ours: Vec<&str> = header.tokens_tried().iter().map(|(_, token)| token.kind.as_str()).collect();
    assert_eq!(ours, expected);

    let open = ["open", "--test-passphrase", "--token-only", "--debug", &device];
    let cryptsetup = latchkey_supervise::start("cryptsetup", "cryptsetup", &open, |e| {
        e.stdin_null().stdout_capture().stderr_capture()
    })
    .unwrap();
    let said = cryptsetup.wait_for(Duration::from_secs(60)).unwrap().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    let mut theirs: Vec<&str> = Vec::new();
    for line in said.lines().filter(|line| line.starts_with("# Trying to load /")) {
        let kind = line.split("libcryptsetup-token-").nth(1).unwrap_or_default().trim_end_matches(".so.");
        if !theirs.contains(&kind) {
            theirs.push(kind);
        }
    }
    assert_eq!(theirs, expected, "{said}");
}

/// A keyslot with a key of something else opens nothing, though a passphrase fills it.
#[test]
fn a_keyslot_that_is_bound_to_nothing_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    formatted(dir.path(), "luks2");
    let [device, key] = ["device", "new-key"].map(|name| dir.path().join(name).display().to_string());
    let unbound = ["luksAddKey", "--batch-mode", "--unbound", "--key-slot", "7", "--key-size", "256"];
    let pbkdf = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    run("cryptsetup", &[&unbound[..], &pbkdf, &[&device, &key]].concat());
    let token = dir.path().join("token.json").display().to_string();
    std::fs::write(&token, r#"{"type":"another","keyslots":["7"]}"#).unwrap();
    run("cryptsetup", &["token", "import", "--token-id", "1", "--json-file", &token, &device]);
    let header = read(&std::fs::read(&device).unwrap()).unwrap();
    let kinds: Vec<&str> = header.keyslots.values().map(|slot| slot.kind.as_str()).collect();
    assert_eq!(kinds, ["luks2", "luks2", "luks2 (unbound)"]);
    assert!(header.opens(0) && header.opens(1) && !header.opens(7) && !header.opens(2));
    assert_eq!(header.passphrase_keyslots(), [0]);
    assert_eq!(header.tokens_tried().iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0]);
    let dump = run("cryptsetup", &["luksDump", &device]);
    assert!(dump.contains("7: luks2 (unbound)"), "{dump}");
}

#[rstest]
#[case(0)] // the magic
#[case(460)] // the checksum
#[case(5000)] // the metadata
fn the_second_copy_serves_when_the_first_is_damaged(#[case] at: usize) {
    let mut bytes = DEVICE.clone();
    let whole = read(&bytes).unwrap();
    bytes[at] ^= 1;
    let rescued = read(&bytes).unwrap();
    assert_eq!(rescued.copy, Copy::Secondary);
    assert_eq!((rescued.keyslots, rescued.tokens), (whole.keyslots, whole.tokens));
    bytes[0x4000 + 5000] ^= 1;
    assert!(matches!(read(&bytes), Err(Error::Damaged { .. } | Error::None)));
}

#[test]
fn other_contents_are_told_by_name() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(read(&formatted(dir.path(), "luks1")), Err(Error::Luks1)));
    assert!(matches!(read(&[0; 8192]), Err(Error::None)));
    assert!(matches!(read(&[]), Err(Error::None)));
}

/// A header of `size` bytes with this metadata and a correct checksum.
fn sealed(json: &str, size: usize) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut bytes = DEVICE[..4096].to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(size, 0);
    bytes[8..16].copy_from_slice(&u64::try_from(size).unwrap().to_be_bytes());
    bytes[448..512].fill(0);
    let digest = Sha256::digest(&bytes);
    bytes[448..480].copy_from_slice(&digest);
    bytes
}

#[rstest]
#[case::as_many_tokens_as_there_can_be(32, 1, None)]
#[case::one_token_more(33, 1, Some("more than 32"))]
#[case::values_without_end(1, 70_000, Some("more than 65536 values"))]
fn a_header_is_no_larger_than_libcryptsetup_has_them(
    #[case] tokens: u32,
    #[case] values: usize,
    #[case] why: Option<&str>,
) {
    let token = |number: u32| {
        format!("\"{number}\":{{\"type\":\"x\",\"keyslots\":[],\"a\":[{}]}}", vec!["0"; values].join(","))
    };
    let tokens = (0..tokens).map(token).collect::<Vec<_>>().join(",");
    let json = format!("{{\"keyslots\":{{}},\"tokens\":{{{tokens}}},\"segments\":{{}},\"config\":{{}}}}");
    match (read(&sealed(&json, 0x4_0000)), why) {
        (Ok(header), None) => assert_eq!(header.tokens.len(), 32),
        (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{error}"),
        (other, _) => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn damage_never_panics(changes in proptest::collection::vec((0_usize..0x9000, any::<u8>()), 1..6), keep in 0_usize..0x9000) {
        let mut bytes = DEVICE[..0x9000].to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        let _ = (read(&bytes), read(&bytes[..keep]));
    }

    /// Metadata with a correct checksum may still be anything.
    #[test]
    fn well_sealed_nonsense_never_panics(json in "\\PC{0,200}", size in any::<u64>()) {
        use sha2::{Digest, Sha256};
        let mut bytes = DEVICE[..0x4000].to_vec();
        bytes[4096..].fill(0);
        bytes[4096..4096 + json.len()].copy_from_slice(json.as_bytes());
        bytes[448..512].fill(0);
        let digest = Sha256::digest(&bytes);
        bytes[448..480].copy_from_slice(&digest);
        let _ = read(&bytes);
        bytes[8..16].copy_from_slice(&size.to_be_bytes());
        let _ = read(&bytes);
    }
}
