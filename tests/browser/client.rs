//! What the client does besides keeping a stream: it begins with the past, reports who is there, and
//! stops when refused.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery};
use axum::response::{Html, IntoResponse as _};
use axum::routing::get;
use futures_util::StreamExt as _;
use futures_util::stream::{iter, pending};
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::chromium::{Browser, until_listeners};
use crate::site::Site;
use crate::support::node::publish;

async fn publish_to_topic(site: &Site, topic: &str, data: i64) {
    let event = json!({ "type": "test", "to": { "topic": topic }, "data": data });
    publish(&reqwest::Client::new(), &[&site.address], &site.people.publisher, &event).await;
}

#[tokio::test]
async fn a_page_begins_with_what_was_said_and_misses_nothing_after_it() {
    let mut site = Site::start().await;
    for number in 1..=4 {
        publish_to_topic(&site, "demo", number).await;
    }
    publish_to_topic(&site, "other", 5).await;
    let options = json!({ "account": "alice", "topics": ["demo"], "history": 3 });
    let first = site.tab().await;
    first.sign_in("alice").await;
    first.connect(&options).await;
    first.has_got(2..=4).await;
    first.live().await;
    publish_to_topic(&site, "demo", 6).await;
    first.has_got([2, 3, 4, 6]).await;

    // A tab that shares a stream which has long begun.
    let second = site.tab().await;
    second.connect(&options).await;
    second.has_got([3, 4, 6]).await;
    second.live().await;
    until_listeners(&site.nodes[0], 1).await;
    publish_to_topic(&site, "demo", 7).await;
    first.has_got([2, 3, 4, 6, 7]).await;
    second.has_got([3, 4, 6, 7]).await;

    // A page that is loaded again begins with the past again, and keeps no place.
    second.reload().await;
    second.connect(&options).await;
    second.has_got([4, 6, 7]).await;
    second.live().await;
    assert_eq!(second.eval("Object.keys(sessionStorage).length").await, 0);

    // Many events while pages join: each has them once and in order.
    let more = async {
        for number in 8..=40 {
            publish_to_topic(&site, "demo", number).await;
        }
    };
    let joining = async {
        let third = site.tab().await;
        third.connect(&json!({ "account": "alice", "topics": ["demo"], "history": 100 })).await;
        third
    };
    let ((), third) = tokio::join!(more, joining);
    third.has_got((1..=4).chain(6..=40)).await;
    first.has_got((2..=4).chain(6..=40)).await;

    // A history that is rewritten is read again; what was shown is not shown twice.
    site.nodes[0].kill();
    let store = format!("sqlite:{}/store.sqlite", site.folder.as_ref().unwrap().path().display());
    let mut connection = sqlx::SqliteConnection::connect(&store).await.unwrap();
    sqlx::query("update log_state set epoch = 'another'").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    site.nodes[0].restart().await;
    for tab in [&first, &third] {
        tab.until("resets.length > 0").await;
        tab.live().await;
    }
    publish_to_topic(&site, "demo", 41).await;
    third.has_got((1..=4).chain(6..=41)).await;
    first.has_got((2..=4).chain(6..=41)).await;
    let wrong = first.eval("import('/static/carillon.js').then(({ connect }) => { try { connect({ history: 101 }) } catch (error) { return error.name } })");
    assert_eq!(wrong.await, "TypeError");
    site.browser.assert_quiet(&["net::ERR_"]);
}

#[tokio::test]
async fn a_client_that_may_not_listen_is_refused_and_stops_asking() {
    let site = Site::start().await;
    let tab = site.tab().await;
    tab.sign_in("alice").await;
    let other = site.tab().await;
    let foreign = json!(["uploads/bob/one"]);
    for (topics, history) in [(foreign.clone(), 0), (foreign, 5), (json!(["a//b"]), 0)] {
        for shared in [true, false] {
            let options =
                json!({ "account": "alice", "topics": topics, "history": history, "shared": shared });
            for page in [&tab, &other] {
                page.connect(&options).await;
            }
            for page in [&tab, &other] {
                page.until("carillon.state === 'refused'").await;
            }
        }
    }
    until_listeners(&site.nodes[0], 0).await;
    // Nothing more is asked. Longer than the pause before a second attempt.
    tab.eval("performance.clearResourceTimings(), new Promise((done) => setTimeout(done, 3000))").await;
    assert_eq!(tab.eval("performance.getEntriesByType('resource').map((e) => e.name)").await, json!([]));
    // What is permitted goes on as ever.
    tab.connect(&json!({ "account": "alice" })).await;
    tab.live().await;
    site.publish(1).await;
    tab.has_got([1]).await;
    assert_eq!(tab.eval("states.includes('refused')").await, Value::from(false));
    site.browser.assert_quiet(&["403 (Forbidden)", "400 (Bad Request)"]);
}

