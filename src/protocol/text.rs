//! Text that pages show beside what is ours.

/// Whether text may be shown as something else than it is: by control characters, or by an override of the direction, which
/// lets what stands beside it read differently too.
#[must_use]
pub fn misleads(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
}
