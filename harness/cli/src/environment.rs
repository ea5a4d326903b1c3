//! The environment variables that users set, once: for the help, and for the command by which a row is run again.

use std::path::Path;

use latchkey_supervise::quoted;

/// An environment variable.
struct Variable {
    name: &'static str,
    /// What it is for, in at most 44 characters, since the help is 76 wide.
    what: &'static str,
    /// Whether what a row comes to may hang on it.
    decides: bool,
}

impl Variable {
    const fn new(name: &'static str, what: &'static str, decides: bool) -> Self {
        Self { name, what, decides }
    }
}

/// Where images and keys are; the option `--cache` comes before it.
const CACHE: &str = "LATCHKEY_CACHE";
/// What is asked for in the log.
pub(crate) const LOG: &str = "LATCHKEY_LOG";

/// All of them but `NO_COLOR`, which is everybody's. `latchkey_host` and `latchkey_images` read those that are not read here.
const VARIABLES: [Variable; 11] = [
    Variable::new(CACHE, "where images, keys and verdicts are kept", true),
    Variable::new("LATCHKEY_ACCELERATOR", "kvm or tcg, instead of what works", true),
    Variable::new("LATCHKEY_QEMU", "another qemu-system-x86_64", true),
    Variable::new("LATCHKEY_QEMU_IMG", "another qemu-img", true),
    Variable::new("LATCHKEY_QEMU_STORAGE_DAEMON", "another qemu-storage-daemon", true),
    Variable::new("LATCHKEY_SWTPM", "another swtpm", true),
    Variable::new("LATCHKEY_OVMF_CODE", "another firmware", true),
    Variable::new("LATCHKEY_OVMF_VARS", "and the empty variables that go with it", true),
    Variable::new("LATCHKEY_PROBE_SECONDS", "how long the probe waits for the firmware", false),
    Variable::new("LATCHKEY_DEBIAN_MIRROR", "the Debian archive that packages come from", false),
    Variable::new(LOG, "which messages are logged, as `info`", false),
];

/// The section of the help.
pub(crate) fn help() -> String {
    let width = VARIABLES.iter().map(|variable| variable.name.len()).max().unwrap_or_default();
    let line = |Variable { name, what, .. }: &Variable| format!("  {name:<width$}  {what}\n");
    format!("Environment variables:\n{}", VARIABLES.iter().map(line).collect::<String>())
}

/// Those that are set and may decide over an outcome, as a shell takes variables before a command; without that of the cache
/// where an option names it (`cache`).
pub(crate) fn before_command(cache: Option<&Path>) -> String {
    before(cache, |name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn before(cache: Option<&Path>, value: impl Fn(&str) -> Option<std::ffi::OsString>) -> String {
    let counts = |it: &&Variable| it.decides && (it.name != CACHE || cache.is_none());
    let set = |it: &Variable| Some(format!("{}={} ", it.name, quoted(Path::new(&value(it.name)?))));
    VARIABLES.iter().filter(counts).filter_map(set).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_row_is_run_again_with_all_that_may_decide_over_it() {
        let set = |name: &str| match name {
            "LATCHKEY_ACCELERATOR" => Some("tcg".into()),
            "LATCHKEY_CACHE" => Some("/a cache".into()),
            "LATCHKEY_LOG" => Some("debug".into()),
            _ => None,
        };
        assert_eq!(before(None, set), "LATCHKEY_CACHE='/a cache' LATCHKEY_ACCELERATOR=tcg ");
        assert_eq!(before(Some(Path::new("/b")), set), "LATCHKEY_ACCELERATOR=tcg ");
        assert_eq!(before(None, |_| None), "");
    }

    #[test]
    fn each_line_of_the_help_fits_a_narrow_terminal() {
        let help = help();
        assert!(help.lines().all(|line| line.chars().count() <= 76), "{help}");
        assert!(help.contains("\n  LATCHKEY_QEMU  "), "{help}");
    }

    /// The names of variables in the sources below `dir`, but those by which a test talks to a process of its own.
    fn named_below(dir: &Path) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                names.extend(named_below(&path));
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let named = text.split("\"LATCHKEY_").skip(1).filter_map(|rest| rest.split_once('"'));
                names.extend(named.map(|(name, _)| format!("LATCHKEY_{name}")));
            }
        }
        // A text may begin with such a name.
        names.retain(|name| !name.starts_with("LATCHKEY_TEST_") && !name.contains(' '));
        names
    }

    #[test]
    fn whatever_is_read_is_in_the_help() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let sources = ["harness/host/src", "harness/supervise/src", "images/src"];
        let mut read: BTreeSet<String> =
            sources.iter().flat_map(|dir| named_below(&root.join(dir))).collect();
        read.insert(LOG.to_owned());
        let told: BTreeSet<String> = VARIABLES.iter().map(|variable| variable.name.to_owned()).collect();
        assert_eq!(read, told);
    }
}
