//! A step that loads a kernel module which somebody signed anew.

use std::io::Read;

use latchkey_disk::varstore::{SecureBoot, VariableId, vendor};
use latchkey_measure::{SignatureDb, module, siglist};
use latchkey_record::{HashAlg, PcrIndex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::files::signer;
use super::place::Site;
use super::{Act, Fault, Signer, SoFar};
use crate::Error;
use crate::bench::Bench;
use crate::boot::COMMAND;
use crate::pcrs;
use crate::rehearsal::Rehearsal;

/// A module that every kernel brings and that nothing needs.
const MODULE: &str = "dummy";
/// What stands between the PCRs before and after, and before what IMA measured meanwhile.
const THEN: &str = "then";
const MEANWHILE: &str = "meanwhile";
/// IMA's own list, a line a measurement: PCR, template's hash, template, file's hash, file, signature (Linux,
/// Documentation/security/IMA-templates.rst).
const IMA: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";
/// First bytes of an XZ stream (The .xz File Format, section 2.1.1.1).
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
/// Most bytes that a module may have once it is unpacked.
const MOST: u64 = 64 << 20;

/// See [`super::Step::LoadModule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LoadModule {
    /// Whose signature it gets instead of the distribution's.
    pub signer: Signer,
    /// What the kernel does with it.
    pub expect: Loaded,
    /// Whether it is installed as well: from then on every start of the system loads it.
    #[serde(default, skip_serializing_if = "is_no")]
    pub install: bool,
}

fn is_no(yes: &bool) -> bool {
    !yes
}

/// What a kernel does with a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loaded {
    /// It loads it, and IMA measures it into PCR 10; no other moves.
    Loaded,
    /// It refuses it for its signature. IMA has measured into PCR 10 what was read by then; no other moves.
    Refused,
}

impl Loaded {
    fn words(self) -> &'static str {
        match self {
            Self::Loaded => "loaded, and PCR 10 moved",
            Self::Refused => "refused, and PCR 10 moved",
        }
    }
}

impl Act for LoadModule {
    fn act(&self, bench: &mut Bench<'_>) -> Result<(), Error> {
        let failed = |why: String| Error::Bench(format!("signing the module {MODULE} anew: {why}"));
        let running = bench.running()?;
        let read = running.guest_ok(&format!("cat \"$(modinfo -n {MODULE})\""), &[], COMMAND)?;
        let unpacked = unpacked(read.stdout).map_err(|e| failed(e.to_string()))?;
        let bare = module::strip(&unpacked);
        let signed = match signer(bench.context.pki, self.signer) {
            Some(signer) => module::sign(bare, signer).map_err(|e| failed(e.to_string()))?,
            None => bare.to_vec(),
        };
        let all = (0..PcrIndex::COUNT).map(|pcr| pcr.to_string()).collect::<Vec<_>>().join(",");
        // The reference images mask what has nothing to do as they come.
        let install = match self.install {
            true => format!(
                "[ $code != 0 ] || {{ install -D /run/{MODULE}.ko \"/usr/lib/modules/$(uname -r)/updates/{MODULE}.ko\" \
                 && depmod && systemctl unmask systemd-modules-load.service && echo {MODULE} > /etc/modules-load.d/{MODULE}.conf && sync || code=99; }};"
            ),
            false => String::new(),
        };
        // Gone again, so that it can be loaded once more.
        let command = format!(
            "cat > /run/{MODULE}.ko; udevadm settle; had=$(wc -l < {IMA}); tpm2_pcrread sha256:{all}; \
             insmod /run/{MODULE}.ko; code=$?; echo {THEN}; tpm2_pcrread sha256:{all}; \
             echo {MEANWHILE}; tail -n +$((had + 1)) {IMA}; \
             {install} rm /run/{MODULE}.ko; [ $code != 0 ] || rmmod {MODULE}; exit $code"
        );
        let output = running.guest(&command, &signed, COMMAND)?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let text = output.text();
        let (before, rest) = text.split_once(THEN).unwrap_or_default();
        let (after, meanwhile) = rest.split_once(MEANWHILE).unwrap_or((rest, ""));
        let (before, after) = (pcrs::parse_pcrread(before), pcrs::parse_pcrread(after));
        let moved = pcrs::moved(&after, &before, HashAlg::Sha256, |_| true);
        // Every PCR of the bank was read: no other moved.
        let told = |word: &str| match &moved {
            Some(moved) if is_measured(meanwhile) => format!("{word}, and PCR {} moved", pcrs::list(moved)),
            Some(_) => format!("{word}, and IMA did not measure it"),
            None => format!("{word}, and the PCRs were not told: {said}"),
        };
        let refused =
            ["Key was rejected by service", "Required key not available", "Operation not permitted"];
        let seen = match output.code {
            0 => told("loaded"),
            _ if refused.iter().any(|words| said.contains(words)) => told("refused"),
            _ => said,
        };
        bench.check(&format!("the module {MODULE}"), self.expect.words(), seen);
        Ok(())
    }

