//! GRUB's configurations, run as GRUB runs them, on disks that exist in memory alone.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_grub::{MODULES, boot_with, esp_with, measured, on, through, told};
use common::{Memory, STRANGER, VENDOR, shim_of, unverified, variables, with_boot};
use latchkey_disk::VarStore;
use latchkey_measure::{samples, sign_pe};
use latchkey_record::{Outcome, Stage};
use rstest::rstest;

const BOOTS: &str = "\nset timeout=0\nmenuentry 'One' { true; }\nmenuentry 'Two' --id two {\n\tlinux /vmlinuz quiet a=\"b c\"\n\tinitrd /initrd\n}\n";

#[rstest]
#[case::words("set a='x  y'\necho $a \"$a\" \\$a z#z # comment", &["8 set a=x  y", "8 echo x y x  y $a z#z"])]
#[case::empty_words("echo \"\" $none end", &["8 echo  end"])]
#[case::conditions("if [ a = b ]; then\necho 1\nelif test a != b; then echo 2; else echo 3; fi",
    &["8 [ a = b ]", "8 test a != b", "8 echo 2"])]
#[case::a_bracket_that_is_not_closed("if [ a = a; then echo 1; fi\nif test a = b ]; then echo no; else echo 2; fi",
    &["8 [ a = a", "8 echo 1", "8 test a = b ]", "8 echo 2"])]
#[case::negation("if ! true; then echo 1; else echo 2; fi", &["8 ! true", "8 echo 2"])]
#[case::functions("function f { echo \"$1 of $#\"; return 1; echo never; }\nif f a b; then echo yes; fi",
    &["8 f a b", "8 echo a of 2", "8 return 1"])]
#[case::loops("for x in 1 2; do echo $x; done\nwhile [ x$y != xaa ]; do set y=${y}a; done",
    &["8 echo 1", "8 echo 2", "8 [ x != xaa ]", "8 set y=a", "8 [ xa != xaa ]", "8 set y=aa", "8 [ xaa != xaa ]"])]
#[case::returning_out_of_a_loop("function f { for x in 1 2; do return 1; done; }\nfunction g { while true; do return; done; echo no; }\nif f; then echo no; fi\ng",
    &["8 f", "8 return 1", "8 g", "8 true", "8 return"])]
#[case::assignment("a=b\necho $a", &["8 a=b", "8 echo b"])]
#[case::lines_that_begin_with_a_hash("# nothing\n\n  # nothing\necho 1", &["8 echo 1"])]
#[case::asking_for_a_size_measures("if [ -s $prefix/grubenv ]; then load_env; fi\nload_env --skip-sig",
    &["8 [ -s (hd0,gpt2)/grub2/grubenv ]", "9 file (hd0,gpt2)/grub2/grubenv", "8 load_env",
      "9 file (hd0,gpt2)/grub2/grubenv", "8 load_env --skip-sig"])]
#[case::asking_whether_it_is_there_does_not("[ -e $prefix/grubenv ]\n[ -d /grub2 ]", &["8 [ -e (hd0,gpt2)/grub2/grubenv ]", "8 [ -d /grub2 ]"])]
#[case::modules("insmod ext2\ninsmod extra\ninsmod none",
    &["8 insmod ext2", "8 insmod extra", "9 file (hd0,gpt2)/grub2/x86_64-efi/extra.mod", "8 insmod none"])]
#[case::a_search_by_label("search --label BOOT --set=x\nsearch.fs_label BOOT z\necho $x,$z",
    &["8 search --label BOOT --set=x", "8 search.fs_label BOOT z", "8 echo hd0,gpt2,hd0,gpt2"])]
#[case::words_of_a_search_apart("search --set x --label BOOT --hint hd0,gpt2\nsearch --label --set BOOT\necho $x $root",
    &["8 search --set x --label BOOT --hint hd0,gpt2", "8 search --label --set BOOT", "8 echo hd0,gpt2 hd0,gpt2"])]
