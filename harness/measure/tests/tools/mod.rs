//! swtpm with tpm2-tools as its client.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use latchkey_measure::{Digest, HashAlg};
use latchkey_record::pcr::{PcrIndex, PcrValues};
use latchkey_tpm::{Channel, Swtpm};

pub(crate) struct Tools {
    swtpm: Swtpm,
    dir: tempfile::TempDir,
}

#[allow(dead_code, reason = "each test file uses what it needs")]
impl Tools {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let program = Path::new("swtpm");
        let swtpm = Swtpm::start(program, &state, dir.path(), Channel::Tools, Instant::now(), || ()).unwrap();
        Self { swtpm, dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn run(&self, line: &str) -> String {
        let mut tcti = OsString::from("swtpm:path=");
        tcti.push(self.swtpm.socket());
        let dir = self.dir.path().to_owned();
        let (name, args) = line.split_once(' ').unwrap();
        let args: Vec<&str> = args.split(' ').collect();
        let ran = latchkey_supervise::run_with(name, &args, |e| {
            e.stdin_null().dir(dir).env("TPM2TOOLS_TCTI", tcti).env("TSS2_LOG", "all+NONE")
        });
        ran.unwrap_or_else(|e| panic!("{line}: {e}")).text()
    }

    /// Every PCR of `bank`, as the TPM tells it.
    pub(crate) fn bank(&self, bank: HashAlg) -> PcrValues {
        self.run(&format!("tpm2_pcrread {bank}:all -o pcrs"));
        let values = self.read("pcrs");
        let each = values.chunks_exact(bank.size()).zip(0..);
        let known =
            each.map(|(value, index)| (PcrIndex::new(index).unwrap(), Digest::new(bank, value).unwrap()));
        let known = PcrValues(known.collect());
        assert_eq!(known.0.len(), 24);
        known
    }

    /// Ends the TPM and checks that all it was asked could be read.
    pub(crate) fn end(self) {
        let record = self.swtpm.end().unwrap();
        assert!(record.doubts.is_empty(), "{:?}", record.doubts);
    }
}
