//! What is known of a run: pure data, and the schema under which it is kept.
//!
//! Every other room writes its findings in these types, and `report` reads nothing else. There is no I/O
//! here, no clock and no judgement: who decides what an observation means is `scenario`.
//!
//! - [`pcr`]: PCR indices, hash algorithms, digests and the values of a bank
//! - [`outcome`]: what a boot came to, and what a scenario concludes
//! - [`tpm`]: one TPM command and its answer, as the recorder saw it, redacted
//! - [`console`]: the named patterns of a serial console
//! - [`forecast`]: what a boot is expected to measure, and how it compares
//! - [`logged`]: how a forecast compares with somebody else's event log
//! - [`boot`]: one boot with its witnesses
//! - [`known`]: failures that are expected for a while
//! - [`results`]: a whole run, as written to `results.json`
//! - [`text`]: which characters may not reach a terminal

pub mod boot;
pub mod console;
pub mod forecast;
pub mod known;
pub mod logged;
pub mod outcome;
pub mod pcr;
pub mod results;
pub mod text;
pub mod tpm;

pub use boot::{BootKind, BootRecord, Contradiction, Milestone, Witness, WitnessName};
pub use forecast::{
    Alignment, Certainty, Forecast, ForecastEvent, Leg, Mismatch, Origin, Stage, Systemd, Unmodelled,
};
pub use known::{Day, Known};
pub use outcome::{Conclusion, Outcome};
pub use pcr::{Digest, HashAlg, PcrIndex, PcrValues};
pub use results::{RunResults, ScenarioResult, Status, StepResult};
