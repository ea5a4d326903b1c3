//! Another machine's disk, attached to a machine that runs.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::Error;
use crate::qemu::HOT_PLUG_BUS;
use crate::running::Running;

/// What QEMU calls the disk, and what its serial number is.
const NAME: &str = "attached";
/// How long QEMU may take to let go of the disk, on the reference host.
const LETS_GO: Duration = Duration::from_secs(30);

impl Running {
    /// Where a Linux guest has the disk that [`Running::attach`] attaches: the only one on a SCSI bus. Its partitions are
    /// this with their numbers.
    pub const ATTACHED: &str = "/dev/sda";

    /// Attaches `disk`, the qcow2 overlay of a machine that is off, for reading and writing. The machine needs
    /// [`crate::HotPlug::Scsi`].
    ///
    /// # Errors
    /// When QEMU refuses: the disk is in use elsewhere, is none, or there is one attached already.
    pub fn attach(&self, disk: &Path) -> Result<(), Error> {
        let node = json!({
            "driver": "qcow2", "node-name": NAME, "discard": "unmap",
            "file": {"driver": "file", "filename": disk},
        });
        self.qmp.execute("blockdev-add", node)?;
        let device = json!({
            "driver": "scsi-hd", "id": NAME, "bus": HOT_PLUG_BUS, "drive": NAME, "serial": NAME,
        });
        self.qmp.execute("device_add", device)?;
        Ok(())
    }

    /// Takes the disk away that was attached. The guest is told afterwards: what it wrote is in the file when this returns,
    /// what it still meant to write is lost (`sync`).
    ///
    /// # Errors
    /// When QEMU does not let go of it in time, or cannot write the file.
    pub fn detach(&self) -> Result<(), Error> {
        let mark = self.qmp.mark();
        self.qmp.execute("device_del", json!({"id": NAME}))?;
        self.wait_until("QEMU to let go of the disk", LETS_GO, |running| {
            let told = running.qmp.events(mark);
            told.iter()
                .any(|event| event.name == "DEVICE_DELETED" && event.data["device"] == NAME)
                .then_some(())
        })?;
        self.qmp.execute("blockdev-del", json!({"node-name": NAME}))?;
        Ok(())
    }
}
