//! Policy digests against a TPM's own: every digest here was made twice.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod tools;

use latchkey_measure::policy::{Error, Selection};
use latchkey_measure::{Digest, HashAlg, Policy, hash};
use latchkey_record::pcr::{PcrIndex, PcrValues};
use proptest::prelude::*;
use rstest::rstest;

use HashAlg::{Sha1, Sha256, Sha384, Sha512};
use tools::Tools;

fn pcrs(numbers: &[u32]) -> Vec<PcrIndex> {
    numbers.iter().map(|n| PcrIndex::new(*n).unwrap()).collect()
}

/// A TPM in whose PCRs something was measured.
fn measured() -> Tools {
    let tools = Tools::start();
    for pcr in [0, 4, 7, 7, 9, 14, 23] {
        let digests = HashAlg::ALL.map(|alg| format!("{alg}={}", hash::digest(alg, &[pcr]).hex()));
        tools.run(&format!("tpm2_pcrextend {pcr}:{}", digests.join(",")));
    }
    tools
}

#[rstest]
#[case::azure(Sha256, Sha256, &[4, 7])]
#[case::any_order(Sha256, Sha256, &[7, 4])]
#[case::one(Sha256, Sha256, &[7])]
#[case::every_byte_of_the_bitmap(Sha256, Sha256, &[0, 7, 8, 15, 16, 23])]
#[case::ones(Sha256, Sha256, &[17, 22])]
#[case::sha1_bank(Sha256, Sha1, &[0, 1, 2, 3])]
#[case::sha384_bank(Sha256, Sha384, &[4, 7])]
#[case::sha512_bank(Sha256, Sha512, &[14])]
#[case::sha1_session(Sha1, Sha256, &[4, 7])]
#[case::sha384_session(Sha384, Sha256, &[4, 7])]
#[case::sha512_session(Sha512, Sha384, &[4, 7])]
fn pcr_policies_are_the_tpms(#[case] session: HashAlg, #[case] bank: HashAlg, #[case] numbers: &[u32]) {
    let tools = measured();
    let list = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    tools.run(&format!("tpm2_createpolicy --policy-pcr -g {session} -l {bank}:{list} -L policy"));
    let ours = Policy::new(session).pcr(bank, &pcrs(numbers), &tools.bank(bank)).unwrap();
    assert_eq!(ours.digest().hex(), hex::encode(tools.read("policy")));
    tools.end();
}

#[test]
fn several_banks_count_in_their_order() {
    let tools = measured();
    let (short, long) = (tools.bank(Sha1), tools.bank(Sha256));
    let small = (Selection::new(Sha1, &pcrs(&[0, 9])), &short);
    let large = (Selection::new(Sha256, &pcrs(&[4, 7])), &long);
    let mut seen = Vec::new();
    for (list, selections) in
        [("sha1:0,9+sha256:4,7", [small.clone(), large.clone()]), ("sha256:4,7+sha1:0,9", [large, small])]
    {
        tools.run(&format!("tpm2_createpolicy --policy-pcr -l {list} -L policy"));
        let ours = Policy::new(Sha256).pcr_banks(&selections).unwrap();
        assert_eq!(ours.digest().hex(), hex::encode(tools.read("policy")), "{list}");
        seen.push(ours);
    }
    assert_ne!(seen[0], seen[1]);
    tools.end();
}

/// A trial session in which the test says what comes.
struct Trial {
    tools: Tools,
    ours: Policy,
}

impl Trial {
    fn start(tools: Tools, alg: HashAlg) -> Self {
        tools.run(&format!("tpm2_startauthsession -g {alg} -S session"));
        Self { tools, ours: Policy::new(alg) }
    }

    fn step(mut self, line: &str, ours: impl FnOnce(Policy, &Tools) -> Policy) -> Self {
        self.tools.run(&format!("{line} -S session -L trial"));
        self.ours = ours(self.ours, &self.tools);
        assert_eq!(self.ours.digest().hex(), hex::encode(self.tools.read("trial")), "after {line}");
        self
    }

    fn done(self) -> (Tools, Digest) {
        self.tools.run("tpm2_flushcontext session");
        (self.tools, self.ours.digest().clone())
    }
}

