//! The front door: `cargo xtask VERB`.
//!
//! Compiles on a machine that has only Rust and a linker, installs what the rest needs, builds the `latchkey`
//! binary and hands over to it. Only `setup`, `test`, `lint-ci` and `help` are done here.

mod apt;
mod bare;
mod child;
mod exit;
mod handover;
mod json;
mod lint_ci;
mod needs;
mod setup;
mod subids;
mod suite;
mod system;
mod tally;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};

use exit::{Exit, stop};
use setup::{Aim, Form, Purpose};

const HELP: &str = "\
Latchkey proves, by booting it, that a confidential VM can be opened again.

usage: cargo xtask VERB [ARGUMENTS]

Most used
  run [SCENARIO...]          run scenarios, all of them without a name; sets up, builds images as needed
  run --plan [SCENARIO...]   what that would boot, share and save, and how long it takes
  test [NAME...]             the project's own tests, the real boots included; NAME selects some
  report RUN_DIR             make the reports of an old run again
  diff RUN_DIR RUN_DIR       what changed between two runs (exit code 1 when something did)
  forecast MACHINE           what a machine's next boot measures and comes to, without booting it
  forecast --all             the same of every boot of every scenario
  scenario new|check|explain write a scenario, try it without booting, have one explained
  bench [--check]            what the harness adds to a boot and what forks save, as ratios
  lint-ci                    have actionlint look at ci/github.yml

On this machine
  setup                      install what is missing, build the harness, probe the host
  setup --check              change nothing, list what is missing (exit code 4 when something is)
  probe [--refresh]          show the QEMU, swtpm, firmware and accelerator that were found
  test --bare                in a fresh Debian 12 tree, run the first two commands of the README from nothing

Images
  image list                 the reference images, and which are built
  image build [NAME...]      build them now
  image inspect PATH         describe a disk image, built here or not
  image prune                remove built images that nothing needs any more, and saved machines

`cargo xtask VERB --help` tells more of a verb. Every verb but `setup`, `test` and `lint-ci` is one of the `latchkey`
binary, which is built when needed; `schema` and `completions` are among them, and -v makes it tell what it does.
--json prints JSON and nothing else on standard output. NO_COLOR is respected.

Exit codes
  0  all as expected              3  something not under test failed (download, build, disk ...)
  1  a verdict or a test failed   4  set-up is incomplete
  2  the command line is wrong    5  set-up needs root: the command to run was printed
  130  interrupted
";

const SETUP_HELP: &str = "\
usage: cargo xtask setup [--check | --packages [--user NAME]] [--json]

Installs the packages that are missing (apt on Debian and Ubuntu; elsewhere it tells what to install), builds the
harness, and probes the host: which QEMU, swtpm and OVMF there are, and which accelerator really starts the
firmware. Does nothing, quickly, when there is nothing to do.

  --check      change nothing; list what is missing and exit with 4 if anything is
  --packages   install packages only; this is what an ordinary user is told to run as root
  --user NAME  also what this ordinary user needs to build images without root
  --json       one JSON object on standard output

On Debian 12 QEMU comes from backports, through an apt configuration of its own derived from the machine's: /etc/apt
is left as it is.
";

const TEST_HELP: &str = "\
usage: cargo xtask test [NAME...] [-- ARGUMENTS]
       cargo xtask test --bare

Runs all tests of the project with cargo-nextest where it is installed and `cargo test` where not. A core of the
catalogue is booted for real; with LATCHKEY_ROWS=all all of it is. Without NAME it also checks formatting,
documentation examples and lints, as far as the toolchain has the tools. NAME and ARGUMENTS are passed on as
they are. The last line is `N passed, N failed`. Ends with 3 where something could not be downloaded or compiled,
whatever failed besides.

  --bare       prove that the README holds: make a fresh Debian 12 tree, bind this machine's Rust toolchain into
               it, clone HEAD, and run `cargo xtask run certificate-rename` and `cargo xtask test` there (root only)
";

const LINT_CI_HELP: &str = "\
usage: cargo xtask lint-ci

Has actionlint look at ci/github.yml: at its expressions, shells and inputs of actions, of which the schema that the
tests hold it to says nothing. Ends with 1 where it finds something, with 4 where there is no actionlint.
";

/// Says something on standard error. Who closed it or filled its disk is told nothing, and the work goes on.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "xtask: {text}");
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("writing to standard output"),
        _ => Ok(()),
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            if !text.is_empty() {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
            ExitCode::from(exit::code(&error))
        }
    }
}

