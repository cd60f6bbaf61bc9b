//! The inbox page: what it shows, how it is read, and that it holds still.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::chromium::{Browser, Tab};
use crate::site::Site;

const ENTRIES: &str = "[...document.querySelectorAll('.entry .headline')].map((one) => one.textContent)";
const LIVE: &str = "document.getElementById('pill').dataset.state === 'live'";

async fn inbox(site: &Site, path: &str) -> Tab {
    let tab = site.page("alice", path).await;
    tab.until(LIVE).await;
    tab
}

async fn shows(tab: &Tab, headlines: &[&str]) {
    tab.until(&format!("JSON.stringify({ENTRIES}) === {}", json!(json!(headlines).to_string()))).await;
}

fn titled(title: &str) -> Value {
    json!({ "type": "notification", "data": { "title": title } })
}

async fn counts(tab: &Tab, unread: u32) {
    let title =
        if unread == 0 { "Inbox · Carillon".to_owned() } else { format!("({unread}) Inbox · Carillon") };
    let icon = "decodeURIComponent(document.querySelector('link[rel=icon]').href)";
    let drawn = if unread == 0 {
        format!("!{icon}.startsWith('data:')")
    } else {
        format!("{icon}.startsWith('data:image/svg+xml,') && {icon}.includes('>{unread}</text>')")
    };
    let shown = format!("document.getElementById('unread').textContent === '{unread}'");
    tab.until(&format!("document.title === '{title}' && {shown} && {drawn}")).await;
}

