//! Several Redis servers that belong together: watched over by sentinels, or a cluster.

use std::collections::HashMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::servers::{RedisServer, free_port};
use super::{DEADLINE, wait_until};

/// How long a server must be silent before the others count it as gone, in milliseconds: where that is to happen soon,
/// and where it must not happen, although a busy machine lets a server wait for seconds.
const SENTINELS_NOTICE: &str = "1000";
const CLUSTER_NOTICES: &str = "2000";
const STEADY: &str = "60000";

/// A master, a replica, and three sentinels.
pub struct RedisSentinels {
    /// The first is the master at the start.
    pub servers: [RedisServer; 2],
    pub sentinels: Vec<RedisServer>,
}

const MASTER: &str = "the-master";

impl RedisSentinels {
    /// Those who notice within a second or two that the master is gone.
    pub async fn start() -> Self {
        Self::start_noticing(SENTINELS_NOTICE).await
    }

    /// Those among whom the master stays the same.
    pub async fn start_steady() -> Self {
        Self::start_noticing(STEADY).await
    }

    /// Starts them, and waits until they all know each other.
    async fn start_noticing(silence: &str) -> Self {
        // The sentinels come as a user of their own, who can be locked out.
        let all = ["allkeys", "allchannels", "allcommands"];
        let users = ["sentinel", "node"].map(|user| [&["--user", user, "on", ">secret"][..], &all].concat());
        let quick = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let own: Vec<&str> = users.into_iter().flatten().chain(quick).collect();
        let master = RedisServer::start(&own).await;
        let port = master.port().to_string();
        let replica = RedisServer::start(&[&own[..], &["--replicaof", "127.0.0.1", &port]].concat()).await;
        let lines = format!(
            "sentinel monitor {MASTER} 127.0.0.1 {port} 2\nsentinel auth-user {MASTER} sentinel\n\
             sentinel auth-pass {MASTER} secret\nsentinel down-after-milliseconds {MASTER} {silence}\n\
             sentinel failover-timeout {MASTER} 3000"
        );
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(RedisServer::start_sentinel(&lines).await);
        }
        let all = Self { servers: [master, replica], sentinels };
        let ready = async || all.know_each_other().await;
        wait_until(DEADLINE, "the sentinels know each other", ready).await;
        all
    }

    async fn know_each_other(&self) -> bool {
        for sentinel in &self.sentinels {
            let known: HashMap<String, String> =
                sentinel.query(&["SENTINEL", "MASTER", MASTER]).await.unwrap();
            if known["num-other-sentinels"] != "2" || known["num-slaves"] != "1" || known["flags"] != "master"
            {
                return false;
            }
        }
        let replication: String = self.servers[1].query(&["INFO", "replication"]).await.unwrap();
        replication.contains("master_link_status:up")
    }

    /// Their address.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|s| format!("127.0.0.1:{}", s.port())).collect();
        format!("redis+sentinel://node:secret@{}/{MASTER}?sentinel_password=watch", hosts.join(","))
    }

    /// Asks one of the sentinels to put the other server in charge.
    pub async fn fail_over(&self) {
        self.sentinels[0].query::<()>(&["SENTINEL", "FAILOVER", MASTER]).await.unwrap();
    }

    /// Cuts the first server off from the sentinels; it goes on serving everyone else.
    pub async fn isolate_first(&self) {
        self.first_lets_in("off", "-ping").await;
        self.servers[0].query::<i64>(&["CLIENT", "KILL", "USER", "sentinel"]).await.unwrap();
    }

    /// Ends that.
    pub async fn rejoin_first(&self) {
        self.first_lets_in("on", "+ping").await;
    }

    /// A sentinel whose user is refused tries as the one that needs no password: it must not be heard either.
    async fn first_lets_in(&self, sentinels: &str, others: &str) {
        for (user, rule) in [("sentinel", sentinels), ("default", others)] {
            self.servers[0].query::<()>(&["ACL", "SETUSER", user, rule]).await.unwrap();
        }
    }

    /// Waits until the sentinels have put a server in charge.
    pub async fn until_master(&self, number: usize) {
        let port = self.servers[number].port().to_string();
        let is_it = async || {
            let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
            let master: Vec<String> = self.sentinels[0].query(&question).await.unwrap();
            master[1] == port
        };
        wait_until(DEADLINE, "the other server is in charge", is_it).await;
    }
}

/// Stands before the port at which a node of the cluster hears the others, so that one can be cut off from all.
async fn relay(listener: TcpListener, port: u16, to: String, cut: watch::Receiver<Option<String>>) {
    while let Ok((mut one, _)) = listener.accept().await {
        let (to, mut cut) = (to.clone(), cut.clone());
        tokio::spawn(async move {
            // Every message names its sender in its header, after 40 bytes.
            let mut header = [0; 80];
            one.read_exact(&mut header).await?;
            let from = String::from_utf8_lossy(&header[40..]).into_owned();
            let is_cut = |cut: &Option<String>| cut.as_ref().is_some_and(|id| [&from, &to].contains(&id));
            let mut two = TcpStream::connect(("127.0.0.1", port)).await?;
            tokio::select! {
                // The cut first: who connects after it must not get a single message through.
                biased;
                _ = cut.wait_for(is_cut) => {}
                () = async {
                    if two.write_all(&header).await.is_ok() {
                        let _ = tokio::io::copy_bidirectional(&mut one, &mut two).await;
                    }
                } => return std::io::Result::Ok(()),
            }
            // Nothing passes, and nothing is closed: that would be noticed.
            std::future::pending().await
        });
    }
}

