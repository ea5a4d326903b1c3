//! What is hashed and how: PE images and their signatures, signature lists, shim's own data.
//!
//! Everything here is a function of bytes in memory: no file, no process, no clock. That makes it usable for
//! building images, for describing them and for forecasting what a boot will measure, with one implementation
//! for the three.
//!
//! | module | holds |
//! |---|---|
//! | [`pe`] | PE32 and PE32+ images: sections with long names, Authenticode in its two forms, embedded signatures |
//! | [`sign`] | Authenticode signing, PE checksum, removing signatures |
//! | [`siglist`] | `EFI_SIGNATURE_LIST`: db, dbx, KEK, PK, MOK lists and certificate files |
//! | [`shim`] | what a shim binary says of itself: version, vendor certificate, revocation levels, file-name rule |
//! | [`sbat`] | SBAT metadata and revocations |
//! | [`certfile`] | building a `shim_certificate.efi` |
//! | [`section`] | giving the last section of an image other contents |
//! | [`addon`] | building an add-on to a UKI |
//! | [`module`] | kernel modules and their signatures |
//! | [`policy`] | TPM policies and their digests: PCRs, PIN, alternatives, signed policies |
//! | [`bank`] | PCR banks that are extended together |
//! | [`eventlog`] | TCG event logs, both formats and TDX's: parse, replay, compare, write |
//! | [`variable_event`] | UEFI variables as they are measured |
//! | [`authvar`] | authenticated UEFI variables |
//! | [`device_path`] | UEFI device paths as text |
//! | [`hash`] | the four bank algorithms, extending a PCR |
//! | [`cert`] | the few things about an X.509 certificate that people want to read |
//!
//! All input is treated as hostile: a parser answers malformed data with an error, never with a panic.
//!
//! What this crate leaves to others: where the bytes come from (`latchkey-disk`), and what a machine does
//! with them.

pub mod addon;
pub mod authvar;
pub mod bank;
pub mod cert;
pub mod certfile;
pub mod device_path;
pub mod eventlog;
pub mod hash;
pub mod module;
pub mod pe;
pub mod policy;
pub mod sbat;
pub mod section;
pub mod shim;
pub mod siglist;
pub mod sign;
pub mod variable_event;

#[cfg(feature = "samples")]
pub mod samples;

mod bytes;
mod pe_build;

pub use latchkey_record::pcr::{Digest, HashAlg};
pub use pe::PeImage;
pub use policy::Policy;
pub use siglist::{SignatureDb, SignatureList};
pub use sign::{Signer, sign_pe};
pub use uuid::Uuid;
