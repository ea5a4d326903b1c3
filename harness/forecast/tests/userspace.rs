//! What systemd measures in an initrd and after it, and what it opens the root volume by.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_root::{
    FILES, UUID, WRONG, bare_initrd, fitting, header, initrd, initrd_of, kernel, told, told_by_grub, unset,
    with,
};
use common::{Memory, VENDOR, shim_of, tpm, variables, with_root};
use latchkey_disk::VarStore;
use latchkey_disk::luks::Header;
use latchkey_disk::varstore::{Attributes, Variable, VariableId};
use latchkey_forecast::RootVolume;
use latchkey_measure::{HashAlg, Policy, Uuid, samples, sign_pe};
use latchkey_record::{Certainty, Forecast, Outcome, PcrIndex, Stage};
use rstest::rstest;
use serde_json::json;

/// What an initrd of systemd 257 has besides, behind a UKI.
const LATER: [&str; 3] = [
    "usr/lib/systemd/system/systemd-pcrphase-initrd.service",
    "usr/lib/systemd/systemd-pcrextend",
    "usr/lib/systemd/system-generators/systemd-gpt-auto-generator",
];
const SHARED_257: &str = "usr/lib/systemd/libsystemd-shared-257.so";
const SBAT: &[u8] = b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n";
const MEASURES: &str =
    "tpm2-policy-hash\0machine-id:\0tpm2-measure-pcr=yes\0systemd %i%s (257.13-1~deb13u1)\n\0";

/// The forecast of a machine whose root has this header, through a UKI of systemd 257 with such an initrd; `@` on the command
/// line stands for the root volume's UUID.
fn told_by_uki(header: Option<&Header>, command_line: &str, files: &[&str], features: &str) -> Forecast {
    told_by_uki_on(&variables(), header, command_line, files, features)
}

/// As [`told_by_uki`], on a machine with these variables.
fn told_by_uki_on(
    variables: &VarStore,
    header: Option<&Header>,
    command_line: &str,
    files: &[&str],
    features: &str,
) -> Forecast {
    let command_line = command_line.replace('@', UUID);
    let uki = samples::program(&[
        (".sdmagic", b"#### LoaderInfo: systemd-stub 257.13 ####"),
        (".sbat", SBAT),
        (".cmdline", command_line.as_bytes()),
        (".linux", &kernel()),
        (".initrd", &bare_initrd(files, features)),
    ])
    .unwrap();
    let esp = Memory::default()
        .with("/EFI/BOOT/BOOTX64.EFI", shim_of("15.8"))
        .with("/EFI/BOOT/grubx64.efi", sign_pe(&uki, &VENDOR).unwrap());
    with_root(&esp, None, variables, header)
}

fn userspace(forecast: &Forecast) -> Vec<(u8, &str, bool)> {
    let events = forecast.legs.last().unwrap().events.iter().filter(|event| event.stage == Stage::Userspace);
    events.map(|e| (e.pcr.get(), e.what.as_str(), matches!(e.certainty, Certainty::Open(_)))).collect()
}

/// GRUB may tell systemd the disk to look for the root volume with a module, and systemd-stub does.
#[test]
fn the_boot_loader_has_to_tell_the_disk() {
    let files = [&FILES[..], &LATER].concat();
    let header = header(2, &[]);
    let root = RootVolume::Luks(&header);
    let by_grub = |more: &[&str], line: &str| {
        let tpm = tpm(&[HashAlg::Sha256], root);
        told_by_grub(more, &unset(), &tpm, root, line, bare_initrd(&files, "")).outcome
    };
    assert_eq!(by_grub(&[], ""), Some(Outcome::EmergencyShell));
    assert_eq!(by_grub(&["bli"], ""), None);
    assert_eq!(by_grub(&["bli"], "root=UUID=1"), Some(Outcome::EmergencyShell));
    for (line, outcome) in [("", Outcome::FallbackPrompt), (" roothash=00", Outcome::EmergencyShell)] {
        let line = format!("root=gpt-auto{line}");
        let forecast = told_by_uki(Some(&header), &line, &files, "");
        assert_eq!(forecast.outcome, Some(outcome), "{}", forecast.because);
    }
    let forecast = told_by_uki(Some(&header), "root=gpt-auto", &FILES, "");
    assert_eq!(forecast.outcome, Some(Outcome::EmergencyShell), "{}", forecast.because);
}

