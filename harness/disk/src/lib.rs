//! What lies on a disk, and the one way to read and write it.
//!
//! A machine's disk is a qcow2 overlay over an image that is never written to. There is no device-mapper, no
//! loop device and no mounting here: `qemu-storage-daemon` shows the disk and each of its partitions as plain
//! files, and everything else reads and writes those. A raw image or fixed VHD that is only read is read as it is.
//!
//! | module | holds |
//! |---|---|
//! | [`overlay`] | qcow2 overlays over an image |
//! | [`open`] | an opened disk: the whole and each partition, as a view to read or as a file |
//! | [`view`] | a part of a file, read as if it were a file of its own |
//! | [`format`](mod@format) | what kind of file a disk image is |
//! | [`gpt`] | the partition table |
//! | [`filesystem`] | how much of a partition its file system takes |
//! | [`esp`] | the files of the EFI system partition |
//! | [`bootcsv`] | the boot entries of a vendor's directory |
//! | [`luks`] | LUKS2 headers: keyslots, tokens, segments |
//! | [`kernels`] | a `/boot` on a partition of its own |
//! | [`inspect`](mod@inspect) | a description of an image, for people and as data |
//! | [`varstore`] | the UEFI variables in OVMF's `VARS.fd` |
//!
//! What this crate leaves to others: what the bytes mean for a boot, and who changes them when.

pub mod bootcsv;
pub mod esp;
pub mod filesystem;
pub mod format;
pub mod gpt;
pub mod inspect;
pub mod kernels;
pub mod luks;
pub mod open;
pub mod overlay;
pub mod varstore;
pub mod view;

mod storage;

pub use esp::Esp;
pub use format::Format;
pub use gpt::{Gpt, Partition};
pub use inspect::{ImageDescription, inspect};
pub use kernels::Kernels;
pub use open::{Access, OpenDisk};
pub use overlay::Overlay;
pub use storage::Error as StorageError;
pub use varstore::{SecureBootKeys, VarStore};
pub use view::View;
