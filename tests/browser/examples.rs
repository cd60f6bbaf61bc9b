//! The examples, used as people use them, on three nodes behind a load balancer.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::chromium::{Browser, Tab};
use crate::portal::sign_in;
use crate::site::Site;
use crate::support::node::publish;

const HOSTILE: &str = "<img src=x onerror=\"window.hacked = 1\"></p><script>window.hacked = 2</script>";

/// Signs in on a node and waits until the example is live.
async fn example(browser: &Browser, node: &str, path: &str, name: &str) -> Tab {
    let tab = sign_in(browser, &format!("{node}/examples/{path}"), name).await;
    tab.page_live().await;
    tab
}

/// What was said, as the page shows it.
const SAID: &str = "[...document.querySelectorAll('#messages .text')].map((text) => text.textContent)";

async fn says(tab: &Tab, text: &str) {
    tab.eval("document.getElementById('text').focus()").await;
    tab.type_text(text).await;
    tab.press("Enter").await;
}

async fn has_said(tab: &Tab, said: &[&str]) {
    tab.until(&format!("{SAID}.length >= {}", said.len())).await;
    assert_eq!(tab.eval(SAID).await, json!(said));
    // Nothing is still being sent.
    tab.until("![...document.querySelectorAll('.sending')].some((mark) => !mark.hidden)").await;
}

async fn fits_a_phone(tab: &Tab) {
    tab.look((360, 740), "light").await;
    assert_eq!(tab.eval("document.documentElement.scrollWidth <= innerWidth").await, true);
}

#[tokio::test]
async fn two_people_chat_on_different_nodes_and_a_third_reads_what_was_said() {
    let site = Site::on_cluster().await;
    let [alices, bobs, paulas] = [Browser::start().await, Browser::start().await, Browser::start().await];
    let alice = example(&alices, &site.nodes[0].address, "chat", "alice").await;
    let bob = example(&bobs, &site.nodes[1].address, "chat", "bob").await;
    says(&alice, "hello").await;
    has_said(&bob, &["hello"]).await;
    has_said(&alice, &["hello"]).await;
    says(&bob, HOSTILE).await;
    let said = ["hello", HOSTILE];
    has_said(&alice, &said).await;
    has_said(&bob, &said).await;

    // What is published to the same topic by others, and is not a message of this page's, breaks nothing.
    for data in [json!({ "from": HOSTILE, "text": "by program" }), json!(7), json!({ "text": {} })] {
        let event = json!({ "type": "message", "to": { "topic": "chat/lobby" }, "data": data });
        let (client, address) = (reqwest::Client::new(), site.nodes[2].address.as_str());
        publish(&client, &[address], &site.people.publisher, &event).await;
    }
    let said = ["hello", HOSTILE, "by program"];
    has_said(&alice, &said).await;

    // Who comes later, on a third node, sees what was said; in another room it is not to be seen.
    let paula = example(&paulas, &site.nodes[2].address, "chat", "paula").await;
    has_said(&paula, &said).await;
    assert_eq!(paula.eval("document.querySelectorAll('#messages img, #messages script').length").await, 0);
    assert_eq!(paula.eval("window.hacked ?? null").await, Value::Null);
    says(&paula, "good day").await;
    let said = ["hello", HOSTILE, "by program", "good day"];
    has_said(&alice, &said).await;
    paula.go(&format!("{}/examples/chat?room=other", site.nodes[2].address)).await;
    paula.page_live().await;
    paula.until("!document.getElementById('empty').hidden").await;
    assert_eq!(paula.eval(SAID).await, json!([]));
    fits_a_phone(&alice).await;
    for browser in [&alices, &bobs, &paulas] {
        browser.assert_quiet(&[]);
    }
}

