//! Permissions that end under an open stream, with the bus and without it.

use std::time::Duration;

use carillon::account::Scope;
use serde_json::json;

use crate::ledger::{Ended, Ending};
use crate::run::{Plan, Run};
use crate::support::wait_until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_with_the_bus_up() {
    let run = Run::start(plan("permissions")).await;
    let (mut run, session, cookie) = with_session(run).await;
    let token = with_token(&mut run).await;
    let begun = run.now();
    sign_out(&run, session, &cookie).await;
    let listener = token.0;
    revoke(&run, token).await;
    let ended = async || run.clients[session].refused() == Some(401);
    // Notified over the bus: a second is promised, and far less measured.
    wait_until(Duration::from_secs(5), "signing out ends the stream on another node", ended).await;
    println!("signed out: the stream on another node ended within {:?}", run.now() - begun);
    run.calm(35.0).await;
    run.fault("a session and a token end", begun);
    assert_eq!(run.clients[listener].refused(), Some(401), "the token's stream");
    run.finish().await.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_with_the_bus_down() {
    let run = Run::start(plan("permissions-redis-down")).await;
    let (mut run, session, cookie) = with_session(run).await;
    let token = with_token(&mut run).await;
    let begun = run.now();
    run.world.redis.kill();
    run.calm(1.0).await;
    sign_out(&run, session, &cookie).await;
    let listener = token.0;
    revoke(&run, token).await;
    run.calm(35.0).await;
    run.world.redis.restart().await;
    run.fault("a session and a token end while Redis is dead", begun);
    assert_eq!(run.clients[session].refused(), Some(401), "the session's stream");
    assert_eq!(run.clients[listener].refused(), Some(401), "the token's stream");
    run.finish().await.assert_clean();
}

fn plan(name: &'static str) -> Plan {
    let mut plan = Plan::new(name, "nothing comes 30 s after permission ended");
    plan.promises.revocation_margin = Duration::from_secs(30);
    plan
}

/// A listener on node 1 that is signed in.
async fn with_session(mut run: Run) -> (Run, usize, String) {
    let body = json!({ "name": "bob", "password": "password of bob" });
    let request = reqwest::Client::new().post(format!("{}/api/v1/session", run.world.nodes[0].address));
    let answer = request.json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let cookie = answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let mut options = run.options(1, 1);
    options.credential = format!("Cookie: {cookie}");
    let session = run.listen_as(options).await;
    (run, session, cookie)
}

async fn sign_out(run: &Run, listener: usize, cookie: &str) {
    let asked = run.now();
    let request = reqwest::Client::new().delete(format!("{}/api/v1/session", run.world.nodes[0].address));
    let answer =
        request.header("cookie", cookie).header("sec-fetch-site", "same-origin").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    run.ledger.ending(Ending { asked, answered: Some(run.now()), of: Ended::Revoked { listener } });
}

/// A listener on node 2 with a token of its own: its number, and the token's.
async fn with_token(run: &mut Run) -> (usize, i64) {
    let store = run.world.people.store();
    let user = store.user_by_name("bob").await.unwrap().unwrap().0.id;
    let secret = run.world.people.token("bob", &[Scope::Listen], None).await;
    let token = store.tokens(Some(user), 100).await.unwrap().iter().map(|token| token.id).max().unwrap();
    let mut options = run.options(2, 1);
    options.credential = format!("Authorization: Bearer {secret}");
    (run.listen_as(options).await, token)
}

async fn revoke(run: &Run, (listener, token): (usize, i64)) {
    let asked = run.now();
    assert!(run.world.people.store().revoke_token(token, None).await.unwrap().is_some());
    run.ledger.ending(Ending { asked, answered: Some(run.now()), of: Ended::Revoked { listener } });
}
