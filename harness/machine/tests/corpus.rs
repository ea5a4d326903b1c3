//! Recorded consoles and the patterns in them, in order.
//!
//! `corpus/` holds recordings of real boots as a run leaves them in `target/latchkey/<run>/`, some cut to the boot that
//! counts. A console that was misread is added there, with a row here that says what should have been read.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use latchkey_machine::console::{Matcher, read_cast};
use latchkey_record::console::Pattern::{self, *};

const TABLE: &[(&str, &[Pattern])] = &[
    ("unlocks-and-powers-off", &[FirmwareStarts, KernelStarts, Login, PowersOff]),
    ("unlocks-then-panics", &[FirmwareStarts, KernelStarts, Login, KernelPanic]),
    (
        "wrong-then-right-passphrase",
        &[FirmwareStarts, KernelStarts, PassphrasePrompt, PassphrasePrompt, Login, PowersOff],
    ),
    (
        "another-tpm-then-ctrl-alt-del",
        &[FirmwareStarts, KernelStarts, PassphrasePrompt, PassphrasePrompt, Restarts, Restarts],
    ),
    (
        "fallback-three-wrong-passphrases",
        &[
            FirmwareStarts,
            BootOptionRestoration,
            FirmwareStarts,
            KernelStarts,
            PassphrasePrompt,
            PassphrasePrompt,
            PassphrasePrompt,
            EmergencyShell,
        ],
    ),
    ("only-the-tpm-keyslot", &[FirmwareStarts, KernelStarts, EmergencyShell]),
    ("shim-refuses-then-mokmanager", &[FirmwareStarts, ShimRefusal, MokManager]),
    ("firmware-refuses", &[FirmwareRefusal, FirmwareRefusal, FirmwareStarts, NoBootOption]),
    ("grub-refuses-a-kernel", &[FirmwareStarts, GrubRefusal]),
    ("tpm-in-lockout", &[FirmwareStarts, KernelStarts, TpmLockout, NoPassphraseRegistered]),
    ("recovery-key", &[FirmwareStarts, KernelStarts, PolicyMismatch, RecoveryKeyPrompt, Login]),
    (
        "wrong-passphrases-until-systemd-gives-up",
        &[
            FirmwareStarts,
            KernelStarts,
            TpmFallback,
            TpmFallback,
            PassphrasePrompt,
            WrongPassphrase,
            WrongPassphrase,
            TooManyAttempts,
        ],
    ),
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn read(name: &str, in_pieces_of: impl Fn(&str) -> Vec<Vec<u8>>) -> Vec<Pattern> {
    let mut matcher = Matcher::new();
    let pieces = read_cast(&corpus().join(format!("{name}.cast"))).unwrap();
    let mut seen = Vec::new();
    for (at_ms, text) in pieces {
        for piece in in_pieces_of(&text) {
            seen.extend(matcher.feed(&piece, at_ms).into_iter().map(|event| event.pattern));
        }
    }
    seen
}

#[test]
fn recordings_read_as_the_table_says() {
    for (name, expected) in TABLE {
        assert_eq!(read(name, |text| vec![text.as_bytes().to_vec()]), *expected, "{name}");
    }
}

#[test]
fn how_the_bytes_are_cut_changes_nothing() {
    for (name, expected) in TABLE {
        assert_eq!(read(name, |text| text.bytes().map(|b| vec![b]).collect()), *expected, "{name}, bytes");
    }
}

#[test]
fn every_recording_is_in_the_table() {
    let files: BTreeSet<String> = std::fs::read_dir(corpus())
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let rows: BTreeSet<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, rows);
}
