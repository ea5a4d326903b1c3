//! A secret planted in every form in which one gets into a run's directory, and found; and nothing found where there is
//! none.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use latchkey_report::RunDir;
use latchkey_report::leak::Search;
use rstest::rstest;

const PASSPHRASE: &str = "k3v9qp-zz7hnm-w4xd2c-r8tjya";
/// As systemd prints one; the bytes behind it are 0x00, 0x11 .. 0xff, twice.
const RECOVERY: &str = "ccbbddee-ffgghhii-jjkkllnn-rrttuuvv-ccbbddee-ffgghhii-jjkkllnn-rrttuuvv";
const BINARY: [u8; 20] = *b"\xff\x00\x80\x1b[31m\r\n\"\\\xfe<&>%+/\x07";

fn search() -> Search {
    let secrets: [(&str, &[u8]); 3] =
        [("passphrase", PASSPHRASE.as_bytes()), ("recovery", RECOVERY.as_bytes()), ("binary", &BINARY)];
    Search::new(secrets.map(|(name, secret)| (name.to_owned(), secret))).unwrap()
}

fn found(bytes: impl AsRef<[u8]>) -> Vec<String> {
    let search = search();
    let mut names: Vec<String> =
        search.bytes(bytes.as_ref()).iter().map(|(name, _)| (*name).to_owned()).collect();
    names.dedup();
    names
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn behind_recovery() -> Vec<u8> {
    (0..16).map(|digit| digit << 4 | digit).cycle().take(32).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Spreads text over a recording's lines, as a guest echoes it.
fn recording(text: &str, each: usize) -> String {
    let pieces = text.as_bytes().chunks(each).map(|piece| String::from_utf8_lossy(piece).into_owned());
    let lines = pieces.enumerate().map(|(i, piece)| serde_json::json!([i, "o", piece]).to_string() + "\n");
    std::iter::once("{\"version\":2}\n".to_owned()).chain(lines).collect()
}

#[rstest]
#[case::raw(format!("before{PASSPHRASE}after").into_bytes())]
#[case::typed_with_return(format!("{PASSPHRASE}\r").into_bytes())]
#[case::capitals(PASSPHRASE.to_uppercase().into_bytes())]
#[case::no_dashes(PASSPHRASE.replace('-', "").into_bytes())]
#[case::blanks_for_dashes(PASSPHRASE.replace('-', " ").into_bytes())]
#[case::hex(hex(PASSPHRASE.as_bytes()).into_bytes())]
#[case::capital_hex(hex(PASSPHRASE.as_bytes()).to_uppercase().into_bytes())]
#[case::hex_in_pairs(PASSPHRASE.bytes().map(|b| format!("{b:02x} ")).collect::<String>().into_bytes())]
#[case::numbers(serde_json::to_vec_pretty(PASSPHRASE.as_bytes()).unwrap())]
#[case::base64(STANDARD.encode(PASSPHRASE).into_bytes())]
#[case::base64_second_place(STANDARD.encode(format!("x{PASSPHRASE}yz")).into_bytes())]
#[case::base64_third_place(STANDARD.encode(format!("xy{PASSPHRASE}z")).into_bytes())]
#[case::base64_after_letters(format!("abc{}", STANDARD.encode(format!("x{PASSPHRASE}"))).into_bytes())]
#[case::base64_of_base64(STANDARD.encode(STANDARD.encode(format!("x{PASSPHRASE}"))).into_bytes())]
#[case::wrapped_base64(STANDARD.encode(PASSPHRASE).as_bytes().chunks(16).collect::<Vec<_>>().join(&b'\n'))]
#[case::utf16(utf16(PASSPHRASE))]
#[case::utf16_in_base64(STANDARD.encode(utf16(PASSPHRASE)).into_bytes())]
#[case::json_escapes(PASSPHRASE.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect::<String>().into_bytes())]
#[case::in_a_recording(recording(&format!("passphrase: {PASSPHRASE}\r\n"), 400).into_bytes())]
#[case::in_a_recordings_pieces(recording(&format!("passphrase: {PASSPHRASE}\r\n"), 5).into_bytes())]
#[case::coloured(recording(&PASSPHRASE.replace('-', "\u{1b}[1;31m-\u{1b}[0m"), 7).into_bytes())]
fn a_passphrase_is_found(#[case] planted: Vec<u8>) {
    assert_eq!(found(planted), ["passphrase"]);
}

#[rstest]
#[case::modhex(RECOVERY.as_bytes().to_vec())]
#[case::what_it_stands_for(behind_recovery())]
#[case::that_in_hex(hex(&behind_recovery()).into_bytes())]
#[case::that_in_base64(STANDARD.encode(behind_recovery()).into_bytes())]
fn a_recovery_key_is_found(#[case] planted: Vec<u8>) {
    assert_eq!(found(planted), ["recovery"]);
}

#[rstest]
#[case::raw([b"a", &BINARY[..], b"b"].concat())]
#[case::hex(hex(&BINARY).into_bytes())]
#[case::base64(STANDARD.encode(BINARY).into_bytes())]
#[case::base64_for_addresses(URL_SAFE.encode(BINARY).into_bytes())]
#[case::as_text(format!("a{}b", String::from_utf8_lossy(&BINARY)).into_bytes())]
#[case::as_text_in_json(serde_json::to_vec(&String::from_utf8_lossy(&BINARY)).unwrap())]
#[case::as_text_in_xml(
    String::from_utf8_lossy(&BINARY).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").into_bytes()
)]
#[case::percent(BINARY.iter().map(|b| match b {
    b if b.is_ascii_alphanumeric() => char::from(*b).to_string(),
    b => format!("%{b:02X}"),
}).collect::<String>().into_bytes())]
fn a_binary_key_is_found(#[case] planted: Vec<u8>) {
    assert_eq!(found(planted), ["binary"]);
}

