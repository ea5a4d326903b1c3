//! Disks that exist in memory alone, and who signs what lies on them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test target uses a part of it")]

pub(crate) mod at_grub;
pub(crate) mod at_root;
pub(crate) mod at_shim;

use std::sync::LazyLock;

use bytes::Bytes;
use latchkey_disk::esp::{Entry, EntryKind};
use latchkey_disk::gpt::{Copy, Gpt, Partition, kind};
use latchkey_disk::luks::Header;
use latchkey_disk::varstore::{Attributes, SecureBoot, SecureBootKeys, Variable, VariableId, vendor};
use latchkey_disk::{VarStore, gpt};
use latchkey_forecast::firmware::FirmwareImage;
use latchkey_forecast::{
    BootDisk, Keyboard, Memo, Platform, RootVolume, Target, TokenFact, TpmState, Volume, VolumeError,
    forecast_again,
};
use latchkey_measure::{HashAlg, SignatureDb, SignatureList, Signer, Uuid, samples, shim, sign_pe};
use latchkey_record::{Forecast, Stage};

pub(crate) static PLATFORM: LazyLock<Signer> = LazyLock::new(|| samples::signer("platform").unwrap());
pub(crate) static VENDOR: LazyLock<Signer> = LazyLock::new(|| samples::signer("vendor").unwrap());
pub(crate) static STRANGER: LazyLock<Signer> = LazyLock::new(|| samples::signer("stranger").unwrap());

/// The firmware's shell, by its file's name (edk2 `ShellPkg`, `Shell.inf`).
const SHELL: Uuid = Uuid::from_u128(0x7c04_a583_9e3e_4f1c_ad65_e052_68d0_b4d1);

/// Files in the order in which they were put there.
#[derive(Default, Clone)]
pub(crate) struct Memory {
    files: Vec<(String, Bytes)>,
    uuid: Option<&'static str>,
    /// A file that is listed and cannot be opened.
    gap: Option<String>,
}

impl Memory {
    /// Gives it a UUID, and makes it the partition with kernels.
    pub(crate) fn with_uuid(self, uuid: &'static str) -> Self {
        Self { uuid: Some(uuid), ..self }
    }

    pub(crate) fn with(mut self, path: &str, bytes: Vec<u8>) -> Self {
        self.files.retain(|(name, _)| name != path);
        self.files.push((path.to_owned(), bytes.into()));
        self
    }
}

impl Memory {
    /// With a file that is listed and cannot be opened.
    pub(crate) fn with_gap(self, path: &str) -> Self {
        Self { gap: Some(path.to_owned()), ..self.with(path, Vec::new()) }
    }

    pub(crate) fn without(mut self, path: &str) -> Self {
        self.files.retain(|(name, _)| name != path);
        self
    }
}

impl Volume for Memory {
    fn name(&self) -> &'static str {
        if self.uuid.is_some() { "boot" } else { "esp" }
    }

    fn uuid(&self) -> Option<String> {
        self.uuid.map(str::to_owned)
    }

    fn label(&self) -> Option<String> {
        self.uuid.map(|_| "BOOT".to_owned())
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        Ok(self
            .files
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(path) && self.gap.as_ref() != Some(name))
            .map(|(_, bytes)| bytes.clone()))
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (name, bytes) in &self.files {
            let Some(rest) = name.strip_prefix(path).and_then(|rest| rest.strip_prefix('/')) else {
                continue;
            };
            let entry = match rest.split_once('/') {
                Some((directory, _)) => Entry { name: directory.into(), kind: EntryKind::Directory },
                None => Entry { name: rest.into(), kind: EntryKind::File { size: bytes.len() as u64 } },
            };
            if !entries.contains(&entry) {
                entries.push(entry);
            }
        }
        Ok((!entries.is_empty()).then_some(entries))
    }
}

pub(crate) fn shim_of(version: &str) -> Vec<u8> {
    let plain = samples::shim(version, 4096).unwrap();
    sign_pe(&shim::replace_vendor_cert(&plain, VENDOR.certificate()).unwrap(), &PLATFORM).unwrap()
}

pub(crate) fn variables() -> VarStore {
    let template = std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap();
    let mut store = VarStore::parse(&template).unwrap();
    let list =
        |signer: &Signer| SignatureDb::new().with(SignatureList::x509(Uuid::nil(), signer.certificate()));
    store.enrol(&SecureBootKeys {
        pk: list(&PLATFORM),
        kek: list(&PLATFORM),
        db: list(&PLATFORM),
        dbx: SignatureDb::new().with(SignatureList::sha256(Uuid::nil(), &[[7; 32]])),
    });
    store
}

/// A kernel that knows `LoadFile2`, signed.
pub(crate) fn kernel(by: &Signer) -> Vec<u8> {
    let mut kernel = samples::kernel("6.12.0").unwrap();
    // The major image version, in the optional header.
    let header = u32::from_le_bytes(kernel[0x3c..0x40].try_into().unwrap()) as usize + 24;
    kernel[header + 44] = 1;
    sign_pe(&kernel, by).unwrap()
}

/// Variables with which shim verifies nothing: by its owner's wish, or with Secure Boot off.
pub(crate) fn unverified(by_owner: bool) -> VarStore {
    let mut store = variables();
    if by_owner {
        let id = VariableId::new("MokSBState", vendor::SHIM);
        store.set(Variable::new(id, Attributes::BOOT, vec![1]));
    } else {
        store.set_secure_boot(SecureBoot::Off);
    }
    store
}

pub(crate) fn told(esp: &Memory, variables: &VarStore) -> Forecast {
    with_boot(esp, None, variables)
}

