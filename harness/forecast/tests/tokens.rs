//! What a root volume's tokens and keyslots come to, at the end of a whole chain that exists in memory alone.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::at_root::{
    FILES, UUID, WRONG, fitting, header, initrd, initrd_of, initrd_with, told, told_line, told_of, told_with,
    with,
};
use common::{FOREIGN, tpm};
use latchkey_forecast::{RootVolume, TokenFact, TpmState};
use latchkey_measure::HashAlg;
use latchkey_record::Outcome;
use rstest::rstest;
use serde_json::{Value, json};

/// A machine without a TPM measures nothing, and one without a header has nothing to ask for.
#[test]
fn without_a_tpm_or_a_header_nobody_asks() {
    let initrd = initrd(&FILES, "");
    let header = header(2, &[fitting(&initrd)]);
    let forecast = told_with(&[], RootVolume::Luks(&header), initrd.clone());
    assert_eq!(forecast.outcome, Some(Outcome::FallbackPrompt), "{}", forecast.because);
    assert!(forecast.untried && !forecast.guest_log && forecast.because.contains("no TPM"));
    assert!(forecast.legs.iter().all(|leg| leg.events.is_empty()) && forecast.pcrs.is_empty());
    let forecast = told_with(&[HashAlg::Sha256], RootVolume::Unrecognised, initrd);
    assert_eq!(forecast.outcome, Some(Outcome::EmergencyShell), "{}", forecast.because);
}

/// Of a disk whose TPM is elsewhere: what PCRs of this computer's firmware lead to says nothing of the machine's.
#[rstest]
#[case::of_the_disk(&[4, 9], Some(Outcome::Unlocked), "if the machine's TPM is the one that sealed it")]
#[case::of_the_platform(&[0, 4, 9], None, "PCR 0 is the machine's own")]
fn a_tpm_that_is_elsewhere_is_supposed_to_have_sealed(
    #[case] pcrs: &[u32],
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    let initrd = initrd(&FILES, "");
    let header = header(2, &[with(fitting(&initrd), "tpm2-pcrs", json!(pcrs))]);
    let root = RootVolume::Luks(&header);
    let tpm = TpmState { tokens: [(0, TokenFact::Supposed)].into(), ..tpm(&[HashAlg::Sha256], root) };
    let forecast = told_of(&tpm, root, initrd);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

#[rstest]
#[case::it_fits(2, |fits: Value| vec![fits], Some(Outcome::Unlocked), "token 0 frees keyslot 0")]
#[case::moved(2, |fits: Value| vec![with(fits, "tpm2-policy-hash", json!(WRONG))], Some(Outcome::FallbackPrompt), "it was sealed to 00000000")]
#[case::nobody_to_ask(1, |fits: Value| vec![with(fits, "tpm2-policy-hash", json!(WRONG))], Some(Outcome::NoPrompt), "no keyslot is for a passphrase")]
#[case::a_recovery_key(2, |fits: Value| vec![with(fits, "tpm2-policy-hash", json!(WRONG)), json!({"type": "systemd-recovery", "keyslots": ["1"]})],
    Some(Outcome::FallbackPrompt), "somebody is asked")]
