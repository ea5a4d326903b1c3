//! The recorder against tpm2-tools, which talk to the same swtpm: what they did is what was recorded, and
//! what they carried is not.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use std::collections::BTreeMap;

use latchkey_record::pcr::{Digest, HashAlg, PcrIndex};
use latchkey_record::tpm::{SessionKind, TpmDetail, TpmRecord, command};
use latchkey_tpm::Channel;
use rstest::rstest;
use sha2::Digest as _;

use tools::{Tools, hex_of};

fn hash(alg: HashAlg, parts: &[&[u8]]) -> Vec<u8> {
    let data = parts.concat();
    match alg {
        HashAlg::Sha1 => sha1::Sha1::digest(&data).to_vec(),
        HashAlg::Sha256 => sha2::Sha256::digest(&data).to_vec(),
        HashAlg::Sha384 => sha2::Sha384::digest(&data).to_vec(),
        HashAlg::Sha512 => sha2::Sha512::digest(&data).to_vec(),
    }
}

/// Folds the recorded extends as the TPM does.
fn replay(record: &TpmRecord) -> BTreeMap<(PcrIndex, HashAlg), Vec<u8>> {
    let mut values = BTreeMap::new();
    for (_, pcr, digests) in record.extends() {
        for digest in digests {
            let alg = digest.alg();
            let value: &mut Vec<u8> =
                values.entry((pcr, alg)).or_insert_with(|| pcr.start_value(alg).bytes().to_vec());
            *value = hash(alg, &[value, digest.bytes()]);
        }
    }
    values
}

#[test]
fn replayed_extends_are_what_the_tpm_reads_in_every_bank() {
    let tools = Tools::start(Channel::Tools);
    for (pcr, text) in [(4, "first"), (4, "second"), (7, "third"), (0, "fourth"), (4, "fifth"), (16, "last")]
    {
        let digests: Vec<String> = HashAlg::ALL
            .iter()
            .map(|alg| format!("{alg}={}", hex::encode(hash(*alg, &[text.as_bytes()]))))
            .collect();
        tools.run("tpm2_pcrextend", &[&format!("{pcr}:{}", digests.join(","))]);
    }
    // The TPM makes these digests itself and tells them in its answer.
    tools.run("tpm2_pcrevent", &["8", tools.file("event", b"data").to_str().unwrap()]);
    let read: Vec<(PcrIndex, HashAlg, Vec<u8>)> = [0, 4, 7, 8, 16]
        .into_iter()
        .flat_map(|pcr| HashAlg::ALL.map(|alg| (PcrIndex::new(pcr).unwrap(), alg)))
        .map(|(pcr, alg)| (pcr, alg, hex_of(&tools.run("tpm2_pcrread", &[&format!("{alg}:{pcr}")]))))
        .collect();
    let record = tools.end();
    assert!(record.doubts.is_empty(), "{:?}", record.doubts);
    assert_eq!(record.extends().count(), 7);
    let replayed = replay(&record);
    for (pcr, alg, value) in read {
        assert_eq!(hex::encode(&replayed[&(pcr, alg)]), hex::encode(value), "PCR {pcr} {alg}");
    }
    let last = record.extends().find(|(_, pcr, _)| pcr.get() == 16).unwrap();
    assert!(last.2.contains(&Digest::new(HashAlg::Sha256, &hash(HashAlg::Sha256, &[b"last"])).unwrap()));
}

