//! What a newcomer reads when his scenario file is wrong.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use latchkey_scenario::file::Scenario;
use miette::{GraphicalReportHandler, GraphicalTheme};
use rstest::rstest;

const HEAD: &str = r#"title = "t"
why = "w"
[machine]
image = "rlc9-uki"
seal = { pcrs = [4, 7], bank = "sha256" }
keys = ["platform", "fallback-passphrase"]
"#;

fn shown(source: &str) -> String {
    let error = Scenario::parse(Path::new("mine.toml"), source).unwrap_err();
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    handler.render_report(&mut text, &*error).unwrap();
    assert!(text.contains("help: "), "nobody is told what to do: {text}");
    text
}

#[rstest]
#[case::unknown_step("bot = { expect = \"unlocked\" }")]
#[case::unknown_outcome("boot = { expect = \"unlockd\" }")]
#[case::unknown_field("boot = { expects = \"unlocked\" }")]
#[case::no_such_pcr("boot = { expect = \"unlocked\", moved = { pcrs = [24], by = \"x\" } }")]
#[case::no_location("rename = { from = \"EFI/rocky/x\", to = \"y\", by = \"rescue\" }")]
#[case::answer_without_prompt(
    "answer = { with = \"fallback-passphrase\", expect = \"unlocked-by-passphrase\" }"
)]
#[case::boot_by_passphrase("boot = { expect = \"unlocked-by-passphrase\" }")]
#[case::guest_that_does_not_run("write = { path = \"/x\", text = \"y\" }")]
#[case::never_boots("rename = { from = \"esp:/EFI/a\", to = \"b\", by = \"rescue\" }")]
#[case::moved_twice("boot = { expect = \"unlocked\", moved = { pcrs = [7, 4, 7], by = \"x\" } }")]
#[case::sealed_to_nothing("seal-ahead = { pcrs = [] }")]
#[case::missing_field("boot = {}")]
#[case::another_type("boot = \"unlocked\"")]
#[case::no_toml("boot = { expect = unlocked }")]
#[case::another_word("boot = { expect = \"the machine: it opens by itself, without asking anybody\" }")]
fn points_at_the_mistake(#[case] step: &str) {
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    insta::assert_snapshot!(name, shown(&format!("{HEAD}[[step]]\n{step}\n")));
}

