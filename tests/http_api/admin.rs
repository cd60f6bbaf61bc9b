//! Everybody's accounts and the nodes, for admins.

use reqwest::Method;
use serde_json::{Value, json};

use crate::setup::{Setup, Stream, send};
use crate::support::{DEADLINE, wait_until};

const USERS: &str = "/api/v1/users";
const SESSIONS: &str = "/api/v1/sessions";
const TOKENS: &str = "/api/v1/tokens";
const CLUSTER: &str = "/api/v1/cluster";

async fn ask(setup: &Setup, cookie: &str, path: &str) -> Value {
    send(setup.get(path).header("cookie", cookie)).await.expect(200).json()
}

pub async fn only_admins_who_are_signed_in_may(setup: Setup) {
    let (alice, rival) = (setup.sign_in("alice").await, setup.sign_in("rival").await);
    for (method, path) in [
        (Method::GET, USERS),
        (Method::POST, USERS),
        (Method::PUT, "/api/v1/users/bob/password"),
        (Method::GET, "/api/v1/users/bob/sessions"),
        (Method::DELETE, "/api/v1/users/bob/sessions/01a1fd2a-0970-73fc-a268-f63855a93fd0"),
        (Method::GET, SESSIONS),
        (Method::GET, TOKENS),
        (Method::DELETE, "/api/v1/tokens/1"),
        (Method::GET, CLUSTER),
        (Method::GET, "/api/v1/cluster/stream"),
    ] {
        let request = || setup.request(method.clone(), path);
        send(request()).await.expect_problem(401, "");
        for cookie in [&alice, &rival] {
            send(request().header("cookie", cookie)).await.expect_problem(403, "");
        }
        for token in [&setup.alice, &setup.admin] {
            send(request().bearer_auth(token)).await.expect_problem(403, "");
        }
    }
    // Nothing of it was done.
    send(setup.get("/api/v1/inbox").bearer_auth(&setup.alice)).await.expect(200);
    assert_eq!(setup.people.store().valid_tokens(None, None, 100).await.unwrap().len(), 5);
}

