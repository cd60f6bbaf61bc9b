//! Redis behind Sentinel and Redis Cluster: what becomes of the bus and the expiring keys when another server is
//! put in charge, whether the old one is dead, frozen, or goes on as if nothing had happened.

mod support;

use std::time::{Duration, Instant};

use carillon::bus::BusEvent;
use carillon::ttl::{RateDecision, Ttl, TtlLimits};
use support::bus_member::{Member, name, quick};
use support::redis_groups::{RedisCluster, RedisSentinels, name_on_each};
use support::servers::RedisServer;
use support::{DEADLINE, wait_until};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(600);

/// How many connections listen to pub/sub there.
async fn listeners(server: &RedisServer) -> usize {
    let clients: String = server.query(&["CLIENT", "LIST", "TYPE", "PUBSUB"]).await.unwrap();
    // The sentinels' own are not counted.
    clients.lines().filter(|line| line.contains("user=node") || line.contains("ssub=1")).count()
}

/// Several members, each publishing and listening, that went on while something happened.
struct Members {
    url: String,
    members: Vec<Member>,
    began: Instant,
}

impl Members {
    async fn start(url: String, channels: &[String]) -> Self {
        let mut members = Vec::new();
        for _ in 0..3 {
            let mut member = Member::with(&url, &quick());
            for channel in channels {
                member.subscribe(channel).await;
                member.publish(&[(channel, b"x")]).await;
            }
            members.push(member);
        }
        let mut all = Self { url, members, began: Instant::now() };
        for channel in channels {
            all.all_hear_all(channel).await;
        }
        all
    }

    /// That all report a gap, then that it is over, and then hear each other on every channel.
    async fn recover(&mut self, what: &str, channels: &[String]) {
        let mut times = (Duration::ZERO, Duration::ZERO);
        for member in &mut self.members {
            member.until(&BusEvent::Gap).await;
            times.0 = times.0.max(self.began.elapsed());
        }
        for member in &mut self.members {
            member.until(&BusEvent::Restored).await;
            times.1 = times.1.max(self.began.elapsed());
        }
        // Until the last has come over, what is said may be said where it does not listen yet: that is its gap.
        let agreed = async {
            for channel in channels {
                self.all_hear_all(channel).await;
            }
        };
        timeout(DEADLINE, agreed).await.expect("they do not find together again");
        let all = self.began.elapsed();
        eprintln!(
            "{what}: the last gap after {:.1?}, restored {:.1?}, all heard {all:.1?}",
            times.0, times.1
        );
        self.members[0].works_again_now(&self.url, &channels[0]).await;
    }

