//! Which token frees the volume key.
