//! What `publish` and `tail` share: which servers, with which token, and how long to wait for them.

use std::error::Error as _;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Response, redirect};
use serde::Deserialize;
use url::Url;

use super::Misconfigured;
use super::terminal::harmless;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes read of an answer; the receipts of a full batch are a tenth of it.
const MAX_ANSWER: usize = 1024 * 1024;
/// The first pause after a failure; it doubles with each round through the servers.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause of our own choice.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// The servers and the token.
#[derive(Debug, Args)]
pub(super) struct ClientArgs {
    /// A node's address, http://host:port; several (repeated, or separated by commas) are tried in turn.
    /// https:// does not work: this program has no TLS
    #[arg(
        long = "server",
        value_name = "URL",
        env = "CARILLON_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080"
    )]
    servers: Vec<String>,
    /// The API token, as 'carillon token create' prints it; better given as CARILLON_TOKEN, since others on this
    /// machine can see options
    #[arg(long, env = "CARILLON_TOKEN", hide_env_values = true)]
    token: Option<Token>,
}

/// A secret that does not show when printed.
#[derive(Clone)]
struct Token(String);

impl FromStr for Token {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl ClientArgs {
    /// Checks what was given; nothing is connected yet.
    pub(super) fn servers(&self) -> Result<Servers, Misconfigured> {
        let addresses = self.servers.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        if addresses.is_empty() {
            return Err(Misconfigured("--server: no address was given".into()));
        }
        let token = self.token.as_ref().filter(|token| !token.0.is_empty()).ok_or_else(|| {
            Misconfigured(
                "a token is missing: set CARILLON_TOKEN to what 'carillon token create' prints".into(),
            )
        })?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.0))
            .map_err(|_| Misconfigured("the token holds characters that no token has".into()))?;
        bearer.set_sensitive(true);
        // Redirects are not followed: they would lose a publication's body, or lead to TLS.
        let http = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("carillon/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .build()
            .map_err(|error| Misconfigured(format!("HTTP cannot be set up: {error}")))?;
        Ok(Servers { http, addresses, current: 0 })
    }
}

/// One server's address, without a slash at its end.
fn address(text: &str) -> Result<String, Misconfigured> {
    let wrong = |what: &str| Err(Misconfigured(format!("--server: {what}")));
    let text = text.trim();
    if text.contains('@') {
        // Not shown again: there may be a password in it.
        return wrong("an address cannot hold a user or password; give the token as CARILLON_TOKEN");
    }
    let shown = harmless(text);
    let Ok(url) = Url::parse(text) else {
        return wrong(&format!("'{shown}' is not an address like http://127.0.0.1:8080"));
    };
    match url.scheme() {
        "http" => {}
        "https" => {
            return wrong(&format!(
                "'{shown}' needs TLS, which this program does not speak: give a node's http:// address"
            ));
        }
        _ => return wrong(&format!("'{shown}' does not begin with http://")),
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong(&format!("'{shown}' has more than a host, a port and a path"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// The servers, one of which is in use.
#[derive(Debug)]
pub(super) struct Servers {
    /// Sends the token with every request.
    pub(super) http: Client,
    addresses: Vec<String>,
    current: usize,
}

impl Servers {
    /// The address of the one in use.
    pub(super) fn current(&self) -> &str {
        &self.addresses[self.current]
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Goes on to the next one.
    pub(super) fn advance(&mut self) {
        self.current = (self.current + 1) % self.addresses.len();
    }
}

/// How long to wait after this many failures in a row, and at least as long as the server asked. `chance` is
/// from 0 to 1: clients that failed together must not come back together.
pub(super) fn pause(failures: u32, servers: usize, asked: Option<Duration>, chance: f64) -> Duration {
    let rounds = failures / u32::try_from(servers).unwrap_or(u32::MAX).max(1);
    let ceiling = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(rounds)).min(LONGEST_PAUSE);
    let own = ceiling.mul_f64(0.5 + chance / 2.0);
    own.max(asked.unwrap_or_default().min(LONGEST_ASKED).mul_f64(1.0 + chance / 4.0))
}

/// The seconds of `Retry-After` (RFC 9110 §10.2.3); its other form, a date, is not used by our nodes.
pub(super) fn retry_after(answer: &Response) -> Option<Duration> {
    answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// Why a request got no answer, in a few words and without the address.
pub(super) fn no_answer(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if error.source().is_none() { "the connection failed".into() } else { harmless(&deepest.to_string()) }
}

/// A refusal, as our nodes explain it (RFC 9457) or as a proxy in between gave it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status.
    pub(super) status: u16,
    /// One sentence about it, with the field's name if there is one.
    pub(super) detail: String,
    /// The field at fault.
    pub(super) field: Option<String>,
}

impl Refusal {
    /// Reads it from an answer that is not a success.
    pub(super) async fn read(answer: Response) -> Self {
        #[derive(Deserialize)]
        struct Problem {
            detail: String,
            field: Option<String>,
        }
        let status = answer.status();
        let location = answer.headers().get(LOCATION).and_then(|l| l.to_str().ok()).map(harmless);
        let body = body(answer).await.unwrap_or_default();
        let problem: Option<Problem> = serde_json::from_slice(&body).ok();
        let (detail, field) = match (problem, location) {
            (Some(problem), _) => (harmless(&problem.detail), problem.field.as_deref().map(harmless)),
            (None, Some(to)) if status.is_redirection() => {
                (format!("the server is at {to}; give that address"), None)
            }
            (None, _) => (status.canonical_reason().unwrap_or("no reason was given").to_owned(), None),
        };
        Self { status: status.as_u16(), detail, field }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.status)
    }
}

/// The body of an answer, up to a bound.
pub(super) async fn body(mut answer: Response) -> reqwest::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER {
            break;
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for (given, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            (" http://[::1]:1/ ", "http://[::1]:1"),
            ("http://host/below/", "http://host/below"),
        ] {
            assert_eq!(address(given).unwrap(), expected);
        }
        for (given, expected) in [
            ("", "is not an address"),
            ("nonsense", "is not an address"),
            ("localhost:8080", "does not begin with http://"),
            ("https://host", "needs TLS"),
            ("http://host?x=1", "more than a host"),
        ] {
            let error = address(given).unwrap_err().0;
            assert!(error.contains(expected) && error.lines().count() == 1, "{given}: {error}");
        }
        assert!(!address("http://me:secret@host").unwrap_err().0.contains("secret"));
    }

    #[test]
    fn pauses_grow_with_each_round_and_stay_bounded() {
        let ceiling = |failures, servers| pause(failures, servers, None, 1.0);
        assert_eq!(ceiling(0, 1), FIRST_PAUSE);
        assert_eq!(ceiling(2, 1), FIRST_PAUSE * 4);
        assert_eq!((ceiling(2, 3), ceiling(3, 3)), (FIRST_PAUSE, FIRST_PAUSE * 2));
        assert_eq!(ceiling(u32::MAX, 1), LONGEST_PAUSE);
        assert_eq!(pause(0, 1, None, 0.0), FIRST_PAUSE / 2);
        let asked = Duration::from_secs(3);
        assert_eq!(pause(0, 1, Some(asked), 0.0), asked);
        assert_eq!(pause(0, 1, Some(Duration::MAX), 0.0), LONGEST_ASKED);
    }

    #[test]
    fn a_token_does_not_show() {
        let args = ClientArgs { servers: vec![], token: Some(Token("secret".into())) };
        assert!(!format!("{args:?}").contains("secret"));
    }
}
