//! One command and its answer: what it was, without what it carried.

mod table;

use latchkey_record::pcr::{Digest, HashAlg, PcrIndex};
use latchkey_record::tpm::{PcrSelection, SessionKind, StateKind, TpmDetail, TpmResponse};

use crate::bytes::Bytes;
use crate::log::LogEvent;
use crate::response::response_words;

/// `TPM_ST_SESSIONS` (part 2, table "TPM_ST constants"): an authorisation area follows the handles.
const WITH_SESSIONS: u16 = 0x8002;
/// `TPM_SE`, by value.
const SESSION_KINDS: [(u8, SessionKind); 3] =
    [(0, SessionKind::Hmac), (1, SessionKind::Policy), (3, SessionKind::Trial)];

/// `TPM_CC` values whose parameters are looked into.
mod code {
    pub(super) const CREATE_PRIMARY: u32 = 0x131;
    pub(super) const PCR_EVENT: u32 = 0x13c;
    pub(super) const STARTUP: u32 = 0x144;
    pub(super) const SHUTDOWN: u32 = 0x145;
    pub(super) const LOAD: u32 = 0x157;
    pub(super) const CONTEXT_LOAD: u32 = 0x161;
    pub(super) const LOAD_EXTERNAL: u32 = 0x167;
    pub(super) const START_AUTH_SESSION: u32 = 0x176;
    pub(super) const GET_CAPABILITY: u32 = 0x17a;
    pub(super) const PCR_READ: u32 = 0x17e;
    pub(super) const POLICY_PCR: u32 = 0x17f;
    pub(super) const PCR_EXTEND: u32 = 0x182;
    pub(super) const EVENT_SEQUENCE_COMPLETE: u32 = 0x185;
    pub(super) const POLICY_GET_DIGEST: u32 = 0x189;
    pub(super) const CREATE_LOADED: u32 = 0x191;
}

/// A command whose answer has not been seen.
#[derive(Debug)]
pub(crate) struct Command {
    code: u32,
    handles: Vec<u32>,
    detail: Option<TpmDetail>,
}

impl Command {
    /// Takes the harmless part of a command; `None` when not even its header is whole.
    pub(crate) fn read(message: &[u8]) -> Option<Self> {
        let mut rest = Bytes(message);
        let tag = rest.u16()?;
        let _size = rest.u32()?;
        let code = rest.u32()?;
        let count = entry(code).map_or(0, |(_, handles)| handles);
        let handles: Vec<u32> = (0..count).map_while(|_| rest.u32()).collect();
        let detail = if handles.len() < count { None } else { parameters(code, tag, &handles, rest) };
        Some(Self { code, handles, detail })
    }

    /// Joins the harmless part of the answer.
    pub(crate) fn answered(self, message: &[u8]) -> LogEvent {
        let Some((tag, response, rest)) = answer_header(message) else {
            return LogEvent::Doubt("an answer that is too short");
        };
        let from_answer =
            if response == 0 { answer_parameters(self.code, tag, &self.handles, rest) } else { None };
        LogEvent::Exchange {
            code: self.code,
            command: entry(self.code)
                .map_or_else(|| format!("{:#x}", self.code), |(name, _)| name.to_owned()),
            handles: self.handles,
            detail: self.detail.or(from_answer),
            response: TpmResponse { code: response, words: response_words(response) },
        }
    }
}

fn entry(code: u32) -> Option<(&'static str, usize)> {
    table::COMMANDS.iter().find(|(c, ..)| *c == code).map(|(_, name, handles)| (*name, *handles))
}

fn parameters(code: u32, tag: u16, handles: &[u32], mut rest: Bytes<'_>) -> Option<TpmDetail> {
    if tag == WITH_SESSIONS {
        let size = rest.u32()?;
        rest.take(usize::try_from(size).ok()?)?;
    }
    match code {
        code::PCR_EXTEND => extend(handles, rest),
        code::PCR_READ => selection(rest).map(TpmDetail::Select),
        code::POLICY_PCR => {
            rest.sized()?;
            selection(rest).map(TpmDetail::Select)
        }
        code::START_AUTH_SESSION => {
            rest.sized()?;
            rest.sized()?;
            let kind = rest.u8()?;
            let known = SESSION_KINDS.iter().find(|(value, _)| *value == kind);
            Some(TpmDetail::Session(known.map_or(SessionKind::Unknown, |(_, kind)| *kind)))
        }
        code::STARTUP | code::SHUTDOWN => Some(TpmDetail::State(match rest.u16()? {
            0 => StateKind::Clear,
            1 => StateKind::Kept,
            _ => StateKind::Unknown,
        })),
        code::GET_CAPABILITY => {
            Some(TpmDetail::Capability { capability: rest.u32()?, property: rest.u32()? })
        }
        _ => None,
    }
}

fn answer_header(message: &[u8]) -> Option<(u16, u32, Bytes<'_>)> {
    let mut rest = Bytes(message);
    let tag = rest.u16()?;
    let _size = rest.u32()?;
    let response = rest.u32()?;
    Some((tag, response, rest))
}

fn answer_parameters(code: u32, tag: u16, handles: &[u32], mut rest: Bytes<'_>) -> Option<TpmDetail> {
    match code {
        code::CREATE_PRIMARY
        | code::LOAD
        | code::CONTEXT_LOAD
        | code::LOAD_EXTERNAL
        | code::CREATE_LOADED => rest.u32().map(TpmDetail::Handle),
        code::PCR_EVENT | code::EVENT_SEQUENCE_COMPLETE => {
            if tag == WITH_SESSIONS {
                rest.u32()?;
            }
            extend(handles, rest)
        }
        // With a session the digest may be encrypted, and would be taken for one that never was.
        code::POLICY_GET_DIGEST if tag != WITH_SESSIONS => {
            let bytes = rest.sized()?;
            let alg = HashAlg::ALL.into_iter().find(|alg| alg.size() == bytes.len())?;
            Digest::new(alg, bytes).ok().map(TpmDetail::PolicyDigest)
        }
        _ => None,
    }
}

