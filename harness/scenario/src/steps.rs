//! The steps, done to the real machine.

use latchkey_disk::{Access, Esp, OpenDisk};
use latchkey_images::Signing;
use latchkey_measure::PeImage;
use latchkey_measure::sign::{fix_checksum, sign_pe, strip_signatures};
use latchkey_record::Outcome;

use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::location::Location;
use crate::pcrs;
use crate::step::{Artefact, Boot, By, FileText, How, Rename, Replace, Restore, Step};

/// Where the guest mounts its ESP, as the RHEL family does.
const MOUNTED: &str = "/boot/efi";

impl Bench<'_> {
    /// Does one step and asserts what it expects.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Boot(boot) => self.boot_and_check(boot),
            Step::Answer(answer) => {
                self.answer(answer.with)?;
                self.check_outcome(answer.expect);
                Ok(())
            }
            Step::Rename(rename) => self.rename(rename),
            Step::Replace(Replace { file, with, by }) => {
                let bytes = self.artefact(*with)?;
                self.put(file, &bytes, *by)
            }
            Step::Restore(Restore { file, by }) => {
                let path = self.path_of(file)?;
                let bytes = self.bytes_in_image(&path)?;
                self.put(file, &bytes, *by)
            }
            Step::Write(FileText { path, text }) => {
                let command = format!("cat > {} && sync", quoted(path));
                self.running()?.guest_ok(&command, text.as_bytes(), COMMAND)?;
                Ok(())
            }
            Step::Read(FileText { path, text }) => {
                let output = self.running()?.guest_ok(&format!("cat {}", quoted(path)), &[], COMMAND)?;
                self.check(path, text.as_str(), output.text());
                Ok(())
            }
            Step::Guest(guest) => {
                self.running()?.guest_ok(&guest.run, &[], COMMAND)?;
                Ok(())
            }
        }
    }

    fn boot_and_check(&mut self, boot: &Boot) -> Result<(), Error> {
        if boot.how == How::Cold {
            self.switch_off()?;
        }
        let compared = self.baseline.is_some();
        self.boot()?;
        self.check_outcome(boot.expect);
        let Some(record) = self.records.last() else { return Ok(()) };
        let (moved, reported_by) = (pcrs::list(&record.moved), record.reported_by.clone());
        if let Some(expected) = &boot.reported_by {
            self.check("reported by", expected.as_str(), reported_by.unwrap_or_else(|| "nobody".into()));
        }
        // A chain that stopped before userspace measured less than a whole one: nothing to compare.
        let whole = matches!(boot.expect, Outcome::Unlocked | Outcome::FallbackPrompt | Outcome::NoPrompt);
        if compared && whole {
            let expected = boot.moved.as_ref().map_or(Vec::new(), |moved| moved.pcrs.clone());
            self.check("PCRs that moved", pcrs::list(&expected), moved);
        }
        Ok(())
    }

    fn check_outcome(&mut self, expected: Outcome) {
        let Some(record) = self.records.last() else { return };
        let contradictions: Vec<String> = record.contradictions.iter().map(ToString::to_string).collect();
        let seen = record.outcome.map_or_else(|| contradictions.join("; "), |outcome| outcome.to_string());
        self.check("outcome", expected.code(), seen);
        // A lockout looks like a mismatch on the console. It is another thing.
        let locked = self.locked_out;
        self.check("the TPM is in dictionary-attack lockout", "no", if locked { "yes" } else { "no" });
    }

    fn rename(&mut self, rename: &Rename) -> Result<(), Error> {
        let from = self.path_of(&rename.from)?;
        let dir = from.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
        match rename.by {
            By::Guest => {
                let name = &from[dir.len() + 1..];
                // As published: into the directory, then `mv`.
                let dir = quoted(&format!("{MOUNTED}{dir}"));
                let command = format!("cd {dir} && mv {} {}", quoted(name), quoted(&rename.to));
                self.running()?.guest_ok(&command, &[], COMMAND)?;
                Ok(())
            }
            By::Rescue => {
                let to = format!("{dir}/{}", rename.to);
                self.on_esp(|esp| esp.rename(&from, &to))
            }
        }
    }

    fn put(&mut self, file: &Location, bytes: &[u8], by: By) -> Result<(), Error> {
        let path = self.path_of(file)?;
        match by {
            By::Guest => {
                let command = format!("cat > {} && sync", quoted(&format!("{MOUNTED}{path}")));
                self.running()?.guest_ok(&command, bytes, COMMAND)?;
                Ok(())
            }
            By::Rescue => self.on_esp(|esp| esp.write(&path, bytes)),
        }
    }

    /// Changes the ESP from outside, on the disk of the machine that is off.
    fn on_esp<T>(
        &mut self,
        change: impl FnOnce(&Esp) -> Result<T, latchkey_disk::esp::Error>,
    ) -> Result<T, Error> {
        self.switch_off()?.offline(|parts| {
            let mut disk = OpenDisk::open(parts.disk, Access::ReadWrite)?;
            let esp = disk.esp()?;
            let done = change(&esp)?;
            drop(esp);
            disk.close()?;
            Ok(done)
        })
    }

    /// The bytes of an artefact: the user's, out of the image's own, or made of the UKI on the image's ESP.
    fn artefact(&self, which: Artefact) -> Result<Vec<u8>, Error> {
        let (image, pki) = (self.context.image, self.context.pki);
        if let Some(path) = self.context.artefacts.get(&which) {
            return std::fs::read(path).map_err(Error::file("reading", path));
        }
        let uki = self.bytes_in_image(&self.path_of(&Location::Uki)?)?;
        let bare = strip_signatures(&uki).map_err(|e| Error::Bench(format!("the image's UKI: {e}")))?;
        let (bytes, party) = match which {
            Artefact::UkiSignedByStranger => (bare, &pki.stranger),
            Artefact::UkiSignedByVendor if image.signing == Signing::Available => {
                let updated = another_version(bare);
                let why = "the image's UKI says no version in its .osrel, so no update of it can be made";
                (updated.ok_or_else(|| Error::Bench(why.into()))?, &pki.vendor)
            }
            Artefact::UkiSignedByVendor => {
                return Err(Error::Bench("the vendor's key is not at hand".into()));
            }
        };
        sign_pe(&bytes, &party.signer).map_err(|e| Error::Bench(format!("signing the image's UKI: {e}")))
    }

    /// What the image has at `path` on its ESP.
    fn bytes_in_image(&self, path: &str) -> Result<Vec<u8>, Error> {
        let mut disk = OpenDisk::open(&self.context.image.path, Access::ReadOnly)?;
        let bytes = disk.esp()?.read(path)?;
        disk.close()?;
        Ok(bytes)
    }

    /// Where `location` is on the ESP.
    fn path_of(&self, location: &Location) -> Result<String, Error> {
        match (location, &self.context.image.uki) {
            (Location::Esp(path), _) => Ok(path.clone()),
            (Location::Uki, Some(path)) => Ok(path.clone()),
            (Location::Uki, None) => {
                Err(Error::Bench("this image does not boot a UKI; name the file as esp:/PATH".into()))
            }
        }
    }
}

