//! OVMF: what is measured before the boot loader starts, and which boot loader starts.

use crate::{Chain, End, Error, Next};

/// What of the firmware's file counts for measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareImage {
    /// Data of `EV_S_CRTM_VERSION`.
    pub crtm_version: Vec<u8>,
    /// The DXE firmware volume, as it is measured.
    pub dxe_volume: Vec<u8>,
}

/// From power-on to the start of a boot loader.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn start(_chain: &mut Chain<'_>) -> Result<Next, Error> {
    Ok(Next::End(End { outcome: None, because: "not modelled".into(), reported_by: None }))
}

/// What the firmware measures when the kernel ends boot services.
pub fn exit_boot_services(_chain: &mut Chain<'_>) {}
