//! Little-endian reads that answer "not there" instead of panicking.

use uuid::Uuid;

/// The `u16` at byte `at`.
pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The `u32` at byte `at`.
pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The `u32` at byte `at`, as a size or offset in memory.
pub(crate) fn size_at(data: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32_at(data, at)?).ok()
}

/// `len` bytes from `start`.
pub(crate) fn slice(data: &[u8], start: usize, len: usize) -> Option<&[u8]> {
    data.get(start..start.checked_add(len)?)
}

/// The `u64` at byte `at`.
pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(slice(data, at, 8)?.try_into().ok()?))
}

/// The GUID at byte `at`, as UEFI stores it.
pub(crate) fn guid_at(data: &[u8], at: usize) -> Option<Uuid> {
    Some(Uuid::from_bytes_le(slice(data, at, 16)?.try_into().ok()?))
}

/// UTF-16LE units; a last odd byte is left out.
pub(crate) fn units(data: &[u8]) -> impl Iterator<Item = u16> {
    data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
}

/// UTF-16LE text up to its first NUL, what is no text in it replaced.
pub(crate) fn utf16_text(data: &[u8]) -> String {
    let before: Vec<u16> = units(data).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&before)
}
