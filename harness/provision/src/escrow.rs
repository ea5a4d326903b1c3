//! The recovery key of a disk whose key its customer manages: wrapped with a key in the customer's vault, and kept in the
//! VM's guest state.
//!
//! Source: Azure/confidential-computing-cvm-guest-attestation, `cvm-recovery-key/get_recovery_key_cmk_fromvmmd.ps1` and
//! `..._fromvmgs.ps1` (fields of the metadata, what an unwrapped key looks like); Azure Key Vault's REST API 7.1, `unwrapKey`
//! (names of algorithms).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rand::rngs::OsRng;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::{Oaep, RsaPrivateKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::Secret;

/// Bits of a vault's key: the shortest that Key Vault makes.
const BITS: usize = 2048;
/// Bytes of a Linux VM's recovery key.
const SIZE: usize = 16;
const LINUX: &str = "Linux";

/// Why a recovery key could not be wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum EscrowError {
    /// The guest state's metadata is not what Azure's has.
    #[error("reading a VM's guest-state metadata: {0}")]
    Metadata(String),
    /// An algorithm that Key Vault does not unwrap with.
    #[error("the recovery key is wrapped with `{0}`; known are RSA-OAEP-256 and RSA-OAEP")]
    Algorithm(String),
    /// The vault's key is another one, or the wrapped key is damaged.
    #[error("the vault's key does not unwrap it: {0}")]
    Vault(String),
    /// It is no Linux VM's key.
    #[error("what was unwrapped has {0} bytes; a Linux VM's recovery key has {SIZE}")]
    Size(usize),
}

/// A key that stands for the customer's in Key Vault: whoever has it can unwrap. It does not show itself.
#[derive(Clone)]
pub struct Vault(RsaPrivateKey);

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(a vault's key)")
    }
}

/// As PKCS#8 in base64, for the file that a saved machine's keys lie in: for its owner alone.
impl Serialize for Vault {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let der = self.0.to_pkcs8_der().map_err(serde::ser::Error::custom)?;
        to.serialize_str(&Zeroizing::new(BASE64_STANDARD.encode(der.as_bytes())))
    }
}

impl<'de> Deserialize<'de> for Vault {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(from)?);
        let der = Zeroizing::new(BASE64_STANDARD.decode(&*text).map_err(D::Error::custom)?);
        RsaPrivateKey::from_pkcs8_der(&der).map(Self).map_err(D::Error::custom)
    }
}

impl Vault {
    /// A new one.
    ///
    /// # Errors
    /// [`EscrowError::Vault`] when none can be made.
    pub fn generate() -> Result<Self, EscrowError> {
        RsaPrivateKey::new(&mut OsRng, BITS).map(Self).map_err(|e| EscrowError::Vault(e.to_string()))
    }

    /// Its private key, for whoever looks for it where it may not be: what every longer form of it holds (PKCS#1, RFC 8017,
    /// appendix A.1.2).
    ///
    /// # Errors
    /// [`EscrowError::Vault`] when it cannot be encoded.
    pub fn secret(&self) -> Result<Secret, EscrowError> {
        let der = self.0.to_pkcs1_der().map_err(|e| EscrowError::Vault(e.to_string()))?;
        Ok(Secret::of_bytes(der.as_bytes()))
    }
}

/// What a VM's guest state says of its recovery key (`DiskEncryptionSettings.recoverykey_info` of the VMMD blob). Nothing in
/// it is secret without the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryKeyInfo {
    /// How it is wrapped, such as `RSA-OAEP-256`.
    pub algorithm_type: String,
    /// The address of the vault's key.
    pub key_id: String,
    /// The wrapped key, in base64.
    pub wrapped_key: String,
    /// Of which system it is.
    pub os_type: String,
}

impl RecoveryKeyInfo {
    /// Wraps `key`, a recovery key in Azure's text form, for `vault`, which lies at `key_id`.
    ///
    /// # Errors
    /// [`EscrowError::Size`] when the key is of another form.
    pub fn wrap(key: &Secret, vault: &Vault, key_id: &str) -> Result<Self, EscrowError> {
        let bytes = key.azure_bytes().ok_or(EscrowError::Size(key.expose().len()))?;
        let wrapped = vault.0.to_public_key().encrypt(&mut OsRng, Oaep::new::<Sha256>(), &*bytes);
        let wrapped = wrapped.map_err(|e| EscrowError::Vault(e.to_string()))?;
        Ok(Self {
            algorithm_type: "RSA-OAEP-256".into(),
            key_id: key_id.to_owned(),
            wrapped_key: BASE64_STANDARD.encode(wrapped),
            os_type: LINUX.into(),
        })
    }

    /// Finds it in a VMMD blob's JSON.
    ///
    /// # Errors
    /// [`EscrowError::Metadata`] when it is not there.
    pub fn of_vmmd(text: &str) -> Result<Self, EscrowError> {
        let wrong = |e: serde_json::Error| EscrowError::Metadata(e.to_string());
        let all: Value = serde_json::from_str(text).map_err(wrong)?;
        let info = all.pointer("/DiskEncryptionSettings/recoverykey_info").cloned();
        let missing = || EscrowError::Metadata("it has no DiskEncryptionSettings.recoverykey_info".into());
        serde_json::from_value(info.ok_or_else(missing)?).map_err(wrong)
    }

