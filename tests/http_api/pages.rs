//! The pages: who sees them, where they send people, and that nothing in them runs but our own files.

use reqwest::RequestBuilder;
use serde_json::json;

use crate::setup::{Answer, Setup, credentials, send};

fn sign_in(setup: &Setup, fields: &[(&str, &str)]) -> RequestBuilder {
    let form: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    setup.post("/login").header("content-type", "application/x-www-form-urlencoded").body(form)
}

pub async fn pages_need_a_session_and_send_back_only_here(setup: Setup) {
    for (path, next) in [("/", "%2F"), ("/?type=a&unread=true", "%2F%3Ftype%3Da%26unread%3Dtrue")] {
        let answer = send(setup.get(path)).await.expect(303);
        assert_eq!(answer.header("location"), format!("/login?next={next}"));
    }
    let with_wrong_cookie = setup.get("/").header("cookie", "carillon_session=wrong");
    assert_eq!(send(with_wrong_cookie).await.expect(303).header("location"), "/login?next=%2F");

    let alice = credentials("alice");
    let password = alice["password"].as_str().unwrap();
    for (next, location) in [
        ("/x", "/x"),
        ("/?type=a", "/?type=a"),
        ("//evil", "/"),
        ("https://evil", "/"),
        ("/\\evil", "/"),
        ("", "/"),
    ] {
        let fields = [("name", "alice"), ("password", password), ("next", next)];
        let answer = send(sign_in(&setup, &fields)).await.expect(303);
        assert_eq!(answer.header("location"), location, "{next}");
        let page = send(setup.get("/").header("cookie", answer.cookie())).await.expect(200);
        assert!(page.body.contains("alice"), "{page:?}");
    }
    let fields = [("name", "bob"), ("password", "password of bob"), ("remember", "true")];
    let remembered = send(sign_in(&setup, &fields)).await.expect(303);
    assert!(remembered.header("set-cookie").contains("Max-Age="), "{remembered:?}");
    let wrong =
        send(sign_in(&setup, &[("name", "bob"), ("password", "wrong"), ("next", "/x")])).await.expect(401);
    assert!(wrong.body.contains(r#"value="bob""#) && wrong.body.contains(r#"value="&#x2f;x""#), "{wrong:?}");
    assert!(wrong.header("set-cookie").is_empty(), "{wrong:?}");
    assert!(wrong.body.contains("The name or the password is wrong."), "{wrong:?}");
    for body in ["", "name=bob", "remember=perhaps&name=bob&password=wrong"] {
        let form = setup.post("/login").header("content-type", "application/x-www-form-urlencoded");
        assert_is_strict(&send(form.body(body)).await.expect(400));
    }
}

pub async fn pages_hold_nothing_that_runs_inline(setup: Setup) {
    let hostile = r#"</pre></script><img src=x onerror="alert(1)"><script>alert(2)</script>{{7*7}}"#;
    let data = json!({ "title": hostile, hostile: "key" });
    setup.publish(&json!({ "type": "test", "to": { "user": "alice" }, "data": data })).await;
    setup.publish(&json!({ "type": "test", "to": "everyone", "data": hostile, "expires_in": 3600 })).await;

    let cookie = setup.sign_in("alice").await;
    let page = |path: &str| send(setup.get(path).header("cookie", &cookie));
    let inbox = page("/").await.expect(200);
    assert_is_strict(&inbox);
    assert!(inbox.body.contains("onerror") && inbox.body.contains("&lt;img"), "{}", inbox.body);
    assert!(inbox.body.contains("{{7*7}}"), "data is no template: {}", inbox.body);
    assert_eq!(inbox.header("cache-control"), "no-store");
    assert!(inbox.header("content-type").starts_with("text/html"), "{inbox:?}");

    let query: String = url::form_urlencoded::byte_serialize(hostile.as_bytes()).collect();
    assert_is_strict(&page("/?type=test&min_priority=low&unread=true").await.expect(200));
    assert_is_strict(&page(&format!("/?q={query}")).await.expect(200));
    assert_is_strict(&page("/publish").await.expect(403));
    let admins = setup.sign_in("admin").await;
    assert_is_strict(&send(setup.get("/publish").header("cookie", &admins)).await.expect(200));
    // A topic may be called like this; the page shows it as text.
    assert_is_strict(&page(&format!("/?topic={query}")).await.expect(200));
    for parameter in ["type", "min_priority", "unread", "after"] {
        assert_is_strict(&page(&format!("/?{parameter}={query}")).await.expect(400));
    }
    assert_is_strict(&send(setup.get(&format!("/login?next=/{query}"))).await.expect(200));
    let refused = sign_in(&setup, &[("name", hostile), ("password", "wrong"), ("next", hostile)]);
    let refused = send(refused).await.expect(401);
    assert_is_strict(&refused);
    assert!(refused.body.contains("onerror"), "the name is still there: {}", refused.body);

    // Every file that the pages name is there.
    let files: Vec<&str> = inbox.body.split('"').filter(|text| text.starts_with("/static/")).collect();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        let answer = send(setup.get(file)).await.expect(200);
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        let kind = answer.header("content-type");
        assert!(["text/javascript", "text/css", "image/svg"].iter().any(|k| kind.starts_with(k)), "{kind}");
    }
}

pub async fn files_are_kept_for_ever_under_names_that_change_with_them(setup: Setup) {
    let login = send(setup.get("/login")).await.expect(200);
    let style = login.body.split('"').find(|text| text.ends_with("/carillon.css")).unwrap();
    let version = style.split('/').nth(2).unwrap();
    assert!(version.len() >= 8 && version.bytes().all(|b| b.is_ascii_hexdigit()), "{style}");
    let named = send(setup.get(style)).await.expect(200);
    assert!(named.header("cache-control").contains("immutable"), "{named:?}");
    // A page of a node that is being replaced names another version: it gets what there is, and asks again.
    for address in ["/static/carillon.css", "/static/0123456789ab/carillon.css"] {
        let other = send(setup.get(address)).await.expect(200);
        assert_eq!((other.header("cache-control"), &other.body), ("no-cache", &named.body), "{address}");
        let known = setup.get(address).header("if-none-match", other.header("etag"));
        assert_eq!(send(known).await.expect(304).body, "");
        let old = setup.get(address).header("if-none-match", "W/\"0123456789ab\"");
        assert_eq!(send(old).await.expect(200).body, named.body);
    }
    for address in ["/static/0123456789ab/none.css", "/static/%ff/carillon.css", "/static/a/b/carillon.css"] {
        send(setup.get(address)).await.expect(404);
    }
    // The texts of scripts are a file like the others, made from the table.
    let texts = send(setup.get(&style.replace("carillon.css", "texts.en.js"))).await.expect(200);
    assert!(texts.header("cache-control").contains("immutable"), "{texts:?}");
    assert!(texts.body.starts_with("export default {") && texts.body.contains("\"state.live\":\"live\""));
    let small = send(setup.get(style).header("accept-encoding", "gzip")).await.expect(200);
    assert_eq!(small.header("content-encoding"), "gzip");
}

pub async fn what_is_nowhere_is_a_page_for_people_and_a_problem_for_programs(setup: Setup) {
    let person = |path: &str| send(setup.get(path).header("accept", "text/html,*/*;q=0.8"));
    let page = person("/nowhere").await.expect(404);
    assert_is_strict(&page);
    assert!(page.body.contains("href=\"/\""), "it says where to go: {}", page.body);
    for answer in [person("/api/v1/nowhere").await, send(setup.get("/nowhere")).await] {
        assert_eq!(answer.expect(404).header("content-type"), "application/problem+json");
    }
}

/// That the page permits only our own files to run, and holds nothing else that would.
#[track_caller]
fn assert_is_strict(page: &Answer) {
    let csp = page.header("content-security-policy");
    for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
        assert!(csp.split(';').any(|given| given.trim() == rule), "{csp}");
    }
    assert!(!csp.contains("unsafe"), "{csp}");
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    for tag in page.body.split('<').skip(1).map(|rest| rest.split('>').next().unwrap()) {
        let name = tag.split_whitespace().next().unwrap_or_default().to_lowercase();
        assert!(!["img", "style", "iframe", "object", "embed", "base"].contains(&name.as_str()), "<{tag}>");
        assert!(name != "script" || tag.contains("src=\"/static/"), "<{tag}>");
        // Outside of quotes stand the attributes' names.
        let mut attributes = tag.split('"').step_by(2).flat_map(str::split_whitespace);
        assert!(!attributes.any(|name| name.starts_with("on") || name.starts_with("style")), "<{tag}>");
        assert!(!tag.contains("=\"javascript:"), "<{tag}>");
    }
}