#[case::a_search_that_sets_nothing("search.fs_label BOOT\necho $root", &["8 search.fs_label BOOT", "8 echo hd0,gpt1"])]
#[case::efis_hint_before_the_hardwares("search --file --set=x --hint-baremetal=hd0,1 --hint-efi=hd0,2 /vmlinuz\necho $x",
    &["8 search --file --set=x --hint-baremetal=hd0,1 --hint-efi=hd0,", "9 file (hd0,2)/vmlinuz", "8 echo hd0,2"])]
#[case::no_wildcards("echo a* b=? '/*'", &["8 echo a* b=? /*"])]
#[case::a_device_in_parentheses("set root=(hd0,gpt2)\necho $root", &["8 set root=(hd0,gpt2)", "8 echo hd0,gpt2"])]
#[case::a_file_that_is_not_there("if source /none; then echo yes; fi", &["8 source /none", "8 echo yes"])]
#[case::arguments_that_stay_words("function f { for x in \"$@\"; do echo $x; done; }\nf 'a b' c",
    &["8 f a b c", "8 echo a b", "8 echo c"])]
#[case::no_arguments("function f { echo \"$@\" end; }\nf", &["8 f", "8 echo  end"])]
#[case::a_root_that_is_unset_is_empty("unset root\nset root=hd0,gpt2\nconfigfile /none\nset root\necho $root",
    &["8 unset root", "8 set root=hd0,gpt2", "8 configfile /none", "8 set root", "8 echo hd0,gpt2"])]
#[case::source_takes_one("if source /grub2/grub.cfg x; then echo no; fi", &["8 source /grub2/grub.cfg x"])]
#[case::numbers_of_32_bits("if [ 3000000000 -gt 1 ]; then echo no; else echo 1; fi",
    &["8 [ 3000000000 -gt 1 ]", "8 echo 1"])]
#[case::a_search_again("search --file --set=x --hint=hd0,2 /vmlinuz\nsearch --file --set=y --hint=hd0,gpt2 /vmlinuz\necho $y",
    &["8 search --file --set=x --hint=hd0,2 /vmlinuz", "9 file (hd0,2)/vmlinuz",
      "8 search --file --set=y --hint=hd0,gpt2 /vmlinuz", "9 file (hd0,2)/vmlinuz", "8 echo hd0,2"])]
#[case::one_unset_at_a_time("set a=1\nset b=2\nunset a b\necho $a,$b", &["8 set a=1", "8 set b=2", "8 unset a b", "8 echo ,2"])]
#[case::numbers_as_c_reads_them("if [ 010 -eq 8 -a 0x10 -eq 16 -a 5s -eq 5 -a -3 -lt 0 ]; then echo yes; fi",
    &["8 [ 010 -eq 8 -a 0x10 -eq 16 -a 5s -eq 5 -a -3 -lt 0 ]", "8 echo yes"])]
#[case::continued_lines("echo a \\\n  b", &["8 echo a b"])]
#[case::a_command_that_nobody_knows("frobnicate x", &["8 frobnicate x"])]
fn commands_are_measured_as_they_run(#[case] config: &str, #[case] expected: &[&str]) {
    let forecast = told(config, &VENDOR);
    let seen = measured(&forecast);
    assert_eq!(seen, expected, "{}", forecast.because);
}

#[rstest]
#[case::by_number("set default=1")]
#[case::by_a_number_with_more_behind_it("set default=1.0-kernel")]
#[case::by_a_number_of_a_submenus_path("set default='1>0'")]
#[case::by_title("set default=Two")]
#[case::by_id("set default=two")]
#[case::saved("load_env --skip-sig saved_entry\nset default=\"${saved_entry}\"")]
fn the_menus_default_is_booted(#[case] choice: &str) {
    let forecast = told(&format!("set root=hd0,gpt2\n{choice}{BOOTS}"), &VENDOR);
    let seen = measured(&forecast);
    let from = seen.iter().position(|what| what == "8 setparams Two").unwrap();
    let kernel = "4 kernel, verified for GRUB";
    assert_eq!(
        seen[from..],
        [
            "8 setparams Two",
            "8 linux /vmlinuz quiet a=b c",
            "9 file /vmlinuz",
            kernel,
            kernel,
            "8 kernel_cmdline: /vmlinuz quiet \"a=b c\"",
            "8 initrd /initrd",
            "9 file /initrd",
        ],
        "{}",
        forecast.because
    );
}

