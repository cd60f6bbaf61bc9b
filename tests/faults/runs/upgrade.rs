//! A cluster that is upgraded, rolled back and upgraded again under load, node by node, with the database migrated once.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::run::{Plan, Run};
use crate::support::node::run as command;

/// The first version that runs on a newer schema: the one that brought this file.
const FIRST: &str = "migrations/postgres/0005_compatibility.sql";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "builds the program of before: scripts/test --all"]
async fn rolled_forward_and_back() {
    let (_folder, before) = build_before();
    let after = PathBuf::from(env!("CARGO_BIN_EXE_carillon"));
    let mut plan = Plan::new("upgrade", "nothing lost or repeated, forward, back and forward");
    plan.program = Some(before.clone());
    let mut run = Run::start(plan).await;
    let store_url = run.world.store_url.clone();

    let begun = run.now();
    println!("{}", command(&after, &store_url, &["migrate"]));
    run.calm(1.0).await;
    run.fault("migrated", begun);
    for (program, what) in [(&after, "upgraded"), (&before, "rolled back"), (&after, "upgraded again")] {
        for node in 0..3 {
            let begun = run.now();
            assert!(run.terminate(node).await, "node {node} ended with an error");
            run.world.nodes[node].program.clone_from(program);
            run.restart(node).await;
            run.fault(&format!("node {node} {what}"), begun);
            run.calm(1.0).await;
        }
    }
    let begun = run.now();
    println!("{}", command(&after, &store_url, &["migrate", "--finish"]));
    run.calm(2.0).await;
    run.fault("finished", begun);
    refuses(&before, &store_url);
    run.finish().await.assert_clean();
}

/// After the end of a migration the program of before does not start.
#[track_caller]
fn refuses(program: &Path, store_url: &str) {
    let started = Command::new("timeout")
        .arg("30")
        .arg(program)
        .args(["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"])
        .env("CARILLON_STORE_URL", store_url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&started.stderr);
    assert!(started.status.code() == Some(2) && said.contains("newer"), "{:?}: {said}", started.status);
}

/// Builds the program of before from this repository's history.
fn build_before() -> (TempDir, PathBuf) {
    let root = env!("CARGO_MANIFEST_DIR");
    let git = |arguments: &[&str]| {
        let ran = Command::new("git").arg("-C").arg(root).args(arguments).output().expect("git is installed");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "git {arguments:?}: {said}");
        ran.stdout
    };
    let added = git(&["log", "--diff-filter=A", "--format=%H", "--", FIRST]);
    let added = String::from_utf8(added).unwrap();
    let commit = added.lines().last().expect("the history is there: this needs a clone that is not shallow");
    let folder = TempDir::new().unwrap();
    let archive = folder.path().join("before.tar");
    git(&["archive", "--output", archive.to_str().unwrap(), commit]);
    let unpacked = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(folder.path()).status();
    assert!(unpacked.expect("tar is installed").success());
    // A folder of its own, kept between runs: that of this program would get the other's binary.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("before");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--manifest-path"])
        .arg(folder.path().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .stdout(Stdio::null())
        .status();
    assert!(built.unwrap().success(), "the program of before does not build");
    (folder, target.join("debug/carillon"))
}
