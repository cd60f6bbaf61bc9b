//! A file imports only from the rooms above its own, no two files of a room import each other in a circle, and the
//! rooms of the table may not reach what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms in reading order; each may use itself and what stands before it.
const ORDER: [&str; 18] = [
    "failpoint",
    "event",
    "account",
    "sse_parser",
    "redis",
    "store",
    "bus",
    "ttl",
    "identity",
    "publishing",
    "reading",
    "delivery",
    "cluster",
    "http",
    "node",
    "config",
    "cli",
    "lib",
];

/// Beginnings of paths, and what code there may not name.
const MAY_NOT_REACH: [(&str, &[&str]); 10] = [
    // The next dialect and the next test drive it without sockets.
    (
        "delivery/",
        &["crate::http", "store::postgres", "store::sqlite", "bus::redis", "bus::memory", "axum", "hyper"],
    ),
    // Time and input are passed in: every order of events can be tested.
    ("delivery/sequencer", &["tokio", "Instant", "SystemTime"]),
    ("delivery/reorder_buffer", &["tokio", "Instant", "SystemTime"]),
    ("delivery/frame/", &["tokio", "Instant", "SystemTime"]),
    ("delivery/session/", &["tokio", "Instant", "SystemTime", "mio", "std::io"]),
    ("event/", &["tokio", "Instant", "SystemTime"]),
    // "Write, then notify" stands once, in the domain.
    ("http/", &["bus::message", "bus::Bus", "crate::bus::{"]),
    // What ended is said on the bus; streams end by that, on this node as on others.
    ("identity/", &["crate::delivery"]),
    ("account/", &["tokio", "sqlx"]),
    // Each handler and each task takes its part.
    ("", &["crate::node"]),
];

/// Where a rule of [`MAY_NOT_REACH`] does not hold.
const EXCEPT: [(&str, &str); 4] = [
    ("cli/serve.rs", "crate::node"),
    ("config.rs", "crate::node"),
    // Its handler tasks are of this crate; what it serves is not.
    ("node.rs", "crate::node"),
    ("node/tests.rs", "crate::node"),
];

/// Every file of the source with its text, without comments and tests.
fn sources() -> BTreeMap<String, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    let read = |file: PathBuf| {
        let name = file.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        (name, lines.collect::<Vec<_>>().join("\n"))
    };
    files.into_iter().map(read).collect()
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs")
}

#[test]
fn no_arrow_runs_backwards() {
    let (mut arrows, mut wrong) = (0, Vec::new());
    for (name, text) in sources() {
        let room = name.split('/').next().unwrap().trim_end_matches(".rs");
        let Some(place) = ORDER.iter().position(|known| *known == room) else {
            assert!(room == "main", "{room} has no place in the order");
            continue;
        };
        for target in names_after(&text, "crate::") {
            let at = ORDER.iter().position(|known| *known == target);
            let at = at.unwrap_or_else(|| panic!("{name}: crate::{target} has no place"));
            arrows += 1;
            // A test may use what it puts together.
            if at > place && !is_test(&name) {
                wrong.push(format!("{name}: crate::{target}"));
            }
        }
    }
    assert!(arrows > 50, "the test reads nothing");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Inside a room, too, data flows one way: apart from a file and those in its own folder, which are one piece.
#[test]
fn no_two_files_of_a_room_import_each_other() {
    let sources = sources();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, text) in sources.iter().filter(|(name, _)| !is_test(name)) {
        let room = name.split('/').next().unwrap();
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        // `super` is the folder's own module, or for a `mod.rs` the one above.
        let base =
            if name.ends_with("mod.rs") { folder.rsplit_once('/').map_or("", |(up, _)| up) } else { folder };
        let mut found: Vec<String> = Vec::new();
        for target in names_after(text, "super::") {
            found.push(format!("{base}/{target}"));
        }
        for target in names_after(text, "super::super::") {
            let up = base.rsplit_once('/').map_or("", |(up, _)| up);
            found.push(format!("{up}/{target}"));
        }
        for target in names_after(text, &format!("crate::{}::", room.trim_end_matches(".rs"))) {
            found.push(format!("{room}/{target}"));
        }
        for path in found {
            let file = [format!("{path}.rs"), format!("{path}/mod.rs")];
            if let Some((target, _)) = file.iter().find_map(|file| sources.get_key_value(file))
                && target != name
            {
                edges.entry(name).or_default().insert(target);
            }
        }
    }
    let arrows: usize = edges.values().map(BTreeSet::len).sum();
    assert!(arrows > 40, "the test reads nothing: {arrows} arrows");
    let circles: Vec<_> = edges
        .iter()
        .flat_map(|(from, to)| to.iter().map(move |to| (from, to)))
        .filter(|(from, to)| reaches(&edges, to, from))
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

fn reaches<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str, to: &str) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(at) = next.pop() {
        if at == to {
            return true;
        }
        if seen.insert(at) {
            next.extend(edges.get(at).into_iter().flatten());
        }
    }
    false
}

#[test]
fn rooms_reach_only_what_they_may() {
    let mut wrong = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        for (room, forbidden) in MAY_NOT_REACH.iter().filter(|(room, _)| name.starts_with(room)) {
            for word in forbidden.iter().filter(|word| text.contains(**word)) {
                if !EXCEPT.iter().any(|(file, what)| file == name && what == word) {
                    wrong.push(format!("{name}: {word} ({room} may not)"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The first name of each path that begins with `before`, also of those in braces.
fn names_after(text: &str, before: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (at, _) in text.match_indices(before) {
        let rest = &text[at + before.len()..];
        match rest.strip_prefix('{').and_then(|rest| rest.split_once("};")) {
            Some((inside, _)) => names.extend(inside.split(',').map(|part| name(part.trim()))),
            None => names.push(name(rest)),
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}