#[tokio::test]
async fn filters_live_in_the_address_and_hold_for_what_arrives() {
    let site = Site::on_cluster().await;
    let of = |kind: &str, priority: &str, title: &str| json!({ "type": kind, "priority": priority, "data": { "title": title } });
    site.send(of("a", "low", "one")).await;
    site.send(of("b", "high", "two")).await;
    let tab = inbox(&site, "/").await;
    shows(&tab, &["two", "one"]).await;
    tab.eval("document.querySelector('[name=min_priority]').value = 'high', document.getElementById('filter').requestSubmit()").await;
    tab.until(&format!("location.search === '?min_priority=high' && {LIVE}")).await;
    shows(&tab, &["two"]).await;
    site.send(of("c", "normal", "three")).await;
    site.send(of("c", "urgent", "four")).await;
    shows(&tab, &["four", "two"]).await;
    // The number is of all, whatever is shown.
    counts(&tab, 4).await;

    let bookmarked = site.browser.open(&format!("{}/?type=c&min_priority=high", site.address)).await;
    shows(&bookmarked, &["four"]).await;
    assert_eq!(
        bookmarked.eval("document.querySelector('.shown').textContent.includes('type c')").await,
        true
    );

    tab.back().await;
    tab.until("location.search === ''").await;
    shows(&tab, &["four", "three", "two", "one"]).await;
    tab.eval("history.forward()").await;
    tab.until("location.search === '?min_priority=high'").await;
    shows(&tab, &["four", "two"]).await;

    // Of topics, only theirs; of unread ones, what is read goes when it is closed.
    tab.go(&format!("{}/?topic=room%2F1", site.address)).await;
    tab.until(LIVE).await;
    shows(&tab, &[]).await;
    site.send(json!({ "type": "x", "to": { "topic": "room/1" }, "data": { "title": "on topic" } })).await;
    site.send(titled("not there")).await;
    counts(&tab, 6).await;
    shows(&tab, &["on topic"]).await;
    tab.go(&format!("{}/?unread=true", site.address)).await;
    tab.until(LIVE).await;
    shows(&tab, &["not there", "four", "three", "two", "one"]).await;
    tab.click(".entry summary").await;
    tab.until("!!document.querySelector('.entry.is-read')").await;
    tab.click(".entry summary").await;
    shows(&tab, &["four", "three", "two", "one"]).await;
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn a_text_is_found_however_far_back_and_in_what_arrives() {
    let site = Site::on_cluster().await;
    site.send(titled("The Needle 100%")).await;
    for _ in 0..3 {
        let events = vec![json!({ "type": "hay", "to": "everyone" }); 800];
        site.ask(Method::POST, "/api/v1/events/batch", Some(&json!({ "events": events }))).await;
    }
    let tab = inbox(&site, "/?q=needle+100%25").await;
    shows(&tab, &["The Needle 100%"]).await;
    tab.until("document.getElementById('older').hidden").await;
    site.send(titled("100_ needles")).await;
    site.send(titled("NEEDLE 100% more")).await;
    shows(&tab, &["NEEDLE 100% more", "The Needle 100%"]).await;
    assert_eq!(tab.eval("document.querySelector('[name=q]').value").await, "needle 100%");
    site.browser.assert_quiet(&[]);
}

/// A page of the list may be empty and not the last.
#[tokio::test]
async fn nobody_is_told_that_nothing_fits_before_all_was_looked_at() {
    let site = Site::on_cluster().await;
    site.send(titled("the only one")).await;
    for _ in 0..5 {
        let low = json!({ "type": "hay", "to": "everyone", "priority": "low" });
        let events = json!({ "events": vec![low; 900] });
        site.ask(Method::POST, "/api/v1/events/batch", Some(&events)).await;
    }
    let tab = site.page("alice", "/login").await;
    // As the server writes it, before the page's script goes on.
    let written = "fetch('/?min_priority=normal').then((answer) => answer.text())
        .then((text) => new DOMParser().parseFromString(text, 'text/html'))
        .then((page) => [page.querySelectorAll('.entry').length, page.getElementById('empty').hidden])";
    assert_eq!(tab.eval(written).await, json!([0, true]));
    tab.go(&site.at("/?min_priority=normal")).await;
    shows(&tab, &["the only one"]).await;
    tab.until("document.getElementById('older').hidden && document.getElementById('empty').hidden").await;
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn opening_reads_and_undo_takes_it_back() {
    let site = Site::on_cluster().await;
    site.send(json!({ "type": "order", "data": [1.10, "12345678901234567890"] })).await;
    site.send(json!({ "type": "message", "data": { "text": "brief" }, "keep_after_read": 0 })).await;
    let other = Browser::start().await;
    let tab = inbox(&site, "/").await;
    let phone = other.open(&format!("{}/login", site.address)).await;
    phone.sign_in("alice").await;
    phone.go(&site.address).await;
    phone.until(LIVE).await;
    counts(&tab, 2).await;
    counts(&phone, 2).await;

    tab.click(".entry:nth-child(2) summary").await;
    tab.until("!!document.querySelector('.entry:nth-child(2).is-read')").await;
    let data = tab.eval("document.querySelector('.entry:nth-child(2) .data').textContent").await;
    assert_eq!(data, "[\n  1.1,\n  \"12345678901234567890\"\n]");
    counts(&tab, 1).await;
    counts(&phone, 1).await;
    tab.until("document.getElementById('toast').textContent.includes('Marked as read')").await;
    tab.click("#toast button").await;
    counts(&tab, 2).await;
    counts(&phone, 2).await;
    tab.until("document.querySelector('#toast button').hidden").await;

    // One that does not stay after reading stays while it is read.
    tab.click(".entry summary").await;
    counts(&phone, 1).await;
    shows(&phone, &["order"]).await;
    tab.eval("new Promise((done) => setTimeout(done, 500))").await;
    shows(&tab, &["brief", "order"]).await;
    tab.click(".entry summary").await;
    shows(&tab, &["order"]).await;
    tab.click("#toast button").await;
    shows(&tab, &["brief", "order"]).await;
    counts(&tab, 2).await;
    site.browser.assert_quiet(&[]);
    other.assert_quiet(&[]);
}

#[tokio::test]
async fn what_is_not_counted_to_the_end_says_so() {
    let site = Site::on_cluster().await;
    for _ in 0..2 {
        let events = vec![json!({ "type": "hay", "to": "everyone" }); 501];
        site.ask(Method::POST, "/api/v1/events/batch", Some(&json!({ "events": events }))).await;
    }
    let tab = inbox(&site, "/").await;
    let shown = |count: &str| {
        format!(
            "document.getElementById('unread').textContent === '{count}' && document.title === '({count}) Inbox · Carillon'"
        )
    };
    tab.until(&shown("1000+")).await;
    site.send(titled("one more")).await;
    tab.until(&format!("{ENTRIES}[0] === 'one more'")).await;
    tab.until("document.getElementById('unread').textContent.endsWith('+')").await;
    tab.click("#read-all").await;
    counts(&tab, 0).await;
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn all_are_read_and_unread_again_as_they_were() {
    let site = Site::on_cluster().await;
    for title in ["one", "two", "three"] {
        site.send(titled(title)).await;
    }
    let tab = inbox(&site, "/").await;
    let second = site.browser.open(&site.address).await;
    second.until(LIVE).await;
    tab.eval("document.querySelector('.entry:nth-child(2) .toggle-read').click()").await;
    counts(&tab, 2).await;
    counts(&second, 2).await;
    tab.click("#read-all").await;
    counts(&tab, 0).await;
    counts(&second, 0).await;
    // At the keyboard, the next stop is the button that undoes it.
    tab.eval("document.getElementById('read-all').focus()").await;
    tab.press("Tab").await;
    assert_eq!(tab.eval("document.activeElement.textContent").await, "Undo");
    tab.press("Enter").await;
    let read =
        "[...document.querySelectorAll('.entry')].map((one) => one.classList.contains('is-read')).join()";
    for tab in [&tab, &second] {
        tab.until(&format!("{read} === 'false,true,false'")).await;
        counts(tab, 2).await;
    }
    // It goes by itself, though not while somebody is at it.
    tab.eval("document.querySelector('.entry:nth-child(1) .toggle-read').click()").await;
    tab.until("!document.querySelector('#toast button').hidden").await;
    tab.eval("document.querySelector('#toast button').focus()").await;
    tab.eval("new Promise((done) => setTimeout(done, 11000))").await;
    assert_eq!(tab.eval("document.querySelector('#toast button').hidden").await, false);
    tab.eval("document.activeElement.blur()").await;
    tab.until("document.querySelector('#toast button').hidden").await;
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn an_answer_that_is_old_when_it_comes_changes_no_count() {
    let site = Site::on_cluster().await;
    let id = site.send(titled("one")).await;
    // Shows nothing, so that only the server knows what the retraction means for the number.
    let tab = inbox(&site, "/?q=nothing").await;
    counts(&tab, 1).await;
    tab.eval(
        "{ const real = fetch; window.asked = 0;
           window.fetch = async (address, options) => {
               const answer = await real(address, options);
               if (String(address).includes('/counts') && asked++ === 0) await new Promise((go) => (window.go = go));
               return answer;
           }; }",
    )
    .await;
    site.ask(Method::DELETE, &format!("/api/v1/events/{id}"), None).await;
    tab.until("!!window.go").await;
    site.send(titled("two")).await;
    counts(&tab, 2).await;
    tab.eval(
        "{ const unread = document.getElementById('unread'); window.shown = [];
           new MutationObserver(() => shown.push(unread.textContent)).observe(unread, { childList: true });
           go(); }",
    )
    .await;
    counts(&tab, 1).await;
    assert_eq!(tab.eval("shown.includes('0')").await, false, "it knows of the first and not of the second");
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn what_ends_leaves_a_quiet_line_and_the_focus_where_it_was() {
    let site = Site::on_cluster().await;
    let mut ids = Vec::new();
    for number in 0..6 {
        ids.push(site.send(titled(&format!("event {number}"))).await);
    }
    let tab = inbox(&site, "/").await;
    tab.eval("document.querySelector('.entry:nth-child(6) summary').focus()").await;
    let top = "document.activeElement.getBoundingClientRect().top";
    let before = tab.eval(top).await;
    site.ask(Method::DELETE, &format!("/api/v1/events/{}", ids[3]), None).await;
    tab.until("document.querySelector('.trace')?.textContent === 'A notification was taken back'").await;
    assert_eq!(tab.eval("document.querySelectorAll('.entry').length").await, 5);
    assert_eq!(tab.eval(top).await, before, "nothing moves");
    counts(&tab, 5).await;
    tab.until("document.querySelector('.trace') === null").await;
    assert_eq!(
        tab.eval("document.activeElement.closest('.entry').textContent.includes('event 0')").await,
        true
    );

    // Of the one somebody is at, the line has the focus; afterwards its neighbour has.
    site.ask(Method::DELETE, &format!("/api/v1/events/{}", ids[0]), None).await;
    tab.until("document.activeElement.className === 'trace'").await;
    tab.until("document.activeElement.matches('.entry summary')").await;
    for id in [&ids[1], &ids[2], &ids[4], &ids[5]] {
        site.ask(Method::DELETE, &format!("/api/v1/events/{id}"), None).await;
    }
    tab.until("document.querySelectorAll('.entry').length === 0").await;
    assert_eq!(tab.eval("document.querySelectorAll('.trace').length").await, 3);
    counts(&tab, 0).await;
    tab.eval("document.activeElement.blur()").await;
    site.send(json!({ "type": "alert", "data": { "title": "brief" }, "expires_in": 2 })).await;
    shows(&tab, &["brief"]).await;
    tab.until(
        "[...document.querySelectorAll('.trace')].some((one) => one.textContent === 'An alert has ended')",
    )
    .await;
    counts(&tab, 0).await;
    site.browser.assert_quiet(&[]);
}

/// Publishes a hundred events a second for so long; gives how many.
async fn flood(site: &Site, seconds: u64) -> usize {
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let event = |n: usize| json!({ "type": "notification", "to": { "user": "alice" }, "data": { "title": format!("load {n}") } });
        let events: Vec<Value> = (sent..sent + 10).map(event).collect();
        site.ask(Method::POST, "/api/v1/events/batch", Some(&json!({ "events": events }))).await;
        sent += 10;
        let due = begun + Duration::from_millis(sent as u64 * 10);
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
    }
    sent
}

#[tokio::test]
async fn a_hundred_events_a_second_move_nothing_that_is_read() {
    let site = Site::on_cluster().await;
    for number in 0..20 {
        site.send(titled(&format!("event {number}"))).await;
    }
    let tab = inbox(&site, "/").await;
    tab.click(".entry:nth-child(3) summary").await;
    tab.until("!!document.querySelector('.entry:nth-child(3).is-read')").await;
    tab.eval(
        "{ const open = document.querySelector('.entry:nth-child(3)');
           Object.assign(window, { tops: new Set(), slowest: 0, said: 0 });
           let last = performance.now();
           const look = (now) => { tops.add(open.getBoundingClientRect().top); slowest = Math.max(slowest, now - last);
               last = now; requestAnimationFrame(look); };
           requestAnimationFrame(look);
           new MutationObserver(() => said++).observe(document.getElementById('say-polite'), { childList: true }); }",
    )
    .await;
    let answered = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            tab.eval("1").await;
            slowest = slowest.max(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        slowest
    };
    let (sent, slowest) = tokio::join!(flood(&site, 3), answered);
    let new = sent + 20 - 1;
    tab.until(&format!("document.title.startsWith('({new})')")).await;
    assert!(slowest < Duration::from_secs(1), "the page did not answer for {slowest:?}");
    assert_eq!(tab.eval("tops.size").await, 1, "what is read moved: {}", tab.eval("[...tops]").await);
    assert_eq!(tab.eval("document.querySelectorAll('.entry').length").await, 20);
    tab.until(&format!("document.getElementById('fresh').textContent === '{sent} new'")).await;
    let said = tab.eval("said").await.as_u64().unwrap();
    assert!((1..=6).contains(&said), "{said} announcements in three seconds");
    println!("slowest frame {} ms, slowest answer {slowest:?}", tab.eval("Math.round(slowest)").await);

    // They are more than wait: the list is read anew, and all is there.
    tab.click("#fresh").await;
    shows_first(&tab, &format!("load {}", sent - 1)).await;
    tab.until("scrollY === 0 && document.getElementById('fresh').hidden").await;
    // Nobody reads: what comes is shown as it comes, and no more than fit.
    let more = flood(&site, 6).await;
    shows_first(&tab, &format!("load {}", more - 1)).await;
    tab.until(&format!("document.title.startsWith('({})')", new + more)).await;
    assert!(tab.eval("document.querySelectorAll('.entry').length").await.as_u64().unwrap() <= 500);
    // A few wait while somebody is further down, and come where they belong.
    tab.eval("scrollTo(0, 2000)").await;
    tab.until("scrollY > 1000").await;
    // Where what is looked at stands, once it has come to rest: entries get their true heights when they come into view.
    tab.eval(
        "new Promise((done) => {
             let [before, calm] = [0, 0];
             const look = () => {
                 const heights = document.getElementById('entries').scrollHeight;
                 calm = heights === before ? calm + 1 : 0;
                 before = heights;
                 calm > 10 ? done(true) : requestAnimationFrame(look);
             };
             look(); })",
    )
    .await;
    tab.eval("window.seen = document.elementFromPoint(innerWidth / 2, innerHeight / 2).closest('.entry')")
        .await;
    let top = tab.eval("Math.round(seen.getBoundingClientRect().top)").await;
    site.send(titled("late one")).await;
    site.send(titled("late two")).await;
    tab.until("document.getElementById('fresh').textContent === '2 new'").await;
    assert_eq!(tab.eval("Math.round(seen.getBoundingClientRect().top)").await, top);
    tab.click("#fresh").await;
    tab.until("scrollY === 0 && document.getElementById('fresh').hidden").await;
    shows_first(&tab, "late two").await;
    site.browser.assert_quiet(&[]);
}

