//! One run: a cluster under load, faults done to it, and the checker's verdict.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carillon::event::Priority;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::checker::{Check, Promises, Verdict, check};
use crate::client::{Client, OPEN_WITHIN, Options, PAUSE, Pace};
use crate::failover::Failover;
use crate::ledger::{At, Audience, Heard, LedgerWriter, Listener, SENTINEL, Sample, What};
use crate::publisher::{Load, Mix, Publisher, ToPublish};
use crate::report::Report;
use crate::support::node::Node;
use crate::support::servers::signal;
use crate::support::{DEADLINE, wait_until};
use crate::world::World;

/// The types that are published.
pub const TYPES: [&str; 2] = ["note", "alert"];
/// The topics that are published to.
pub const TOPICS: [&str; 2] = ["room/1", "room/2"];
const PRIORITIES: [Priority; 4] = [Priority::Low, Priority::Normal, Priority::High, Priority::Urgent];
/// How often the nodes' use of memory and descriptors is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// What a run is made of.
pub struct Plan {
    /// Its name, of which the folder of its report is made.
    pub name: &'static str,
    /// What is promised, in a few words for the table.
    pub promise: &'static str,
    /// How many nodes.
    pub nodes: usize,
    /// Every node's options.
    pub options: Vec<&'static str>,
    /// The program that the cluster begins with, if it is not this one.
    pub program: Option<PathBuf>,
    /// The URL of the bus, if it is not the run's own Redis.
    pub bus: Option<String>,
    /// How many publishers.
    pub publishers: usize,
    /// How many nodes, from the first, hear of events only from others: nobody publishes there.
    pub nodes_without_publishers: usize,
    /// What they publish.
    pub mix: Mix,
    /// What the checker holds the run to.
    pub promises: Promises,
}

impl Plan {
    /// Three nodes and three publishers under a mixed load.
    pub fn new(name: &'static str, promise: &'static str) -> Self {
        use Priority::{High, Low, Normal, Urgent};
        let user = |name: &str| Audience::User(name.to_owned());
        Self {
            name,
            promise,
            nodes: 3,
            options: Vec::new(),
            program: None,
            bus: None,
            publishers: 3,
            nodes_without_publishers: 0,
            mix: Mix {
                audiences: vec![
                    Audience::Everyone,
                    Audience::Everyone,
                    user("alice"),
                    user("bob"),
                    Audience::Users(vec!["alice".into(), "carol".into()]),
                    Audience::Topic(TOPICS[0].into()),
                    Audience::Topic(TOPICS[1].into()),
                ],
                types: TYPES.map(str::to_owned).to_vec(),
                priorities: vec![Normal, Normal, Normal, Normal, Low, High, Urgent],
                bytes: 400,
                pause: Duration::from_millis(20),
                lifetime: None,
                gives_up: 10,
            },
            promises: Promises::default(),
        }
    }
}

impl Plan {
    /// Its cluster, not yet started.
    pub async fn world(&self) -> World {
        World::new(self.nodes, &self.options, self.bus.as_deref(), self.program.clone()).await
    }
}

/// A run in progress.
pub struct Run {
    /// The cluster.
    pub world: World,
    /// The listeners; four for each node in the beginning.
    pub clients: Vec<Client>,
    /// What was seen.
    pub ledger: LedgerWriter,
    /// Where the seed's draws are made.
    pub draws: StdRng,
    /// What a failover of the store lost, if there was one.
    pub failover: Option<Failover>,
    plan: Plan,
    seed: u64,
    load: Option<Load>,
    watched: Arc<Mutex<Vec<Option<u32>>>>,
    _sampler: AbortOnDropHandle<()>,
}

impl Run {
    /// Starts the cluster, the listeners and the publishers.
    pub async fn start(plan: Plan) -> Self {
        let mut run = Self::quiet(plan).await;
        run.load();
        // A little of each before anything happens.
        run.calm(1.0).await;
        run
    }

    /// Starts the cluster and the listeners; nothing is published.
    pub async fn quiet(plan: Plan) -> Self {
        let mut run = Self::without_listeners(plan).await;
        run.listen_everywhere().await;
        run
    }

