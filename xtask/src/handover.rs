//! Building the `latchkey` binary and handing the command line over to it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, IsTerminal, PipeReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::exit::{Exit, stop};
use crate::{child, say};

/// A build that is done by then was up to date: nothing is said of it.
const UNNOTICED: Duration = Duration::from_millis(1500);
/// How often a build is told of where there is no terminal to show a line that changes.
const PLAIN: Duration = Duration::from_secs(30);

/// The workspace's directory.
pub(crate) fn workspace() -> PathBuf {
    // Cargo sets it at run time too, which is right when the checkout was moved since.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let here = PathBuf::from(here);
    here.parent().map_or_else(|| here.clone(), PathBuf::from)
}

/// The cargo that runs this.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// `PATH` with the directories for administrators' programs, which an ordinary user on Debian lacks.
pub(crate) fn search_path() -> OsString {
    let mut dirs: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    for dir in ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    // Fails only when a directory has a colon in its name, which none that was just split has.
    std::env::join_paths(dirs).unwrap_or_default()
}

/// Where on [`search_path`] a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = search_path();
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(program));
    candidates.find(|candidate| candidate.is_file())
}

/// How glibc gives memory. By itself it puts what is as large as something that was freed before into heaps, one for every
/// thread, which keep it: 10 MB more for each boot that is forecast. From 1 MiB on all goes back to the system (mallopt(3),
/// `M_MMAP_THRESHOLD`: set, it does not change any more).
const MEMORY: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1048576");

/// Replaces this process by `latchkey args`.
pub(crate) fn forward(args: &[OsString]) -> Result<std::convert::Infallible> {
    let latchkey = build()?;
    let mut command = Command::new(&latchkey);
    command.args(args).env("PATH", search_path());
    let (name, value) = MEMORY;
    if std::env::var_os(name).is_none() {
        command.env(name, value);
    }
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", latchkey.display()))
}

/// Builds the binary, saying so only when it takes a while, and gives its path.
pub(crate) fn build() -> Result<PathBuf> {
    let line = ["build", "--package", "latchkey", "--message-format=json-render-diagnostics"];
    let (messages, messages_in) = std::io::pipe().context("making a pipe")?;
    let (words, words_in) = std::io::pipe().context("making a pipe")?;
    let cargo = latchkey_supervise::start_tree("cargo build", cargo(), &line, |e| {
        e.dir(workspace()).stdin_null().stdout_file(messages_in).stderr_file(words_in)
    })?;
    let compiled = Arc::new(AtomicUsize::new(0));
    let executable = read_messages(messages, Arc::clone(&compiled));
    let words = read_all(words);
    let mut progress = Progress::new();
    let status = child::wait(cargo, || progress.show(compiled.load(Ordering::Relaxed)))?;
    progress.done();
    let (executable, words) = (executable.join().ok().flatten(), words.join().unwrap_or_default());
    if !status.success() {
        let message = format!("{}\nbuilding latchkey failed: see above", words.trim_end());
        return Err(stop(Exit::Infrastructure, message));
    }
    executable.context("cargo built latchkey and did not tell where it is")
}

/// Counts what is compiled, and finds the binary.
fn read_messages(from: PipeReader, compiled: Arc<AtomicUsize>) -> JoinHandle<Option<PathBuf>> {
    std::thread::spawn(move || {
        let mut executable = None;
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if line.contains(r#""reason":"compiler-artifact""#) && line.contains(r#""fresh":false"#) {
                compiled.fetch_add(1, Ordering::Relaxed);
            }
            executable = executable_in(&line).or(executable);
        }
        executable
    })
}

/// The path of the binary in a message of cargo's. Such a path has no characters that JSON escapes, or the
/// binary is not found, which is told.
fn executable_in(message: &str) -> Option<PathBuf> {
    let (_, rest) = message.split_once(r#""executable":""#)?;
    let (path, _) = rest.split_once('"')?;
    let path = PathBuf::from(path);
    path.file_name().is_some_and(|name| name == "latchkey").then_some(path)
}

fn read_all(mut from: PipeReader) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A line on standard error while something takes long.
struct Progress {
    began: Instant,
    told: Option<Instant>,
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { began: Instant::now(), told: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, compiled: usize) {
        let elapsed = self.began.elapsed();
        if elapsed < UNNOTICED {
            return;
        }
        let text = format!("building latchkey: {compiled} crates compiled, {} s", elapsed.as_secs());
        if self.terminal {
            line(&text);
        } else if self.told.is_none_or(|told| told.elapsed() >= PLAIN) {
            say(&text);
        } else {
            return;
        }
        self.told = Some(Instant::now());
    }

    fn done(&self) {
        if self.terminal && self.told.is_some() {
            line("");
        }
    }
}

/// Makes `text` the terminal's last line. One that went away does not stop the build.
fn line(text: &str) {
    let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(
        r#"{"reason":"compiler-artifact","executable":"/t/release/latchkey","fresh":true}"#,
        Some("/t/release/latchkey")
    )]
    #[case(r#"{"reason":"compiler-artifact","executable":"/t/release/build/x/build-script-build"}"#, None)]
    #[case(r#"{"reason":"compiler-artifact","executable":null}"#, None)]
    #[case("not json", None)]
    fn the_binary_in_a_message(#[case] message: &str, #[case] expected: Option<&str>) {
        assert_eq!(executable_in(message), expected.map(PathBuf::from));
    }

    #[test]
    fn administrators_programs_are_on_the_path_once() {
        let path = search_path();
        let dirs: Vec<_> = std::env::split_paths(&path).collect();
        for wanted in ["/usr/sbin", "/sbin"] {
            assert_eq!(dirs.iter().filter(|dir| dir.as_os_str() == wanted).count(), 1, "{path:?}");
        }
    }
}
