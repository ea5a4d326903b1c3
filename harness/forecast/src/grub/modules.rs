//! Modules that are not built in: files that are measured, and loaded where Secure Boot is off.
//!
//! Source: GRUB 2.06, `grub-core/kern/dl.c` (`grub_dl_load`, `grub_dl_load_file`, `grub_dl_resolve_dependencies`),
//! `grub-core/normal/dyncmd.c`.

use super::core;
use super::run::{Run, Stop};

/// Where modules lie below the prefix.
pub(super) const PLATFORM: &str = "x86_64-efi";
/// Modules that change what is measured or read from then on.
const MATTER: [&str; 4] = ["tpm", "pgp", "cryptodisk", "luks2"];

impl Run<'_, '_> {
    /// A module: built in, or read from the disk, which Secure Boot forbids after it was measured; Red Hat's GRUB does not open it
    /// then.
    pub(crate) fn insert_module(&mut self, name: &str) -> Result<i32, Stop> {
        if self.core.modules.contains(name) {
            return Ok(0);
        }
        if self.is_red_hats() && self.secure() {
            return Ok(1);
        }
        let file = if name.starts_with(['/', '(']) {
            name.to_owned()
        } else {
            format!("{}/{PLATFORM}/{name}.mod", self.env.get("prefix"))
        };
        match self.open(&file)? {
            Some((_, bytes)) if !self.secure() => self.load_module(&bytes),
            _ => Ok(1),
        }
    }

    /// What a module needs is loaded first.
    fn load_module(&mut self, bytes: &[u8]) -> Result<i32, Stop> {
        let Some(name) = core::module_name(bytes) else { return Ok(1) };
        if MATTER.contains(&name.as_str()) {
            return self.unmodelled(&format!("loading the module {name} is not modelled"));
        }
        // It counts as there already, so that nothing goes round in circles.
        self.core.modules.insert(name.clone());
        if name == "gettext" {
            self.translations()?;
        }
        self.deeper()?;
        let mut status = 0;
        for need in core::needs(bytes) {
            status = self.insert_module(&need)?;
            if status != 0 {
                self.core.modules.remove(&name);
                break;
            }
        }
        self.shallower();
        Ok(status)
    }
}
