//! Steps that change the keyslots and tokens of the root volume, in the guest, as published.

use std::time::Duration;

use latchkey_disk::Access;
use latchkey_forecast::Keyboard;
use latchkey_provision::{KeyRole, SealTo, Secret, seal_ahead};
use latchkey_record::PcrIndex;
use latchkey_supervise::Scratch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Act, Fault, Seal, SoFar, some};
use crate::Error;
use crate::bench::Bench;
use crate::model::tpm_state;
use crate::provisioning::chain;
use crate::rehearsal::Rehearsal;

/// How long a keyslot may take to be made, on the reference host: cryptsetup measures for seconds how much stretching the
/// guest can bear.
const KEYSLOT: Duration = Duration::from_secs(180);
/// The partition below the opened root volume, found as the article finds it: with `lsblk`.
const PARTITION: &str = r#"$(lsblk -nrspo NAME,TYPE "$(findmnt -nvo SOURCE /)" | sed -n 's/ part$//p')"#;
/// What `lsblk` shows with the type `crypt`, which is what the article has the reader look for. Where there is none, or there are
/// several, the command that names it fails otherwise than it must.
const MAPPING: &str = r#"$(lsblk -nrpo NAME,TYPE | sed -n 's/ crypt$//p')"#;

/// See [`super::Step::AddKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddKey {
    /// The new key's role, one that the machine does not have yet.
    pub key: KeyRole,
    /// Which device the command names.
    #[serde(default)]
    pub on: Device,
}

/// Which device a command names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// The encrypted partition, which has the header.
    #[default]
    Partition,
    /// The opened volume, which `lsblk` shows as `crypt`: the command must refuse it.
    Mapping,
}

/// See [`super::Step::RemoveKey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RemoveKey {
    /// Whose keyslot.
    pub key: KeyRole,
}

/// See [`super::Step::RemoveToken`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RemoveToken {
    /// The token's number; a header has room for 32.
    #[schemars(range(max = 31))]
    pub number: u32,
}

/// See [`super::Step::Reseal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reseal {
    /// The key that opens the volume for it.
    pub with: KeyRole,
    /// What the new token is sealed to.
    #[serde(deserialize_with = "some")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub pcrs: Vec<PcrIndex>,
    /// What the command must come to.
    #[serde(default)]
    pub expect: Resealed,
    /// Whether the tokens that are there are removed first, by a command of their own.
    #[serde(default, skip_serializing_if = "Old::stay")]
    pub old: Old,
    /// Whose values of these PCRs it is sealed to.
    #[serde(default, skip_serializing_if = "To::is_this_boot")]
    pub to: To,
}

/// To which boot's PCRs a command seals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum To {
    /// To the one that is under way: the values that the TPM has.
    #[default]
    ThisBoot,
    /// To the next one, forecast from the files as the guest has them now: `--tpm2-pcrs=4:sha256=...`, which
    /// `systemd-cryptenroll` takes from version 255 on, and RHEL's from 252-27.
    NextBoot,
}

impl To {
    fn is_this_boot(&self) -> bool {
        *self == Self::ThisBoot
    }
}

/// What becomes of the tokens that are there before a new one is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Old {
    /// They go once the new one is there: `--wipe-slot=tpm2` in the same command.
    #[default]
    ReplacedAfterwards,
    /// They go before: `systemd-cryptenroll --wipe-slot=tpm2 DEV`, then the command.
    WipedFirst,
    /// They stay.
    Kept,
}

impl Old {
    fn stay(&self) -> bool {
        *self == Self::ReplacedAfterwards
    }
}

/// See [`super::Step::SealAhead`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SealAhead {
    /// What the token is sealed to, in the bank of the machine's seal.
    #[serde(deserialize_with = "some")]
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub pcrs: Vec<PcrIndex>,
}

/// What a command that reseals comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resealed {
    /// A new token, and the others gone.
    #[default]
    Enrolled,
    /// Nothing: it says that this PCR set is enrolled already (systemd#31453).
    AlreadyEnrolled,
}

impl Resealed {
    fn words(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::AlreadyEnrolled => "already enrolled",
        }
    }
}

impl Act for AddKey {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let device = match self.on {
            Device::Partition => PARTITION,
            Device::Mapping => MAPPING,
        };
        let secret = Secret::generate();
        bench.tell_secret(format!("the {}", self.key), &secret);
        let command = format!("cryptsetup luksAddKey \"{device}\" --token-type systemd-tpm2");
        let line = [secret.expose(), b"\n"].concat();
        let output = bench.running()?.guest(&command, &line, KEYSLOT)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        match self.on {
            Device::Partition => {
                bench.check("cryptsetup's exit code", "0", output.code.to_string());
                if output.code != 0 {
                    return Err(Error::Verdict(format!("no key was added: {}", said.trim())));
                }
                bench.keys.add(self.key, secret);
            }
            Device::Mapping => {
                let refused = output.code != 0 && said.contains("is not a valid LUKS device");
                let seen = if refused { "refused: not a valid LUKS device".to_owned() } else { said };
                bench.check("cryptsetup", "refused: not a valid LUKS device", seen);
            }
        }
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        if let (Device::Partition, Some(slots)) = (self.on, &mut rehearsal.keyslots) {
            slots.add(self.key);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match self.on {
            Device::Partition => format!("add {} in the guest, as published", self.key),
            Device::Mapping => "try to add a key to the opened volume instead of its partition".into(),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()?;
        if self.key != KeyRole::AddedPassphrase {
            let what = format!("the key {} is handed out before the first boot", self.key);
            return Err((
                what,
                "add the key \"added-passphrase\", and leave it out of `keys` under [machine]",
            ));
        }
        if self.on == Device::Partition {
            so_far.gets(self.key)?;
        }
        Ok(())
    }
}

impl Act for RemoveKey {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let secret = bench.key(self.key)?;
        let line = [secret.expose(), b"\n"].concat();
        bench.running()?.guest_ok(&format!("cryptsetup luksRemoveKey \"{PARTITION}\""), &line, KEYSLOT)?;
        bench.keys.remove(self.key);
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        if let Some(slots) = &mut rehearsal.keyslots {
            slots.remove(self.key);
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!("remove {} in the guest", self.key)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()?;
        so_far.typed(self.key)?;
        so_far.loses(self.key);
        Ok(())
    }
}

impl Act for RemoveToken {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let command = format!("cryptsetup token remove --token-id {} \"{PARTITION}\"", self.number);
        bench.running()?.guest_ok(&command, b"", KEYSLOT)?;
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.remove_token(self.number)
    }

