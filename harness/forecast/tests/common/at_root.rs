//! Root volumes with tokens, and what opens them: a kernel and an initrd, behind GRUB.

use std::io::Write;

use latchkey_disk::VarStore;
use latchkey_disk::luks::{Copy, Header, Keyslot, Token};
use latchkey_forecast::{Keyboard, Memo, RootVolume, TpmState};
use latchkey_measure::{HashAlg, Policy, samples};
use latchkey_record::{Forecast, PcrIndex};
use serde_json::{Value, json};

use super::{Memory, firmware, machine, shim_of, tpm};

/// What an initrd needs for a TPM token; the first file's contents tell systemd's features.
pub(crate) const FILES: [&str; 6] = [
    "usr/lib/systemd/libsystemd-shared-252.so",
    "usr/lib/systemd/systemd-cryptsetup",
    "usr/lib/cryptsetup/libcryptsetup-token-systemd-tpm2.so",
    "usr/lib/libtss2-esys.so.0",
    "usr/lib/libtss2-mu.so.0",
    "usr/lib/libtss2-rc.so.0",
];
/// The policy digest of a token that nothing opens.
pub(crate) const WRONG: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The root volume's UUID.
pub(crate) const UUID: &str = "1c5b9f4e-6c6d-4cd5-8c29-53b0e1a0b1c2";

/// An initrd with these files, and no `crypttab`.
pub(crate) fn bare_initrd(files: &[&str], features: &str) -> Vec<u8> {
    // A file without contents would be none.
    let contents = format!("{features}\0");
    archive(&files.iter().map(|name| (*name, contents.as_str())).collect::<Vec<_>>())
}

/// An initrd with these files, and a `crypttab` that names the root partition.
pub(crate) fn initrd(files: &[&str], features: &str) -> Vec<u8> {
    [bare_initrd(files, features), archive(&[("etc/crypttab", "root PARTLABEL=root none luks\n")])].concat()
}

/// An initrd of this systemd, with a `crypttab` that has these options.
pub(crate) fn initrd_of(systemd: &str, options: &str) -> Vec<u8> {
    initrd_with(systemd, &format!("root PARTLABEL=root none {options}\n"))
}

/// An initrd of this systemd, with this `crypttab`.
pub(crate) fn initrd_with(systemd: &str, crypttab: &str) -> Vec<u8> {
    let major = systemd.split('.').next().unwrap_or_default();
    let shared = format!("usr/lib/systemd/libsystemd-shared-{major}.so");
    let files = [&[shared.as_str()], &FILES[1..]].concat();
    // What the program knows is told by its contents as well.
    let features = format!("systemd %i%s ({systemd})\ntpm2-measure-pcr=");
    [bare_initrd(&files, &features), archive(&[("etc/crypttab", crypttab)])].concat()
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, contents) in files {
        let builder = cpio::NewcBuilder::new(name).mode(0o100_644);
        let mut writer = builder.write(&mut out, u32::try_from(contents.len()).unwrap());
        writer.write_all(contents.as_bytes()).unwrap();
        writer.finish().unwrap();
    }
    cpio::newc::trailer(&mut out).unwrap();
    out
}

/// What has the header of a kernel 6.1, for a machine without Secure Boot.
pub(crate) fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 0x400];
    kernel[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x20e] = 0x80;
    // How long its command line may be.
    kernel[0x238..0x23a].copy_from_slice(&0x7ffu16.to_le_bytes());
    kernel[0x280..0x285].copy_from_slice(b"6.1.0");
    kernel
}

/// The forecast of a machine whose root has this header, through GRUB without Secure Boot.
pub(crate) fn told(header: Option<&Header>, initrd: Vec<u8>) -> Forecast {
    told_with(&[HashAlg::Sha256], header.map_or(RootVolume::Plain, RootVolume::Luks), initrd)
}