#[rstest]
#[case::found_by_type("root=gpt-auto", &[(15, "volume key", true)], &[(15, "root file system", true)])]
#[case::named("root=/dev/mapper/root rd.luks.name=@=root", &[], &[])]
fn what_is_measured_of_the_root_volume_hangs_on_how_it_is_found(
    #[case] command_line: &str,
    #[case] key: &[(u8, &str, bool)],
    #[case] root: &[(u8, &str, bool)],
) {
    let files = [&[SHARED_257], &FILES[1..], &LATER].concat();
    let forecast = told_by_uki(Some(&header(1, &[])), command_line, &files, MEASURES);
    let mut expected = vec![(11, "boot phase enter-initrd", false)];
    expected.extend(key);
    expected.extend([(11, "boot phase leave-initrd", false), (15, "machine id", true)]);
    expected.extend(root);
    expected.extend([(11, "boot phase sysinit", false), (11, "boot phase ready", false)]);
    assert_eq!(userspace(&forecast), expected);
}

/// An initrd without the TPM's libraries measures nothing; the system that a passphrase opens does.
#[test]
fn a_system_measures_although_its_initrd_could_not() {
    let files = [&[SHARED_257], &FILES[1..3], &LATER].concat();
    let forecast = told_by_uki(Some(&header(2, &[])), "root=gpt-auto", &files, MEASURES);
    assert_eq!(forecast.outcome, Some(Outcome::FallbackPrompt), "{}", forecast.because);
    let later = [
        (15, "machine id", true),
        (15, "root file system", true),
        (11, "boot phase sysinit", false),
        (11, "boot phase ready", false),
    ];
    assert_eq!(userspace(&forecast), later);
    let leg = forecast.legs.last().unwrap();
    assert_eq!(leg.tried_after, Some(leg.events.len() - later.len()));
}

/// Where it is not known with which options the volume is opened, it is not known either whether and where its key is measured.
#[rstest]
#[case::under_two_names("root=gpt-auto rd.luks.uuid=@", &[11, 15], false)]
#[case::with_a_key_file("root=/dev/mapper/root rd.luks.uuid=@ rd.luks.key=/key rd.luks.options=tpm2-measure-pcr=14,tpm2-device=auto", &[], true)]
#[case::with_a_key_file_alone("root=/dev/mapper/root rd.luks.uuid=@ rd.luks.key=/key", &[], false)]
#[case::with_pcrs_by_name("root=/dev/mapper/root rd.luks.uuid=@ rd.luks.options=tpm2-measure-pcr=14,tpm2-device=auto,tpm2-pcrs=a", &[], true)]
#[case::known_not_to_be_opened("root=/dev/mapper/root rd.luks=no", &[], false)]
fn what_is_measured_may_be_open(#[case] line: &str, #[case] unmodelled: &[u8], #[case] is_open: bool) {
    let files = [&[SHARED_257], &FILES[1..], &LATER].concat();
    let token = with(fitting(&initrd(&FILES, "")), "tpm2-policy-hash", json!(WRONG));
    let forecast = told_by_uki(Some(&header(2, &[token])), line, &files, MEASURES);
    assert_eq!(forecast.outcome.is_none(), !line.contains("luks=no"), "{}", forecast.because);
    assert_eq!(not_modelled(&forecast), unmodelled);
    assert_eq!(userspace(&forecast).contains(&(14, "volume key", true)), is_open);
}

/// The PCRs that are not modelled of what systemd does.
fn not_modelled(forecast: &Forecast) -> Vec<u8> {
    let open = forecast.unmodelled.iter().filter(|open| open.stage == Stage::Userspace);
    open.flat_map(|open| &open.pcrs).map(|pcr| pcr.get()).collect()
}

/// initramfs-tools and mkinitcpio open volumes without systemd, and ask for a passphrase themselves.
#[rstest]
#[case("scripts/local-top/cryptroot")]
#[case("hooks/encrypt")]
fn an_initrd_may_open_volumes_without_systemd(#[case] script: &str) {
    let files = [script, "cryptroot/crypttab", "usr/lib/cryptsetup/askpass"];
    let forecast = told(Some(&header(2, &[])), bare_initrd(&files, ""));
    assert_eq!(forecast.outcome, None, "{}", forecast.because);
    assert!(forecast.because.contains("without systemd") && not_modelled(&forecast).is_empty());
    assert_eq!(told(None, bare_initrd(&files, "")).outcome, Some(Outcome::Unlocked));
    let forecast = told_by_uki(Some(&header(2, &[])), "", &files, "");
    assert_eq!((forecast.outcome, not_modelled(&forecast)), (None, vec![11, 15]));
}

