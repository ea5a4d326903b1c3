//! How long a forecast of a whole machine takes, beside rivals that are timed in the same run, turn by turn:
//!
//! - **one pass**: the same files read from the same disk, and each measured range hashed once a bank
//! - **cvmutils**: the whole process of PyPI's predictor of PCR 4 and 7, beside the whole of a forecast's work: disk
//!   opened, firmware read, which was unpacked and hashed before, as the cache keeps it
//! - **warm**: the forecast after one file was renamed, of a disk whose files are in memory
//!
//! `cargo bench -p latchkey-scenario`; the reference image is built when the cache has none. Medians of interleaved
//! rounds.

#[path = "../tests/common/cvmutils.rs"]
mod cvmutils;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cvmutils::Cvmutils;
use latchkey_disk::esp::Entry;
use latchkey_disk::gpt::Gpt;
use latchkey_disk::{Access, Esp, OpenDisk, VarStore};
use latchkey_forecast::firmware::{FirmwareImage, unpack};
use latchkey_forecast::{
    BootDisk, Keyboard, Memo, Platform, RootVolume, Target, TpmState, Volume, VolumeError, forecast_again,
};
use latchkey_host::{Host, Refresh};
use latchkey_images::{Cache, FirmwareCas, Pki, Silent, reference, variables};
use latchkey_measure::{HashAlg, PeImage, hash};
use latchkey_record::Digest;
use latchkey_supervise::run;
use tempfile::NamedTempFile;

const IMAGE: &str = "rlc9-uki";
const ROUNDS: usize = 9;
/// The start of the disk, where the partition table is.
const TABLE: usize = 1 << 20;
/// The published drill's rename.
const RENAME: [&str; 2] = ["/EFI/rocky/shim_certificate.efi.bak", "/EFI/rocky/shim_certificate.efi"];

fn main() -> Result<()> {
    let cache = Cache::of_user()?;
    let host = Host::probe(cache.root(), Refresh::WhenStale)?;
    let image = reference(IMAGE, &cache, latchkey_images::Refresh::No, &Silent)?;
    let template = fs::read(&host.firmware.vars_template)?;
    let pki = Pki::ensure(&cache, &Silent)?;
    let variables = VarStore::parse(&variables(&pki, &FirmwareCas::ensure(&cache, &Silent)?, &template)?)?;
    let mut firmware = NamedTempFile::new()?;
    firmware.write_all(&unpack(&fs::read(&host.firmware.code)?)?)?;
    let dxe_volume = FirmwareImage::of_unpacked(&fs::read(firmware.path())?.into())?.dxe_volume;
    let dxe_digests = &HashAlg::ALL.map(|alg| hash::digest(alg, &dxe_volume)).to_vec();
    // As a cloud has it: nothing is compressed there. Nor is what cvmutils reads, whose files lie unpacked.
    let raw = NamedTempFile::new()?;
    let raw_path = raw.path().display().to_string();
    run("qemu-img", &["convert", "-O", "raw", &image.path.display().to_string(), &raw_path])?;
    let disks = [("compressed", image.path.as_path()), ("raw", raw.path())];
    let banks = [&[HashAlg::Sha256][..], &HashAlg::ALL];
    for ((form, disk), banks) in disks.iter().flat_map(|disk| banks.map(|banks| (*disk, banks))) {
        let subject = Subject {
            cache: &cache,
            disk,
            variables: &variables,
            firmware: firmware.path(),
            dxe_digests,
            banks,
        };
        let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (name, time) in round(&subject)? {
                times.entry(name).or_default().push(time);
            }
        }
        println!("{IMAGE}, {form}, {} bank(s), medians of {ROUNDS} rounds", banks.len());
        let median = |name: &str| {
            let mut times = times.get(name).cloned().unwrap_or_default();
            times.sort_unstable();
            times.get(times.len() / 2).copied()
        };
        for name in times.keys() {
            println!("  {name:10} {:8.1} ms", median(name).unwrap_or_default().as_secs_f64() * 1e3);
        }
        for (one, other) in [("forecast", "one pass"), ("cvmutils", "whole")] {
            if let Some((one_time, other_time)) = median(one).zip(median(other)) {
                println!("  {one} : {other} = {:.2}", one_time.as_secs_f64() / other_time.as_secs_f64());
            }
        }
    }
    let status = fs::read_to_string("/proc/self/status")?;
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
    Ok(())
}

/// What is forecast.
struct Subject<'a> {
    cache: &'a Cache,
    disk: &'a Path,
    variables: &'a VarStore,
    /// Its code, unpacked.
    firmware: &'a Path,
    dxe_digests: &'a [Digest],
    banks: &'a [HashAlg],
}

