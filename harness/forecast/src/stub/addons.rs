//! Add-ons: signed programs beside a UKI that are never run and only carry more command line, or more initrd.
//!
//! Source: systemd 254.19, 255.13, 257.13, `src/boot/efi/stub.c`, `src/boot/stub.c` (`load_addons`,
//! `cmdline_append_and_measure_addons`), `shim.c` (`shim_load_image`).

use bytes::Bytes;
use latchkey_measure::PeImage;
use latchkey_record::{Origin, Stage};

use super::version::Version;
use super::{mangled, sidecars, utf16};
use crate::chain::{Image, kind};
use crate::shim::Shim;
use crate::{Chain, Error};

/// The version that add-ons came with. From 255 on they may carry device trees, from 257 on initrds and microcode.
const SINCE: u16 = 254;
const DEVICE_TREES: u16 = 255;
const INITRDS: u16 = 257;
const SUFFIX: &str = ".addon.efi";
const GLOBAL: &str = "/loader/addons";

/// What add-ons brought.
#[derive(Debug, Default)]
pub(super) struct Addons {
    command_line: String,
    pub(super) initrds: Vec<(Origin, Bytes)>,
    pub(super) microcode: Vec<(Origin, Bytes)>,
    /// The files, for what is measured of their command lines.
    files: Vec<String>,
}

/// A UKI, as far as add-ons go.
pub(super) struct Uki<'u> {
    pub(super) version: Version,
    /// The directory beside it.
    pub(super) beside: &'u str,
    /// The kernel release that it is for.
    pub(super) release: Option<&'u [u8]>,
}

/// Loads add-ons before the UKI's sections are measured, where the version does so.
pub(super) fn early(chain: &mut Chain<'_>, shim: &mut Shim, uki: &Uki<'_>) -> Result<Option<Addons>, Error> {
    if !matches!(uki.version.addons, 255 | 256) {
        return Ok(None);
    }
    let mut addons = Addons::default();
    for directory in [GLOBAL, uki.beside] {
        addons.load(chain, shim, uki, directory)?;
    }
    Ok(Some(addons))
}

/// Loads add-ons unless that was done, and measures and appends their command line: 254 for each directory, later
/// versions once.
pub(super) fn apply(
    chain: &mut Chain<'_>,
    shim: &mut Shim,
    uki: &Uki<'_>,
    early: Option<Addons>,
    command_line: &mut String,
) -> Result<Addons, Error> {
    if uki.version.addons < SINCE {
        return Ok(Addons::default());
    }
    let loaded = early.is_some();
    let mut addons = early.unwrap_or_default();
    if !loaded {
        for directory in [GLOBAL, uki.beside] {
            addons.load(chain, shim, uki, directory)?;
            if uki.version.addons < DEVICE_TREES {
                addons.append(chain, uki.version, command_line);
            }
        }
    }
    addons.append(chain, uki.version, command_line);
    Ok(addons)
}

impl Addons {
    fn load(
        &mut self,
        chain: &mut Chain<'_>,
        shim: &mut Shim,
        uki: &Uki<'_>,
        directory: &str,
    ) -> Result<(), Error> {
        let names = sidecars::names(chain, directory, SUFFIX, None)?;
        for (path, bytes) in sidecars::read(chain, directory, &names)? {
            let file = format!("esp:{path}");
            let image = Image { path, bytes, options: Vec::new() };
            // What is not trusted is left out, and the boot goes on.
            if shim.load_for_stub(chain, &image, "add-on").is_ok() {
                self.take(chain, uki, &image, &file);
            }
        }
        Ok(())
    }

    fn take(&mut self, chain: &mut Chain<'_>, uki: &Uki<'_>, addon: &Image, file: &str) {
        let Ok(image) = PeImage::parse(&addon.bytes) else { return };
        let section = |name: &str| image.section(name).filter(|data| !data.is_empty());
        let other = |release: &[u8]| uki.release.is_some_and(|own| !is_same(own, release));
        if section(".linux").is_some() || section(".uname").is_some_and(other) {
            return;
        }
        if let Some(text) = section(".cmdline") {
            let text = String::from_utf8_lossy(text.split(|b| *b == 0).next().unwrap_or_default());
            let text =
                if uki.version.addons >= INITRDS { mangled(&text, uki.version) } else { text.into_owned() };
            if !self.command_line.is_empty() {
                self.command_line.push(' ');
            }
            self.command_line.push_str(&text);
            self.files.push(file.to_owned());
        }
        let trees: &[&str] = match uki.version.addons {
            INITRDS.. => &[".dtb", ".dtbauto"],
            DEVICE_TREES.. => &[".dtb"],
            _ => &[],
        };
        if trees.iter().any(|name| section(name).is_some()) {
            chain.unmodelled(Stage::Stub, file, "device trees of add-ons are not modelled", &[12]);
        }
        if uki.version.addons >= INITRDS {
            let part = |name: &str| {
                let data = addon.bytes.slice_ref(section(name)?);
                Some((Origin::Part { file: file.to_owned(), part: name.to_owned() }, data))
            };
            self.initrds.extend(part(".initrd"));
            self.microcode.extend(part(".ucode"));
        }
    }

    /// Measures what was gathered of command lines, and appends it.
    fn append(&mut self, chain: &mut Chain<'_>, version: Version, command_line: &mut String) {
        let text = mangled(&std::mem::take(&mut self.command_line), version);
        let files = std::mem::take(&mut self.files).join(" + ");
        if text.is_empty() {
            return;
        }
        let what = "command line of add-ons";
        chain.measure(Stage::Stub, 12, kind::IPL, &utf16(&text), what, Origin::File(files));
        if !command_line.is_empty() {
            command_line.push(' ');
        }
        command_line.push_str(&text);
    }
}

/// `strneq8`: as far as the add-on's section goes, or up to the end of both.
fn is_same(own: &[u8], addons: &[u8]) -> bool {
    let text = |bytes: &[u8]| bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
    if addons.contains(&0) { text(own) == text(addons) } else { text(own).starts_with(addons) }
}