fn partition(index: u32, type_guid: Uuid) -> Partition {
    let first_lba = u64::from(index) * ((64 << 20) / gpt::SECTOR);
    Partition {
        index,
        type_guid,
        guid: Uuid::from_u128(index.into()),
        name: format!("part{index}"),
        first_lba,
        last_lba: first_lba + (32 << 20) / gpt::SECTOR,
        no_auto: false,
    }
}

/// As [`told`], with a partition of kernels, the second one.
pub(crate) fn with_boot(esp: &Memory, boot: Option<&dyn Volume>, variables: &VarStore) -> Forecast {
    with_root(esp, boot, variables, None)
}

/// As [`with_boot`], with a root partition that has this header.
pub(crate) fn with_root(
    esp: &Memory,
    boot: Option<&dyn Volume>,
    variables: &VarStore,
    header: Option<&Header>,
) -> Forecast {
    again(&Memo::default(), esp, boot, variables, header)
}

/// As [`with_root`], with what is known already.
pub(crate) fn again(
    memo: &Memo,
    esp: &Memory,
    boot: Option<&dyn Volume>,
    variables: &VarStore,
    header: Option<&Header>,
) -> Forecast {
    at_keyboard(Keyboard::Nobody, memo, esp, boot, variables, header)
}

/// As [`again`], with somebody at the keyboard or nobody.
pub(crate) fn at_keyboard(
    keyboard: Keyboard,
    memo: &Memo,
    esp: &Memory,
    boot: Option<&dyn Volume>,
    variables: &VarStore,
    header: Option<&Header>,
) -> Forecast {
    let root = header.map_or(RootVolume::Plain, RootVolume::Luks);
    machine(&firmware(), &tpm(&[HashAlg::Sha256], root), keyboard, memo, esp, boot, variables, root)
}

/// A build that says no version and has a shell, as 2022.11.
pub(crate) fn firmware() -> FirmwareImage {
    // A volume with one file, and in it one section (UEFI PI 1.8 volume 3, sections 3.2.1, 3.2.3, 3.2.4).
    let size = |bytes: usize| u32::try_from(bytes).unwrap().to_le_bytes()[..3].to_vec();
    let shell = samples::program(&[(".text", b"shell")]).unwrap();
    let section = [size(shell.len() + 4), vec![0x10], shell].concat();
    let name = SHELL.to_bytes_le().to_vec();
    let file = [name, vec![0; 4], size(section.len() + 24), vec![0], section].concat();
    let mut volume = vec![0; 72];
    volume.extend(file);
    let length = volume.len() as u64;
    volume[32..40].copy_from_slice(&length.to_le_bytes());
    volume[40..44].copy_from_slice(b"_FVH");
    volume[48] = 72;
    FirmwareImage { crtm_version: vec![0, 0], dxe_volume: volume.into(), dxe_digests: vec![] }
}

/// What the next boot is under a build that says its version and has no shell, as Debian's 2025.02.
pub(crate) fn under_later_firmware(esp: &Memory, variables: &VarStore, keyboard: Keyboard) -> Forecast {
    let version = "2025.02-8\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let dxe_volume = Bytes::from_static(b"volume");
    let later = FirmwareImage { crtm_version: version, dxe_volume, dxe_digests: vec![] };
    let tpm = &tpm(&[HashAlg::Sha256], RootVolume::Plain);
    machine(&later, tpm, keyboard, &Memo::default(), esp, None, variables, RootVolume::Plain)
}

/// A TPM with these banks, or none, that does not load those tokens of the root volume which say so ([`FOREIGN`]).
pub(crate) fn tpm(banks: &[HashAlg], root: RootVolume<'_>) -> TpmState {
    let tokens = root.header().into_iter().flat_map(|header| &header.tokens);
    let foreign = tokens.filter(|(_, token)| token.contents.contains_key(FOREIGN));
    let tokens = foreign.map(|(number, _)| (*number, TokenFact::Foreign)).collect();
    TpmState { banks: banks.to_vec(), locked: false, tokens }
}

/// All that a forecast is made from: as [`at_keyboard`], with a firmware, a TPM, and what lies on the root partition.
#[expect(clippy::too_many_arguments, reason = "a machine has as many parts")]
pub(crate) fn machine(
    firmware: &FirmwareImage,
    tpm: &TpmState,
    keyboard: Keyboard,
    memo: &Memo,
    esp: &Memory,
    boot: Option<&dyn Volume>,
    variables: &VarStore,
    root: RootVolume<'_>,
) -> Forecast {
    let partitions = Gpt {
        disk_guid: Uuid::nil(),
        copy: Copy::Primary,
        // The last one has a file system that nothing here reads.
        partitions: vec![partition(1, kind::ESP), partition(3, kind::LINUX)],
    };
    let target = Target {
        firmware,
        platform: &Platform { pei_volume: vec![], disk: BootDisk::Nvme { slot: 1 } },
        variables,
        table: &[],
        partitions: &partitions,
        esp,
        boot: boot.map(|boot| (2, boot)),
        root,
        tpm,
        keyboard,
    };
    forecast_again(&target, memo).unwrap()
}

/// What this TPM does not load: tokens with this field.
pub(crate) const FOREIGN: &str = "foreign";

/// What was measured after the time-out was set, by GRUB or of the kernel that it has loaded.
pub(crate) fn after_timeout(forecast: &Forecast) -> Vec<String> {
    let events = forecast.legs.last().unwrap().events.iter();
    let mine = events.filter(|event| event.stage == Stage::Grub || event.what.contains("for GRUB"));
    let told =
        mine.map(|event| format!("{} {}", event.pcr.get(), event.what.trim_start_matches("grub_cmd: ")));
    told.skip_while(|what| what != "8 set timeout=0").skip(1).collect()
}