#[case::the_second_of_two(3, |fits: Value| vec![with(fits.clone(), "tpm2-policy-hash", json!(WRONG)), fits], Some(Outcome::Unlocked), "token 1 frees")]
#[case::a_bank_that_is_off(2, |fits: Value| vec![with(fits, "tpm2-pcr-bank", json!("sha384"))], Some(Outcome::FallbackPrompt), "no sha384 bank")]
#[case::one_of_a_bank_that_is_off_before_one_that_fits(3, |fits: Value| vec![with(fits.clone(), "tpm2-pcr-bank", json!("sha384")), fits], Some(Outcome::Unlocked), "token 1 frees")]
#[case::a_pin(2, |fits: Value| vec![with(fits, "tpm2-pin", json!(true))], None, "asked for its PIN first")]
#[case::a_pin_before_one_that_fits(3, |fits: Value| vec![with(fits.clone(), "tpm2-pin", json!(true)), fits], Some(Outcome::Unlocked), "token 1 frees")]
#[case::a_pin_before_the_tpm_is_asked(2, |fits: Value| vec![with(with(fits, "tpm2-pin", json!(true)), FOREIGN, json!(true))], None, "asked for its PIN first")]
#[case::a_pin_before_another_tpms(3, |fits: Value| vec![with(fits.clone(), "tpm2-pin", json!(true)), with(fits, FOREIGN, json!(true))], Some(Outcome::FallbackPrompt), "another TPM")]
#[case::one_that_is_no_token_before_one_that_fits(3, |fits: Value| vec![with(fits.clone(), "tpm2-pcrs", json!([99])), fits], Some(Outcome::Unlocked), "token 1 frees")]
#[case::one_without_an_object_before_one_that_fits(3, |fits: Value| { let mut token = fits.clone(); token.as_object_mut().unwrap().remove("tpm2-blob"); vec![token, fits] }, Some(Outcome::Unlocked), "token 1 frees")]
#[case::an_object_in_parts(2, |fits: Value| vec![with(fits, "tpm2-blob", json!(["AAAA", "AAAA"]))], None, "in several parts")]
#[case::bound_to_no_pcr(2, |fits: Value| vec![with(with(fits, "tpm2-pcrs", json!([])), "tpm2-policy-hash", json!(WRONG))], Some(Outcome::Unlocked), "token 0 frees")]
#[case::bound_to_no_pcr_of_no_bank(2, |fits: Value| { let mut token = with(with(fits, "tpm2-pcrs", json!([])), "tpm2-policy-hash", json!(WRONG)); token.as_object_mut().unwrap().remove("tpm2-pcr-bank"); vec![token] }, Some(Outcome::Unlocked), "token 0 frees")]
#[case::a_pcr_that_no_tpm_has(2, |fits: Value| vec![with(with(fits, "tpm2-pcrs", json!([99])), "tpm2-policy-hash", json!(WRONG))], Some(Outcome::FallbackPrompt), "one that no TPM has")]
#[case::without_a_list(2, |fits: Value| vec![with(with(fits, "tpm2-pcrs", json!("4+7")), "tpm2-policy-hash", json!(WRONG))], Some(Outcome::FallbackPrompt), "names no PCRs")]
#[case::of_before_there_was_a_choice(2, |fits: Value| { let mut token = fits; token.as_object_mut().unwrap().remove("tpm2-pcr-bank"); vec![token] }, None, "no PCR bank")]
#[case::another_programs_token(1, |fits: Value| vec![with(fits.clone(), "tpm2-policy-hash", json!(WRONG)), json!({"type": "clevis", "keyslots": ["1"]})],
    Some(Outcome::NoPrompt), "no keyslot is for a passphrase")]
#[case::another_programs_keyslot(2, |fits: Value| vec![with(fits.clone(), "tpm2-policy-hash", json!(WRONG)), json!({"type": "clevis", "keyslots": ["1"]})],
    Some(Outcome::FallbackPrompt), "somebody is asked")]
