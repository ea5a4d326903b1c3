//! GRUB 2.14: kernels that shim loads, and menus made of the Boot Loader Specification's snippets.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::after_timeout as measured;
use common::{Memory, STRANGER, VENDOR, kernel, shim_of, unverified, variables, with_boot};
use latchkey_disk::VarStore;
use latchkey_measure::{HashAlg, Signer, hash, samples, sign_pe};
use latchkey_record::{Forecast, Outcome, Stage};
use rstest::rstest;

const UUID: &str = "0ed3a7ab-6c6d-4cd5-8c29-53b0e1a0b1c2";
const MODULES: &[&str] = &["normal", "tpm", "linux", "peimage", "test", "search", "ext2", "blsuki"];
const ENTRIES: [(&str, &str); 4] = [
    ("b-6.1.conf", "title Old\nlinux /old\n"),
    ("a.txt", "linux /never\n"),
    (
        "b-6.12.conf",
        "title New\nlinux /vmlinuz\noptions root=x $extra\noptions never\ninitrd /initrd $early\n",
    ),
    ("b-6.2.conf", "# nobody starts it\n\nlinux /never\n"),
];

struct Machine<'m> {
    grub: &'m str,
    shim: &'m str,
    entries: &'m [(&'m str, &'m str)],
    more: &'m [&'m str],
    kernel_by: &'m Signer,
    variables: VarStore,
}

impl Default for Machine<'_> {
    fn default() -> Self {
        let (grub, shim) = ("2.14", "16.1");
        Self { grub, shim, entries: &ENTRIES, more: &[], kernel_by: &VENDOR, variables: variables() }
    }
}

impl Machine<'_> {
    /// What a boot with this configuration comes to.
    fn told(&self, config: &str) -> Forecast {
        let config = format!("search --fs-uuid --set=root {UUID}\nset timeout=0\n{config}");
        let grub = samples::grub(self.grub, &[MODULES, self.more].concat(), "/EFI/rocky", None).unwrap();
        let esp = Memory::default()
            .with("/EFI/BOOT/BOOTX64.EFI", shim_of(self.shim))
            .with("/EFI/BOOT/grubx64.efi", sign_pe(&grub, &VENDOR).unwrap())
            .with("/EFI/rocky/grub.cfg", config.into_bytes());
        let boot = Memory::default()
            .with_uuid(UUID)
            .with("/vmlinuz", kernel(self.kernel_by))
            .with("/initrd", b"initrd".to_vec());
        let boot = self.entries.iter().fold(boot, |boot, (name, text)| {
            boot.with(&format!("/loader/entries/{name}"), text.as_bytes().to_vec())
        });
        with_boot(&esp, Some(&boot), &self.variables)
    }
}

const READS: [&str; 4] = [
    "8 blscfg",
    "9 file (hd0,gpt2)/loader/entries//b-6.1.conf",
    "9 file (hd0,gpt2)/loader/entries//b-6.12.conf",
    "9 file (hd0,gpt2)/loader/entries//b-6.2.conf",
];

#[test]
fn snippets_are_opened_in_the_directorys_order_and_the_newest_is_booted() {
    let forecast = Machine::default().told("set extra=quiet\nblscfg");
    let expected = [
        "8 linux /vmlinuz root=x quiet",
        "9 file /vmlinuz",
        "4 kernel, loaded for GRUB",
        "8 kernel_cmdline: /vmlinuz root=x quiet",
        "8 initrd /initrd",
        "9 file /initrd",
    ];
    let all = ["8 set extra=quiet"].into_iter().chain(READS).chain(expected).collect::<Vec<_>>();
    assert_eq!(measured(&forecast), all, "{}", forecast.because);
    let events = &forecast.legs.last().unwrap().events;
    let options = events.iter().find(|event| event.what.starts_with("load options")).unwrap();
    let text: Vec<u8> =
        "BOOT_IMAGE=/vmlinuz root=x quiet\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(options.digests, [hash::digest(HashAlg::Sha256, &text)]);
}

#[rstest]
#[case::by_id("set default=b-6.1", "Old")]
#[case::by_title("set default=Old", "Old")]
#[case::by_its_file("set default=b-6.1.conf", "New")]
#[case::by_number("set default=1", "Old")]
#[case::by_an_octal_number("set default=01", "Old")]
#[case::by_a_number_of_which_32_bits_count("set default=4294967297", "Old")]
#[case::by_a_number_that_is_none("set default=0x", "New")]
fn the_default_names_an_entry_without_its_ending(#[case] config: &str, #[case] title: &str) {
    let entries =
        [("b-6.1.conf", "title Old\nlinux /vmlinuz $1\n"), ("b-6.12.conf", "title New\nlinux /vmlinuz $1\n")];
    let machine = Machine { entries: &entries, ..Machine::default() };
    let seen = measured(&machine.told(&format!("{config}\nblscfg")));
    // The entry's first parameter is its title; no line of its own sets it.
    assert!(seen.iter().any(|what| *what == format!("8 linux /vmlinuz {title}")), "{seen:?}");
    assert!(!seen.iter().any(|what| what.contains("setparams")));
}

