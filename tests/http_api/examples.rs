//! The examples' pages and the upload behind one of them.

use futures_util::stream::iter;
use reqwest::Body;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::{Sender, channel};

use crate::setup::{Setup, Stream, send};
use crate::support::node::Node;
use crate::support::{DEADLINE, wait_until};

const PAGES: [&str; 5] =
    ["/examples", "/examples/chat", "/examples/upload", "/examples/log", "/examples/stream"];

/// A file whose bytes are given one by one.
fn slow_file() -> (Sender<Vec<u8>>, Body) {
    let (pieces, receiver) = channel::<Vec<u8>>(1);
    let all = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (Ok::<_, std::io::Error>(piece), receiver))
    });
    (pieces, Body::wrap_stream(all))
}

/// Who watches an upload.
struct Watcher {
    stream: Stream,
    received: usize,
}

impl Watcher {
    async fn of(setup: &Setup, id: &str) -> Self {
        let (alice, _) = setup.people.store().user_by_name("alice").await.unwrap().unwrap();
        let topic = format!("topic=uploads/{}/{id}", alice.public_id);
        let stream = setup.stream(&setup.alice, &topic).await;
        Self { stream, received: 0 }
    }

    /// The next event: its type and data.
    async fn next(&mut self) -> (String, Value) {
        self.received += 1;
        self.stream.until_count(self.received).await;
        let event =
            self.stream.events.iter().filter(|e| e.event == "message").nth(self.received - 1).unwrap();
        let event: Value = serde_json::from_str(&event.data).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["data"].clone())
    }

    /// The last event: its type and data.
    async fn end(&mut self) -> (String, Value) {
        loop {
            let next = self.next().await;
            if next.0 != "upload.progress" {
                return next;
            }
        }
    }
}

pub async fn examples_show_their_source_and_nothing_of_others(setup: Setup) {
    let cookie = setup.sign_in("alice").await;
    for path in PAGES {
        send(setup.get(path)).await.expect(303);
        let page = send(setup.get(path).header("cookie", &cookie)).await.expect(200);
        assert!(!page.body.contains("<script>") && !page.body.contains(" style="), "{}", page.body);
        assert_eq!(
            page.body.contains("import { connect }"),
            !["/examples", "/examples/stream"].contains(&path)
        );
    }
    for (path, parameter) in [("chat", "room"), ("upload", "id"), ("log", "name")] {
        for wrong in ["a/b", "..", "a%00b", &"x".repeat(65)] {
            let address = format!("/examples/{path}?{parameter}={wrong}");
            send(setup.get(&address).header("cookie", &cookie)).await.expect(400);
        }
    }
    let hostile = "/examples/stream?topic=%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
    let page = send(setup.get(hostile).header("cookie", &cookie)).await.expect(200);
    assert!(page.body.contains("alert(1)") && !page.body.contains("<script>"), "{}", page.body);
}

pub async fn an_upload_is_reported_to_its_end(setup: Setup) {
    let mut watcher = Watcher::of(&setup, "one").await;
    let file: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let request = setup.put("/examples/upload/one?name=a%20%3Cfile%3E").bearer_auth(&setup.alice);
    let answer = send(request.body(file.clone())).await.expect(200).json();
    let sha256: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(answer, json!({ "size": file.len(), "sha256": sha256 }));
    let (kind, data) = watcher.next().await;
    let total = file.len();
    assert_eq!(
        (kind.as_str(), data),
        ("upload.progress", json!({ "name": "a <file>", "received": 0, "total": total }))
    );
    let (kind, data) = watcher.end().await;
    assert_eq!(kind, "upload.completed");
    assert_eq!(data, json!({ "name": "a <file>", "size": total, "sha256": sha256 }));

    // One that is cut off, though its sender never hears of it.
    let mut watcher = Watcher::of(&setup, "two").await;
    let (pieces, body) = slow_file();
    let request = setup.put("/examples/upload/two").bearer_auth(&setup.alice).body(body);
    let sending = tokio::spawn(request.send());
    pieces.send(vec![7; 1000]).await.unwrap();
    assert_eq!(watcher.next().await.1["received"], 0);
    // Not two of the same name at once.
    let again = setup.put("/examples/upload/two").bearer_auth(&setup.alice).body("x");
    send(again).await.expect_problem(409, "");
    sending.abort();
    let (kind, data) = watcher.end().await;
    assert_eq!(kind, "upload.failed");
    assert_eq!(data, json!({ "name": "file", "received": 1000, "reason": "the sender went away" }));

    // One whose sender falls silent.
    let mut watcher = Watcher::of(&setup, "three").await;
    let (_pieces, body) = slow_file();
    let sending =
        tokio::spawn(setup.put("/examples/upload/three").bearer_auth(&setup.alice).body(body).send());
    assert_eq!(watcher.next().await.0, "upload.progress");
    assert_eq!(watcher.next().await.0, "upload.timed_out");
    assert_eq!(sending.await.unwrap().unwrap().status(), 408);
}

