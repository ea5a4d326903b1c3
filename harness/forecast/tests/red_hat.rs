//! Red Hat's GRUB of RHEL 9: its own `blscfg`, and kernels that it starts through the hand-over entry.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::after_timeout as measured;
use common::{Memory, VENDOR, kernel, shim_of, unverified, variables, with_boot};
use latchkey_disk::VarStore;
use latchkey_disk::varstore::{Attributes, Variable, VariableId};
use latchkey_measure::{samples, sign_pe};
use latchkey_record::{Forecast, Outcome};
use rstest::rstest;
use uuid::uuid;

const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";
const MODULES: &[&str] = &["normal", "tpm", "linux", "test", "search", "ext2", "gzio", "all_video", "blscfg"];
const OLD: (&str, &str) = ("3f5c-6.1.0-1.conf", "title Old\nlinux /old\n");
const NEW: (&str, &str) = (
    "3f5c-6.12.0-1.conf",
    "title New\nlinux /vmlinuz\noptions root=x $extra\noptions never\ninitrd /initrd $early\ngrub_users $grub_users\n",
);
const RESCUE: (&str, &str) = ("3f5c-0-rescue.conf", "title Rescue\nlinux /rescue\n");

struct Machine<'m> {
    /// Where the snippets lie.
    directory: &'m str,
    entries: &'m [(&'m str, &'m str)],
    variables: VarStore,
}

impl Default for Machine<'_> {
    fn default() -> Self {
        Self { directory: "/loader/entries", entries: &[OLD, RESCUE, NEW], variables: variables() }
    }
}

impl Machine<'_> {
    /// What a boot with this configuration comes to.
    fn told(&self, config: &str) -> Forecast {
        let config = format!(
            "search --no-floppy --root-dev-only --fs-uuid --set=root {UUID}\nfunction load_video {{\n  insmod all_video\n}}\n\
             set timeout=0\n{config}"
        );
        let grub = samples::grub("2.06", MODULES, "/EFI/rocky", None).unwrap();
        let esp = Memory::default()
            .with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8"))
            .with("/EFI/BOOT/grubx64.efi", sign_pe(&grub, &VENDOR).unwrap())
            .with("/EFI/rocky/grub.cfg", config.into_bytes());
        let boot = Memory::default()
            .with_uuid(UUID)
            .with("/vmlinuz", kernel(&VENDOR))
            .with("/old", kernel(&VENDOR))
            .with("/initrd", b"initrd".to_vec());
        let boot = self.entries.iter().fold(boot, |boot, (name, text)| {
            boot.with(&format!("{}/{name}", self.directory), text.as_bytes().to_vec())
        });
        with_boot(&esp, Some(&boot), &self.variables)
    }
}

#[test]
fn snippets_are_opened_in_the_directorys_order_and_the_newest_is_booted() {
    let forecast = Machine::default().told("set extra=quiet\nblscfg");
    let expected = [
        "8 set extra=quiet",
        "8 blscfg",
        "9 file (hd0,gpt2)/loader/entries//3f5c-6.1.0-1.conf",
        "9 file (hd0,gpt2)/loader/entries//3f5c-0-rescue.conf",
        "9 file (hd0,gpt2)/loader/entries//3f5c-6.12.0-1.conf",
        "8 load_video",
        "8 insmod all_video",
        "8 set gfxpayload=keep",
        "8 insmod gzio",
        "8 linux (hd0,gpt2)/vmlinuz root=x quiet",
        "9 file (hd0,gpt2)/vmlinuz",
        "4 kernel, verified for GRUB",
        "8 kernel_cmdline: (hd0,gpt2)/vmlinuz root=x quiet",
        "8 initrd (hd0,gpt2)/initrd",
        "9 file (hd0,gpt2)/initrd",
    ];
    assert_eq!(measured(&forecast), expected, "{}", forecast.because);
    // Through the hand-over entry, also where nobody verifies: the guest has an event log.
    assert!(forecast.guest_log);
    let unverified = Machine { variables: unverified(false), ..Machine::default() }.told("blscfg");
    assert!(unverified.guest_log, "{}", unverified.because);
}

#[rstest]
#[case::by_an_id_that_begins_with_a_digit("set default=3f5c-6.1.0-1", "/old")]
#[case::by_title("set default=Old", "/old")]
#[case::by_number("set default=1", "/old")]
#[case::by_a_number_and_more("set default=1x", "/vmlinuz")]
#[case::by_its_file("set default=3f5c-6.1.0-1.conf", "/vmlinuz")]
fn the_default_is_looked_for_among_ids_first(#[case] config: &str, #[case] kernel: &str) {
    let seen = measured(&Machine::default().told(&format!("{config}\nblscfg")));
    let booted = format!("8 linux (hd0,gpt2){kernel}");
    assert!(seen.iter().any(|what| what.starts_with(&booted)), "{seen:?}");
}