pub async fn users_are_listed_added_and_let_in_again(setup: Setup) {
    let admin = setup.sign_in("admin").await;
    let names = |page: &Value| -> Vec<String> {
        let users = page["users"].as_array().unwrap();
        users.iter().map(|user| user["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut found = Vec::new();
    let mut path = format!("{USERS}?limit=2");
    loop {
        let page = ask(&setup, &admin, &path).await;
        found.extend(names(&page));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{USERS}?limit=2&after={next}");
    }
    assert_eq!(found, ["admin", "alice", "bob", "publisher", "rival"]);
    for query in ["limit=0", "limit=201", "limit=x"] {
        let request = setup.get(&format!("{USERS}?{query}")).header("cookie", &admin);
        send(request).await.expect_problem(400, "limit");
    }

    let add = |body: Value| setup.post(USERS).header("cookie", &admin).body(body.to_string());
    for (body, field) in [
        (json!({ "name": "", "role": "listener" }), "name"),
        (json!({ "name": "a\tb", "role": "listener" }), "name"),
        (json!({ "name": "ä".repeat(128), "role": "listener" }), "name"),
        (json!({ "name": "carol", "role": "king" }), "role"),
        (json!({ "name": "carol" }), "body"),
    ] {
        send(add(body)).await.expect_problem(400, field);
    }
    send(add(json!({ "name": "alice", "role": "admin" }))).await.expect_problem(409, "");
    let carol = send(add(json!({ "name": "carol", "role": "publisher" }))).await.expect(201).json();
    assert_eq!((&carol["name"], &carol["role"]), (&json!("carol"), &json!("publisher")));
    let sign_in = |password: &Value| {
        setup.post("/api/v1/session").json(&json!({ "name": "carol", "password": password }))
    };
    let cookie = send(sign_in(&carol["password"])).await.expect(204).cookie();
    let mut stream = Stream::open(setup.get("/api/v1/stream").header("cookie", &cookie)).await;

    let anew = |name: &str| setup.put(&format!("{USERS}/{name}/password")).header("cookie", &admin);
    send(anew("nobody")).await.expect_problem(404, "");
    let anew_carol = send(anew("carol")).await.expect(200).json();
    assert_eq!(anew_carol["ended"], 1);
    stream.ends().await;
    assert_eq!(stream.events.last().unwrap().event, "carillon.signout");
    send(sign_in(&carol["password"])).await.expect_problem(401, "");
    send(sign_in(&anew_carol["password"])).await.expect(204);

    // An admin who does it to themselves can still read the answer, and goes on.
    let other = setup.sign_in("admin").await;
    assert_eq!(send(anew("admin")).await.expect(200).json()["ended"], 1);
    ask(&setup, &admin, USERS).await;
    send(setup.get(USERS).header("cookie", &other)).await.expect_problem(401, "");
}

pub async fn sessions_and_tokens_of_everybody_end_at_once(setup: Setup) {
    let (admin, alice, bob) =
        (setup.sign_in("admin").await, setup.sign_in("alice").await, setup.sign_in("bob").await);
    let all = ask(&setup, &admin, SESSIONS).await;
    let mut users: Vec<_> =
        all["sessions"].as_array().unwrap().iter().map(|session| session["user"].clone()).collect();
    users.sort_by_key(ToString::to_string);
    assert_eq!(users, ["admin", "alice", "bob"]);
    let of_alice = ask(&setup, &admin, "/api/v1/users/alice/sessions").await;
    let id = of_alice["sessions"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(of_alice["sessions"][0]["current"], false);
    let request = setup.get("/api/v1/users/nobody/sessions").header("cookie", &admin);
    send(request).await.expect_problem(404, "");

    let mut stream = Stream::open(setup.get("/api/v1/stream").header("cookie", &alice)).await;
    let end = |name: &str| setup.delete(&format!("{USERS}/{name}/sessions/{id}")).header("cookie", &admin);
    send(end("bob")).await.expect_problem(404, "");
    send(end("alice")).await.expect(204);
    stream.ends().await;
    assert_eq!(stream.events.last().unwrap().event, "carillon.signout");
    send(setup.get("/api/v1/account").header("cookie", &alice)).await.expect_problem(401, "");
    send(setup.get("/api/v1/account").header("cookie", &bob)).await.expect(200);

    let mut found = Vec::new();
    let mut path = format!("{TOKENS}?limit=2");
    loop {
        let page = ask(&setup, &admin, &path).await;
        found.extend(page["tokens"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("{TOKENS}?limit=2&after={next}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found.iter().all(|token| token["secret"].is_null()), "{found:?}");
    let request = setup.get(&format!("{TOKENS}?after=x")).header("cookie", &admin);
    send(request).await.expect_problem(400, "after");
    let of_bob = found.iter().find(|token| token["user"] == "bob").unwrap();
    let mut stream = setup.stream(&setup.bob, "").await;
    let revoke = || setup.delete(&format!("{TOKENS}/{}", of_bob["id"])).header("cookie", &admin);
    send(revoke()).await.expect(204);
    stream.ends().await;
    assert_eq!(stream.events.last().unwrap().event, "carillon.signout");
    send(setup.get("/api/v1/inbox").bearer_auth(&setup.bob)).await.expect_problem(401, "");
    send(revoke()).await.expect_problem(404, "");
}

pub async fn a_node_reports_its_status_once_and_as_a_stream(setup: Setup) {
    let admin = setup.sign_in("admin").await;
    let _listener = setup.stream(&setup.alice, "").await;
    let cluster = async || ask(&setup, &admin, CLUSTER).await;
    wait_until(DEADLINE, "the listener is counted", async || cluster().await["nodes"][0]["listeners"] == 1)
        .await;
    let now = cluster().await;
    let node = &now["nodes"][0];
    assert_eq!((now["nodes"].as_array().unwrap().len(), &now["complete"]), (1, &json!(true)), "{now}");
    assert_eq!(node["name"], now["reported_by"]);
    assert_eq!(format!("http://{}", node["address"].as_str().unwrap()), setup.node.address);
    for right in ["bus_ok", "store_ok"] {
        assert_eq!(node[right], true, "{node}");
    }
    assert_eq!((&node["draining"], &node["reasons"]), (&json!(false), &json!([])));
    assert!(node["memory_bytes"].as_u64().unwrap() > 1 << 20, "{node}");

    // Rates are of the last two seconds: events go on until they are seen.
    let publishing = async {
        loop {
            setup.publish_to_all("x").await;
        }
    };
    let seen = wait_until(DEADLINE, "rates are reported", async || {
        let node = cluster().await["nodes"][0].clone();
        let is_up = |rate: &str| node[rate].as_f64().unwrap() > 0.0;
        is_up("published_per_second") && is_up("delivered_per_second")
    });
    tokio::select! {
        () = publishing => {}
        () = seen => {}
    }

    let mut answer = setup.get("/api/v1/cluster/stream").header("cookie", &admin).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while text.matches("event: carillon.nodes\ndata: {").count() < 2 {
        text += &String::from_utf8_lossy(&answer.chunk().await.unwrap().expect("the stream goes on"));
    }
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let status: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&status["nodes"][0]["name"], &status["complete"]), (&node["name"], &json!(true)));
    // A user who is no longer signed in watches for ten seconds at most.
    send(setup.delete("/api/v1/session").header("cookie", &admin)).await.expect(204);
    let rest = tokio::time::timeout(DEADLINE, answer.text()).await.expect("the stream ends").unwrap();
    assert!(rest.ends_with("event: carillon.signout\ndata: {}\n\n"), "{rest}");
}

pub async fn no_more_watch_than_there_is_room_for(setup: Setup) {
    let admin = setup.sign_in("admin").await;
    let watch = async || {
        let request = setup.get("/api/v1/cluster/stream").header("cookie", &admin);
        let mut answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "a stream is not refused");
        let first = answer.chunk().await.unwrap().expect("something is said");
        (answer, String::from_utf8_lossy(&first).into_owned())
    };
    let mut watching = Vec::new();
    for _ in 0..32 {
        let (answer, first) = watch().await;
        assert!(first.starts_with("event: carillon.nodes"), "{first}");
        watching.push(answer);
    }
    let (mut answer, first) = watch().await;
    assert!(first.starts_with("retry: "), "{first}");
    assert!(answer.chunk().await.unwrap().is_none(), "and nothing else");
    watching.pop();
    wait_until(DEADLINE, "there is room again", async || watch().await.1.starts_with("event: ")).await;
}
