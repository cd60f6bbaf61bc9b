//! Sessions and tokens: signing in and out, and what either permits.

use std::time::Duration;

use carillon::account::Scope;
use reqwest::RequestBuilder;
use serde_json::json;

use crate::setup::{Setup, Stream, credentials, send};
use crate::support::DEADLINE;
use crate::support::wait_until;

const SESSION: &str = "/api/v1/session";
const INBOX: &str = "/api/v1/inbox";

/// The attributes of the cookie that an answer sets.
fn attributes(set_cookie: &str) -> Vec<String> {
    set_cookie.split(';').skip(1).map(|attribute| attribute.trim().to_owned()).collect()
}

pub async fn a_cookie_is_as_strict_as_can_be(setup: Setup) {
    let request = || setup.post(SESSION).json(&credentials("alice"));
    let plain = send(request()).await.expect(204);
    assert!(plain.cookie().starts_with("carillon_session="), "{plain:?}");
    let mut set = attributes(plain.header("set-cookie"));
    set.sort_unstable();
    assert_eq!(set, ["HttpOnly", "Path=/", "SameSite=Lax"], "and it ends with the browser");
    let secure = send(request().header("x-forwarded-proto", "https")).await.expect(204);
    assert!(attributes(secure.header("set-cookie")).contains(&"Secure".to_owned()), "{secure:?}");
    let plain_again = send(request().header("x-forwarded-proto", "http")).await.expect(204);
    assert!(!attributes(plain_again.header("set-cookie")).contains(&"Secure".to_owned()));

    let mut remember = credentials("alice");
    remember["remember"] = json!(true);
    let remembered = send(setup.post(SESSION).json(&remember)).await.expect(204);
    let thirty_days = format!("Max-Age={}", 30 * 86_400);
    assert!(attributes(remembered.header("set-cookie")).contains(&thirty_days), "{remembered:?}");

    let inbox = |cookie: &str| setup.get(INBOX).header("cookie", cookie);
    send(inbox(&remembered.cookie())).await.expect(200);
    send(inbox(&format!("theme=dark; {}; a=b", plain.cookie()))).await.expect(200);
    send(inbox("carillon_session=wrong")).await.expect_problem(401, "");
    // Signing in with a session at hand ends that one.
    let rotated = send(request().header("cookie", plain.cookie())).await.expect(204);
    assert_ne!(rotated.cookie(), plain.cookie());
    send(inbox(&plain.cookie())).await.expect_problem(401, "");
    send(inbox(&rotated.cookie())).await.expect(200);
    send(inbox(&secure.cookie())).await.expect(200);

    for wrong in ["", "no JSON", "[]", "{}", r#"{"name":"alice"}"#, r#"{"name":"alice","password":7}"#] {
        send(setup.post(SESSION).body(wrong)).await.expect_problem(400, "body");
        let typed = setup.post(SESSION).header("content-type", "application/json").body(wrong);
        send(typed).await.expect_problem(400, "body");
    }
}

pub async fn guessing_is_slowed_and_reveals_nothing(setup: Setup) {
    let guess = |name: &str| send(setup.post(SESSION).json(&json!({ "name": name, "password": "a guess" })));
    let known = guess("alice").await.expect_problem(401, "");
    let unknown = guess("nobody").await.expect_problem(401, "");
    assert_eq!(known.body, unknown.body);
    assert!(!known.headers.contains_key("set-cookie"));
    // alice last: by and by another try is allowed, and hashing takes its time.
    for name in ["nobody", "alice"] {
        let mut answers = Vec::new();
        while answers.last() != Some(&429) {
            let answer = guess(name).await;
            if answer.status == 429 {
                assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1, "{answer:?}");
                answer.expect_problem(429, "");
                answers.push(429);
            } else {
                answers.push(answer.expect_problem(401, "").status);
            }
            assert!(answers.len() < 50, "guessing goes on for ever");
        }
    }
    let right = setup.post(SESSION).json(&credentials("alice"));
    send(right).await.expect_problem(429, "");
    let form = setup.post("/login").header("content-type", "application/x-www-form-urlencoded");
    let page = send(form.body("name=alice&password=a+guess")).await.expect(429);
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    assert!(page.header("retry-after").parse::<u64>().unwrap() >= 1, "{page:?}");
    setup.sign_in("bob").await;
}

