//! shim: what it takes from its directory and its variables, what it measures of them, and what it starts.
//!
//! Sources: shim 15.8 and 16.1, `shim.c` (`efi_main`, `load_unbundled_trust`, `init_grub`), `tpm.c`
//! (`tpm_measure_variable`: each authority once).

mod certificates;
mod fallback;
mod level;
mod manager;
mod names;
mod options;
mod state;
mod verify;

use latchkey_disk::esp::EntryKind;
use latchkey_disk::varstore::SecureBoot;
use latchkey_measure::sbat::{Component, Revocations};
use latchkey_measure::{PeImage, SignatureDb, SignatureList, sbat, shim};
use latchkey_record::pcr::Digest;
use latchkey_record::{Outcome, Stage};

use crate::chain::Image;
use crate::target::Keyboard;
use crate::trust::{OPEN, is_open};
use crate::{Chain, End, Error, Next};
use level::Policy;
use manager::Managed;
use names::Names;
use options::Asked;
use verify::{Fault, Refusal};

/// The version from which on GRUB is started in the place of what is missing or malformed.
const FALLS_BACK: shim::Version = shim::Version { major: 15, minor: 5 };
/// What the removable-media path begins with.
const REMOVABLE: &str = "/efi/boot/boot";

/// Whether shim verifies what it starts where Secure Boot is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Validation {
    On,
    /// The machine's owner switched it off (`MokSBState`).
    Off,
}

/// A shim that runs, and verifies what GRUB hands it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shim {
    version: shim::Version,
    /// Its directory, without a slash at the end.
    directory: String,
    /// What it calls what it starts.
    names: Names,
    /// Whether it was started from the removable-media path.
    removable: bool,
    /// Whether it looks at no load options.
    ignores_options: bool,
    /// The certificate built into it, DER, or signature lists.
    vendor: Vec<u8>,
    /// Signature lists of what the vendor revoked.
    revoked: SignatureDb,
    /// Its own SBAT data.
    components: Vec<Component>,
    /// The SBAT level that it keeps to.
    level: Option<Revocations>,
    policy: Policy,
    windows_policy: Policy,
    validation: Validation,
    /// Whether db does not count (`MokDBState`).
    ignores_db: bool,
    /// Authorities that it has measured.
    seen: Vec<Digest>,
    /// Certificates out of certificate files: signature lists one after the other.
    user: Vec<u8>,
    /// And these files, as events name them.
    user_files: Vec<String>,
}

/// What became of an image that shim was to start.
enum Started {
    Runs(Image),
    /// A box says that it is not trusted, and waits for a key.
    Waits(String),
    /// As [`Self::Waits`], and somebody pressed one.
    Refused(String),
    Missing(String),
    /// shim can make nothing of it (`EFI_INVALID_PARAMETER`), and somebody confirmed a box that says so, or there is none.
    Malformed(String),
    /// It is no program at all.
    NoProgram(String),
}

/// From shim's start to the second stage's.
///
/// # Errors
/// When the EFI system partition cannot be read.
pub fn run(chain: &mut Chain<'_>, image: &Image) -> Result<Next, Error> {
    let file = format!("esp:{}", image.path);
    let (directory, _) = image.path.rsplit_once('/').unwrap_or(("", &image.path));
    let (Some(version), Ok(table)) = (shim::version(&image.bytes), shim::vendor_cert(&image.bytes)) else {
        chain.unmodelled(Stage::Shim, &file, "its version or certificate table cannot be read", &[4, 7, 14]);
        return Ok(end(None, format!("{file} is a shim that is not understood")));
    };
    let names = match Names::of(&image.bytes) {
        Ok(names) => names,
        Err(several) => {
            let why = format!("which of these it starts is not known: {several}");
            chain.unmodelled(Stage::Shim, &file, &why, &[4, 7, 14]);
            return Ok(end(None, format!("{file}: {why}")));
        }
    };
    let (revoked, error) = SignatureDb::readable(&table.deauthorised);
    let open = is_open(error.as_ref()) || is_open(verify::built_in(&table.authorised).1.as_ref());
    if open && chain.secure_boot() == SecureBoot::On {
        chain.unmodelled(Stage::Shim, &file, OPEN, &[4, 7]);
        return Ok(end(None, format!("{file}: {OPEN}")));
    }
    let removable = image.path.to_ascii_lowercase().starts_with(REMOVABLE);
    let mut running = Shim {
        version,
        directory: directory.to_owned(),
        names,
        removable,
        ignores_options: removable && options::are_ignored_on_removable_media(&image.bytes),
        vendor: table.authorised,
        revoked,
        components: Vec::new(),
        level: None,
        policy: Policy::Default,
        windows_policy: Policy::Default,
        validation: Validation::On,
        ignores_db: false,
        seen: Vec::new(),
        user: Vec::new(),
        user_files: Vec::new(),
    };
    if let Some(why) = running.start_level(chain, &image.bytes, &file) {
        return Ok(refused(format!("{why}; shim switches the machine off")));
    }
    if let Some(why) = running.files(chain)? {
        return Ok(refused(why));
    }
    running.mirror(chain, &table.deauthorised, &file);
    if let Some(next) = running.answer_requests(chain)? {
        return Ok(next);
    }
    running.second_stage(chain, image)
}