fn dispatch(args: &[OsString]) -> Result<()> {
    let args = &own_verb_first(args);
    let first = args.first().map(|arg| arg.to_string_lossy().into_owned());
    let rest = args.get(1..).unwrap_or_default();
    match first.as_deref() {
        None => Err(stop(Exit::Usage, HELP)),
        Some("--help" | "-h") => print(HELP),
        Some("help") if rest.is_empty() => print(HELP),
        Some("help") => help(rest),
        Some("setup") if asks_for_help(rest) => print(SETUP_HELP),
        Some("setup") => {
            let (aim, form) = parse_setup(rest)?;
            setup::setup(&aim, form)
        }
        Some("test") if asks_for_help(rest) => print(TEST_HELP),
        Some("test") if rest.iter().any(|arg| arg == "--bare") => match rest {
            [_] => bare::bare(),
            _ => Err(stop(Exit::Usage, "`cargo xtask test --bare` takes nothing else")),
        },
        Some("test") => suite::test(rest),
        Some("lint-ci") if asks_for_help(rest) => print(LINT_CI_HELP),
        Some("lint-ci") => match rest {
            [] => lint_ci::lint_ci(),
            _ => Err(stop(Exit::Usage, "`cargo xtask lint-ci` takes nothing else")),
        },
        Some(_) => hand_over(args).map(|never| match never {}),
    }
}

/// The verbs that are done here.
const OWN_VERBS: [&str; 3] = ["setup", "test", "lint-ci"];

/// `--json setup` is `setup --json`, as it is for the verbs that are handed over.
fn own_verb_first(args: &[OsString]) -> Vec<OsString> {
    let mut args = args.to_vec();
    let verb = args.iter().position(|arg| !arg.to_string_lossy().starts_with('-'));
    if let Some(at) = verb.filter(|at| OWN_VERBS.iter().any(|own| args[*at] == *own)) {
        args[..=at].rotate_right(1);
    }
    args
}

/// `help VERB` is `VERB --help`.
fn help(verbs: &[OsString]) -> Result<()> {
    let mut args = verbs.to_vec();
    args.push("--help".into());
    dispatch(&args)
}

fn hand_over(args: &[OsString]) -> Result<Infallible> {
    setup::ensure(Purpose::Verbs)?;
    handover::forward(args)
}

fn asks_for_help(args: &[OsString]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h")
}

fn parse_setup(args: &[OsString]) -> Result<(Aim, Form)> {
    let (mut aim, mut form) = (Aim::Complete, Form::Text);
    let wrong = |what: &str| stop(Exit::Usage, format!("{what}\n\n{SETUP_HELP}"));
    let mut args = args.iter().map(|arg| arg.to_string_lossy());
    while let Some(arg) = args.next() {
        match (arg.as_ref(), &aim) {
            ("--check", Aim::Complete | Aim::Check) => aim = Aim::Check,
            ("--packages", Aim::Complete) => aim = Aim::Packages(None),
            ("--user", Aim::Packages(_)) => {
                let user = args.next().ok_or_else(|| wrong("--user needs a name"))?;
                aim = Aim::Packages(Some(user.into_owned()));
            }
            ("--json", _) => form = Form::Json,
            (other, _) => return Err(wrong(&format!("setup does not take `{other}` here"))),
        }
    }
    Ok((aim, form))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use rstest::rstest;

    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[rstest]
    #[case("", Aim::Complete, Form::Text)]
    #[case("--json", Aim::Complete, Form::Json)]
    #[case("--check", Aim::Check, Form::Text)]
    #[case("--json --check", Aim::Check, Form::Json)]
    #[case("--packages", Aim::Packages(None), Form::Text)]
    #[case("--packages --user ann", Aim::Packages(Some("ann".into())), Form::Text)]
    fn setups_flags(#[case] line: &str, #[case] aim: Aim, #[case] form: Form) {
        assert_eq!(parse_setup(&args(line)).unwrap(), (aim, form));
    }

    #[rstest]
    #[case("setup --chekc")]
    #[case("setup --check --packages")]
    #[case("setup --user ann")]
    #[case("setup --packages --user")]
    #[case("test --bare unlock")]
    #[case("lint-ci everything")]
    #[case("--json lint-ci")]
    #[case("")]
    fn wrong_command_lines_end_with_2(#[case] line: &str) {
        assert_eq!(exit::code(&dispatch(&args(line)).unwrap_err()), 2);
    }

    #[rstest]
    #[case("--json setup --check", "setup --json --check")]
    #[case("setup --json", "setup --json")]
    #[case("--bare test", "test --bare")]
    #[case("--json lint-ci", "lint-ci --json")]
    #[case("-v --json run setup", "-v --json run setup")]
    #[case("--json", "--json")]
    fn flags_before_an_own_verb_come_after_it(#[case] line: &str, #[case] expected: &str) {
        assert_eq!(own_verb_first(&args(line)), args(expected));
    }

    #[rstest]
    #[case("x --help", true)]
    #[case("-h", true)]
    #[case("x -- --help", false)]
    #[case("x", false)]
    fn help_is_asked_for_before_the_dashes(#[case] line: &str, #[case] expected: bool) {
        assert_eq!(asks_for_help(&args(line)), expected);
    }

    #[test]
    fn help_fits_a_terminal() {
        for text in [HELP, SETUP_HELP, TEST_HELP, LINT_CI_HELP] {
            assert!(text.lines().all(|line| line.chars().count() <= 118), "{text}");
        }
    }
}
