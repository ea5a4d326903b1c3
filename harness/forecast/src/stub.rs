//! systemd-stub: the part of a UKI that runs first and measures the others.
//!
//! Sources: systemd 252.39, 254.19, 255.13 and 257.13, `src/boot/efi/stub.c` and `src/boot/stub.c` (order, PCRs),
//! `src/fundamental/{tpm-pcr,uki}.c` (sections), `src/boot/efi/util.c` and `src/boot/util.c` (`mangle_stub_cmdline`,
//! `get_extra_dir`).

mod addons;
mod cpio;
mod sidecars;
mod version;

use bytes::Bytes;
use latchkey_disk::varstore::SecureBoot;
use latchkey_measure::PeImage;
use latchkey_record::{Origin, Outcome, Stage};

use self::version::Version;
use crate::chain::{HandOver, Image, KernelStart, MeasuredUki, kind};
use crate::shim::Shim;
use crate::{Chain, End, Error, Next, TokenFact};

/// Sections in the order in which they are measured: version 254 added `.uname` and `.sbat`, 256 `.ucode`,
/// 257 `.profile`, `.dtbauto` and `.hwids`. A vendor's may follow a later one ([`Version::sections`]).
const SECTIONS: &[(&str, u16)] = &[
    (".linux", 0),
    (".osrel", 0),
    (".cmdline", 0),
    (".initrd", 0),
    (".ucode", MICROCODE),
    (".splash", 0),
    (".dtb", 0),
    (".uname", 254),
    (".sbat", 254),
    (".pcrpkey", 0),
    (".profile", 257),
    (".dtbauto", 257),
    (".hwids", 257),
];
/// Microcode in the UKI came with this version; one before, blanks around a command line and the counter of boots in
/// a UKI's name began to be left out.
const MICROCODE: u16 = 256;
const STRIPS: u16 = 255;
/// Several profiles in a UKI came with this version, and load options without a word in them began to count as none.
const PROFILES: u16 = 257;
/// From this version on (254.2, to be exact) load options do not count on a confidential machine where Secure Boot is on.
const DISTRUSTS: u16 = 254;
/// The last version whose source was read.
const NEWEST: u16 = 257;

/// Begins to compute what will be asked for if `image` is a UKI that starts.
pub(crate) fn begin(chain: &Chain<'_>, image: &PeImage<'_>, bytes: &Bytes) {
    let Some(version) = Version::of(image) else { return };
    let banks = &chain.target.tpm.banks;
    let section = |name| image.section(name).map(|data| bytes.slice_ref(data));
    let initrd = section(".initrd");
    if let Some(initrd) = initrd.as_ref().filter(|_| !sidecars::surround(image, version.number)) {
        chain.memo.begin_initrd(initrd);
    }
    for part in section(".linux").iter().chain(&initrd) {
        chain.memo.begin_digests(banks, part);
    }
}