/// After a boot that opens the machine.
#[rstest]
#[case::a_tpm_that_is_none("tpm = \"new\"")]
#[case::a_key_that_is_there_from_the_start("add-key = { key = \"fallback-passphrase\" }")]
#[case::a_key_that_nobody_holds("reseal = { with = \"lost-passphrase\", pcrs = [4, 7] }")]
#[case::a_key_that_is_added_nowhere("remove-key = { key = \"added-passphrase\" }")]
#[case::shims_list_in_the_guest("enrol = { what = \"unrelated-hash\", to = \"mok-list\", by = \"guest\" }")]
#[case::a_list_that_is_none("enrol = { what = \"unrelated-hash\", to = \"dbz\", by = \"rescue\" }")]
#[case::no_bytes("set-variable = { name = \"BootNext\", value = \"one\", by = \"guest\" }")]
#[case::shims_state_in_the_guest("set-variable = { name = \"MokSBState\", value = \"01\", by = \"guest\" }")]
#[case::moved_on_another_image(
    "boot = { expect = \"unlocked\", moved = { pcrs = [4], also = { rlc9-gurb = [9] }, by = \"x\" } }"
)]
#[case::cut_no_time("cut-power = { times = 0, counter = 0 }")]
#[case::variables_on_another_vm(
    "set-variable = { name = \"BootOrder\", value = \"0100\", by = \"another-vm\" }"
)]
#[case::no_header_kept("header = \"restore\"")]
#[case::no_snapshot("revert = \"disk\"")]
#[case::nothing_asked_of_mokmanager("boot = { expect = \"unlocked\", at-console = \"grants\" }")]
#[case::tried_with_a_lost_key("attach = { open-with = \"lost-passphrase\", expect = \"refused\" }")]
#[case::read_from_what_stays_shut(
    "attach = { open-with = \"platform\", expect = \"refused\", path = \"/a\", text = \"b\" }"
)]
#[case::read_and_not_compared(
    "attach = { open-with = \"fallback-passphrase\", expect = \"opened\", path = \"/a\" }"
)]
#[case::banks_changed_after_the_snapshot(
    "snapshot = \"machine\"\n\n[[step]]\npcr-bank = \"sha384\"\n\n[[step]]\nrevert = \"tpm\""
)]
#[case::a_boot_in_between(
    "request-key = { what = \"stranger-certificate\" }\n\n[[step]]\nboot = { expect = \"fallback-prompt\" }\n\n\
     [[step]]\nboot = { expect = \"unlocked\", at-console = \"grants\" }"
)]
#[case::granted_twice(
    "request-key = { what = \"stranger-certificate\" }\n\n[[step]]\n\
     boot = { expect = \"unlocked\", at-console = \"grants\", times = 2 }"
)]
#[case::booted_no_time("boot = { expect = \"unlocked\", times = 0 }")]
#[case::booted_for_ever("boot = { expect = \"unlocked\", times = 1000000 }")]
#[case::cut_for_ever("cut-power = { times = 101, counter = 0 }")]
#[case::answered_for_ever(
    "boot = { expect = \"fallback-prompt\" }\n\n[[step]]\n\
     answer = { with = \"wrong-passphrase\", times = 5000000000, expect = \"emergency-shell\" }"
)]
#[case::a_token_that_no_header_has("remove-token = { number = 32 }")]
#[case::two_things("write = { path = \"/a\", text = \"b\" }\nsnapshot = \"machine\"")]
#[case::a_path_that_is_a_file("remove = { path = \"esp:/EFI/a\", by = \"guest\" }")]
#[case::a_file_that_is_a_path("write = { file = \"/a\", text = \"b\" }")]
#[case::no_room_for_somebody_outside(
    "replace = { file = \"esp:/EFI/a\", with = \"shim-of-other-vendor\", by = \"rescue\", expect = \"no-room\" }"
)]
#[case::a_control_character("write = { path = \"/a\", text = \"\\u001b[31m\" }")]
#[case::a_command_alone("guest = \"true\"")]
#[case::text_the_other_way_round("write = { path = \"/a\", text = \"txt.\\u202eexe\" }")]
#[case::nothing_near_it("boot = { expect = \"unlocked\", timeout = 10 }")]
#[case::a_number_that_is_none("boot = { expect = \"unlocked\", moved = { pcrs = [-1], by = \"dbx\" } }")]
#[case::watched_for_too_long("boot = { expect = \"fallback-prompt\", for-seconds = 3600 }")]
#[case::watched_while_open("boot = { expect = \"unlocked\", for-seconds = 60 }")]
#[case::guest_state_of_no_snapshot("revert = \"guest-state\"")]
#[case::restarted_at_a_prompt("boot = { expect = \"fallback-prompt\", for-seconds = 400, restarts = 1 }")]
#[case::refused_and_installed(
    "load-module = { signer = \"stranger\", expect = \"refused\", install = true }"
)]
#[case::gives_up_while_open("boot = { expect = \"unlocked\", then = \"emergency-shell\" }")]
fn points_at_the_mistake_after_a_boot(#[case] step: &str) {
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    let boot = "[[step]]\nboot = { expect = \"unlocked\" }\n";
    insta::assert_snapshot!(
        format!("after_a_boot_{name}"),
        shown(&format!("{HEAD}{boot}[[step]]\n{step}\n"))
    );
}

