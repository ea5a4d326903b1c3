//! The programs a machine needs, found and asked for their versions.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use latchkey_supervise::run;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadCache};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Env, Error};

/// Where programs are looked for after `PATH`, which of an ordinary user often lacks the `sbin`s.
pub const PLACES: &[&str] = &["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Where it is.
    pub path: PathBuf,
    /// What it calls itself, such as `10.0.2`.
    pub version: String,
}

/// The programs that run a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// `qemu-system-x86_64`.
    pub qemu: Tool,
    /// `qemu-img`.
    pub qemu_img: Tool,
    /// `qemu-storage-daemon`.
    pub qemu_storage_daemon: Tool,
    /// `swtpm`.
    pub swtpm: Tool,
}

/// How one program is searched for.
struct Search {
    program: &'static str,
    variable: &'static str,
    /// Absolute paths outside [`PLACES`] where distributions put it under another name.
    elsewhere: &'static [&'static str],
}

const QEMU: Search = Search {
    program: "qemu-system-x86_64",
    variable: "LATCHKEY_QEMU",
    // RHEL and its family ship only this one.
    elsewhere: &["/usr/libexec/qemu-kvm"],
};
const QEMU_IMG: Search = Search { program: "qemu-img", variable: "LATCHKEY_QEMU_IMG", elsewhere: &[] };
const QEMU_STORAGE_DAEMON: Search =
    Search { program: "qemu-storage-daemon", variable: "LATCHKEY_QEMU_STORAGE_DAEMON", elsewhere: &[] };
const SWTPM: Search = Search { program: "swtpm", variable: "LATCHKEY_SWTPM", elsewhere: &[] };

/// The programs that run a machine, by the names that are looked for first.
pub const PROGRAMS: [&str; 4] = [QEMU.program, QEMU_IMG.program, QEMU_STORAGE_DAEMON.program, SWTPM.program];

/// The first QEMU that saves a machine's memory so that several can be forked from it (QEMU,
/// docs/devel/migration/mapped-ram.rst).
const MAPPED_RAM_SINCE: u32 = 9;

/// What changes file systems where they are, and on disks that are off (e2fsprogs).
pub const FILE_SYSTEMS: [&str; 3] = ["debugfs", "e2fsck", "resize2fs"];

/// What makes packages with kernels of somebody else's, where it is there: what a guest does with one depends on it.
pub const PACKAGES: [&str; 3] = ["createrepo_c", "rpmbuild", "tar"];

/// The libraries that the loader finds for those of `programs` that are dynamically linked, each once: one question for all.
fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Error> {
    let mut linked = Vec::new();
    for program in programs {
        if is_dynamic(program).map_err(Error::file("reading", program))? {
            linked.push(program);
        }
    }
    if linked.is_empty() {
        return Ok(BTreeSet::new());
    }
    // Of each program a line with its name, and indented its libraries (ldd(1)).
    let listed = run("ldd", &linked)?.text();
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(listed.lines().filter(|line| line.starts_with(char::is_whitespace)).filter_map(path).collect())
}

/// Whether the file is a program that names a loader, as `PT_INTERP` in its program headers (elf(5)). A script around a program
/// is none, nor is one that is statically linked.
fn is_dynamic(program: &Path) -> io::Result<bool> {
    let file = ReadCache::new(File::open(program)?);
    let linked = |header: &FileHeader64<Endianness>| {
        let endian = header.endian()?;
        let mut segments = header.program_headers(endian, &file)?.iter();
        Ok::<_, object::Error>(segments.any(|segment| segment.p_type(endian) == PT_INTERP))
    };
    // What is no such file, or is damaged, does not run either.
    Ok(FileHeader64::parse(&file).and_then(linked).unwrap_or(false))
}

/// The four paths, before any of the programs has been started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) qemu: PathBuf,
    pub(crate) qemu_img: PathBuf,
    pub(crate) qemu_storage_daemon: PathBuf,
    pub(crate) swtpm: PathBuf,
}

