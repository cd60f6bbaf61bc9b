//! The client and the pages in a real Chromium.

mod admin;
mod chromium;
mod client;
mod examples;
mod inbox;
mod pictures;
mod portal;
mod publish;
mod site;
#[path = "../support/mod.rs"]
mod support;

use carillon::account::Role;
use chromium::{Browser, Relay, until_listeners};
use serde_json::{Value, json};
use site::Site;
use support::node::{Node, People, publish};
use support::servers::{postgres_url, redis_url};

/// Publishes to alice.
async fn publish_to(address: &str, people: &People, data: Value) {
    let event = json!({ "type": "test", "to": { "user": "alice" }, "data": data });
    publish(&reqwest::Client::new(), &[address], &people.publisher, &event).await;
}

#[tokio::test]
async fn a_reload_keeps_the_place() {
    let site = Site::start().await;
    let options = json!({ "account": "alice" });
    let tab = site.tab().await;
    tab.sign_in("alice").await;
    tab.connect(&options).await;
    tab.live().await;
    site.publish(1).await;
    tab.has_got([1]).await;

    tab.go("about:blank").await;
    site.publish(2).await;
    tab.go(&format!("{}/login", site.address)).await;
    tab.connect(&options).await;
    tab.has_got([2]).await;

    tab.reload().await;
    site.publish(3).await;
    tab.connect(&options).await;
    tab.has_got([3]).await;
    tab.live().await;

    // Without an account, nothing is kept.
    tab.eval("carillon.close()").await;
    tab.connect(&json!({})).await;
    tab.live().await;
    site.publish(4).await;
    tab.has_got([4]).await;
    assert_eq!(tab.eval("Object.keys(sessionStorage).length").await, 1);
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn seven_tabs_share_a_connection_and_outlive_who_holds_it() {
    let site = Site::start().await;
    let options = json!({ "account": "alice" });
    let mut tabs = Vec::new();
    for number in 0..7 {
        let tab = site.tab().await;
        if number == 0 {
            tab.sign_in("alice").await;
        }
        tab.connect(&options).await;
        tab.live().await;
        tabs.push(tab);
    }
    until_listeners(&site.nodes[0], 1).await;
    site.publish(1).await;
    for tab in &tabs {
        tab.has_got([1]).await;
    }

    // The tab that came first leads. Again and again the leader is closed while events come.
    let mut sent = 1;
    while tabs.len() > 1 {
        let leader = tabs.remove(0);
        let going = tokio::spawn(leader.close());
        for _ in 0..5 {
            sent += 1;
            site.publish(sent).await;
        }
        going.await.unwrap();
        for tab in &tabs {
            tab.has_got(1..=sent).await;
            tab.live().await;
        }
        until_listeners(&site.nodes[0], 1).await;
    }

    // Another filter is another stream.
    let other = site.tab().await;
    other.connect(&json!({ "account": "alice", "minPriority": "high" })).await;
    other.live().await;
    until_listeners(&site.nodes[0], 2).await;
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn a_leader_that_crashes_or_hangs_is_replaced() {
    let site = Site::start().await;
    let mut tabs = Vec::new();
    for number in 0..4 {
        let tab = site.tab().await;
        if number == 0 {
            tab.sign_in("alice").await;
        }
        tab.connect(&json!({ "account": "alice" })).await;
        tab.live().await;
        tabs.push(tab);
    }
    site.publish(1).await;
    for tab in &tabs {
        tab.has_got([1]).await;
    }
    tabs.remove(0).crash().await;
    site.publish(2).await;
    for tab in &tabs {
        tab.has_got(1..=2).await;
    }

    let busy = "setTimeout(() => { const end = Date.now() + 40000; while (Date.now() < end); })";
    tabs[0].eval(busy).await;
    site.publish(3).await;
    for tab in &tabs[1..] {
        tab.has_got(1..=3).await;
    }
    site.publish(4).await;
    // The one that hung is one of the others when it is back.
    for tab in tabs.iter().rev() {
        tab.has_got(1..=4).await;
        tab.live().await;
    }
    until_listeners(&site.nodes[0], 1).await;
    site.publish(5).await;
    for tab in &tabs {
        tab.has_got(1..=5).await;
    }
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn without_web_locks_each_tab_has_a_connection_of_its_own() {
    let site = Site::start().await;
    let tabs = [site.tab().await, site.tab().await];
    tabs[0].sign_in("alice").await;
    for tab in &tabs {
        tab.eval("Object.defineProperty(navigator, 'locks', { value: undefined }), null").await;
        // Five minutes are long for a test.
        tab.eval("window.setTimeout = ((real) => (work, ms) => real(work, ms === 300000 ? 50 : ms))(setTimeout), null")
            .await;
        tab.connect(&json!({ "account": "alice" })).await;
        tab.live().await;
    }
    until_listeners(&site.nodes[0], 2).await;
    site.publish(1).await;
    for tab in &tabs {
        tab.has_got([1]).await;
    }
    tabs[0].eval("carillon.close()").await;
    until_listeners(&site.nodes[0], 1).await;

    // Not looked at, it gives its connection back, and goes on when it is.
    let look = async |hidden: bool| {
        let property =
            format!("Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }})");
        tabs[1].eval(&format!("{property}, document.dispatchEvent(new Event('visibilitychange'))")).await;
    };
    look(true).await;
    tabs[1].until("carillon.state === 'paused'").await;
    until_listeners(&site.nodes[0], 0).await;
    site.publish(2).await;
    look(false).await;
    tabs[1].has_got([1, 2]).await;
    tabs[1].live().await;
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn who_joins_further_back_misses_nothing_and_the_others_see_nothing_twice() {
    let site = Site::start().await;
    let first = site.tab().await;
    first.sign_in("alice").await;
    let cursor = first.eval("fetch('/api/v1/inbox').then((a) => a.json()).then((a) => a.cursor)").await;
    first.connect(&json!({ "account": "alice" })).await;
    first.live().await;
    for number in 1..=5 {
        site.publish(number).await;
    }
    first.has_got(1..=5).await;

    let second = site.tab().await;
    second.connect(&json!({ "account": "alice", "cursor": cursor })).await;
    second.has_got(1..=5).await;

    // The same while events go on coming.
    let more = async {
        for number in 6..=60 {
            site.publish(number).await;
        }
    };
    let joining = async {
        let mut tabs = Vec::new();
        for _ in 0..4 {
            let tab = site.tab().await;
            tab.connect(&json!({ "account": "alice", "cursor": cursor })).await;
            tabs.push(tab);
            // Others join meanwhile, and are further than those.
            let fresh = site.tab().await;
            fresh.connect(&json!({ "account": "alice" })).await;
        }
        tabs
    };
    let ((), tabs) = tokio::join!(more, joining);
    for tab in tabs.iter().chain([&first, &second]) {
        tab.has_got(1..=60).await;
    }
    until_listeners(&site.nodes[0], 1).await;

    // A history that is gone is reported, whether by the leader or by the server.
    for shared in [true, false] {
        let third = site.tab().await;
        third.connect(&json!({ "account": "alice", "cursor": "elsewhere-1", "shared": shared })).await;
        third.until("resets.join() === 'epoch'").await;
        third.live().await;
        let next = if shared { 61 } else { 62 };
        site.publish(next).await;
        third.has_got([next]).await;
    }
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn a_node_that_is_killed_is_noticed_and_costs_nothing() {
    let (store, bus) =
        (postgres_url().await, format!("{}?namespace={}", redis_url(), uuid::Uuid::now_v7().simple()));
    let people = People::new(&store).await;
    people.add("alice", Role::Listener).await;
    let mut one = Node::start(&store, &bus, &[]).await;
    let two = Node::start(&store, &bus, &[]).await;
    let relay = Relay::start(&one.address).await;
    let browser = Browser::start().await;
    let mut tabs = Vec::new();
    for number in 0..3 {
        let tab = browser.open(&format!("{}/login", relay.address)).await;
        if number == 0 {
            tab.sign_in("alice").await;
        }
        // The last has a connection of its own.
        tab.connect(&json!({ "account": "alice", "shared": number < 2 })).await;
        tab.live().await;
        tabs.push(tab);
    }
    until_listeners(&one, 2).await;
    for number in 1..=5 {
        publish_to(&two.address, &people, json!(number)).await;
    }
    one.kill();
    for number in 6..=10 {
        publish_to(&two.address, &people, json!(number)).await;
    }
    for tab in &tabs {
        tab.until("carillon.state === 'offline' && Date.now() - carillon.since < 60000").await;
    }
    // Long enough that the browser's own attempts are used up.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    relay.switch(&two.address);
    for tab in &tabs {
        tab.live().await;
        tab.has_got(1..=10).await;
    }
    until_listeners(&two, 2).await;
    publish_to(&two.address, &people, json!(11)).await;
    for tab in &tabs {
        tab.has_got(1..=11).await;
        assert_eq!(tab.eval("states.at(-1)").await, "live");
        assert_eq!(tab.eval("resets").await, json!([]));
    }
    browser.assert_quiet(&["net::ERR_"]);
}

#[tokio::test]
async fn silence_is_noticed() {
    let site = Site::start().await;
    let relay = Relay::start(&site.address).await;
    let tab = site.browser.open(&format!("{}/login", relay.address)).await;
    tab.sign_in("alice").await;
    tab.connect(&json!({ "account": "alice" })).await;
    tab.live().await;
    relay.freeze();
    site.publish(1).await;
    tab.until("carillon.state === 'offline'").await;
    relay.switch(&site.address);
    tab.live().await;
    tab.has_got([1]).await;
}

#[tokio::test]
async fn signing_out_in_one_tab_ends_the_others() {
    let site = Site::start().await;
    let using = site.tab().await;
    using.sign_in("alice").await;
    let (inbox, other) = (
        site.browser.open(&format!("{}/", site.address)).await,
        site.browser.open(&format!("{}/?type=test", site.address)).await,
    );
    let alone = site.tab().await;
    using.connect(&json!({ "account": "alice" })).await;
    alone.connect(&json!({})).await;
    for tab in [&using, &alone] {
        tab.live().await;
    }
    for page in [&inbox, &other] {
        page.until("document.getElementById('pill').textContent === 'live'").await;
    }
    inbox.eval("document.querySelector('[action=\"/logout\"] button').click()").await;
    for page in [&inbox, &other] {
        page.until("location.pathname === '/login'").await;
    }
    for tab in [&using, &alone] {
        tab.until("carillon.state === 'signed out'").await;
        assert_eq!(tab.eval("Object.keys(sessionStorage).length").await, 0);
    }
    until_listeners(&site.nodes[0], 0).await;

    // A tab that comes without a session is signed out, too.
    let late = site.tab().await;
    late.connect(&json!({ "account": "alice" })).await;
    late.until("carillon.state === 'signed out'").await;
    site.browser.assert_quiet(&["401 (Unauthorized)"]);
}

#[tokio::test]
async fn seven_inboxes_are_live_and_agree_on_what_is_read() {
    let site = Site::start().await;
    let first = site.tab().await;
    first.sign_in("alice").await;
    first.go(&format!("{}/", site.address)).await;
    let mut inboxes = vec![first];
    for _ in 1..7 {
        inboxes.push(site.browser.open(&format!("{}/", site.address)).await);
    }
    for inbox in &inboxes {
        inbox.until("document.getElementById('pill').textContent === 'live'").await;
    }
    until_listeners(&site.nodes[0], 1).await;
    site.publish("for all tabs").await;
    for inbox in &inboxes {
        inbox
            .until("document.title.startsWith('(1)') && document.querySelectorAll('.entry').length === 1")
            .await;
    }
    inboxes[3].eval("document.querySelector('.toggle-read').click()").await;
    for inbox in &inboxes {
        inbox.until("document.title.startsWith('Inbox') && !!document.querySelector('.entry.is-read')").await;
    }
    inboxes[0].reload().await;
    inboxes[0].until("document.getElementById('pill').textContent === 'live'").await;
    site.publish("after a reload").await;
    for inbox in &inboxes {
        inbox.until("document.querySelectorAll('.entry').length === 2").await;
    }
    until_listeners(&site.nodes[0], 1).await;
    site.browser.assert_quiet(&[]);
}
