//! A forecast without a scenario: of a machine that was kept, or of the first boot of a machine made of an image.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use latchkey_disk::gpt::kind;
use latchkey_disk::luks::Header;
use latchkey_disk::varstore::LoggedOptions;
use latchkey_disk::{Access, VarStore};
use latchkey_forecast::firmware::{BootFile, boot_files};
use latchkey_forecast::{Keyboard, against_log};
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, Image, Progress, Trust, look, reference};
use latchkey_machine::{Hardware, Machine, NewMachine};
use latchkey_measure::Uuid;
use latchkey_measure::eventlog::EventLog;
use latchkey_measure::eventlog::data::Decoded;
use latchkey_record::logged::LogComparison;
use latchkey_record::{Forecast, HashAlg};
use latchkey_supervise::Scratch;
use serde::Serialize;

use crate::model::{Foreseen, Model, boot_disk, tpm_state};
use crate::session::new_variables;
use crate::variables::{NoLog, Variables, event_log};
use crate::{ModelError, SessionError};

mod advice;
mod noticed;

use advice::{Known, advice};
use noticed::{Noticed, noticed, wrong_with};

/// Why nothing could be foretold.
#[derive(Debug, thiserror::Error)]
pub enum ForetellError {
    /// The host, the keys or the image.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The machine's files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The image is no usable disk.
    #[error(transparent)]
    Disk(#[from] latchkey_disk::open::Error),
    /// Variables for a machine that has some.
    #[error("{} is a machine and has UEFI variables of its own: leave --variables away", .machine.display())]
    HasVariables {
        /// Its directory.
        machine: PathBuf,
    },
    /// A log that is none.
    #[error(transparent)]
    NoLog(#[from] NoLog),
    /// A log whose digests are of other algorithms than a TPM here has.
    #[error("its digests are of no algorithm that can be compared")]
    NoBankInCommon,
    /// A scratch directory.
    #[error(transparent)]
    Supervise(#[from] latchkey_supervise::Error),
}

/// Of how many files it is told what a disk comes to without them.
const MOST_TRIED: usize = 8;
/// Where shim measures what the machine's owner enrolled.
const OWNERS_PCR: u8 = 14;

/// What a machine's next boot measures and comes to.
#[derive(Debug, Clone, Serialize)]
pub struct Foretold {
    /// By itself.
    #[serde(flatten)]
    pub forecast: Forecast,
    /// What is taken to be so, since a disk does not tell it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supposed: Vec<String>,
    /// What is missing, cut off or damaged of the files that the disk is started by, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub noticed: Vec<String>,
    /// Held against the log, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<LogComparison>,
    /// The next step of somebody who has a disk image's machine to open, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// What is known of a machine besides its disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Given<'a> {
    /// The UEFI variables of a disk image's machine.
    pub variables: Option<&'a Variables>,
    /// The event log of one of its boots, to hold the forecast against. What its firmware trusts is taken from it as well,
    /// unless `variables` tells or the machine itself is there.
    pub log: Option<&'a [u8]>,
}

/// Forecasts the next boot of `subject`: the directory of a machine that is off, the name of a recipe, or a disk image
/// (qcow2, raw, fixed VHD), of which a machine is then made for as long as its files are read. A disk that is encrypted
/// already is taken to belong to the TPM that sealed its tokens. Nothing is booted, and nothing given is written to.
///
/// # Errors
/// [`ForetellError`] says what cannot be read, built or measured.
pub fn foretell(
    subject: &str,
    given: Given<'_>,
    cache: &Cache,
    progress: &dyn Progress,
) -> Result<Foretold, ForetellError> {
    // What is wrong with what was given is told before anything is asked of the host, which may take its time.
    let probed = || Host::probe(cache.root(), Refresh::WhenStale).map_err(SessionError::from);
    let path = Path::new(subject);
    let log = given.log.map(event_log).transpose()?;
    if path.is_dir() {
        if given.variables.is_some() {
            return Err(ForetellError::HasVariables { machine: path.to_owned() });
        }
        let inner = path.join("machine");
        let dir = if inner.is_dir() { inner } else { path.to_owned() };
        let machine = Machine::open(&dir).map_err(ModelError::from)?;
        return Ok(of(machine, &probed()?, cache, |model| model, log.as_ref())?.0);
    }
    let (image, description) = if path.exists() {
        let description = look(path).map_err(SessionError::from)?;
        (Image::to_forecast(&description).map_err(SessionError::from)?, description)
    } else {
        let image = reference(subject, cache, latchkey_images::Refresh::No, progress);
        let image = image.map_err(SessionError::from)?;
        let description = look(&image.path).map_err(SessionError::from)?;
        (image, description)
    };
    let host = probed()?;
    let header = description.root().and_then(|root| root.luks.as_ref());
    let partitions: Vec<_> = description.partitions.iter().map(|found| found.partition.guid).collect();
    let esp =
        description.partitions.iter().map(|found| &found.partition).find(|it| it.type_guid == kind::ESP);
    let hardware = Hardware::default();
    let started_by = |variables: &[u8]| match (VarStore::parse(variables), esp) {
        (Ok(variables), Some(esp)) => boot_files(&variables, esp, boot_disk(&hardware)),
        _ => Vec::new(),
    };
    let of_log = log.clone().map(Variables::Logged);
    let mut supposed = Vec::new();
    let by_log = given.variables.is_none();
    let given = given.variables.or(of_log.as_ref());
    let variables = match given {
        Some(given @ Variables::Store(_)) => given.for_host(&host, &partitions)?.0,
        Some(given @ Variables::Logged(_)) => {
            let (variables, logged) = given.for_host(&host, &partitions)?;
            let has = has(&logged, &started_by(&variables), |file| wrong_with(&description, file));
            supposed.push(format!("its firmware trusts what the log's did, and {has}"));
            variables
        }
        None => {
            supposed.push(format!(
                "its firmware trusts {} and has no boot option and no key of its owner's: it finds its way by EFI/BOOT \
                 (--log or --variables tells of the machine's own)",
                match image.trust {
                    Trust::Platform => "a test platform's keys and Microsoft's",
                    Trust::Microsoft => "Microsoft's keys alone",
                }
            ));
            new_variables(&host, image.trust, cache, progress)?
        }
    };
    if header.is_some() {
        supposed.push("its TPM is the one that sealed the disk's tokens, and is not in lockout".to_owned());
    }
    let machines: PathBuf = cache.root().join("machines");
    let scratch = Scratch::new(&machines, "forecast-")?;
    let new = NewMachine {
        base: &image.path,
        format: description.format,
        variables: &variables,
        banks: &banks(header, log.as_ref()),
        hardware: hardware.clone(),
    };
    let machine = Machine::create(&host, &scratch.path().join("machine"), &new).map_err(ModelError::from)?;
    let (told, disk) = of(machine, &host, cache, Model::without_its_tpm, log.as_ref())?;
    // Otherwise nothing of the log's is in the outcome.
    if by_log && log.as_ref().is_some_and(|log| is_of_another(log, disk)) {
        supposed.insert(0, "the log is of this machine, although it is of another disk".to_owned());
    }
    let owners = told.log.iter().flat_map(|log| &log.pcrs).find(|(pcr, _)| pcr.get() == OWNERS_PCR);
    let differs = owners.is_some_and(|(_, of_pcr)| of_pcr.first.is_some());
    if differs && matches!(given, Some(Variables::Logged(_))) {
        let none = "its owner enrolled no key with shim (MokList): a log does not tell, and PCR 14 may differ for it";
        supposed.push(none.to_owned());
    }
    let options = started_by(&variables);
    let Noticed { told: noticed, breaks_chain } = noticed(&description, &options);
    let known = Known {
        encrypted: header.is_some(),
        chain_is_broken: breaks_chain,
        has_options: !options.is_empty(),
        log: told.log.as_ref(),
    };
    // Of a reference image nobody has a machine to open.
    let advice = if path.exists() { advice(&told.forecast, &known) } else { None };
    Ok(Foretold { supposed, noticed, advice, ..told })
}

/// SHA-256, and what else the disk's tokens and the log are about.
fn banks(header: Option<&Header>, log: Option<&EventLog>) -> Vec<HashAlg> {
    let tokens = header.iter().flat_map(|header| header.tokens.values());
    let of_tokens = tokens.filter_map(|token| token.pcr_bank()?.parse::<HashAlg>().ok());
    let of_log = log.map(EventLog::banks).unwrap_or_default();
    let all: BTreeSet<HashAlg> = [HashAlg::Sha256].into_iter().chain(of_tokens).chain(of_log).collect();
    all.into_iter().collect()
}

/// The forecast, held against `log`, and the GUID of the disk.
fn of(
    mut machine: Machine,
    host: &Host,
    cache: &Cache,
    with: impl FnOnce(Model) -> Model,
    log: Option<&EventLog>,
) -> Result<(Foretold, Uuid), ForetellError> {
    let tpm = tpm_state(host, &machine)?;
    let read = |files: latchkey_machine::Offline<'_>| std::fs::read(files.variables);
    let variables = machine.offline(read).map_err(|source| ModelError::File {
        doing: "reading the variables of",
        path: machine.dir().to_owned(),
        source,
    })?;
    let platform = cache.root().join("platform");
    let model = with(Model::new(host, machine.hardware(), &variables, &tpm.banks, &platform)?);
    let mut look = |hidden: Option<&str>| {
        machine.offline(|files| model.foretell(&files, Access::ReadOnly, &tpm, Keyboard::Nobody, hidden))
    };
    let Foreseen { forecast, header, disk } = look(None)?;
    let alone =
        |forecast, log| Foretold { forecast, supposed: Vec::new(), noticed: Vec::new(), log, advice: None };
    let Some(log) = log else { return Ok((alone(forecast, None), disk)) };
    let mut compared =
        against_log(&forecast, disk, header.as_ref(), log).ok_or(ForetellError::NoBankInCommon)?;
    // The boot without one of them is what somebody can have who takes it away, or renames it back.
    for (index, file) in compared.only_forecast.iter_mut().enumerate() {
        if index >= MOST_TRIED {
            file.because = format!("not tried: the first {MOST_TRIED} files are");
            continue;
        }
        let without = look(Some(&file.file))?.forecast;
        (file.without, file.because) = (without.outcome, without.because);
    }
    Ok((alone(forecast, Some(compared)), disk))
}

/// Whether `log` has partition tables, and that of the disk with the GUID `disk` is not among them.
fn is_of_another(log: &EventLog, disk: Uuid) -> bool {
    let mut tables = log.events.iter().filter_map(|event| match event.decode() {
        Decoded::Gpt { disk, .. } => Some(disk),
        _ => None,
    });
    tables.next().is_some_and(|first| first != disk && tables.all(|other| other != disk))
}

/// What boot options a firmware has of which a log tells this, and where those that lead to the EFI system partition lead.
/// `wrong` tells of a file there what is wrong with it.
fn has(options: &LoggedOptions, files: &[BootFile], wrong: impl Fn(&str) -> Option<&'static str>) -> String {
    let told =
        |file: &str| wrong(file).map_or(file.to_owned(), |what| format!("{file} ({what} on this disk)"));
    let listed: Vec<String> = files.iter().map(|it| format!("esp:{}", told(&it.file))).collect();
    let listed = listed.join(", ");
    // The firmware goes on then as if it had none.
    let leads = if !files.is_empty() && files.iter().all(|it| wrong(&it.file) == Some("missing")) {
        format!(": {listed}, so that it finds its way by EFI/BOOT")
    } else if files.is_empty() {
        String::new()
    } else {
        format!(": {listed}")
    };
    match options {
        LoggedOptions::Told(0) => {
            "has no boot option of this disk, since none of the log's leads to a file on it: it finds its way by \
             EFI/BOOT"
                .to_owned()
        }
        LoggedOptions::Told(1) => format!("has the log's boot option of this disk{leads}"),
        LoggedOptions::Told(some) => format!("has the log's {some} boot options of this disk{leads}"),
        LoggedOptions::Derived { file, starts } => {
            let with = starts.as_ref().map_or(String::new(), |next| format!(" with {}", told(next)));
            format!(
                "has one boot option, derived from what was started: {}{with} (the log does not tell of boot options, as \
                 that of Azure's firmware does not)",
                told(file)
            )
        }
        LoggedOptions::Untold => {
            "has no boot option: it finds its way by EFI/BOOT (the log does not tell of boot options, as that of Azure's \
             firmware does not, nor of a program that was started from this disk)"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use latchkey_measure::eventlog::EventType;
    use rstest::rstest;

    use super::*;

    /// The head of a partition table (UEFI 2.10, section 5.3.2) without a partition.
    fn table(disk: Uuid) -> Vec<u8> {
        let mut table = b"EFI PART".to_vec();
        table.resize(56, 0);
        table.extend(disk.to_bytes_le());
        table.resize(84, 0);
        table.extend(128_u32.to_le_bytes());
        table.resize(100, 0);
        table
    }

    #[rstest]
    #[case::no_table(&[], false)]
    #[case::its_own(&[1], false)]
    #[case::its_own_among_others(&[2, 1], false)]
    #[case::others(&[2, 3], true)]
    fn a_log_is_of_another_disk_by_its_partition_tables(#[case] disks: &[u128], #[case] another: bool) {
        let mut log = EventLog::agile(&[HashAlg::Sha256]);
        for disk in disks {
            let table = table(Uuid::from_u128(*disk));
            log.measure(5, EventType::EFI_GPT_EVENT, &table, &table);
        }
        assert_eq!(is_of_another(&log, Uuid::from_u128(1)), another);
    }

    #[test]
    fn what_a_log_does_not_tell_is_not_denied() {
        let has = |options: &LoggedOptions| has(options, &[], |_| None);
        let derived = |starts: Option<&str>| {
            has(&LoggedOptions::Derived { file: r"\EFI\a.efi".into(), starts: starts.map(str::to_owned) })
        };
        assert!(derived(None).contains(r"derived from what was started: \EFI\a.efi (the log does not tell"));
        assert!(derived(Some(r"\b.efi")).contains(r"\EFI\a.efi with \b.efi (the log"));
        assert!(has(&LoggedOptions::Untold).contains("the log does not tell of boot options"));
        assert!(has(&LoggedOptions::Told(0)).contains("none of the log's leads to a file on it"));
        assert!(has(&LoggedOptions::Told(2)).contains("the log's 2 boot options"));
    }

    /// A machine has an option in its variables whatever became of the file; what it is worth is said with it.
    #[test]
    fn an_option_whose_file_is_gone_is_told_with_that() {
        let files = ["/a.efi", "/b.efi"].map(|file| BootFile {
            option: "Boot0001".to_owned(),
            file: file.to_owned(),
            optional: Vec::new(),
        });
        let told = |gone: &[&str]| {
            has(&LoggedOptions::Told(2), &files, |file| gone.contains(&file).then_some("missing"))
        };
        assert!(told(&[]).ends_with("boot options of this disk: esp:/a.efi, esp:/b.efi"));
        assert!(told(&["/b.efi"]).ends_with(": esp:/a.efi, esp:/b.efi (missing on this disk)"));
        assert!(told(&["/a.efi", "/b.efi"]).ends_with("so that it finds its way by EFI/BOOT"));
    }
}