/// The modules that tell Debian's 2.12 from its 2.06.
const LATER_MODULES: &[&str] = &["normal", "tpm", "linux", "peimage", "test", "search", "ext2", "regexp"];

#[test]
fn the_later_grub_verifies_kernels_once_and_opens_its_configuration_twice() {
    let config = format!("set root=hd0,gpt2\nset default=two{BOOTS}");
    let forecast = through("2.12", LATER_MODULES, &config, &VENDOR);
    let events: Vec<String> = forecast.legs[0]
        .events
        .iter()
        .filter(|event| event.stage == Stage::Grub || event.what.contains("for GRUB"))
        .map(|event| format!("{} {}", event.pcr.get(), event.what))
        .collect();
    let own = "9 file (hd0,gpt1)/EFI/rocky/grub.cfg";
    assert_eq!(events[..2], [own, own], "{}", forecast.because);
    let loaded = ["9 file /vmlinuz", "4 kernel, verified for GRUB"];
    assert_eq!(events.iter().filter(|what| loaded.contains(&what.as_str())).collect::<Vec<_>>(), loaded);
}

#[test]
fn the_later_grub_looks_where_it_lies_first() {
    let grub = samples::grub("2.12", LATER_MODULES, "/EFI/rocky", None).unwrap();
    let esp = Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8"))
        .with("/EFI/BOOT/grubx64.efi", sign_pe(&grub, &VENDOR).unwrap())
        .with("/EFI/BOOT/grub.cfg", b"echo $fw_path $cmdpath".to_vec())
        .with("/EFI/rocky/grub.cfg", b"echo no".to_vec());
    let forecast = with_boot(&esp, None, &variables());
    let said: Vec<&str> = forecast.legs[0]
        .events
        .iter()
        .filter(|event| event.pcr.get() == 8)
        .map(|e| e.what.as_str())
        .collect();
    assert_eq!(said, ["grub_cmd: echo (hd0,gpt1)/EFI/BOOT"], "{}", forecast.because);
}

#[rstest]
#[case::firmware_loads_kernels(MODULES, "has the firmware load kernels")]
#[case::no_module_for_it(&["normal", "tpm", "peimage", "linux", "search", "ext2"], "waits for somebody")]
fn what_the_later_grub_does_otherwise_is_said(#[case] modules: &[&str], #[case] why: &str) {
    let forecast = through("2.12", modules, "set root=hd0,gpt2\nlinux /vmlinuz", &VENDOR);
    assert!(forecast.because.contains(why), "{}", forecast.because);
}

#[test]
fn an_entry_is_measured_with_its_block() {
    let forecast = told("menuentry 'A' --class b {\n\techo 1\n}", &VENDOR);
    let expected = latchkey_measure::hash::digest(
        latchkey_measure::HashAlg::Sha256,
        b"menuentry A --class b {\n\techo 1\n}",
    );
    let events = &forecast.legs.last().unwrap().events;
    let entry = events.iter().find(|event| event.what == "grub_cmd: menuentry A --class b {").unwrap();
    assert_eq!(entry.digests, [expected]);
    assert_eq!(entry.from.to_string(), "boot:/grub2/grub.cfg (line 1)");
}

#[test]
fn a_kernel_that_shim_refuses_is_reported_by_grub() {
    let forecast = told(&format!("set root=hd0,gpt2\nset default=two{BOOTS}"), &STRANGER);
    assert_eq!(forecast.outcome, Some(Outcome::RefusedByShim), "{}", forecast.because);
    assert_eq!(forecast.reported_by.as_deref(), Some("grub"));
    assert!(forecast.because.contains("boot:/vmlinuz is signed by nobody"), "{}", forecast.because);
    let seen = measured(&forecast);
    let after: Vec<&str> = seen.iter().rev().take(3).rev().map(String::as_str).collect();
    assert_eq!(after, ["9 file /vmlinuz", "4 kernel, verified for GRUB", "8 initrd /initrd"]);
}

