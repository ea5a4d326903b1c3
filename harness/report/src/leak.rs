//! Looks for secrets in what a run leaves behind: every file of its directory, in every form in which a secret gets there.
//!
//! The search knows forms, not places. Whatever is base64 in a file is decoded, what is packed is unpacked, a recording is
//! looked at as it is written and as it plays, and everything also without its blanks, where lines are wrapped.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD_NO_PAD, URL_SAFE_NO_PAD,
};
use flate2::read::DeflateDecoder;

/// A secret shorter than this would be found everywhere by chance.
const SHORTEST: usize = 8;
/// Base64 of less than this holds no secret.
const SHORTEST_BASE64: usize = 12;
/// What is packed in one piece is unpacked so far, in bytes: more would be in memory at once.
const PIECE: u64 = 64 << 20;
/// How much of all that is packed in a file is looked at, in bytes, besides [`TIMES`] its own: a guest may print what comes to
/// terabytes.
const UNPACKED: u64 = 512 << 20;
/// What base64 of a file's own length comes to, at each of the places where it may begin, and unpacked as consoles are.
const TIMES: u64 = 16;
/// Base64 within something packed within base64 is looked into; deeper nobody packs.
const DEPTH: usize = 3;

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";
/// Yubico's hexadecimal digits, in which systemd prints recovery keys (`src/shared/recovery-key.c`).
const MODHEX: &[u8; 16] = b"cbdefghijklnrtuv";

/// Takes base64 that was cut anywhere: what is left of its last byte is somebody else's.
const CUT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is told instead of a secret where not all could be looked at.
const TOO_MUCH: &str = "more that is packed than can be looked at for secrets";

/// A secret that was found, or what may hold one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// In which file.
    pub file: PathBuf,
    /// Which secret, by its name; itself it is told to nobody.
    pub secret: String,
    /// In which form; empty where it is not known what is there.
    pub form: &'static str,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = if self.form.is_empty() { String::new() } else { format!(" {}", self.form) };
        write!(f, "{} holds {}{form}", self.file.display(), self.secret)
    }
}

/// Why what a run leaves behind cannot be called clean.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory.
    #[error("looking for secrets in {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The search itself.
    #[error("preparing the search for secrets: {0}")]
    Prepare(#[from] aho_corasick::BuildError),
}

/// Secrets, in all their forms.
pub struct Search {
    forms: Vec<(String, &'static str)>,
    patterns: AhoCorasick,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Search").field("forms", &self.forms).finish_non_exhaustive()
    }
}

impl Search {
    /// For `secrets`, each with the name that a leak is told by.
    ///
    /// # Errors
    /// When they are too many.
    pub fn new<'a>(secrets: impl IntoIterator<Item = (String, &'a [u8])>) -> Result<Self, Error> {
        let (mut forms, mut patterns) = (Vec::new(), Vec::<Vec<u8>>::new());
        for (name, secret) in secrets {
            for (form, bytes) in all_forms(secret) {
                if bytes.len() >= SHORTEST && !patterns.contains(&bytes) {
                    forms.push((name.clone(), form));
                    patterns.push(bytes);
                }
            }
        }
        Ok(Self { forms, patterns: AhoCorasick::new(patterns)? })
    }

    /// Every secret in the files below `dir`, and in their names.
    ///
    /// # Errors
    /// When one cannot be read: what was not looked at is not clean.
    pub fn directory(&self, dir: &Path) -> Result<Vec<Leak>, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Read { path, source }
        };
        let mut leaks = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let path = entry.map_err(failed(dir))?.path();
            let kind = fs::symlink_metadata(&path).map_err(failed(&path))?.file_type();
            let mut found = self.bytes(path.as_os_str().as_encoded_bytes());
            if kind.is_dir() {
                leaks.extend(self.directory(&path)?);
            } else if kind.is_file() {
                let bytes = fs::read(&path).map_err(failed(&path))?;
                found.extend(self.bytes(&bytes));
            }
            let leak = |(secret, form): (&str, _)| Leak { file: path.clone(), secret: secret.into(), form };
            leaks.extend(found.into_iter().map(leak));
        }
        leaks.sort();
        leaks.dedup();
        Ok(leaks)
    }

    /// Every secret in `bytes`, with the form in which it is there. That more is packed in them than can be looked at is told
    /// like one, since what was not looked at is not clean.
    #[must_use]
    pub fn bytes(&self, bytes: &[u8]) -> Vec<(&str, &'static str)> {
        let mut found = Vec::new();
        let mut left = UNPACKED + TIMES * bytes.len() as u64;
        if !self.look(bytes, DEPTH, &mut left, &mut found) {
            found.push((TOO_MUCH, ""));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Looks at `bytes` and, `depth` times, at what is packed in them, of which `left` bytes may come. Gives whether that was
    /// all of it.
    fn look<'a>(
        &'a self,
        bytes: &[u8],
        depth: usize,
        left: &mut u64,
        found: &mut Vec<(&'a str, &'static str)>,
    ) -> bool {
        let without_blanks: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
        for text in [bytes, &without_blanks, &played(bytes)] {
            let forms = self.patterns.find_overlapping_iter(text).map(|hit| &self.forms[hit.pattern()]);
            found.extend(forms.map(|(name, form)| (name.as_str(), *form)));
        }
        if depth == 0 {
            return true;
        }
        for decoded in base64_in(bytes) {
            let mut unpacked = Vec::new();
            // Most of it is nothing packed; what was unpacked before an error is looked at all the same.
            let _ = DeflateDecoder::new(decoded.as_slice()).take(PIECE).read_to_end(&mut unpacked);
            let rest = left.checked_sub((decoded.len() + unpacked.len()) as u64);
            let Some(rest) = rest.filter(|_| (unpacked.len() as u64) < PIECE) else { return false };
            *left = rest;
            let all = self.look(&decoded, depth - 1, left, found)
                && (unpacked.len() < SHORTEST || self.look(&unpacked, depth - 1, left, found));
            if !all {
                return false;
            }
        }
        true
    }
}

