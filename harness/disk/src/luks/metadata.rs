//! The metadata as they stand in the header ("LUKS2 On-Disk Format Specification" 1.1.2, chapter 3).

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Keyslot, Segment, Token};

/// The JSON area; numbers of slots, tokens and segments are strings in it, and so are 64-bit numbers.
#[derive(Deserialize)]
pub(super) struct Metadata {
    pub(super) keyslots: BTreeMap<u32, RawKeyslot>,
    pub(super) tokens: IndexMap<u32, RawToken>,
    pub(super) segments: BTreeMap<u32, RawSegment>,
    #[serde(default)]
    pub(super) digests: BTreeMap<u32, RawDigest>,
    pub(super) config: RawConfig,
}

/// What proves a volume key: the keyslots that hold it, and the segments that it is the key of.
#[derive(Deserialize)]
pub(super) struct RawDigest {
    #[serde(default)]
    pub(super) keyslots: Vec<String>,
    #[serde(default)]
    pub(super) segments: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct RawKeyslot {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    key_size: u32,
    #[serde(default)]
    kdf: RawKdf,
    priority: Option<u32>,
}

#[derive(Default, Deserialize)]
struct RawKdf {
    #[serde(rename = "type", default)]
    kind: String,
    iterations: Option<u64>,
    time: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct RawToken {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    #[serde(flatten)]
    contents: Map<String, Value>,
}

#[derive(Deserialize)]
pub(super) struct RawSegment {
    #[serde(rename = "type")]
    kind: String,
    offset: String,
    size: String,
    #[serde(default)]
    encryption: String,
    #[serde(default)]
    sector_size: u32,
}

#[derive(Deserialize)]
pub(super) struct RawConfig {
    pub(super) requirements: Option<RawRequirements>,
}

#[derive(Deserialize)]
pub(super) struct RawRequirements {
    #[serde(default)]
    pub(super) mandatory: Vec<String>,
}

impl From<RawKeyslot> for Keyslot {
    fn from(raw: RawKeyslot) -> Self {
        let RawKdf { kind: kdf, iterations, time } = raw.kdf;
        let iterations = iterations.or(time).unwrap_or(0);
        Self { kind: raw.kind, key_size: raw.key_size, kdf, iterations, priority: raw.priority.unwrap_or(1) }
    }
}

impl From<RawToken> for Token {
    fn from(raw: RawToken) -> Self {
        let keyslots = raw.keyslots.iter().filter_map(|n| n.parse().ok()).collect();
        Self { kind: raw.kind, keyslots, contents: raw.contents }
    }
}

impl From<RawSegment> for Segment {
    fn from(raw: RawSegment) -> Self {
        Self {
            kind: raw.kind,
            offset: raw.offset.parse().unwrap_or(0),
            size: raw.size.parse().ok(),
            encryption: raw.encryption,
            sector_size: raw.sector_size,
        }
    }
}
