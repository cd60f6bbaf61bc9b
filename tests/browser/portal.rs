//! The pages on three nodes behind a load balancer: what people see all day, whichever node they are on.

use serde_json::{Value, json};

use crate::chromium::{Browser, Tab};
use crate::site::Site;
use crate::support::node::publish;
use crate::support::{DEADLINE, wait_until};

/// Requests that the browser reports in the console when a node goes away.
const BROKEN: &str = "net::ERR_";
/// The most a page and all it loads may weigh, in bytes as they go over the wire.
const MAX_WEIGHT: u64 = 60 * 1024;

/// What the tests of this file do besides.
impl Site {
    /// Publishes to alice, through the balancer.
    async fn notify(&self, title: &str) -> String {
        self.notify_at(&self.address, title).await
    }

    async fn notify_at(&self, address: &str, title: &str) -> String {
        let event = json!({ "type": "notification", "to": { "user": "alice" }, "data": { "title": title } });
        publish(&reqwest::Client::new(), &[address], &self.people.publisher, &event).await
    }

    /// The one node that has the one open stream.
    async fn serving(&self) -> usize {
        let mut found = None;
        wait_until(DEADLINE, "one node has the stream", async || {
            let mut counts = Vec::new();
            for node in &self.nodes {
                counts.push(node.metric("carillon_listeners").await);
            }
            counts.iter().sum::<f64>() == 1.0
        })
        .await;
        for (index, node) in self.nodes.iter().enumerate() {
            if node.metric("carillon_listeners").await == 1.0 {
                found = Some(index);
            }
        }
        found.expect("one has it")
    }
}

/// Signs in as a person would: with the keyboard, on the sign-in page that the wanted one leads to.
pub async fn sign_in(browser: &Browser, address: &str, name: &str) -> Tab {
    let tab = browser.open(address).await;
    tab.until("location.pathname === '/login' && document.activeElement.name === 'name'").await;
    tab.type_text(name).await;
    tab.press("Tab").await;
    tab.type_text(&format!("password of {name}")).await;
    tab.press("Enter").await;
    tab.until("location.pathname !== '/login'").await;
    tab
}

/// An inbox that is signed in and live.
async fn inbox(browser: &Browser, address: &str, name: &str) -> Tab {
    let tab = sign_in(browser, &format!("{address}/"), name).await;
    tab.page_live().await;
    tab
}

/// Waits until the inbox shows exactly these titles, newest first.
async fn shows(tab: &Tab, titles: &[String]) {
    let wanted = json!(titles.iter().rev().collect::<Vec<_>>());
    let all = "[...document.querySelectorAll('.entry')]";
    tab.until(&format!("{all}.length >= {}", titles.len())).await;
    let shown =
        tab.eval(&format!("{all}.map((entry) => entry.textContent.match(/event \\d+\\b/)?.[0])")).await;
    assert_eq!(shown, wanted);
}

#[tokio::test]
async fn signed_in_on_one_node_published_on_another_seen_on_a_third() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    let [one, two, three] = [0, 1, 2].map(|index: usize| site.nodes[index].address.clone());
    let tab = sign_in(browser, &format!("{one}/"), "alice").await;
    tab.go(&format!("{three}/")).await;
    tab.page_live().await;
    site.notify_at(&two, "event 1").await;
    shows(&tab, &["event 1".into()]).await;
    tab.until("document.title.startsWith('(1)')").await;
    browser.assert_quiet(&[]);
}

#[tokio::test]
async fn a_node_is_killed_under_an_open_page() {
    let mut site = Site::on_cluster().await;
    let browser = &site.browser;
    let tab = inbox(browser, &site.address, "alice").await;
    // What the pill says from now on, to people and to screen readers.
    tab.eval(
        "{ const pill = document.getElementById('pill'); window.said = [pill.textContent];
           new MutationObserver(() => said.at(-1) === pill.textContent || said.push(pill.textContent))
               .observe(pill, { childList: true, characterData: true, subtree: true }); }",
    )
    .await;
    let mut titles: Vec<String> = Vec::new();
    for number in 0..30 {
        if number == 10 {
            let serving = site.serving().await;
            site.nodes[serving].kill();
        }
        titles.push(format!("event {number}"));
        site.notify(&titles[number]).await;
    }
    tab.until("said.some((text) => text.startsWith('offline since'))").await;
    tab.page_live().await;
    shows(&tab, &titles).await;
    titles.push("event 30".into());
    site.notify(&titles[30]).await;
    shows(&tab, &titles).await;
    tab.until("document.title.startsWith('(31)')").await;
    tab.reload().await;
    tab.page_live().await;
    shows(&tab, &titles).await;
    browser.assert_quiet(&[BROKEN]);
}

