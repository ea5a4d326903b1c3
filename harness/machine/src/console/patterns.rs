//! The table of named patterns, and the matcher that looks for them as text arrives.

use std::sync::LazyLock;

use latchkey_record::console::{ConsoleEvent, Pattern};
use regex::Regex;

use super::clean::{Cleaned, Cleaner};

/// No pattern is longer than this, so no more than this is searched again when text arrives.
const OVERLAP: usize = 512;
/// How much of the text that is not the kernel's is kept for searching.
const KEPT: usize = 64 * 1024;
/// How much of a match a record keeps.
const LONGEST_TEXT: usize = 200;

/// Where each text comes from: systemd's src/cryptsetup/cryptsetup.c and src/shared/tpm2-util.c (v252 to
/// v257), shim's shim.c, lib/console.c and fallback.c (15.8, 16.1), GRUB's kern/efi/sb.c and loader/efi/linux.c, edk2's
/// BdsDxe and Shell, dracut's emergency.service, util-linux' agetty, and Linux.
const TABLE: &[(Pattern, &str)] = &[
    // Whole: where the program comes from stands at the end.
    (Pattern::FirmwareStarts, r"BdsDxe: starting Boot[0-9A-F]{4}[^\n]*\n"),
    // Not of a program of its own, out of a firmware volume: its shell ends that way wherever Secure Boot is on.
    (
        Pattern::FirmwareRefusal,
        r#"BdsDxe: failed to (?:load|start) Boot[^\n]*" from (?:[^F\n]|F[^v\n])[^\n]*(?:Access Denied|Security Violation)"#,
    ),
    (Pattern::NoBootOption, r"BdsDxe: No bootable option or device was found"),
    (Pattern::FirmwareShell, r"UEFI Interactive Shell v[0-9.]+"),
    (Pattern::BootOptionRestoration, r"Boot Option Restoration"),
    // With 0x1A, "Security Violation", where nobody vouches for it; 0x2, "Invalid Parameter", or 0x3, "Unsupported", where it
    // is malformed (shim, pe.c). Whole: text comes as it is written, and the error's name is followed by the rest of the box.
    (
        Pattern::ShimRefusal,
        r"Verification failed: \(0x[0-9A-F]{1,16}\) [A-Z][A-Za-z]+(?: [A-Za-z]+){0,3}(?:\s{2}|[\r\n]|\s?[^A-Za-z\s])",
    ),
    (Pattern::ShimFatal, r"Something has gone seriously wrong: [^\n]*"),
    // Its menu. The countdown before it ("Press any key to perform") runs out where nobody is there, and the boot goes on.
    (Pattern::MokManager, r"Perform MOK management"),
    (Pattern::GrubRefusal, r"error: (?:[^\n]{0,80}:)?\s*bad shim (?:loader |lock )?signature"),
    (Pattern::KernelNotLoaded, r"error: (?:[^\n]{0,80}:)?\s*cannot load image"),
    (Pattern::KernelStarts, r"Linux version [0-9]\S*"),
    (Pattern::KernelPanic, r"Kernel panic - not syncing[^\n]*"),
    (Pattern::PolicyMismatch, r"Current policy digest does not match stored policy digest"),
    (
        Pattern::TpmFallback,
        r"(?:TPM2 operation failed, falling back|falling back to traditional unlocking|Failed to unseal secret using TPM2)",
    ),
    (Pattern::TpmLockout, r"TPM2? device is in dictionary attack lockout mode"),
    (Pattern::PassphrasePrompt, r"Please enter passphrase for disk [^\n]{1,200}?:+"),
    (Pattern::RecoveryKeyPrompt, r"Please enter (?:passphrase or )?recovery key for disk [^\n]{1,200}?:+"),
    (Pattern::WrongPassphrase, r"\(Passphrase incorrect\?\)"),
    (Pattern::TooManyAttempts, r"Too many attempts to activate; giving up"),
    (Pattern::NoPassphraseRegistered, r"No passphrase or recovery key registered"),
    (
        Pattern::EmergencyShell,
        r"(?:You are in emergency mode|Entering emergency mode|Press Enter for maintenance|dracut:/#|sh-5\.\d# )",
    ),
    (Pattern::Login, r"(?m)^[A-Za-z0-9_][A-Za-z0-9._-]{0,63} login: "),
    (Pattern::PowersOff, r"reboot: Power down"),
    (Pattern::Restarts, r"reboot: (?:Restarting system|machine restart)"),
];

/// What a shell says to somebody who logged in, which a host of that name would ask before.
const NO_PROMPT: &str = "Last login: ";

static COMPILED: LazyLock<Vec<(Pattern, Regex)>> = LazyLock::new(|| {
    let compile = |(pattern, text): &(Pattern, &str)| Regex::new(text).ok().map(|regex| (*pattern, regex));
    TABLE.iter().filter_map(compile).collect()
});

