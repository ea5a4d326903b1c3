//! GRUB.
//!
//! Its scripts are not modelled yet: what it measures into PCR 4, 8 and 9 is declared unknown, and the chain is followed no
//! further.

use latchkey_record::Stage;

use crate::chain::Image;
use crate::{Chain, End, Error, Next};

/// From GRUB's start to the kernel's.
///
/// # Errors
/// None so far.
pub fn run(chain: &mut Chain<'_>, image: &Image) -> Result<Next, Error> {
    let file = format!("esp:{}", image.path);
    chain.unmodelled(Stage::Grub, &file, "GRUB's scripts are not modelled yet", &[4, 8, 9]);
    let because = format!("{file} is GRUB, which is not modelled yet");
    Ok(Next::End(End { outcome: None, because, reported_by: None }))
}