/// Three masters with one replica each.
pub struct RedisCluster {
    /// The masters at the start, then their replicas in the same order.
    pub servers: Vec<RedisServer>,
    ids: Vec<String>,
    /// Who is cut off from the others.
    cut: watch::Sender<Option<String>>,
}

/// The first and last slot of each master.
const SLOTS: [(&str, &str); 3] = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];

impl RedisCluster {
    /// Those who notice within a few seconds that one of them is gone.
    pub async fn start() -> Self {
        Self::start_noticing(CLUSTER_NOTICES).await
    }

    /// Those whose masters stay the same.
    pub async fn start_steady() -> Self {
        Self::start_noticing(STEADY).await
    }

    /// Starts them, and waits until all agree that all is well.
    async fn start_noticing(silence: &str) -> Self {
        let mut servers = Vec::new();
        let mut bus_ports = Vec::new();
        let mut ids: Vec<String> = Vec::new();
        let cut = watch::Sender::new(None);
        for epoch in 1..=6 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (announced, bus) = (listener.local_addr().unwrap().port(), free_port().to_string());
            let own = ["--cluster-enabled", "yes", "--cluster-node-timeout", silence, "--cluster-port", &bus];
            let quick = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
            let port = announced.to_string();
            let arguments = [&own[..], &quick, &["--cluster-announce-bus-port", &port]].concat();
            let server = RedisServer::start(&arguments).await;
            let epoch = ["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()].map(str::to_owned);
            let epoch: Vec<&str> = epoch.iter().map(String::as_str).collect();
            server.query::<()>(&epoch).await.unwrap();
            let id: String = server.query(&["CLUSTER", "MYID"]).await.unwrap();
            tokio::spawn(relay(listener, bus.parse().unwrap(), id.clone(), cut.subscribe()));
            ids.push(id);
            bus_ports.push(announced);
            servers.push(server);
        }
        let all = Self { servers, ids, cut };
        for (server, bus) in all.servers.iter().zip(&bus_ports).skip(1) {
            let (port, bus) = (server.port().to_string(), bus.to_string());
            all.servers[0].query::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.unwrap();
        }
        for (server, (first, last)) in all.servers.iter().zip(SLOTS) {
            server.query::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last]).await.unwrap();
        }
        for (server, master) in all.servers[3..].iter().zip(&all.ids) {
            let follows = async || server.query::<()>(&["CLUSTER", "REPLICATE", master]).await.is_ok();
            wait_until(DEADLINE, "the replica knows its master", follows).await;
        }
        all.until_well().await;
        all
    }

    /// Waits until all agree that all is well.
    pub async fn until_well(&self) {
        wait_until(DEADLINE, "the cluster is well", async || self.is_well().await).await;
    }

    async fn is_well(&self) -> bool {
        for server in &self.servers {
            let state: String = server.query(&["CLUSTER", "INFO"]).await.unwrap();
            let nodes: String = server.query(&["CLUSTER", "NODES"]).await.unwrap();
            let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
            if !state.contains("cluster_state:ok") || replicas != 3 || nodes.contains("fail") {
                return false;
            }
        }
        for server in &self.servers {
            let replication: String = server.query(&["INFO", "replication"]).await.unwrap();
            if replication.contains("role:slave") && !replication.contains("master_link_status:up") {
                return false;
            }
        }
        true
    }

    /// Its address: that of some of its nodes.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers[..3].iter().map(|s| format!("127.0.0.1:{}", s.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The number of the server, and the slot, of a key or channel at the start.
    pub async fn place_of(&self, name: &str) -> (usize, u16) {
        let slot: u16 = self.servers[0].query(&["CLUSTER", "KEYSLOT", name]).await.unwrap();
        let server = SLOTS.iter().position(|(_, last)| slot <= last.parse().unwrap());
        (server.unwrap(), slot)
    }

    /// Waits until a server counts as a master with slots, with the cluster well again.
    pub async fn until_master(&self, number: usize) {
        let is_it = async || {
            let nodes: String = self.servers[number].query(&["CLUSTER", "NODES"]).await.unwrap();
            let state: String = self.servers[number].query(&["CLUSTER", "INFO"]).await.unwrap();
            nodes.lines().any(|line| line.contains("myself,master")) && state.contains("cluster_state:ok")
        };
        wait_until(DEADLINE, "the replica is in charge", is_it).await;
    }

    /// Cuts a server off from the others; it goes on serving everyone else.
    pub fn isolate(&self, number: usize) {
        self.cut.send_replace(Some(self.ids[number].clone()));
    }

    /// Moves an empty slot from one server to another, as resharding does.
    pub async fn migrate(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let ask = async |server: usize, what: &str, whose: usize| {
            let command = ["CLUSTER", "SETSLOT", &slot, what, &self.ids[whose]];
            self.servers[server].query::<()>(&command).await.unwrap();
        };
        ask(to, "IMPORTING", from).await;
        ask(from, "MIGRATING", to).await;
        ask(to, "NODE", to).await;
        ask(from, "NODE", to).await;
    }
}

/// A name on each of the masters, the first of those that `name` gives, with its name in Redis.
pub async fn name_on_each(cluster: &RedisCluster, name: impl Fn(u32) -> (String, String)) -> Vec<String> {
    let mut found: [Option<String>; 3] = Default::default();
    for number in 0.. {
        let (given, in_redis) = name(number);
        let (server, _) = cluster.place_of(&in_redis).await;
        found[server].get_or_insert(given);
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().flatten().collect()
}
