//! Encryption in place and keyslots, with cryptsetup's own tool as the judge.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use latchkey_disk::luks::ROOM;
use latchkey_provision::{Secret, luks};
use latchkey_supervise::run;

/// An ext4 file system with one known file, with or without room at its end.
fn root(dir: &Path, room: bool) -> PathBuf {
    let (tree, image) = (dir.join("tree"), dir.join("root.img"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("kept"), "the same before and after\n").unwrap();
    let total = 160u64 << 20;
    fs::File::create(&image).unwrap().set_len(total).unwrap();
    let size = format!("{}k", (total - if room { ROOM } else { 0 }) / 1024);
    let (tree, path) = (tree.to_str().unwrap(), image.to_str().unwrap());
    run("mkfs.ext4", &["-q", "-F", "-d", tree, path, &size]).unwrap();
    image
}

fn opens(image: &Path, passphrase: &Secret) -> bool {
    latchkey_supervise::run_with(
        "cryptsetup",
        &["open", "--test-passphrase", "--key-file=-", image.to_str().unwrap()],
        |e| e.stdin_bytes(passphrase.expose()),
    )
    .is_ok()
}

#[test]
fn keyslots_open_with_their_passphrases_alone() {
    let dir = tempfile::tempdir().unwrap();
    let image = root(dir.path(), true);
    let (first, second, stranger) = (Secret::generate(), Secret::generate(), Secret::generate());
    luks::encrypt_in_place(&image, dir.path(), &first).unwrap();
    assert!(opens(&image, &first) && !opens(&image, &second));
    assert_eq!(luks::add_passphrase(&image, &first, &second).unwrap(), 1);
    assert!(opens(&image, &second));
    let binary = Secret::binary_recovery_key();
    assert_eq!(luks::add_passphrase(&image, &second, &binary).unwrap(), 2);
    assert!(opens(&image, &binary));
    assert_eq!(luks::remove_passphrase(&image, &binary).unwrap(), 2);
    assert!(luks::add_passphrase(&image, &stranger, &second).is_err());
    assert_eq!(luks::remove_passphrase(&image, &first).unwrap(), 0);
    assert!(!opens(&image, &first) && opens(&image, &second));
    let last = luks::remove_passphrase(&image, &second).unwrap_err().to_string();
    assert!(last.contains("lose the data"), "{last}");
    assert!(opens(&image, &second));
    let dump = run("cryptsetup", &["luksDump", image.to_str().unwrap()]).unwrap().text();
    for line in ["PBKDF:      pbkdf2", "Iterations: 1000", "cipher: aes-xts-plain64", "offset: 16777216"] {
        assert!(dump.contains(line), "{line} is not in\n{dump}");
    }
    assert!(!dir.path().join("luks-header").exists());
}

#[test]
fn what_was_plain_is_not_on_the_device_any_more_and_decrypts_to_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let image = root(dir.path(), true);
    let plain = fs::read(&image).unwrap();
    let key = Secret::generate();
    luks::encrypt_in_place(&image, dir.path(), &key).unwrap();
    let needle = b"the same before and after";
    let found = |bytes: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
    assert!(found(&plain) && !found(&fs::read(&image).unwrap()));
    // cryptsetup's own offline decryption is the judge: the file system comes back byte for byte.
    let header = dir.path().join("detached");
    let (image_path, header_path) = (image.to_str().unwrap(), header.to_str().unwrap());
    latchkey_supervise::run_with(
        "cryptsetup",
        &[
            "reencrypt",
            "--decrypt",
            "-q",
            "--force-offline-reencrypt",
            "--header",
            header_path,
            "--key-file=-",
            image_path,
        ],
        |e| e.stdin_bytes(key.expose()),
    )
    .unwrap();
    let back = fs::read(&image).unwrap();
    let end = plain.len() - usize::try_from(ROOM).unwrap();
    let changed = back.iter().zip(&plain[..end]).position(|(now, then)| now != then);
    assert_eq!(changed, None, "first byte of the file system that changed on its way");
}
