//! What an initrd holds, as far as opening the root volume goes.

pub(crate) mod crypttab;

use std::io::{BufRead, BufReader, Read};

pub use crypttab::CrypttabLine;

/// Most bytes that an initrd may have once it is unpacked.
const MOST: u64 = 1 << 30;
/// Most archives that one initrd may consist of.
const MOST_ARCHIVES: usize = 64;
/// Systemd's library; its version follows.
const SYSTEMD: &str = "/libsystemd-shared-";
/// What stands before the whole version in it, from 257 on (systemd, `src/basic/build.c`, `version`).
const RELEASE: &[u8] = b"systemd %i%s (";
/// What finds the root partition by its type.
const GPT_AUTO: &str = "/systemd-gpt-auto-generator";
/// Which volumes to open, and how.
const CRYPTTAB: &str = "etc/crypttab";
/// Where systemd looks for a volume's key file of its own accord (`src/cryptsetup/cryptsetup.c`, `discover_key`).
const KEYS: [&str; 2] = ["etc/cryptsetup-keys.d/", "run/cryptsetup-keys.d/"];
/// Which other files count, by the ends of their paths.
const PHASE_UNIT: &str = "/systemd-pcrphase-initrd.service";
const PHASE_PROGRAMS: [&str; 2] = ["/systemd-pcrphase", "/systemd-pcrextend"];
const TPM: [&str; 3] = ["/libtss2-esys.so.0", "/libtss2-mu.so.0", "/libtss2-rc.so.0"];
const TOKEN_PLUGIN: &str = "/libcryptsetup-token-systemd-tpm2.so";
const CRYPTSETUP: &str = "/systemd-cryptsetup";
/// What opens volumes where systemd does not run in the initrd: scripts of initramfs-tools (cryptsetup-initramfs) and of
/// mkinitcpio (its hook `encrypt`).
const SCRIPTS: [&str; 2] = ["scripts/local-top/cryptroot", "hooks/encrypt"];
/// Units that extend PCRs before the root volume's turn, and what the second one has to do.
const OS_SEPARATOR: &str = "/systemd-pcrosseparator.service";
const TPM_SETUP: &str = "/systemd-tpm2-setup-early.service";
const NVPCR: &str = ".nvpcr";
const KNOWN: [&str; 14] = [
    GPT_AUTO,
    PHASE_UNIT,
    PHASE_PROGRAMS[0],
    PHASE_PROGRAMS[1],
    TPM[0],
    TPM[1],
    TPM[2],
    TOKEN_PLUGIN,
    CRYPTSETUP,
    OS_SEPARATOR,
    TPM_SETUP,
    NVPCR,
    SCRIPTS[0],
    SCRIPTS[1],
];
/// `S_IFMT` and `S_IFREG` of an archive's entry (inode(7)).
const FILE_KIND: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
/// Most of these that one initrd may have.
const MOST_FILES: usize = 1000;
/// How much is unpacked at once, in bytes.
const PIECE: usize = 256 << 10;
/// First bytes of what is understood: magic numbers of cpio "newc" (its first byte, which no other has), gzip, zstd, xz.
const NEWC: u8 = b'0';
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// First bytes of what Linux unpacks (lib/decompress.c, `compressed_formats`): gzip twice, bzip2, lzma, xz, lzo, lz4, zstd.
const LINUX: [[u8; 2]; 8] =
    [[0x1f, 0x8b], [0x1f, 0x9e], *b"BZ", [0x5d, 0], [0xfd, 0x37], [0x89, 0x4c], [0x02, 0x21], [0x28, 0xb5]];

/// What matters of an initrd's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initrd {
    files: Vec<String>,
    features: Vec<Feature>,
    patch: Option<u16>,
    crypttab: Vec<CrypttabLine>,
}

/// What the initrd's systemd can do. Distributions backport such things, so its version alone does not tell: what counts
/// is whether a program or library of it knows the token's field, the option or the measured word by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The sealed object's parent may be the storage root key of the TPM (`tpm2_srk`; 255, RHEL 9.4's 252).
    TrustedSrk,
    /// A policy that pcrlock keeps in NV (`tpm2_pcrlock`; 255).
    Pcrlock,
    /// The machine's id is measured (253).
    MachineId,
    /// The key of a root volume that was found by its type is measured (253).
    VolumeKey,
    /// A root volume that was found by its type is opened with the TPM (255).
    AutomaticTpm,
    /// A volume's key can be measured (253, RHEL 9.4's 252).
    MeasuresKey,
    /// Which keyslot opened a volume can be measured (259).
    MeasuresKeyslot,
    /// A volume can be held to a known key (260).
    FixesKey,
}

