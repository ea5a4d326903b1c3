//! swtpm with tpm2-tools as its client.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use latchkey_record::tpm::TpmRecord;
use latchkey_tpm::{Channel, Swtpm};

pub(crate) struct Tools {
    pub(crate) swtpm: Swtpm,
    dir: tempfile::TempDir,
    told: Receiver<()>,
}

#[allow(dead_code, reason = "each test file uses what it needs")]
impl Tools {
    pub(crate) fn start(channel: Channel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        Self::start_on(channel, dir, &state)
    }

    pub(crate) fn start_on(channel: Channel, dir: tempfile::TempDir, state: &Path) -> Self {
        let (tell, told) = mpsc::channel();
        let program = Path::new("swtpm");
        let swtpm = Swtpm::start(program, state, dir.path(), channel, Instant::now(), move || {
            let _ = tell.send(());
        });
        Self { swtpm: swtpm.unwrap(), dir, told }
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn tool(
        &self,
        name: &str,
        args: &[&str],
    ) -> Result<latchkey_supervise::Captured, latchkey_supervise::Error> {
        let mut tcti = OsString::from("swtpm:path=");
        tcti.push(self.swtpm.socket());
        let dir = self.dir.path().to_owned();
        latchkey_supervise::run_with(name, args, |e| {
            e.stdin_null().dir(dir).env("TPM2TOOLS_TCTI", tcti).env("TSS2_LOG", "all+NONE")
        })
    }

    pub(crate) fn run(&self, name: &str, args: &[&str]) -> String {
        self.tool(name, args).unwrap().text()
    }

    pub(crate) fn succeeds(&self, name: &str, args: &[&str]) -> bool {
        self.tool(name, args).is_ok()
    }

    /// Unseals `sealed`, whose password is `right`, with a wrong one: as often as a fresh TPM bears.
    pub(crate) fn fail_three_times(&self) {
        let secret = self.file("secret", b"x");
        self.run("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", "primary"]);
        self.run("tpm2_flushcontext", &["-t"]);
        let secret = secret.to_str().unwrap();
        let sealed = ["-C", "primary", "-i", secret, "-p", "right", "-u", "pub", "-r", "priv"];
        self.run("tpm2_create", &sealed);
        self.run("tpm2_flushcontext", &["-t"]);
        self.run("tpm2_load", &["-C", "primary", "-u", "pub", "-r", "priv", "-c", "sealed"]);
        for _ in 0..3 {
            self.run("tpm2_flushcontext", &["-t"]);
            assert!(!self.succeeds("tpm2_unseal", &["-c", "sealed", "-p", "wrong"]));
        }
        self.run("tpm2_flushcontext", &["-t"]);
    }

    /// What was recorded once the tool's last answer was written; the tool has read it, so it was.
    pub(crate) fn record(&self) -> TpmRecord {
        self.swtpm.record()
    }

    /// Waits for the end of the log.
    pub(crate) fn wait_for_end(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.swtpm.is_running().unwrap() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "swtpm did not end");
            let _ = self.told.recv_timeout(left.min(Duration::from_millis(50)));
        }
    }

    pub(crate) fn end(self) -> TpmRecord {
        self.swtpm.end().unwrap()
    }

    /// Ends swtpm and leaves its files.
    pub(crate) fn stop(self) -> tempfile::TempDir {
        self.swtpm.end().unwrap();
        self.dir
    }
}

/// The bytes that `tpm2_pcrread` shows for a single PCR.
#[allow(dead_code, reason = "each test file uses what it needs")]
pub(crate) fn hex_of(shown: &str) -> Vec<u8> {
    hex::decode(shown.trim().rsplit("0x").next().unwrap().trim().to_lowercase()).unwrap()
}