pub async fn signing_out_ends_what_rested_on_it(setup: Setup) {
    let (here, there) = (setup.sign_in("alice").await, setup.sign_in("alice").await);
    let stream = |cookie: &str| Stream::open(setup.get("/api/v1/stream").header("cookie", cookie));
    let (mut stream_here, mut stream_there) = (stream(&here).await, stream(&there).await);
    let mut by_token = setup.stream(&setup.alice, "").await;

    let answer = send(setup.delete(SESSION).header("cookie", &here)).await.expect(204);
    assert_eq!(answer.cookie(), "carillon_session=");
    assert!(attributes(answer.header("set-cookie")).contains(&"Max-Age=0".to_owned()), "{answer:?}");
    stream_here.ends().await;
    assert_eq!(stream_here.events.last().unwrap().event, "carillon.signout");
    for path in [INBOX, "/api/v1/stream"] {
        send(setup.get(path).header("cookie", &here)).await.expect_problem(401, "");
    }
    send(setup.delete(SESSION).header("cookie", &here)).await.expect(204);
    send(setup.delete(SESSION)).await.expect(204);

    send(setup.get(INBOX).header("cookie", &there)).await.expect(200);
    setup.publish_to_all("still here").await;
    for stream in [&mut stream_there, &mut by_token] {
        stream.until_data("still here").await;
        assert!(stream.notices("carillon.signout").is_empty());
    }
    // By the page's button; and signing in anew ends the session it replaces, too.
    let again = setup.post(SESSION).json(&credentials("alice")).header("cookie", &there);
    let third = send(again).await.expect(204).cookie();
    stream_there.ends().await;
    assert_eq!(stream_there.events.last().unwrap().event, "carillon.signout");
    let mut stream_third = stream(&third).await;
    let answer = send(setup.post("/logout").header("cookie", &third)).await.expect(303);
    assert_eq!(answer.header("location"), "/login");
    stream_third.ends().await;
    assert_eq!(stream_third.events.last().unwrap().event, "carillon.signout");
}

pub async fn other_sites_may_not_act_with_a_cookie(setup: Setup) {
    let cookie = setup.sign_in("admin").await;
    let event = setup.publish_to_all("here").await;
    let read = format!("{INBOX}/{}/read", event.id);
    let requests = || -> Vec<RequestBuilder> {
        let requests = [
            setup.post("/api/v1/events").body(r#"{"type":"a","to":"everyone","data":"forged"}"#),
            setup.put(&read),
            setup.delete(&read),
            setup.post("/api/v1/inbox/read-up-to").body(json!({ "position": event.position }).to_string()),
            setup.delete(&format!("/api/v1/events/{}", event.id)),
            setup.post(SESSION).json(&credentials("alice")),
            setup.delete(SESSION),
            setup.post("/login").body("name=alice&password=password+of+alice"),
            setup.post("/logout"),
        ];
        requests.into_iter().map(|request| request.header("cookie", &cookie)).collect()
    };
    for (header, value) in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", &format!("{}.evil.example", setup.node.address)),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for request in requests() {
            send(request.header(header, value)).await.expect_problem(403, "");
        }
    }
    let entries = send(setup.get(INBOX).header("cookie", &cookie)).await.expect(200).json();
    assert_eq!(entries["entries"].as_array().unwrap().len(), 1);
    assert_eq!(entries["entries"][0]["read_at"], json!(null));

    let own = setup.put(&read).header("cookie", &cookie).header("origin", &setup.node.address);
    send(own).await.expect(204);
    let own = setup.delete(&read).header("cookie", &cookie).header("sec-fetch-site", "same-origin");
    send(own).await.expect(204);
    send(setup.put(&read).bearer_auth(&setup.alice)).await.expect(204);
    // Looking is not acting: a link from elsewhere opens the page.
    send(setup.get(INBOX).header("cookie", &cookie).header("sec-fetch-site", "cross-site")).await.expect(200);
}

pub async fn a_token_permits_what_it_says_while_it_lasts(setup: Setup) {
    let publish = |token: &str| {
        let event = json!({ "type": "test", "to": "everyone", "data": "by token" });
        setup.post("/api/v1/events").bearer_auth(token).body(event.to_string())
    };
    let listen = |token: &str| -> Vec<RequestBuilder> {
        let paths = ["/api/v1/stream", INBOX, "/api/v1/inbox/counts", "/"];
        paths.iter().map(|path| setup.get(path).bearer_auth(token)).collect()
    };
    let people = &setup.people;

    let publish_only = people.token("publisher", &[Scope::Publish], None).await;
    send(publish(&publish_only)).await.expect(201);
    for request in listen(&publish_only) {
        send(request).await.expect(403);
    }
    let listen_only = people.token("publisher", &[Scope::Listen], None).await;
    send(publish(&listen_only)).await.expect_problem(403, "");
    assert_eq!(setup.inbox(&listen_only, "").await, ["by token"]);

    let brief =
        people.token("publisher", &[Scope::Publish, Scope::Listen], Some(Duration::from_millis(1))).await;
    wait_until(DEADLINE, "the token ends", async || {
        let answer = send(setup.get(INBOX).bearer_auth(&brief)).await;
        answer.status == 401
    })
    .await;
    send(publish(&brief)).await.expect_problem(401, "");
    send(setup.get("/api/v1/stream").bearer_auth(&brief)).await.expect_problem(401, "");

    let revoked = people.token("publisher", &[Scope::Publish, Scope::Listen], None).await;
    let id = people.store().tokens(None, 1).await.unwrap()[0].id;
    assert!(people.store().revoke_token(id, None).await.unwrap().is_some());
    send(publish(&revoked)).await.expect_problem(401, "");
    send(setup.get("/api/v1/stream").bearer_auth(&revoked)).await.expect_problem(401, "");
    send(publish(&setup.people.publisher)).await.expect(201);
}

