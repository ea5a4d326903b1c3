//! The firmware: a build of OVMF that enforces Secure Boot, with the variable store it starts from.

use std::fs;
use std::path::{Path, PathBuf};

use latchkey_supervise::run;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Env, Error};

/// Where QEMU's firmware descriptors lie, the user's own first (QEMU, `docs/interop/firmware.json`). Of files
/// with the same name the first counts, and among all the order of their names.
pub const DESCRIPTORS: &[&str] = &["/etc/qemu/firmware", "/usr/share/qemu/firmware"];

/// Pairs of code and variable store that distributions install, tried in this order: Debian and Ubuntu, then
/// Arch, then Fedora and its family.
pub const KNOWN_PAIRS: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// Variable stores with keys that come with one without, in the same directory: Debian's and Ubuntu's, Fedora's.
const ENROLLED: &[(&str, &str)] =
    &[("OVMF_VARS_4M.fd", "OVMF_VARS_4M.ms.fd"), ("OVMF_VARS.fd", "OVMF_VARS.secboot.fd")];

/// Builds that were met, by the SHA-256 of their code: the content does not tell its version in a place that
/// holds still from release to release (it is compressed, and empty in 2022.11).
const KNOWN_BUILDS: &[(&str, &str)] = &[
    ("d50189a486d22af418198226a3a5bcb6ddac775590f6a808bd629474ee034d62", "2022.11-6+deb12u2"),
    ("1a46295574430cfb7f825ee3e4dc64b052acbef08e310377ed7c64cb757a9dc1", "2025.02-8+deb13u1"),
];

/// The largest descriptor and the largest flash image that are read, in bytes. OVMF's largest flash is 8 MiB.
const MOST_DESCRIPTOR: u64 = 1 << 20;
const MOST_FLASH: u64 = 64 << 20;

/// What is known of a firmware's Secure Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureBoot {
    /// Its descriptor, or the place where it was found, says that it enforces Secure Boot with SMM.
    Enforcing,
    /// The user named it, and nothing says what it can do.
    Unknown,
}

/// A firmware that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// The code, a raw flash image, never written to.
    pub code: PathBuf,
    /// The variable store without keys that every machine gets a copy of, a raw flash image.
    pub vars_template: PathBuf,
    /// SHA-256 of the code, in hexadecimal.
    pub code_sha256: String,
    /// Size of the code, in bytes.
    pub code_size: u64,
    /// SHA-256 of the variable store, in hexadecimal.
    pub vars_sha256: String,
    /// Size of the variable store, in bytes.
    pub vars_size: u64,
    /// The build, such as `2022.11-6+deb12u2`, when its content or the package that owns it tells.
    pub version: Option<String>,
    /// Whether it enforces Secure Boot.
    pub secure_boot: SecureBoot,
}

impl Firmware {
    /// The firmware in these two files, which whoever calls knows to enforce Secure Boot.
    ///
    /// # Errors
    /// When one of them cannot be read, or is too large for a flash image.
    pub fn at(code: PathBuf, vars_template: PathBuf) -> Result<Self, Error> {
        Found { code, vars: vars_template, secure_boot: SecureBoot::Enforcing }.read()
    }

    /// The variable store that its package brings with Microsoft's certificates in it, and Secure Boot on.
    #[must_use]
    pub fn enrolled_variables(&self) -> Option<PathBuf> {
        let name = self.vars_template.file_name()?;
        let (_, enrolled) = ENROLLED.iter().find(|(plain, _)| name == *plain)?;
        Some(self.vars_template.with_file_name(enrolled)).filter(|path| path.is_file())
    }
}

/// The two files, before they have been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) code: PathBuf,
    pub(crate) vars: PathBuf,
    pub(crate) secure_boot: SecureBoot,
}

pub(crate) fn known_places() -> String {
    let codes: Vec<&str> = KNOWN_PAIRS.iter().map(|(code, _)| *code).collect();
    codes.join(", ")
}

impl Found {
    /// Looks for the firmware: override, descriptors, known pairs.
    pub(crate) fn search(env: &Env) -> Result<Self, Error> {
        if let Some(found) = named(env)? {
            return Ok(found);
        }
        described(env).or_else(|| known(env)).ok_or(Error::FirmwareMissing)
    }

    /// Reads it, and finds out its version.
    pub(crate) fn read(self) -> Result<Firmware, Error> {
        let (code_sha256, code_size) = content(&self.code)?;
        let (vars_sha256, vars_size) = content(&self.vars)?;
        let version = KNOWN_BUILDS
            .iter()
            .find(|(sha256, _)| *sha256 == code_sha256)
            .map(|(_, version)| (*version).to_owned())
            .or_else(|| packaged(&self.code));
        Ok(Firmware {
            code: self.code,
            vars_template: self.vars,
            code_sha256,
            code_size,
            vars_sha256,
            vars_size,
            version,
            secure_boot: self.secure_boot,
        })
    }
}