#[rstest]
#[case::a_command("\nblscfg\n", "line 2: the command blscfg is not modelled")]
#[case::a_return_from_nowhere("return 1", "line 1: `return` outside of a function")]
#[case::a_wildcard("echo /boot/*", "line 1: wildcards are not modelled")]
#[case::no_end("if true; then\necho 1\n", "the file ends within a statement")]
#[case::circles("while true; do true; done", "it runs in circles")]
#[case::empty_circles("while do done", "it runs in circles")]
#[case::growth("while true; do set a=\"x$a$a\"; done", "its commands are too much text")]
#[case::growth_by_files(
    "set root=hd0,gpt2\nwhile true; do source /long; done",
    "its commands are too much text"
)]
#[case::recursion("function f { f; }\nf", "call one another too deeply")]
#[case::files("source $prefix/grub.cfg", "call one another too deeply")]
#[case::menus("set timeout=0\nsubmenu a { source $prefix/grub.cfg }", "call one another too deeply")]
#[case::another_file_system(
    "search --file --set=root /none",
    "the file system of partition 3 is none that is read here"
)]
#[case::a_file_on_it(
    "source (hd0,gpt3)/grub.cfg",
    "the file system of partition 3 is none that is read here"
)]
#[case::a_directory_on_it(
    "[ -d (hd0,gpt3)/grub2 ]",
    "the file system of partition 3 is none that is read here"
)]
#[case::a_wildcard_in_a_value("set x='/b*'\necho $x", "line 2: wildcards are not modelled")]
#[case::the_number_of_an_error("false\necho $?", "line 2: the number of what went wrong")]
#[case::a_word_without_a_rule("[[ a = b ]]", "this is nothing that GRUB knows")]
#[case::no_text("echo \u{0}", "is no text")]
#[case::an_age("[ /a -nt /b ]", "test with -nt is not modelled")]
#[case::nobody_chooses("menuentry 'One' { true; }", "the menu has no time-out")]
#[case::nothing_loaded("set timeout=0\nmenuentry 'One' { true; }", "the menu entry loads no kernel")]
fn what_is_not_modelled_is_said_with_its_line(#[case] config: &str, #[case] why: &str) {
    let forecast = told(config, &VENDOR);
    assert_eq!(forecast.outcome, None);
    let said = format!("{} {}", forecast.unmodelled[0].what, forecast.because);
    assert!(said.contains(why), "{said}");
    assert!(said.contains("boot:/grub2/grub.cfg"), "{said}");
}

#[test]
fn what_is_no_kernel_is_measured_as_a_file_alone() {
    let config = "set root=hd0,gpt2\nlinux /initrd quiet\ninitrd /initrd\necho end";
    let seen = measured(&on("2.06", MODULES, config, &VENDOR, &unverified(false)));
    let expected =
        ["8 set root=hd0,gpt2", "8 linux /initrd quiet", "9 file /initrd", "8 initrd /initrd", "8 echo end"];
    assert_eq!(seen, expected);
}

#[rstest]
#[case::drawn("terminal_output gfxterm\nset theme=/t\nset timeout=5", true)]
#[case::at_once("terminal_output gfxterm\nset theme=/t\nset timeout=0", false)]
#[case::hidden("terminal_output gfxterm\nset theme=/t\nset timeout_style=hidden\nset timeout=5", false)]
#[case::on_the_console("set theme=/t\nset timeout=5", false)]
fn a_theme_matters_where_the_menu_is_drawn(#[case] config: &str, #[case] open: bool) {
    let config = format!("set root=hd0,gpt2\nmenuentry 'One' {{ linux /vmlinuz }}\n{config}");
    let forecast = told(&config, &VENDOR);
    assert_eq!(forecast.because.contains("a menu with a theme"), open, "{}", forecast.because);
}