/// systemd reads a variable before the command line, unless Secure Boot is on.
#[test]
fn a_variable_may_tell_systemd_more() {
    let vendor = Uuid::parse_str("8cf2644b-4b0b-428f-9387-6d876050dc67").unwrap();
    let id = VariableId::new("SystemdOptions", vendor);
    let with_it = |mut variables: VarStore| {
        variables.set(Variable::new(id.clone(), Attributes::BOOT, b"q\0\0\0".to_vec()));
        variables
    };
    let header = header(2, &[]);
    let root = RootVolume::Luks(&header);
    let tpm = tpm(&[HashAlg::Sha256], root);
    let by_grub = |variables: &VarStore| {
        told_by_grub(&[], variables, &tpm, root, "", initrd_of("257.13", "luks")).outcome
    };
    assert_eq!(by_grub(&unset()), Some(Outcome::FallbackPrompt));
    assert_eq!(by_grub(&with_it(unset())), None);
    let files = [&[SHARED_257], &FILES[1..], &LATER].concat();
    let told = told_by_uki_on(&with_it(variables()), Some(&header), "root=gpt-auto", &files, MEASURES);
    assert_eq!(told.outcome, Some(Outcome::FallbackPrompt));
}

/// Other units than the initrd has, or a kernel that shows no UEFI variables, make something else of a boot.
#[rstest]
#[case::another_target("rd.systemd.unit=emergency.target", "rd.systemd.unit")]
#[case::without_a_unit("rd.systemd.mask=systemd-pcrphase-initrd.service", "what is started")]
#[case::without_one_of_the_systems(
    "systemd.mask=systemd-pcrphase.service",
    "takes away a unit that measures"
)]
#[case::a_shell_of_dracuts("rd.break", "what is started")]
#[case::no_variables("noefi", "no UEFI variables")]
#[case::nor_so("efi=noruntime", "no UEFI variables")]
fn a_word_may_change_what_is_started(#[case] word: &str, #[case] because: &str) {
    let files = [&[SHARED_257], &FILES[1..], &LATER].concat();
    let told = |line: &str| told_by_uki(Some(&header(2, &[])), line, &files, MEASURES);
    for others in ["systemd.unit=multi-user.target", "systemd.mask=tmp.mount"] {
        assert_eq!(
            told(&format!("root=gpt-auto {others}")).outcome,
            Some(Outcome::FallbackPrompt),
            "{others}"
        );
    }
    let forecast = told(&format!("root=gpt-auto {word}"));
    assert_eq!(forecast.outcome, None, "{}", forecast.because);
    let mut open = forecast.unmodelled.iter().map(|open| format!("{} {}", open.what, open.why));
    assert!(open.any(|open| open.contains(because)), "{:?}", forecast.unmodelled);
}

/// A volume key that is to be measured is got by systemd's own code, which needs no plugin and a TPM by name.
#[rstest]
#[case::by_itself("root=gpt-auto", "tpm2-device=auto", "token 0: PCR", 1)]
#[case::without_a_tpm("root=gpt-auto", "", "no TPM was named", 2)]
#[case::by_the_plugin("root=/dev/mapper/root rd.luks.uuid=@", "tpm2-device=auto", "lacks the plugin", 2)]
#[case::on_request(
    "root=/dev/mapper/root rd.luks.uuid=@ rd.luks.options=tpm2-device=auto,tpm2-measure-pcr=yes",
    "",
    "token 0: PCR",
    1
)]
#[case::in_quotes(
    "root=/dev/mapper/root rd.luks.uuid=\"luks-@\" 'rd.luks.options=tpm2-device=auto,tpm2-measure-pcr=yes'",
    "",
    "token 0: PCR",
    1
)]
#[case::not_on_request(
    "root=/dev/mapper/root rd.luks.uuid=@ rd.luks.options=tpm2-device=auto,tpm2-measure-pcr=no",
    "",
    "lacks the plugin",
    1
)]
#[case::for_its_keyslot(
    "root=/dev/mapper/root rd.luks.uuid=@ rd.luks.options=tpm2-measure-keyslot-nvpcr=yes",
    "tpm2-measure-keyslot-nvpcr=",
    "no TPM was named",
    2
)]
#[case::before_it_was_known(
    "root=/dev/mapper/root rd.luks.uuid=@ rd.luks.options=fixate-volume-key=x",
    "",
    "lacks the plugin",
    2
)]
#[case::for_a_known_key(
    "root=/dev/mapper/root rd.luks.uuid=@ rd.luks.options=fixate-volume-key=x",
    "fixate-volume-key=",
    "no TPM was named",
    2
)]
fn a_measured_volume_key_takes_another_way(
    #[case] command_line: &str,
    #[case] more: &str,
    #[case] because: &str,
    #[case] prompts: u32,
) {
    let files = [&[SHARED_257], &FILES[1..2], &FILES[3..], &LATER].concat();
    let token = with(fitting(&initrd(&FILES, "")), "tpm2-policy-hash", json!(WRONG));
    let features = format!("{MEASURES}{more}");
    let forecast = told_by_uki(Some(&header(2, &[token])), command_line, &files, &features);
    assert!(forecast.because.contains(because), "{}", forecast.because);
    // 257 tries three times: with the TPM, where one is named, and what is typed first twice.
    assert_eq!(forecast.prompts, Some(prompts));
}

