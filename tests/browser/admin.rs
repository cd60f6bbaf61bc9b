//! The cluster page and the account page.

use serde_json::json;

use crate::chromium::{Browser, Tab};
use crate::portal::sign_in;
use crate::site::Site;

/// What the browser says of requests that are refused by design.
const REFUSED: [&str; 4] = ["400 (Bad Request)", "401 (Unauthorized)", "403 (Forbidden)", "409 (Conflict)"];

/// Does what a button does, by the keyboard.
async fn press(tab: &Tab, button: &str) {
    tab.eval(&format!("document.querySelector({}).focus()", json!(button))).await;
    tab.press("Enter").await;
}

async fn write(tab: &Tab, field: &str, text: &str) {
    tab.eval(&format!("document.querySelector({}).select()", json!(field))).await;
    tab.type_text(text).await;
}

/// Answers the question that is asked with yes.
async fn confirm(tab: &Tab) {
    tab.until("document.getElementById('confirm').open").await;
    assert_eq!(tab.eval("document.activeElement.value").await, "no", "by mistake nothing ends");
    tab.press("Tab").await;
    tab.press("Enter").await;
    tab.until("!document.getElementById('confirm').open").await;
}

/// The secret that is shown, which is then put away.
async fn secret(tab: &Tab) -> String {
    tab.until("document.getElementById('secret').open").await;
    let secret = tab.eval("document.getElementById('secret-text').textContent").await;
    tab.press("Escape").await;
    tab.until("!document.getElementById('secret').open").await;
    tab.until("document.getElementById('secret-text').textContent === ''").await;
    secret.as_str().unwrap().to_owned()
}

async fn says(tab: &Tab, text: &str) {
    tab.until(&format!("document.getElementById('result').textContent === {}", json!(text))).await;
}

async fn fits_a_phone(tab: &Tab) {
    tab.look((360, 740), "dark").await;
    tab.until("document.documentElement.scrollWidth <= 360").await;
    tab.look((1280, 800), "light").await;
}

#[tokio::test]
async fn the_cluster_page_shows_all_nodes_and_which_is_gone() {
    let mut site = Site::on_cluster().await;
    let browser = &site.browser;
    let tab = sign_in(browser, &site.at("/cluster"), "root").await;
    tab.until("document.getElementById('pill').textContent === 'live'").await;
    tab.until("document.querySelectorAll('.node[data-state=ready]').length === 3").await;
    tab.until("document.getElementById('summary').textContent === '3 ready'").await;
    // Two points make a line.
    let charts = "[...document.querySelectorAll('.chart polyline')]";
    tab.until(&format!("{charts}.length === 12 && {charts}.every((line) => line.points.numberOfItems >= 2)"))
        .await;
    let inbox = browser.open(&site.at("/")).await;
    let listeners =
        "[...document.querySelectorAll('[data-metric=listeners] .value')].map((v) => +v.textContent)";
    tab.until(&format!("{listeners}.reduce((sum, n) => sum + n) === 1")).await;
    inbox.close().await;
    fits_a_phone(&tab).await;

    // The browser has its connection with one of them, and that one may be it.
    let gone = site.nodes[1].address.trim_start_matches("http://").to_owned();
    site.nodes[1].kill();
    let card = format!(
        "[...document.querySelectorAll('.node')].find((card) => card.dataset.order.includes({}))",
        json!(gone)
    );
    tab.until(&format!("{card}.querySelector('[data-of=state]').textContent.startsWith('gone since')")).await;
    tab.until("document.getElementById('pill').textContent === 'live'").await;
    tab.until("document.getElementById('summary').textContent === '2 ready, 1 gone'").await;
    tab.until("document.getElementById('say-polite').textContent === '2 ready, 1 gone'").await;
    browser.assert_quiet(&["net::ERR_"]);
}