    async fn all_hear_all(&mut self, channel: &str) {
        'again: loop {
            let mut said = Vec::new();
            for member in &self.members {
                let payload = name("payload");
                member.publish(&[(channel, payload.as_bytes())]).await;
                said.push(payload);
            }
            for member in &mut self.members {
                for payload in &said {
                    let message =
                        BusEvent::Message { channel: channel.to_owned(), payload: payload.clone().into() };
                    if timeout(Duration::from_secs(1), member.until(&message)).await.is_err() {
                        continue 'again;
                    }
                }
            }
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_master_is_killed() {
    let mut servers = RedisSentinels::start().await;
    let channels = [name("channel")];
    let mut members = Members::start(servers.url(), &channels).await;
    let ttl = Ttl::open(&servers.url(), &TtlLimits::default()).unwrap();
    ttl.put("key", b"old", LONG).await.unwrap();
    members.began = Instant::now();
    servers.servers[0].kill();
    members.recover("sentinel, killed", &channels).await;
    wait_until(DEADLINE, "keys are set", async || ttl.put("key", b"new", LONG).await.is_ok()).await;
    assert_eq!(ttl.take("limit", 1, LONG).await.unwrap(), RateDecision::Allowed);
    // The old one comes back, empty, and is made a replica.
    servers.servers[0].restart().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(listeners(&servers.servers[0]).await, 0);
    assert_eq!(ttl.get("key").await.unwrap().as_deref(), Some(&b"new"[..]));
}

/// Frozen: its connections stay open and nothing answers. Afterwards it still takes itself for the master.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_master_is_frozen() {
    let servers = RedisSentinels::start().await;
    let channels = [name("channel")];
    let mut members = Members::start(servers.url(), &channels).await;
    members.began = Instant::now();
    servers.servers[0].pause();
    members.recover("sentinel, frozen", &channels).await;
    servers.servers[0].resume();
    for _ in 0..10 {
        members.all_hear_all(&channels[0]).await;
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(listeners(&servers.servers[1]).await, 3);
}

/// The old master goes on serving all who are connected: only the sentinels report the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_master_is_cut_off_and_goes_on() {
    let servers = RedisSentinels::start().await;
    let channels = [name("channel")];
    let mut members = Members::start(servers.url(), &channels).await;
    let ttl = Ttl::open(&servers.url(), &TtlLimits::default()).unwrap();
    ttl.put("key", b"old", LONG).await.unwrap();
    let mut expirations = ttl.expirations("p:");
    members.began = Instant::now();
    servers.isolate_first().await;
    members.recover("sentinel, cut off", &channels).await;
    wait_until(DEADLINE, "nobody listens to the old master", async || {
        listeners(&servers.servers[0]).await == 0
    })
    .await;
    let role: Vec<redis::Value> = servers.servers[0].query(&["ROLE"]).await.unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".into()), "it must not have noticed");
    assert_eq!(ttl.take("limit", 1, LONG).await.unwrap(), RateDecision::Allowed);
    let limits: u64 = servers.servers[1].query(&["EXISTS", "carillon:limit:limit"]).await.unwrap();
    assert_eq!(limits, 1, "keys are the new master's");
    hears_expirations(&ttl, &["p:".to_owned()], &mut expirations).await;
    servers.rejoin_first().await;
    for _ in 0..10 {
        members.all_hear_all(&channels[0]).await;
        sleep(Duration::from_millis(100)).await;
    }
}

/// The free connections of a pool are closed, and no call goes to the old master, although it would still take it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_failover_closes_the_pool_of_the_old_master() {
    let servers = RedisSentinels::start().await;
    let ttl = Ttl::open(&servers.url(), &TtlLimits::default()).unwrap();
    let connections = async || {
        let clients: String = servers.servers[0].query(&["CLIENT", "LIST", "TYPE", "NORMAL"]).await.unwrap();
        clients.lines().filter(|line| line.contains("user=node")).count()
    };
    let several = async || {
        let keys: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        futures_util::future::join_all(keys.iter().map(|key| ttl.put(key, b"old", LONG))).await;
        connections().await > 1
    };
    wait_until(DEADLINE, "the pool has several connections", several).await;
    servers.isolate_first().await;
    // Without a call: the topology alone shows it.
    wait_until(DEADLINE, "all of them are closed", async || connections().await == 0).await;
    servers.servers[0].query::<()>(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let put = async || ttl.put("key", b"new", LONG).await.is_ok();
    wait_until(DEADLINE, "keys are set", put).await;
    for n in 0..100 {
        ttl.put(&format!("key {n}"), b"new", LONG).await.unwrap();
    }
    let commands: String = servers.servers[0].query(&["INFO", "COMMANDSTATS"]).await.unwrap();
    assert!(!commands.contains("cmdstat_set:"), "{commands}");
    let found: u64 = servers.servers[1].query(&["EXISTS", "carillon:ttl:key 99"]).await.unwrap();
    assert_eq!((found, connections().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_is_asked_to_fail_over() {
    let servers = RedisSentinels::start().await;
    let channels = [name("channel")];
    let mut members = Members::start(servers.url(), &channels).await;
    members.began = Instant::now();
    servers.fail_over().await;
    members.recover("sentinel, asked to", &channels).await;
    servers.until_master(1).await;
}

/// Sentinels that are gone cost nothing while the master is well; one of them suffices to find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_go_away() {
    let mut servers = RedisSentinels::start().await;
    let channel = name("channel");
    let mut member = Member::with(&servers.url(), &quick());
    member.subscribe(&channel).await;
    member.publish(&[(&channel, b"by all")]).await;
    assert_eq!(member.message().await.1, "by all");
    servers.sentinels[0].kill();
    servers.sentinels[1].pause();
    Member::with(&servers.url(), &quick()).publish(&[(&channel, b"by one sentinel")]).await;
    assert_eq!(member.message().await.1, "by one sentinel");
    servers.sentinels[2].pause();
    sleep(Duration::from_secs(2)).await;
    member.publish(&[(&channel, b"without any")]).await;
    assert_eq!(member.message().await.1, "without any");
    let lonely = Member::with(&servers.url(), &quick());
    assert!(lonely.bus.publish(&[(channel.clone(), "x".into())]).await.is_err());
    servers.sentinels[2].resume();
    lonely.publish(&[(&channel, b"one came back")]).await;
    assert_eq!(member.message().await.1, "one came back");
}

/// A channel on each master.
async fn channels_on_each(cluster: &RedisCluster) -> Vec<String> {
    let prefix = name("channel");
    name_on_each(cluster, |number| {
        let channel = format!("{prefix}:{number}");
        (channel.clone(), format!("carillon:{channel}"))
    })
    .await
}

/// A prefix whose key "probe" is on each master.
async fn prefixes_on_each(cluster: &RedisCluster) -> Vec<String> {
    name_on_each(cluster, |number| (format!("p:{number}:"), format!("carillon:ttl:p:{number}:probe"))).await
}

/// That keys under each prefix are reported as they end.
async fn hears_expirations(
    ttl: &Ttl,
    prefixes: &[String],
    expirations: &mut tokio::sync::mpsc::Receiver<String>,
) {
    for prefix in prefixes {
        let wanted = format!("{prefix}probe").split_off(2);
        let began = Instant::now();
        'heard: loop {
            assert!(began.elapsed() < DEADLINE, "expirations under {prefix} are never heard");
            let _ = ttl.put(&format!("{prefix}probe"), b"", Duration::from_millis(20)).await;
            while let Ok(heard) = timeout(Duration::from_millis(300), expirations.recv()).await {
                if heard.unwrap() == wanted {
                    break 'heard;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_master_is_killed() {
    let mut cluster = RedisCluster::start().await;
    let (channels, prefixes) = (channels_on_each(&cluster).await, prefixes_on_each(&cluster).await);
    let mut members = Members::start(cluster.url(), &channels).await;
    let ttl = Ttl::open(&cluster.url(), &TtlLimits::default()).unwrap();
    let mut expirations = ttl.expirations("p:");
    hears_expirations(&ttl, &prefixes, &mut expirations).await;
    members.began = Instant::now();
    cluster.servers[1].kill();
    // What is on the other servers goes on, and is not kept waiting.
    for _ in 0..20 {
        let began = Instant::now();
        let messages = [(channels[1].clone(), "lost".into()), (channels[0].clone(), "goes on".into())];
        let _ = members.members[0].bus.publish(&messages).await;
        assert!(ttl.put(&format!("{}probe", prefixes[0]), b"", LONG).await.is_ok());
        assert!(began.elapsed() < Duration::from_secs(5), "others wait for a server that is gone");
    }
    members.recover("cluster, killed", &channels).await;
    hears_expirations(&ttl, &prefixes, &mut expirations).await;
    eprintln!("cluster, killed: expirations after {:.1?}", members.began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_master_is_frozen() {
    let cluster = RedisCluster::start().await;
    let channels = channels_on_each(&cluster).await;
    let mut members = Members::start(cluster.url(), &channels).await;
    members.began = Instant::now();
    cluster.servers[1].pause();
    members.recover("cluster, frozen", &channels).await;
    cluster.servers[1].resume();
    for _ in 0..10 {
        members.all_hear_all(&channels[1]).await;
        sleep(Duration::from_millis(100)).await;
    }
}

/// Again and again, with every channel in use: nothing stays behind, however often and whenever it happens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_masters_are_killed_under_load() {
    let mut cluster = RedisCluster::start().await;
    let channels: Vec<String> = (0..40).map(|number| name(&number.to_string())).collect();
    let mut members = Members::start(cluster.url(), &channels).await;
    let load: Vec<_> = members
        .members
        .iter()
        .map(|member| {
            let (bus, channels) = (member.bus.clone(), channels.clone());
            tokio::spawn(async move {
                let messages: Vec<_> = channels.into_iter().map(|name| (name, "load".into())).collect();
                loop {
                    let _ = bus.publish(&messages).await;
                    sleep(Duration::from_millis(5)).await;
                }
            })
        })
        .collect();
    for killed in [1, 0, 4, 2] {
        members.began = Instant::now();
        cluster.servers[killed].kill();
        members.recover(&format!("cluster under load, {killed} killed"), &channels).await;
        cluster.servers[killed].restart().await;
        cluster.until_well().await;
    }
    load.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Its replica is put in charge, and the old master does not hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_master_is_cut_off_and_goes_on() {
    let cluster = RedisCluster::start().await;
    let channels = channels_on_each(&cluster).await;
    let mut members = Members::start(cluster.url(), &channels).await;
    wait_until(DEADLINE, "all listen to it", async || listeners(&cluster.servers[1]).await == 3).await;
    members.began = Instant::now();
    cluster.isolate(1);
    members.recover("cluster, cut off", &channels).await;
    wait_until(DEADLINE, "nobody listens to the old master", async || {
        listeners(&cluster.servers[1]).await == 0
    })
    .await;
    let role: Vec<redis::Value> = cluster.servers[1].query(&["ROLE"]).await.unwrap();
    assert_eq!(role[0], redis::Value::BulkString(b"master".into()), "it must not have noticed");
    // A newcomer who asks it, too, is not misled.
    let mut newcomer = Member::with(&cluster.url(), &quick());
    newcomer.subscribe(&channels[1]).await;
    members.members.push(newcomer);
    members.all_hear_all(&channels[1]).await;
}

/// A replica takes over while its master is well: no connection breaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_replica_takes_over() {
    let cluster = RedisCluster::start().await;
    let (channels, prefixes) = (channels_on_each(&cluster).await, prefixes_on_each(&cluster).await);
    let mut members = Members::start(cluster.url(), &channels).await;
    let ttl = Ttl::open(&cluster.url(), &TtlLimits::default()).unwrap();
    let mut expirations = ttl.expirations("p:");
    hears_expirations(&ttl, &prefixes, &mut expirations).await;
    for (number, how) in [(3, None), (4, Some("TAKEOVER"))] {
        members.began = Instant::now();
        let command: Vec<&str> = ["CLUSTER", "FAILOVER"].into_iter().chain(how).collect();
        cluster.servers[number].query::<()>(&command).await.unwrap();
        members.recover(&format!("cluster, {how:?}"), &channels).await;
        cluster.until_master(number).await;
        hears_expirations(&ttl, &prefixes, &mut expirations).await;
    }
}

/// A slot moves while its channel is subscribed: first to another master, then back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_slot_is_migrated() {
    let cluster = RedisCluster::start().await;
    let channels = channels_on_each(&cluster).await;
    let mut members = Members::start(cluster.url(), &channels).await;
    let (_, slot) = cluster.place_of(&format!("carillon:{}", channels[0])).await;
    for (from, to) in [(0, 2), (2, 0), (0, 1)] {
        members.began = Instant::now();
        cluster.migrate(slot, from, to).await;
        members.recover("cluster, slot migrated", &channels).await;
    }
    // Where none of its channels is, nothing is noticed.
    let mut member = Member::with(&cluster.url(), &quick());
    member.subscribe(&channels[0]).await;
    cluster.migrate(if slot == 0 { 1 } else { 0 }, 0, 1).await;
    for _ in 0..20 {
        member.publish(&[(&channels[0], b"no gap")]).await;
        member.message().await;
        sleep(Duration::from_millis(50)).await;
    }
}

/// An announcement that comes before what it announces costs a reading from the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_message_comes_after_those_on_other_servers() {
    let cluster = RedisCluster::start().await;
    let channels = channels_on_each(&cluster).await;
    let mut member = Member::with(&cluster.url(), &quick());
    for channel in &channels {
        member.subscribe(channel).await;
        member.publish(&[(channel, b"first")]).await;
        member.message().await;
    }
    let mut overtaken = 0;
    for _ in 0..1_000 {
        member.publish(&[(&channels[1], b"x"), (&channels[2], b"x"), (&channels[0], b"last")]).await;
        let mut heard = Vec::new();
        for _ in 0..3 {
            heard.push(member.message().await.1);
        }
        overtaken += u32::from(heard[2] != "last");
    }
    eprintln!("the last overtook {overtaken} of 1000 times");
    assert!(overtaken < 100, "{overtaken} of 1000");
}
