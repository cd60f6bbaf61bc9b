//! Reads the URLs.
//!
//! - `redis://[user:password@]host[:6379][/database]`, `redis+unix:…`
//! - `redis+sentinel://[user:password@]host[:26379],…/master-name[/database]?sentinel_password=…`; user and
//!   password are the master's
//! - `redis+cluster://[user:password@]host[:6379],…`
//!
//! and `?namespace=…` for each.

use std::fmt;

use redis::io::tcp::TcpSettings;
use redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, ProtocolVersion, RedisResult,
};
use url::Url;

use super::Failure;

/// The most hosts in a URL.
const MAX_HOSTS: usize = 16;

/// What a URL says. Its `Debug` shows no user, password or option.
pub(super) struct Address {
    /// How to connect to a master; the address in it counts only for [`Deployment::Single`].
    pub(super) data: ConnectionInfo,
    pub(super) deployment: Deployment,
    pub(super) namespace: String,
}

/// How the masters are found.
pub(super) enum Deployment {
    /// The one server of the URL is the master.
    Single,
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
    },
    Cluster {
        seeds: Vec<ConnectionAddr>,
    },
}

/// Whether a URL's scheme is one of these.
pub fn is_redis(url: &str) -> bool {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    ["redis", "rediss", "redis+unix", "unix", "redis+sentinel", "redis+cluster"].contains(&scheme)
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Address");
        text.field("address", self.data.addr()).field("deployment", &self.deployment);
        text.field("namespace", &self.namespace).finish()
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Single => f.write_str("Single"),
            Self::Sentinel { sentinels, master } => {
                let sentinels: Vec<_> = sentinels.iter().map(ConnectionInfo::addr).collect();
                f.debug_struct("Sentinel").field("sentinels", &sentinels).field("master", master).finish()
            }
            Self::Cluster { seeds } => f.debug_struct("Cluster").field("seeds", seeds).finish(),
        }
    }
}

impl Address {
    /// Errors hold nothing of the URL.
    pub(super) fn read(url: &str) -> Result<Self, Failure> {
        if let Some(rest) = url.strip_prefix("redis+sentinel://") {
            read_sentinel(rest)
        } else if let Some(rest) = url.strip_prefix("redis+cluster://") {
            read_cluster(rest)
        } else {
            read_one(url)
        }
    }
}

fn read_one(url: &str) -> Result<Address, Failure> {
    let mut url = Url::parse(url).map_err(|_| unusable("not a URL"))?;
    let (own, rest): (Vec<_>, Vec<_>) =
        url.query_pairs().into_owned().partition(|(name, _)| name == "namespace");
    url.set_query(None);
    if !rest.is_empty() {
        url.query_pairs_mut().extend_pairs(rest);
    }
    let namespace = read_namespace(own.into_iter().next_back().map(|(_, value)| value))?;
    let data = settings(url.as_str().into_connection_info(), ProtocolVersion::RESP3)?;
    if !data.addr().is_supported() {
        return Err(unusable("TLS is not supported"));
    }
    Ok(Address { data, deployment: Deployment::Single, namespace })
}

fn read_sentinel(rest: &str) -> Result<Address, Failure> {
    let parts = Parts::of(rest, &["namespace", "sentinel_password"])?;
    let (master, database) = parts.path.split_once('/').unwrap_or((parts.path, ""));
    // Sentinel's own rule for names.
    if master.is_empty() || !master.bytes().all(is_plain) {
        return Err(unusable("after the sentinels comes /master-name, of letters, digits, '.', '_' and '-'"));
    }
    let (_, data) = parts.servers(26_379, database)?;
    let mut addresses = Vec::new();
    for host in &parts.hosts {
        let info = settings(parse("", host, 26_379, ""), ProtocolVersion::RESP2)?;
        let login = info.redis_settings().clone();
        addresses.push(match parts.option("sentinel_password") {
            Some(password) => info.set_redis_settings(login.set_password(password)),
            None => info,
        });
    }
    let deployment = Deployment::Sentinel { sentinels: addresses, master: master.to_owned() };
    Ok(Address { data, deployment, namespace: read_namespace(parts.option("namespace"))? })
}

fn read_cluster(rest: &str) -> Result<Address, Failure> {
    let parts = Parts::of(rest, &["namespace"])?;
    if !parts.path.is_empty() {
        return Err(unusable("a Redis Cluster has no databases"));
    }
    let (seeds, data) = parts.servers(6_379, "")?;
    Ok(Address {
        data,
        deployment: Deployment::Cluster { seeds },
        namespace: read_namespace(parts.option("namespace"))?,
    })
}

/// What stands behind the scheme. The `url` crate knows no lists of hosts, so they are taken apart here.
struct Parts<'a> {
    login: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    options: Vec<(String, String)>,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str, options: &[&str]) -> Result<Self, Failure> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let hosts: Vec<_> = hosts.split(',').collect();
        if hosts.len() > MAX_HOSTS {
            return Err(Failure(format!("more than {MAX_HOSTS} hosts")));
        }
        let query = Url::parse(&format!("redis://host?{query}")).map_err(|_| unusable("not a URL"))?;
        let given: Vec<_> = query.query_pairs().into_owned().collect();
        if given.iter().any(|(name, _)| !options.contains(&name.as_str())) || query.fragment().is_some() {
            return Err(Failure(format!("the only options are {}", options.join(", "))));
        }
        Ok(Self { login, hosts, path: path.trim_end_matches('/'), options: given })
    }

    fn option(&self, name: &str) -> Option<String> {
        let given = self.options.iter().rev().find(|(given, _)| given == name);
        given.map(|(_, value)| value.clone())
    }

    /// The hosts' addresses, and how to connect to a master.
    fn servers(&self, port: u16, database: &str) -> Result<(Vec<ConnectionAddr>, ConnectionInfo), Failure> {
        let mut addresses = Vec::new();
        let mut data = None;
        for host in &self.hosts {
            let info = settings(parse(self.login, host, port, database), ProtocolVersion::RESP3)?;
            addresses.push(info.addr().clone());
            data = Some(info);
        }
        Ok((addresses, data.ok_or_else(|| unusable("no host"))?))
    }
}

