//! What faults happen to: real nodes, a Postgres and a Redis of the run's own, and a fault proxy on each way from a
//! node to a server.

use std::collections::HashMap;
use std::path::PathBuf;

use carillon::account::Role;

use crate::proxy::Proxy;
use crate::support::node::{Node, People};
use crate::support::servers::{PostgresServer, RedisServer};

/// Who listens.
pub const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// A cluster.
pub struct World {
    /// The nodes, all ready in the beginning.
    pub nodes: Vec<Node>,
    /// The bus and the keys that expire.
    pub redis: RedisServer,
    /// The store.
    pub postgres: PostgresServer,
    /// On the way from the node of the same number to Redis; none if the bus is elsewhere.
    pub to_redis: Vec<Proxy>,
    /// On the way from the node of the same number to Postgres.
    pub to_postgres: Vec<Proxy>,
    /// The accounts.
    pub people: People,
    /// The database, without a proxy before it.
    pub store_url: String,
    tokens: HashMap<String, String>,
}

impl World {
    /// A cluster of so many nodes, not yet started; `options` are every node's. The bus is a Redis of its own, unless
    /// it is elsewhere.
    pub async fn new(nodes: usize, options: &[&str], bus: Option<&str>, program: Option<PathBuf>) -> Self {
        let (postgres, redis) = (PostgresServer::start(), RedisServer::start(&[]).await);
        let store_url = postgres.new_database().await;
        let people = match &program {
            Some(other) => People::made_by(other.clone(), &store_url).await,
            None => People::new(&store_url).await,
        };
        let mut tokens = HashMap::new();
        for user in USERS {
            tokens.insert(user.to_owned(), people.add(user, Role::Listener).await);
        }
        let mut world = Self {
            nodes: Vec::new(),
            redis,
            postgres,
            to_redis: Vec::new(),
            to_postgres: Vec::new(),
            people,
            store_url,
            tokens,
        };
        for _ in 0..nodes {
            world.add_node(options, bus).await;
        }
        if let Some(other) = program {
            world.nodes.iter_mut().for_each(|node| node.program.clone_from(&other));
        }
        world
    }

    async fn add_node(&mut self, options: &[&str], bus: Option<&str>) {
        let to_postgres = Proxy::start(&self.store_url).await;
        let store = to_postgres.through(&self.store_url);
        self.to_postgres.push(to_postgres);
        let bus = match bus {
            Some(elsewhere) => elsewhere.to_owned(),
            None => {
                let to_redis = Proxy::start(&self.redis.url("")).await;
                let bus = to_redis.through(&self.redis.url(""));
                self.to_redis.push(to_redis);
                bus
            }
        };
        // Clients take a silence of a few seconds for a dead connection.
        let options = [&["--heartbeat-seconds", "1"], options].concat();
        self.nodes.push(Node::new(&store, &bus, &options));
    }

    /// Starts all nodes.
    pub async fn start(&mut self) {
        for node in &mut self.nodes {
            node.restart().await;
        }
    }

    /// The token of somebody of [`USERS`].
    pub fn token(&self, user: &str) -> &str {
        &self.tokens[user]
    }

    /// `http://host:port` of each node, beginning with the one of this number.
    pub fn addresses(&self, first: usize) -> Vec<String> {
        let mut addresses: Vec<String> = self.nodes.iter().map(|node| node.address.clone()).collect();
        addresses.rotate_left(first % self.nodes.len());
        addresses
    }

    /// Ends every fault of the proxies.
    pub fn heal_proxies(&self) {
        self.to_redis.iter().chain(&self.to_postgres).for_each(|proxy| proxy.faults.heal());
    }
}