/// Looks for patterns in a console's bytes as they arrive.
#[derive(Debug, Default)]
pub struct Matcher {
    cleaner: Cleaner,
    rest: String,
    /// For each pattern, up to where in `rest` it was looked for.
    done: Vec<usize>,
    lines: Vec<String>,
}

impl Matcher {
    /// A matcher that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes that arrived at `at_ms` and gives the patterns they complete, in the order of their ends.
    pub fn feed(&mut self, bytes: &[u8], at_ms: u64) -> Vec<ConsoleEvent> {
        let Cleaned { rest, kernel } = self.cleaner.feed(bytes);
        let mut found = Vec::new();
        for line in &kernel {
            for (pattern, regex) in COMPILED.iter() {
                if let Some(hit) = regex.find(line) {
                    found.push((0, event(at_ms, *pattern, hit.as_str())));
                }
            }
        }
        self.rest.push_str(&rest);
        self.done.resize(COMPILED.len(), 0);
        for ((pattern, regex), done) in COMPILED.iter().zip(&mut self.done) {
            while let Some(hit) = regex.find_at(&self.rest, *done) {
                if hit.as_str() != NO_PROMPT {
                    found.push((hit.end(), event(at_ms, *pattern, hit.as_str())));
                }
                *done = hit.end().max(*done + 1);
                if *done >= self.rest.len() {
                    break;
                }
            }
            *done = (*done).max(floor(&self.rest, self.rest.len().saturating_sub(OVERLAP)));
        }
        self.keep(rest, kernel);
        found.sort_by_key(|(end, _)| *end);
        found.into_iter().map(|(_, event)| event).collect()
    }

    /// The last `most` lines, the kernel's among them, for messages.
    #[must_use]
    pub fn tail(&self, most: usize) -> String {
        let open = self.rest.rsplit('\n').next().unwrap_or_default();
        let mut lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        if !open.trim().is_empty() {
            lines.push(open);
        }
        lines[lines.len().saturating_sub(most)..].join("\n")
    }

    fn keep(&mut self, new: String, kernel: Vec<String>) {
        self.lines.extend(kernel);
        if new.contains('\n') {
            let from = self.rest.len() - new.len();
            let begin = self.rest[..from].rfind('\n').map_or(0, |at| at + 1);
            let end = self.rest.rfind('\n').unwrap_or(begin);
            let whole = self.rest[begin..end].lines().filter(|l| !l.trim().is_empty()).map(str::to_owned);
            self.lines.extend(whole);
        }
        let surplus = self.lines.len().saturating_sub(200);
        self.lines.drain(..surplus);
        if self.rest.len() > 2 * KEPT {
            let cut = floor(&self.rest, self.rest.len() - KEPT);
            self.rest.drain(..cut);
            for done in &mut self.done {
                *done = done.saturating_sub(cut);
            }
        }
    }
}

