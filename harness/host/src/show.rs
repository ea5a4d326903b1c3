//! The host as a table for people.

use std::fmt;

use crate::{Host, SecureBoot, Tool, Trial};

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools = &self.tools;
        let rows: [(&str, &Tool); 4] = [
            ("QEMU", &tools.qemu),
            ("qemu-img", &tools.qemu_img),
            ("qemu-storage-daemon", &tools.qemu_storage_daemon),
            ("swtpm", &tools.swtpm),
        ];
        for (what, tool) in rows {
            row(f, what, &tool.version, &tool.path.display())?;
        }
        let firmware = &self.firmware;
        let short = format!("sha256 {}", firmware.code_sha256.get(..12).unwrap_or_default());
        let version = firmware.version.as_deref().unwrap_or(&short);
        row(f, "OVMF", version, &firmware.code.display())?;
        row(f, "  variables", "", &firmware.vars_template.display())?;
        if firmware.secure_boot == SecureBoot::Unknown {
            row(f, "  Secure Boot", "unknown", &"named by LATCHKEY_OVMF_CODE")?;
        }
        for attempt in &self.attempts {
            let works = matches!(attempt.trial, Trial::CameUp { .. });
            row(f, attempt.accelerator.qemu_name(), if works { "works" } else { "no" }, &attempt.trial)?;
        }
        row(
            f,
            "deadlines",
            &format!("x {:.1}", self.deadline_scale),
            &"1.0 is two cores under TCG, hand-over in 4 s",
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, short: &str, long: &dyn fmt::Display) -> fmt::Result {
    writeln!(f, "{what:<20} {short:<20} {long}")
}