/// The pair that the user named.
fn named(env: &Env) -> Result<Option<Found>, Error> {
    const CODE: &str = "LATCHKEY_OVMF_CODE";
    const VARS: &str = "LATCHKEY_OVMF_VARS";
    let file = |variable: &'static str, value: &std::ffi::OsStr| {
        let path = PathBuf::from(value);
        if path.is_absolute() && path.is_file() {
            return Ok(path);
        }
        let value = value.to_string_lossy().into_owned();
        Err(Error::Override { variable, value, problem: "that is not the absolute path of a file".into() })
    };
    let alone = |variable, value: &std::ffi::OsStr, other| Error::Override {
        variable,
        value: value.to_string_lossy().into_owned(),
        problem: format!("{other} is not: code and variables belong together"),
    };
    match (env.get(CODE), env.get(VARS)) {
        (None, None) => Ok(None),
        (Some(code), None) => Err(alone(CODE, code, VARS)),
        (None, Some(vars)) => Err(alone(VARS, vars, CODE)),
        (Some(code), Some(vars)) => Ok(Some(Found {
            code: file(CODE, code)?,
            vars: file(VARS, vars)?,
            secure_boot: SecureBoot::Unknown,
        })),
    }
}

/// The first pair that a descriptor calls Secure Boot with SMM, in a variable store without keys.
fn described(env: &Env) -> Option<Found> {
    let mut files: Vec<PathBuf> = Vec::new();
    for dir in DESCRIPTORS {
        for entry in fs::read_dir(env.place(dir)).into_iter().flatten().flatten() {
            let path = entry.path();
            let known = files.iter().any(|f| f.file_name() == path.file_name());
            if path.extension().is_some_and(|e| e == "json") && !known {
                files.push(path);
            }
        }
    }
    files.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    files.iter().find_map(|path| {
        if fs::metadata(path).ok()?.len() > MOST_DESCRIPTOR {
            return None;
        }
        let descriptor = Descriptor::parse(&fs::read(path).ok()?)?;
        let (code, vars) = descriptor.secure_pair()?;
        existing(env, code, vars)
    })
}

fn known(env: &Env) -> Option<Found> {
    KNOWN_PAIRS.iter().find_map(|(code, vars)| existing(env, code, vars))
}

fn existing(env: &Env, code: &str, vars: &str) -> Option<Found> {
    let (code, vars) = (env.place(code), env.place(vars));
    (code.is_file() && vars.is_file()).then_some(Found { code, vars, secure_boot: SecureBoot::Enforcing })
}

/// The parts of a firmware descriptor that decide (QEMU, `docs/interop/firmware.json`).
#[derive(Debug, Deserialize)]
struct Descriptor {
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "device", rename_all = "kebab-case")]
enum Mapping {
    #[serde(rename_all = "kebab-case")]
    Flash { executable: Flash, nvram_template: Option<Flash> },
    #[serde(other)]
    Another,
}

#[derive(Debug, Deserialize)]
struct Flash {
    filename: String,
    format: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
    machines: Vec<String>,
}

impl Descriptor {
    fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Code and variable store, when this is what a machine of ours needs: for q35 on x86_64, in two raw
    /// files, enforcing Secure Boot with SMM, no keys enrolled.
    fn secure_pair(&self) -> Option<(&str, &str)> {
        let Mapping::Flash { executable, nvram_template: Some(vars) } = &self.mapping else { return None };
        let has = |feature: &str| self.features.iter().any(|f| f == feature);
        let q35 = self.targets.iter().any(|t| {
            t.architecture == "x86_64" && t.machines.iter().any(|machine| machine.starts_with("pc-q35"))
        });
        let raw = executable.format == "raw" && vars.format == "raw";
        let secure = has("secure-boot") && has("requires-smm") && !has("enrolled-keys");
        (q35 && raw && secure).then_some((executable.filename.as_str(), vars.filename.as_str()))
    }
}

fn content(path: &Path) -> Result<(String, u64), Error> {
    let size = fs::metadata(path).map_err(Error::file("looking at the firmware", path))?.len();
    if size > MOST_FLASH {
        let large = std::io::Error::other(format!("{size} bytes are too many for a flash image"));
        return Err(Error::file("reading the firmware", path)(large));
    }
    let bytes = fs::read(path).map_err(Error::file("reading the firmware", path))?;
    Ok((hex::encode(Sha256::digest(&bytes)), size))
}