/// From the start of the UKI to the start of the kernel in it.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn run(chain: &mut Chain<'_>, uki: &Image, mut shim: Shim) -> Result<Next, Error> {
    let file = format!("esp:{}", uki.path);
    let Ok(image) = PeImage::parse(&uki.bytes) else {
        return Ok(end(None, format!("{file} is no PE image")));
    };
    let Some(version) = Version::of(&image) else {
        chain.unmodelled(Stage::Stub, &file, "its stub does not say its version", &[9, 11, 12, 13]);
        return Ok(end(None, format!("{file} does not say which systemd-stub it has")));
    };
    let Some(kernel) = image.section(".linux") else {
        return Ok(end(Some(Outcome::Crashed), format!("{file} has no section .linux")));
    };
    let kernel = uki.bytes.slice_ref(kernel);
    let part = |name: &str| Origin::Part { file: file.clone(), part: name.to_owned() };
    let number = version.number;
    if number > NEWEST {
        let why = format!("it is systemd-stub {number}, and {NEWEST} is the last that is modelled");
        chain.unmodelled(Stage::Stub, &file, &why, &[9, 11, 12, 13]);
    }
    if number >= PROFILES && (has_profiles(&image) || asks_for_profile(&uki.options)) {
        let why = "a UKI with several profiles is not modelled";
        chain.unmodelled(Stage::Stub, &file, why, &[9, 11, 12]);
        return Ok(end(None, format!("{file}: {why}")));
    }
    let beside = beside(&uki.path, number);
    let release = image.section(".uname").filter(|data| !data.is_empty());
    let wants = addons::Uki { version, beside: &beside, release };
    let early = addons::early(chain, &mut shim, &wants)?;
    for (name, since) in SECTIONS {
        let Some(section) = image.find_section(name).filter(|_| version.sections >= *since) else { continue };
        if *name == ".dtbauto" {
            // Of several the one that fits the hardware counts, and none where nothing tells of any.
            if image.section(".hwids").is_some() {
                let why = "device trees that are chosen by hardware are not modelled";
                chain.unmodelled(Stage::Stub, &file, why, &[11]);
            }
            continue;
        }
        if section.virtual_size == 0 && section.raw_size > 0 || section.virtual_size > section.raw_size {
            let why = format!("its section {name} is not as long in memory as in the file");
            chain.unmodelled(Stage::Stub, &file, &why, &[9, 11]);
        }
        let data = section.data;
        if data.is_empty() {
            continue;
        }
        let mut named = name.as_bytes().to_vec();
        named.push(0);
        chain.measure(Stage::Stub, 11, kind::IPL, &named, &format!("name of section {name}"), part(name));
        let data = uki.bytes.slice_ref(data);
        chain.measure_part(Stage::Stub, 11, kind::IPL, &data, &format!("section {name}"), part(name));
    }
    let own = command_line(chain, &image, uki, &file, version);
    let mut command_line = own.clone().unwrap_or_default();
    let addons = addons::apply(chain, &mut shim, &wants, early, &mut command_line)?;
    // Without any the kernel gets no load options, and measures none.
    let options = if own.is_none() && command_line.is_empty() { Vec::new() } else { utf16(&command_line) };
    let (initrd, initrd_from) =
        sidecars::initrd(chain, &image, (&file, &uki.bytes), &beside, number, &addons)?;
    if chain.secure_boot() == SecureBoot::Off {
        // The inner kernel is started as an image of its own; with Secure Boot on the stub vouches for it.
        let measured = chain.measure_image(Stage::Stub, &kernel, "kernel in the UKI", part(".linux"));
        if measured.is_err() {
            return Ok(end(Some(Outcome::Crashed), format!("the kernel in {file} is no PE image")));
        }
    } else if shim.judges_inner_kernels(chain) {
        let why = "the kernel in a UKI that shim 16.0 loads is not modelled";
        chain.unmodelled(Stage::Shim, &file, why, &[4, 7]);
        return Ok(end(None, format!("{file}: {why}")));
    }
    Ok(Next::Kernel(KernelStart {
        from: part(".linux"),
        kernel,
        initrd_from,
        initrd,
        hand_over: HandOver::LoadFile2 { options },
        command_line,
        measured_uki: MeasuredUki::Yes,
        may_tell_disk: true,
    }))
}

/// Whether sections stand in it again for a profile (`pe_locate_profile_sections`).
fn has_profiles(image: &PeImage<'_>) -> bool {
    let count = |name: &str| image.sections().filter(|section| section.name == name.as_bytes()).count();
    count(".profile") > 0 && SECTIONS.iter().any(|(name, _)| count(name) > 1)
}

/// Whether load options begin with `@` and a number (`parse_profile_number_from_cmdline`).
fn asks_for_profile(options: &[u8]) -> bool {
    let mut units = options.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
    let digit = |unit: u16| u8::try_from(unit).is_ok_and(|byte| byte.is_ascii_digit());
    units.next() == Some(u16::from(b'@')) && units.next().is_some_and(digit)
}