impl Subject<'_> {
    fn forecast(
        &self,
        firmware: &FirmwareImage,
        disk: (&Gpt, &[u8]),
        esp: &dyn Volume,
        memo: &Memo,
    ) -> Result<()> {
        // The platform's constant is measured once and remembered; any value takes as long.
        let pei_volume = self.banks.iter().map(|alg| hash::digest(*alg, b"")).collect();
        let target = Target {
            firmware,
            platform: &Platform { pei_volume, disk: BootDisk::Nvme { slot: 1 } },
            variables: self.variables,
            table: disk.1,
            partitions: disk.0,
            esp,
            boot: None,
            root: RootVolume::Plain,
            tpm: &TpmState { banks: self.banks.to_vec(), locked: false, tokens: BTreeMap::new() },
            keyboard: Keyboard::Nobody,
        };
        let told = forecast_again(&target, memo)?;
        ensure!(told.outcome.is_some(), "{}", told.because);
        Ok(())
    }
}

/// Every rival once.
fn round(subject: &Subject<'_>) -> Result<Vec<(&'static str, Duration)>> {
    let begin = Instant::now();
    let mut disk = OpenDisk::open(subject.disk, Access::ReadOnly)?;
    let partitions = disk.table()?;
    let mut table = vec![0; TABLE];
    disk.whole()?.read_exact(&mut table)?;
    let esp = disk.esp()?;
    let firmware = FirmwareImage::of_unpacked(&fs::read(subject.firmware)?.into())?;
    let firmware = FirmwareImage { dxe_digests: subject.dxe_digests.to_vec(), ..firmware };
    let opened = begin.elapsed();

    let place = (&partitions, &table[..]);
    let forecast = timed(|| subject.forecast(&firmware, place, &esp, &Memo::hasty()))?;
    let esp = disk.esp()?;
    let pass = timed(|| one_pass(&esp, subject.banks))?;

    let (memo, memory) = (
        Memo::default(),
        InMemory { disk: esp, files: RefCell::default(), directories: RefCell::default(), renamed: false },
    );
    subject.forecast(&firmware, place, &memory, &memo)?;
    let memory = InMemory { renamed: true, ..memory };
    memory.read(RENAME[1])?.context("the certificate file is missing")?;
    let warm = timed(|| subject.forecast(&firmware, place, &memory, &memo))?;
    let mut times =
        vec![("forecast", forecast), ("one pass", pass), ("warm", warm), ("whole", opened + forecast)];
    let cvmutils = Cvmutils::about(subject.cache, &memory.disk, subject.variables)?;
    times.push(("cvmutils", timed(|| cvmutils.predict())?));
    disk.close()?;
    Ok(times)
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let begin = Instant::now();
    std::hint::black_box(work()?);
    Ok(begin.elapsed())
}

/// Reads what of the disk is measured at the first boot, and hashes each range once for every bank.
fn one_pass(esp: &Esp, banks: &[HashAlg]) -> Result<()> {
    let ukis = esp.list("/EFI/Linux")?;
    let uki = esp.read(&format!("/EFI/Linux/{}", ukis.first().context("there is no UKI")?.name))?;
    let image = PeImage::parse(&uki)?;
    let programs = ["/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/fbx64.efi", "/EFI/rocky/shimx64.efi"];
    let programs = programs.iter().map(|path| Ok(esp.read(path)?)).collect::<Result<Vec<_>>>()?;
    for alg in banks {
        let parts =
            ["linux", "initrd", "initrd"].map(|name| image.section(&format!(".{name}")).unwrap_or_default());
        let whole = programs.iter().map(Vec::as_slice).chain([&uki[..]]);
        for range in whole.chain(parts) {
            std::hint::black_box(hash::digest(*alg, range));
        }
    }
    Ok(())
}

/// A disk whose files stay in memory once they were read, and may be renamed there.
struct InMemory {
    disk: Esp,
    files: RefCell<BTreeMap<String, Option<Bytes>>>,
    directories: RefCell<BTreeMap<String, Option<Vec<Entry>>>>,
    renamed: bool,
}

impl Volume for InMemory {
    fn name(&self) -> &'static str {
        "esp"
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, VolumeError> {
        let path = match path {
            path if self.renamed && path == RENAME[1] => RENAME[0],
            path => path,
        };
        if let Some(known) = self.files.borrow().get(path) {
            return Ok(known.clone());
        }
        let read = Volume::read(&self.disk, path)?;
        self.files.borrow_mut().insert(path.to_owned(), read.clone());
        Ok(read)
    }

    fn list(&self, path: &str) -> Result<Option<Vec<Entry>>, VolumeError> {
        let known = self.directories.borrow().get(path).cloned();
        let mut entries = match known {
            Some(entries) => entries,
            None => Volume::list(&self.disk, path)?,
        };
        self.directories.borrow_mut().entry(path.to_owned()).or_insert_with(|| entries.clone());
        let file = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        for entry in
            entries.iter_mut().flatten().filter(|entry| self.renamed && entry.name == file(RENAME[0]))
        {
            entry.name = file(RENAME[1]);
        }
        Ok(entries)
    }
}