/// The version of the package that owns `path`, by the package managers that may be here.
fn packaged(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    let first =
        |printed: String| printed.lines().next().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned);
    let debian = || {
        let owner = first(run("dpkg-query", &["--search", text]).ok()?.text())?;
        let (package, _) = owner.split_once(": ")?;
        first(run("dpkg-query", &["--show", "--showformat=${Version}", package]).ok()?.text())
    };
    let rpm =
        || first(run("rpm", &["-q", "--file", "--queryformat", "%{VERSION}-%{RELEASE}", text]).ok()?.text());
    debian().or_else(rpm)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    fn descriptor(features: &str, machine: &str, format: &str, code: &str) -> String {
        format!(
            r#"{{"interface-types": ["uefi"], "mapping": {{"device": "flash",
            "executable": {{"filename": "{code}", "format": "{format}"}},
            "nvram-template": {{"filename": "/fw/VARS.fd", "format": "{format}"}}}},
            "targets": [{{"architecture": "x86_64", "machines": ["{machine}"]}}],
            "features": [{features}], "tags": []}}"#
        )
    }

    const SECURE: &str = r#""acpi-s3", "requires-smm", "secure-boot""#;

    #[rstest]
    #[case::wanted(SECURE, "pc-q35-*", "raw", true)]
    #[case::keys_enrolled(r#""requires-smm", "secure-boot", "enrolled-keys""#, "pc-q35-*", "raw", false)]
    #[case::no_smm(r#""secure-boot""#, "pc-q35-*", "raw", false)]
    #[case::no_secure_boot(r#""requires-smm""#, "pc-q35-*", "raw", false)]
    #[case::other_machine(SECURE, "pc-i440fx-*", "raw", false)]
    #[case::other_format(SECURE, "pc-q35-*", "qcow2", false)]
    fn descriptors(#[case] features: &str, #[case] machine: &str, #[case] format: &str, #[case] taken: bool) {
        let text = descriptor(features, machine, format, "/fw/CODE.fd");
        let parsed = Descriptor::parse(text.as_bytes()).unwrap();
        assert_eq!(parsed.secure_pair(), taken.then_some(("/fw/CODE.fd", "/fw/VARS.fd")));
    }

    #[rstest]
    #[case::not_json("{")]
    #[case::memory(r#"{"mapping": {"device": "memory", "filename": "/x"}, "targets": [], "features": []}"#)]
    #[case::no_variables(
        r#"{"mapping": {"device": "flash", "executable": {"filename": "/x", "format": "raw"}},
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": ["secure-boot", "requires-smm"]}"#
    )]
    fn descriptors_that_are_passed_over(#[case] text: &str) {
        let pair = Descriptor::parse(text.as_bytes()).and_then(|d| d.secure_pair().map(|_| ()));
        assert_eq!(pair, None);
    }

    fn put(root: &Path, place: &str, content: &str) {
        let path = root.join(place.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn the_users_descriptor_masks_the_systems_and_a_name_decides_the_order() {
        let root = tempfile::tempdir().unwrap();
        let env = Env::rooted(root.path());
        for file in ["/fw/A.fd", "/fw/B.fd", "/fw/C.fd", "/fw/VARS.fd"] {
            put(root.path(), file, "x");
        }
        let secure = |code| descriptor(SECURE, "pc-q35-*", "raw", code);
        put(root.path(), "/usr/share/qemu/firmware/50-b.json", &secure("/fw/B.fd"));
        put(root.path(), "/usr/share/qemu/firmware/60-c.json", &secure("/fw/C.fd"));
        assert_eq!(Found::search(&env).unwrap().code, root.path().join("fw/B.fd"));
        put(root.path(), "/etc/qemu/firmware/50-b.json", "{}");
        assert_eq!(Found::search(&env).unwrap().code, root.path().join("fw/C.fd"));
        put(root.path(), "/etc/qemu/firmware/55-a.json", &secure("/fw/A.fd"));
        assert_eq!(Found::search(&env).unwrap().code, root.path().join("fw/A.fd"));
    }

    #[rstest]
    #[case("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")]
    #[case("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd")]
    fn known_pairs_need_no_descriptor(#[case] code: &str, #[case] vars: &str) {
        let root = tempfile::tempdir().unwrap();
        let env = Env::rooted(root.path());
        put(root.path(), code, "code");
        assert!(matches!(Found::search(&env), Err(Error::FirmwareMissing)));
        put(root.path(), vars, "vars");
        let read = Found::search(&env).unwrap().read().unwrap();
        assert_eq!((read.code_size, read.vars_size, read.secure_boot), (4, 4, SecureBoot::Enforcing));
        assert_eq!(read.version, None);
    }

    #[test]
    fn an_override_needs_both_halves_and_both_files() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "code", "c");
        put(root.path(), "vars", "v");
        let env = Env::rooted(root.path()).with("LATCHKEY_OVMF_CODE", root.path().join("code"));
        let error = Found::search(&env).unwrap_err().to_string();
        assert!(error.contains("belong together"), "{error}");
        let missing = env.clone().with("LATCHKEY_OVMF_VARS", "/no/such");
        let error = Found::search(&missing).unwrap_err().to_string();
        assert!(error.contains("LATCHKEY_OVMF_VARS is set to /no/such"), "{error}");
        let both = env.with("LATCHKEY_OVMF_VARS", root.path().join("vars"));
        assert_eq!(Found::search(&both).unwrap().secure_boot, SecureBoot::Unknown);
    }
}