#[tokio::test]
async fn seven_inboxes_behind_the_balancer_share_one_stream() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    let first = inbox(browser, &site.address, "alice").await;
    let mut tabs = vec![first];
    for _ in 1..7 {
        let tab = browser.open(&site.at("/")).await;
        tab.page_live().await;
        tabs.push(tab);
    }
    site.serving().await;
    site.notify("event 1").await;
    for tab in &tabs {
        shows(tab, &["event 1".into()]).await;
        tab.until("document.title.startsWith('(1)')").await;
    }
    // Signing out in one ends the others.
    tabs[4].eval("document.querySelector('form[action=\"/logout\"] button').click()").await;
    for tab in &tabs {
        tab.until("location.pathname === '/login'").await;
    }
    browser.assert_quiet(&["401 (Unauthorized)"]);
}

#[tokio::test]
async fn what_one_reads_stays_unread_for_others_and_is_read_on_all_their_devices() {
    let site = Site::on_cluster().await;
    let [laptop, phone, other] = [Browser::start().await, Browser::start().await, Browser::start().await];
    let on_laptop = inbox(&laptop, &site.nodes[0].address, "alice").await;
    let on_phone = inbox(&phone, &site.nodes[1].address, "alice").await;
    let bobs = inbox(&other, &site.nodes[2].address, "bob").await;
    let event = json!({ "type": "notification", "to": "everyone", "data": { "title": "event 1" } });
    publish(&reqwest::Client::new(), &[&site.address], &site.people.publisher, &event).await;
    for tab in [&on_laptop, &on_phone, &bobs] {
        shows(tab, &["event 1".into()]).await;
        tab.until("document.title.startsWith('(1)')").await;
    }
    on_phone.eval("document.querySelector('.toggle-read').click()").await;
    for tab in [&on_phone, &on_laptop] {
        tab.until("document.title.startsWith('Inbox') && !!document.querySelector('.entry.is-read')").await;
    }
    // Published after the others got the notice of reading: one to bob would have come by now.
    site.notify("event 2").await;
    on_laptop.until("document.title.startsWith('(1)')").await;
    bobs.eval("new Promise((done) => setTimeout(done, 500))").await;
    assert_eq!(bobs.eval("document.title.startsWith('(1)')").await, true);
    for browser in [&laptop, &phone, &other] {
        browser.assert_quiet(&[]);
    }
}

#[tokio::test]
async fn pages_are_light_and_painted_before_any_script() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    site.notify("event 1").await;
    let tab = sign_in(browser, &site.at("/"), "root").await;
    for path in PAGES {
        tab.clear_cache().await;
        tab.go(&site.at(path)).await;
        tab.until("document.readyState === 'complete'").await;
        let entries =
            "performance.getEntriesByType('navigation').concat(performance.getEntriesByType('resource'))";
        let weights =
            tab.eval(&format!("{entries}.map((e) => [e.name, e.transferSize, e.responseStatus])")).await;
        let weights: Vec<(String, u64, u64)> = serde_json::from_value(weights).unwrap();
        let stream = |name: &str| name.contains("/api/v1/");
        let total: u64 = weights.iter().filter(|(name, ..)| !stream(name)).map(|(_, size, _)| size).sum();
        println!("{path}: {total} bytes in {} requests", weights.len());
        assert!(total > 1_000 && total < MAX_WEIGHT, "{path}: {total}: {weights:?}");
        assert!(weights.iter().all(|(_, _, status)| *status < 400), "{weights:?}");
    }
    // Scripts that never come keep nobody from reading.
    let alices = Browser::start().await;
    let page = sign_in(&alices, &site.at("/"), "alice").await;
    page.block_scripts().await;
    page.reload().await;
    page.until("performance.getEntriesByName('first-contentful-paint').length === 1").await;
    shows(&page, &["event 1".into()]).await;
    assert_eq!(page.eval("document.getElementById('pill').dataset.state").await, Value::from("connecting"));
    browser.assert_quiet(&[]);
    alices.assert_quiet(&["ERR_BLOCKED_BY_CLIENT"]);
}

/// Every page of somebody who may see all.
pub const PAGES: [&str; 9] = [
    "/",
    "/publish",
    "/examples",
    "/examples/chat",
    "/examples/upload",
    "/examples/log",
    "/examples/stream",
    "/cluster",
    "/account",
];
