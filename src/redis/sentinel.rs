//! Which server the sentinels have made the master.

use std::collections::HashMap;

use redis::{Cmd, ConnectionAddr, ConnectionInfo};

use super::Failure;
use super::quorum::QuorumQuery;

/// The master of the newest configuration among the sentinels that answer. A sentinel that was cut off together
/// with the old master still names that one, with an older epoch.
pub(super) async fn find_master(
    quorum: &QuorumQuery,
    sentinels: &[ConnectionInfo],
    name: &str,
) -> Result<ConnectionAddr, Failure> {
    let mut question = Cmd::new();
    question.arg("SENTINEL").arg("MASTER").arg(name);
    let answers: Vec<(_, HashMap<String, String>)> = quorum
        .ask(sentinels, &question)
        .await
        .map_err(|failure| Failure(format!("no sentinel answers: {failure}")))?;
    newest(answers.iter().map(|(_, answer)| answer))
        .ok_or_else(|| Failure("no sentinel names the master".into()))
}

/// Of the newest epoch the address that most sentinels name.
fn newest<'a>(answers: impl Iterator<Item = &'a HashMap<String, String>>) -> Option<ConnectionAddr> {
    let mut said: HashMap<(u64, &str, u16), usize> = HashMap::new();
    for answer in answers {
        let epoch = answer.get("config-epoch").and_then(|epoch| epoch.parse().ok());
        let port = answer.get("port").and_then(|port| port.parse().ok());
        if let (Some(epoch), Some(host), Some(port)) = (epoch, answer.get("ip"), port) {
            *said.entry((epoch, host, port)).or_default() += 1;
        }
    }
    let ((_, host, port), _) = said.into_iter().max_by_key(|(said, votes)| (said.0, *votes, *said))?;
    Some(ConnectionAddr::Tcp(host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_configuration_counts() {
        let say = |epoch: &str, port: &str| {
            [("ip", "::1"), ("port", port), ("config-epoch", epoch)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into()
        };
        let master = |said: &[HashMap<String, String>]| newest(said.iter()).map(|master| master.to_string());
        assert_eq!(master(&[]), None);
        assert_eq!(master(&[say("x", "1"), say("1", "99999")]), None);
        assert_eq!(master(&[say("9", "1"), say("9", "1"), say("10", "2")]).unwrap(), "::1:2");
        assert_eq!(master(&[say("9", "1"), say("9", "2"), say("9", "1")]).unwrap(), "::1:1");
    }
}
