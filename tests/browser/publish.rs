//! The page to publish with.

use carillon::account::Scope;
use serde_json::{Value, json};

use crate::chromium::Tab;
use crate::site::Site;

/// What alice has in her inbox, newest first.
async fn inbox(tab: &Tab) -> Value {
    tab.eval("fetch('/api/v1/inbox').then((a) => a.json()).then(({ entries }) => entries.map(({ type, data }) => [type, data]))")
        .await
}

/// Fills in a field as somebody does.
async fn fill(tab: &Tab, name: &str, text: &str) {
    tab.eval(&format!("document.querySelector('#publish [name={name}]').focus()")).await;
    tab.eval("document.activeElement.select?.()").await;
    tab.type_text(text).await;
}

async fn choose(tab: &Tab, name: &str, value: &str) {
    tab.eval(&format!(
        "{{ const field = document.getElementById('publish').elements.{name}; field.value = '{value}';
            (field.length && field[0].type === 'radio' ? field[0] : field).dispatchEvent(new Event('input', {{ bubbles: true }})); }}"
    ))
    .await;
}

async fn json_of(tab: &Tab) -> Value {
    serde_json::from_str(tab.eval("document.getElementById('json').textContent").await.as_str().unwrap())
        .unwrap()
}

#[tokio::test]
async fn only_publishers_see_it() {
    let site = Site::on_cluster().await;
    let tab = site.page("alice", "/publish").await;
    tab.until("document.body.textContent.includes('This is not for your account')").await;
    assert_eq!(tab.eval("document.querySelector('#publish')").await, Value::Null);
    tab.go(&site.address).await;
    assert_eq!(tab.eval("document.querySelector('nav').textContent.includes('Publish')").await, false);
    site.browser.assert_quiet(&["403 (Forbidden)"]);
}

