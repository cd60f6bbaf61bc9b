//! A URL that may hold a password, and is shown without it.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// A URL as it was given. `Display` and `Debug` leave its password out; [`Self::reveal`] is for the code that connects.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// The whole URL, with its secrets.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretUrl {
    type Err = Infallible;

    /// Any text: an unreadable URL, too, must be shown masked.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SecretUrl {
    /// Works on the text, not on a parsed URL, because what cannot be parsed may hold a password as well. When in
    /// doubt it hides more: everything from the first `:` after the scheme to the last `@`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = match self.0.split_once("://") {
            Some((scheme, rest)) => (format!("{scheme}://"), rest),
            None => (String::new(), self.0.as_str()),
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
        };
        f.write_str(&scheme)?;
        match login.map(|login| login.split_once(':')) {
            Some(Some((user, _))) => write!(f, "{user}:{MASK}@")?,
            Some(None) => write!(f, "{}@", login.unwrap_or_default())?,
            None => {}
        }
        let Some((address, query)) = place.split_once('?') else { return f.write_str(place) };
        f.write_str(address)?;
        for (number, parameter) in query.split('&').enumerate() {
            f.write_str(if number == 0 { "?" } else { "&" })?;
            match parameter.split_once('=') {
                Some((name, _)) if is_secret(name) => write!(f, "{name}={MASK}")?,
                _ => f.write_str(parameter)?,
            }
        }
        Ok(())
    }
}

/// Whether a parameter of this name holds a secret: `password`, `sentinel_password` and their like. A name with an
/// escape may be any of them.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("pass") || name.contains("secret") || name.contains('%')
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_left_out_and_all_else_shown() {
        for (url, shown) in [
            ("sqlite:data/carillon.sqlite", "sqlite:data/carillon.sqlite"),
            ("memory:", "memory:"),
            ("redis://host:6379/1?namespace=a", "redis://host:6379/1?namespace=a"),
            (
                "postgres://me:hunter2@db:5432/x?sslmode=require",
                "postgres://me:***@db:5432/x?sslmode=require",
            ),
            ("postgres://me@db/x", "postgres://me@db/x"),
            ("redis://:hunter2@host", "redis://:***@host"),
            ("redis+cluster://u:hunter2@a:1,b:2,c", "redis+cluster://u:***@a:1,b:2,c"),
            (
                "redis+sentinel://:hunter2@a,b/main?sentinel_password=hunter2&namespace=n",
                "redis+sentinel://:***@a,b/main?sentinel_password=***&namespace=n",
            ),
            ("postgres://db/x?user=me&p%61ssword=hunter2", "postgres://db/x?user=me&p%61ssword=***"),
            // Not URLs, or with a password that should have been escaped.
            ("postgres://me:hun/ter?2@db/x", "postgres://me:***@db/x"),
            ("postgres://me:hunter@2@db/x", "postgres://me:***@db/x"),
            ("me:hunter2@db", "me:***@db"),
        ] {
            let url: SecretUrl = url.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("SecretUrl({shown})"));
        }
    }
}