impl Tools {
    /// What machines are made by and run on, by content: SHA-256, in hexadecimal digits, over QEMU and its tools, swtpm, the
    /// programs that change file systems and those that make packages, and the libraries that these and this program are linked
    /// with. Versions do not tell: distributions mend programs and leave the version as it is.
    ///
    /// # Errors
    /// When one of them cannot be read, or nobody tells which libraries one is linked with.
    pub fn fingerprint(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        for path in &self.files()? {
            let mut file = File::open(path).map_err(Error::file("reading", path))?;
            hash.update(path.as_os_str().as_encoded_bytes());
            std::io::copy(&mut file, &mut hash).map_err(Error::file("reading", path))?;
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// Those files, each once.
    fn files(&self) -> Result<BTreeSet<PathBuf>, Error> {
        let tools = [&self.qemu, &self.qemu_img, &self.qemu_storage_daemon, &self.swtpm];
        let found = FILE_SYSTEMS.iter().chain(&PACKAGES).filter_map(|program| which::which(program).ok());
        let mut programs: Vec<PathBuf> =
            tools.into_iter().map(|tool| tool.path.clone()).chain(found).collect();
        let mut files: BTreeSet<PathBuf> = programs.iter().cloned().collect();
        // What runs is asked for, also where another file has its name by now. Its own content is the harness' build.
        programs.push(PathBuf::from(format!("/proc/{}/exe", std::process::id())));
        files.extend(libraries(&programs)?);
        Ok(files)
    }
}

impl Found {
    /// Looks for all of them, starting nothing.
    pub(crate) fn search(env: &Env) -> Result<Self, Error> {
        Ok(Self {
            qemu: QEMU.path(env)?,
            qemu_img: QEMU_IMG.path(env)?,
            qemu_storage_daemon: QEMU_STORAGE_DAEMON.path(env)?,
            swtpm: SWTPM.path(env)?,
        })
    }

    /// Asks each for its version.
    pub(crate) fn ask(self) -> Result<Tools, Error> {
        let qemu = Tool::ask(self.qemu)?;
        if qemu.numbers().first().is_some_and(|major| *major < MAPPED_RAM_SINCE) {
            return Err(Error::TooOld {
                program: "QEMU",
                path: qemu.path,
                version: qemu.version,
                needs: "machines are saved as QEMU 9 and newer do it",
                variable: QEMU.variable,
            });
        }
        Ok(Tools {
            qemu,
            qemu_img: Tool::ask(self.qemu_img)?,
            qemu_storage_daemon: Tool::ask(self.qemu_storage_daemon)?,
            swtpm: Tool::ask(self.swtpm)?,
        })
    }

    pub(crate) fn all(&self) -> [&Path; 4] {
        [&self.qemu, &self.qemu_img, &self.qemu_storage_daemon, &self.swtpm]
    }
}

impl Search {
    fn path(&self, env: &Env) -> Result<PathBuf, Error> {
        if let Some(value) = env.get(self.variable) {
            return which::which_in(value, env.get("PATH"), "/").map_err(|_| Error::Override {
                variable: self.variable,
                value: value.to_string_lossy().into_owned(),
                problem: "there is no such program".into(),
            });
        }
        if let Ok(found) = which::which_in(self.program, env.get("PATH"), "/") {
            return Ok(found);
        }
        PLACES
            .iter()
            .map(|place| env.place(place).join(self.program))
            .chain(self.elsewhere.iter().map(|place| env.place(place)))
            .find_map(|path| which::which_in(path, None::<&str>, "/").ok())
            .ok_or(Error::ToolMissing { program: self.program, variable: self.variable })
    }
}

impl Tool {
    fn ask(path: PathBuf) -> Result<Self, Error> {
        let printed = run(&path, &["--version"])?.text();
        match version_in(&printed) {
            Some(version) => Ok(Self { path, version: version.to_owned() }),
            None => Err(Error::Version { path, said: printed.lines().next().unwrap_or_default().to_owned() }),
        }
    }

    /// The leading numbers of the version: `[10, 0, 2]` of `10.0.2`.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        self.version.split(['.', '-', '~', '+']).map_while(|part| part.parse().ok()).collect()
    }
}

/// The word after `version` in a program's banner, without the punctuation around it.
fn version_in(printed: &str) -> Option<&str> {
    let mut words = printed.lines().next()?.split_whitespace().skip_while(|w| *w != "version");
    let word = words.nth(1)?.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    word.starts_with(|c: char| c.is_ascii_digit()).then_some(word)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::os::unix::fs::PermissionsExt;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::qemu("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright", Some("10.0.2"))]
    #[case::swtpm("TPM emulator version 0.7.1, Copyright (c) 2014-2021 IBM Corp.", Some("0.7.1"))]
    #[case::candidate("QEMU emulator version 11.0.0-rc1", Some("11.0.0-rc1"))]
    #[case::no_number("hello version of something", None)]
    #[case::last_word("qemu version", None)]
    #[case::nothing("", None)]
    fn version_of_a_banner(#[case] printed: &str, #[case] expected: Option<&str>) {
        assert_eq!(version_in(printed), expected);
    }

    #[rstest]
    #[case("10.0.2", &[10, 0, 2])]
    #[case("11.0.0-rc1", &[11, 0, 0])]
    #[case("9.2", &[9, 2])]
    fn numbers_of_a_version(#[case] version: &str, #[case] expected: &[u32]) {
        assert_eq!(Tool { path: PathBuf::new(), version: version.into() }.numbers(), expected);
    }