#[test]
fn unsealing_is_told_from_a_policy_that_does_not_hold_and_no_secret_is_kept() {
    const SECRET: &str = "the-secret-itself";
    let tools = Tools::start(Channel::Tools);
    tools.run("tpm2_createprimary", &["-C", "o", "-G", "ecc", "-c", "primary"]);
    tools.run("tpm2_flushcontext", &["-t"]);
    tools.run("tpm2_createpolicy", &["--policy-pcr", "-l", "sha256:4,7", "-L", "policy"]);
    let secret = tools.file("secret", SECRET.as_bytes());
    let secret = secret.to_str().unwrap();
    tools.run("tpm2_create", &["-C", "primary", "-i", secret, "-L", "policy", "-u", "pub", "-r", "priv"]);
    tools.run("tpm2_flushcontext", &["-t"]);
    tools.run("tpm2_load", &["-C", "primary", "-u", "pub", "-r", "priv", "-c", "sealed"]);
    tools.run("tpm2_flushcontext", &["-t"]);
    let before = tools.record();
    assert!(before.policy_tried() && !before.unsealed());
    let unsealed = tools.run("tpm2_unseal", &["-c", "sealed", "-p", "pcr:sha256:4,7"]);
    assert_eq!(unsealed, SECRET);
    tools.run("tpm2_flushcontext", &["-t"]);
    let opened = tools.record();
    assert!(opened.unsealed());
    tools.run("tpm2_pcrextend", &[&format!("4:sha256={}", "11".repeat(32))]);
    assert!(!tools.succeeds("tpm2_unseal", &["-c", "sealed", "-p", "pcr:sha256:4,7"]));
    let record = tools.end();

    let unseals: Vec<_> = record.exchanges.iter().filter(|e| e.code == command::UNSEAL).collect();
    assert_eq!(unseals.first().unwrap().response.words, "SUCCESS");
    assert_eq!(unseals.last().unwrap().response.words, "POLICY_FAIL (session 1)");
    let selection = record.last_policy_selection().unwrap();
    assert_eq!(selection[0].pcrs.iter().map(|p| p.get()).collect::<Vec<_>>(), [4, 7]);
    let kinds = |kind| record.exchanges.iter().any(|e| e.detail == Some(TpmDetail::Session(kind)));
    assert!(kinds(SessionKind::Trial) && kinds(SessionKind::Policy));

    let kept = format!("{record:?}").to_lowercase();
    for form in [SECRET.to_owned(), hex::encode(SECRET), format!("{:?}", SECRET.as_bytes())] {
        assert!(!kept.contains(&form), "{form}");
    }
}

/// tpm2-tools write `tpm:parameter(1):integrity check failed`, without the code's own name.
#[rstest]
#[case(0x922, "RETRY", "tpm:warn(2.0): the TPM was not able to start the command")]
#[case(0x921, "LOCKOUT", "the TPM is in DA lockout mode")]
#[case(0x128, "PCR_CHANGED", "tpm:error(2.0): PCR have changed since checked")]
#[case(0x1df, "INTEGRITY (parameter 1)", "tpm:parameter(1):integrity check failed")]
#[case(0x99d, "POLICY_FAIL (session 1)", "tpm:session(1):a policy check failed")]
#[case(0x98e, "AUTH_FAIL (session 1)", "tpm:session(1):the authorization HMAC check failed")]
#[case(0x18b, "HANDLE (handle 1)", "tpm:handle(1):the handle is not correct for the use")]
#[case(0x101, "FAILURE", "commands not being accepted because of a TPM failure")]
#[case(0x902, "OBJECT_MEMORY", "tpm:warn(2.0): out of memory for object contexts")]
fn response_codes_read_as_tpm2_tools_decode_them(
    #[case] code: u32,
    #[case] name: &str,
    #[case] decoded: &str,
) {
    assert_eq!(latchkey_tpm::response_words(code), name);
    let said = latchkey_supervise::run("tpm2_rc_decode", &[format!("{code:#x}")]).unwrap().text();
    assert!(said.contains(decoded), "{said}");
}

#[test]
fn a_tpm_that_ends_is_noticed() {
    let tools = Tools::start(Channel::Tools);
    assert!(tools.swtpm.is_running().unwrap());
    // The shell's own `kill`: a bare system has no other.
    let kill = format!("kill -KILL {}", tools.swtpm.pid().unwrap());
    latchkey_supervise::run("sh", &["-c", &kill]).unwrap();
    tools.wait_for_end();
    assert!(!tools.swtpm.is_running().unwrap());
}
