//! What GRUB asks of file systems, how often, and what it makes of links.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::cell::RefCell;

use bytes::Bytes;
use common::at_grub::{MODULES, UUID, boot_with, esp_with, measured, told};
use common::{Memory, VENDOR, shim_of, variables, with_boot};
use latchkey_disk::esp::{Entry, EntryKind};
use latchkey_forecast::{Volume, VolumeError};
use latchkey_measure::{samples, sign_pe};

/// A file system that has every file anew in memory each time that it is asked, and notes what it is asked for.
struct Anew {
    files: Memory,
    read: RefCell<Vec<String>>,
}

impl Volume for Anew {
    fn name(&self) -> &str {
        self.files.name()
    }

    fn uuid(&self) -> Option<String> {
        self.files.uuid()
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        self.read.borrow_mut().push(path.to_owned());
        Ok(self.files.read(path)?.map(|bytes| Bytes::from(bytes.to_vec())))
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        self.files.list(path)
    }

    fn kind(&self, path: &str) -> Result<Option<EntryKind>, VolumeError> {
        self.files.kind(path)
    }
}

#[test]
fn a_file_is_read_once_and_not_at_all_to_find_out_whether_it_is_there() {
    let config = "set root=hd0,gpt2\nfor x in 1 2 3; do [ -s /vmlinuz ]; [ -f /initrd ]; done\necho end";
    let boot = Anew { files: boot_with(config, &VENDOR), read: RefCell::default() };
    let seen = measured(&with_boot(&esp_with("2.06", MODULES), Some(&boot), &variables()));
    let once = ["8 [ -s /vmlinuz ]", "9 file /vmlinuz", "8 [ -f /initrd ]"];
    assert_eq!(seen, [&["8 set root=hd0,gpt2"], &once.repeat(3)[..], &["8 echo end"]].concat());
    let read = boot.read.into_inner();
    let count = |path: &str| read.iter().filter(|read| *read == path).count();
    assert_eq!((count("/vmlinuz"), count("/initrd")), (1, 0), "{read:?}");
}

#[test]
fn files_are_not_asked_for_without_end() {
    let digits = "0 1 2 3 4 5 6 7 8 9";
    let mut config = "[ -f /$a$b$c$d$e ]".to_owned();
    for name in ["a", "b", "c", "d", "e"] {
        config = format!("for {name} in {digits}; do {config}; done");
    }
    let forecast = told(&config, &VENDOR);
    assert!(forecast.because.contains("more questions than are answered"), "{}", forecast.because);
    let forecast = told(&format!("[ -f /{} ]", "x".repeat(2000)), &VENDOR);
    assert!(forecast.because.contains("as long as this one"), "{}", forecast.because);
}

/// A search is one question, however many partitions there are.
#[test]
fn nor_are_searches_made_without_end() {
    for (values, is_over) in [("0 1 2 3 4 5 6 7 8", false), ("0 1 2 3 4 5 6 7 8 9 10", true)] {
        let mut config = "search --label BOOT --set=x".to_owned();
        for name in ["a", "b", "c", "d"] {
            config = format!("for {name} in {values}; do {config}; done");
        }
        let forecast = told(&config, &VENDOR);
        let is_said = forecast.because.contains("more questions than are answered");
        assert_eq!(is_said, is_over, "{}", forecast.because);
    }
}

/// A file system with links: a directory lists them as files, and what they lead to is asked for by their names.
struct Linked {
    files: Memory,
    links: Vec<(&'static str, Option<EntryKind>)>,
}

impl Volume for Linked {
    fn name(&self) -> &str {
        self.files.name()
    }

    fn uuid(&self) -> Option<String> {
        self.files.uuid()
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        self.files.read(path)
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        let mut entries = self.files.list(path.trim_end_matches('/'))?;
        if let Some(entries) = entries.as_mut().filter(|_| path == "/") {
            let link =
                |(name, _): &(&str, _)| Entry { name: (*name).into(), kind: EntryKind::File { size: 1 } };
            entries.extend(self.links.iter().map(link));
        }
        Ok(entries)
    }

    fn kind(&self, path: &str) -> Result<Option<EntryKind>, VolumeError> {
        let link = self.links.iter().find(|(name, _)| path.strip_prefix('/') == Some(*name));
        link.map_or_else(|| self.files.kind(path), |(_, leads_to)| Ok(*leads_to))
    }
}

/// Whether something is there GRUB asks the directory that it stands in, where a link is a file.
#[test]
fn links_are_files_wherever_they_lead() {
    let config = "set root=hd0,gpt2\nfor path in /to-directory /to-file /to-nowhere /grub /vmlinuz /none; do\nfor test in -e \
                  -f -d; do\nif [ $test $path ]; then echo $test$path; fi\ndone\ndone\n";
    let file = EntryKind::File { size: 6 };
    let boot = Linked {
        files: Memory::default()
            .with_uuid(UUID)
            .with("/grub/grub.cfg", config.into())
            .with("/vmlinuz", b"kernel".to_vec()),
        links: vec![
            ("to-directory", Some(EntryKind::Directory)),
            ("to-file", Some(file)),
            ("to-nowhere", None),
        ],
    };
    let grub = samples::grub("2.06", &["normal", "tpm", "test"], "(hd0,gpt2)/grub", None).unwrap();
    let esp = Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8"))
        .with("/EFI/BOOT/grubx64.efi", sign_pe(&grub, &VENDOR).unwrap());
    let forecast = with_boot(&esp, Some(&boot), &variables());
    let said = forecast
        .legs
        .last()
        .unwrap()
        .events
        .iter()
        .filter_map(|event| event.what.strip_prefix("grub_cmd: echo "));
    let told: Vec<&str> = said.collect();
    let expected = [
        "-e/to-directory",
        "-f/to-directory",
        "-e/to-file",
        "-f/to-file",
        "-e/to-nowhere",
        "-f/to-nowhere",
        "-e/grub",
        "-d/grub",
        "-e/vmlinuz",
        "-f/vmlinuz",
    ];
    assert_eq!(told, expected, "{}", forecast.because);
}
