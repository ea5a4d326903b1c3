//! kernel.

use crate::chain::KernelStart;
use crate::{Chain, End, Error, Next};

/// Runs it.
///
/// # Errors
/// When a file system cannot be read.
pub fn run(_chain: &mut Chain<'_>, _start: &KernelStart) -> Result<Next, Error> {
    Ok(Next::End(End { outcome: None, because: "not modelled".into(), reported_by: None }))
}