#[rstest]
#[case::nothing(Vec::new())]
#[case::half_of_one(PASSPHRASE.as_bytes()[..13].to_vec())]
#[case::another(b"k3v9qp-zz7hnm-w4xd2c-r8tjyb".to_vec())]
#[case::hashes(hex(&[0x5a; 4096]).into_bytes())]
fn nothing_is_found_where_nothing_is(#[case] planted: Vec<u8>) {
    assert_eq!(found(planted), Vec::<String>::new());
}

/// Each of a run's files in turn holds one, and the report made of them as well, packed as it is.
#[rstest]
#[case("passing/power-1.cast", true)]
#[case("passing/boot.tpm.jsonl", true)]
// One that was changed is not in the report.
#[case("passing/boot.forecast.json", false)]
#[case("failing/qemu.txt", true)]
fn a_run_with_a_leak_is_not_clean(#[case] file: &str, #[case] is_in_report: bool) {
    let dir = tempfile::tempdir().unwrap();
    common::evidence(dir.path());
    RunDir::at(dir.path()).write(&common::run(2)).unwrap();
    assert_eq!(search().directory(dir.path()).unwrap(), []);
    let path = dir.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}[4.0,\"o\",\"{PASSPHRASE}\\r\\n\"]\n")).unwrap();
    RunDir::at(dir.path()).write_reports(&common::run(2)).unwrap();
    let leaks = search().directory(dir.path()).unwrap();
    let mut files: Vec<&Path> =
        leaks.iter().map(|leak| leak.file.strip_prefix(dir.path()).unwrap()).collect();
    files.dedup();
    let expected = [Path::new(file), Path::new("report.html")];
    assert_eq!(files, expected[..1 + usize::from(is_in_report)]);
    assert!(leaks.iter().all(|leak| leak.secret == "passphrase" && !leak.to_string().contains(PASSPHRASE)));
}

/// A guest may print what would take for ever to look at; that it is clean is then not said.
#[test]
fn what_is_too_much_to_unpack_is_not_clean() {
    let packed = |count: usize| {
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        let nothing = [0; 1 << 20];
        (0..count).for_each(|_| std::io::Write::write_all(&mut packer, &nothing).unwrap());
        STANDARD.encode(packer.finish().unwrap())
    };
    assert_eq!(search().bytes(packed(8).as_bytes()), []);
    let one = packed(80);
    let many = vec![packed(48); 20].join("\n");
    for bombs in [one, many] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("console"), format!("{PASSPHRASE}\n{bombs}")).unwrap();
        let told = search().directory(dir.path()).unwrap();
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        // What was found is told all the same.
        assert!(told.len() == 2 && told[1].ends_with("console holds passphrase as it is"), "{told:?}");
        assert!(
            told[0].ends_with("console holds more that is packed than can be looked at for secrets"),
            "{told:?}"
        );
    }
}

#[test]
fn a_files_name_may_be_the_leak() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("inner")).unwrap();
    std::fs::write(dir.path().join("inner").join(PASSPHRASE), "").unwrap();
    assert_eq!(search().directory(dir.path()).unwrap().len(), 1);
    assert!(search().directory(&dir.path().join("nowhere")).is_err());
}