/// A `TPML_DIGEST_VALUES` for the PCR that is the first handle.
fn extend(handles: &[u32], mut rest: Bytes<'_>) -> Option<TpmDetail> {
    let pcr = PcrIndex::new(*handles.first()?).ok()?;
    let count = rest.u32()?;
    let mut digests = Vec::new();
    for _ in 0..count {
        // The size of another algorithm's digest is unknown, and so is where the next one begins.
        let Some(alg) = HashAlg::from_tpm_id(rest.u16()?) else { break };
        digests.push(Digest::new(alg, rest.take(alg.size())?).ok()?);
    }
    Some(TpmDetail::Extend { pcr, digests })
}

/// A `TPML_PCR_SELECTION`.
fn selection(mut rest: Bytes<'_>) -> Option<Vec<PcrSelection>> {
    let count = rest.u32()?;
    let mut selections = Vec::new();
    for _ in 0..count {
        let algorithm = rest.u16()?;
        let size = rest.u8()?;
        let bitmap = rest.take(size.into())?;
        let chosen = |index: &u32| bitmap.get(*index as usize / 8).is_some_and(|b| b >> (index % 8) & 1 == 1);
        let pcrs = (0..PcrIndex::COUNT).filter(chosen).filter_map(|i| PcrIndex::new(i).ok()).collect();
        selections.push(PcrSelection { algorithm, pcrs });
    }
    Some(selections)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const OK: &str = "80010000000a00000000";

    fn exchange(command: &str, answer: &str) -> LogEvent {
        Command::read(&hex::decode(command).unwrap()).unwrap().answered(&hex::decode(answer).unwrap())
    }

    fn detail(command: &str, answer: &str) -> Option<TpmDetail> {
        match exchange(command, answer) {
            LogEvent::Exchange { detail, .. } => detail,
            other => panic!("{other:?}"),
        }
    }

    fn pcrs(algorithm: u16, numbers: &[u32]) -> PcrSelection {
        PcrSelection { algorithm, pcrs: numbers.iter().map(|n| PcrIndex::new(*n).unwrap()).collect() }
    }

    #[test]
    fn an_extend_keeps_register_and_digest() {
        let digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        let command = format!("8002000000410000018200000008000000094000000900000000000000000 1000b{digest}")
            .replace(' ', "");
        let expected = TpmDetail::Extend {
            pcr: PcrIndex::new(8).unwrap(),
            digests: vec![format!("sha256:{digest}").parse().unwrap()],
        };
        assert_eq!(detail(&command, "80020000001300000000000000000000010000"), Some(expected));
    }

    #[rstest]
    #[case::pcr_read("8001000000140000017e00000001000b03810000", Some(TpmDetail::Select(vec![pcrs(11, &[0, 7])])))]
    #[case::policy_pcr("80010000001a0000017f03000000 0000 00000001 000b 03 900000",
                       Some(TpmDetail::Select(vec![pcrs(11, &[4, 7])])))]
    #[case::trial(
        "800100000000 00000176 40000007 40000007 0002 aaaa 0000 03 0010 000b",
        Some(TpmDetail::Session(SessionKind::Trial))
    )]
    #[case::shutdown("80010000000c000001450000", Some(TpmDetail::State(StateKind::Clear)))]
    #[case::capability("80010000001600 00017a 00000006 00000100 0000007f",
                       Some(TpmDetail::Capability { capability: 6, property: 0x100 }))]
    #[case::cut_short("8001000000140000017e00000001000b0381", None)]
    #[case::no_such_register("8001000000160000018200000018 00000000", None)]
    fn what_may_be_known_is_kept(#[case] command: &str, #[case] expected: Option<TpmDetail>) {
        assert_eq!(detail(&command.replace(' ', ""), OK), expected);
    }

    #[test]
    fn a_secret_leaves_no_trace() {
        let secret = hex::encode("correct horse");
        for code in ["00000153", "00000157", "0000015e", "00000137", "0000014e", "00000176", "00000131"] {
            let command = format!("800200000000{code}80000000800000000000 0000{secret}").replace(' ', "");
            let answer = format!("80020000000000000000{}000d{secret}", "00000013");
            let said = format!("{:?}", exchange(&command, &answer));
            assert!(!said.contains(&secret) && !said.contains("correct"), "{said}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_words() {
        let LogEvent::Exchange { command, response, handles, .. } =
            exchange("8001000000000000015780000000", "80010000000a000001df")
        else {
            panic!("not an exchange");
        };
        assert_eq!(command, "Load");
        assert_eq!(handles, [0x8000_0000]);
        assert_eq!(response.words, "INTEGRITY (parameter 1)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(index in 0..table::COMMANDS.len(), sessions: bool,
                                  command in prop::collection::vec(any::<u8>(), 0..80),
                                  answer in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut message = vec![0x80, if sessions { 2 } else { 1 }, 0, 0, 0, 0];
            message.extend(table::COMMANDS[index].0.to_be_bytes());
            message.extend(command);
            let mut reply = vec![0x80, if sessions { 2 } else { 1 }, 0, 0, 0, 0, 0, 0, 0, 0];
            reply.extend(&answer);
            Command::read(&message).unwrap().answered(&reply);
            if let Some(command) = Command::read(&answer) {
                command.answered(&answer);
            }
        }
    }
}
