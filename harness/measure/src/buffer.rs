//! Memory for whole files.

/// Of so many bytes and more, memory is asked of the system by itself.
const LARGE: usize = 1 << 20;
/// What glibc never takes from a heap, whatever it has learnt from what was freed (mallopt(3), `M_MMAP_THRESHOLD`:
/// `DEFAULT_MMAP_THRESHOLD_MAX` on 64-bit systems, 32 MiB). What nobody writes to takes no memory.
const NEVER_IN_A_HEAP: usize = (32 << 20) + 1;

/// An empty buffer with room for `length` bytes. What a large one took is the system's again as soon as it is dropped, and is
/// not kept for later in a heap, as glibc does with what is about as large as what was freed before.
#[must_use]
pub fn buffer(length: usize) -> Vec<u8> {
    Vec::with_capacity(if length < LARGE { length } else { length.max(NEVER_IN_A_HEAP) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_room_for_what_it_is_for() {
        for length in [0, 5, LARGE, NEVER_IN_A_HEAP, 2 * NEVER_IN_A_HEAP] {
            assert!(buffer(length).capacity() >= length);
        }
        assert!(buffer(5).capacity() < LARGE && buffer(LARGE).capacity() >= NEVER_IN_A_HEAP);
    }
}
