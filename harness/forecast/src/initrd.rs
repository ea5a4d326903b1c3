//! What an initrd holds, as far as opening the root volume goes.

use std::io::{Cursor, Read, Write};

/// Most bytes that an initrd may have once it is unpacked.
const MOST: u64 = 1 << 30;
/// Most archives that one initrd may consist of.
const MOST_ARCHIVES: usize = 64;
/// First bytes of what is understood (magic numbers of cpio "newc", gzip, zstd and xz).
const NEWC: &[u8] = b"0707";
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// What matters of an initrd's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Initrd {
    files: Vec<String>,
    features: Vec<Feature>,
}

/// What the initrd's systemd understands of TPM tokens. Distributions backport such things, so its version alone does
/// not tell: what counts is whether its library knows the token's field by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    /// The sealed object's parent may be the storage root key of the TPM (`tpm2_srk`; 255, RHEL 9.4's 252).
    TrustedSrk,
    /// A policy that pcrlock keeps in NV (`tpm2_pcrlock`; 255).
    Pcrlock,
}

/// The fields of a token that tell a feature.
const FEATURES: &[(&str, Feature)] = &[("tpm2_srk", Feature::TrustedSrk), ("tpm2_pcrlock", Feature::Pcrlock)];

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
            let padding = rest.iter().take_while(|b| **b == 0).count();
            rest = &rest[padding..];
            if rest.is_empty() {
                return Ok(found);
            }
            if rest.starts_with(NEWC) {
                rest = found.archive(rest)?;
            } else {
                // A compressed archive is taken to be the last one: nothing says where it ends.
                let unpacked = decompress(rest)?;
                let mut inner = &unpacked[..];
                while inner.starts_with(NEWC) {
                    inner = found.archive(inner)?;
                    let padding = inner.iter().take_while(|b| **b == 0).count();
                    inner = &inner[padding..];
                }
                return Ok(found);
            }
        }
        Err("it consists of too many archives".into())
    }

    /// Reads one archive and gives what follows it.
    fn archive<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let damaged = |e: std::io::Error| format!("its archive is damaged: {e}");
        let mut at = Cursor::new(bytes);
        loop {
            let mut reader = cpio::NewcReader::new(at).map_err(damaged)?;
            if reader.entry().is_trailer() {
                let end = reader.finish().map_err(damaged)?.position();
                let end = usize::try_from(end).unwrap_or(bytes.len()).min(bytes.len());
                return Ok(&bytes[end..]);
            }
            let name = reader.entry().name().trim_start_matches("./").trim_start_matches('/').to_owned();
            if name.contains("/libsystemd-shared-") {
                let mut library = Vec::new();
                reader.read_to_end(&mut library).map_err(damaged)?;
                let knows = |field: &str| memchr::memmem::find(&library, field.as_bytes()).is_some();
                self.features.extend(FEATURES.iter().filter(|(field, _)| knows(field)).map(|(_, f)| *f));
            }
            self.files.push(name);
            at = reader.finish().map_err(damaged)?;
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
            let rest = file.rsplit('/').next()?.strip_prefix("libsystemd-shared-")?;
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
    }

    /// Whether systemd measures boot phases in it.
    #[must_use]
    pub fn has_phases(&self) -> bool {
        self.has("/systemd-pcrphase-initrd.service")
            && (self.has("/systemd-pcrphase") || self.has("/systemd-pcrextend"))
    }

    /// Whether its programs can talk to a TPM: the libraries that systemd loads when it needs them.
    #[must_use]
    pub fn has_tpm(&self) -> bool {
        ["/libtss2-esys.so.0", "/libtss2-mu.so.0", "/libtss2-rc.so.0"].iter().all(|library| self.has(library))
    }

    /// Whether libcryptsetup finds systemd's plugin for TPM tokens in it.
    #[must_use]
    pub fn has_token_plugin(&self) -> bool {
        self.has("/libcryptsetup-token-systemd-tpm2.so")
    }

    /// Whether it can open LUKS volumes at all.
    #[must_use]
    pub fn has_cryptsetup(&self) -> bool {
        self.has("/systemd-cryptsetup")
    }
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let damaged = |e: std::io::Error| format!("it cannot be decompressed: {e}");
    if bytes.starts_with(ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| format!("zstd: {e}"))?;
        decoder.take(MOST).read_to_end(&mut out).map_err(damaged)?;
    } else if bytes.starts_with(GZIP) {
        flate2::read::MultiGzDecoder::new(bytes).take(MOST).read_to_end(&mut out).map_err(damaged)?;
    } else if bytes.starts_with(XZ) {
        let mut limited = Limited(out);
        lzma_rs::xz_decompress(&mut &bytes[..], &mut limited).map_err(|e| format!("xz: {e}"))?;
        out = limited.0;
    } else {
        return Err("its compression is none of gzip, xz and zstd".into());
    }
    Ok(out)
}

/// Bytes that may be written, up to the most that are allowed.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if (self.0.len() + bytes.len()) as u64 > MOST {
            return Err(std::io::Error::other("it is too large unpacked"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
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
            ("usr/lib/x86_64-linux-gnu/cryptsetup/libcryptsetup-token-systemd-tpm2.so", ""),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&main).unwrap();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut &main[..], &mut xz).unwrap();
        for last in [main.clone(), gzip.finish().unwrap(), xz] {
            let mut bytes = early.clone();
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend(last);
            let initrd = Initrd::read(&bytes).unwrap();
            assert_eq!(initrd.systemd(), Some(252));
            assert!(initrd.has_token_plugin() && !initrd.has_tpm() && !initrd.has_phases());
            assert!(initrd.knows(Feature::TrustedSrk) && !initrd.knows(Feature::Pcrlock));
        }
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