/// As [`told`], of a TPM with these banks.
pub(crate) fn told_with(banks: &[HashAlg], root: RootVolume<'_>, initrd: Vec<u8>) -> Forecast {
    told_of(&tpm(banks, root), root, initrd)
}

/// As [`told`], of this TPM.
pub(crate) fn told_of(tpm: &TpmState, root: RootVolume<'_>, initrd: Vec<u8>) -> Forecast {
    told_line(tpm, root, "", initrd)
}

/// As [`told_of`], with this on the kernel's command line.
pub(crate) fn told_line(tpm: &TpmState, root: RootVolume<'_>, line: &str, initrd: Vec<u8>) -> Forecast {
    told_by_grub(&[], &unset(), tpm, root, line, initrd)
}

/// Variables without keys.
pub(crate) fn unset() -> VarStore {
    VarStore::parse(&std::fs::read("/usr/share/OVMF/OVMF_VARS_4M.fd").unwrap()).unwrap()
}

/// As [`told_line`], by a GRUB with more modules, on a machine with these variables.
pub(crate) fn told_by_grub(
    more: &[&str],
    variables: &VarStore,
    tpm: &TpmState,
    root: RootVolume<'_>,
    line: &str,
    initrd: Vec<u8>,
) -> Forecast {
    let config = format!(
        "set timeout=0\nmenuentry 'One' {{\n\tlinux (hd0,gpt2)/vmlinuz {line}\n\tinitrd (hd0,gpt2)/initrd\n}}\n"
    );
    let modules = [&["normal", "tpm", "linux"], more].concat();
    let grub = samples::grub("2.06", &modules, "(hd0,gpt2)/grub", None).unwrap();
    let esp =
        Memory::default().with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8")).with("/EFI/BOOT/grubx64.efi", grub);
    let boot = Memory::default()
        .with_uuid("0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2")
        .with("/grub/grub.cfg", config.into_bytes())
        .with("/vmlinuz", kernel())
        .with("/initrd", initrd);
    machine(&firmware(), tpm, Keyboard::Nobody, &Memo::default(), &esp, Some(&boot), variables, root)
}

/// A token that PCR 4 and 9 open, as this machine has them with this initrd.
pub(crate) fn fitting(initrd: &[u8]) -> Value {
    let forecast = told(None, initrd.to_vec());
    let pcrs = [4, 9].map(|pcr| PcrIndex::new(pcr).unwrap());
    let policy = Policy::new(HashAlg::Sha256).pcr(HashAlg::Sha256, &pcrs, &forecast.pcrs[&HashAlg::Sha256]);
    json!({
        "type": "systemd-tpm2", "keyslots": ["0"], "tpm2-pcrs": [4, 9], "tpm2-pcr-bank": "sha256",
        "tpm2-blob": "AAAA", "tpm2-policy-hash": policy.unwrap().digest().hex(), "tpm2-pin": false,
    })
}

/// A token with another value in this field.
pub(crate) fn with(mut token: Value, field: &str, value: Value) -> Value {
    token[field] = value;
    token
}

/// A header with as many keyslots; tokens are numbered as they come.
pub(crate) fn header(keyslots: u32, tokens: &[Value]) -> Header {
    let slot =
        Keyslot { kind: "luks2".into(), key_size: 64, kdf: "pbkdf2".into(), iterations: 1000, priority: 1 };
    let token = |value: &Value| {
        let slots = value["keyslots"].as_array().unwrap().iter();
        Token {
            kind: value["type"].as_str().unwrap().to_owned(),
            keyslots: slots.map(|slot| slot.as_str().unwrap().parse().unwrap()).collect(),
            contents: value.as_object().unwrap().clone(),
        }
    };
    Header {
        uuid: UUID.to_owned(),
        label: String::new(),
        sequence: 1,
        copy: Copy::Primary,
        keyslots: (0..keyslots).map(|number| (number, slot.clone())).collect(),
        tokens: (0u32..).zip(tokens.iter().map(token)).collect(),
        segments: [].into(),
        requirements: Vec::new(),
    }
}