#[tokio::test]
async fn an_admin_adds_users_and_ends_what_is_theirs() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    let other = Browser::start().await;
    let alice = sign_in(&other, &site.at("/account"), "alice").await;
    let tab = sign_in(browser, &site.at("/cluster"), "root").await;
    tab.until("document.getElementById('pill').textContent === 'live'").await;

    write(&tab, "#new-user [name=name]", "alice").await;
    tab.press("Enter").await;
    tab.until("document.querySelector('#new-user .error').textContent === 'The name is taken.'").await;
    write(&tab, "#new-user [name=name]", "carol").await;
    tab.press("Enter").await;
    let password = secret(&tab).await;
    says(&tab, "carol is added.").await;
    let signs_in = async |password: &str| {
        let body = json!({ "name": "carol", "password": password }).to_string();
        let address = site.at("/api/v1/session");
        reqwest::Client::new().post(address).body(body).send().await.unwrap().status() == 204
    };
    assert!(signs_in(&password).await);
    press(&tab, "#users [data-id=carol] button").await;
    tab.until("document.getElementById('confirm').open").await;
    tab.press("Escape").await;
    tab.until("!document.getElementById('confirm').open").await;
    assert!(signs_in(&password).await, "escape is no");
    press(&tab, "#users [data-id=carol] button").await;
    confirm(&tab).await;
    let anew = secret(&tab).await;
    assert!(!signs_in(&password).await && signs_in(&anew).await);

    press(&tab, "#sessions [data-user=alice] button").await;
    confirm(&tab).await;
    says(&tab, "The session of alice has ended.").await;
    assert_eq!(tab.eval("document.querySelectorAll('#sessions [data-user=alice]').length").await, 0);
    // What she does next sends her to sign in.
    write(&alice, "#new-token [name=name]", "too late").await;
    alice.press("Enter").await;
    alice.until("location.href.endsWith('/login?next=%2Faccount')").await;

    press(&tab, "#tokens [data-user=paula] button").await;
    confirm(&tab).await;
    says(&tab, "The token is revoked.").await;
    tab.reload().await;
    tab.until("document.querySelectorAll('#users [data-id=carol]').length === 1").await;
    assert_eq!(tab.eval("document.querySelectorAll('#tokens [data-user=paula]').length").await, 0);

    // A user who is no admin is refused.
    let bob = sign_in(&other, &site.at("/cluster"), "bob").await;
    bob.until("document.querySelector('.status-code').textContent === '403'").await;
    browser.assert_quiet(&REFUSED);
    other.assert_quiet(&REFUSED);
}

#[tokio::test]
async fn an_account_is_managed_by_keyboard() {
    let site = Site::on_cluster().await;
    let browser = &site.browser;
    let other = Browser::start().await;
    let elsewhere = sign_in(&other, &site.at("/"), "alice").await;
    elsewhere.until("document.getElementById('pill').dataset.state === 'live'").await;
    let tab = sign_in(browser, &site.at("/account"), "alice").await;
    tab.until("document.querySelectorAll('#sessions li').length === 2").await;
    tab.until("document.querySelectorAll('#sessions [data-current]').length === 1").await;
    fits_a_phone(&tab).await;

    tab.until("!document.getElementById('end-others').hidden").await;
    press(&tab, "#end-others").await;
    confirm(&tab).await;
    says(&tab, "One other session has ended.").await;
    elsewhere.until("location.pathname === '/login'").await;
    assert_eq!(tab.eval("document.querySelectorAll('#sessions li').length").await, 1);
    tab.until("document.activeElement.id === 'sessions-title'").await;

    write(&tab, "#new-token [name=name]", "<b>my phone</b>").await;
    tab.press("Enter").await;
    let token = secret(&tab).await;
    let inbox = async || {
        let request = reqwest::Client::new().get(site.at("/api/v1/inbox")).bearer_auth(&token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(inbox().await, 200);
    let row = "document.querySelector('#tokens li')";
    assert_eq!(
        tab.eval(&format!("{row}.querySelector('[data-of=name]').textContent")).await,
        "<b>my phone</b>"
    );
    press(&tab, "#tokens li button").await;
    confirm(&tab).await;
    says(&tab, "The token is revoked.").await;
    assert_eq!(inbox().await, 401);
    tab.eval(
        "document.querySelectorAll('#new-token [type=checkbox]').forEach((box) => (box.checked = false))",
    )
    .await;
    write(&tab, "#new-token [name=name]", "nothing").await;
    tab.press("Enter").await;
    tab.until("document.querySelector('#new-token .error').textContent === 'Choose what it may do.'").await;

    let set = async |old: &str, new: &str, again: &str| {
        write(&tab, "[name=old]", old).await;
        write(&tab, "[name=new]", new).await;
        write(&tab, "[name=again]", again).await;
        tab.press("Enter").await;
    };
    let fails = async |field: &str, text: &str| {
        tab.until(&format!("document.querySelector('#new-password .error').textContent === {}", json!(text)))
            .await;
        let at = "document.activeElement.name + document.activeElement.ariaInvalid";
        assert_eq!(tab.eval(at).await, format!("{field}true"));
    };
    set("a guess", "a new password", "a new password").await;
    fails("old", "The old password is wrong.").await;
    set("password of alice", "a new password", "another one").await;
    fails("again", "The two new passwords differ.").await;
    set("password of alice", "a new password", "a new password").await;
    says(&tab, "The password is set.").await;
    tab.reload().await;
    tab.until("document.querySelectorAll('#sessions li').length === 1").await;

    press(&tab, "#sessions [data-current] button").await;
    confirm(&tab).await;
    tab.until("location.pathname === '/login'").await;
    browser.assert_quiet(&REFUSED);
    other.assert_quiet(&REFUSED);
}
