//! One TPM command and its answer, as the recorder saw it, redacted.
//!
//! What an exchange says is enough to replay PCRs and to tell whether a policy was tried and a secret freed;
//! it never holds the bytes that a command carried. Names are those of the TPM 2.0 Library specification
//! (part 2, tables "TPM_CC constants" and "TPM_RC values") without their prefixes.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Digest, HashAlg, PcrIndex};

/// `TPM_CC` values that readers of a record look for.
pub mod command {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const UNSEAL: u32 = 0x15e;
    pub const LOAD: u32 = 0x157;
    pub const CREATE_PRIMARY: u32 = 0x131;
    pub const POLICY_PCR: u32 = 0x17f;
    pub const POLICY_GET_DIGEST: u32 = 0x189;
    pub const PCR_EXTEND: u32 = 0x182;
}

/// `TPM_RC` values that decide what a boot's record means.
pub mod response {
    /// Done.
    pub const SUCCESS: u32 = 0;
    /// The TPM asks for the command again: noise at the first use of a key that counts towards lockout.
    pub const RETRY: u32 = 0x922;
    /// A PCR moved between the policy session and its use: noise as long as a later try succeeds.
    pub const PCR_CHANGED: u32 = 0x128;
    /// Too many wrong answers or unclean power-offs: dictionary-attack lockout.
    pub const LOCKOUT: u32 = 0x921;
    /// `TPM_RC_INTEGRITY` without its parameter number: the object belongs to another TPM.
    pub const INTEGRITY: u32 = 0x09f;
    /// `TPM_RC_POLICY_FAIL` without its session number: the policy does not hold.
    pub const POLICY_FAIL: u32 = 0x09d;
}

/// A command and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TpmExchange {
    /// Milliseconds from the machine's power-on to the answer.
    pub at_ms: u64,
    /// How often the machine had been reset since its power-on: 0 until the guest reboots.
    pub reset: u32,
    /// `TPM_CC`.
    pub code: u32,
    /// Its name, such as `PCR_Extend`; the number in hex where the specification has none.
    pub command: String,
    /// The handles it names (objects, sessions, PCRs, NV indices), in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handles: Vec<u32>,
    /// What of its parameters may be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<TpmDetail>,
    /// How the TPM answered.
    pub response: TpmResponse,
}

/// The harmless part of what a command carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TpmDetail {
    /// `PCR_Extend` with one digest a bank, or `PCR_Event` with the digests that the TPM made.
    Extend {
        /// The register.
        pcr: PcrIndex,
        /// A digest for each bank that the sender knows; the TPM uses those of its active banks. Of an
        /// algorithm that is none of [`HashAlg::ALL`], nothing is kept.
        digests: Vec<Digest>,
    },
    /// `PCR_Read` and `PolicyPCR`: which PCRs of which banks.
    Select(Vec<PcrSelection>),
    /// `PolicyGetDigest`: what the session's policy has come to.
    PolicyDigest(Digest),
    /// `StartAuthSession`: what for.
    Session(SessionKind),
    /// `Startup` and `Shutdown`.
    State(StateKind),
    /// `GetCapability`: which capability, and the first property asked for.
    Capability {
        /// `TPM_CAP`.
        capability: u32,
        /// The first property.
        property: u32,
    },
    /// The handle that the answer names: of an object loaded, a primary made, a session begun.
    Handle(u32),
}

/// PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PcrSelection {
    /// `TPM_ALG_ID` of the bank.
    pub algorithm: u16,
    /// The PCRs, ascending.
    pub pcrs: Vec<PcrIndex>,
}

impl PcrSelection {
    /// The bank, when it is one of the four.
    #[must_use]
    pub fn bank(&self) -> Option<HashAlg> {
        HashAlg::from_tpm_id(self.algorithm)
    }
}

/// What a session is for (`TPM_SE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SessionKind {
    /// To authorise with a shared secret, or to encrypt what goes over the bus.
    Hmac,
    /// To satisfy a policy.
    Policy,
    /// To compute a policy's digest; nothing can be opened with it.
    Trial,
    /// A value the specification does not know.
    Unknown,
}

/// With or without what the TPM kept (`TPM_SU`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StateKind {
    /// `TPM_SU_CLEAR`.
    Clear,
    /// `TPM_SU_STATE`.
    Kept,
    /// A value the specification does not know.
    Unknown,
}

/// How the TPM answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TpmResponse {
    /// `TPM_RC`, 0 for success.
    pub code: u32,
    /// In words: `SUCCESS`, `LOCKOUT`, `INTEGRITY (parameter 1)`.
    pub words: String,
}

impl TpmResponse {
    /// Whether the command was carried out.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.code == response::SUCCESS
    }

    /// The code without the number of the parameter, handle or session it is about (part 1, "response code
    /// formats": a format-one code has bit 7 set and carries that number in bits 6 and 8 to 11).
    #[must_use]
    pub fn kind(&self) -> u32 {
        if self.code & 0x80 == 0 { self.code } else { self.code & 0xbf }
    }
}

