//! swtpm in the foreground, for a machine or for TPM tools.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use latchkey_record::tpm::TpmRecord;
use latchkey_supervise::{Supervised, start};

use crate::Error;
use crate::recorder::{Recorder, RecorderPast};

/// `sun_path` of unix(7), less its final NUL.
const LONGEST_SOCKET_PATH: usize = 107;
/// The sockets' names. tss2's tcti-swtpm looks for the control channel at the data channel's path with `.ctrl`.
const SOCKET: &str = "tpm.sock";
const CONTROL_OF_SOCKET: &str = "tpm.sock.ctrl";
/// Hands standard error on as descriptor 3: swtpm 0.7 closes its standard error when told where to log.
const MOVE_STDERR: &str = r#"exec "$0" "$@" 3>&2 2>&1"#;
/// How long swtpm may take to end after it was asked to; it has nothing to finish but one file.
const GRACE: Duration = Duration::from_secs(5);

/// Who talks to the TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// QEMU (`-tpmdev emulator`), which connects to the control socket and passes the data channel over it.
    /// QEMU switches the TPM on.
    Machine,
    /// TPM tools (`tcti swtpm:path=SOCKET`). The TPM is switched on and started.
    Tools,
}

/// A running swtpm and its record. Dropping it kills the process.
pub struct Swtpm {
    child: Supervised,
    recorder: Recorder,
    socket: PathBuf,
}

impl Swtpm {
    /// Starts `program` on the state in `state_dir` (swtpm makes a fresh TPM in an empty one), with
    /// its sockets in `socket_dir`. Times of the record count from `power_on`. `notify` is called from the
    /// recorder's thread after each exchange and when the log ends.
    ///
    /// The sockets listen when this returns, so whoever connects need not wait. A machine's socket may have a
    /// path of any length: QEMU is started in `socket_dir` and told the name alone.
    ///
    /// # Errors
    /// When a directory or socket cannot be used or swtpm cannot be started.
    pub fn start(
        program: &Path,
        state_dir: &Path,
        socket_dir: &Path,
        channel: Channel,
        power_on: Instant,
        notify: impl Fn() + Send + 'static,
    ) -> Result<Self, Error> {
        Self::go_on(program, state_dir, socket_dir, channel, power_on, RecorderPast::default(), notify)
    }

    /// As [`Swtpm::start`], with a record that begins with the `past` of the machine whose saved state QEMU is about to
    /// hand to this TPM.
    ///
    /// # Errors
    /// As [`Swtpm::start`].
    pub fn go_on(
        program: &Path,
        state_dir: &Path,
        socket_dir: &Path,
        channel: Channel,
        power_on: Instant,
        past: RecorderPast,
        notify: impl Fn() + Send + 'static,
    ) -> Result<Self, Error> {
        let socket = socket_dir.join(SOCKET);
        let listener = listen(socket_dir, SOCKET)?;
        let (log, writer) = io::pipe().map_err(Error::io("making a pipe for the log of", program))?;
        let mut line = base_arguments();
        // Level 2 is the lowest that shows messages; from 5 on libtpms would add its own.
        line.extend(["--log", "fd=1,level=2"].map(OsString::from));
        let child = match channel {
            Channel::Machine => {
                line.extend(["--ctrl", "type=unixio,fd=0"].map(OsString::from));
                start("swtpm", program, &line, |e| {
                    e.dir(state_dir).stdin_file(listener).stdout_file(writer).stderr_to_stdout()
                })
            }
            Channel::Tools => {
                nameable(&socket_dir.join(CONTROL_OF_SOCKET))?;
                let control = listen(socket_dir, CONTROL_OF_SOCKET)?;
                line.extend(
                    ["--server", "type=unixio,fd=0", "--ctrl", "type=unixio,fd=3"].map(OsString::from),
                );
                line.extend(["--flags", "not-need-init,startup-clear"].map(OsString::from));
                let moved: Vec<OsString> = ["-c".into(), MOVE_STDERR.into(), program.into()].into();
                start("swtpm", "sh", &[moved, line].concat(), |e| {
                    e.dir(state_dir).stdin_file(listener).stdout_file(writer).stderr_file(control)
                })
            }
        }?;
        let recorder = Recorder::start(log, power_on, past, notify)
            .map_err(Error::io("starting a thread to read the log of", program))?;
        Ok(Self { child, recorder, socket })
    }

    /// The name of the socket in `socket_dir` for whoever is started there.
    pub const SOCKET: &str = SOCKET;

    /// The socket to connect to: swtpm's control channel for [`Channel::Machine`], its data channel for
    /// [`Channel::Tools`].
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.pid()
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&self) -> Result<bool, Error> {
        Ok(self.child.is_running()?)
    }

    /// The last of what swtpm said besides its record, for error messages.
    #[must_use]
    pub fn remarks(&self) -> String {
        self.recorder.remarks()
    }

    /// What has been recorded so far.
    #[must_use]
    pub fn record(&self) -> TpmRecord {
        self.recorder.record()
    }

    /// Why the record is not whole, where the guest used the TPM more often than is kept.
    #[must_use]
    pub fn too_much(&self) -> Option<String> {
        self.recorder.too_much()
    }

    /// Calls `look` with what has been recorded so far, without copying it.
    pub fn with_record<T>(&self, look: impl FnOnce(&TpmRecord) -> T) -> T {
        self.recorder.with(look)
    }

    /// Ends it, if it has not ended by itself, and gives the whole record. When a machine was switched off
    /// cleanly, QEMU has told swtpm to end already.
    ///
    /// # Errors
    /// When the system cannot tell whether it ended.
    pub fn end(self) -> Result<TpmRecord, Error> {
        Ok(self.end_with_past()?.0)
    }

    /// As [`Swtpm::end`], with what the recorder of whoever goes on from here has to know.
    ///
    /// # Errors
    /// As [`Swtpm::end`].
    pub fn end_with_past(self) -> Result<(TpmRecord, RecorderPast), Error> {
        let Self { child, mut recorder, socket } = self;
        child.end(GRACE)?;
        recorder.join();
        for socket in [socket.with_file_name(CONTROL_OF_SOCKET), socket] {
            // Somebody else may have removed the whole directory.
            let _ = std::fs::remove_file(socket);
        }
        Ok((recorder.record(), recorder.past()))
    }
}

/// What every swtpm is started with, in the directory of its state: a comma ends what an option says, and nothing escapes it
/// (swtpm, `src/swtpm/options.c`), so no path stands there.
pub(crate) fn base_arguments() -> Vec<OsString> {
    ["socket", "--tpm2", "--tpmstate", "dir=."].map(OsString::from).into()
}

fn listen(dir: &Path, name: &str) -> Result<UnixListener, Error> {
    let path = dir.join(name);
    // What an earlier start left there.
    let _ = std::fs::remove_file(&path);
    // Through the directory's descriptor the path fits, however long it is.
    let bind = || {
        let dir = File::open(dir)?;
        UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
    };
    bind().map_err(Error::io("listening on", &path))
}

/// Checks that clients can name the socket.
fn nameable(path: &Path) -> Result<(), Error> {
    if path.as_os_str().as_bytes().len() > LONGEST_SOCKET_PATH {
        return Err(Error::SocketPath { path: path.to_owned() });
    }
    Ok(())
}