#[tokio::test]
async fn a_message_that_was_not_sent_is_sent_again_and_said_once() {
    let site = Site::on_cluster().await;
    let (alices, bobs) = (Browser::start().await, Browser::start().await);
    let alice = example(&alices, &site.nodes[0].address, "chat?room=help", "alice").await;
    let bob = example(&bobs, &site.nodes[1].address, "chat?room=help", "bob").await;
    // The event is published, and its answer does not come back.
    alice
        .eval(
            "window.real = fetch; window.fetch = async (...all) => {
                await real(...all); window.fetch = real; throw new TypeError('lost') }, null",
        )
        .await;
    // Not heard of by its own event either: as if the stream were slower than the answer's failure.
    says(&alice, "once").await;
    has_said(&bob, &["once"]).await;
    has_said(&alice, &["once"]).await;

    // This one never gets out, until it is tried again.
    alice.eval("window.fetch = async () => { throw new TypeError('offline') }, null").await;
    says(&alice, "twice").await;
    alice.until("!!document.querySelector('#messages li:last-child .retry:not([hidden])')").await;
    alice.until("!document.getElementById('notice').hidden").await;
    alice.eval("window.fetch = real, document.querySelector('#messages li:last-child .retry').click()").await;
    has_said(&bob, &["once", "twice"]).await;
    has_said(&alice, &["once", "twice"]).await;
    alice.until("document.getElementById('notice').hidden").await;

    // A reader further up is not moved, and sees how many are new.
    for number in 0..40 {
        says(&alice, &format!("line {number}")).await;
    }
    bob.until(&format!("{SAID}.length === 42")).await;
    bob.eval("document.getElementById('scroll').scrollTop = 0").await;
    bob.eval("new Promise((done) => setTimeout(done, 200))").await;
    says(&alice, "three").await;
    says(&alice, "more").await;
    bob.until("document.getElementById('newer').textContent === '2 new'").await;
    assert_eq!(bob.eval("document.getElementById('scroll').scrollTop").await, 0);
    bob.eval("document.getElementById('newer').click()").await;
    bob.until("document.getElementById('newer').hidden && document.getElementById('scroll').scrollTop > 0")
        .await;
    for browser in [&alices, &bobs] {
        browser.assert_quiet(&[]);
    }
}

/// Who is there, as the page says it.
const PEOPLE: &str =
    "`${document.getElementById('count').textContent}: ${document.getElementById('people').textContent}`";
/// Who came or left last.
const QUIET: &str = "document.getElementById('quiet').textContent";

#[tokio::test]
async fn a_chat_shows_who_is_there_also_when_a_node_is_killed() {
    let mut site = Site::on_cluster().await;
    let [alices, bobs] = [Browser::start().await, Browser::start().await];
    let address = site.nodes[0].address.clone();
    let alice = example(&alices, &address, "chat", "alice").await;
    alice.until(&format!("{PEOPLE} === '1: alice'")).await;
    let bob = example(&bobs, &site.nodes[1].address, "chat", "bob").await;
    for tab in [&alice, &bob] {
        tab.until(&format!("{PEOPLE} === '2: alice, bob'")).await;
    }
    alice.until(&format!("{QUIET} === 'bob came in'")).await;
    // Another tab of alice's, which joins her stream, knows it too; and nobody came by it.
    let second = alices.open(&format!("{address}/examples/chat")).await;
    second.until(&format!("{PEOPLE} === '2: alice, bob'")).await;
    second.close().await;
    // Another room is another place.
    bob.go(&format!("{}/examples/chat?room=other", site.nodes[1].address)).await;
    bob.until(&format!("{PEOPLE} === '1: bob'")).await;
    alice.until(&format!("{PEOPLE} === '1: alice' && {QUIET} === 'bob left'")).await;
    bob.go(&format!("{}/examples/chat", site.nodes[1].address)).await;
    alice.until(&format!("{PEOPLE} === '2: alice, bob'")).await;
    // A node that is killed says nothing: those on it are gone all the same.
    site.nodes[1].kill();
    alice.until(&format!("{PEOPLE} === '1: alice'")).await;
    alices.assert_quiet(&[]);
    bobs.assert_quiet(&["net::ERR_"]);
}

/// What an upload's page says of it.
const STATE: &str = "document.getElementById('state').textContent";

/// Has the page upload a file of zeros.
async fn choose_and_send(tab: &Tab, size: usize) {
    tab.eval(&format!(
        "{{ const all = new DataTransfer(); all.items.add(new File([new Uint8Array({size})], 'a <b>.bin'));
            const file = document.getElementById('file'); file.files = all.files;
            document.getElementById('send').click(); }}"
    ))
    .await;
}