/// A UKI with the next version in its `.osrel`, of the same size, its checksum mended; `None` where it has none.
fn another_version(mut uki: Vec<u8>) -> Option<Vec<u8>> {
    const FIELD: &[u8] = b"VERSION_ID=";
    let at = {
        let image = PeImage::parse(&uki).ok()?;
        let section = image.find_section(".osrel")?;
        let field = section.data.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
        let digit = section.data[field..].iter().take_while(|b| **b != b'\n').position(u8::is_ascii_digit)?;
        section.offset + field + digit
    };
    let digit = uki.get_mut(at)?;
    *digit = b'0' + (*digit - b'0' + 1) % 10;
    fix_checksum(&mut uki).ok()?;
    Some(uki)
}

/// As one word of the guest's shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use latchkey_measure::samples;

    use super::*;

    #[test]
    fn an_update_differs_in_its_version_alone() {
        let uki = samples::uki(&[1, 2, 3], "quiet").unwrap();
        let updated = another_version(uki.clone()).unwrap();
        let section =
            |bytes: &[u8], name: &str| PeImage::parse(bytes).unwrap().section(name).unwrap().to_vec();
        assert_eq!(section(&uki, ".osrel"), b"ID=sample\nVERSION_ID=1\n");
        assert_eq!(section(&updated, ".osrel"), b"ID=sample\nVERSION_ID=2\n");
        assert_eq!(section(&updated, ".linux"), section(&uki, ".linux"));
        assert_eq!(another_version(b"no image".to_vec()), None);
    }
}