#[case::a_signed_policy(2, |fits: Value| vec![with(fits, "tpm2_pubkey", json!("AA=="))], None, "not modelled")]
#[case::a_parent_that_it_does_not_know(2, |fits: Value| vec![with(fits, "tpm2_srk", json!("gQAAAQ=="))], Some(Outcome::FallbackPrompt), "knows nothing")]
#[case::nothing_to_try(1, |_: Value| vec![], Some(Outcome::FallbackPrompt), "no TPM token")]
fn tokens_decide(
    #[case] keyslots: u32,
    #[case] tokens: fn(Value) -> Vec<Value>,
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    let initrd = initrd(&FILES, "tpm2-policy-hash");
    let header = header(keyslots, &tokens(fitting(&initrd)));
    let forecast = told(Some(&header), initrd);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

/// libcryptsetup takes tokens as the header's JSON has them, those of preferred keyslots first; systemd's own code takes
/// them by number. Of another TPM's token nobody gets past.
#[rstest]
#[case::as_they_lie("luks", &[], &["1", "0"], Outcome::FallbackPrompt, "token 1: another TPM")]
#[case::by_number("luks,tpm2-device=auto,tpm2-measure-pcr=yes", &[], &["1", "0"], Outcome::Unlocked, "token 0 frees")]
#[case::of_a_preferred_keyslot("luks", &[("0", 2)], &["1", "0"], Outcome::Unlocked, "token 0 frees")]
#[case::of_keyslots_to_be_ignored("luks", &[("0", 0), ("1", 0)], &["0", "1"], Outcome::FallbackPrompt, "may be tried")]
#[case::but_not_by_systemd("luks,tpm2-device=auto,tpm2-measure-pcr=yes", &[("0", 0)], &["0", "1"], Outcome::Unlocked, "token 0 frees")]
fn in_which_order_hangs_on_who_tries(
    #[case] options: &str,
    #[case] priorities: &[(&str, u32)],
    #[case] order: &[&str],
    #[case] outcome: Outcome,
    #[case] because: &str,
) {
    let initrd = initrd_of("257.13", options);
    let fits = fitting(&initrd);
    let foreign = with(with(fits.clone(), FOREIGN, json!(true)), "keyslots", json!(["1"]));
    let mut header = header(3, &[fits, foreign]);
    header.tokens.sort_by_cached_key(|number, _| order.iter().position(|other| *other == number.to_string()));
    for (slot, priority) in priorities {
        header.keyslots.get_mut(&slot.parse().unwrap()).unwrap().priority = *priority;
    }
    let forecast = told(Some(&header), initrd);
    assert_eq!(forecast.outcome, Some(outcome), "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

#[rstest]
#[case::all(&FILES, Outcome::Unlocked, "token 0")]
#[case::no_plugin(&[FILES[0], FILES[1], FILES[3], FILES[4], FILES[5]], Outcome::FallbackPrompt, "lacks the plugin")]
#[case::no_libraries(&FILES[..3], Outcome::FallbackPrompt, "lacks the TPM libraries")]
#[case::no_cryptsetup(&FILES[..1], Outcome::EmergencyShell, "cannot open LUKS")]
fn so_does_what_the_initrd_brings(#[case] files: &[&str], #[case] outcome: Outcome, #[case] because: &str) {
    // A systemd that knows the storage root key opens what is sealed under it.
    let initrd = initrd(files, "tpm2_srk");
    let token = with(fitting(&initrd), "tpm2_srk", json!("gQAAAQ=="));
    let forecast = told(Some(&header(2, &[token])), initrd);
    assert_eq!(forecast.outcome, Some(outcome), "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
    // Who cannot ask the TPM does not; 252 asks somebody three times.
    assert_eq!(forecast.untried, outcome == Outcome::FallbackPrompt);
    assert_eq!(forecast.prompts, (outcome == Outcome::FallbackPrompt).then_some(3));
}

/// Three tries: one is the TPM's where the options name it, and what is typed first counts twice in some versions.
#[rstest]
#[case("252", Some(3))]
#[case("254", Some(3))]
#[case("256.7", Some(3))]
#[case("257.13-1~deb13u1", Some(2))]
#[case("257-13.el10", Some(2))]
#[case("257.14", None)]
#[case("258.7", Some(2))]
#[case("258.8", None)]
#[case("259.5", Some(2))]
#[case("259.6", None)]
#[case("260.1", Some(2))]
#[case("260.2", None)]
#[case("261", None)]
#[case("262", Some(3))]
fn how_often_somebody_is_asked_hangs_on_the_version(#[case] systemd: &str, #[case] prompts: Option<u32>) {
    for (options, less) in [("luks", 0), ("luks,tpm2-device=auto", 1)] {
        let initrd = initrd_of(systemd, options);
        let token = with(fitting(&initrd), "tpm2-policy-hash", json!(WRONG));
        let forecast = told(Some(&header(2, &[token])), initrd);
        assert_eq!(forecast.outcome, Some(Outcome::FallbackPrompt), "{}", forecast.because);
        assert_eq!(forecast.prompts, prompts.map(|most| most - less), "{options}");
    }
}

/// How often somebody is asked may be given, and is not modelled then.
#[test]
fn where_the_tries_are_given_nobody_knows_how_often_somebody_is_asked() {
    let initrd = initrd_of("252", "luks,tries=5");
    let token = with(fitting(&initrd), "tpm2-policy-hash", json!(WRONG));
    let forecast = told(Some(&header(2, &[token])), initrd);
    assert_eq!((forecast.outcome, forecast.prompts), (Some(Outcome::FallbackPrompt), None));
}

/// Where the TPM's is the only try, or nobody is to be asked, nothing opens by itself and nobody is asked either.
#[rstest]
#[case::one_try("luks,tries=1,tpm2-device=auto", 2, Some(Outcome::EmergencyShell), "the only try")]
#[case::one_try_of_systemds_own(
    "tpm2-measure-pcr=yes,tries=1,tpm2-device=auto",
    2,
    Some(Outcome::EmergencyShell),
    "the only try"
)]
#[case::two_tries("luks,tries=2,tpm2-device=auto", 2, Some(Outcome::FallbackPrompt), "somebody is asked")]
#[case::one_try_without_a_tpm("luks,tries=1", 2, Some(Outcome::FallbackPrompt), "somebody is asked")]
#[case::headless("luks,headless", 2, Some(Outcome::EmergencyShell), "nobody is asked")]
#[case::headless_by_value("headless=1", 2, Some(Outcome::EmergencyShell), "nobody is asked")]
#[case::not_headless("headless=no", 2, Some(Outcome::FallbackPrompt), "somebody is asked")]
#[case::headless_without_a_keyslot("headless", 1, Some(Outcome::NoPrompt), "no keyslot is for a passphrase")]
#[case::an_empty_passphrase("try-empty-password", 2, None, "not modelled")]
fn options_say_whether_somebody_is_asked(
    #[case] options: &str,
    #[case] keyslots: u32,
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    for systemd in ["252", "257.13"] {
        let initrd = initrd_of(systemd, options);
        let fits = fitting(&initrd);
        let wrong = with(fits.clone(), "tpm2-policy-hash", json!(WRONG));
        let forecast = told(Some(&header(keyslots, &[wrong])), initrd.clone());
        assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
        assert!(forecast.because.contains(because), "{}", forecast.because);
        let forecast = told(Some(&header(keyslots, &[fits])), initrd);
        assert_eq!(forecast.outcome, Some(Outcome::Unlocked), "{}", forecast.because);
    }
}

/// Nobody is asked for a PIN either: the plugins go on, systemd's own code does not.
#[rstest]
#[case::by_plugins("headless", Outcome::Unlocked, "token 1 frees")]
#[case::by_systemd(
    "headless,tpm2-device=auto,tpm2-measure-pcr=yes",
    Outcome::EmergencyShell,
    "nobody is asked for its PIN"
)]
fn nobody_is_asked_for_a_pin(#[case] options: &str, #[case] outcome: Outcome, #[case] because: &str) {
    let initrd = initrd_of("257.13", options);
    let fits = fitting(&initrd);
    let header = header(3, &[with(fits.clone(), "tpm2-pin", json!(true)), fits]);
    let forecast = told(Some(&header), initrd);
    assert_eq!(forecast.outcome, Some(outcome), "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

/// A token that systemd's own code cannot read ends it: nobody is asked for anything. The plugin passes over it.
#[rstest]
#[case::by_the_plugin("257.13", "luks", &[HashAlg::Sha256], Some(Outcome::FallbackPrompt), "it lacks tpm2-blob; somebody")]
#[case::by_systemd("257.13", "tpm2-device=auto,tpm2-measure-pcr=yes", &[HashAlg::Sha256], Some(Outcome::EmergencyShell), "gives up")]
#[case::bound_to_other_pcrs("257.13", "tpm2-device=auto,tpm2-measure-pcr=yes,tpm2-pcrs=7", &[HashAlg::Sha256], Some(Outcome::EmergencyShell), "gives up")]
#[case::before_a_tpm_is_looked_for("257.13", "tpm2-device=auto,tpm2-measure-pcr=yes", &[], Some(Outcome::EmergencyShell), "gives up")]
#[case::by_both("254", "tpm2-device=auto,tpm2-measure-pcr=yes", &[HashAlg::Sha256], Some(Outcome::EmergencyShell), "gives up")]
#[case::by_the_plugin_twice("254", "tpm2-device=auto", &[HashAlg::Sha256], Some(Outcome::FallbackPrompt), "it lacks tpm2-blob; somebody")]
fn a_token_that_cannot_be_read_may_end_it(
    #[case] systemd: &str,
    #[case] options: &str,
    #[case] banks: &[HashAlg],
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    let initrd = initrd_of(systemd, options);
    let fits = fitting(&initrd);
    let mut broken = fits.clone();
    broken.as_object_mut().unwrap().remove("tpm2-blob");
    let header_of = header(2, &[broken.clone()]);
    let forecast = told_with(banks, RootVolume::Luks(&header_of), initrd.clone());
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
    // Nor is it reached behind one that opens, or read where it is for no keyslot of its own.
    if !banks.is_empty() && !options.contains("tpm2-pcrs") {
        for tokens in [[fits.clone(), broken.clone()], [with(broken, "keyslots", json!(["0", "1"])), fits]] {
            let forecast = told(Some(&header(3, &tokens)), initrd.clone());
            assert_eq!(forecast.outcome, Some(Outcome::Unlocked), "{}", forecast.because);
        }
    }
}

/// Up to 254 systemd's own code has a turn after the plugin, where the volume key is to be measured: it takes tokens by number,
/// and gets to one before the other TPM's, which ended the plugin's search.
#[rstest]
#[case::measured("254", "tpm2-device=auto,tpm2-measure-pcr=yes", None, "that systemd's own code does")]
#[case::measured_by_red_hats(
    "252",
    "tpm2-device=auto,tpm2-measure-pcr=yes",
    None,
    "that systemd's own code does"
)]
#[case::by_pcrs_with_names(
    "254",
    "tpm2-device=auto,tpm2-measure-pcr=yes,tpm2-pcrs=a",
    None,
    "names or banks"
)]
#[case::not_measured(
    "254",
    "tpm2-device=auto",
    Some(Outcome::FallbackPrompt),
    "token 1: another TPM sealed it"
)]
#[case::without_a_tpm(
    "254",
    "tpm2-measure-pcr=yes",
    Some(Outcome::FallbackPrompt),
    "token 1: another TPM sealed it"
)]
fn systemds_own_code_may_have_a_turn_after_the_plugin(
    #[case] systemd: &str,
    #[case] options: &str,
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    let initrd = initrd_of(systemd, options);
    let fits = fitting(&initrd);
    let mut header =
        header(3, &[fits.clone(), with(with(fits, FOREIGN, json!(true)), "keyslots", json!(["1"]))]);
    header.tokens.reverse();
    let forecast = told(Some(&header), initrd);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

/// A keyslot with a key of something else is nobody's, and no token's that libcryptsetup tries.
#[test]
fn a_keyslot_that_is_bound_to_nothing_opens_nothing() {
    for (options, outcome) in
        [("luks", Some(Outcome::NoPrompt)), ("tpm2-device=auto,tpm2-measure-pcr=yes", None)]
    {
        let initrd = initrd_of("257.13", options);
        let fits = fitting(&initrd);
        let wrong = with(fits.clone(), "tpm2-policy-hash", json!(WRONG));
        let mut header = header(3, &[with(fits, "keyslots", json!(["1"])), wrong]);
        for slot in [1, 2] {
            header.keyslots.get_mut(&slot).unwrap().kind = "luks2 (unbound)".into();
        }
        let forecast = told(Some(&header), initrd);
        assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    }
}

/// What nobody recognises may have its header somewhere else.
#[test]
fn a_header_may_be_elsewhere() {
    let root = RootVolume::Unrecognised;
    let told = |line: &str, crypttab: &str| {
        let initrd = initrd_with("257.13", crypttab);
        told_line(&tpm(&[HashAlg::Sha256], root), root, line, initrd).outcome
    };
    assert_eq!(told("", "root PARTLABEL=root none luks\n"), Some(Outcome::EmergencyShell));
    assert_eq!(told("", "root PARTLABEL=root none luks,header=/root.header\n"), None);
    let line = format!("rd.luks.name={UUID}=root rd.luks.data={UUID}=/dev/vda3");
    assert_eq!(told(&line, "# none\n"), None);
    assert_eq!(told(&line.replace("luks.data", "luks.key"), "# none\n"), Some(Outcome::EmergencyShell));
}

/// systemd's own code tries those tokens alone that are bound to the PCRs that the options name.
#[rstest]
#[case::to_those("tpm2-pcrs=9+4,tpm2-measure-pcr=yes", Some(Outcome::Unlocked))]
#[case::to_others("tpm2-pcrs=4,tpm2-measure-pcr=yes", Some(Outcome::FallbackPrompt))]
#[case::to_more("tpm2-pcrs=4,tpm2-pcrs=9,tpm2-measure-pcr=yes", Some(Outcome::Unlocked))]
#[case::to_none("tpm2-pcrs=,tpm2-measure-pcr=yes", Some(Outcome::FallbackPrompt))]
#[case::by_name("tpm2-pcrs=boot-loader-code,tpm2-measure-pcr=yes", None)]
#[case::plugins_do_not_look("tpm2-pcrs=4", Some(Outcome::Unlocked))]
fn tokens_are_chosen_by_their_pcrs(#[case] options: &str, #[case] outcome: Option<Outcome>) {
    let initrd = initrd_of("257.13", &format!("tpm2-device=auto,{options}"));
    let header = header(2, &[fitting(&initrd)]);
    let forecast = told(Some(&header), initrd);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
}

/// A token that opens helps where the root volume is opened at all; a key file comes first.
#[rstest]
#[case::by_the_table("root UUID=@ none luks", "", Some(Outcome::Unlocked), "token 0 frees")]
#[case::by_the_command_line("", "rd.luks.uuid=@", Some(Outcome::Unlocked), "token 0 frees")]
#[case::by_nobody(
    "",
    "root=/dev/mapper/root",
    Some(Outcome::EmergencyShell),
    "nothing opens the root volume"
)]
#[case::by_nobody_on_the_list(
    "root PARTLABEL=root none luks",
    "rd.luks.uuid=1",
    Some(Outcome::EmergencyShell),
    "nothing opens"
)]
#[case::switched_off(
    "root UUID=@ none luks",
    "rd.luks=0",
    Some(Outcome::EmergencyShell),
    "nothing opens the root volume"
)]
#[case::by_its_own_key("root UUID=@ /etc/keys/root luks", "", None, "/etc/keys/root")]
#[case::by_a_key_on_the_command_line("", "rd.luks.uuid=@ rd.luks.key=/keys/root", None, "/keys/root")]
#[case::which_a_line_of_the_table_does_not_have(
    "root UUID=@ none luks",
    "luks.key=/key",
    Some(Outcome::Unlocked),
    "token 0 frees"
)]
#[case::by_one_of_several("a PARTLABEL=a\nb PARTLABEL=b", "", None, "which line")]
#[case::beside_swap_space(
    "root PARTLABEL=root none luks\nswap PARTLABEL=swap /dev/urandom swap",
    "",
    Some(Outcome::Unlocked),
    "token 0 frees"
)]
#[case::by_lines_that_differ("a PARTLABEL=a none tries=1\nb PARTLABEL=b", "", None, "which line")]
fn a_root_volume_is_opened_by_those_who_name_it(
    #[case] crypttab: &str,
    #[case] line: &str,
    #[case] outcome: Option<Outcome>,
    #[case] because: &str,
) {
    let initrd = initrd_with("257.13", &format!("# Volumes\n{}\n", crypttab.replace('@', UUID)));
    // It is bound to no PCR.
    let token = with(with(fitting(&initrd), "tpm2-pcrs", json!([])), "tpm2-policy-hash", json!(WRONG));
    let header = header(2, &[token]);
    let root = RootVolume::Luks(&header);
    let forecast = told_line(&tpm(&[HashAlg::Sha256], root), root, &line.replace('@', UUID), initrd);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    assert!(forecast.because.contains(because), "{}", forecast.because);
}