/// One host's address, read as that of one server is.
fn parse(login: &str, host: &str, port: u16, database: &str) -> RedisResult<ConnectionInfo> {
    let refused = || (ErrorKind::InvalidClientConfig, "a host is missing or wrong");
    let at = if login.is_empty() { "" } else { "@" };
    let url = Url::parse(&format!("redis://{login}{at}{host}/{database}")).map_err(|_| refused())?;
    if host.is_empty() || url.host_str().is_none_or(str::is_empty) || url.fragment().is_some() {
        return Err(refused().into());
    }
    let info = url.as_str().into_connection_info()?;
    match (url.port(), info.addr()) {
        (None, ConnectionAddr::Tcp(host, _)) => {
            let address = ConnectionAddr::Tcp(host.clone(), port);
            Ok(info.set_addr(address))
        }
        _ => Ok(info),
    }
}

fn settings(info: RedisResult<ConnectionInfo>, protocol: ProtocolVersion) -> Result<ConnectionInfo, Failure> {
    let info = info.map_err(|error| match error.detail() {
        // A fixed text of the library's: nothing of the URL is in it.
        None => Failure(error.to_string()),
        Some(_) => unusable("not a usable Redis URL"),
    })?;
    let with = info.redis_settings().clone().set_protocol(protocol);
    Ok(info.set_redis_settings(with).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn read_namespace(given: Option<String>) -> Result<String, Failure> {
    let namespace = given.unwrap_or_else(|| "carillon".to_owned());
    if namespace.is_empty() || namespace.len() > 64 || !namespace.bytes().all(is_plain) {
        return Err(unusable("the namespace must be 1 to 64 letters, digits, '.', '_' and '-'"));
    }
    Ok(namespace)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

fn unusable(reason: &str) -> Failure {
    Failure(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts<'a>(addresses: impl IntoIterator<Item = &'a ConnectionAddr>) -> Vec<String> {
        addresses.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_server() {
        let one = Address::read("redis://:secret@localhost:7000/1?namespace=staging").unwrap();
        assert_eq!((one.namespace.as_str(), one.data.redis_settings().db()), ("staging", 1));
        assert_eq!(one.data.redis_settings().password(), Some("secret"));
        assert!(matches!(one.deployment, Deployment::Single));
    }

    #[test]
    fn sentinels() {
        let url =
            "redis+sentinel://me:p%40ss@a:7000,b,[::1]:3/my-master/2?sentinel_password=s%2B&namespace=x";
        let address = Address::read(url).unwrap();
        let Deployment::Sentinel { sentinels, master } = address.deployment else {
            panic!("another deployment")
        };
        assert_eq!(texts(sentinels.iter().map(ConnectionInfo::addr)), ["a:7000", "b:26379", "::1:3"]);
        assert_eq!((master.as_str(), address.namespace.as_str()), ("my-master", "x"));
        let (data, login) = (address.data.redis_settings(), sentinels[0].redis_settings());
        assert_eq!((data.username(), data.password(), data.db()), (Some("me"), Some("p@ss"), 2));
        assert_eq!((login.username(), login.password(), login.db()), (None, Some("s+"), 0));
    }

    #[test]
    fn a_cluster() {
        let address = Address::read("redis+cluster://:secret@a:7000,b/").unwrap();
        let Deployment::Cluster { seeds } = address.deployment else { panic!("another deployment") };
        assert_eq!(texts(&seeds), ["a:7000", "b:6379"]);
        assert_eq!(address.namespace, "carillon");
        assert_eq!(address.data.redis_settings().password(), Some("secret"));
    }

    #[test]
    fn an_unusable_url_is_refused_in_one_line_without_repeating_it() {
        let many = format!("redis+cluster://:secret@{}", vec!["secret"; 17].join(","));
        let bad = [
            "",
            "secret",
            "redis://:secret@h/x",
            "redis://h?namespace=",
            "redis://h?namespace=a:b",
            "rediss://h",
            "redis+sentinel://:secret@h",
            "redis+sentinel://:secret@h/",
            "redis+sentinel://:secret@h/sec%20ret",
            "redis+sentinel://:secret@h/name/secret",
            "redis+sentinel://:secret@h,/name",
            "redis+sentinel://:secret@/name",
            "redis+sentinel://:secret@h:secret/name",
            "redis+sentinel://h/name?password=secret",
            "redis+sentinel://h/name?namespace=a:secret",
            "redis+cluster://:secret@h/1",
            "redis+cluster://:secret@h:99999",
            "redis+cluster://:sec/ret@h:1",
            "redis+cluster://h#secret",
            "redis+cluster://:secret@0.0.0.0",
            "redis+cluster://",
            &many,
        ];
        for url in bad {
            let Err(Failure(reason)) = Address::read(url).map(|_| ()) else { panic!("{url} is read") };
            assert!(!reason.is_empty() && !reason.contains("secret"), "{url}: {reason}");
            assert!(!reason.contains('\n') && reason.len() < 100, "{url}: {reason}");
        }
    }
}
