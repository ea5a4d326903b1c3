//! What a step comes to.

use latchkey_record::Status;
use latchkey_record::results::Check;

use crate::Error;

/// What a step comes to that asserted `checks` until it was `done`. What it saw is a verdict, whatever went wrong afterwards;
/// one that was interrupted has none.
pub(super) fn judged(done: &Result<(), Error>, checks: &[Check], is_cancelled: bool) -> Status {
    let broken = checks.iter().filter(|check| !check.held);
    let broken: Vec<String> =
        broken.map(|c| format!("{}: expected {}, saw {}", c.what, c.expected, c.seen)).collect();
    let ended = done.as_ref().map_or_else(Error::status, |()| Status::Passed);
    if broken.is_empty() {
        return ended;
    }
    let before = |reason: &str| format!("{}\n{reason}", broken.join("\n"));
    match ended {
        Status::InfrastructureError { reason } if is_cancelled => {
            Status::InfrastructureError { reason: before(&reason) }
        }
        Status::InfrastructureError { reason } | Status::Failed { reason } => {
            Status::Failed { reason: before(&reason) }
        }
        _ => Status::Failed { reason: broken.join("\n") },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_did_not_hold_is_a_verdict_whatever_went_wrong_afterwards() {
        let check = |held: bool| Check {
            what: "outcome".into(),
            expected: "unlocked".into(),
            seen: if held { "unlocked" } else { "fallback-prompt" }.into(),
            held,
        };
        let all = [check(true), check(false)];
        let told = "outcome: expected unlocked, saw fallback-prompt";
        let full = || Err(Error::Bench("no room is left".into()));
        let failed = |reason: String| Status::Failed { reason };
        let both = format!("{told}\nno room is left");
        assert_eq!(judged(&Ok(()), &all, false), failed(told.into()));
        assert_eq!(judged(&full(), &all, false), failed(both.clone()));
        assert_eq!(judged(&Err(Error::Verdict("no room is left".into())), &all, false), failed(both.clone()));
        assert_eq!(judged(&full(), &all, true), Status::InfrastructureError { reason: both });
        // Nothing broke before it.
        let alone = Status::InfrastructureError { reason: "no room is left".into() };
        assert_eq!(judged(&full(), &all[..1], false), alone);
        assert_eq!(judged(&Ok(()), &all[..1], false), Status::Passed);
    }
}