    /// A kernel under lockdown takes what its firmware's lists, or its owner's, vouch for (Linux,
    /// `kernel/module/signing.c`, with the patch "KEYS: Make use of platform keyring for module signature verify" of Debian's, Fedora's
    /// and RHEL's; `security/integrity/platform_certs/load_uefi.c`).
    fn rehearse(&self, rehearsal: &mut Rehearsal<'_>) -> Result<(), Error> {
        let certificate = signer(rehearsal.pki(), self.signer).map(|signer| signer.certificate().to_vec());
        let lists = [("db", vendor::IMAGE_SECURITY), ("MokList", vendor::SHIM)];
        let off = rehearsal.variables.secure_boot() == SecureBoot::Off;
        let validation = rehearsal.variables.get(&VariableId::new("MokSBState", vendor::SHIM));
        // No Secure Boot, no lockdown: an unsigned module taints the kernel, and loads.
        let lax = off || validation.is_some_and(|state| state.data == [1]);
        let trusted = lax
            || certificate.is_some_and(|certificate| {
                lists.iter().any(|(name, vendor)| {
                    let list = rehearsal.variables.get(&VariableId::new(name, *vendor));
                    let list = list.and_then(|list| SignatureDb::parse(&list.data).ok());
                    list.is_some_and(|list| {
                        list.entries(siglist::X509).any(|entry| entry.data == certificate)
                    })
                })
            });
        let seen = if trusted { Loaded::Loaded } else { Loaded::Refused };
        rehearsal.check(&format!("the module {MODULE}"), self.expect.words(), seen.words());
        Ok(())
    }

    fn describe(&self) -> String {
        let whose = match self.signer {
            Signer::Nobody => "without a signature",
            Signer::Stranger => "signed by a stranger",
            Signer::Community => "signed by the community",
        };
        match self.expect {
            Loaded::Loaded if self.install => format!("load and install a kernel module {whose}"),
            Loaded::Loaded => format!("load a kernel module {whose}"),
            Loaded::Refused => format!("try to load a kernel module {whose}: refused"),
        }
    }

    fn check(&self, so_far: &mut SoFar) -> Result<(), Fault> {
        if self.install && self.expect == Loaded::Refused {
            return Err(("a module that is refused is not installed".into(), "leave `install` out"));
        }
        so_far.guest()
    }
}

/// Whether the module is among what IMA measured meanwhile: a running system may load another at any time.
fn is_measured(meanwhile: &str) -> bool {
    let file = format!("/run/{MODULE}.ko");
    meanwhile.lines().any(|line| line.split(' ').any(|word| word == file))
}

/// A module's file as the kernel has it.
fn unpacked(file: Vec<u8>) -> std::io::Result<Vec<u8>> {
    if !file.starts_with(XZ) {
        return Ok(file);
    }
    let mut module = Vec::new();
    liblzma::read::XzDecoder::new(&file[..]).take(MOST).read_to_end(&mut module)?;
    Ok(module)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::nothing("\n", false)]
    #[case::the_module("10 ab ima-sig sha256:cd /run/dummy.ko 00\n", true)]
    #[case::another(
        "10 ab ima-sig sha256:cd /usr/lib/modules/6.12/kernel/fs/autofs/autofs4.ko.xz 00\n",
        false
    )]
    #[case::both("10 ab ima-sig sha256:cd /usr/lib/a.ko 00\n10 ef ima-sig sha256:01 /run/dummy.ko\n", true)]
    fn what_another_module_moves_is_not_this_ones(#[case] meanwhile: &str, #[case] measured: bool) {
        assert_eq!(is_measured(meanwhile), measured);
    }
}