#[test]
fn a_wrong_key_is_no_key_of_the_machine() {
    let head = HEAD.replace("\"fallback-passphrase\"", "\"wrong-passphrase\"");
    insta::assert_snapshot!(shown(&format!("{head}[[step]]\nboot = {{ expect = \"unlocked\" }}\n")));
}

#[test]
fn a_right_key_is_typed_once() {
    let steps = "[[step]]\nboot = { expect = \"fallback-prompt\" }\n[[step]]\nanswer = { with = \"fallback-passphrase\", times = 2, expect = \"unlocked-by-passphrase\" }\n";
    insta::assert_snapshot!(shown(&format!("{HEAD}{steps}")));
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let steps = "[[step]]\nboot = { expect = \"fallback-prompt\" }\n[[step]]\nanswer = { with = \"wrong-passphrase\", expect = \"unlocked-by-passphrase\" }\n";
    insta::assert_snapshot!(shown(&format!("{HEAD}{steps}")));
}

#[test]
fn the_platforms_key_cannot_be_typed() {
    let steps = "[[step]]\nboot = { expect = \"fallback-prompt\" }\n[[step]]\nanswer = { with = \"platform\", expect = \"unlocked-by-passphrase\" }\n";
    insta::assert_snapshot!(shown(&format!("{HEAD}{steps}")));
}

#[test]
fn nor_can_a_binary_key() {
    let steps = "[[step]]\nboot = { expect = \"fallback-prompt\" }\n[[step]]\nanswer = { with = \"binary-recovery-key\", expect = \"unlocked-by-recovery-key\" }\n";
    insta::assert_snapshot!(shown(&format!("{HEAD}{steps}")));
}

#[rstest]
#[case::no_pcr("pcrs = [4, 7]", "pcrs = []")]
#[case::a_pcr_twice("pcrs = [4, 7]", "pcrs = [4, 7, 4]")]
#[case::no_key("[\"platform\", \"fallback-passphrase\"]", "[]")]
#[case::a_key_twice("\"fallback-passphrase\"", "\"platform\"")]
fn a_machine_has_pcrs_and_keys_once(#[case] right: &str, #[case] wrong: &str) {
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    let head = HEAD.replace(right, wrong);
    insta::assert_snapshot!(
        format!("a_machine_has_{name}"),
        shown(&format!("{head}[[step]]\nboot = {{ expect = \"unlocked\" }}\n"))
    );
}

#[rstest]
#[case::no_image("[]")]
#[case::image_named_twice("[\"rlc9-uki\", \"rlc9-grub\", \"rlc9-uki\"]")]
#[case::image_that_is_none("[\"rlc9-uki\", \"rlc9-gurb\"]")]
fn images_are_named_once(#[case] images: &str) {
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    let head = HEAD.replace("\"rlc9-uki\"", images);
    insta::assert_snapshot!(name, shown(&format!("{head}[[step]]\nboot = {{ expect = \"unlocked\" }}\n")));
}

#[rstest]
#[case::for_which_it_is("rlc9-uki = \"it has no GRUB\"")]
#[case::that_is_none("rlc9-gurb = \"it has no UKI\"")]
#[case::for_no_reason("rlc9-grub = \" \"")]
fn an_image_is_left_out(#[case] line: &str) {
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    let head = HEAD.replace("[machine]", &format!("[left-out]\n{line}\n[machine]"));
    insta::assert_snapshot!(
        format!("an_image_is_left_out_{name}"),
        shown(&format!("{head}[[step]]\nboot = {{ expect = \"unlocked\" }}\n"))
    );
}

#[test]
fn what_locks_nobody_out_may_be_irreversible_and_says_nothing() {
    let head = HEAD.replace("[machine]", "irreversible = \"it is gone\"\n[machine]");
    insta::assert_snapshot!(shown(&format!("{head}[[step]]\nboot = {{ expect = \"unlocked\" }}\n")));
}

