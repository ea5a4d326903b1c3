//! The `latchkey` binary with its surroundings broken on purpose.
//!
//! Each test has a cache, a directory for temporary files and one for results of its own, all below one directory
//! whose name is nobody else's. Whatever a run starts inherits that name in its environment, so what a run leaves
//! behind is found by it: processes, files, mounts ([`support::Bench::assert_clean`]). The reference image is the
//! user's, built once, and shared by a link; it may never change.
//!
//! | module | breaks |
//! |---|---|
//! | [`usage`] | the command line |
//! | [`tools`] | the programs and the firmware |
//! | [`image`] | the image that the user brings |
//! | [`archive`] | the archive that packages come from |
//! | [`full`] | the disk that holds cache and results |
//! | [`parts`] | what a machine consists of, while it boots |
//! | [`saved`] | a machine that was saved, and a guest that shows secrets |
//! | [`harness`] | the harness itself, at any time |
//! | [`together`] | nothing: two runs at once |
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod archive;
mod finished;
mod full;
mod harness;
mod image;
mod parts;
mod saved;
mod support;
mod together;
mod tools;
mod usage;
