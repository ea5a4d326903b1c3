//! LUKS2 on a plain file, through libcryptsetup: encrypt in place, add and remove keyslots. No device-mapper.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use latchkey_disk::luks::ROOM;
use libcryptsetup_rs::consts::flags::{CryptPbkdf, CryptReencrypt, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::{
    CryptKdf, CryptReencryptDirectionInfo, CryptReencryptModeInfo, EncryptionFormat, KeyslotInfo,
};
use libcryptsetup_rs::{
    CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptParamsReencrypt, CryptPbkdfType,
    Either, LibcryptErr, TokenInput,
};

use crate::Error;
use crate::secret::Secret;

/// `cryptsetup reencrypt --encrypt --reduce-device-size N` puts the data at N/2 and shifts them by as much.
pub(crate) const DATA_OFFSET: u64 = ROOM / 2;
/// libcryptsetup counts offsets and shifts in sectors of this many bytes.
const SECTOR: u64 = 512;
/// Sector size of the encrypted volume in bytes.
const VOLUME_SECTOR: u32 = 512;
const CIPHER: (&str, &str) = ("aes", "xts-plain64");
/// Bytes of an AES-256-XTS key.
const VOLUME_KEY: usize = 64;
/// As cvmutils does: the platform's keys are random, so stretching them buys nothing.
const PBKDF2_ITERATIONS: u32 = 1000;

/// Says what was being done when libcryptsetup refused.
fn doing(what: &'static str, device: &Path) -> impl FnOnce(LibcryptErr) -> Error {
    let device = device.to_owned();
    move |source| Error::Luks { what, device, source }
}

fn luks2_params(data_device: Option<&Path>) -> CryptParamsLuks2 {
    CryptParamsLuks2 {
        pbkdf: None,
        integrity: None,
        integrity_params: None,
        data_alignment: 0,
        data_device: data_device.map(Path::to_owned),
        sector_size: VOLUME_SECTOR,
        label: None,
        subsystem: None,
    }
}

fn use_pbkdf2(device: &mut CryptDevice) -> Result<(), LibcryptErr> {
    device.settings_handle().set_pbkdf_type(&CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha512".into()),
        time_ms: 0,
        iterations: PBKDF2_ITERATIONS,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    })
}

fn encryption(flags: CryptReencrypt) -> CryptParamsReencrypt {
    CryptParamsReencrypt {
        mode: CryptReencryptModeInfo::Encrypt,
        direction: CryptReencryptDirectionInfo::Backward,
        resilience: "datashift".into(),
        hash: "sha256".into(),
        data_shift: DATA_OFFSET / SECTOR,
        max_hotzone_size: 0,
        device_size: 0,
        luks2: Some(luks2_params(None)),
        flags,
    }
}

/// Encrypts the data of `device` (a file that is exactly one partition) in place under a random volume key
/// and gives the header one keyslot, `passphrase`'s, whose number is the answer. `scratch` is a directory for the header in the making.
///
/// The file system must leave the last [`ROOM`] bytes free. Needs root: cryptsetup keeps the lock of a
/// re-encryption in `/run/cryptsetup`.
///
/// # Errors
/// [`Error::Luks`] with the step that libcryptsetup refused; [`Error::File`] when the header's file cannot be
/// made.
pub fn encrypt_in_place(device: &Path, scratch: &Path, passphrase: &Secret) -> Result<u32, Error> {
    let header = scratch.join("luks-header");
    header_file(&header).map_err(|source| Error::File { what: "making", path: header.clone(), source })?;
    let done = encrypt_with_header(device, &header, passphrase.expose());
    // It holds the keyslot that the device has too; a header left behind would be a key left behind.
    let removed = fs::remove_file(&header);
    // Why nothing was encrypted says more than why its header is still there.
    let slot = done?;
    removed.map_err(|source| Error::File { what: "removing", path: header, source })?;
    Ok(slot)
}

/// Makes the file that a header is made in, for its owner alone.
fn header_file(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.set_len(4096)
}