#[test]
fn a_coming_change_is_made_from_outside() {
    let coming = "coming = [{ rename = { from = \"esp:/EFI/a\", to = \"b\", by = \"guest\" } }]\n";
    insta::assert_snapshot!(shown(&format!("{HEAD}{coming}[[step]]\nboot = {{ expect = \"unlocked\" }}\n")));
}

#[rstest]
#[case::on_another_image("rlc9-grub", "t", "2027-01-31", "none of the machine's images")]
#[case::without_a_tracker("rlc9-uki", " ", "2027-01-31", "needs a reason and a tracker")]
#[case::until_a_time("rlc9-uki", "t", "2027-01-31T10:00:00Z", "is no day")]
#[case::until_a_word("rlc9-uki", "t", "\"soon\"", "this is no day")]
fn a_known_failure_is_told_whole(
    #[case] image: &str,
    #[case] tracker: &str,
    #[case] until: &str,
    #[case] expected: &str,
) {
    let entry =
        format!("image = \"{image}\"\nstep = 1\nreason = \"r\"\ntracker = \"{tracker}\"\nuntil = {until}\n");
    let text = shown(&format!("{HEAD}[[step]]\nboot = {{ expect = \"unlocked\" }}\n[[known]]\n{entry}"));
    assert!(text.contains(expected), "{text}");
}

/// A line that nobody could read is named, and not shown.
/// How files look that somebody writes without one to begin from.
#[rstest]
#[case::one_bracket(&HEAD, "[step]\nboot = { expect = \"unlocked\" }\n")]
#[case::no_steps(&HEAD, "")]
#[case::title_below(&HEAD.replace("title = \"t\"\n", ""), "title = \"t\"\n[[step]]\nboot = { expect = \"unlocked\" }\n")]
#[case::key_by_half_its_name(&HEAD.replace("fallback-passphrase", "passphrase"), "[[step]]\nboot = { expect = \"unlocked\" }\n")]
fn a_first_file(#[case] head: &str, #[case] rest: &str) {
    let name = std::thread::current().name().unwrap().rsplit("::").next().unwrap().to_owned();
    insta::assert_snapshot!(format!("a_first_file_{name}"), shown(&format!("{head}{rest}")));
}

#[test]
fn a_line_without_end_is_not_shown() {
    let text = shown(&format!("{HEAD}[[step]]\nboot = {}\n", "[".repeat(2000)));
    let line = 1 + HEAD.matches('\n').count() + 1;
    assert!(text.contains(&format!("line {line}, which is too long to show")) && text.len() < 1000, "{text}");
}

/// What is no text, has no end, or is another kind of file.
#[test]
fn a_file_that_is_no_scenario_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let told = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Scenario::load(&path).unwrap_err().to_string()
    };
    assert!(told("binary.toml", b"title = 't'\nwhy = '\xff'\n").ends_with("its line 2 is no UTF-8 text"));
    assert!(told("long.toml", &vec![b'#'; 300 << 10]).ends_with("it is longer than 256 KiB"));
    let pipe = dir.path().join("pipe.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(Scenario::load(&pipe).unwrap_err().to_string().ends_with("it is no file"));
    assert!(Scenario::load(dir.path()).unwrap_err().to_string().contains("directory"));
}

/// Those of the list of rows that must not shrink, at least.
#[test]
fn every_scenario_of_the_project_is_sound() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut seen = BTreeSet::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let is_scenario = path.extension().is_some_and(|end| end == "toml") && !path.ends_with("Cargo.toml");
        if is_scenario {
            let scenario = Scenario::load(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            seen.insert(scenario.name);
        }
    }
    let rows = std::fs::read_to_string(dir.join("rows.txt")).unwrap();
    let listed: BTreeSet<String> =
        rows.lines().filter_map(|row| row.split_whitespace().next()).map(str::to_owned).collect();
    assert!(!listed.is_empty());
    let gone: Vec<&String> = listed.difference(&seen).collect();
    assert!(gone.is_empty(), "{gone:?}");
}