async fn shows_first(tab: &Tab, headline: &str) {
    tab.until(&format!("{ENTRIES}[0] === {}", json!(headline))).await;
}

#[tokio::test]
async fn what_publishers_write_is_only_ever_text_and_breaks_nothing() {
    let site = Site::on_cluster().await;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let text = |text: &str| json!(text).to_string();
    let titled = |title: &str| json!({ "title": title, "message": title, "level": title }).to_string();
    let hostile = [
        titled("<script>window.hacked = 1</script><img src=x onerror=\"window.hacked = 2\">"),
        titled("</h2></summary></li><li class=\"entry\">{{7*7}} ${window.hacked = 3}"),
        text("\u{202e}right to left\u{2066}\u{0}\r\n\ndata: x\n\nid: 9"),
        titled("\u{202e}fdp.exe \u{5d0}\u{5d1}\u{5d2}"),
        text(&"x".repeat(60_000)),
        titled(&"W".repeat(20_000)),
        deep(500),
        deep(20_000),
        r#"{"__proto__": {"title": "no"}, "constructor": 1.000000000000000000001, "b": 1e999, "b": -0, "": []}"#
            .to_owned(),
        r#""\ud800 lone""#.to_owned(),
    ];
    let post = async |data: &str| {
        let body = format!(r#"{{"type":"test","to":{{"user":"alice"}},"data":{data}}}"#);
        let request = reqwest::Client::new().post(format!("{}/api/v1/events", site.address));
        let answer = request.bearer_auth(&site.people.publisher).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 201);
    };
    let tab = inbox(&site, "/").await;
    tab.look((360, 740), "light").await;
    // Another tab, which gets it all from this one.
    let second = site.browser.open(&site.address).await;
    second.until(LIVE).await;
    for data in &hostile {
        post(data).await;
    }
    let all = "[...document.querySelectorAll('.entry')]";
    let seen = "[...document.querySelectorAll('.entry')].map((e) => ['.headline', '.text', '.level'].map((p) => e.querySelector(p).textContent).join('|'))";
    for tab in [&tab, &second] {
        tab.until(&format!("{all}.length === {}", hostile.len())).await;
    }
    let live = tab.eval(seen).await;
    tab.reload().await;
    tab.until(LIVE).await;
    assert_eq!(tab.eval(seen).await, live, "the server and the page show the same");
    assert!(live.to_string().contains("<script>window.hacked = 1</script>"), "{live}");

    tab.eval("document.querySelectorAll('.entry details').forEach((one) => { one.open = true; })").await;
    tab.until(&format!("{all}.every((one) => one.classList.contains('is-read'))")).await;
    let shown: Vec<String> = serde_json::from_value(
        tab.eval(&format!("{all}.map((one) => one.querySelector('.data').textContent)")).await,
    )
    .unwrap();
    // Laid out, and otherwise to the letter as it was written.
    let plain = |json: &str| json.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    for (shown, written) in shown.iter().rev().zip(&hostile) {
        assert_eq!(plain(shown), plain(written));
    }
    assert_eq!(tab.eval("window.hacked ?? null").await, Value::Null);
    assert_eq!(tab.eval("document.querySelectorAll('#entries script, #entries img').length").await, 0);
    assert_eq!(tab.eval("document.documentElement.scrollWidth").await, 360);
    let bounds = "document.getElementById('entries').getBoundingClientRect()";
    let inside = format!("{all}.every((one) => one.getBoundingClientRect().right <= {bounds}.right + 1)");
    assert_eq!(tab.eval(&inside).await, true);
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn the_inbox_is_used_by_keyboard_alone() {
    let site = Site::on_cluster().await;
    for number in 0..60 {
        site.send(titled(&format!("event {number}"))).await;
    }
    let tab = inbox(&site, "/").await;
    tab.press("Tab").await;
    assert_eq!(tab.eval("document.activeElement.className").await, "skip");
    tab.press("Enter").await;
    tab.until("document.activeElement.id === 'entries'").await;
    tab.press("Tab").await;
    tab.until("document.activeElement.matches('.entry:nth-child(1) summary')").await;
    tab.press("Enter").await;
    tab.until("!!document.querySelector('.entry:nth-child(1).is-read details[open]')").await;
    counts(&tab, 59).await;
    // What comes meanwhile waits.
    site.send(titled("later")).await;
    tab.until("document.getElementById('fresh').textContent === '1 new'").await;
    tab.press("Tab").await;
    assert_eq!(tab.eval("document.activeElement.className").await, "data");
    tab.press("Tab").await;
    assert_eq!(tab.eval("document.activeElement.textContent").await, "Mark as unread");
    tab.press(" ").await;
    counts(&tab, 61).await;
    assert_eq!(tab.eval("document.activeElement.textContent").await, "Mark as read");
    tab.press("Tab").await;
    tab.press(" ").await;
    tab.until("!!document.querySelector('.entry:nth-child(2).is-read details[open]')").await;
    // The button with what waits stands before the list.
    tab.eval("document.getElementById('fresh').focus()").await;
    tab.press("Enter").await;
    shows_first(&tab, "later").await;
    tab.until("document.activeElement.id === 'entries' && scrollY === 0").await;
    // Older ones: by scrolling, or with the button.
    tab.eval("scrollTo(0, document.body.scrollHeight)").await;
    tab.until("document.querySelectorAll('.entry').length === 61").await;
    tab.until("document.getElementById('older').hidden").await;
    site.browser.assert_quiet(&[]);
}