    /// As a VMMD blob has it.
    #[must_use]
    pub fn to_vmmd(&self) -> String {
        serde_json::json!({ "DiskEncryptionSettings": { "recoverykey_info": self } }).to_string()
    }

    /// Unwraps it, and writes it as it is typed: eight groups of five digits.
    ///
    /// # Errors
    /// [`EscrowError`] says what is wrong with it.
    pub fn unwrap_with(&self, vault: &Vault) -> Result<Secret, EscrowError> {
        if self.os_type != LINUX {
            return Err(EscrowError::Metadata(format!("the key is one of `{}`, not of Linux", self.os_type)));
        }
        let damaged = |e: base64::DecodeError| EscrowError::Metadata(e.to_string());
        let wrapped = BASE64_STANDARD.decode(&self.wrapped_key).map_err(damaged)?;
        let bytes = match self.algorithm_type.as_str() {
            "RSA-OAEP-256" => vault.0.decrypt(Oaep::new::<Sha256>(), &wrapped),
            "RSA-OAEP" => vault.0.decrypt(Oaep::new::<Sha1>(), &wrapped),
            other => return Err(EscrowError::Algorithm(other.to_owned())),
        };
        let bytes = Zeroizing::new(bytes.map_err(|e| EscrowError::Vault(e.to_string()))?);
        let words: &[u8; SIZE] = bytes[..].try_into().map_err(|_| EscrowError::Size(bytes.len()))?;
        Ok(Secret::of_azure_bytes(words))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::LazyLock;

    use rstest::rstest;

    use super::*;

    static VAULT: LazyLock<Vault> = LazyLock::new(|| Vault::generate().unwrap());

    #[test]
    fn what_was_wrapped_comes_out_as_it_is_typed() {
        let key = Secret::azure_recovery_key();
        let info = RecoveryKeyInfo::wrap(&key, &VAULT, "https://vault.example/keys/k/1").unwrap();
        let read = RecoveryKeyInfo::of_vmmd(&info.to_vmmd()).unwrap();
        assert_eq!(read, info);
        assert_eq!(read.unwrap_with(&VAULT).unwrap().typed(), key.typed());
        assert!(!info.to_vmmd().contains(key.typed().unwrap()));
        let other = read.unwrap_with(&Vault::generate().unwrap());
        assert!(matches!(other, Err(EscrowError::Vault(_))), "{other:?}");
        // What is kept of a vault is the vault.
        let kept: Vault = serde_json::from_str(&serde_json::to_string(&*VAULT).unwrap()).unwrap();
        assert_eq!(read.unwrap_with(&kept).unwrap().typed(), key.typed());
    }

    /// `openssl` wraps; the digits are those that Azure's script prints (`ToUInt16` of each two bytes, `D5`).
    #[rstest]
    #[case::with_sha_256("RSA-OAEP-256", "sha256")]
    #[case::with_sha_1("RSA-OAEP", "sha1")]
    fn what_another_tool_wrapped_is_unwrapped(#[case] algorithm: &str, #[case] hash: &str) {
        let dir = tempfile::tempdir().unwrap();
        let der = VAULT.0.to_pkcs8_der().unwrap();
        std::fs::write(dir.path().join("key.der"), der.as_bytes()).unwrap();
        std::fs::write(
            dir.path().join("plain"),
            [1, 0, 2, 0, 0xff, 0xff, 0, 1, 5, 0, 6, 0, 7, 0, 0x39, 0x30],
        )
        .unwrap();
        let line = format!(
            "pkeyutl -encrypt -inkey key.der -keyform DER -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:{hash} \
             -pkeyopt rsa_mgf1_md:{hash} -in plain -out wrapped"
        );
        let mut openssl = std::process::Command::new("openssl");
        let said = openssl.current_dir(dir.path()).args(line.split_ascii_whitespace()).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        let info = RecoveryKeyInfo {
            algorithm_type: algorithm.into(),
            key_id: String::new(),
            wrapped_key: BASE64_STANDARD.encode(std::fs::read(dir.path().join("wrapped")).unwrap()),
            os_type: LINUX.into(),
        };
        let key = info.unwrap_with(&VAULT).unwrap();
        assert_eq!(key.typed(), Some("00001-00002-65535-00256-00005-00006-00007-12345"));
    }

    #[rstest]
    #[case::no_json("x", "metadata")]
    #[case::of_another_kind("{}", "recoverykey_info")]
    #[case::with_another_algorithm(
        r#"{"DiskEncryptionSettings":{"recoverykey_info":{"algorithm_type":"A","key_id":"","wrapped_key":"","os_type":"Linux"}}}"#,
        "`A`"
    )]
    #[case::of_another_system(
        r#"{"DiskEncryptionSettings":{"recoverykey_info":{"algorithm_type":"RSA-OAEP","key_id":"","wrapped_key":"","os_type":"Windows"}}}"#,
        "Windows"
    )]
    fn what_is_wrong_is_said(#[case] vmmd: &str, #[case] words: &str) {
        let wrong = RecoveryKeyInfo::of_vmmd(vmmd).and_then(|info| info.unwrap_with(&VAULT)).unwrap_err();
        assert!(wrong.to_string().contains(words), "{wrong}");
    }
}
