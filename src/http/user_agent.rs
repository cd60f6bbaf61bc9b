//! What a browser is called by people, from what it calls itself.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The most bytes that are kept of what a client calls itself.
const MAX_KEPT: usize = 256;
/// How many different ones are shared.
const MAX_SHARED: usize = 1_000;

/// What the clients of open streams call themselves: those that say the same share it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct UserAgents(Arc<Mutex<HashSet<Arc<str>>>>);

impl UserAgents {
    /// What a client says, as far as it is kept.
    pub fn shared(&self, user_agent: &str) -> Arc<str> {
        let kept = &user_agent[..user_agent.floor_char_boundary(MAX_KEPT)];
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = known.get(kept) {
            return shared.clone();
        }
        let new: Arc<str> = kept.into();
        if known.len() >= MAX_SHARED {
            // Begins anew: those that are in use stay so, and are shared again when they come again.
            known.clear();
        }
        known.insert(new.clone());
        new
    }
}

/// Words that identify a browser, the most specific first: most browsers name others as well.
const BROWSERS: [(&str, &str); 9] = [
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Firefox/", "Firefox"),
    ("FxiOS/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Chromium/", "Chromium"),
    ("Safari/", "Safari"),
];
/// Words that identify a system, as above.
const SYSTEMS: [(&str, &str); 8] = [
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Macintosh", "macOS"),
    ("FreeBSD", "FreeBSD"),
    ("Linux", "Linux"),
];
/// The most characters of the name of a program that is none of these.
const MAX_OTHER: usize = 40;

/// Such as `Firefox on Linux`, or the program's own first word; empty if it did not say.
pub fn short(user_agent: &str) -> String {
    let known = |words: &[(&str, &'static str)]| {
        words.iter().find(|(word, _)| user_agent.contains(word)).map(|(_, name)| *name)
    };
    match (known(&BROWSERS), known(&SYSTEMS)) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(browser), None) => browser.to_owned(),
        _ => {
            let program = user_agent.split(['/', ' ', '(']).next().unwrap_or_default();
            program.chars().take(MAX_OTHER).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_called_as_people_call_them() {
        let of = |rest: &str| format!("Mozilla/5.0 {rest}");
        for (given, shown) in [
            (of("(X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"), "Firefox on Linux"),
            (
                of("(Windows NT 10.0; Win64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36"),
                "Chrome on Windows",
            ),
            (of("(Windows NT 10.0) AppleWebKit Chrome/140.0 Safari/537.36 Edg/140.0"), "Edge on Windows"),
            (of("(Linux; Android 16) AppleWebKit Chrome/140.0 Mobile Safari/537.36"), "Chrome on Android"),
            (of("(iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Safari/604.1"), "Safari on iPhone"),
            (of("(Macintosh; Intel Mac OS X 10_15_7) Version/19.0 Safari/605.1"), "Safari on macOS"),
            ("curl/8.5.0".to_owned(), "curl"),
            (String::new(), ""),
            ("ä".repeat(100), &"ä".repeat(MAX_OTHER)),
        ] {
            assert_eq!(short(&given), shown, "{given}");
        }
    }
}
