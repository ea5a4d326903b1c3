//! A machine's model: what the next boot of it measures and comes to, read off its files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latchkey_disk::gpt::kind;
use latchkey_disk::luks::{self, Header, TPM2, Token};
use latchkey_disk::open::{Access, OpenDisk};
use latchkey_disk::{VarStore, format::Format};
use latchkey_forecast::firmware::FirmwareImage;
use latchkey_forecast::{
    BootDisk, Keyboard, Platform, Target, TokenFact, TpmState, Unreadable, Volume, Without, forecast,
};
use latchkey_host::Host;
use latchkey_machine::{DiskBus, Hardware, Machine, Offline};
use latchkey_measure::Uuid;
use latchkey_record::Forecast;
use latchkey_record::pcr::HashAlg;
use latchkey_tpm::{Keepsake, Under};

mod constant;
mod firmware;
mod root;

use constant::constant;
use firmware::firmware;
pub(crate) use root::Root;

/// How much of the disk's start is read for its partition table: the table of the largest disks fits.
const TABLE: u64 = 1 << 20;

/// Why there is no forecast.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The firmware is not understood.
    #[error("{path}: {source}")]
    Firmware {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: latchkey_forecast::firmware::FirmwareError,
    },
    /// The platform's constant could not be measured.
    #[error(transparent)]
    Machine(#[from] latchkey_machine::Error),
    /// The disk cannot be read.
    #[error(transparent)]
    Disk(#[from] latchkey_disk::open::Error),
    /// The variables cannot be read.
    #[error(transparent)]
    Variables(#[from] latchkey_disk::varstore::Error),
    /// The LUKS2 header cannot be read.
    #[error(transparent)]
    Header(#[from] luks::Error),
    /// A file could not be read or written.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The chain could not be followed.
    #[error(transparent)]
    Forecast(#[from] latchkey_forecast::Error),
}

fn file<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> ModelError + 'a {
    move |source| ModelError::File { doing, path: path.to_owned(), source }
}

/// What stays the same for all machines with this firmware and hardware.
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) firmware: FirmwareImage,
    pub(crate) platform: Platform,
    swtpm: PathBuf,
    whose: Whose,
}

/// Whose the disk's tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The machine's TPM is asked.
    Asked,
    /// The machine's TPM is elsewhere: it is supposed to be the one that sealed them.
    Supposed,
}

/// A forecast, and what of the disk it was made from.
pub(crate) struct Foreseen {
    pub(crate) forecast: Forecast,
    /// The LUKS2 header of the root volume, where it has one.
    pub(crate) header: Option<Header>,
    /// The disk's GUID.
    pub(crate) disk: Uuid,
}

/// How the boot disk of a machine with this hardware is attached.
pub(crate) fn boot_disk(hardware: &Hardware) -> BootDisk {
    let slot = hardware.disk_slot();
    match hardware.disk_bus {
        DiskBus::Nvme => BootDisk::Nvme { slot },
        DiskBus::Virtio => BootDisk::Virtio { slot },
    }
}

impl Model {
    /// Reads the firmware and measures the platform's constant, unless `cache` (a directory) has it. `variables` are those
    /// of a machine of this kind.
    ///
    /// # Errors
    /// [`ModelError`] says what cannot be read or measured.
    pub fn new(
        host: &Host,
        hardware: &Hardware,
        variables: &[u8],
        banks: &[HashAlg],
        cache: &Path,
    ) -> Result<Self, ModelError> {
        let firmware = firmware(&host.firmware.code, &host.firmware.code_sha256, cache)?;
        Self::with_firmware(firmware, host, hardware, variables, banks, cache)
    }

    /// As [`Self::new`], with the host's firmware as it was read before.
    pub(crate) fn with_firmware(
        firmware: FirmwareImage,
        host: &Host,
        hardware: &Hardware,
        variables: &[u8],
        banks: &[HashAlg],
        cache: &Path,
    ) -> Result<Self, ModelError> {
        let disk = boot_disk(hardware);
        let pei_volume = constant(host, hardware, variables, banks, cache)?;
        let swtpm = host.tools.swtpm.path.clone();
        Ok(Self { firmware, platform: Platform { pei_volume, disk }, swtpm, whose: Whose::Asked })
    }

