//! What GRUB says of links on the partition with kernels.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use bytes::Bytes;
use common::{Memory, VENDOR, firmware, shim_of, tpm, variables};
use latchkey_disk::esp::{Entry, EntryKind};
use latchkey_disk::gpt::{Copy, Gpt, Partition, kind};
use latchkey_forecast::{BootDisk, Keyboard, Platform, RootVolume, Target, Volume, VolumeError, forecast};
use latchkey_measure::{HashAlg, Uuid, samples, sign_pe};
use latchkey_record::Forecast;

/// What a boot comes to with this partition of kernels.
fn booted(esp: &Memory, boot: &dyn Volume) -> Forecast {
    let partition = Partition {
        index: 1,
        type_guid: kind::ESP,
        guid: Uuid::nil(),
        name: String::new(),
        first_lba: 2048,
        last_lba: 4095,
        no_auto: false,
    };
    let target = Target {
        firmware: &firmware(),
        platform: &Platform { pei_volume: vec![], disk: BootDisk::Nvme { slot: 1 } },
        variables: &variables(),
        table: &[],
        partitions: &Gpt { disk_guid: Uuid::nil(), copy: Copy::Primary, partitions: vec![partition] },
        esp,
        boot: Some((2, boot)),
        root: RootVolume::Plain,
        tpm: &tpm(&[HashAlg::Sha256], RootVolume::Plain),
        keyboard: Keyboard::Nobody,
    };
    forecast(&target).unwrap()
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
            .with_uuid("0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2")
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
    let forecast = booted(&esp, &boot);
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
