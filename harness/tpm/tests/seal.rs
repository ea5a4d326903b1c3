//! Sealing by a TPM that is switched off, with tpm2-tools as the one who opens it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use std::path::Path;

use latchkey_measure::{Policy, hash};
use latchkey_record::pcr::HashAlg::{self, Sha1, Sha256, Sha384};
use latchkey_record::pcr::{Digest, PcrIndex, PcrValues};
use latchkey_tpm::{
    Channel, Keepsake, Parent, SealedObject, TpmFacts, Under, clear, loads, manufacture, seal,
};
use rstest::rstest;

use tools::Tools;

const SECRET: &[u8; 32] = b"thirty-two bytes to be sealed...";
/// systemd 252's primary key in tpm2-tools' words.
const ATTRIBUTES: &str = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth";

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// What PCRs hold after one extend each, by our own account.
fn values(bank: HashAlg, extended: &[(u32, &str)]) -> PcrValues {
    let value = |(index, hex): &(u32, &str)| {
        let digest = Digest::new(bank, &hex::decode(hex).unwrap()).unwrap();
        (pcr(*index), hash::extend(&pcr(*index).start_value(bank), &digest))
    };
    PcrValues(extended.iter().map(value).collect())
}

#[rstest]
#[case::as_azure(Sha256, &[4, 7])]
#[case::other_pcrs(Sha256, &[0, 11, 23])]
#[case::another_bank(Sha384, &[7])]
#[case::the_oldest_bank(Sha1, &[4, 7])]
fn only_the_pcrs_that_were_told_open_it(#[case] bank: HashAlg, #[case] pcrs: &[u32]) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    let program = Path::new("swtpm");
    manufacture(program, &state, &[Sha1, Sha256, Sha384]).unwrap();
    let measured = "5a".repeat(bank.size());
    let extended: Vec<(u32, &str)> = pcrs.iter().map(|index| (*index, measured.as_str())).collect();
    let indices: Vec<PcrIndex> = pcrs.iter().map(|index| pcr(*index)).collect();
    let policy = Policy::new(Sha256).pcr(bank, &indices, &values(bank, &extended)).unwrap();
    let sealed = seal(program, &state, Parent::Primary, SECRET, policy.digest().bytes()).unwrap();
    let lockout = TpmFacts::read(program, &state).unwrap().lockout;
    assert_eq!((lockout.counter, lockout.locked), (0, false), "sealing ended in order");

    let tools = Tools::start_on(Channel::Tools, dir, &state);
    tools.file("private", &sealed.private);
    tools.file("public", &sealed.public);
    let algorithm = "ecc256:aes128cfb";
    tools.run(
        "tpm2_createprimary",
        &["-C", "o", "-g", "sha256", "-G", algorithm, "-a", ATTRIBUTES, "-c", "p"],
    );
    tools.run("tpm2_flushcontext", &["-t"]);
    tools.run("tpm2_load", &["-C", "p", "-u", "public", "-r", "private", "-c", "sealed"]);
    tools.run("tpm2_flushcontext", &["-t"]);
    let list = pcrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let password = format!("pcr:{bank}:{list}");
    let unseal = ["-c", "sealed", "-p", password.as_str(), "-o", "opened"];
    assert!(!tools.succeeds("tpm2_unseal", &unseal), "nothing was measured yet");
    for index in pcrs {
        tools.run("tpm2_pcrextend", &[&format!("{index}:{bank}={measured}")]);
    }
    tools.run("tpm2_unseal", &unseal);
    assert_eq!(std::fs::read(state.parent().unwrap().join("opened")).unwrap(), SECRET);
    // The TPM's own account of the policy.
    tools.run("tpm2_createpolicy", &["--policy-pcr", "-l", &format!("{bank}:{list}"), "-L", "policy"]);
    assert_eq!(std::fs::read(state.parent().unwrap().join("policy")).unwrap(), policy.digest().bytes());
    tools.run("tpm2_pcrextend", &[&format!("{}:{bank}={measured}", pcrs[0])]);
    assert!(!tools.succeeds("tpm2_unseal", &unseal), "one PCR moved");
}

#[test]
fn what_is_sealed_under_the_storage_root_is_opened_by_the_key_as_tpm2_tss_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    let program = Path::new("swtpm");
    manufacture(program, &state, &[Sha256]).unwrap();
    let zero = PcrValues([(pcr(7), pcr(7).start_value(Sha256))].into());
    let policy = Policy::new(Sha256).pcr(Sha256, &[pcr(7)], &zero).unwrap();
    let seal = || seal(program, &state, Parent::StorageRoot, SECRET, policy.digest().bytes()).unwrap();
    let (first, second) = (seal(), seal());
    let root = first.storage_root.clone().unwrap();
    assert_eq!(Some(&root), second.storage_root.as_ref(), "the TPM keeps it");
    let kept = TpmFacts::read(program, &state).unwrap().persistent;
    assert_eq!(kept.iter().map(|object| object.handle).collect::<Vec<_>>(), [0x8100_0001]);

    let tools = Tools::start_on(Channel::Tools, dir, &state);
    tools.run("tpm2_readpublic", &["-c", "0x81000001", "-t", "handle"]);
    let read = |name: &str| std::fs::read(state.parent().unwrap().join(name)).unwrap();
    assert_eq!(read("handle"), root);
    tools.file("root", &root);
    tools.run("tpm2_flushcontext", &["-t"]);
    for sealed in [first, second] {
        tools.file("private", &sealed.private);
        tools.file("public", &sealed.public);
        tools.run("tpm2_load", &["-C", "root", "-u", "public", "-r", "private", "-c", "sealed"]);
        tools.run("tpm2_flushcontext", &["-t"]);
        tools.run("tpm2_unseal", &["-c", "sealed", "-p", "pcr:sha256:7", "-o", "opened"]);
        assert_eq!(read("opened"), SECRET);
    }
}

