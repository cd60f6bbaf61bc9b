//! Pictures of every page, to be looked at: on a phone and on a desktop, in the dark and in the light.
//!
//! `scripts/test --test browser -- --ignored pictures` writes them to the folder that `CARILLON_PICTURES` names.

use std::path::Path;

use serde_json::{Value, json};

use crate::chromium::Browser;
use crate::portal::{PAGES, Portal, sign_in};
use crate::support::node::publish;

const WINDOWS: [(&str, (i64, i64)); 2] = [("phone", (360, 740)), ("desktop", (1280, 800))];

#[tokio::test]
#[ignore = "makes pictures; decides nothing"]
async fn pictures() {
    let folder = std::env::var("CARILLON_PICTURES").expect("CARILLON_PICTURES names a folder");
    let portal = Portal::start().await;
    for (to, priority, data) in inbox() {
        let (kind, data) = data;
        let event = json!({ "type": kind, "to": to, "priority": priority, "data": data });
        publish(&reqwest::Client::new(), &[&portal.balancer.address], &portal.people.publisher, &event).await;
    }
    let browser = Browser::start().await;
    let tab = sign_in(&browser, &portal.at("/"), "root").await;
    for (device, size) in WINDOWS {
        for scheme in ["light", "dark"] {
            tab.look(size, scheme).await;
            for path in PAGES.iter().chain(&["/nowhere", "/login"]) {
                tab.go(&portal.at(path)).await;
                tab.eval("new Promise((done) => setTimeout(done, 2500))").await;
                let name = path.trim_matches('/').replace('/', "-");
                let name = if name.is_empty() { "inbox" } else { &name };
                tab.save_picture(&Path::new(&folder).join(format!("{name}-{device}-{scheme}.png"))).await;
            }
        }
    }
}

/// What there is to see: to whom, how urgent, what.
fn inbox() -> Vec<(Value, &'static str, (&'static str, Value))> {
    let all = || json!("everyone");
    let root = || json!({ "user": "root" });
    vec![
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
    ]
}
