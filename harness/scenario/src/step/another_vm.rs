//! Steps on another VM, to which the machine's disk is attached.

use std::fs;

use latchkey_disk::gpt::kind;
use latchkey_machine::Running;
use latchkey_measure::Uuid;
use latchkey_provision::{KeyRole, Secret};
use latchkey_record::tpm::TpmRecord;
use latchkey_supervise::quoted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Act, Fault, SoFar};
use crate::Error;
use crate::another_vm::of_helper;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::rehearsal::Rehearsal;

/// What the opened volume is called on the other VM.
const MAPPING: &str = "attached";
/// What a header's backup is called in the directory of what is set aside.
const BACKUP: &str = "header";
/// The part of a LUKS2 volume that its headers and keyslots take, in MiB (LUKS2 On-Disk Format, section 2.1; what
/// `cryptsetup` makes by default).
const HEADER_MIB: u32 = 16;
/// cryptsetup's exit code when no key opens a keyslot (cryptsetup(8), "RETURN CODES").
const NO_PERMISSION: i32 = 2;

/// See [`super::Step::Attach`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table such as `{ open-with = \"platform\", expect = \"refused\" }`"
)]
pub struct Attach {
    /// With which key its root volume is to be opened there; `platform` tries the tokens with that VM's own TPM.
    pub open_with: KeyRole,
    /// What that must come to.
    pub expect: Attached,
    /// A file on the root volume that is to be read there: its absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// That file's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What opening a volume on another VM comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attached {
    /// It opens.
    Opened,
    /// No keyslot takes the key, or the TPM does not give it.
    Refused,
    /// There is no LUKS header any more.
    NoHeader,
}

impl Attached {
    fn words(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Refused => "refused",
            Self::NoHeader => "no header",
        }
    }
}

/// See [`super::Step::Header`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Header {
    /// `cryptsetup luksHeaderBackup`; the file is kept elsewhere.
    BackUp,
    /// The first of its two copies is overwritten.
    DamageFirstCopy,
    /// Both copies and all keyslots are overwritten.
    Damage,
    /// `cryptsetup luksHeaderRestore`, from the backup.
    Restore,
}

impl Attach {
    /// Tries the key.
    fn open(&self, running: &Running, secret: Option<&Secret>) -> Result<(Attached, Option<String>), Error> {
        let volume = root();
        let before = running.tpm().exchanges.len();
        let (command, input) = match secret {
            Some(secret) => (format!("cryptsetup open --key-file=- {volume} {MAPPING}"), secret.expose()),
            // As a unit of that VM would, with nobody to ask.
            None => (
                format!("systemd-cryptsetup attach {MAPPING} {volume} - tpm2-device=auto,headless=1"),
                &[][..],
            ),
        };
        let output = running.guest(&command, input, COMMAND).map_err(of_helper)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let came_to = match output.code {
            0 => Attached::Opened,
            _ if said.contains("is not a valid LUKS device") => Attached::NoHeader,
            NO_PERMISSION if secret.is_some() => Attached::Refused,
            _ if secret.is_none() && refuses(running.tpm(), before, &said) => Attached::Refused,
            code => return Err(Error::Verdict(format!("`{command}` ended with {code}: {}", said.trim()))),
        };
        if came_to != Attached::Opened {
            return Ok((came_to, None));
        }
        let text = match &self.path {
            None => None,
            Some(path) => {
                // A file system or a file that is not to be read is what somebody wants to know.
                let mount = format!("mount -o ro /dev/mapper/{MAPPING} /mnt");
                let mounted = running.guest(&mount, &[], COMMAND).map_err(of_helper)?;
                if mounted.code == 0 {
                    let cat = format!("cat {}", quoted(format!("/mnt{path}")));
                    let read = running.guest(&cat, &[], COMMAND).map_err(of_helper)?;
                    running.guest_ok("umount /mnt", &[], COMMAND).map_err(of_helper)?;
                    (read.code == 0).then(|| read.text())
                } else {
                    None
                }
            }
        };
        running.guest_ok(&format!("cryptsetup close {MAPPING}"), &[], COMMAND).map_err(of_helper)?;
        Ok((came_to, text))
    }
}

/// Whether the other VM's TPM does not give the key, after the first `before` exchanges of its `record`: it was asked for it,
/// or it was looked at for the key that the token is sealed under, and systemd `said` that this is why it gave up (systemd,
/// src/cryptsetup/cryptsetup-tpm2.c, `acquire_tpm2_key`; the words are the same from 252 to 257).
fn refuses(mut record: TpmRecord, before: usize, said: &str) -> bool {
    record.exchanges.drain(..before.min(record.exchanges.len()));
    record.policy_tried()
        || !record.exchanges.is_empty() && said.contains("Failed to unseal secret using TPM2")
}

/// The root partition of the attached disk, in a command.
fn root() -> String {
    partition(kind::ROOT_X86_64)
}

