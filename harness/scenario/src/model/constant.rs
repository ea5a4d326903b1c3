//! The platform's constant, measured once for every kind of machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use latchkey_disk::VarStore;
use latchkey_disk::varstore::{VariableId, vendor};
use latchkey_host::Host;
use latchkey_machine::{Hardware, board_and_processor, pei_volume};
use latchkey_measure::hash::digest;
use latchkey_record::pcr::{Digest, HashAlg};

use super::firmware::remember;
use super::{ModelError, file};

/// A kind of machine: all that the digest of its PEI volume hangs on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kind {
    /// The firmware's code, by content.
    firmware: String,
    /// QEMU's program, by content.
    qemu: String,
    /// What QEMU is told of the board and the processor.
    arguments: String,
    /// What runs the guest's code.
    accelerator: String,
    /// The processor that the guest sees.
    processor: String,
    /// The virtual hardware.
    hardware: String,
    /// The variable `MemoryTypeInformation`, by content.
    types: String,
    /// The TPM's banks.
    banks: String,
}

impl Kind {
    fn of(host: &Host, hardware: &Hardware, types: &[u8], banks: &[HashAlg]) -> Result<Self, ModelError> {
        Ok(Self {
            firmware: host.firmware.code_sha256.clone(),
            qemu: qemu(host)?,
            arguments: board_and_processor(host.accelerator),
            accelerator: host.accelerator.to_string(),
            processor: host.accelerator.processor(),
            hardware: format!("{hardware:?}"),
            types: digest(HashAlg::Sha256, types).to_string(),
            banks: format!("{banks:?}"),
        })
    }

    /// What the file with its constant is called in the cache.
    fn file_name(&self) -> String {
        // Named one by one: a field that is added and not written here does not compile.
        let Self { firmware, qemu, arguments, accelerator, processor, hardware, types, banks } = self;
        let all = [firmware, qemu, arguments, accelerator, processor, hardware, types, banks];
        let text: String = all.iter().map(|one| format!("{one}\n")).collect();
        format!("{}.json", &digest(HashAlg::Sha256, text.as_bytes()).hex()[..16])
    }
}

/// QEMU's program, by content: hashed once in a process.
fn qemu(host: &Host) -> Result<String, ModelError> {
    static KNOWN: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let path = &host.tools.qemu.path;
    if let Some(content) = known.get(path) {
        return Ok(content.clone());
    }
    let content = digest(HashAlg::Sha256, &fs::read(path).map_err(file("reading", path))?).hex();
    known.insert(path.clone(), content.clone());
    Ok(content)
}

/// The PEI volume's digests, from the cache when they were measured before.
pub(super) fn constant(
    host: &Host,
    hardware: &Hardware,
    variables: &[u8],
    banks: &[HashAlg],
    cache: &Path,
) -> Result<Vec<Digest>, ModelError> {
    let types = VarStore::parse(variables)?;
    // `gEfiMemoryTypeInformationGuid`.
    let id = VariableId::new("MemoryTypeInformation", vendor::MEMORY_TYPE_INFORMATION);
    let types = types.get(&id).map(|variable| variable.data.clone()).unwrap_or_default();
    let remembered = cache.join(Kind::of(host, hardware, &types, banks)?.file_name());
    let known = || fs::read(&remembered).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(known) = known() {
        return Ok(known);
    }
    fs::create_dir_all(cache).map_err(file("creating", cache))?;
    // Whoever needs the same at once waits for it.
    let _turn = latchkey_supervise::lock(&remembered.with_extension("lock"), || ())
        .map_err(latchkey_machine::Error::from)?;
    if let Some(known) = known() {
        return Ok(known);
    }
    let measured = pei_volume(host, hardware, variables, banks, cache)?;
    remember(&remembered, &serde_json::to_vec(&measured).unwrap_or_default())?;
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Kind;

    #[test]
    fn whatever_the_constant_hangs_on_makes_another_file_name() {
        let of = |text: &str| text.to_owned();
        let one = || Kind {
            firmware: of("f"),
            qemu: of("p"),
            arguments: of("a"),
            accelerator: of("kvm"),
            processor: of("one"),
            hardware: of("h"),
            types: of("t"),
            banks: of("b"),
        };
        let others = [
            Kind { firmware: of("g"), ..one() },
            Kind { qemu: of("q"), ..one() },
            Kind { arguments: of("b"), ..one() },
            Kind { accelerator: of("tcg"), ..one() },
            Kind { processor: of("another"), ..one() },
            Kind { hardware: of("i"), ..one() },
            Kind { types: of("u"), ..one() },
            Kind { banks: of("c"), ..one() },
        ];
        let names: BTreeSet<String> = others.iter().chain([&one()]).map(Kind::file_name).collect();
        assert_eq!(names.len(), others.len() + 1);
        assert_eq!(one().file_name(), one().file_name());
    }
}