    /// Four different listeners on each node.
    pub async fn listen_everywhere(&mut self) {
        for node in 0..self.plan.nodes {
            for wants in 0..4 {
                self.listen(node, wants, Pace::Full).await;
            }
        }
    }

    /// Starts the cluster alone.
    pub async fn without_listeners(plan: Plan) -> Self {
        let mut world = plan.world().await;
        world.start().await;
        Self::over(world, plan)
    }

    /// Around a cluster that was started.
    pub fn over(world: World, plan: Plan) -> Self {
        let seed =
            std::env::var("CARILLON_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("{}: CARILLON_TEST_SEED={seed}", plan.name);
        let ledger = LedgerWriter::new();
        let watched = Arc::new(Mutex::new(Vec::new()));
        let metrics: Vec<String> = world.nodes.iter().map(|node| node.metrics.clone()).collect();
        let sampler = tokio::spawn(sample(metrics, watched.clone(), ledger.clone()));
        let run = Self {
            clients: Vec::new(),
            draws: StdRng::seed_from_u64(seed),
            failover: None,
            load: None,
            watched,
            _sampler: AbortOnDropHandle::new(sampler),
            world,
            ledger,
            plan,
            seed,
        };
        run.watch_nodes();
        run
    }

    /// Begins to publish.
    pub fn load(&mut self) {
        let publishers = (0..self.plan.publishers).map(|number| self.publisher(number)).collect();
        self.load = Some(Load::start(publishers, &self.plan.mix, self.seed));
    }

    /// A publisher that begins with the node of its own number, of those where anybody publishes.
    pub fn publisher(&self, number: usize) -> Publisher {
        let addresses = self.world.addresses(0).split_off(self.plan.nodes_without_publishers);
        Publisher::new(number, &self.world.people.publisher, addresses, &self.ledger)
    }

    /// One more listener, which begins on this node and has begun when this returns. `wants` picks who it is and
    /// what it asks for.
    pub async fn listen(&mut self, node: usize, wants: usize, pace: Pace) -> usize {
        let mut options = self.options(node, wants);
        options.pace = pace;
        self.listen_as(options).await
    }

    /// One more listener; its number.
    pub async fn listen_as(&mut self, options: Options) -> usize {
        let client = Client::start(options, &self.ledger);
        if client.listener.id == self.clients.len() {
            wait_until(DEADLINE, "the stream begins", async || client.has_begun()).await;
        }
        self.clients.push(client);
        self.clients.len() - 1
    }

    /// How the next listener connects.
    pub fn options(&self, node: usize, wants: usize) -> Options {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<String>>();
        let (user, topics, types, min_priority) = match wants % 4 {
            0 => ("alice", texts(&[]), texts(&[]), None),
            1 => ("bob", texts(&TOPICS[..1]), texts(&[]), None),
            2 => ("carol", texts(&TOPICS), texts(&TYPES[..1]), None),
            _ => ("alice", texts(&TOPICS[1..]), texts(&[]), Some(Priority::High)),
        };
        let id = self.clients.len();
        let listener = Listener { id, user: user.into(), topics, types, min_priority, is_slow: false };
        let addresses = self.world.addresses(node);
        let addresses = addresses.iter().map(|address| address.trim_start_matches("http://").to_owned());
        Options {
            listener,
            credential: format!("Authorization: Bearer {}", self.world.token(user)),
            addresses: addresses.collect(),
            cursor: None,
            pace: Pace::Full,
            pause: PAUSE,
            open_within: OPEN_WITHIN,
        }
    }

    /// Lets it go on for so many seconds.
    pub async fn calm(&self, seconds: f64) {
        sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// The time of the run, for [`Run::fault`].
    pub fn now(&self) -> At {
        self.ledger.now()
    }

    /// Whether anything is being published.
    pub fn is_loaded(&self) -> bool {
        self.load.is_some()
    }

    /// Informs the sampler which processes the nodes are now. Call after one was killed or started.
    pub fn watch_nodes(&self) {
        *self.watched.lock().unwrap() = self.world.nodes.iter().map(Node::pid_if_running).collect();
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, node: usize) {
        assert!(!self.world.nodes[node].has_ended(), "node {node} was dead already");
        self.world.nodes[node].kill();
        self.watch_nodes();
    }

    /// Asks a node to stop and waits until it has; whether it ended well.
    pub async fn terminate(&mut self, node: usize) -> bool {
        signal(self.world.nodes[node].pid(), "TERM");
        wait_until(DEADLINE, "the node ends", async || self.world.nodes[node].has_ended()).await;
        let ended_well = self.world.nodes[node].take_exit();
        self.watch_nodes();
        ended_well
    }

    /// What all draws of this run come from.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts a node again, killing it before if it runs.
    pub async fn restart(&mut self, node: usize) {
        self.world.nodes[node].restart().await;
        self.watch_nodes();
    }

    /// Begins many listeners at once, all on this node first, and waits until each has begun.
    pub async fn listen_many(&mut self, number: usize, node: usize) {
        for _ in 0..number {
            let options = self.options(node, self.clients.len());
            self.clients.push(Client::start(options, &self.ledger));
        }
        let all = async || self.clients.iter().all(Client::has_begun);
        // Thousands of sign-ins of a debug build, maybe beside other load.
        wait_until(DEADLINE * 3, "all streams begin", all).await;
    }

    /// Publishes one event to everyone and waits for its acknowledgement.
    pub async fn publish_one(&self, key: &str) {
        let event = ToPublish {
            key: key.to_owned(),
            audience: Audience::Everyone,
            priority: Priority::Normal,
            event_type: TYPES[0].to_owned(),
            lifetime: None,
            bytes: 100,
            attempts: 10,
        };
        assert!(self.publisher(0).publish(&event).await.is_some(), "{key} was not taken");
    }

    /// Ends the load and every fault, waits until everybody has what is theirs, and judges. Writes the report.
    pub async fn finish(mut self) -> Outcome {
        self.stop_load().await;
        self.world.heal_proxies();
        for node in &self.world.nodes {
            wait_until(DEADLINE, "the node is ready again", || node.is_ready()).await;
        }
        self.finish_as_it_is().await
    }

    async fn stop_load(&mut self) {
        if let Some(load) = self.load.take() {
            load.stop().await;
        }
    }

    /// Like [`Run::finish`], with the faults of the proxies still there.
    pub async fn finish_as_it_is(mut self) -> Outcome {
        self.stop_load().await;
        self.watch_nodes();
        self.ledger.healed(self.now());
        let sentinels = self.publish_sentinels().await;
        self.wait_for(&sentinels).await;
        self.wait_for_samples().await;
        self.clients.clear();
        let mut ledger = self.ledger.finish();
        if let Some(failover) = &self.failover {
            let (lost, acked) = (failover.lost(), failover.lost_acknowledged(&ledger));
            println!("{}: the failover lost {lost} events, {acked} of them acknowledged", self.plan.name);
            failover.rewrite(&mut ledger);
        }
        let verdict = check(&ledger, &self.plan.promises);
        let is_another = |h: &&Heard| h.connection > 1 && matches!(h.what, What::Opened { .. });
        let reconnections = ledger.heard.iter().filter(is_another).count();
        let folder = folder().join(format!("{}-{}", self.plan.name, self.seed));
        Report::write(&folder, self.plan.name, self.seed, &ledger, &verdict).unwrap();
        ledger.write(&folder).unwrap();
        print!("{}", Report::row(self.plan.name, self.plan.promise, self.seed, &verdict));
        Outcome { verdict, reconnections, folder }
    }

    /// One more sample of each process when all is quiet. Without it nothing is known of what they came back to.
    async fn wait_for_samples(&self) {
        let quiet_since = self.now();
        for node in 0..self.world.nodes.len() {
            let process = process_name(node);
            let is_sampled = async || {
                self.ledger.look(|ledger| {
                    let mut late =
                        ledger.samples.iter().filter(|sample| sample.at > quiet_since + SAMPLE_EVERY);
                    late.any(|sample| sample.process == process)
                })
            };
            wait_until(DEADLINE, "the use of each process is known in the end", is_sampled).await;
        }
    }

    /// Of every audience, type and priority one: whatever a listener asks for, one of them comes last.
    async fn publish_sentinels(&self) -> Vec<ToPublish> {
        let publisher = self.publisher(self.plan.publishers);
        let mut audiences = self.plan.mix.audiences.clone();
        audiences.dedup();
        let mut sentinels = Vec::new();
        for audience in audiences {
            for event_type in TYPES {
                for priority in PRIORITIES {
                    sentinels.push(ToPublish {
                        key: format!("{SENTINEL}{}", sentinels.len()),
                        audience: audience.clone(),
                        priority,
                        event_type: event_type.to_owned(),
                        lifetime: None,
                        bytes: 0,
                        attempts: 100,
                    });
                }
            }
        }
        for sentinel in &sentinels {
            assert!(publisher.publish(sentinel).await.is_some(), "the cluster takes no events after healing");
        }
        sentinels
    }

    /// Waits until every listener has its sentinels, but not for ever: the checker reports what is missing.
    async fn wait_for(&self, sentinels: &[ToPublish]) {
        let end = Instant::now() + self.plan.promises.lag_zero_within * 2;
        for client in &self.clients {
            let theirs: Vec<String> = sentinels
                .iter()
                .filter(|s| client.listener.is_entitled(&s.audience, &s.event_type, s.priority))
                .map(|sentinel| sentinel.key.clone())
                .collect();
            while client.is_listening() && !client.has_sentinels(&theirs) && Instant::now() < end {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// What came of a run.
pub struct Outcome {
    /// What the checker says.
    pub verdict: Verdict,
    /// How many connections were opened after a listener's first.
    reconnections: usize,
    folder: PathBuf,
}

impl Outcome {
    /// That every promise was kept.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.verdict.is_clean(), "{}\nthe ledger is in {}", self.verdict, self.folder.display());
    }

    /// That every promise was kept, and no stream broke: each listener had one connection.
    #[track_caller]
    pub fn assert_untouched(&self) {
        self.assert_clean();
        assert_eq!(self.reconnections, 0, "the ledger is in {}", self.folder.display());
    }

    /// That the checker found this: a control.
    #[track_caller]
    pub fn assert_finds(&self, wanted: Check) {
        let broken = self.verdict.broken();
        assert!(
            broken.contains(&wanted),
            "the checker did not find {wanted:?} but {broken:?}: {}",
            self.verdict
        );
    }
}

/// Where reports go.
fn folder() -> PathBuf {
    let folder = std::env::var_os("CARILLON_TEST_REPORTS").map(PathBuf::from);
    folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("ledger"))
}

async fn sample(metrics: Vec<String>, watched: Arc<Mutex<Vec<Option<u32>>>>, ledger: LedgerWriter) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().unwrap();
    loop {
        let pids = watched.lock().unwrap().clone();
        for (number, (pid, address)) in pids.iter().zip(&metrics).enumerate() {
            let (Some(pid), Ok(answer)) = (pid, client.get(address).send().await) else { continue };
            // A node that has not seen the log yet does not say.
            let queued = answer.text().await.ok().and_then(|text| metric(&text, "carillon_lag_positions"));
            let (Some(queued), Some((resident, descriptors))) = (queued, usage(*pid)) else { continue };
            let process = process_name(number);
            ledger.sample(Sample { process, at: ledger.now(), resident, descriptors, queued });
        }
        sleep(SAMPLE_EVERY).await;
    }
}

/// Resident bytes and open descriptors; `None` if the process is gone.
fn usage(pid: u32) -> Option<(u64, u64)> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some((pages * 4096, descriptors as u64))
}

fn process_name(node: usize) -> String {
    format!("node {node}")
}

fn metric(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse::<f64>().ok().map(|value| value as u64)
}
