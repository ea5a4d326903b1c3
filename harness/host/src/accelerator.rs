//! Which accelerator the firmware comes up in.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use crate::firmware::Firmware;
use crate::{Env, Error, trial};

/// The variable that names the one accelerator to try.
const OVERRIDE: &str = "LATCHKEY_ACCELERATOR";
/// A variable that forces nothing but lengthens the trial, for very slow hosts: seconds.
const PATIENCE: &str = "LATCHKEY_PROBE_SECONDS";

/// What somebody is told who may not use KVM.
const FORBIDDEN: &str = "this user may not open /dev/kvm; as root, `usermod --append --groups kvm NAME` gives \
                         access from the next login on, and `cargo xtask probe --refresh` tries again";

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor runs them.
    Kvm,
    /// QEMU translates them.
    Tcg,
}

impl Accelerator {
    /// Its name in QEMU's `-machine accel=` and `-accel`.
    #[must_use]
    pub fn qemu_name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// What a machine's memory hangs on besides QEMU and the guest, as text: under KVM the guest has this computer's processor,
    /// as far as this kernel shows it (`model name` and `flags` of /proc/cpuinfo). TCG's is the same everywhere.
    #[must_use]
    pub fn processor(self) -> String {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        match self {
            Self::Kvm => {
                let (cpuinfo, kernel) = (read("/proc/cpuinfo"), read("/proc/sys/kernel/osrelease"));
                let line = |name| cpuinfo.lines().find(|line| line.starts_with(name)).unwrap_or_default();
                format!("{}; {}; {}", line("model name"), line("flags"), kernel.trim())
            }
            Self::Tcg => "translated".into(),
        }
    }

    /// How long the firmware may take. It needs 1 to 2 s under KVM and 4 s under TCG on an idle machine of
    /// two cores; the rest is for machines that are slow or busy.
    fn patience(self) -> Duration {
        match self {
            Self::Kvm => Duration::from_secs(20),
            Self::Tcg => Duration::from_secs(180),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.qemu_name())
    }
}

/// Whether KVM is worth trying here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kvm {
    Absent,
    Forbidden,
    Present,
}

impl Kvm {
    pub(crate) fn of(env: &Env) -> Self {
        let device = env.place("/dev/kvm");
        if !device.exists() {
            return Self::Absent;
        }
        access(&device, Access::READ_OK | Access::WRITE_OK).map_or(Self::Forbidden, |()| Self::Present)
    }
}

/// What came of trying one accelerator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The accelerator.
    pub accelerator: Accelerator,
    /// What happened.
    pub trial: Trial,
}

/// How far the firmware came.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trial {
    /// It reached the point where it hands over to what it boots.
    CameUp {
        /// From the start of QEMU to that point, in seconds.
        seconds: f64,
    },
    /// There was nothing to try: the sentence says why.
    Absent(String),
    /// QEMU ended by itself; the text is what it said.
    Ended(String),
    /// The machine stopped although nobody asked it to; the text is QEMU's state and what it said.
    Stopped(String),
    /// Nothing decisive happened in time.
    Silent {
        /// How long that was, in seconds.
        seconds: f64,
        /// The last that was seen on the console.
        console: String,
    },
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CameUp { seconds } => write!(f, "the firmware came up in {seconds:.1} s"),
            Self::Absent(why) => f.write_str(why),
            Self::Ended(said) => write!(f, "QEMU ended: {said}"),
            Self::Stopped(said) => write!(f, "the machine stopped: {said}"),
            Self::Silent { seconds, console } if console.is_empty() => {
                write!(f, "nothing on the console in {seconds:.0} s; {PATIENCE} gives it longer")
            }
            Self::Silent { seconds, console } => {
                write!(
                    f,
                    "the firmware did not come up in {seconds:.0} s ({PATIENCE} gives it longer); the console's end: {console}"
                )
            }
        }
    }
}

/// Tries the accelerators in order until the firmware comes up in one. The last attempt is the one that worked.
pub(crate) fn choose(
    env: &Env,
    qemu: &Path,
    firmware: &Firmware,
    scratch: &Path,
) -> Result<(Accelerator, Duration, Vec<Attempt>), Error> {
    let mut attempts = Vec::new();
    for accelerator in candidates(env)? {
        let patience = patience(env, accelerator)?;
        let trial = match accelerator {
            Accelerator::Kvm => match Kvm::of(env) {
                Kvm::Absent => Trial::Absent("there is no /dev/kvm".into()),
                Kvm::Forbidden => Trial::Absent(FORBIDDEN.into()),
                Kvm::Present => trial::boot(qemu, firmware, accelerator, patience, scratch)?,
            },
            Accelerator::Tcg => trial::boot(qemu, firmware, accelerator, patience, scratch)?,
        };
        tracing::info!(%accelerator, "{trial}");
        attempts.push(Attempt { accelerator, trial: trial.clone() });
        if let Trial::CameUp { seconds } = trial {
            return Ok((accelerator, Duration::from_secs_f64(seconds), attempts));
        }
    }
    Err(Error::NoAccelerator { firmware: firmware.code.clone(), qemu: qemu.to_owned(), attempts })
}

fn candidates(env: &Env) -> Result<Vec<Accelerator>, Error> {
    match env.get(OVERRIDE).map(|v| v.to_string_lossy()).as_deref() {
        None => Ok(vec![Accelerator::Kvm, Accelerator::Tcg]),
        Some("kvm") => Ok(vec![Accelerator::Kvm]),
        Some("tcg") => Ok(vec![Accelerator::Tcg]),
        Some(value) => Err(Error::Override {
            variable: OVERRIDE,
            value: value.into(),
            problem: "that is neither `kvm` nor `tcg`".into(),
        }),
    }
}

fn patience(env: &Env, accelerator: Accelerator) -> Result<Duration, Error> {
    let Some(value) = env.get(PATIENCE).map(|v| v.to_string_lossy().into_owned()) else {
        return Ok(accelerator.patience());
    };
    match value.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(Error::Override {
            variable: PATIENCE,
            value,
            problem: "that is not a number of seconds".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::both(None, &[Accelerator::Kvm, Accelerator::Tcg])]
    #[case::empty(Some(""), &[Accelerator::Kvm, Accelerator::Tcg])]
    #[case::one(Some("tcg"), &[Accelerator::Tcg])]
    #[case::other(Some("hvf"), &[])]
    fn what_is_tried(#[case] value: Option<&str>, #[case] expected: &[Accelerator]) {
        let env = Env::rooted(Path::new("/none"));
        let env = value.map_or(env.clone(), |value| env.with(OVERRIDE, value));
        assert_eq!(candidates(&env).unwrap_or_default(), expected);
    }

    #[rstest]
    #[case("7", Some(7))]
    #[case("0", None)]
    #[case("soon", None)]
    fn patience_can_be_lengthened(#[case] value: &str, #[case] expected: Option<u64>) {
        let env = Env::rooted(Path::new("/none")).with(PATIENCE, value);
        assert_eq!(patience(&env, Accelerator::Tcg).ok(), expected.map(Duration::from_secs));
    }

    #[test]
    fn a_device_that_is_there_counts() {
        let root = tempfile::tempdir().unwrap();
        let env = Env::rooted(root.path());
        assert_eq!(Kvm::of(&env), Kvm::Absent);
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/kvm"), "").unwrap();
        assert_eq!(Kvm::of(&env), Kvm::Present);
    }
}