/// The command line that the kernel gets: the stub's load options where it may use them, the built-in one otherwise, or none.
fn command_line(
    chain: &mut Chain<'_>,
    image: &PeImage<'_>,
    uki: &Image,
    file: &str,
    version: Version,
) -> Option<String> {
    let built_in = image.section(".cmdline").filter(|data| !data.is_empty());
    let given: Vec<u16> = uki
        .options
        .chunks_exact(2)
        .map(|c| u16::from_le_bytes([c[0], c[1]]))
        .take_while(|c| *c != 0)
        .collect();
    let may = chain.secure_boot() == SecureBoot::Off || built_in.is_none();
    if may && given.first().is_some_and(|c| *c > 0x1f) {
        let text = mangled(&String::from_utf16_lossy(&given), version);
        if version.number >= PROFILES && text.is_empty() {
            return built_in.map(|text| mangled(&String::from_utf8_lossy(text), version));
        }
        // Such a machine may be confidential, which is asked of its processor (`is_confidential_vm`).
        let elsewhere = chain.target.tpm.tokens.values().any(|fact| *fact == TokenFact::Supposed);
        if elsewhere && version.number >= DISTRUSTS && chain.secure_boot() != SecureBoot::Off {
            let why = "on a confidential machine this stub leaves out the load options of its boot option";
            chain.unmodelled(Stage::Stub, file, why, &[9, 12]);
        }
        let origin = Origin::Part { file: file.to_owned(), part: "load options of its boot option".into() };
        chain.measure(Stage::Stub, 12, kind::IPL, &utf16(&text), "command line from outside", origin);
        return Some(text);
    }
    built_in.map(|text| mangled(&String::from_utf8_lossy(text), version))
}

/// `mangle_stub_cmdline`: control characters become spaces, and those at the end go, unless they stay; later also those in
/// front.
fn mangled(text: &str, version: Version) -> String {
    let strips = version.number >= STRIPS;
    let blank = |c: char| c < ' ' || (strips && c == '\x7f');
    let text: String =
        text.chars().take_while(|c| *c != '\0').map(|c| if blank(c) { ' ' } else { c }).collect();
    let text = if strips { text.trim_start_matches(' ') } else { &text };
    if version.keeps_blanks { text.to_owned() } else { text.trim_end_matches(' ').to_owned() }
}

/// The directory of what belongs to a UKI. Later versions leave out a counter of boots in its name (`+3-1`).
fn beside(path: &str, version: u16) -> String {
    let without = (version >= STRIPS).then(|| {
        let (name, rest) = path.split_once('+')?;
        let digits = |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let mut tail = &rest[rest.len() - digits(rest)..];
        if tail.len() == rest.len() {
            return None;
        }
        if let Some(left) = tail.strip_prefix('-') {
            tail = &left[left.len() - digits(left)..];
            if tail.len() == left.len() {
                return None;
            }
        }
        (tail.is_empty() || tail.starts_with('.')).then(|| format!("{name}{tail}.extra.d"))
    });
    without.flatten().unwrap_or_else(|| format!("{path}.extra.d"))
}

/// UTF-16 with its final NUL.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain(std::iter::once(0)).flat_map(u16::to_le_bytes).collect()
}

fn end(outcome: Option<Outcome>, because: String) -> Next {
    Next::End(End { outcome, because, reported_by: None })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::as_it_is("  quiet \n", 252, "  quiet")]
    #[case::without_blanks("  quiet\u{7f} \n", 255, "quiet")]
    #[case::up_to_a_nul("a\tb\0c", 257, "a b")]
    fn a_command_line_is_cleaned(#[case] text: &str, #[case] number: u16, #[case] expected: &str) {
        assert_eq!(mangled(text, Version::upstream(number)), expected);
    }

    #[rstest]
    #[case::with_a_profile("@1 quiet", true)]
    #[case::of_another_kind("@quiet", false)]
    #[case::none("", false)]
    fn load_options_may_ask_for_a_profile(#[case] text: &str, #[case] asks: bool) {
        assert_eq!(asks_for_profile(&utf16(text)), asks);
    }

    #[rstest]
    #[case("/EFI/Linux/a.efi", 257, "/EFI/Linux/a.efi.extra.d")]
    #[case("/EFI/Linux/a+3-1.efi", 257, "/EFI/Linux/a.efi.extra.d")]
    #[case("/EFI/Linux/a+3.efi", 255, "/EFI/Linux/a.efi.extra.d")]
    #[case("/EFI/Linux/a+3.efi", 254, "/EFI/Linux/a+3.efi.extra.d")]
    #[case("/EFI/Linux/a+b.efi", 257, "/EFI/Linux/a+b.efi.extra.d")]
    fn a_counter_of_boots_is_left_out(#[case] uki: &str, #[case] version: u16, #[case] expected: &str) {
        assert_eq!(beside(uki, version), expected);
    }
}
