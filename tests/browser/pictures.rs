//! Pictures of every page, to be looked at: on a phone and on a desktop, in the dark and in the light.
//!
//! `scripts/test --test browser -- --ignored pictures` writes them to the folder that `CARILLON_PICTURES` names.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::chromium::Browser;
use crate::portal::{PAGES, sign_in};
use crate::site::Site;
use crate::support::node::publish;

const WINDOWS: [(&str, (i64, i64)); 2] = [("phone", (360, 740)), ("desktop", (1280, 800))];

/// How long a page gets until it looks as it does; the charts of the cluster need some time to have something to show.
fn settles_in(path: &str) -> Duration {
    Duration::from_secs(if path == "/cluster" { 25 } else { 2 })
}

#[tokio::test]
#[ignore = "makes pictures; decides nothing"]
async fn pictures() {
    let folder = std::env::var("CARILLON_PICTURES").expect("CARILLON_PICTURES names a folder");
    let site = Site::on_cluster().await;
    for event in inbox().into_iter().chain(rooms_and_logs()) {
        publish(&reqwest::Client::new(), &[&site.address], &site.people.publisher, &event).await;
    }
    let _load =
        AbortOnDropHandle::new(tokio::spawn(load(site.address.clone(), site.people.publisher.clone())));
    let others = Browser::start().await;
    let chatting = sign_in(&others, &site.at("/examples/chat"), "alice").await;
    let browser = Browser::start().await;
    let tab = sign_in(&browser, &site.at("/"), "root").await;
    for (device, size) in WINDOWS {
        for scheme in ["light", "dark"] {
            tab.look(size, scheme).await;
            for path in PAGES.iter().chain(&["/nowhere", "/login"]) {
                tab.go(&site.at(path)).await;
                tokio::time::sleep(settles_in(path)).await;
                let name = path.trim_matches('/').replace('/', "-");
                let name = if name.is_empty() { "inbox" } else { &name };
                tab.save_picture(&Path::new(&folder).join(format!("{name}-{device}-{scheme}.png"))).await;
            }
        }
    }
    chatting.close().await;
}

/// Some listen, and something comes, so that the charts have something to show.
async fn load(address: String, token: String) {
    let client = reqwest::Client::new();
    let mut listeners = Vec::new();
    for _ in 0..40 {
        let stream = client.get(format!("{address}/api/v1/stream?topic=orders")).bearer_auth(&token);
        let mut stream = stream.send().await.unwrap();
        listeners.push(AbortOnDropHandle::new(tokio::spawn(async move {
            while let Ok(Some(_)) = stream.chunk().await {}
        })));
    }
    let event = json!({ "type": "order.paid", "to": { "topic": "orders" }, "data": { "order": 7 } });
    for number in 0_u64.. {
        publish(&client, &[&address], &token, &event).await;
        let wave = (number as f64 / 60.0).sin() + 1.2;
        tokio::time::sleep(Duration::from_secs_f64(0.03 * wave)).await;
    }
}

/// What was said in a room, and what stands in a log.
fn rooms_and_logs() -> Vec<Value> {
    let said = [
        ("bob", "Has anybody seen the figures for October?"),
        ("alice", "They are in the usual place since this morning."),
        ("paula", "Deploying the shop in five minutes. Nobody will notice: streams move to another node."),
        ("bob", "Thanks, found them."),
        ("paula", "Done."),
    ];
    let said = said.map(|(from, text)| {
        json!({ "type": "message", "to": { "topic": "chat/lobby" }, "data": { "from": from, "text": text } })
    });
    let lines = (0..40).map(|number| {
        let line = format!(
            "12:04:{number:02} INFO shop: order {} paid in {} ms",
            71_000 + number,
            20 + number * 7 % 30
        );
        json!({ "type": "log", "to": { "topic": "logs/app" }, "data": line })
    });
    said.into_iter().chain(lines).collect()
}

/// What is in the inbox.
fn inbox() -> Vec<Value> {
    let all = || json!("everyone");
    let root = || json!({ "user": "root" });
    let entries = vec![
        (
            all(),
            "low",
            (
                "system",
                json!({ "title": "Maintenance on Sunday", "message": "From 02:00 to 03:00 the archive is read only." }),
            ),
        ),
        (
            root(),
            "normal",
            (
                "message",
                json!({ "title": "Paula", "message": "The figures for October are in the usual place." }),
            ),
        ),
        (
            root(),
            "normal",
            ("order.paid", json!({ "order": 71_042, "amount": "129.90 EUR", "customer": "Alder & Sons" })),
        ),
        (
            root(),
            "high",
            (
                "notification",
                json!({ "title": "Your export is ready", "message": "report-2026-10.csv, 18 MB. The link works for a day.", "level": "success" }),
            ),
        ),
        (
            all(),
            "urgent",
            (
                "alert",
                json!({ "title": "Payments are delayed", "message": "Card payments take longer than usual. None is lost.", "level": "warning" }),
            ),
        ),
        (
            all(),
            "normal",
            (
                "notification",
                json!({ "title": "Welcome, Bob", "message": "Bob joined the team today.", "level": "info" }),
            ),
        ),
    ];
    let event = |(to, priority, (kind, data)): (Value, &str, (&str, Value))| json!({ "type": kind, "to": to, "priority": priority, "data": data });
    entries.into_iter().map(event).collect()
}
