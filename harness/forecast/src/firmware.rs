//! OVMF: what is measured before the boot loader starts, which boot loader starts, and what follows when the kernel
//! ends boot services.
//!
//! Sources: edk2 `SecurityPkg/Tcg/Tcg2Pei`, `SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c` (order of events, actions, separators),
//! `SecurityPkg/Library/DxeTpm2MeasureBootLib` (partition table, images),
//! `SecurityPkg/Library/DxeImageVerificationLib` (databases); TCG PC Client Platform Firmware Profile, section 10.4.

mod before;
mod image;
mod load;
mod options;
mod place;
mod tried;

pub use image::{Error as FirmwareError, FirmwareImage, unpack};
pub(crate) use load::{load, load_bytes, program, start_image};
pub use options::{BootFile, boot_files};
pub(crate) use options::{add, encode, file_path, find, order, set_order};
pub(crate) use tried::{Started, again};

use latchkey_disk::gpt::{Partition, kind as partition_kind};
use latchkey_disk::varstore::{SecureBoot, VariableId, vendor};
use latchkey_record::pcr::{Digest, HashAlg};
use latchkey_record::{Certainty, Origin, Stage};

use crate::chain::kind;
use crate::trust::variable_data;
use crate::{Chain, Error, Next};
use options::{BootOption, Shell};

const SEPARATOR: [u8; 4] = [0; 4];
/// `EV_PLATFORM_CONFIG_FLAGS`.
const PLATFORM_CONFIG_FLAGS: u32 = 0xa;
/// How many "ACPI DATA" events builds with a version string make.
const ACPI_TABLES: usize = 4;

fn global(name: &str) -> VariableId {
    VariableId::new(name, vendor::GLOBAL)
}

pub(crate) fn db() -> VariableId {
    VariableId::new("db", vendor::IMAGE_SECURITY)
}

pub(crate) fn dbx() -> VariableId {
    VariableId::new("dbx", vendor::IMAGE_SECURITY)
}

/// Certificates of those who say when something was signed.
fn dbt() -> VariableId {
    VariableId::new("dbt", vendor::IMAGE_SECURITY)
}

fn constant(what: &str) -> Origin {
    Origin::Constant(what.to_owned())
}

/// From power-on to the start of a boot loader.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn start(chain: &mut Chain<'_>) -> Result<Next, Error> {
    volumes(chain);
    secure_boot_variables(chain);
    // Builds that say their version (2025.02) also measure ACPI tables.
    if is_recent(chain) {
        for _ in 0..ACPI_TABLES {
            let open = Certainty::Open("ACPI tables are made by QEMU".into());
            let from = Origin::Firmware("ACPI tables".into());
            chain.push(Stage::Firmware, 1, PLATFORM_CONFIG_FLAGS, vec![], "ACPI DATA", from, open);
        }
    }
    let shell = Shell::of(chain.target.firmware);
    let mut variables = chain.variables.clone();
    let leads = |option: &BootOption| tried::leads_somewhere(chain, option);
    let options = options::refresh(&mut variables, chain.target.platform.disk, shell, leads)?;
    chain.variables = variables;
    boot_variables(chain, &options);
    before::programs(chain);
    if let Some(end) = before::wished(chain) {
        return Ok(Next::End(end));
    }
    tried::first(chain, &options)
}

/// Whether it is a build that says its version, 2025.02 and not 2022.11.
fn is_recent(chain: &Chain<'_>) -> bool {
    chain.target.firmware.version().is_some()
}

fn volumes(chain: &mut Chain<'_>) {
    let firmware = chain.target.firmware;
    let part = |name: &str| Origin::Firmware(name.to_owned());
    let crtm = part("version");
    chain.measure(Stage::Firmware, 0, kind::CRTM_VERSION, &firmware.crtm_version, "firmware version", crtm);
    let pei: Vec<Digest> = chain.target.platform.pei_volume.clone();
    let certainty = if pei.is_empty() {
        Certainty::Open("the PEI volume in memory was not measured".into())
    } else {
        Certainty::Measured
    };
    let blob = kind::PLATFORM_FIRMWARE_BLOB;
    chain.push(Stage::Firmware, 0, blob, pei, "PEI volume", part("PEI volume in memory"), certainty);
    let known = |alg| firmware.dxe_digests.iter().find(|digest| digest.alg() == alg).cloned();
    let digest = |alg: &HashAlg| known(*alg).unwrap_or_else(|| chain.memo.digest(*alg, &firmware.dxe_volume));
    let dxe = chain.target.tpm.banks.iter().map(digest).collect();
    chain.push(Stage::Firmware, 0, blob, dxe, "DXE volume", part("DXE volume"), Certainty::Computed);
}

fn secure_boot_variables(chain: &mut Chain<'_>) {
    let on = u8::from(chain.secure_boot() == SecureBoot::On);
    let stored = |chain: &Chain<'_>, id: &VariableId| {
        chain.variables.get(id).map(|variable| variable.data.clone()).unwrap_or_default()
    };
    for id in [global("SecureBoot"), global("PK"), global("KEK"), db(), dbx(), dbt()] {
        let value = if id.name == "SecureBoot" { vec![on] } else { stored(chain, &id) };
        // Of these, one that is not there or empty is not measured (`MeasureAllSecureVariables`).
        if id.name == "dbt" && value.is_empty() {
            continue;
        }
        let data = variable_data(&id, &value);
        let from = Origin::Variable(id.name.clone());
        chain.measure(Stage::Firmware, 7, kind::VARIABLE_DRIVER_CONFIG, &data, &id.name, from);
    }
    separator(chain, 7);
}

fn separator(chain: &mut Chain<'_>, pcr: u8) {
    chain.measure(Stage::Firmware, pcr, kind::SEPARATOR, &SEPARATOR, "separator", constant("separator"));
}

/// The order and the options in it: over the variables' values alone.
fn boot_variables(chain: &mut Chain<'_>, options: &[BootOption]) {
    let order = chain.variables.get(&global("BootOrder")).map(|v| v.data.clone()).unwrap_or_default();
    let from = |name: &str| Origin::Variable(name.to_owned());
    chain.measure(Stage::Firmware, 1, kind::VARIABLE_BOOT, &order, "BootOrder", from("BootOrder"));
    for option in options {
        let name = format!("Boot{:04X}", option.number);
        let what = format!("{name}, {}", option.title);
        chain.measure(Stage::Firmware, 1, kind::VARIABLE_BOOT, &option.data, &what, from(&name));
    }
}

/// The EFI system partition.
pub(crate) fn esp<'a>(chain: &Chain<'a>) -> Option<&'a Partition> {
    chain.target.partitions.find(partition_kind::ESP)
}

/// What the firmware measures when the kernel ends boot services.
pub fn exit_boot_services(chain: &mut Chain<'_>) {
    for text in ["Exit Boot Services Invocation", "Exit Boot Services Returned with Success"] {
        chain.measure(
            Stage::Firmware,
            5,
            kind::ACTION,
            text.as_bytes(),
            text,
            constant("end of boot services"),
        );
    }
}