/// A secret as it is, as what it stands for, and each of them in every form.
fn all_forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = vec![("as it is", secret.to_vec())];
    all.extend(encoded(secret));
    // Bytes that somebody took for text: what is none of a character became the same one everywhere.
    let lossy = String::from_utf8_lossy(secret);
    all.push(("as text", lossy.clone().into_owned().into_bytes()));
    all.extend(written(&lossy));
    if let Ok(text) = std::str::from_utf8(secret) {
        all.extend(written(text));
        // A recovery key in modhex, a platform's key in base64: the bytes behind it are as good as the text.
        for bytes in
            [from_modhex(text), CUT.decode(text).ok()].into_iter().flatten().filter(|b| b.len() >= 16)
        {
            all.push(("as the bytes that it stands for", bytes.clone()));
            all.extend(encoded(&bytes));
        }
    }
    all
}

/// Bytes as text.
fn encoded(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let mut all = vec![
        ("in hex", hex(bytes, LOWER)),
        ("in hex", hex(bytes, UPPER)),
        ("in modhex", hex(bytes, MODHEX)),
        ("in base64", STANDARD_NO_PAD.encode(bytes).into_bytes()),
        ("in base64 for addresses", URL_SAFE_NO_PAD.encode(bytes).into_bytes()),
        ("percent-encoded", percent(bytes)),
        ("as numbers", numbers.join(",").into_bytes()),
    ];
    // Within longer base64 it begins at one of three places. Letters that its neighbours have a say in are left out.
    for before in 0..3 {
        let text = STANDARD_NO_PAD.encode([&[0; 2][..before], bytes].concat());
        let from = [0, 2, 3][before];
        let to = (before + bytes.len()) / 3 * 4;
        all.extend(text.get(from..to).map(|part| ("within longer base64", part.as_bytes().to_vec())));
    }
    all
}

/// Text as others write it.
fn written(text: &str) -> Vec<(&'static str, Vec<u8>)> {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    let escapes: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    vec![
        ("in UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("in UTF-16", text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("escaped for JSON", quoted.trim_matches('"').as_bytes().to_vec()),
        ("escaped for JSON", escapes.into_bytes()),
        ("without its dashes", text.replace('-', "").into_bytes()),
        ("in capitals", text.to_uppercase().into_bytes()),
        ("escaped for XML", escaped(text, "&quot;", "&apos;").into_bytes()),
        ("escaped for HTML", escaped(text, "&#34;", "&#39;").into_bytes()),
    ]
}

/// Text as XML and HTML have it.
fn escaped(text: &str, quote: &str, apostrophe: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', quote).replace('\'', apostrophe)
}

fn hex(bytes: &[u8], digits: &[u8; 16]) -> Vec<u8> {
    bytes.iter().flat_map(|b| [digits[usize::from(b >> 4)], digits[usize::from(b & 15)]]).collect()
}

fn from_modhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| MODHEX.iter().position(|d| *d == b).and_then(|d| u8::try_from(d).ok());
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').map(digit).collect::<Option<_>>()?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

fn percent(bytes: &[u8]) -> Vec<u8> {
    let one = |b: &u8| match b {
        b if b.is_ascii_alphanumeric() || b"-._~".contains(b) => vec![*b],
        b => format!("%{b:02X}").into_bytes(),
    };
    bytes.iter().flat_map(one).collect()
}

/// Everything in `bytes` that base64 may be, decoded at each of the places where it may begin: what stands before it may be
/// of the same letters.
fn base64_in(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let is_letter = |b: &u8| b.is_ascii_alphanumeric() || b"+/-_".contains(b);
    bytes.split(move |b| !is_letter(b)).filter(|run| run.len() >= SHORTEST_BASE64).flat_map(|run| {
        let usual = |b: &u8| match b {
            b'-' => b'+',
            b'_' => b'/',
            b => *b,
        };
        let run: Vec<u8> = run.iter().map(usual).collect();
        (0..4).filter_map(move |skip| {
            let rest = &run[skip..];
            // One letter by itself is no byte.
            let whole = if rest.len() % 4 == 1 { rest.len() - 1 } else { rest.len() };
            CUT.decode(&rest[..whole]).ok()
        })
    })
}

/// What a recording (asciicast v2) plays, from its lines `[time, "o", text]`: text that was written in pieces comes
/// together, without what colours it.
fn played(bytes: &[u8]) -> Vec<u8> {
    let events = bytes.split(|b| *b == b'\n').filter(|line| line.starts_with(b"["));
    let texts = events.filter_map(|line| serde_json::from_slice::<(f64, String, String)>(line).ok());
    let (mut shown, mut in_sequence) = (Vec::new(), false);
    for byte in texts.flat_map(|(_, _, text)| text.into_bytes()) {
        match byte {
            0x1b => in_sequence = true,
            // A control sequence ends with its first letter (ECMA-48, 5.4).
            b if in_sequence => in_sequence = !(b.is_ascii_alphabetic() || b == b'~'),
            b if b.is_ascii_control() => {}
            b => shown.push(b),
        }
    }
    shown
}