/// The attached disk's partition of this number, in a command.
pub(super) fn numbered(number: u32) -> String {
    format!(r#""$(lsblk -nrpo NAME,PARTN {} | sed -nE 's/ {number}$//p')""#, Running::ATTACHED)
}

/// The first partition of the attached disk of this type, in a command.
pub(super) fn partition(kind: Uuid) -> String {
    format!(r#""$(lsblk -nrpo NAME,PARTTYPE {} | sed -n 's/ {kind}$//p' | head -n 1)""#, Running::ATTACHED)
}

impl Act for Attach {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let secret = match self.open_with {
            KeyRole::Platform => None,
            KeyRole::WrongPassphrase => Some(Secret::generate()),
            role => Some(bench.key(role)?),
        };
        if let Some(secret) = &secret {
            bench.tell_secret(format!("the {}", self.open_with), secret);
        }
        let (came_to, text) = bench.on_another_vm(|running| self.open(running, secret.as_ref()))?;
        let what = format!("the volume on another VM, with {}", self.open_with);
        bench.check(&what, self.expect.words(), came_to.words());
        if let (Some(path), Some(expected)) = (&self.path, &self.text) {
            bench.check(path, expected.as_str(), text.unwrap_or_else(|| "not to be read".into()));
        }
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        let came_to = match (rehearsal.opens(self.open_with), self.open_with) {
            (None, _) => Attached::NoHeader,
            // Its TPM is another one.
            (Some(_), KeyRole::Platform) | (Some(false), _) => Attached::Refused,
            (Some(true), _) => Attached::Opened,
        };
        let what = format!("the volume on another VM, with {}", self.open_with);
        rehearsal.check(&what, self.expect.words(), came_to.words());
        rehearsal.switch_off();
        Ok(())
    }

    fn describe(&self) -> String {
        let read = self.path.as_ref().map(|path| format!(", and read {path}")).unwrap_or_default();
        match self.expect {
            Attached::Opened => {
                format!("attach the disk to another VM, open it with {}{read}", self.open_with)
            }
            other => format!("attach the disk to another VM, try {}: {}", self.open_with, other.words()),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        match self.open_with {
            KeyRole::Platform | KeyRole::WrongPassphrase => {}
            KeyRole::LostPassphrase => {
                let what = "the lost passphrase is one that nobody holds any more".to_owned();
                return Err((what, "try a key that somebody holds, or \"platform\""));
            }
            role => so_far.holds(role)?,
        }
        if self.path.is_some() != self.text.is_some() {
            return Err(("a file is read to compare it".into(), "give both `path` and `text`, or neither"));
        }
        if self.path.is_some() && self.expect != Attached::Opened {
            return Err((
                "nothing can be read from a volume that stays shut".into(),
                "leave `path` and `text` out",
            ));
        }
        so_far.off();
        Ok(())
    }

    fn is_on_another_vm(&self) -> bool {
        true
    }
}

impl Act for Header {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let volume = root();
        let zero = |how: &str| format!("dd if=/dev/zero of={volume} {how} conv=fsync,notrunc status=none");
        match self {
            Self::BackUp => {
                let file = "/run/header";
                let command =
                    format!("cryptsetup luksHeaderBackup {volume} --header-backup-file {file} && cat {file}");
                let output = bench
                    .on_another_vm(|running| running.guest_ok(&command, &[], COMMAND).map_err(of_helper))?;
                let path = bench.aside()?.join(BACKUP);
                fs::write(&path, output.stdout).map_err(Error::file("writing", &path))
            }
            Self::DamageFirstCopy => bench.run_on_another_vm(&zero("bs=4096 count=1"), &[]),
            Self::Damage => bench.run_on_another_vm(&zero(&format!("bs=1M count={HEADER_MIB}")), &[]),
            Self::Restore => {
                let path = bench.aside()?.join(BACKUP);
                let backup = fs::read(&path).map_err(Error::file("reading", &path))?;
                let command = format!(
                    "umask 077; cat > /run/header && \
                     cryptsetup luksHeaderRestore -q {volume} --header-backup-file /run/header"
                );
                bench.run_on_another_vm(&command, &backup)
            }
        }
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.switch_off();
        match self {
            Self::BackUp => return rehearsal.back_up_header(),
            // The second one takes its place.
            Self::DamageFirstCopy => {}
            Self::Damage => rehearsal.damage_header(),
            Self::Restore => return rehearsal.restore_header(),
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match self {
            Self::BackUp => "back up the LUKS header on another VM".into(),
            Self::DamageFirstCopy => "overwrite the first copy of the LUKS header".into(),
            Self::Damage => "overwrite the LUKS header, both copies and the keyslots".into(),
            Self::Restore => "restore the LUKS header from its backup, on another VM".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        match self {
            Self::BackUp => so_far.keeps_header(),
            Self::Restore => so_far.has_kept_header()?,
            Self::DamageFirstCopy | Self::Damage => {}
        }
        so_far.off();
        Ok(())
    }

    fn is_on_another_vm(&self) -> bool {
        true
    }

    fn sets_aside(&self) -> bool {
        *self == Self::BackUp
    }
}

impl Bench<'_> {
    /// Has another VM run `command`, with `input`, on the attached disk.
    pub(super) fn run_on_another_vm(&mut self, command: &str, input: &[u8]) -> Result<(), Error> {
        self.on_another_vm(|running| running.guest_ok(command, input, COMMAND).map(drop).map_err(of_helper))
    }
}