#[tokio::test]
async fn an_upload_is_watched_by_who_comes_late() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    // Through the balancer: it must not gather the file.
    let tab = sign_in(browser, &site.at("/examples/upload"), "alice").await;
    let size = 3_000_000;
    tab.until("!document.getElementById('send').disabled").await;
    // A minute is long enough for the other page, however busy the machine is.
    let (slow, free) = (size as f64 / 60.0, -1.0);
    tab.throttle_uploads(slow).await;
    choose_and_send(&tab, size).await;
    tab.until(&format!("/^[1-9]\\d? %$/.test({STATE})")).await;
    let link = tab.eval("document.getElementById('link').href").await;
    let late = browser.open(link.as_str().unwrap()).await;
    late.until(&format!("/^[1-9]\\d? %$/.test({STATE})")).await;
    let part = "document.getElementById('bar').value";
    let first = late.eval(part).await.as_f64().unwrap();
    late.until(&format!("{part} > {first}")).await;
    tab.throttle_uploads(free).await;
    let hash: String = Sha256::digest(vec![0; size]).iter().map(|byte| format!("{byte:02x}")).collect();
    for tab in [&tab, &late] {
        tab.until(&format!("{STATE} === 'completed'")).await;
        let amount = tab.eval("document.getElementById('amount').textContent").await;
        assert_eq!(amount, format!("3,000,000 bytes, SHA-256 {hash}"));
        assert_eq!(tab.eval("document.getElementById('name').textContent").await, "a <b>.bin");
        fits_a_phone(tab).await;
    }

    // Another one, which is cancelled.
    tab.throttle_uploads(slow).await;
    choose_and_send(&tab, size).await;
    tab.until(&format!("/^[1-9]\\d? %$/.test({STATE})")).await;
    late.go(tab.eval("document.getElementById('link').href").await.as_str().unwrap()).await;
    late.until(&format!("/^[1-9]\\d? %$/.test({STATE})")).await;
    tab.eval("document.getElementById('cancel').click()").await;
    for tab in [&tab, &late] {
        tab.until(&format!("{STATE} === 'failed: the sender went away'")).await;
    }
    // A page opened when it is over shows how it ended; one of an upload that never was says so.
    late.reload().await;
    late.until(&format!("{STATE} === 'failed: the sender went away'")).await;
    late.go(&site.at("/examples/upload?id=never")).await;
    late.until(&format!("{STATE}.startsWith('is not known')")).await;
    browser.assert_quiet(&[]);
}

#[tokio::test]
async fn an_upload_whose_node_is_killed_does_not_stand_still_for_ever() {
    let mut site = Site::on_cluster().await;
    let browser = &site.browser;
    let token = site.people.token("alice", &SCOPES, None).await;
    let pieces = futures_util::stream::unfold(0, async |number| {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, std::io::Error>(vec![0_u8; 1000]), number + 1))
    });
    let request = reqwest::Client::new()
        .put(format!("{}/examples/upload/slow?name=slow", site.nodes[0].address))
        .bearer_auth(token)
        .body(reqwest::Body::wrap_stream(pieces));
    let sending = tokio::spawn(request.send());
    let path = "/examples/upload?id=slow";
    let tab = sign_in(browser, &format!("{}{path}", site.nodes[1].address), "alice").await;
    tab.until("document.getElementById('amount').textContent.endsWith(' bytes')").await;
    assert_eq!(tab.eval(STATE).await, "is on its way");
    site.nodes[0].kill();
    assert!(sending.await.unwrap().is_err());
    tab.until(&format!("{STATE} === 'timed out: no progress was reported'")).await;
    browser.assert_quiet(&[]);
}

const SCOPES: [carillon::account::Scope; 2] =
    [carillon::account::Scope::Publish, carillon::account::Scope::Listen];