#[rstest]
#[case::options_for_those_without(
    "set default=Old\nset default_kernelopts='a b'",
    "8 linux (hd0,gpt2)/old a b"
)]
#[case::none("set default=Old", "8 linux (hd0,gpt2)/old")]
#[case::an_early_initrd("set early_initrd=initrd", "8 initrd (hd0,gpt2)/initrd (hd0,gpt2)/initrd")]
#[case::saving_the_default("function savedefault {\n  true\n}\nset save_default=true", "8 savedefault")]
fn variables_change_an_entry(#[case] config: &str, #[case] line: &str) {
    let seen = measured(&Machine::default().told(&format!("{config}\nblscfg")));
    assert!(seen.iter().any(|what| what == line), "{seen:?}");
}

/// Only the word `true` has the default saved.
#[test]
fn the_default_is_not_saved_unasked() {
    let seen = measured(&Machine::default().told("set save_default=yes\nblscfg"));
    assert!(!seen.contains(&"8 savedefault".to_owned()), "{seen:?}");
}

/// A submenu knows `root` and what else was set and never exported, and the same `default`.
#[test]
fn everything_is_known_in_a_submenu() {
    let menu = "menuentry 'M' { true }\nsubmenu 'S' { blscfg }";
    let seen =
        measured(&Machine::default().told(&format!("{menu}\nset default=1\nset default_kernelopts='a b'")));
    assert!(seen.contains(&"8 linux (hd0,gpt2)/old a b".to_owned()), "{seen:?}");
}

/// Where Secure Boot forbids modules it does not even look at them.
#[test]
fn a_module_that_is_not_built_in_is_not_opened() {
    let seen = measured(
        &Machine::default().told("set prefix=(hd0,gpt2)/grub2\nif insmod none; then\nset yes=1\nfi\nblscfg"),
    );
    assert!(
        seen.contains(&"8 set yes=1".to_owned()) && !seen.iter().any(|what| what.contains("none.mod")),
        "{seen:?}"
    );
}

#[test]
fn a_second_call_opens_the_files_again_and_adds_nothing() {
    let forecast = Machine::default().told("blscfg\nset default=2\nblscfg");
    let seen = measured(&forecast);
    let opened = |name: &str| seen.iter().filter(|what| what.ends_with(name)).count();
    assert_eq!(opened("-rescue.conf"), 2, "{seen:?}");
    assert!(seen.contains(&"8 linux (hd0,gpt2)/rescue".to_owned()), "{seen:?}");
}

#[test]
fn a_root_with_boot_in_it_is_looked_into_last() {
    let machine = Machine { directory: "/boot/loader/entries", ..Machine::default() };
    let seen = measured(&machine.told("blscfg"));
    assert!(
        seen.contains(&"9 file (hd0,gpt2)/boot/loader/entries//3f5c-0-rescue.conf".to_owned()),
        "{seen:?}"
    );
}

#[rstest]
#[case::a_last_command_that_fails("", &[("a.conf", "linux /vmlinuz\ninitrd /none\n")], "loads no kernel")]
#[case::an_ending_within("", &[("a.conf.b.conf", "linux /vmlinuz\n")], "never comes to the end")]
#[case::users("set who=root", &[("a.conf", "linux /vmlinuz\ngrub_users $who\n")], "for some users alone")]
#[case::a_line_that_begins_with_a_blank("", &[("a.conf", "title A\n linux /vmlinuz\n")], "begins with a blank")]
#[case::an_escaped_variable("", &[("a.conf", "linux /vmlinuz\noptions a\\$b\n")], "behind a backslash")]
#[case::an_escaped_byte("", &[("a.conf", "linux /vmlinuz\noptions a\\x20b\n")], "written as `\\x`")]
#[case::no_path("", &[("a.conf", "linux vmlinuz\n")], "loads no kernel")]
#[case::arguments("set a='default'", &[("a.conf", "linux /vmlinuz\n")], "blscfg with arguments")]
fn what_is_not_modelled_is_said(#[case] config: &str, #[case] entries: &[(&str, &str)], #[case] why: &str) {
    let forecast = Machine { entries, ..Machine::default() }.told(&format!("{config}\nblscfg $a"));
    assert!(forecast.because.contains(why), "{}", forecast.because);
    assert_eq!(forecast.outcome, None::<Outcome>);
}

#[test]
fn a_variable_of_the_firmwares_that_grub_begins_with_is_not_modelled() {
    let id = VariableId::new("GRUB_ENV", uuid!("91376aff-cba6-42be-949d-06fde81128e8"));
    let mut variables = variables();
    variables.set(Variable::new(id, Attributes::BOOT, b"# GRUB Environment Block\n".to_vec()));
    let forecast = Machine { variables, ..Machine::default() }.told("blscfg");
    assert!(forecast.because.contains("GRUB_ENV"), "{}", forecast.because);
}
