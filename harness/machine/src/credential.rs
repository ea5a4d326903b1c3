//! systemd credentials, handed over in SMBIOS strings.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::Error;

/// A credential for the guest's systemd (systemd, `docs/CREDENTIALS.md`). Its value may be secret.
#[derive(Clone)]
pub struct Credential {
    /// Its name, such as `tmpfiles.extra`.
    pub name: String,
    /// Its bytes.
    pub value: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Credential {
    /// `value` under `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), value: Zeroizing::new(value.into()) }
    }

    /// Writes the SMBIOS type 11 string to `path` (new, mode 0600) for QEMU's `-smbios type=11,path=`, which
    /// takes a file's bytes as one string.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Error> {
        let encoded = Zeroizing::new(STANDARD.encode(&*self.value));
        let text = Zeroizing::new(format!("io.systemd.credential.binary:{}={}", self.name, encoded.as_str()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(Error::io("writing a credential to", path))
    }
}
