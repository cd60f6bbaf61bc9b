//! A cursor as the checker reads it: strictly, and by itself.

/// `epoch-position+a+b.digest`: everything up to `position` was sent, and `a` and `b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The history it is of.
    pub epoch: String,
    /// Everything up to here was sent.
    pub position: i64,
    /// What was sent besides, ascending.
    pub ahead: Vec<i64>,
}

/// How many may be ahead.
const MAX_AHEAD: usize = 32;

impl Mark {
    /// Reads one. `None` if there is anything wrong with it.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, rest) = text.split_once('-')?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !(1..=16).contains(&epoch.len()) || !epoch.bytes().all(plain) {
            return None;
        }
        let (rest, is_digest_plain) = match rest.split_once('.') {
            Some((rest, text)) => (rest, digest(text).is_some()),
            None => (rest, true),
        };
        let mut numbers = rest.split('+').map(number);
        let position = numbers.next()??;
        let ahead = numbers.collect::<Option<Vec<i64>>>()?;
        let rises = ahead.iter().try_fold(position, |before, next| (*next > before).then_some(*next));
        (is_digest_plain && rises.is_some() && ahead.len() <= MAX_AHEAD).then(|| Self {
            epoch: epoch.to_owned(),
            position,
            ahead,
        })
    }

    /// Whether it says that the event at `position` was sent.
    pub fn has_seen(&self, position: i64) -> bool {
        position <= self.position || self.ahead.binary_search(&position).is_ok()
    }
}

/// Eight hexadecimal digits: which event stood at the last position named.
pub fn digest(text: &str) -> Option<u32> {
    let is_plain = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if is_plain { u32::from_str_radix(text, 16).ok() } else { None }
}

/// Digits without a leading zero.
fn number(text: &str) -> Option<i64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_strictly() {
        let mark = Mark::parse("e1-120+131+140").unwrap();
        assert_eq!((mark.epoch.as_str(), mark.position, &mark.ahead[..]), ("e1", 120, &[131, 140][..]));
        assert!(mark.has_seen(120) && mark.has_seen(131) && !mark.has_seen(121));
        for bad in
            ["", "e", "e-", "-1", "E-1", "e-01", "e-+1", "e--1", "e-1+", "e-1+1", "e-1+3+2", "e-1 ", "e-x"]
        {
            assert_eq!(Mark::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Mark::parse("e1-120+131+140.00ff00aa"), Some(mark));
        for bad in ["e-1.", "e-1.00ff00a", "e-1.00FF00AA", "e-1.00ff00aa+2", "e-1+.00ff00aa"] {
            assert_eq!(Mark::parse(bad), None, "{bad:?}");
        }
        let many = |count| (2..2 + count).fold("e-1".to_owned(), |text, n| format!("{text}+{n}"));
        assert!(Mark::parse(&many(32)).is_some() && Mark::parse(&many(33)).is_none());
    }
}
