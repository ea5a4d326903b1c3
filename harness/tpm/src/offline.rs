//! What is done to a TPM that is switched off: it is switched on without a machine, asked or told something,
//! shut down and switched off again.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use latchkey_record::pcr::HashAlg;
use latchkey_record::tpm::response;
use latchkey_supervise::{Supervised, cancelled, start};

use zeroize::Zeroizing;

use crate::Error;
use crate::bytes::Bytes;
use crate::facts::{self, TpmFacts};
use crate::response::response_words;
use crate::swtpm::base_arguments;

/// How long one command may take; making an RSA key takes seconds on a slow host, all used here far less.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a wait looks whether the user asked to stop, or the counter went down.
const TICK: Duration = Duration::from_millis(100);
/// How long swtpm may take to end once nobody is connected.
const GRACE: Duration = Duration::from_secs(5);
/// More than any TPM 2.0 answer (libtpms: 4096).
const MOST: u32 = 16 * 1024;
/// How often a command is sent whose answer is `RETRY`.
const MOST_TRIES: u32 = 5;
/// The file that holds a TPM's seeds, keys and counters (swtpm, `src/swtpm/swtpm_nvstore_dir.c`).
const PERMANENT_STATE: &str = "tpm2-00.permall";
/// What is to replace it, before it does.
const NEW_STATE: &str = "tpm2-00.permall.new";
/// What in a state directory is no state.
const NOT_COPIED: [&str; 2] = [".lock", NEW_STATE];

/// `TPM_RH_LOCKOUT` and `TPM_RH_PLATFORM` (part 2, table "TPM_RH constants").
const LOCKOUT: u32 = 0x4000_000a;
const PLATFORM: u32 = 0x4000_000c;
/// An authorisation area with one session: `TPM_RS_PW`, no nonce, no attributes, an empty password.
const EMPTY_PASSWORD: &[u8] = &[0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];

/// A TPM that is switched on, without a machine and without a record.
pub(crate) struct Offline {
    child: Supervised,
    stream: UnixStream,
    state: PathBuf,
}

/// One command: its name for errors, `TPM_CC`, handle with empty password if any, parameters. A handle that needs no
/// authorisation begins the parameters where none is authorised, and is `second` otherwise.
pub(crate) struct Request<'a> {
    pub(crate) name: &'static str,
    pub(crate) code: u32,
    pub(crate) authorised: Option<u32>,
    pub(crate) second: Option<u32>,
    pub(crate) parameters: &'a [u8],
}

impl Offline {
    pub(crate) fn start(program: &Path, state_dir: &Path) -> Result<Self, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::io("making a socket for", state_dir))?;
        ours.set_read_timeout(Some(TICK)).map_err(Error::io("limiting a wait for", state_dir))?;
        let mut line = base_arguments();
        // A descriptor given for `tcp` is taken as the data channel itself, whatever kind of socket it is.
        line.extend(["--server", "type=tcp,fd=0", "--flags", "not-need-init,startup-clear"].map(Into::into));
        let child = start("swtpm", program, &line, |e| {
            e.dir(state_dir).stdin_file(theirs).stdout_null().stderr_capture()
        })?;
        Ok(Self { child, stream: ours, state: state_dir.to_owned() })
    }

    /// Sends a command and gives the parameters of its answer.
    pub(crate) fn ask(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        let mut answer = self.answer(request)?;
        if request.authorised.is_some() {
            self.split(&mut answer, request)?;
        }
        Ok(answer)
    }

    /// As [`Offline::ask`], for an authorised command that makes an object: its handle, then the parameters.
    pub(crate) fn ask_for_object(&mut self, request: &Request<'_>) -> Result<(u32, Vec<u8>), Error> {
        let mut answer = self.answer(request)?;
        let handle = self.split(&mut answer, request)?;
        self.split(&mut answer, request)?;
        Ok((handle, answer))
    }

    /// Takes the first four bytes off an answer.
    fn split(&self, answer: &mut Vec<u8>, request: &Request<'_>) -> Result<u32, Error> {
        let mut rest = Bytes(answer);
        let first = rest.u32();
        let tail = rest.0.to_vec();
        *answer = tail;
        first.ok_or_else(|| Error::Answer { command: request.name, state: self.state.clone() })
    }

    /// Sends a command and gives what follows the header of its answer.
    fn answer(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Error> {
        let state = self.state.clone();
        let odd = || Error::Answer { command: request.name, state: state.clone() };
        let mut tries = 0;
        let (response, rest) = loop {
            let message = Zeroizing::new(message(request));
            let answer = self.exchange(&message).map_err(|source| self.talk_error(request, source))?;
            let mut rest = Bytes(&answer);
            rest.take(6).ok_or_else(odd)?;
            let response = rest.u32().ok_or_else(odd)?;
            tries += 1;
            // The first use of a key that counts towards lockout is noted, and the command wanted again.
            if response != response::RETRY || tries == MOST_TRIES {
                break (response, rest.0.to_vec());
            }
        };
        if response != 0 {
            let words = response_words(response);
            return Err(Error::Refused {
                command: request.name,
                state: self.state.clone(),
                code: response,
                words,
            });
        }
        Ok(rest)
    }

    fn exchange(&mut self, message: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(message)?;
        let until = Instant::now() + PATIENCE;
        let mut answer = vec![0; 10];
        self.fill(&mut answer, until)?;
        let size = u32::from_be_bytes([answer[2], answer[3], answer[4], answer[5]]);
        if !(10..=MOST).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an answer of {size} bytes")));
        }
        answer.resize(size as usize, 0);
        self.fill(&mut answer[10..], until)?;
        Ok(answer)
    }

    /// Fills `bytes` with what comes `until` then, as long as the user does not ask to stop.
    fn fill(&mut self, mut bytes: &mut [u8], until: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => bytes = &mut bytes[count..],
                // Nothing came for a tick (socket(7), `SO_RCVTIMEO`).
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !cancelled() => {
                    if Instant::now() > until {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn talk_error(&self, request: &Request<'_>, source: io::Error) -> Error {
        let ended = match self.child.wait_unless_cancelled(GRACE) {
            Err(stopped @ latchkey_supervise::Error::Cancelled) => return stopped.into(),
            ended => ended.ok().flatten(),
        };
        let log = ended.map(|o| String::from_utf8_lossy(&o.stderr).trim().to_owned()).unwrap_or_default();
        Error::Talk { command: request.name, state: self.state.clone(), source, log }
    }

    /// Shuts the TPM down in order, so that its next start does not count as one after a power cut.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        self.ask(&Request {
            name: "Shutdown",
            code: 0x145,
            authorised: None,
            second: None,
            parameters: &[0, 0],
        })?;
        drop(self.stream);
        // It ends by itself when its one client is gone.
        if self.child.wait_unless_cancelled(GRACE)?.is_none() {
            self.child.end(GRACE)?;
        }
        Ok(())
    }
}