impl Shim {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// Revocations and certificate files in shim's own directory, in the directory's order: first revocations for shim and
    /// GRUB, then the rest. The answer is why one of them stops shim at a box that waits for a key.
    fn files(&mut self, chain: &mut Chain<'_>) -> Result<Option<String>, Error> {
        if chain.secure_boot() == SecureBoot::Off {
            return Ok(None);
        }
        let entries = chain.target.esp.list(&self.directory)?.unwrap_or_default();
        let names: Vec<String> =
            entries.into_iter().filter(|e| e.kind != EntryKind::Directory).map(|e| e.name).collect();
        let is = |name: &str, wanted: Option<&str>| wanted.is_some_and(|w| name.eq_ignore_ascii_case(w));
        let [revocations, windows] = self.revocation_files();
        let rule = self.version.certificate_files();
        let first = names.iter().find(|name| is(name, revocations));
        let rest = names.iter().filter(|name| rule.loads(name) || is(name, windows));
        for name in first.into_iter().chain(rest) {
            let path = self.path(name);
            let Some(bytes) = chain.target.esp.read(&path)? else { continue };
            let certificates = rule.loads(name);
            let what = if certificates { "certificate file" } else { "revocations" };
            match self.verify(chain, &path, &bytes, what) {
                Ok(()) if certificates => self.take_certificates(chain, &bytes, format!("esp:{path}")),
                Ok(()) => self.take_revocations(chain, &bytes, &format!("esp:{path}")),
                Err(Refusal { fault, why })
                    if fault.has_box() && chain.target.keyboard == Keyboard::Nobody =>
                {
                    return Ok(Some(why));
                }
                // shim goes on without the file.
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// What shim starts: the fallback program from the removable-media directory, what its load options name, or GRUB. After a
    /// refusal it lets MokManager run and tries once more; what is missing, cut off or malformed it passes over for GRUB, from
    /// 15.5 on (`init_grub`).
    fn second_stage(mut self, chain: &mut Chain<'_>, shim: &Image) -> Result<Next, Error> {
        let fallback = self.path(&self.names.fallback);
        let falls_back = self.removable && chain.target.esp.read(&fallback)?.is_some();
        let (asked, what) = if falls_back {
            (Asked { path: fallback, options: Vec::new() }, "fallback program")
        } else {
            let Some(asked) = self.asked(chain, &shim.path, &shim.options)? else {
                let why = "its load options have shim start its own directory, which is no program";
                return Ok(Next::Returned(format!("esp:{}: {why}", shim.path)));
            };
            (asked, "second stage")
        };
        let mut started = self.start(chain, &asked, what)?;
        if let Started::Refused(why) = started {
            started = match self.manage(chain)? {
                Managed::Returned => self.start(chain, &asked, what)?,
                Managed::Ended(next) => return Ok(next),
                Managed::Failed(Started::Waits(why)) => return Ok(refused(why)),
                Managed::Failed(_) => return Ok(Next::Returned(why)),
            };
        }
        let is_passed_over = matches!(started, Started::Missing(_) | Started::Malformed(_));
        if is_passed_over && !falls_back && self.version >= FALLS_BACK {
            let default = Asked { path: self.path(&self.names.loader), options: Vec::new() };
            started = self.start(chain, &default, what)?;
        }
        let next = match started {
            Started::Runs(next) => next,
            Started::Waits(why) => return Ok(refused(why)),
            Started::Missing(file) => {
                return Ok(Next::Returned(format!("{file}, which shim shall start, is missing")));
            }
            Started::Refused(why) | Started::Malformed(why) | Started::NoProgram(why) => {
                return Ok(Next::Returned(why));
            }
        };
        if falls_back {
            return fallback::run(chain, &mut self, &next.bytes);
        }
        Ok(match kind_of(&next.bytes) {
            Kind::Uki => Next::Stub(next, Box::new(self)),
            Kind::Grub => Next::Grub(next, Box::new(self)),
            Kind::Other => {
                let file = format!("esp:{}", next.path);
                chain.unmodelled(Stage::Shim, &file, "it is neither a UKI nor GRUB", &[4, 8, 9, 11, 12]);
                end(None, format!("{file} is neither a UKI nor GRUB"))
            }
        })
    }

    /// Verifies and measures what shall start.
    fn start(&mut self, chain: &mut Chain<'_>, asked: &Asked, what: &str) -> Result<Started, Error> {
        let Asked { path, options } = asked.clone();
        let Some(bytes) = chain.target.esp.read(&path)? else {
            return Ok(Started::Missing(format!("esp:{path}")));
        };
        let waits = self.is_secure(chain) && chain.target.keyboard == Keyboard::Nobody;
        Ok(match self.verify(chain, &path, &bytes, what) {
            Ok(()) => Started::Runs(Image { path, bytes, options }),
            Err(Refusal { fault: Fault::NoProgram, why }) => Started::NoProgram(why),
            Err(Refusal { fault: Fault::CutOff, why }) => Started::Malformed(why),
            Err(Refusal { why, .. }) if waits => Started::Waits(why),
            Err(Refusal { fault: Fault::Malformed, why }) => Started::Malformed(why),
            Err(Refusal { fault: Fault::Signature, why }) => Started::Refused(why),
        })
    }
}

enum Kind {
    Uki,
    Grub,
    Other,
}

fn kind_of(bytes: &[u8]) -> Kind {
    let Ok(image) = PeImage::parse(bytes) else { return Kind::Other };
    if image.section(".linux").is_some() {
        return Kind::Uki;
    }
    let components = image.section(".sbat").and_then(|section| sbat::parse(section).ok()).unwrap_or_default();
    if components.iter().any(|component| component.name == "grub") { Kind::Grub } else { Kind::Other }
}

fn end(outcome: Option<Outcome>, because: String) -> Next {
    Next::End(End { outcome, because, reported_by: None })
}

fn refused(because: String) -> Next {
    Next::End(End { outcome: Some(Outcome::RefusedByShim), because, reported_by: Some("shim") })
}

/// A certificate as the one entry of a signature list, owned by shim.
fn own_list(der: &[u8]) -> Vec<u8> {
    SignatureList::x509(latchkey_disk::varstore::vendor::SHIM, der).to_bytes()
}
