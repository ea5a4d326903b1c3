//! What lies on a disk, and the one way to read and write it.
//!
//! A machine's disk is a qcow2 overlay over an image that is never written to. There is no device-mapper, no
//! loop device and no mounting here: `qemu-storage-daemon` shows the disk and each of its partitions as plain
//! files, and everything else reads and writes those.
//!
//! | module | holds |
//! |---|---|
//! | [`varstore`] | the UEFI variables in OVMF's `VARS.fd` |
//!
//! What this crate leaves to others: what the bytes mean for a boot, and who changes them when.

pub mod varstore;

pub use varstore::{SecureBootKeys, VarStore};