fn message(request: &Request<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    if let Some(handle) = request.authorised {
        body.extend(handle.to_be_bytes());
        body.extend(request.second.into_iter().flat_map(u32::to_be_bytes));
        body.extend(EMPTY_PASSWORD);
    }
    body.extend(request.parameters);
    let tag: u16 = if request.authorised.is_some() { 0x8002 } else { 0x8001 };
    let size = u32::try_from(body.len() + 10).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(body.len() + 10);
    message.extend(tag.to_be_bytes());
    message.extend(size.to_be_bytes());
    message.extend(request.code.to_be_bytes());
    message.extend(body);
    message
}

/// Makes a fresh TPM in `state_dir` (created, mode 0700; must not hold one yet) whose active PCR banks are
/// `banks`. It has seeds of its own and nothing else: no keys, no certificates, empty passwords.
///
/// # Errors
/// When the directory holds a TPM already or cannot be made, or swtpm cannot be run or refuses.
pub fn manufacture(program: &Path, state_dir: &Path, banks: &[HashAlg]) -> Result<(), Error> {
    if state_dir.join(PERMANENT_STATE).exists() {
        let exists = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(Error::io("making a TPM in", state_dir)(exists));
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .map_err(Error::io("creating", state_dir))?;
    allocate(program, state_dir, banks)
}

/// Makes `banks` the only active PCR banks of a TPM that is switched off, as a firmware's menu does (part 3, section 22.5).
///
/// # Errors
/// When there is no TPM, swtpm cannot be run, or the TPM refuses or has no room for them.
pub fn allocate_banks(program: &Path, state_dir: &Path, banks: &[HashAlg]) -> Result<(), Error> {
    must_exist(state_dir)?;
    allocate(program, state_dir, banks)
}

fn allocate(program: &Path, state_dir: &Path, banks: &[HashAlg]) -> Result<(), Error> {
    let mut tpm = Offline::start(program, state_dir)?;
    // All four are listed, the unwanted ones without a PCR: what is not listed stays as it is.
    let mut selection = vec![0, 0, 0, 4];
    for alg in HashAlg::ALL {
        let chosen = if banks.contains(&alg) { 0xff } else { 0 };
        selection.extend(alg.tpm_id().to_be_bytes());
        selection.extend([3, chosen, chosen, chosen]);
    }
    let allocate = Request {
        name: "PCR_Allocate",
        code: 0x12b,
        authorised: Some(PLATFORM),
        second: None,
        parameters: &selection,
    };
    if tpm.ask(&allocate)?.first() != Some(&1) {
        let words = "it has no room for these PCR banks".into();
        return Err(Error::Refused { command: allocate.name, state: state_dir.to_owned(), code: 0, words });
    }
    tpm.end()
}

/// Sets the dictionary-attack counter of a TPM that is switched off back to 0.
///
/// # Errors
/// When there is no TPM, swtpm cannot be run, or the TPM refuses (the lockout hierarchy has a password, or an
/// earlier wrong one has locked it too).
pub fn reset_lockout(program: &Path, state_dir: &Path) -> Result<(), Error> {
    must_exist(state_dir)?;
    let mut tpm = Offline::start(program, state_dir)?;
    reset(&mut tpm)?;
    tpm.end()
}

pub(crate) fn reset(tpm: &mut Offline) -> Result<(), Error> {
    let reset = Request {
        name: "DictionaryAttackLockReset",
        code: 0x139,
        authorised: Some(LOCKOUT),
        second: None,
        parameters: &[],
    };
    tpm.ask(&reset).map(drop)
}

/// Sets how a TPM that is switched off counts towards dictionary-attack lockout: `most` failures lead to it, and one is
/// forgotten after `forget_seconds` in which the TPM is on; a wrong password locks the lockout hierarchy itself for
/// `recovery_seconds` (part 3, section 25.3).
///
/// # Errors
/// As [`reset_lockout`].
pub fn set_lockout(
    program: &Path,
    state_dir: &Path,
    [most, forget_seconds, recovery_seconds]: [u32; 3],
) -> Result<(), Error> {
    must_exist(state_dir)?;
    let mut tpm = Offline::start(program, state_dir)?;
    let parameters: Vec<u8> =
        [most, forget_seconds, recovery_seconds].into_iter().flat_map(u32::to_be_bytes).collect();
    let set = Request {
        name: "DictionaryAttackParameters",
        code: 0x13a,
        authorised: Some(LOCKOUT),
        second: None,
        parameters: &parameters,
    };
    tpm.ask(&set)?;
    tpm.end()
}

/// How long a TPM may take to forget all its failures, one a second.
const FORGETS: Duration = Duration::from_secs(120);

/// Keeps a TPM that is switched off on until it has forgotten every failure, one a second, and then lets it forget as slowly
/// as before. A copy is kept on, and takes its place in the end: one that fails or is interrupted on the way leaves the TPM
/// as it was.
///
/// # Errors
/// As [`reset_lockout`]; [`Error::Remembers`] when the counter does not come to 0.
pub fn wait_out_lockout(program: &Path, state_dir: &Path) -> Result<(), Error> {
    let before = TpmFacts::read(program, state_dir)?.lockout;
    let (_scratch, copy) = facts::copied(state_dir)?;
    set_lockout(program, &copy, [before.most, 1, before.recovery_seconds])?;
    let mut tpm = Offline::start(program, &copy)?;
    let deadline = Instant::now() + FORGETS;
    while facts::lockout(&mut tpm, state_dir)?.counter > 0 {
        if cancelled() {
            return Err(latchkey_supervise::Error::Cancelled.into());
        }
        if Instant::now() > deadline {
            return Err(Error::Remembers { state: state_dir.to_owned() });
        }
        // It ends only when something is wrong, and does not answer the next look then.
        tpm.child.wait_for(TICK)?;
    }
    tpm.end()?;
    set_lockout(program, &copy, [before.most, before.forget_seconds, before.recovery_seconds])?;
    // Whoever is killed here leaves the one or the other, and not a part.
    let (new, old) = (state_dir.join(NEW_STATE), state_dir.join(PERMANENT_STATE));
    let replaced = fs::copy(copy.join(PERMANENT_STATE), &new)
        .and_then(|_| fs::File::open(&new)?.sync_all())
        .and_then(|()| fs::rename(&new, &old));
    replaced.map_err(|error| {
        // It holds what the TPM holds.
        let _ = fs::remove_file(&new);
        Error::io("replacing the TPM state", &old)(error)
    })
}

/// Clears a TPM that is switched off, as its owner or the platform does (part 3, section 24.6): the storage hierarchy gets
/// another seed, and everything that was made or kept under the old one is gone.
///
/// # Errors
/// When there is no TPM, swtpm cannot be run, or the TPM refuses.
pub fn clear(program: &Path, state_dir: &Path) -> Result<(), Error> {
    must_exist(state_dir)?;
    let mut tpm = Offline::start(program, state_dir)?;
    tpm.ask(&Request {
        name: "Clear",
        code: 0x126,
        authorised: Some(PLATFORM),
        second: None,
        parameters: &[],
    })?;
    tpm.end()
}

/// Copies the state of a TPM that is switched off into `to` (created, mode 0700).
///
/// # Errors
/// When there is no TPM in `from`, or a file cannot be copied.
pub fn copy_state(from: &Path, to: &Path) -> Result<(), Error> {
    must_exist(from)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(Error::io("creating", to))?;
    for entry in fs::read_dir(from).map_err(Error::io("listing", from))? {
        let entry = entry.map_err(Error::io("listing", from))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && NOT_COPIED.iter().all(|name| entry.file_name() != **name)
        {
            fs::copy(entry.path(), to.join(entry.file_name()))
                .map_err(Error::io("copying the TPM state from", entry.path()))?;
        }
    }
    Ok(())
}

pub(crate) fn must_exist(state_dir: &Path) -> Result<(), Error> {
    if state_dir.join(PERMANENT_STATE).is_file() {
        Ok(())
    } else {
        Err(Error::NoState { state: state_dir.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// swtpm would make a TPM of its own, and the banks would be another one's.
    #[test]
    fn banks_are_those_of_a_tpm_that_is_there() {
        let nowhere = Path::new("/nowhere");
        let told = allocate_banks(Path::new("swtpm"), nowhere, &[HashAlg::Sha256]);
        assert!(matches!(told, Err(Error::NoState { .. })));
    }
}
