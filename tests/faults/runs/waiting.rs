//! What happens while a listener is not quite there: it comes just when its node is reading for others, or it reads
//! nothing while what waits for it ends.

use std::time::Duration;

use reqwest::{Client, Method};

use crate::client::Pace;
use crate::ledger::{Audience, Ended, Ending};
use crate::publisher::ToPublish;
use crate::resp::PushFault;
use crate::run::{Plan, Run, TYPES};
use crate::support::{DEADLINE, wait_until};

/// Its node reads what it did not hear, for those who are there when it asks. A listener that comes meanwhile
/// was not among them, and nobody else here has the same user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_while_its_node_reads() {
    let plan = Plan::new("client-comes-while-node-reads", "nothing lost or repeated");
    let mut run = Run::without_listeners(plan).await;
    let begun = run.now();
    let half = PushFault { drop_percent: 60, ..PushFault::default() };
    run.world.to_redis[0].faults.resp_pushes(half);
    run.world.to_postgres[0].faults.delay(Duration::from_millis(50));
    run.load();
    let mut options = run.options(0, 1);
    options.addresses.truncate(1);
    options.pause = Duration::from_millis(1);
    let listener = run.listen_as(options).await;
    for _ in 0..30 {
        run.clients[listener].set_pace(Pace::Away);
        run.calm(0.15).await;
        run.clients[listener].set_pace(Pace::Full);
        run.calm(0.4).await;
    }
    run.fault("a listener comes and goes on a node that reads slowly", begun);
    let reads = run.world.nodes[0].metric("carillon_catch_up_reads_total").await;
    assert!(reads >= 50.0, "node 0 read only {reads} times what was new");
    assert!(run.streams_ended_since(begun) >= 20, "the listener hardly went");
    run.finish().await.assert_clean();
}

/// How many events wait for a listener that reads nothing: more than is on its way to it before it must wait, and no
/// more than its node keeps besides.
const WAITING: usize = 50;
/// How large each is.
const BYTES: usize = 8_000;
/// How many of them may be on their way, in buffers of the connection: nobody gets them back.
const ON_THE_WAY: usize = 40;

/// They were read in another tab before this one got them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_nothing_while_events_are_read_elsewhere() {
    let (run, listener) = with_a_stalled_listener("read-while-waiting", ENDED).await;
    let begun = run.now();
    let ids = publish(&run, None).await;
    let client = Client::new();
    for event_id in ids {
        let url = format!("{}/api/v1/inbox/{event_id}/read", run.world.nodes[0].address);
        let request = client.request(Method::PUT, url).bearer_auth(run.world.token("alice"));
        let asked = run.now();
        assert!(request.send().await.unwrap().status().is_success());
        let of = Ended::Read { user: "alice".into(), event_id };
        run.ledger.ending(Ending { asked, answered: Some(run.now()), of });
    }
    run.calm(1.0).await;
    run.note_fault("a listener reads nothing", begun);
    gets_hardly_any(run, listener).await;
}

/// With Redis dead no notice reports that they have expired: the node's own clock shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_nothing_until_events_have_expired() {
    let (mut run, listener) = with_a_stalled_listener("expiry-while-waiting", ENDED).await;
    let begun = run.now();
    publish(&run, Some(Duration::from_secs(4))).await;
    run.world.redis.kill();
    run.calm(5.0).await;
    run.note_fault("a listener reads nothing, and Redis is dead", begun);
    gets_hardly_any(run, listener).await;
}

/// A Redis whose clock is ahead ends the keys of events that live: they stay, also for who has not got them yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_nothing_while_living_events_are_said_to_have_expired() {
    const END_THEM: &str = "
        local ended = 0
        for _, key in ipairs(redis.call('KEYS', '*event:*')) do ended = ended + redis.call('PEXPIRE', key, 1) end
        return ended";
    let promise = "nothing lost that has not expired";
    let (run, listener) = with_a_stalled_listener("expiry-told-early", promise).await;
    let begun = run.now();
    publish(&run, Some(Duration::from_secs(3_600))).await;
    let early = async || run.world.nodes[0].metric("carillon_live_keys_early_total").await as usize;
    let heard = async || {
        let _: usize = run.world.redis.query(&["EVAL", END_THEM, "0"]).await.unwrap();
        early().await >= WAITING
    };
    wait_until(DEADLINE, "the node hears of them", heard).await;
    run.note_fault("a listener reads nothing, and living events are said to have expired", begun);
    assert_eq!(run.clients[listener].deliveries(), 0, "it read");
    run.clients[listener].set_pace(Pace::Full);
    let came = async || run.clients[listener].deliveries() >= WAITING;
    wait_until(DEADLINE, "it gets all of them", came).await;
    run.calm(0.5).await;
    run.finish().await.assert_clean();
}

/// What is promised of what ends.
const ENDED: &str = "nothing comes that ended while it waited";

async fn with_a_stalled_listener(name: &'static str, promise: &'static str) -> (Run, usize) {
    let mut run = Run::quiet(Plan::new(name, promise)).await;
    let mut options = run.options(0, 0);
    options.listener.is_slow = true;
    let listener = run.listen_as(options).await;
    run.clients[listener].set_pace(Pace::Stalled);
    (run, listener)
}

/// Their ids. All of them have come to the listener that reads.
async fn publish(run: &Run, lifetime: Option<Duration>) -> Vec<String> {
    let publisher = run.publisher(0);
    let mut ids = Vec::new();
    for number in 0..WAITING {
        let event = ToPublish {
            key: format!("waiting-{number}"),
            audience: Audience::User("alice".into()),
            priority: carillon::event::Priority::Normal,
            event_type: TYPES[0].to_owned(),
            lifetime,
            bytes: BYTES,
            attempts: 10,
        };
        ids.push(publisher.publish(&event).await.expect("the event is taken").0);
    }
    let came = async || run.clients[0].deliveries() >= WAITING;
    wait_until(DEADLINE, "the listener that reads has them all", came).await;
    ids
}

/// That most of what ended had waited in the node, and was taken out.
async fn gets_hardly_any(mut run: Run, listener: usize) {
    let lags = run.world.nodes[0].metric("carillon_listener_lags_total").await;
    assert_eq!(lags, 0.0, "the node kept nothing for it: this shows nothing");
    assert_eq!(run.clients[listener].deliveries(), 0, "it read");
    run.clients[listener].set_pace(Pace::Full);
    run.calm(1.5).await;
    let came = run.clients[listener].deliveries();
    println!("{came} of {WAITING} were on their way");
    assert!(came <= ON_THE_WAY, "{came} of {WAITING} came though they had ended");
    run.world.redis.restart().await;
    run.finish().await.assert_clean();
}
