//! What commands show in a terminal.

use std::fmt::Write as _;
use std::io::Write as _;

/// Text from elsewhere, made harmless: whatever could move a terminal's cursor, change its colours or turn the
/// direction of writing is shown as `\u` and four digits. Inside JSON strings that means the same character.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmful(character) {
            // Writing into a String cannot fail; all of these have at most four digits.
            let _ = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Controls (C0, DEL, C1), line separators, and what overrides or isolates the direction of writing.
fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A line on standard error. Nobody may be reading it: that is no reason to stop.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let hostile = "a\u{1b}[2J\r\n\u{7f}\u{9b}31m\u{202e}\u{2066}\u{2069}\u{2028}é \"ü\" 日本 ✓";
        let expected = r#"a\u001b[2J\u000d\u000a\u007f\u009b31m\u202e\u2066\u2069\u2028é "ü" 日本 ✓"#;
        assert_eq!(harmless(hostile), expected);
        let json = serde_json::to_string("a\u{9b}\u{202e}b").unwrap();
        let read: String = serde_json::from_str(&harmless(&json)).unwrap();
        assert_eq!(read, "a\u{9b}\u{202e}b");
    }
}