#[tokio::test]
async fn the_preview_is_what_is_published_and_so_is_the_command() {
    let site = Site::on_cluster().await;
    let tab = site.page("paula", "/publish").await;
    let title = "It's $HOME \"now\" `id` \\";
    fill(&tab, "title", title).await;
    fill(&tab, "message", "Soup").await;
    choose(&tab, "to", "users").await;
    fill(&tab, "users", "alice, paula").await;
    choose(&tab, "priority", "high").await;
    choose(&tab, "expires_in", "after").await;
    fill(&tab, "expires_in_amount", "2").await;
    choose(&tab, "keep_after_read", "0").await;
    let data = json!({ "title": title, "message": "Soup", "level": "info" });
    let event = json!({ "type": "notification", "to": { "users": ["alice", "paula"] }, "priority": "high", "data": data,
        "expires_in": 7200, "keep_after_read": 0 });
    assert_eq!(json_of(&tab).await, event);
    let curl = tab.eval("document.getElementById('curl').textContent").await.as_str().unwrap().to_owned();
    assert!(curl.contains("$CARILLON_TOKEN"), "{curl}");

    tab.click("#publish button.primary").await;
    tab.until("document.querySelectorAll('.receipt').length === 1").await;
    assert_eq!(inbox(&tab).await, json!([["notification", data]]));
    // The command has the same key: it gives the same event, and no other.
    let token = site.people.token("paula", &[Scope::Publish], None).await;
    let run = tokio::process::Command::new("bash").args(["-c", &curl]).env("CARILLON_TOKEN", token).output();
    let output = run.await.expect("bash runs");
    let receipt: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(tab.eval("document.querySelector('.receipt').dataset.id").await, receipt["id"]);
    assert_eq!(inbox(&tab).await.as_array().unwrap().len(), 1);

    // Any JSON, with every digit as it was typed; an urgent system notice; a message to a topic.
    choose(&tab, "kind", "").await;
    fill(&tab, "type", "order.paid").await;
    fill(&tab, "data", r#"{"total": 129.90}"#).await;
    choose(&tab, "to", "everyone").await;
    assert_eq!(json_of(&tab).await["type"], "order.paid");
    tab.until("document.getElementById('json').textContent.includes('129.90')").await;
    choose(&tab, "kind", "system").await;
    assert_eq!(json_of(&tab).await["data"], json!({ "title": title, "message": "Soup" }));
    choose(&tab, "kind", "message").await;
    choose(&tab, "to", "topic").await;
    fill(&tab, "topic", "room/7").await;
    assert_eq!(json_of(&tab).await["data"], json!({ "text": "Soup" }));
    assert_eq!(json_of(&tab).await["to"], json!({ "topic": "room/7" }));
    choose(&tab, "kind", "alert").await;
    assert_eq!(json_of(&tab).await["data"]["level"], "warning");
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn mistakes_are_reported_where_they_are() {
    let site = Site::on_cluster().await;
    let tab = site.page("paula", "/publish").await;
    tab.click("#publish button.primary").await;
    let error = |name: &str| format!("document.getElementById('{name}-error')");
    tab.until(&format!("{}.textContent === 'It needs a title.'", error("title"))).await;
    assert_eq!(tab.eval("document.activeElement.name").await, "title");
    assert_eq!(tab.eval("document.activeElement.getAttribute('aria-describedby')").await, "title-error");
    assert_eq!(tab.eval("document.activeElement.getAttribute('aria-invalid')").await, "true");
    fill(&tab, "title", "Lunch").await;
    tab.until(&format!("{}.hidden", error("title"))).await;
    choose(&tab, "to", "topic").await;
    fill(&tab, "topic", "a//b").await;
    choose(&tab, "keep_after_read", "after").await;
    fill(&tab, "keep_after_read_amount", "0").await;
    tab.click("#publish button.primary").await;
    tab.until(&format!("!{}.hidden && !{}.hidden", error("topic"), error("keep_after_read"))).await;
    choose(&tab, "keep_after_read", "").await;
    // What only the server knows, it says at the same place.
    choose(&tab, "to", "users").await;
    fill(&tab, "users", "alice nobody").await;
    tab.click("#publish button.primary").await;
    tab.until(&format!("{}.textContent.includes('nobody')", error("users"))).await;
    assert_eq!(tab.eval("document.activeElement.name").await, "users");
    choose(&tab, "kind", "").await;
    fill(&tab, "type", "carillon.x").await;
    fill(&tab, "data", "{no").await;
    tab.click("#publish button.primary").await;
    tab.until(&format!("!{}.hidden && {}.textContent.includes('JSON')", error("type"), error("data"))).await;
    assert_eq!(tab.eval("document.querySelectorAll('.receipt').length").await, 0);
    site.browser.assert_quiet(&["422 (Unprocessable"]);
}

#[tokio::test]
async fn it_comes_once_however_often_it_is_sent_and_can_be_taken_back() {
    let site = Site::on_cluster().await;
    let tab = site.page("paula", "/publish").await;
    fill(&tab, "title", "twice").await;
    tab.eval(
        "{ const button = document.querySelector('#publish .primary'); button.click(); button.click(); }",
    )
    .await;
    tab.until("document.querySelectorAll('.receipt').length === 1").await;
    tab.eval("document.querySelector('#publish .primary').click()").await;
    // The answer is lost on the way: whether it was published is not known, and to repeat it is safe.
    fill(&tab, "title", "lost").await;
    tab.eval("{ const real = fetch; window.fetch = async (...all) => { await real(...all); window.fetch = real; throw new TypeError('lost'); }; }")
        .await;
    tab.click("#publish button.primary").await;
    tab.until("document.getElementById('form-error').textContent.includes('not known')").await;
    tab.click("#publish button.primary").await;
    tab.until("document.querySelectorAll('.receipt').length === 2").await;
    let titles = "fetch('/api/v1/inbox').then((a) => a.json()).then(({ entries }) => entries.map(({ data }) => data.title))";
    assert_eq!(tab.eval(titles).await, json!(["lost", "twice"]));

    tab.eval("document.querySelector('.receipt button').focus()").await;
    tab.press("Enter").await;
    tab.until("document.querySelector('.receipt').textContent.includes('taken back')").await;
    assert_eq!(tab.eval("document.activeElement.textContent").await, "taken back");
    assert_eq!(tab.eval(titles).await, json!(["twice"]));
    site.browser.assert_quiet(&[]);
}

#[tokio::test]
async fn it_is_used_on_a_phone_and_by_keyboard_alone() {
    let site = Site::on_cluster().await;
    let tab = site.page("paula", "/publish").await;
    tab.look((360, 740), "dark").await;
    tab.until("document.getElementById('curl').textContent.includes('curl')").await;
    tab.eval("document.querySelector('[name=kind]').focus()").await;
    tab.press("Tab").await;
    tab.type_text(&"Very-long-word".repeat(12)).await;
    tab.press("Tab").await;
    tab.type_text("Soup").await;
    tab.press("Tab").await;
    tab.press("Tab").await;
    assert_eq!(tab.eval("document.activeElement.value").await, "everyone");
    for _ in 0..4 {
        tab.press("Tab").await;
    }
    assert_eq!(tab.eval("document.activeElement.textContent").await, "Publish");
    tab.press("Enter").await;
    tab.until("document.querySelectorAll('.receipt').length === 1").await;
    assert_eq!(tab.eval("document.documentElement.scrollWidth").await, 360);
    assert_eq!(
        tab.eval("[...document.querySelectorAll('#publish input, #publish select, #publish textarea')].every((one) => one.labels.length > 0 || one.ariaLabel)")
            .await,
        true
    );
    site.browser.assert_quiet(&[]);
}