impl fmt::Display for TpmResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {}", self.code, self.words)
    }
}

impl fmt::Display for TpmExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8} ms {} -> {}", self.at_ms, self.command, self.response)
    }
}

/// All exchanges between a machine's power-on and its end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct TpmRecord {
    /// In the order of their answers.
    pub exchanges: Vec<TpmExchange>,
    /// Why the record may lack something: lines of the log that could not be read. Empty for a whole one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
}

impl TpmRecord {
    /// The part after the `reset`th reset of the machine; 0 is the part from power-on to the first one.
    #[must_use]
    pub fn after_reset(&self, reset: u32) -> Self {
        let exchanges = self.exchanges.iter().filter(|e| e.reset == reset).cloned().collect();
        Self { exchanges, doubts: self.doubts.clone() }
    }

    /// Successful extends, in order.
    pub fn extends(&self) -> impl Iterator<Item = (&TpmExchange, PcrIndex, &[Digest])> {
        self.exchanges.iter().filter(|e| e.response.is_success()).filter_map(|e| match &e.detail {
            Some(TpmDetail::Extend { pcr, digests }) => Some((e, *pcr, digests.as_slice())),
            _ => None,
        })
    }

    fn any(&self, of: &[u32], answer: impl Fn(&TpmResponse) -> bool) -> bool {
        self.exchanges.iter().any(|e| of.contains(&e.code) && answer(&e.response))
    }

    /// Whether somebody tried to open something sealed: loaded an object, used PCRs in a policy, asked what a
    /// policy had come to, or unsealed, whatever the answer. No firmware or kernel of a booting machine does
    /// that (Linux 6.10 and later make a primary in the null hierarchy, so that alone says nothing).
    #[must_use]
    pub fn policy_tried(&self) -> bool {
        let tried = [command::LOAD, command::POLICY_PCR, command::POLICY_GET_DIGEST, command::UNSEAL];
        self.any(&tried, |_| true)
    }

    /// Whether the TPM gave a sealed secret away.
    #[must_use]
    pub fn unsealed(&self) -> bool {
        self.any(&[command::UNSEAL], TpmResponse::is_success)
    }

    /// Whether the TPM refused because it is in dictionary-attack lockout.
    #[must_use]
    pub fn locked_out(&self) -> bool {
        self.exchanges.iter().any(|e| e.response.code == response::LOCKOUT)
    }

    /// Whether an object did not load because another TPM made it.
    #[must_use]
    pub fn foreign_object(&self) -> bool {
        self.any(&[command::LOAD], |r| r.kind() == response::INTEGRITY)
    }

    /// What the PCRs that a policy selected last, in a session that was not refused, were.
    #[must_use]
    pub fn last_policy_selection(&self) -> Option<&[PcrSelection]> {
        self.exchanges.iter().rev().find_map(|e| match (&e.detail, e.code) {
            (Some(TpmDetail::Select(pcrs)), command::POLICY_PCR) if e.response.is_success() => {
                Some(pcrs.as_slice())
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(code: u32, rc: u32) -> TpmExchange {
        let response = TpmResponse { code: rc, words: String::new() };
        TpmExchange {
            at_ms: 0,
            reset: 0,
            code,
            command: String::new(),
            handles: vec![],
            detail: None,
            response,
        }
    }

    fn record(pairs: &[(u32, u32)]) -> TpmRecord {
        TpmRecord { exchanges: pairs.iter().map(|(c, r)| exchange(*c, *r)).collect(), doubts: vec![] }
    }

    #[test]
    fn normal_noise_is_told_from_refusal() {
        use command::{CREATE_PRIMARY, LOAD, POLICY_GET_DIGEST, POLICY_PCR, UNSEAL};
        let unlocked = record(&[
            (CREATE_PRIMARY, 0),
            (LOAD, response::RETRY),
            (LOAD, 0),
            (POLICY_PCR, 0),
            (UNSEAL, response::PCR_CHANGED),
            (UNSEAL, 0),
        ]);
        assert!(unlocked.policy_tried() && unlocked.unsealed());
        assert!(!unlocked.locked_out() && !unlocked.foreign_object());
        let mismatch = record(&[(CREATE_PRIMARY, 0), (LOAD, 0), (POLICY_PCR, 0), (POLICY_GET_DIGEST, 0)]);
        assert!(mismatch.policy_tried() && !mismatch.unsealed());
        assert!(record(&[(LOAD, 0x921)]).locked_out());
        assert!(record(&[(LOAD, 0x1df)]).foreign_object());
        assert!(!record(&[(CREATE_PRIMARY, 0)]).policy_tried());
    }
}
