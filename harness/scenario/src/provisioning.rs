//! Provisioning on the bench: a machine made of an image, its boot chain forecast, its key sealed to that.

use std::path::Path;

use latchkey_disk::Access;
use latchkey_machine::{Machine, NewMachine};
use latchkey_provision::{EscrowError, KeyRole, Parent, RecoveryKeyInfo, SealTo, Vault, provision};
use latchkey_record::{Forecast, HashAlg, PcrIndex, Systemd};

use crate::Error;
use crate::bench::{Bench, Power};
use crate::file::Scenario;
use crate::judge::Sealed;
use crate::model::{Model, tpm_state};
use crate::step::{Seal, Under};

/// Where the vault's key would lie.
const KEY_ID: &str = "https://vault.example/keys/latchkey/1";

impl Bench<'_> {
    /// Makes the machine and does to it what the cloud's host does before anybody boots it: forecasts its boot chain,
    /// encrypts the root in place, seals the key to the forecast PCRs.
    pub(crate) fn provision(&mut self, scenario: &Scenario, scratch: &Path) -> Result<(), Error> {
        let context = self.context;
        let seal = &scenario.machine.seal;
        let banks = banks(seal);
        let new = NewMachine {
            base: &context.image.path,
            format: latchkey_disk::format::detect(&context.image.path)
                .map_err(latchkey_disk::open::Error::from)?,
            variables: &context.variables,
            banks,
            hardware: scenario.machine.hardware(),
        };
        let mut machine = Machine::create(context.host, &scratch.join("machine"), &new)?;
        let model = self.model(scenario)?;
        let tpm = tpm_state(context.host, &machine)?;
        self.note("forecasting the boot chain");
        let forecast = machine.offline(|files| model.forecast(&files, Access::ReadOnly, &tpm))?;
        let mut chains = vec![chain(&forecast, seal)?];
        for change in &scenario.machine.coming {
            self.note(&format!("forecasting the boot chain after: {}", change.describe()));
            let copy = Machine::create(context.host, &scratch.join("coming"), &new)?;
            self.power = Power::Off(copy);
            self.step(change)?;
            let copy = self.switch_off()?;
            let forecast = copy.offline(|files| model.forecast(&files, Access::ReadOnly, &tpm))?;
            chains.push(chain(&forecast, seal)?);
            self.power = Power::Lost;
            std::fs::remove_dir_all(scratch.join("coming"))
                .map_err(Error::file("removing", &scratch.join("coming")))?;
        }
        self.note("encrypting the root partition in place, sealing its key to the forecast PCRs");
        let platform = provision(&mut machine, context.host, &self.keys, &chains, scratch)?;
        self.platform = Some(platform);
        if let Some(key) = self.keys.get(KeyRole::WrappedRecoveryKey) {
            let failed = |e: EscrowError| Error::Bench(e.to_string());
            let vault = Vault::generate().map_err(failed)?;
            let vmmd = RecoveryKeyInfo::wrap(key, &vault, KEY_ID).map_err(failed)?.to_vmmd();
            self.write("guest-state.json", vmmd.as_bytes())?;
            self.escrow = Some((vmmd, vault));
        }
        self.tell_keys();
        self.model = Some(model);
        self.sealed = Sealed::Yes;
        self.power = Power::Off(machine);
        Ok(())
    }

    /// What the forecasts of the scenario's machine are made from.
    pub(crate) fn model(&self, scenario: &Scenario) -> Result<Model, Error> {
        let context = self.context;
        let (hardware, banks) = (scenario.machine.hardware(), banks(&scenario.machine.seal));
        Ok(Model::new(context.host, &hardware, &context.variables, banks, &context.platform)?)
    }
}

/// The banks of a machine whose key is sealed to one of them: systemd's tools want SHA-256 as well.
pub(crate) fn banks(seal: &Seal) -> &'static [HashAlg] {
    match seal.bank {
        HashAlg::Sha1 => &[HashAlg::Sha256, HashAlg::Sha1],
        HashAlg::Sha256 => &[HashAlg::Sha256],
        HashAlg::Sha384 => &[HashAlg::Sha256, HashAlg::Sha384],
        HashAlg::Sha512 => &[HashAlg::Sha256, HashAlg::Sha512],
    }
}

/// What a key is sealed to so that the boot that is forecast opens it.
pub(crate) fn chain(forecast: &Forecast, seal: &Seal) -> Result<SealTo, Error> {
    if let Some(why) = unforeseeable(forecast, &seal.pcrs) {
        return Err(Error::Bench(why));
    }
    let values = forecast.pcrs.get(&seal.bank).cloned().unwrap_or_default();
    let parent = match seal.under {
        Some(Under::Primary) => Parent::Primary,
        Some(Under::StorageRootKey) => Parent::StorageRoot,
        None => parent(forecast),
    };
    Ok(SealTo { pcrs: seal.pcrs.clone(), bank: seal.bank, values, parent })
}

/// Who unseals decides under which key it is sealed.
pub(crate) fn parent(forecast: &Forecast) -> Parent {
    match forecast.systemd {
        Some(Systemd { trusted_srk: true, .. }) => Parent::StorageRoot,
        _ => Parent::Primary,
    }
}

/// Why a key cannot be sealed to `pcrs` as they are forecast: the chain leads somewhere that is not modelled.
fn unforeseeable(forecast: &Forecast, pcrs: &[PcrIndex]) -> Option<String> {
    let open = forecast.unmodelled.iter().find(|open| open.pcrs.iter().any(|pcr| pcrs.contains(pcr)));
    if let Some(open) = open {
        return Some(format!(
            "the key cannot be sealed before the first boot, since {} ({}) is not modelled: {}",
            open.what, open.stage, open.why
        ));
    }
    let to_the_end = forecast.legs.last().is_some_and(|leg| leg.tried_after.is_some());
    (!to_the_end).then(|| {
        format!(
            "the key cannot be sealed: by its forecast the first boot does not come to userspace: {}",
            forecast.because
        )
    })
}
