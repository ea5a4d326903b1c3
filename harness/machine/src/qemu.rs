//! QEMU's command line.
//!
//! Nothing secret is on it: credentials come from a file. Paths stand in JSON, where a comma is a comma.

use std::ffi::OsString;
use std::path::Path;

use latchkey_host::{Accelerator, Host, doubled_commas};
use serde_json::json;

use crate::console::line as serial;
use crate::hardware::{DiskBus, Hardware, HotPlug};

/// Places on PCI bus 0. They are fixed since boot options (and so PCR 1) name them; 0 is the host bridge.
pub(crate) const DISK_SLOT: u8 = 1;
const RANDOM_SLOT: &str = "0x2";
const NETWORK_SLOT: &str = "0x3";
const HOT_PLUG_SLOT: &str = "0x4";
/// The bus for disks that are attached while the machine runs.
pub(crate) const HOT_PLUG_BUS: &str = "attach.0";
/// The TPM's control socket, in QEMU's working directory.
pub(crate) const TPM_SOCKET: &str = latchkey_tpm::Swtpm::SOCKET;

/// Where serial console and control channel lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// To the harness: pipes in QEMU's working directory, and a socket that it inherits as descriptor 0.
    Harness,
    /// To the terminal of whoever starts the machine by hand.
    Terminal,
}

/// The parts of a machine as QEMU needs them; all paths absolute.
pub(crate) struct Parts<'a> {
    /// None for a start of the firmware alone.
    pub(crate) disk: Option<&'a Path>,
    pub(crate) variables: &'a Path,
    /// Strings for SMBIOS type 11, one a file.
    pub(crate) strings: Vec<&'a Path>,
}

/// The arguments that start a machine. Its working directory must hold [`TPM_SOCKET`] and the pipes of [`serial::Line`].
pub(crate) fn arguments(
    host: &Host,
    hardware: &Hardware,
    parts: &Parts<'_>,
    wiring: Wiring,
) -> Vec<OsString> {
    let mut line = Line(Vec::new());
    line.word("-nodefaults").word("-no-user-config").option("-display", "none");
    line.option("-machine", &board(host.accelerator));
    // The firmware trusts its variables only when nobody but SMM code can write them.
    line.option("-global", "driver=cfi.pflash01,property=secure,value=on");
    line.option("-cpu", processor(host.accelerator));
    line.option("-m", &hardware.memory_mib.to_string()).option("-smp", &hardware.cpus.to_string());
    line.node(json!({
        "driver": "raw", "node-name": "code", "read-only": true,
        "file": {"driver": "file", "filename": text(&host.firmware.code)},
    }));
    line.node(json!({
        "driver": "raw", "node-name": "variables",
        "file": {"driver": "file", "filename": text(parts.variables)},
    }));
    if let Some(file) = parts.disk {
        disk(&mut line, hardware.disk_bus, file);
    }
    if hardware.hot_plug == HotPlug::Scsi {
        line.option("-device", &format!("virtio-scsi-pci,id=attach,addr={HOT_PLUG_SLOT}"));
    }
    line.option("-object", "rng-builtin,id=random");
    line.option("-device", &format!("virtio-rng-pci,rng=random,addr={RANDOM_SLOT}"));
    // QEMU picks the host's port. No option ROM: the firmware shall not try to boot from the network.
    line.option("-netdev", "user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:0-:22");
    line.option("-device", &format!("virtio-net-pci,netdev=network,romfile=,addr={NETWORK_SLOT}"));
    if hardware.has_tpm() {
        line.option("-chardev", &format!("socket,id=tpm,path={TPM_SOCKET}"));
        line.option("-tpmdev", "emulator,id=tpm,chardev=tpm").option("-device", "tpm-crb,tpmdev=tpm");
    }
    for file in &parts.strings {
        let mut value = OsString::from("type=11,path=");
        value.push(doubled_commas(file));
        line.0.extend(["-smbios".into(), value]);
    }
    match wiring {
        Wiring::Harness => {
            line.option("-chardev", &format!("pipe,id=console,path={}", serial::NAME));
            line.option("-serial", "chardev:console");
            line.option("-chardev", "socket,id=control,fd=0").option("-mon", "chardev=control,mode=control");
        }
        Wiring::Terminal => {
            line.option("-serial", "mon:stdio");
        }
    }
    line.0
}

/// What QEMU is told of the board and the processor, whatever the machine: what firmware measures hangs on it.
#[must_use]
pub fn board_and_processor(accelerator: Accelerator) -> String {
    format!("{} {}", board(accelerator), processor(accelerator))
}

/// The board. Its guest's memory, with keys in it, is in no core dump (QEMU, "dump-guest-core" of `-machine`): only how the
/// host maps it is another for that, so that what is saved of it is the same.
fn board(accelerator: Accelerator) -> String {
    format!("q35,smm=on,accel={},dump-guest-core=off,pflash0=code,pflash1=variables", accelerator.qemu_name())
}

/// Everything the accelerator can do. But TCG does `rep movsb` and `rep stosb` byte by byte, and kernels and C libraries
/// that are told that these are fast (CPUID's ERMS and FSRM) copy and clear whole pages with them: a tenth of a boot.
fn processor(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Tcg => "max,erms=off,fsrm=off",
        Accelerator::Kvm => "max",
    }
}

fn disk(line: &mut Line, bus: DiskBus, file: &Path) {
    // What the guest flushes needs to survive the guest's end and QEMU's, not the host's.
    line.node(json!({
        "driver": "qcow2", "node-name": "disk", "discard": "unmap", "cache": {"no-flush": true},
        "file": {"driver": "file", "filename": text(file), "cache": {"no-flush": true}},
    }));
    let device = match bus {
        DiskBus::Nvme => "nvme,serial=disk0",
        DiskBus::Virtio => "virtio-blk-pci",
    };
    line.option("-device", &format!("{device},drive=disk,bootindex=0,addr={DISK_SLOT:#x}"));
}

struct Line(Vec<OsString>);

impl Line {
    fn word(&mut self, word: &str) -> &mut Self {
        self.0.push(word.into());
        self
    }

    fn option(&mut self, name: &str, value: &str) -> &mut Self {
        self.word(name).word(value)
    }

    fn node(&mut self, node: serde_json::Value) -> &mut Self {
        self.option("-blockdev", &node.to_string())
    }
}

/// Machines' directories have paths in UTF-8: [`crate::Machine`] checks it.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_memory_is_in_no_core_dump() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            assert!(board(accelerator).split(',').any(|option| option == "dump-guest-core=off"));
        }
    }
}
