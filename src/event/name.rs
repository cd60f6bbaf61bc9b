//! What names of users and topics have in common.

use super::Invalid;

/// The longest name of a user and the longest topic, in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Checks the text of a name or a topic: 1 to [`MAX_NAME_LEN`] bytes of UTF-8 without control characters (Unicode's
/// category Cc: U+0000 to U+001F and U+007F to U+009F). What passes is compared by its bytes, never folded or
/// normalised. `field` is what the error names.
pub fn check_name(field: &str, text: &str) -> Result<(), Invalid> {
    if text.is_empty() || text.len() > MAX_NAME_LEN {
        return Err(Invalid::new(field, format!("must have 1 to {MAX_NAME_LEN} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::new(field, "may not hold control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_text_without_control_characters() {
        for good in ["a", " ", "Zoë Ünal", "日本", "a/b", "..", "\u{a0}", "\u{202e}", "😀", &"ä".repeat(127)]
        {
            assert!(check_name("name", good).is_ok(), "{good:?}");
        }
        for bad in ["", "\0", "a\tb", "\n", "\u{1f}", "\u{7f}", "\u{80}", "\u{9f}", &"ä".repeat(128)] {
            assert_eq!(check_name("name", bad).unwrap_err().field, "name", "{bad:?}");
        }
    }
}