#[test]
fn statements_in_one_another_take_no_more_of_the_stack_than_there_is() {
    let config = format!("function f {{ {}f; {}}}\nf", "if true; then ".repeat(60), "fi; ".repeat(60));
    let forecast = told(&config, &VENDOR);
    assert!(forecast.because.contains("stand in one another too deeply"), "{}", forecast.because);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn no_configuration_makes_it_panic(config in "[ a-z${}\"'\\\\\n;#=\\[\\]!]{0,80}") {
        let _ = told(&config, &VENDOR);
    }

    #[test]
    fn no_damaged_image_makes_it_panic(at in 0usize..4096, byte in 0u8..) {
        let mut image = samples::grub("2.06", MODULES, "/EFI/rocky", Some("normal")).unwrap();
        if let Some(b) = image.get_mut(at) { *b = byte; }
        let esp = Memory::default()
            .with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8"))
            .with("/EFI/BOOT/grubx64.efi", sign_pe(&image, &VENDOR).unwrap_or(image));
        let _ = with_boot(&esp, None, &variables());
    }
}

/// Modules are loaded, with what they need; the kernel is a file and no program; what the machine's owner switched off is off
/// for GRUB, too.
#[rstest]
#[case::secure_boot_off("2.06", false, &[])]
#[case::verification_off("2.06", true, &[])]
#[case::later_grub("2.12", false, &["9 load options: the command line", "9 initrd"])]
fn without_secure_boot(#[case] version: &str, #[case] by_owner: bool, #[case] kernel: &[&str]) {
    let store = unverified(by_owner);
    let config = format!("insmod broken\ninsmod extra\ninsmod more\nset root=hd0,gpt2\nset default=1{BOOTS}");
    let modules = [MODULES, &["peimage"]].concat();
    let forecast = on(version, &modules, &config, &STRANGER, &store);
    let seen = measured(&forecast);
    let module = |name: &str| format!("9 file (hd0,gpt2)/grub2/x86_64-efi/{name}.mod");
    let expected = [
        "8 insmod broken".to_owned(),
        module("broken"),
        "8 insmod extra".into(),
        module("extra"),
        module("more"),
        "8 insmod more".into(),
    ];
    assert_eq!(seen[..6], expected, "{}", forecast.because);
    assert!(seen.contains(&"9 file /vmlinuz".to_owned()) && !seen.iter().any(|what| what.starts_with("4 ")));
    let events = forecast.legs[0].events.iter().filter(|event| event.stage == Stage::Kernel);
    let told: Vec<String> = events.map(|event| format!("{} {}", event.pcr, event.what)).collect();
    assert_eq!(told, kernel);
    assert!(forecast.unmodelled.iter().all(|open| open.stage != Stage::Grub), "{:?}", forecast.unmodelled);
}

/// 2.06 gives a kernel no longer a command line than it takes, whole words of it.
#[rstest]
#[case::by_the_hand_over_entry("2.06", MODULES, variables(), 40, "/vmlinuz quiet aaaaaaaaaaaaa")]
#[case::of_which_nothing_is_left("2.06", MODULES, variables(), 10, "/vmlinuz quiet aaaaaaaaaaaaa b")]
#[case::past_the_stub("2.06", MODULES, unverified(false), 40, "/vmlinuz quiet aaaaaaaaaaaaa b")]
#[case::later("2.12", LATER_MODULES, variables(), 40, "/vmlinuz quiet aaaaaaaaaaaaa b")]
fn a_command_line_may_be_cut(
    #[case] version: &str,
    #[case] modules: &[&str],
    #[case] variables: VarStore,
    #[case] takes: u32,
    #[case] expected: &str,
) {
    let mut kernel = samples::kernel("6.12.0").unwrap();
    kernel[0x238..0x23c].copy_from_slice(&takes.to_le_bytes());
    // The major image version, in the optional header.
    let header = u32::from_le_bytes(kernel[0x3c..0x40].try_into().unwrap()) as usize + 24;
    kernel[header + 44] = 1;
    let config = "set root=hd0,gpt2\nlinux /vmlinuz quiet aaaaaaaaaaaaa b";
    let boot = boot_with(config, &VENDOR).with("/vmlinuz", sign_pe(&kernel, &VENDOR).unwrap());
    let forecast = with_boot(&esp_with(version, modules), Some(&boot), &variables);
    let expected = format!("8 kernel_cmdline: {expected}");
    assert!(measured(&forecast).contains(&expected), "{:?}", measured(&forecast));
}