/// A key file that lies where systemd looks for it is for the volume that it is called after.
#[rstest]
#[case("etc/cryptsetup-keys.d/root.key", None)]
#[case("etc/cryptsetup-keys.d/data.key", Some(Outcome::Unlocked))]
fn a_key_file_may_lie_in_the_initrd(#[case] key: &str, #[case] outcome: Option<Outcome>) {
    let initrd = initrd(&[&FILES[..], &[key]].concat(), "tpm2-policy-hash");
    let header = header(2, &[fitting(&initrd)]);
    let forecast = told(Some(&header), initrd);
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
}

/// A token that the TPM does not load ends it, whoever tries, until that was repaired.
#[rstest]
#[case("252", Some(Outcome::FallbackPrompt))]
#[case("257.13", Some(Outcome::FallbackPrompt))]
#[case("261", None)]
#[case("262", Some(Outcome::Unlocked))]
fn what_comes_after_another_tpms_token_hangs_on_the_version(
    #[case] systemd: &str,
    #[case] outcome: Option<Outcome>,
) {
    let initrd = initrd_of(systemd, "luks");
    let fits = fitting(&initrd);
    let foreign = with(fits.clone(), FOREIGN, json!(true));
    let forecast = told(Some(&header(3, &[foreign.clone(), fits])), initrd.clone());
    assert_eq!(forecast.outcome, outcome, "{}", forecast.because);
    let forecast = told(Some(&header(2, &[foreign])), initrd);
    assert_eq!(forecast.outcome, Some(Outcome::FallbackPrompt), "{}", forecast.because);
}
