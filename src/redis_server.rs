//! A Redis server named by a URL, as the bus and the expiring keys use it.
//!
//! `redis://user:password@host:port/database?namespace=name`: everything in that Redis begins with the namespace
//! (`carillon` unless given), so that several clusters may share one. Needs RESP3, so Redis 6.2 or newer.

use redis::io::tcp::TcpSettings;
use redis::{Client, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, RedisError, RedisResult};
use url::Url;

/// How connections to a server are made, and what its names begin with. Cheap to clone.
#[derive(Clone)]
pub struct RedisServer {
    /// Makes connections that speak RESP3 and send small messages at once.
    pub client: Client,
    namespace: String,
}

impl RedisServer {
    /// Reads the URL; does not connect. Errors hold nothing of the URL, which may hold a password.
    pub fn from_url(url: &str) -> RedisResult<Self> {
        let mut url = Url::parse(url).map_err(|_| unusable("not a URL"))?;
        if url.scheme() == "rediss" {
            return Err(unusable("TLS is not supported"));
        }
        let (own, rest): (Vec<_>, Vec<_>) =
            url.query_pairs().into_owned().partition(|(name, _)| name == "namespace");
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        let namespace = own.into_iter().next_back().map_or_else(|| "carillon".to_owned(), |(_, value)| value);
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if namespace.is_empty() || namespace.len() > 64 || !namespace.bytes().all(is_plain) {
            return Err(unusable("the namespace must be 1 to 64 letters, digits, '.', '_' and '-'"));
        }
        let info = url.as_str().into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let info =
            info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        Ok(Self { client: Client::open(info)?, namespace })
    }

    /// A channel or key of this cluster's own.
    pub fn name(&self, rest: &str) -> String {
        format!("{}:{rest}", self.namespace)
    }

    /// What stands behind the namespace, if this name is one of this cluster's.
    pub fn rest_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.namespace)?.strip_prefix(':')
    }
}

/// What is wrong with a URL, in words of ours.
pub fn reason(error: &RedisError) -> &str {
    error
        .detail()
        .filter(|_| error.kind() == ErrorKind::InvalidClientConfig)
        .unwrap_or_else(|| error.category())
}

fn unusable(reason: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, "unusable", reason.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_goes_before_every_name() {
        let plain = RedisServer::from_url("redis://localhost/3").unwrap();
        assert_eq!(plain.name("global"), "carillon:global");
        assert_eq!(plain.client.get_connection_info().redis_settings().db(), 3);
        let staging = RedisServer::from_url("redis://:secret@localhost:7000/1?namespace=staging").unwrap();
        assert_eq!(staging.name("user:7"), "staging:user:7");
        assert_eq!(staging.rest_of("staging:user:7"), Some("user:7"));
        assert_eq!(staging.rest_of("carillon:user:7"), None);
        assert_eq!(staging.client.get_connection_info().redis_settings().password(), Some("secret"));
    }

    #[test]
    fn an_unusable_url_is_refused_without_repeating_it() {
        let bad = [
            "",
            "secret",
            "redis://:secret@h/x",
            "redis://h?namespace=",
            "redis://h?namespace=a:b",
            "rediss://h",
        ];
        for url in bad {
            let error = RedisServer::from_url(url).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
            assert!(!reason(&error).is_empty());
        }
        let tls = RedisServer::from_url("rediss://h").err().unwrap();
        assert_eq!(reason(&tls), "TLS is not supported");
    }
}