#[rstest]
#[case("root=/dev/sda ro $none", "root=/dev/sda ro")]
#[case("$ab quiet", "V quiet")]
#[case("$ab/x", "V /x")]
#[case::a_last_character_is_lost("$ab x", "V")]
#[case::the_only_character_is_lost("q", "")]
#[case("$none", "")]
#[case("$none quiet", "quiet")]
#[case::an_unset_one_before_another_at_the_start_ends_it("$none$ab", "")]
#[case::an_unset_one_before_another_elsewhere_does_not("a b$none$ab", "a bV")]
fn variables_in_options_are_filled_in(#[case] options: &str, #[case] expected: &str) {
    let text = format!("title T\nlinux /vmlinuz\noptions {options}\n");
    let machine = Machine { entries: &[("m.conf", &text)], ..Machine::default() };
    let seen = measured(&machine.told("set ab=V\nblscfg"));
    let line = seen.iter().find(|what| what.starts_with("8 linux")).unwrap();
    assert_eq!(line.trim_end(), format!("8 linux /vmlinuz {expected}").trim_end());
}

#[test]
fn a_kernel_that_shim_does_not_load_is_not_measured_as_a_program() {
    let forecast = Machine { kernel_by: &STRANGER, ..Machine::default() }.told("blscfg");
    assert_eq!(forecast.outcome, Some(Outcome::RefusedByShim), "{}", forecast.because);
    assert_eq!(forecast.reported_by.as_deref(), Some("grub"));
    let seen = measured(&forecast);
    assert!(seen.contains(&"9 file /vmlinuz".to_owned()) && !seen.iter().any(|what| what.starts_with("4 ")));
}

/// Where nobody verifies, the firmware loads the kernel at the end, and wants db's word for it where Secure Boot is on; a later
/// package has shim load it there, which wants nobody's.
#[rstest]
#[case::secure_boot_off("2.14", false, Some(Stage::Firmware))]
#[case::verification_off("2.14", true, None)]
#[case::secure_boot_off_later("2.14-4", false, Some(Stage::Firmware))]
#[case::verification_off_later("2.14-4", true, Some(Stage::Shim))]
fn without_verification_the_kernel_is_loaded_at_the_end(
    #[case] grub: &str,
    #[case] by_owner: bool,
    #[case] loads: Option<Stage>,
) {
    let variables = unverified(by_owner);
    let forecast = Machine { grub, variables, ..Machine::default() }.told("blscfg");
    let events = &forecast.legs.last().unwrap().events;
    let loaded = events.iter().position(|event| event.what == "kernel, loaded for GRUB");
    assert_eq!(loaded.map(|at| events[at].stage), loads, "{}", forecast.because);
    let initrd = events.iter().position(|event| event.what == "file /initrd").unwrap();
    assert!(loaded.is_none_or(|at| at > initrd));
    let refused = forecast.outcome == Some(Outcome::RefusedByFirmware);
    assert_eq!(refused, loads.is_none(), "{}", forecast.because);
}

#[test]
fn an_older_shim_verifies_as_before() {
    let seen = measured(&Machine { shim: "15.8", ..Machine::default() }.told("blscfg"));
    let programs: Vec<&String> = seen.iter().filter(|what| what.starts_with("4 ")).collect();
    assert_eq!(programs, ["4 kernel, verified for GRUB"], "{seen:?}");
}

#[rstest]
#[case::arguments("blscfg --enable-fallback", &ENTRIES[..], "blscfg with arguments")]
#[case::equal_names("blscfg", &[("a1.conf", "linux /v\n"), ("a01.conf", "linux /v\n")], "count as equal")]
#[case::users("set who=root\nblscfg", &[("a.conf", "linux /v\ngrub_users $who\n")], "for some users alone")]
#[case::no_snippets("blscfg", &[], "GRUB shows its command line")]
fn what_is_not_modelled_is_said(#[case] config: &str, #[case] entries: &[(&str, &str)], #[case] why: &str) {
    let forecast = Machine { entries, ..Machine::default() }.told(config);
    assert!(forecast.because.contains(why), "{}", forecast.because);
}

/// Red Hat's GRUB has a command of that name that makes other entries.
#[test]
fn red_hats_command_is_not_taken_for_this_one() {
    let forecast = Machine { more: &["blscfg"], ..Machine::default() }.told("blscfg");
    assert!(forecast.because.contains("the command blscfg is not modelled"), "{}", forecast.because);
}

#[test]
fn an_id_loses_one_ending() {
    let entries =
        [("a.conf.conf", "title A\nlinux /vmlinuz $1\n"), ("b.conf", "title B\nlinux /vmlinuz $1\n")];
    let machine = Machine { entries: &entries, ..Machine::default() };
    let seen = measured(&machine.told("set default=a.conf\nblscfg"));
    assert!(seen.contains(&"8 linux /vmlinuz A".to_owned()), "{seen:?}");
}
