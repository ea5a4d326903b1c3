//! Images, caches, and what somebody hands in of a machine.

use std::process::Command;

use crate::{latchkey, stdout};

#[test]
fn whoever_lists_images_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let list = stdout(&["image", "list", "--cache", cache.to_str().unwrap()]);
    assert!(list.contains("rlc9-uki") && list.contains("not built"), "{list}");
    let output = latchkey(&["image", "inspect", "rlc9-uki", "--cache", cache.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "there is no such image yet");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("`cargo xtask image build rlc9-uki` does it"), "{stderr}");
    assert!(!cache.exists());
}

#[test]
fn a_cache_that_is_no_directory_is_a_wrong_command_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = latchkey(&["image", "list", "--cache", file.path().to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains("is no directory"), "{stderr}");
    assert!(output.stdout.is_empty());
}

/// A build takes minutes: nobody waits for one to be told that the next has no name.
#[test]
fn images_to_build_are_all_known_before_the_first_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let output = latchkey(&["image", "build", "rlc9-uki", "rlc9-ukki", "--cache", cache.to_str().unwrap()]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && stderr.contains("did you mean `rlc9-uki`?"), "{stderr}");
    assert!(!cache.exists(), "something was begun");
}

/// A job that asks whether an image can be used gets an exit code for it.
#[test]
fn an_image_that_nothing_can_be_done_with_is_described_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let blank = dir.path().join("blank.raw");
    std::fs::File::create(&blank).unwrap().set_len(1 << 20).unwrap();
    let inspect = ["image", "inspect", blank.to_str().unwrap()];
    let output = latchkey(&inspect);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("run --image: no, "), "{text}");
    let output = latchkey(&[&inspect[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(2));
    let usable = &serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["usable"];
    assert_eq!((&usable["run"], &usable["forecast"]), (&false.into(), &false.into()));
    assert!(usable["why_not"]["run"].is_string() && usable["why_not"]["forecast"].is_string(), "{usable}");
}

/// What somebody took from a machine that does not open, and is not enough of it.
#[test]
fn a_copy_of_boot_is_no_machine_and_a_log_as_text_none_to_compare_with() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("boot/grub2")).unwrap();
    let said = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_latchkey"));
        let output = command.args(args).args(["--cache", "cache"]).current_dir(dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let boot = said(&["forecast", "boot/"]);
    assert!(boot.contains("holds no machine") && boot.contains("give the whole disk"), "{boot}");
    std::fs::write(dir.path().join("log"), "# no log\n").unwrap();
    std::fs::write(dir.path().join("log.zip"), b"PK\x03\x04\x14\0").unwrap();
    assert!(said(&["forecast", "boot/", "--log", "log"]).contains("--log log: it is text"));
    std::fs::write(dir.path().join("log.json"), "\u{1e}{\"pcr\": 0}\n\u{1e}{\"pcr\": 1}\n").unwrap();
    let json = said(&["forecast", "boot/", "--log", "log.json"]);
    assert!(
        json.contains("--log log.json: it is JSON") && json.contains("binary_bios_measurements"),
        "{json}"
    );
    assert!(said(&["forecast", "boot/", "--log", "log.zip"]).contains("unpack it first"));
}