/// A `carillon publish --lines` as the page names it. Ends when its input does.
fn follow_into(topic: &str, server: &str, token: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_carillon"))
        .args(["publish", "--lines", "--text", "--type", "log", "--to", &format!("topic:{topic}")])
        .env("CARILLON_SERVER", server)
        .env("CARILLON_TOKEN", token)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The lines that are to be seen, without their time.
const LINES: &str =
    "[...document.querySelectorAll('#lines li:not([hidden]) span')].map((line) => line.textContent)";

#[tokio::test]
async fn a_log_is_followed_line_by_line() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    let mut log = follow_into("logs/web", &site.nodes[0].address, &site.people.publisher);
    let input = log.stdin.as_mut().unwrap();
    writeln!(input, "before anybody looked").unwrap();
    let tab = example(browser, &site.nodes[1].address, "log?name=web", "alice").await;
    let command = tab.eval("document.querySelector('.command').textContent").await;
    assert_eq!(command, "tail -F web.log | carillon publish --lines --text --type log --to topic:logs/web");
    tab.until(&format!("{LINES}.join() === 'before anybody looked'")).await;
    writeln!(input, "{HOSTILE}").unwrap();
    tab.until(&format!("{LINES}.length === 2")).await;
    assert_eq!(tab.eval(LINES).await, json!(["before anybody looked", HOSTILE]));
    assert_eq!(tab.eval("window.hacked ?? null").await, Value::Null);

    // Paused, nothing moves, and nothing is lost.
    tab.eval("document.getElementById('pause').click()").await;
    for number in 0..3 {
        writeln!(input, "GET /{number}").unwrap();
    }
    tab.until("document.getElementById('pause').textContent === 'Go on: 3 new'").await;
    assert_eq!(tab.eval(&format!("{LINES}.length")).await, 2);
    tab.eval("document.getElementById('pause').click()").await;
    tab.until(&format!("{LINES}.length === 5")).await;

    // Filtered, also what comes from now on.
    tab.eval("document.getElementById('filter').focus()").await;
    tab.type_text("get /").await;
    tab.until(&format!("{LINES}.join() === 'GET /0,GET /1,GET /2'")).await;
    writeln!(input, "POST /3\nGET /4").unwrap();
    tab.until(&format!("{LINES}.join() === 'GET /0,GET /1,GET /2,GET /4'")).await;

    // However many come, the page stays small, and shows the last.
    for number in 5..2_005 {
        writeln!(input, "GET /{number}").unwrap();
    }
    tab.until(&format!("{LINES}.at(-1) === 'GET /2004'")).await;
    assert_eq!(tab.eval("document.getElementById('lines').childElementCount").await, 1_000);
    assert_eq!(tab.eval(&format!("{LINES}[0]")).await, "GET /1005");
    fits_a_phone(&tab).await;
    drop(log.stdin.take());
    assert!(log.wait().unwrap().success());
    browser.assert_quiet(&[]);
}

#[tokio::test]
async fn the_raw_stream_shows_frames_as_they_arrive() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    let path = "stream?topic=demo&alive=true&min_priority=high";
    let tab = example(browser, &site.nodes[0].address, path, "alice").await;
    assert_eq!(
        tab.eval("document.getElementById('request').textContent").await,
        "GET /api/v1/stream?topic=demo&alive=true&min_priority=high"
    );
    // The form holds what the address says.
    let form = "Object.fromEntries(new FormData(document.getElementById('parameters')))";
    let held = tab.eval(form).await;
    assert_eq!(
        (&held["topic"], &held["alive"], &held["min_priority"]),
        (&json!("demo"), &json!("true"), &json!("high"))
    );
    let frames = "[...document.querySelectorAll('#frames pre')].map((frame) => frame.textContent)";
    tab.until(&format!("{frames}.some((frame) => frame.includes('retry: '))")).await;
    tab.until(&format!("{frames}.some((frame) => frame.includes('event: carillon.alive'))")).await;
    let event = json!({ "type": "test", "to": { "topic": "demo" }, "data": HOSTILE, "priority": "high" });
    let (client, address) = (reqwest::Client::new(), site.nodes[1].address.as_str());
    let id = publish(&client, &[address], &site.people.publisher, &event).await;
    tab.until(&format!("{frames}.some((frame) => /^data: .*{id}.*\\nid: \\S+$/.test(frame))")).await;
    assert_eq!(tab.eval("window.hacked ?? null").await, Value::Null);

    tab.eval("document.getElementById('connect').click()").await;
    tab.until("document.getElementById('pill').dataset.state === 'not connected'").await;
    tab.eval("document.getElementById('clear').click(), document.getElementById('connect').click()").await;
    tab.page_live().await;
    tab.until(&format!("{frames}.some((frame) => frame.includes('retry: '))")).await;

    // From an earlier place, given in the form: what came since is sent again.
    let form = "document.querySelector('#parameters')";
    tab.eval(&format!("{form}.cursor.value = 'elsewhere-1', {form}.requestSubmit()")).await;
    tab.until("location.search.includes('cursor=elsewhere-1')").await;
    tab.until(&format!("{frames}.some((frame) => frame.includes('event: carillon.reset'))")).await;
    fits_a_phone(&tab).await;
    browser.assert_quiet(&[]);
}