    /// For a disk whose machine's TPM is elsewhere: it is supposed to be the one that sealed the disk's tokens.
    pub(crate) fn without_its_tpm(self) -> Self {
        Self { whose: Whose::Supposed, ..self }
    }

    /// What the next boot of the machine with these files measures and comes to. Nothing is written. Which tokens are this
    /// TPM's is asked here, whatever `tpm` says of them.
    ///
    /// # Errors
    /// [`ModelError`] says what cannot be read.
    pub fn forecast(
        &self,
        files: &Offline<'_>,
        access: Access,
        tpm: &TpmState,
    ) -> Result<Forecast, ModelError> {
        self.forecast_with(files, access, tpm, Keyboard::Nobody)
    }

    /// As [`Self::forecast`], with somebody at the console or nobody.
    ///
    /// # Errors
    /// As [`Self::forecast`].
    pub(crate) fn forecast_with(
        &self,
        files: &Offline<'_>,
        access: Access,
        tpm: &TpmState,
        keyboard: Keyboard,
    ) -> Result<Forecast, ModelError> {
        Ok(self.foretell(files, access, tpm, keyboard, None)?.forecast)
    }

    /// As [`Self::forecast_with`], with what else was read; as if `hidden`, a file as forecasts call it, were not there.
    ///
    /// # Errors
    /// As [`Self::forecast`].
    pub(crate) fn foretell(
        &self,
        files: &Offline<'_>,
        access: Access,
        tpm: &TpmState,
        keyboard: Keyboard,
        hidden: Option<&str>,
    ) -> Result<Foreseen, ModelError> {
        let bytes = fs::read(files.variables).map_err(file("reading", files.variables))?;
        let variables = VarStore::parse(&bytes)?;
        let mut disk = OpenDisk::open_as(files.disk, Format::Qcow2, access)?;
        let partitions = disk.table()?;
        let table = first_sectors(&disk, files.disk)?;
        let esp = match disk.esp() {
            Ok(esp) => Some(esp),
            // What nobody can read has no files.
            Err(latchkey_disk::open::Error::Esp { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let kernels = disk.kernels()?;
        let root = match partitions.find(kind::ROOT_X86_64) {
            Some(root) => Root::read(&mut disk.partition(root)?, files.disk)?,
            None => Root::Plain,
        };
        let tokens = match (&root, self.whose) {
            (Root::Luks(header), Whose::Asked) => tokens(&self.swtpm, files.tpm, header)?,
            (Root::Luks(header), Whose::Supposed) => {
                header.tokens.keys().map(|number| (*number, TokenFact::Supposed)).collect()
            }
            (Root::Plain | Root::Unrecognised, _) => BTreeMap::new(),
        };
        let tpm = &TpmState { tokens, ..tpm.clone() };
        let esp = esp.as_ref().map_or(&Unreadable as &dyn Volume, |esp| esp);
        let (file_system, path) = hidden.and_then(|file| file.split_once(':')).unwrap_or_default();
        let of = |name: &str| if file_system == name { path } else { "" };
        let esp = Without { volume: esp, path: of("esp") };
        let boot =
            kernels.as_ref().map(|kernels| (kernels.number(), Without { volume: kernels, path: of("boot") }));
        let target = Target {
            firmware: &self.firmware,
            platform: &self.platform,
            variables: &variables,
            table: &table,
            partitions: &partitions,
            esp: &esp,
            boot: boot.as_ref().map(|(number, kernels)| (*number, kernels as &dyn Volume)),
            root: root.as_volume(),
            tpm,
            keyboard,
        };
        let forecast = forecast(&target);
        disk.close()?;
        let header = match root {
            Root::Luks(header) => Some(*header),
            Root::Plain | Root::Unrecognised => None,
        };
        Ok(Foreseen { forecast: forecast?, header, disk: partitions.disk_guid })
    }
}

/// The start of the disk at `path`, which is open: as much as its partition table takes.
pub(crate) fn first_sectors(disk: &OpenDisk, path: &Path) -> Result<Vec<u8>, ModelError> {
    let mut table = Vec::new();
    disk.whole()?.take(TABLE).read_to_end(&mut table).map_err(file("reading", path))?;
    Ok(table)
}

/// Which of the header's tokens the TPM in `state` loads.
fn tokens(swtpm: &Path, state: &Path, header: &Header) -> Result<BTreeMap<u32, TokenFact>, ModelError> {
    let (numbers, objects): (Vec<u32>, Vec<Keepsake>) = header
        .tokens
        .iter()
        .filter(|(_, token)| token.kind == TPM2)
        .map(|(number, token)| (*number, keepsake(token)))
        .unzip();
    if objects.is_empty() {
        return Ok(BTreeMap::new());
    }
    let loads = latchkey_tpm::loads(swtpm, state, &objects).map_err(latchkey_machine::Error::from)?;
    let fact = |loads| if loads { TokenFact::Loads } else { TokenFact::Foreign };
    Ok(numbers.into_iter().zip(loads.into_iter().map(fact)).collect())
}

/// A token's sealed object, and the key that systemd makes or finds for it: the handle at the start of `tpm2_srk` (tpm2-tss,
/// `src/tss2-esys/esys_mu.c`), or a primary key of the kind that it names. What cannot be read is an object that does not
/// load.
fn keepsake(token: &Token) -> Keepsake {
    let text = |name: &str| token.contents.get(name).and_then(serde_json::Value::as_str);
    let bytes = |name: &str| text(name).and_then(|text| STANDARD.decode(text).ok());
    let root = bytes("tpm2_srk").and_then(|key| Some(u32::from_be_bytes(*key.first_chunk()?)));
    let under = match (root, text("tpm2-primary-alg")) {
        (Some(handle), _) => Under::Handle(handle),
        (None, Some("rsa")) => Under::Rsa,
        _ => Under::Ecc,
    };
    Keepsake { under, blob: bytes("tpm2-blob").unwrap_or_default() }
}

/// What the TPM of a machine that is switched off brings to its next boot; of the disk's tokens it knows nothing yet.
///
/// # Errors
/// When its state cannot be read.
pub fn tpm_state(host: &Host, machine: &Machine) -> Result<TpmState, ModelError> {
    if !machine.hardware().has_tpm() {
        return Ok(TpmState { banks: Vec::new(), locked: false, tokens: BTreeMap::new() });
    }
    let facts = machine.tpm_facts(host)?;
    Ok(TpmState { banks: facts.banks, locked: facts.lockout.locked, tokens: BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::json;

    #[rstest]
    #[case::of_252(json!({"tpm2-primary-alg": "ecc", "tpm2-blob": "AAE="}), Under::Ecc, &[0, 1])]
    #[case::without_the_curve(json!({"tpm2-primary-alg": "rsa", "tpm2-blob": "AAE="}), Under::Rsa, &[0, 1])]
    #[case::of_255(json!({"tpm2-primary-alg": "ecc", "tpm2_srk": "gQAAAQAi", "tpm2-blob": "AAE="}), Under::Handle(0x8100_0001), &[0, 1])]
    #[case::damaged(json!({"tpm2_srk": "gQ==", "tpm2-blob": "?"}), Under::Ecc, &[])]
    fn a_token_tells_its_parent_and_its_object(
        #[case] contents: serde_json::Value,
        #[case] under: Under,
        #[case] blob: &[u8],
    ) {
        let contents = contents.as_object().cloned().unwrap_or_default();
        let token = Token { kind: TPM2.into(), keyslots: vec![1], contents };
        assert_eq!(keepsake(&token), Keepsake { under, blob: blob.to_vec() });
    }
}