fn encrypt_with_header(device: &Path, header: &Path, passphrase: &[u8]) -> Result<u32, Error> {
    // The header is made apart, since the device's first bytes still hold data.
    let format = || {
        let mut new = CryptInit::init(header)?;
        new.set_data_offset(DATA_OFFSET / SECTOR)?;
        use_pbkdf2(&mut new)?;
        let params = luks2_params(Some(device));
        let mut params: CryptParamsLuks2Ref<'_> = (&params).try_into()?;
        let key = Either::Right(VOLUME_KEY);
        new.context_handle().format(EncryptionFormat::Luks2, CIPHER, None, key, Some(&mut params))?;
        new.keyslot_handle().add_by_key(None, None, passphrase, CryptVolumeKey::empty())
    };
    let slot = format().map_err(doing("making a LUKS2 header for", device))?;
    let first_segment = || {
        let mut both = CryptInit::init_with_data_device(Either::Right((header, device)))?;
        both.context_handle().load::<()>(Some(EncryptionFormat::Luks2), None)?;
        let flags = CryptReencrypt::INITIALIZE_ONLY | CryptReencrypt::MOVE_FIRST_SEGMENT;
        let params = encryption(flags);
        both.reencrypt_handle().reencrypt_init_by_passphrase(
            None,
            passphrase,
            None,
            Some(slot),
            Some(CIPHER),
            params,
        )
    };
    first_segment().map_err(doing("moving the first data out of the header's way on", device))?;
    CryptInit::init(device)
        .and_then(|mut d| d.backup_handle().header_restore(Some(EncryptionFormat::Luks2), header))
        .map_err(doing("writing the LUKS2 header to", device))?;
    let rest = || {
        let mut device = load(device)?;
        let params = encryption(CryptReencrypt::RESUME_ONLY);
        let mut handle = device.reencrypt_handle();
        handle.reencrypt_init_by_passphrase(None, passphrase, None, Some(slot), Some(CIPHER), params)?;
        handle.reencrypt2::<()>(None, None)
    };
    rest().map_err(doing("encrypting in place", device))?;
    Ok(slot)
}

fn load(device: &Path) -> Result<CryptDevice, LibcryptErr> {
    let mut loaded = CryptInit::init(device)?;
    loaded.context_handle().load::<()>(Some(EncryptionFormat::Luks2), None)?;
    Ok(loaded)
}

/// Adds a keyslot for `new`, opened with `existing`; gives its number.
///
/// # Errors
/// [`Error::Luks`], also when `existing` opens nothing.
pub fn add_passphrase(device: &Path, existing: &Secret, new: &Secret) -> Result<u32, Error> {
    let add = || {
        let mut loaded = load(device)?;
        use_pbkdf2(&mut loaded)?;
        let (old, new) = (existing.expose(), new.expose());
        loaded.keyslot_handle().add_by_passphrase(None, old, new)
    };
    add().map_err(doing("adding a keyslot to", device))
}

/// Adds a token, as JSON in the form of its type.
///
/// # Errors
/// [`Error::Luks`], also when libcryptsetup does not take the JSON for a token.
pub fn add_token(device: &Path, token: &serde_json::Value) -> Result<(), Error> {
    let add = || load(device)?.token_handle().json_set(TokenInput::AddToken(token)).map(drop);
    add().map_err(doing("adding a token to", device))
}

/// Removes the keyslot that `passphrase` opens and gives its number.
///
/// # Errors
/// [`Error::Luks`] when no keyslot opens, or when it is the last active one, which would be the end of the
/// data.
pub fn remove_passphrase(device: &Path, passphrase: &Secret) -> Result<u32, Error> {
    let what = "removing a keyslot from";
    let remove = || {
        let mut loaded = load(device)?;
        // Activation without a name only checks the passphrase and tells its keyslot.
        let slot = loaded.activate_handle().activate_by_passphrase(
            None,
            None,
            passphrase.expose(),
            libcryptsetup_rs::consts::flags::CryptActivate::empty(),
        )?;
        if matches!(loaded.keyslot_handle().status(slot)?, KeyslotInfo::ActiveLast) {
            return Ok(None);
        }
        loaded.keyslot_handle().destroy(slot)?;
        Ok(Some(slot))
    };
    remove().map_err(doing(what, device))?.ok_or_else(|| Error::LastKeyslot(device.to_owned()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_header_in_the_making_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("luks-header");
        header_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(header_file(&path).is_err(), "what somebody else laid there is not used");
    }
}