#[rstest]
fn commands_fold_in_the_order_of_the_session(#[values(Sha1, Sha256, Sha384)] alg: HashAlg) {
    let pcr =
        |policy: Policy, tools: &Tools| policy.pcr(Sha256, &pcrs(&[4, 7]), &tools.bank(Sha256)).unwrap();
    let pin = |policy: Policy, _: &Tools| policy.auth_value();
    let (tools, first) = Trial::start(measured(), alg)
        .step("tpm2_policypcr -l sha256:4,7", pcr)
        .step("tpm2_policyauthvalue", pin)
        .done();
    let (tools, second) = Trial::start(tools, alg)
        .step("tpm2_policyauthvalue", pin)
        .step("tpm2_policypcr -l sha256:4,7", pcr)
        .step("tpm2_policypcr -l sha256:4,7", pcr)
        .done();
    assert_ne!(first, second);
    let (tools, password) = Trial::start(tools, alg).step("tpm2_policypassword", pin).done();
    let branches = [first.clone(), second.clone(), password];
    for (branch, name) in branches.iter().zip(["a", "b", "c"]) {
        tools.write(name, branch.bytes());
    }
    let (tools, either) = Trial::start(tools, alg)
        .step("tpm2_policypcr -l sha256:4,7", pcr)
        .step(&format!("tpm2_policyor -l {alg}:a,b,c"), |p, _| p.or(&branches).unwrap())
        .step("tpm2_policyauthvalue", pin)
        .done();
    assert_ne!(either, first);
    tools.end();
}

#[rstest]
fn signed_policies_are_known_by_their_key(
    #[values(Sha256, Sha384)] alg: HashAlg,
    #[values(&b""[..], b"a label")] policy_ref: &'static [u8],
) {
    let tools = measured();
    tools.run("tpm2_createprimary -C o -G ecc -c primary");
    tools.run("tpm2_flushcontext -t");
    let signing = "sign|userwithauth|fixedtpm|fixedparent|sensitivedataorigin";
    tools.run(&format!("tpm2_create -C primary -G rsa2048:rsassa-sha256 -a {signing} -u pub -r priv"));
    tools.run("tpm2_load -C primary -u pub -r priv -c key -n name");
    tools.run("tpm2_flushcontext -t");
    tools.write("ref", policy_ref);
    tools.write("any", &vec![0x5a; alg.size()]);
    let reference = if policy_ref.is_empty() { "" } else { " -q ref" };
    let name = tools.read("name");
    let (tools, first) = Trial::start(tools, alg)
        .step("tpm2_policypcr -l sha256:4", |p, t| p.pcr(Sha256, &pcrs(&[4]), &t.bank(Sha256)).unwrap())
        .step(&format!("tpm2_policyauthorize -i any -n name{reference}"), |p, _| {
            p.authorize(&name, policy_ref)
        })
        .step("tpm2_policyauthvalue", |p, _| p.auth_value())
        .done();
    assert_eq!(&first, Policy::new(alg).authorize(&name, policy_ref).auth_value().digest());
    tools.end();
}

#[test]
fn a_policy_over_what_is_not_known_has_no_digest() {
    let policy = Policy::new(Sha256);
    let mut values = PcrValues::default();
    let (four, seven) = (pcrs(&[4])[0], pcrs(&[7])[0]);
    values.0.insert(four, four.start_value(Sha256));
    let over = |bank, pcrs: &[PcrIndex]| policy.clone().pcr_banks(&[(Selection::new(bank, pcrs), &values)]);
    assert_eq!(over(Sha256, &[four, seven]), Err(Error::Unknown { bank: Sha256, pcr: seven }));
    assert_eq!(over(Sha1, &[four]), Err(Error::Bank { bank: Sha1, pcr: four, found: Sha256 }));
    assert!(policy.clone().pcr(Sha256, &[four, seven], &values).is_none());
    let branch = policy.digest().clone();
    for count in [0, 1, 9] {
        assert_eq!(policy.clone().or(&vec![branch.clone(); count]), Err(Error::Branches(count)));
    }
    let foreign = Policy::new(Sha1).digest().clone();
    let mixed = policy.or(&[branch, foreign]);
    assert_eq!(mixed, Err(Error::Algorithm { alg: Sha256, found: Sha1 }));
}

proptest! {
    #[test]
    fn a_selection_says_each_pcr_once(numbers in proptest::collection::vec(0_u32..24, 0..30)) {
        let bytes = Selection::new(Sha256, &pcrs(&numbers)).to_bytes();
        prop_assert_eq!(&bytes[..3], [0, 0x0b, 3]);
        let bits = u32::from_le_bytes([bytes[3], bytes[4], bytes[5], 0]);
        for number in 0..24 {
            prop_assert_eq!(bits >> number & 1 == 1, numbers.contains(&number));
        }
        prop_assert_eq!(bytes.len(), 6);
    }
}