fn whole(object: &SealedObject) -> Vec<u8> {
    [&object.private[..], &object.public].concat()
}

/// A TPM, and what it sealed under its primary key.
fn sealed_by_a_new_tpm(state: &Path) -> Vec<u8> {
    manufacture(Path::new("swtpm"), state, &[Sha256]).unwrap();
    whole(&seal(Path::new("swtpm"), state, Parent::Primary, SECRET, &[0; 32]).unwrap())
}

#[test]
fn only_the_tpm_that_sealed_a_secret_loads_it() {
    let dir = tempfile::tempdir().unwrap();
    let program = Path::new("swtpm");
    let (ours, other) = (dir.path().join("ours"), dir.path().join("other"));
    let (blob, foreign) = (sealed_by_a_new_tpm(&ours), sealed_by_a_new_tpm(&other));
    let rooted = seal(program, &ours, Parent::StorageRoot, SECRET, &[0; 32]).unwrap();
    let rooted = |under| Keepsake { under, blob: whole(&rooted) };
    let mut damaged = blob.clone();
    damaged[20] ^= 1;
    let ecc = |blob: &[u8]| Keepsake { under: Under::Ecc, blob: blob.to_owned() };
    let kept = Under::Handle(0x8100_0001);
    let objects = [
        ecc(&blob),
        ecc(&foreign),
        ecc(&damaged),
        ecc(&blob[..40]),
        ecc(&[]),
        Keepsake { under: Under::Rsa, blob: blob.clone() },
        rooted(kept),
        rooted(Under::Ecc),
        rooted(Under::Handle(0x8100_0002)),
        ecc(&blob),
    ];
    let before = std::fs::read(ours.join("tpm2-00.permall")).unwrap();
    let told = loads(program, &ours, &objects).unwrap();
    assert_eq!(told, [true, false, false, false, false, false, true, false, false, true]);
    assert_eq!(std::fs::read(ours.join("tpm2-00.permall")).unwrap(), before, "asking changed the state");
    assert_eq!(loads(program, &other, &objects[..2]).unwrap(), [false, true]);
    // Cleared, it is another TPM.
    clear(program, &ours).unwrap();
    assert_eq!(loads(program, &ours, &objects).unwrap(), [false; 10]);
    assert!(TpmFacts::read(program, &ours).unwrap().srk().is_none());
}

#[test]
fn what_systemd_seals_under_an_rsa_key_is_found_out_too() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("tpm");
    manufacture(Path::new("swtpm"), &state, &[Sha256]).unwrap();
    let tools = Tools::start_on(Channel::Tools, dir, &state);
    let secret = tools.file("secret", SECRET);
    tools.run(
        "tpm2_createprimary",
        &["-C", "o", "-g", "sha256", "-G", "rsa2048:aes128cfb", "-a", ATTRIBUTES, "-c", "p"],
    );
    tools.run("tpm2_flushcontext", &["-t"]);
    tools.run("tpm2_create", &["-C", "p", "-i", secret.to_str().unwrap(), "-u", "public", "-r", "private"]);
    tools.run("tpm2_shutdown", &["-c"]);
    let read = |name: &str| std::fs::read(state.parent().unwrap().join(name)).unwrap();
    let object = Keepsake { under: Under::Rsa, blob: [read("private"), read("public")].concat() };
    let other = Keepsake { under: Under::Ecc, ..object.clone() };
    assert_eq!(loads(Path::new("swtpm"), &state, &[object, other]).unwrap(), [true, false]);
}

#[test]
fn the_other_policies_are_what_the_tpm_computes() {
    let tools = Tools::start(Channel::Tools);
    let dir = tools.file("message", b"").parent().unwrap().to_owned();
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let session = |commands: &[(&str, &[&str])], out: &str| {
        tools.run("tpm2_startauthsession", &["-S", "session"]);
        for (command, args) in commands {
            tools.run(command, &[&["-S", "session", "-L", out], *args].concat());
        }
        tools.run("tpm2_flushcontext", &["session"]);
        read(out)
    };
    let start = || Policy::new(Sha256);
    let auth = session(&[("tpm2_policyauthvalue", &[])], "auth");
    assert_eq!(auth, start().auth_value().digest().bytes());
    let pcrs = session(&[("tpm2_policypcr", &["-l", "sha256:1"])], "pcrs");
    let zero = PcrValues([(pcr(1), pcr(1).start_value(Sha256))].into());
    let ours = start().pcr(Sha256, &[pcr(1)], &zero).unwrap();
    assert_eq!(pcrs, ours.digest().bytes());
    let or = session(&[("tpm2_policyauthvalue", &[]), ("tpm2_policyor", &["sha256:auth,pcrs"])], "or");
    let branches = [start().auth_value().digest().clone(), ours.digest().clone()];
    assert_eq!(or, start().auth_value().or(&branches).unwrap().digest().bytes());
}

#[test]
fn a_missing_value_makes_no_policy() {
    assert_eq!(Policy::new(Sha256).pcr(Sha256, &[pcr(7)], &PcrValues::default()), None);
}