    fn describe(&self) -> String {
        format!("remove token {} in the guest", self.number)
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()?;
        match self.number {
            ..=31 => Ok(()),
            number => Err((format!("a LUKS2 header has no token {number}"), "give a number from 0 to 31")),
        }
    }
}

impl Act for Reseal {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let secret = bench.key(self.with)?;
        let pcrs = match self.to {
            To::ThisBoot => list(&self.pcrs),
            To::NextBoot => {
                let forecast = bench.forecast_reboot(Keyboard::Nobody)?;
                let seal = Seal { pcrs: self.pcrs.clone(), bank: bench.bank, under: None };
                with_values(&chain(&forecast, &seal)?)
            }
        };
        // The published command asks for the passphrase; there is nobody to type it here. It wants a file that it can seek
        // in, and this one is in memory.
        let first = match self.old {
            Old::ReplacedAfterwards | Old::Kept => String::new(),
            Old::WipedFirst => format!("systemd-cryptenroll --wipe-slot=tpm2 \"{PARTITION}\" && "),
        };
        let wipe = if self.old == Old::Kept { "" } else { "--wipe-slot=tpm2 " };
        let command = format!(
            "umask 077; cat > /run/key && {first}systemd-cryptenroll {wipe}--tpm2-device=auto --tpm2-pcrs={pcrs} \
             --unlock-key-file=/run/key \"{PARTITION}\"; code=$?; rm /run/key; exit $code"
        );
        let output = bench.running()?.guest(&command, secret.expose(), KEYSLOT)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let seen = if output.code != 0 {
            said.trim().to_owned()
        } else if said.contains("already enrolled, executing no operation") {
            Resealed::AlreadyEnrolled.words().to_owned()
        } else {
            Resealed::Enrolled.words().to_owned()
        };
        bench.check("systemd-cryptenroll", self.expect.words(), seen);
        Ok(())
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        if let (Old::WipedFirst, Some(slots)) = (self.old, &mut rehearsal.keyslots) {
            slots.wipe_tpm();
        }
        let seen = match rehearsal.reseal(&self.pcrs, self.to, self.old)? {
            true => Resealed::Enrolled,
            false => Resealed::AlreadyEnrolled,
        };
        rehearsal.check("systemd-cryptenroll", self.expect.words(), seen.words());
        Ok(())
    }

    fn describe(&self) -> String {
        let pcrs = list(&self.pcrs);
        let first = if self.old == Old::WipedFirst { "wipe the TPM's tokens, then " } else { "" };
        let of = if self.to == To::NextBoot { " of the boot that is to come" } else { "" };
        let end =
            if self.expect == Resealed::AlreadyEnrolled { ": already enrolled, nothing done" } else { "" };
        let verb = if self.old == Old::ReplacedAfterwards { "reseal" } else { "seal" };
        let more = if self.old == Old::Kept { ", one token more" } else { "" };
        format!("{first}{verb} to PCR {pcrs}{of} in the guest{more}{end}")
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.guest()?;
        so_far.typed(self.with)
    }
}

/// PCRs as `systemd-cryptenroll` takes them.
fn list(pcrs: &[PcrIndex]) -> String {
    pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

/// The same with the values that they are to have.
fn with_values(to: &SealTo) -> String {
    let value = |pcr| to.values.0.get(pcr).map_or_else(String::new, |value| format!("={}", value.hex()));
    to.pcrs.iter().map(|pcr| format!("{pcr}:{}{}", to.bank, value(pcr))).collect::<Vec<_>>().join("+")
}

impl Act for SealAhead {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let (context, seal) =
            (bench.context, Seal { pcrs: self.pcrs.clone(), bank: bench.bank, under: None });
        let missing = || Error::Bench("the machine was not provisioned here".into());
        let model = bench.model.clone().ok_or_else(missing)?;
        let platform = bench.platform.clone().ok_or_else(missing)?;
        let scratch = Scratch::new(&context.machines, "seal-")?;
        let machine = bench.switch_off()?;
        let tpm = tpm_state(context.host, machine)?;
        let forecast = machine.offline(|files| model.forecast(&files, Access::ReadOnly, &tpm))?;
        Ok(seal_ahead(machine, context.host, &platform, &chain(&forecast, &seal)?, scratch.path())?)
    }

    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        rehearsal.seal_ahead(&self.pcrs)
    }

    fn describe(&self) -> String {
        let pcrs = list(&self.pcrs);
        format!("seal to PCR {pcrs} of the boot that is to come, one token more")
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        so_far.off();
        Ok(())
    }
}