pub async fn uploads_are_bounded(setup: Setup) {
    send(setup.put("/examples/upload/a").body("x")).await.expect_problem(401, "");
    let put = |path: &str| setup.put(path).bearer_auth(&setup.alice);
    for wrong in ["a%00b", "a%2Fb", "a%FF", &"x".repeat(65)] {
        send(put(&format!("/examples/upload/{wrong}")).body("x")).await.expect_problem(400, "id");
    }
    let long = format!("/examples/upload/a?name={}", "x".repeat(256));
    send(put(&long).body("x")).await.expect_problem(400, "name");

    // Larger than is allowed: said first, and found while it comes.
    let pieces = iter((0..65).map(|_| Ok::<_, std::io::Error>(vec![0_u8; 1 << 20])));
    let bodies = [("said", Body::from(vec![0_u8; 65 << 20])), ("found", Body::wrap_stream(pieces))];
    for (id, body) in bodies {
        let mut watcher = Watcher::of(&setup, id).await;
        send(put(&format!("/examples/upload/{id}")).body(body)).await.expect_problem(413, "");
        let (kind, data) = watcher.end().await;
        assert_eq!(kind, "upload.failed");
        assert_eq!(data["reason"], "the file is larger than 67108864 bytes");
        // What is said first is not even begun.
        assert_eq!(watcher.received == 1, id == "said");
    }

    // Eight at once, and then one more when one of them is over.
    let mut senders = Vec::new();
    for number in 0..8 {
        let (pieces, body) = slow_file();
        let mut watcher = Watcher::of(&setup, &format!("n{number}")).await;
        let sending = tokio::spawn(put(&format!("/examples/upload/n{number}")).body(body).send());
        watcher.next().await;
        senders.push((pieces, sending));
    }
    let refused = send(put("/examples/upload/ninth").body("x")).await.expect_problem(503, "");
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");
    let (pieces, sending) = senders.pop().unwrap();
    drop(pieces);
    assert_eq!(sending.await.unwrap().unwrap().status(), 200);
    wait_until(DEADLINE, "there is room again", async || {
        let answer = put("/examples/upload/ninth").body("x").send().await.unwrap();
        answer.status() == 200
    })
    .await;
}

pub async fn a_node_may_have_no_examples(setup: Setup) {
    let folder = tempfile::TempDir::new().unwrap();
    let store = format!("sqlite:{}/store.sqlite", folder.path().display());
    let node = Node::start(&store, "memory:", &["--no-examples"]).await;
    let client = reqwest::Client::new();
    for path in PAGES {
        assert_eq!(client.get(format!("{}{path}", node.address)).send().await.unwrap().status(), 404);
    }
    let upload = client.put(format!("{}/examples/upload/a", node.address)).body("x").send().await.unwrap();
    assert_eq!(upload.status(), 404);
    let with = send(setup.get("/").header("cookie", setup.sign_in("alice").await)).await.expect(200);
    assert!(with.body.contains("\"/examples\""), "{}", with.body);
}
