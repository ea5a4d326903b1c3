//! systemd-stub: the part of a UKI that runs first and measures the others.
//!
//! Sources: systemd 252.39 and 257.13, `src/boot/efi/stub.c` and `src/boot/stub.c` (order, PCRs),
//! `src/fundamental/{tpm-pcr,uki}.c` (sections), `src/boot/efi/cpio.c` (what is packed from `UKI.extra.d`).

use latchkey_disk::varstore::SecureBoot;
use latchkey_measure::PeImage;
use latchkey_record::{Origin, Outcome, Stage};

use crate::chain::{HandOver, Image, KernelStart, MeasuredUki, kind};
use crate::{Chain, End, Error, Next};

/// Sections in the order in which they are measured: version 254 added `.uname` and `.sbat`, 256 `.ucode`,
/// 257 `.profile`, `.dtbauto` and `.hwids`.
const SECTIONS: &[(&str, u16)] = &[
    (".linux", 0),
    (".osrel", 0),
    (".cmdline", 0),
    (".initrd", 0),
    (".ucode", 256),
    (".splash", 0),
    (".dtb", 0),
    (".uname", 254),
    (".sbat", 254),
    (".pcrpkey", 0),
    (".profile", 257),
    (".dtbauto", 257),
    (".hwids", 257),
];
/// Add-ons came with this version.
const ADDONS: u16 = 254;
/// How the stub's own section names it.
const MARK: &str = "#### LoaderInfo: systemd-stub ";

/// The stub's major version, out of the section `.sdmagic`.
fn version(image: &PeImage<'_>) -> Option<u16> {
    let text = std::str::from_utf8(image.section(".sdmagic")?).ok()?;
    let rest = text.strip_prefix(MARK)?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// From the start of the UKI to the start of the kernel in it.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn run(chain: &mut Chain<'_>, uki: &Image) -> Result<Next, Error> {
    let file = format!("esp:{}", uki.path);
    let Ok(image) = PeImage::parse(&uki.bytes) else {
        return Ok(end(None, format!("{file} is no PE image")));
    };
    let Some(version) = version(&image) else {
        chain.unmodelled(Stage::Stub, &file, "its stub does not say its version", &[9, 11, 12, 13]);
        return Ok(end(None, format!("{file} does not say which systemd-stub it has")));
    };
    let Some(kernel) = image.section(".linux") else {
        return Ok(end(Some(Outcome::Crashed), format!("{file} has no section .linux")));
    };
    let kernel = uki.bytes.slice_ref(kernel);
    let part = |name: &str| Origin::Part { file: file.clone(), part: name.to_owned() };
    for (name, since) in SECTIONS {
        let Some(data) = image.section(name).filter(|data| version >= *since && !data.is_empty()) else {
            continue;
        };
        let mut named = name.as_bytes().to_vec();
        named.push(0);
        chain.measure(Stage::Stub, 11, kind::IPL, &named, &format!("name of section {name}"), part(name));
        let data = uki.bytes.slice_ref(data);
        chain.measure_part(Stage::Stub, 11, kind::IPL, &data, &format!("section {name}"), part(name));
    }
    let command_line = command_line(chain, &image, uki, &file);
    extras(chain, uki, version)?;
    if chain.secure_boot() == SecureBoot::Off {
        // The inner kernel is started as an image of its own; with Secure Boot on the stub vouches for it.
        let measured = chain.measure_image(Stage::Stub, &kernel, "kernel in the UKI", part(".linux"));
        if measured.is_err() {
            return Ok(end(Some(Outcome::Crashed), format!("the kernel in {file} is no PE image")));
        }
    }
    let initrd = uki.bytes.slice_ref(image.section(".initrd").unwrap_or_default());
    Ok(Next::Kernel(KernelStart {
        from: part(".linux"),
        kernel,
        initrd_from: part(".initrd"),
        initrd,
        hand_over: HandOver::LoadFile2 { options: utf16(&command_line) },
        command_line,
        measured_uki: MeasuredUki::Yes,
    }))
}

/// The command line that the kernel gets: the stub's load options where it may use them, the built-in one otherwise.
fn command_line(chain: &mut Chain<'_>, image: &PeImage<'_>, uki: &Image, file: &str) -> String {
    let built_in = image.section(".cmdline").filter(|data| !data.is_empty());
    let given: Vec<u16> = uki
        .options
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|c| *c != 0)
        .collect();
    let may = chain.secure_boot() == SecureBoot::Off || built_in.is_none();
    if may && given.first().is_some_and(|c| *c > 0x1f) {
        let text = mangled(&String::from_utf16_lossy(&given));
        let origin = Origin::Part { file: file.to_owned(), part: "load options of its boot option".into() };
        chain.measure(Stage::Stub, 12, kind::IPL, &utf16(&text), "command line from outside", origin);
        return text;
    }
    mangled(&String::from_utf8_lossy(built_in.unwrap_or_default()))
}

/// `mangle_stub_cmdline`: control characters become spaces, and trailing ones go.
fn mangled(text: &str) -> String {
    let text: String =
        text.chars().take_while(|c| *c != '\0').map(|c| if c < ' ' { ' ' } else { c }).collect();
    text.trim_end_matches(' ').to_owned()
}

/// UTF-16 with its final NUL.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain(std::iter::once(0)).flat_map(u16::to_le_bytes).collect()
}

/// Credentials, system extensions and add-ons beside the UKI are measured; how, is not modelled: they are declared.
fn extras(chain: &mut Chain<'_>, uki: &Image, version: u16) -> Result<(), Error> {
    let beside = format!("{}.extra.d", uki.path);
    let places = [
        (beside.as_str(), &[".cred", ".raw"][..], 0),
        (beside.as_str(), &[".addon.efi"][..], ADDONS),
        ("/loader/credentials", &[".cred"][..], 0),
        ("/loader/addons", &[".addon.efi"][..], ADDONS),
    ];
    for (directory, suffixes, since) in places {
        if version < since {
            continue;
        }
        for entry in chain.target.esp.list(directory)?.unwrap_or_default() {
            let name = entry.name.to_ascii_lowercase();
            if suffixes.iter().any(|suffix| name.ends_with(suffix)) {
                let what = format!("esp:{directory}/{}", entry.name);
                let why = "credentials, system extensions and add-ons are not modelled";
                chain.unmodelled(Stage::Stub, &what, why, &[4, 9, 11, 12, 13]);
            }
        }
    }
    Ok(())
}

fn end(outcome: Option<Outcome>, because: String) -> Next {
    Next::End(End { outcome, because, reported_by: None })
}