/// The last character boundary at or before `at`.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn event(at_ms: u64, pattern: Pattern, text: &str) -> ConsoleEvent {
    let text = text.trim();
    ConsoleEvent { at_ms, pattern, text: text[..floor(text, text.len().min(LONGEST_TEXT))].to_owned() }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::console::read_cast;
    use proptest::prelude::*;
    use rstest::rstest;

    fn seen(bytes: &[u8]) -> Vec<Pattern> {
        Matcher::new().feed(bytes, 0).into_iter().map(|e| e.pattern).collect()
    }

    #[test]
    fn every_row_compiles() {
        assert_eq!(COMPILED.len(), TABLE.len());
    }

    /// What arrives in two pieces is told whole.
    #[test]
    fn the_name_of_an_error_is_waited_for() {
        let mut matcher = Matcher::new();
        assert!(matcher.feed(b"Verification failed: (0x2) Inva", 0).is_empty());
        assert!(matcher.feed(b"lid ", 1).is_empty());
        let told = matcher.feed(b"Parameter   |", 2);
        let text: Vec<&str> = told.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(text, ["Verification failed: (0x2) Invalid Parameter"]);
    }

    #[rstest]
    #[case("🔐 Please enter passphrase for disk root:: (press TAB for no echo) ", Pattern::PassphrasePrompt)]
    #[case("Please enter passphrase for disk QEMU NVMe Ctrl (root): ", Pattern::PassphrasePrompt)]
    #[case("Please enter recovery key for disk root: ", Pattern::RecoveryKeyPrompt)]
    #[case("Please enter passphrase or recovery key for disk root: ", Pattern::RecoveryKeyPrompt)]
    #[case("\x1b[8;2H Verification failed: (0x1A) Security Violation \x1b[9;1H", Pattern::ShimRefusal)]
    #[case("\x1b[8;2H Verification failed: (0x2) Invalid Parameter \x1b[9;1H", Pattern::ShimRefusal)]
    #[case("\x1b[8;2H Verification failed: (0x3) Unsupported  \x1b[9;1H", Pattern::ShimRefusal)]
    #[case("error: bad shim signature.\r\n", Pattern::GrubRefusal)]
    #[case("error: bad shim loader signature.\r\n", Pattern::GrubRefusal)]
    #[case("error: ../../grub-core/kern/efi/sb.c:182:bad shim signature.\r\n", Pattern::GrubRefusal)]
    #[case("\r\nrlc9 login: ", Pattern::Login)]
    #[case("\r\nRLC_9-cvm login: ", Pattern::Login)]
    #[case("\r\nLas login: ", Pattern::Login)]
    #[case("\r\nLab-vm login: ", Pattern::Login)]
    #[case("\r\nLasts login: ", Pattern::Login)]
    #[case("[    1.234567] Kernel panic - not syncing: VFS\r\n", Pattern::KernelPanic)]
    #[case("BdsDxe: failed to load Boot0001 \"x\" from y: Access Denied\r\n", Pattern::FirmwareRefusal)]
    #[case("BdsDxe: failed to load Boot0001 \"x\" from File(y): Access Denied\r\n", Pattern::FirmwareRefusal)]
    fn is_recognised(#[case] text: &str, #[case] pattern: Pattern) {
        assert_eq!(seen(text.as_bytes()), [pattern]);
    }

    #[rstest]
    #[case(
        "BdsDxe: failed to start Boot0002 \"EFI Internal Shell\" from Fv(7CB8BDC9)/FvFile(7C04A583): Security Violation\r\n"
    )]
    #[case("Last login: yesterday")]
    #[case("[  OK  ] Reached target login prompts: all")]
    fn is_nothing(#[case] text: &str) {
        assert_eq!(seen(text.as_bytes()), []);
    }

    /// What no recorded boot shows, as its source writes it: edk2's `ShellPkg/Application/Shell/Shell.uni`, shim's `shim.c`
    /// (16.1), GRUB's `grub-core/loader/efi/linux.c` (2.12).
    const NEVER_RECORDED: [(Pattern, &str); 3] = [
        (
            Pattern::FirmwareShell,
            "UEFI Interactive Shell v2.2\r\nEDK II\r\nUEFI v2.70 (EDK II, 0x00010000)\r\n",
        ),
        (
            Pattern::ShimFatal,
            "Something has gone seriously wrong: SBAT self-check failed: Security Policy Violation\r\n",
        ),
        (Pattern::KernelNotLoaded, "error: ../../grub-core/loader/efi/linux.c:223:cannot load image.\r\n"),
    ];

    #[test]
    fn every_pattern_is_in_a_recording_or_in_its_source() {
        let mut known = BTreeSet::new();
        for (pattern, text) in NEVER_RECORDED {
            assert_eq!(seen(text.as_bytes()), [pattern]);
            known.insert(pattern);
        }
        for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap() {
            let mut matcher = Matcher::new();
            for (at_ms, text) in read_cast(&file.unwrap().path()).unwrap() {
                known.extend(matcher.feed(text.as_bytes(), at_ms).into_iter().map(|event| event.pattern));
            }
        }
        let all: BTreeSet<Pattern> = TABLE.iter().map(|(pattern, _)| *pattern).collect();
        assert_eq!(known, all);
    }

    #[test]
    fn a_second_prompt_is_a_second_event() {
        let mut matcher = Matcher::new();
        let prompt = b"Please enter passphrase for disk root: ";
        assert_eq!(matcher.feed(prompt, 1).len(), 1);
        assert_eq!(matcher.feed(b"\r\nno\r\n", 2).len(), 0);
        assert_eq!(matcher.feed(prompt, 3).len(), 1);
    }

    #[test]
    fn the_tail_shows_the_last_lines_and_the_open_one() {
        let mut matcher = Matcher::new();
        for piece in ["one\r\ntwo\r\n", "[    3.000000] three\r\n", "fo", "ur"] {
            matcher.feed(piece.as_bytes(), 0);
        }
        assert_eq!(matcher.tail(3), "two\n[    3.000000] three\nfour");
        assert_eq!(matcher.tail(1), "four");
    }

    fn noise() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("\x1b[0m"),
            Just("\x1b[1;31m"),
            Just("[   12.345678] nvme nvme0: 1/0/0 queues\r\n"),
            Just("[    0.000001] x\r\n[  100.000001] y\r\n"),
        ]
    }

    proptest! {
        #[test]
        fn noise_in_the_middle_hides_nothing(at in prop::collection::vec((0usize..60, noise()), 0..4), chunk in 1usize..40) {
            let prompt = "Please enter passphrase for disk QEMU (root): ";
            let mut text = prompt.to_owned();
            let mut places = at;
            places.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
            for (at, noise) in places {
                text.insert_str(at.min(prompt.len()), noise);
            }
            let mut matcher = Matcher::new();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(chunk) {
                found.extend(matcher.feed(piece, 0));
            }
            prop_assert_eq!(found.iter().filter(|e| e.pattern == Pattern::PassphrasePrompt).count(), 1);
        }

        #[test]
        fn any_bytes_are_survived(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20)) {
            let mut matcher = Matcher::new();
            for piece in &pieces {
                matcher.feed(piece, 0);
            }
            prop_assert!(matcher.tail(10).lines().count() <= 10);
        }
    }
}