pub async fn a_page_of_one_account_gets_nothing_of_another(setup: Setup) {
    let [alice, bob] = [setup.sign_in("alice").await, setup.sign_in("bob").await];
    for path in [INBOX, "/api/v1/inbox/counts", "/api/v1/stream"] {
        let of_alice = format!("{path}?account=alice");
        send(setup.get(&of_alice).header("cookie", &bob)).await.expect_problem(401, "account");
        send(setup.get(&of_alice).bearer_auth(&setup.bob)).await.expect_problem(401, "account");
        send(setup.get(&format!("{of_alice}&account=bob")).header("cookie", &alice))
            .await
            .expect_problem(400, "account");
    }
    send(setup.get(&format!("{INBOX}?account=alice")).header("cookie", &alice)).await.expect(200);
    drop(setup.stream(&setup.alice, "account=alice").await);
    // Nor does it do anything in the other's name.
    let everything = json!({ "position": 1 });
    let read = setup.post("/api/v1/inbox/read-up-to?account=alice").header("cookie", &bob);
    send(read.json(&everything)).await.expect_problem(401, "account");
}

/// Without a notice, and with the answers cached: by who is on no bus, as the command line is.
pub async fn what_ends_beside_the_nodes_ends_its_streams_though_it_is_cached(setup: Setup) {
    let cookie = setup.sign_in("bob").await;
    let by_cookie = || setup.get("/api/v1/stream").header("cookie", &cookie);
    let mut streams = [setup.stream(&setup.alice, "").await, Stream::open(by_cookie()).await];
    let by_token = || setup.get(INBOX).bearer_auth(&setup.alice);
    send(by_token()).await.expect(200);
    let (accounts, store) = (setup.people.accounts(), setup.people.store());
    let user = async |name: &str| store.user_by_name(name).await.unwrap().unwrap().0.id;
    let token = store.valid_tokens(Some(user("alice").await), None, 1).await.unwrap()[0].id;
    assert!(accounts.revoke_token(token, None).await.unwrap());
    assert_eq!(accounts.set_password(user("bob").await, "another password", None).await.unwrap(), 1);
    for stream in &mut streams {
        stream.ends().await;
        assert_eq!(stream.events.last().unwrap().event, "carillon.signout");
    }
    // By then nothing is cached any more that would let them in again.
    send(by_token()).await.expect_problem(401, "");
    send(by_cookie()).await.expect_problem(401, "");
}

pub async fn who_is_disabled_is_nobody(setup: Setup) {
    let cookie = setup.sign_in("alice").await;
    let sign_in = || setup.post(SESSION).json(&credentials("alice"));
    let mut streams = [
        setup.stream(&setup.alice, "").await,
        Stream::open(setup.get("/api/v1/stream").header("cookie", &cookie)).await,
    ];
    let accounts = setup.people.accounts();
    let alice = setup.people.store().user_by_name("alice").await.unwrap().unwrap().0.id;
    assert_eq!(accounts.disable(alice).await.unwrap(), 2);
    for stream in &mut streams {
        stream.ends().await;
        assert_eq!(stream.events.last().unwrap().event, "carillon.signout");
    }
    let wrong = setup.post(SESSION).json(&json!({ "name": "alice", "password": "wrong" }));
    let wrong = send(wrong).await.expect_problem(401, "");
    assert_eq!(send(sign_in()).await.expect_problem(401, "").body, wrong.body, "it says nothing else");
    send(setup.get(INBOX).header("cookie", &cookie)).await.expect_problem(401, "");
    send(setup.get(INBOX).bearer_auth(&setup.alice)).await.expect_problem(401, "");
    send(setup.get(INBOX).bearer_auth(&setup.bob)).await.expect(200);
    assert!(accounts.enable(alice).await.unwrap());
    send(setup.get(INBOX).header("cookie", &cookie)).await.expect_problem(401, "");
    send(setup.get(INBOX).bearer_auth(&setup.alice)).await.expect(200);
    send(sign_in()).await.expect(204);
}
