//! Reports, from records only: the terminal's table, `results.json`, JUnit.
//!
//! - [`terminal`]: what a person reads at the end of a run
//! - [`json`]: the results and their schema
//! - [`junit`]: what CI systems read
//!
//! What this crate leaves to others: deciding anything. It formats what [`latchkey_record`] holds.

pub mod forecast;
pub mod json;
pub mod junit;
pub mod terminal;