    fn program(dir: &Path, name: &str) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(name);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_program_that_changes_and_keeps_its_version_is_another() {
        let root = tempfile::tempdir().unwrap();
        let tool = |name: &str| Tool { path: program(root.path(), name), version: "1".into() };
        let tools = Tools {
            qemu: tool("qemu"),
            qemu_img: tool("img"),
            qemu_storage_daemon: tool("daemon"),
            swtpm: tool("swtpm"),
        };
        let before = tools.fingerprint().unwrap();
        assert_eq!(tools.fingerprint().unwrap(), before);
        std::fs::write(&tools.swtpm.path, "#!/bin/sh\n# mended\n").unwrap();
        assert_ne!(tools.fingerprint().unwrap(), before);
        std::fs::remove_file(&tools.qemu.path).unwrap();
        assert!(tools.fingerprint().is_err());
    }

    fn tools(root: &Path, qemu: PathBuf) -> Tools {
        let tool = |name: &str| Tool { path: program(root, name), version: "1".into() };
        Tools {
            qemu: Tool { path: qemu, version: "1".into() },
            qemu_img: tool("img"),
            qemu_storage_daemon: tool("daemon"),
            swtpm: tool("swtpm"),
        }
    }

    #[test]
    fn the_libraries_of_every_program_count() {
        let root = tempfile::tempdir().unwrap();
        let linked = which::which("qemu-img").unwrap();
        let of_it = libraries(std::slice::from_ref(&linked)).unwrap();
        assert!(of_it.len() > 2 && of_it.iter().all(|path| path.is_file()), "{of_it:?}");
        let files = tools(root.path(), linked.clone()).files().unwrap();
        assert!(files.is_superset(&of_it) && files.contains(&linked), "{files:?}");
        let both = libraries(&[linked, which::which("tar").unwrap()]).unwrap();
        assert!(both.is_superset(&of_it) && both.iter().all(|path| path.is_file()), "{both:?}");
        assert!(files.contains(&which::which("tar").unwrap()));
    }

    /// One of another processor's: nobody here tells which libraries it has.
    #[test]
    fn a_program_whose_libraries_nobody_tells_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let path = program(root.path(), "qemu");
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        // Version, type, processor, version, where the program headers are, this one's size, theirs, their number; the kind of one.
        for (at, value) in
            [(6, 1), (16, 3), (18, 183), (20, 1), (32, 64), (52, 64), (54, 56), (56, 1), (64, 3)]
        {
            elf[at] = value;
        }
        std::fs::write(&path, &elf).unwrap();
        assert!(is_dynamic(&path).unwrap());
        let error = tools(root.path(), path.clone()).fingerprint().unwrap_err().to_string();
        assert!(error.contains("ldd"), "{error}");
        // Without a loader it is whole as it is.
        elf[64] = 1;
        std::fs::write(&path, &elf).unwrap();
        assert!(!is_dynamic(&path).unwrap());
        tools(root.path(), path).fingerprint().unwrap();
    }

    #[test]
    fn the_override_comes_first_then_path_then_known_places() {
        let root = tempfile::tempdir().unwrap();
        let known = program(&root.path().join("usr/bin"), "swtpm");
        let on_path = program(&root.path().join("opt"), "swtpm");
        let own = program(&root.path().join("own"), "my-swtpm");
        let env = Env::rooted(root.path());
        assert_eq!(SWTPM.path(&env).unwrap(), known);
        let env = env.with("PATH", root.path().join("opt"));
        assert_eq!(SWTPM.path(&env).unwrap(), on_path);
        let env = env.with("LATCHKEY_SWTPM", &own);
        assert_eq!(SWTPM.path(&env).unwrap(), own);
    }

    /// Who starts one of them by its name takes the program that the probe took.
    #[test]
    fn a_variable_names_the_same_program_everywhere() {
        let named = [QEMU_IMG, QEMU_STORAGE_DAEMON].map(|search| (search.program, search.variable));
        assert_eq!(latchkey_supervise::OVERRIDES, named);
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let root = tempfile::tempdir().unwrap();
        let env = Env::rooted(root.path());
        let error = QEMU.path(&env).unwrap_err().to_string();
        assert!(error.contains("cargo xtask setup") && error.contains("LATCHKEY_QEMU"), "{error}");
        let error = QEMU.path(&env.with("LATCHKEY_QEMU", "/no/such")).unwrap_err().to_string();
        assert!(error.contains("/no/such") && error.contains("unset"), "{error}");
    }

    #[test]
    fn the_name_of_another_family_is_known() {
        let root = tempfile::tempdir().unwrap();
        let other = program(&root.path().join("usr/libexec"), "qemu-kvm");
        assert_eq!(QEMU.path(&Env::rooted(root.path())).unwrap(), other);
    }
}