#[tokio::test]
async fn a_page_of_one_account_is_not_given_anothers_events() {
    let site = Site::start().await;
    let tab = site.tab().await;
    tab.sign_in("bob").await;
    // A page of alice's that was away while bob signed in.
    for shared in [true, false] {
        tab.connect(&json!({ "account": "alice", "shared": shared })).await;
        tab.until("carillon.state === 'signed out'").await;
        assert_eq!(tab.eval("states.includes('live')").await, false);
    }
    tab.connect(&json!({ "account": "alice", "topics": ["demo"], "history": 5 })).await;
    tab.until("carillon.state === 'signed out'").await;
    tab.connect(&json!({ "account": "bob" })).await;
    tab.live().await;
    site.browser.assert_quiet(&["401 (Unauthorized)"]);
}

/// Types that are also names of an EventSource's own events, in an address that asks for events by their types.
#[tokio::test]
async fn an_event_called_error_is_an_event_and_no_error() {
    let site = Site::start().await;
    let tab = site.tab().await;
    tab.sign_in("alice").await;
    tab.connect(&json!({ "account": "alice", "url": "/api/v1/stream?form=named" })).await;
    tab.live().await;
    for (data, name) in [(1, "error"), (2, "open"), (3, "message"), (4, "test")] {
        site.send(json!({ "type": name, "data": data })).await;
    }
    tab.has_got(1..=4).await;
    assert_eq!(tab.eval("states.includes('offline')").await, false);

    // A page without the module tells them by their data.
    tab.eval(
        "new Promise((live) => {
            Object.assign(window, { came: [], stream: new EventSource('/api/v1/stream?form=named') });
            for (const name of ['error', 'open', 'message', 'test']) {
                stream.addEventListener(name, ({ data }) => data && came.push([name, JSON.parse(data).data]));
            }
            stream.addEventListener('carillon.connected', live);
        }).then(() => null)",
    )
    .await;
    for (data, name) in [(5, "error"), (6, "open"), (7, "message"), (8, "test")] {
        site.send(json!({ "type": name, "data": data })).await;
    }
    tab.until("came.length >= 4").await;
    assert_eq!(tab.eval("came").await, json!([["error", 5], ["open", 6], ["message", 7], ["test", 8]]));
    tab.has_got(1..=8).await;
    site.browser.assert_quiet(&[]);
}

/// Nodes of three kinds behind one address, as during an upgrade: one that does not know a parameter, one that still
/// begins with an `id:` and no data, and one of today.
#[tokio::test]
async fn a_page_goes_on_from_node_to_node_during_an_upgrade() {
    const ALIVE: &str = "event: carillon.alive\ndata: {\"live\":true,\"heartbeat\":15,\"retry\":1}\n";
    let event = |number: i64| {
        let event = json!({ "id": number.to_string(), "position": number, "type": "test", "data": number });
        format!("data: {event}\n")
    };
    let answers = [
        format!(
            "event: carillon.connected\ndata: {{\"ignored\":[\"x\",\"type\"]}}\nid: e-9\n\n{}id: e-9\n\n",
            event(9)
        ),
        format!("id: e-1\nretry: 10\n\nid: e-1\n{ALIVE}\nid: e-2\n{}\n", event(2)),
        "event: carillon.connected\ndata: {\"ignored\":[\"x\"]}\nretry: 10\nid: e-2\n\n".to_owned(),
        format!(
            "event: carillon.connected\ndata: {{}}\nid: e-2\n\n{ALIVE}id: e-2\n\n{}id: e-3\n\n",
            event(3)
        ),
    ];
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = asked.clone();
    let stream = async move |RawQuery(query): RawQuery, headers: axum::http::HeaderMap| {
        let mut heard = heard.lock().unwrap();
        let answer = answers[heard.len().min(answers.len() - 1)].clone();
        let is_last = heard.len() + 1 >= answers.len();
        let last = headers.get("last-event-id").map_or("", |id| id.to_str().unwrap());
        heard.push(format!("{} {last}", query.unwrap_or_default()));
        let rest = if is_last { pending().left_stream() } else { iter([]).right_stream() };
        let body = Body::from_stream(iter([Ok::<_, std::io::Error>(answer)]).chain(rest));
        ([("content-type", "text/event-stream")], body)
    };
    let script = async |Path(name): Path<String>| {
        let source =
            std::fs::read_to_string(format!("{}/static/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        ([("content-type", "text/javascript")], source).into_response()
    };
    let router = Router::new()
        .route("/", get(async || Html("<!doctype html><link rel=icon href=data:,>")))
        .route("/static/{name}", get(script))
        .route("/api/v1/inbox", get(async || "{}"))
        .route("/api/v1/stream", get(stream));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());

    let browser = Browser::start().await;
    let tab = browser.open(&address).await;
    tab.connect(&json!({ "types": ["test"] })).await;
    tab.has_got([2, 3]).await;
    tab.live().await;
    let asked = asked.lock().unwrap().clone();
    let expected = [
        "type=test&alive=true ",
        "type=test&alive=true ",
        "type=test&alive=true e-2",
        // The browser tries three times by itself.
        "type=test&alive=true&cursor=e-2 ",
    ];
    assert_eq!(asked, expected, "the node that did not know the types gave no cursor either");
    browser.assert_quiet(&[]);
}