/// Which words tell a feature, and in which file.
const FEATURES: &[(&str, &str, Feature)] = &[
    (SYSTEMD, "tpm2_srk", Feature::TrustedSrk),
    (SYSTEMD, "tpm2_pcrlock", Feature::Pcrlock),
    (SYSTEMD, "\0machine-id:\0", Feature::MachineId),
    // In 253, 254 and RHEL 9.4's 252.
    (PHASE_PROGRAMS[0], "\0machine-id:\0", Feature::MachineId),
    (GPT_AUTO, "tpm2-measure-pcr=yes", Feature::VolumeKey),
    (GPT_AUTO, "tpm2-device=auto", Feature::AutomaticTpm),
    (CRYPTSETUP, "tpm2-measure-pcr=", Feature::MeasuresKey),
    (CRYPTSETUP, "tpm2-measure-keyslot-nvpcr=", Feature::MeasuresKeyslot),
    (CRYPTSETUP, "fixate-volume-key=", Feature::FixesKey),
];

impl Initrd {
    /// Reads an initrd: archives one after the other, compressed or not, as the kernel unpacks them
    /// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
    ///
    /// # Errors
    /// Says what cannot be read.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut rest = bytes;
        for _ in 0..MOST_ARCHIVES {
            found.archives(&mut rest)?;
            if rest.is_empty() {
                return Ok(found);
            }
            found.compressed(&mut rest)?;
        }
        Err("it consists of too many archives".into())
    }

    /// Whether the kernel finds anything to unpack at its beginning (Linux, init/initramfs.c, `unpack_to_rootfs`): an archive,
    /// or what is compressed in one of its ways, with a configuration that has them all.
    pub(crate) fn is_archive(bytes: &[u8]) -> bool {
        let start = bytes.iter().position(|byte| *byte != 0).map_or(&[][..], |at| &bytes[at..]);
        start.first() == Some(&NEWC) || LINUX.iter().any(|magic| start.starts_with(magic))
    }

    /// Reads archives, up to the end or to something else.
    fn archives(&mut self, input: &mut dyn BufRead) -> Result<(), String> {
        loop {
            let ahead = input.fill_buf().map_err(damaged)?;
            let padding = ahead.iter().take_while(|byte| **byte == 0).count();
            match ahead.first() {
                Some(0) => input.consume(padding),
                Some(&NEWC) => self.archive(input)?,
                _ => return Ok(()),
            }
        }
    }

    /// Reads what is compressed and leaves what follows it. It is unpacked piece by piece.
    fn compressed(&mut self, rest: &mut &[u8]) -> Result<(), String> {
        if rest.starts_with(ZSTD) {
            let mut decoder = zstd::Decoder::with_buffer(&mut *rest).map_err(damaged)?.single_frame();
            self.unpacked(&mut decoder)
        } else if rest.starts_with(GZIP) {
            self.unpacked(&mut flate2::bufread::GzDecoder::new(rest))
        } else if rest.starts_with(XZ) {
            self.unpacked(&mut liblzma::bufread::XzDecoder::new(rest))
        } else {
            Err("its compression is none of gzip, xz and zstd".into())
        }
    }

    fn unpacked(&mut self, decoder: &mut dyn Read) -> Result<(), String> {
        let mut limited = BufReader::with_capacity(PIECE, decoder.take(MOST));
        self.archives(&mut limited)?;
        // What is no archive is of no use to the kernel either, but says where the compressed part ends.
        std::io::copy(&mut limited, &mut std::io::sink()).map_err(damaged)?;
        Ok(())
    }

    fn archive(&mut self, mut input: &mut dyn BufRead) -> Result<(), String> {
        loop {
            let mut reader = cpio::NewcReader::new(input).map_err(damaged)?;
            if reader.entry().is_trailer() {
                reader.finish().map_err(damaged)?;
                return Ok(());
            }
            let name = reader.entry().name().trim_start_matches("./").trim_start_matches('/').to_owned();
            let told: Vec<_> = FEATURES.iter().filter(|(file, ..)| name.contains(file)).collect();
            if !told.is_empty() || name == CRYPTTAB {
                let mut contents = Vec::new();
                reader.read_to_end(&mut contents).map_err(damaged)?;
                let knows = |word: &str| memchr::memmem::find(&contents, word.as_bytes()).is_some();
                self.features
                    .extend(told.iter().filter(|(_, word, _)| knows(word)).map(|(.., feature)| *feature));
                if name.contains(SYSTEMD) {
                    self.patch = patch(&contents);
                }
                if name == CRYPTTAB {
                    self.crypttab = crypttab::read(&String::from_utf8_lossy(&contents));
                }
            }
            // What a later archive empties is of no use any more.
            // Of a file with several names all but the last are empty.
            let entry = reader.entry();
            let is_file = entry.mode() & FILE_KIND == REGULAR && entry.nlink() <= 1;
            if is_file && reader.entry().file_size() == 0 {
                self.files.retain(|file| *file != name);
            } else if KNOWN.iter().any(|end| name.ends_with(end))
                || KEYS.iter().any(|start| name.starts_with(start))
                || name.contains(SYSTEMD)
            {
                self.files.push(name);
            }
            if self.files.len() > MOST_FILES {
                return Err("it has too many copies of systemd, or key files".into());
            }
            input = reader.finish().map_err(damaged)?;
        }
    }

    /// Whether its systemd has this feature.
    #[must_use]
    pub fn knows(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    fn has(&self, end: &str) -> bool {
        self.files.iter().any(|file| file.ends_with(end))
    }

    /// systemd's major version, out of the name of its shared library (`libsystemd-shared-252.so`; distributions add
    /// their own suffix).
    #[must_use]
    pub fn systemd(&self) -> Option<u16> {
        self.files.iter().find_map(|file| {
            let rest = file.rsplit('/').next()?.strip_prefix(&SYSTEMD[1..])?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
    }

    /// systemd's patch level, where its library tells it (from 257 on): 13 of 257.13, 0 of 257.
    #[must_use]
    pub fn systemd_patch(&self) -> Option<u16> {
        self.patch
    }

    /// Its `crypttab`, if it has one.
    #[must_use]
    pub fn crypttab(&self) -> &[CrypttabLine] {
        &self.crypttab
    }

    /// The key file that systemd finds for the volume of this name.
    pub(crate) fn key_file(&self, volume: &str) -> Option<&str> {
        let names_it = |key: &str| key.strip_suffix(".key") == Some(volume);
        let is_its = |file: &&String| KEYS.iter().any(|start| file.strip_prefix(start).is_some_and(names_it));
        self.files.iter().find(is_its).map(String::as_str)
    }

    /// Whether systemd can look for the root partition by its type in it.
    pub(crate) fn finds_by_type(&self) -> bool {
        self.has(GPT_AUTO)
    }

    /// Whether systemd extends the firmware's and the boot loaders' PCRs in it once more (later than 260).
    #[must_use]
    pub fn separates_os(&self) -> bool {
        self.has(OS_SEPARATOR) && self.has(PHASE_PROGRAMS[1])
    }

    /// Whether systemd makes PCRs of NV indices in it (259).
    #[must_use]
    pub fn has_nvpcrs(&self) -> bool {
        self.has(TPM_SETUP) && self.has(NVPCR)
    }

    /// Whether systemd measures boot phases in it.
    #[must_use]
    pub fn has_phases(&self) -> bool {
        self.has(PHASE_UNIT) && PHASE_PROGRAMS.iter().any(|program| self.has(program))
    }

    /// Whether its programs can talk to a TPM: the libraries that systemd loads when it needs them.
    #[must_use]
    pub fn has_tpm(&self) -> bool {
        TPM.iter().all(|library| self.has(library))
    }

    /// The libraries without which nothing in it can talk to a TPM: their paths.
    pub fn tpm_libraries(&self) -> impl Iterator<Item = &str> {
        self.files.iter().filter(|file| TPM.iter().any(|end| file.ends_with(end))).map(String::as_str)
    }

    /// Whether libcryptsetup finds systemd's plugin for TPM tokens in it.
    #[must_use]
    pub fn has_token_plugin(&self) -> bool {
        self.has(TOKEN_PLUGIN)
    }

    /// Whether it opens volumes by scripts, without systemd.
    pub(crate) fn opens_by_scripts(&self) -> bool {
        SCRIPTS.iter().any(|script| self.files.iter().any(|file| file == script))
    }

    /// Whether systemd can open LUKS volumes in it.
    #[must_use]
    pub fn has_cryptsetup(&self) -> bool {
        self.has(CRYPTSETUP)
    }
}

/// The patch level in a systemd's library. Distributions add their own release to upstream's version (`257.13-1~deb13u1`,
/// `257-13.el10`); one before a release is none.
fn patch(library: &[u8]) -> Option<u16> {
    let at = memchr::memmem::find(library, RELEASE)? + RELEASE.len();
    let version = library[at..].split(|byte| *byte == b')').next()?;
    let rest = std::str::from_utf8(version).ok()?.trim_start_matches(|c: char| c.is_ascii_digit());
    match rest.strip_prefix('.') {
        Some(level) => level[..level.find(|c: char| !c.is_ascii_digit()).unwrap_or(level.len())].parse().ok(),
        None => (!rest.starts_with('~') && !rest.starts_with("-rc")).then_some(0),
    }
}

fn damaged(error: std::io::Error) -> String {
    format!("it cannot be read: {error}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::io::Write;

    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, text) in files {
            let builder = cpio::NewcBuilder::new(name).mode(0o100_644);
            let mut writer = builder.write(&mut out, u32::try_from(text.len()).unwrap());
            writer.write_all(text.as_bytes()).unwrap();
            writer.finish().unwrap();
        }
        cpio::newc::trailer(&mut out).unwrap();
        out
    }

    #[test]
    fn archives_follow_one_another_packed_or_not() {
        let early = archive(&[("kernel/x86/microcode/GenuineIntel.bin", "x")]);
        let main = archive(&[
            ("./usr/lib/systemd/libsystemd-shared-252.so", "tpm2-blob\0tpm2_srk\0"),
            ("usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so", "x"),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&main).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&main).unwrap();
        let zstd = zstd::encode_all(&main[..], 3).unwrap();
        for last in [main.clone(), gzip.finish().unwrap(), xz.finish().unwrap(), zstd] {
            let mut bytes = early.clone();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend(last);
            // Some builders fill up the whole.
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            let initrd = Initrd::read(&bytes).unwrap();
            assert_eq!(initrd.systemd(), Some(252));
            assert!(initrd.has_token_plugin() && !initrd.has_tpm() && !initrd.has_phases());
            assert!(initrd.knows(Feature::TrustedSrk) && !initrd.knows(Feature::Pcrlock));
            // What comes after a compressed one counts, too.
            bytes.extend(archive(&[("usr/bin/systemd-cryptsetup", "x")]));
            assert!(!initrd.has_cryptsetup() && Initrd::read(&bytes).unwrap().has_cryptsetup());
        }
    }

    #[rstest::rstest]
    #[case("systemd %i%s (257.13-1~deb13u1)\n", Some(13))]
    #[case("systemd %i%s (258.7)\n", Some(7))]
    #[case("systemd %i%s (257-13.el10)\n", Some(0))]
    #[case("systemd %i%s (258~rc3-1)\n", None)]
    #[case("systemd %i%s (258-rc3)\n", None)]
    #[case("systemd 252 (252.39-1~deb12u2)\n", None)]
    fn a_library_tells_its_patch_level(#[case] text: &str, #[case] expected: Option<u16>) {
        let bytes = archive(&[("usr/lib/systemd/libsystemd-shared-257.so", text)]);
        assert_eq!(Initrd::read(&bytes).unwrap().systemd_patch(), expected);
    }

    #[test]
    fn what_a_later_archive_empties_is_gone() {
        let libraries = TPM.map(|library| format!("usr/lib{library}"));
        let whole: Vec<(&str, &str)> = libraries.iter().map(|library| (library.as_str(), "x")).collect();
        let mut bytes = archive(&whole);
        let initrd = Initrd::read(&bytes).unwrap();
        assert!(initrd.has_tpm());
        assert_eq!(initrd.tpm_libraries().collect::<Vec<_>>(), libraries);
        bytes.extend(archive(&[(&libraries[1], "")]));
        assert!(!Initrd::read(&bytes).unwrap().has_tpm());
    }

    #[test]
    fn key_files_go_by_their_volumes_names() {
        let keys = ["etc/cryptsetup-keys.d/root.key", "usr/etc/cryptsetup-keys.d/home.key"];
        let initrd = Initrd::read(&archive(&keys.map(|key| (key, "x")))).unwrap();
        assert_eq!(initrd.key_file("root"), Some(keys[0]));
        assert_eq!(initrd.key_file("home"), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(0u8.., 0..400), at in 0usize..300, byte in 0u8..) {
            let _ = Initrd::read(&bytes);
            let mut damaged = archive(&[("usr/lib/systemd/libsystemd-shared-252.so", "tpm2_srk")]);
            let index = at % damaged.len();
            damaged[index] = byte;
            let _ = Initrd::read(&damaged);
        }
    }
}
