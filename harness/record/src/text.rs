//! Text from outside, as far as it goes to somebody's eyes.

/// Whether a character has a say over how others are shown: a control character, or one that embeds, overrides or isolates a
/// direction of writing (Unicode Standard Annex 9, sections 2.1 to 2.5).
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