/// Before 255 libcryptsetup tries the token first, whatever is to be measured: the volume key is measured when somebody
/// types a passphrase, and not when the TPM opens the volume.
#[rstest]
#[case::of_red_hat(FILES[0])]
#[case::upstream("usr/lib/systemd/libsystemd-shared-254.so")]
fn the_plugin_comes_first_before_255(#[case] shared: &str) {
    let files = [&[shared], &FILES[1..], &LATER].concat();
    let token = with(fitting(&initrd(&FILES, "")), "tpm2-policy-hash", json!(WRONG));
    let forecast = told_by_uki(Some(&header(2, &[token])), "root=gpt-auto", &files, MEASURES);
    assert!(forecast.because.contains("token 0: PCR"), "{}", forecast.because);
    assert!(userspace(&forecast).contains(&(15, "volume key", true)));
    let pcrs = [PcrIndex::new(4).unwrap()];
    let policy = Policy::new(HashAlg::Sha256).pcr(HashAlg::Sha256, &pcrs, &forecast.pcrs[&HashAlg::Sha256]);
    let token = with(fitting(&initrd(&FILES, "")), "tpm2-pcrs", json!([4]));
    let token = with(token, "tpm2-policy-hash", json!(policy.unwrap().digest().hex()));
    let forecast = told_by_uki(Some(&header(2, &[token])), "root=gpt-auto", &files, MEASURES);
    assert_eq!(forecast.outcome, Some(Outcome::Unlocked), "{}", forecast.because);
    assert!(userspace(&forecast).iter().all(|(_, what, _)| *what != "volume key"));
}

/// systemd 253, 254 and RHEL 9's 252 have the words in the program, and not in the library.
#[test]
fn the_program_that_measures_the_machine_id_may_know_it_alone() {
    let files = [&FILES[1..], &[LATER[0], "usr/lib/systemd/systemd-pcrphase"]].concat();
    let forecast = told_by_uki(Some(&header(1, &[])), "root=/dev/mapper/root", &files, "\0machine-id:\0");
    assert!(userspace(&forecast).contains(&(15, "machine id", true)));
}

/// What later versions extend before the root volume's turn counts where the initrd brings it, behind a UKI alone.
#[test]
fn later_versions_extend_more_before_the_unlock() {
    let separator: &[&str] = &["usr/lib/systemd/system/systemd-pcrosseparator.service"];
    let early = "usr/lib/systemd/system/systemd-tpm2-setup-early.service";
    let by_uki = |more: &[&str], words: &str| {
        let files = [&[SHARED_257], &FILES[1..], &LATER, more].concat();
        told_by_uki(None, &format!("root=gpt-auto{words}"), &files, MEASURES)
    };
    let extended = |forecast: &Forecast, what: &str| -> Vec<u8> {
        userspace(forecast).iter().filter(|(_, event, _)| *event == what).map(|(pcr, ..)| *pcr).collect()
    };
    assert_eq!(extended(&by_uki(separator, ""), "os-separator"), [0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14]);
    assert!(extended(&told(None, initrd(&[&FILES[..], separator].concat(), "")), "os-separator").is_empty());
    assert_eq!(extended(&by_uki(&[early, "usr/lib/nvpcr/login.nvpcr"], ""), "PCRs of NV indices"), [9]);
    assert!(extended(&by_uki(&[early], ""), "PCRs of NV indices").is_empty());
    assert_eq!(by_uki(&[], " systemd.tpm2_measured_os=1").outcome, None);
}

/// GRUB 2.06 jumps past the kernel's EFI stub where shim verifies nothing, and the guest has no event log then.
#[test]
fn the_firmwares_log_comes_through_the_kernels_efi_stub() {
    assert!(!told(None, initrd(&FILES, "")).guest_log);
    assert!(told_by_uki(None, "root=gpt-auto", &FILES, "").guest_log);
}
