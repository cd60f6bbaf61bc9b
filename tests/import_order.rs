//! A file imports only from what stands above it in the layout: data flows one way.

use std::fs;
use std::path::{Path, PathBuf};

/// The layout in reading order; each may use itself and what stands before it.
const ORDER: [&str; 15] = [
    "failpoint",
    "event",
    "sse_parser",
    "redis_server",
    "store",
    "bus",
    "ttl",
    "hub",
    "publish",
    "accounts",
    "topic_rules",
    "node",
    "config",
    "http",
    "cli",
];

#[test]
fn no_arrow_runs_backwards() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&source, &mut files);
    let (mut arrows, mut wrong) = (0, Vec::new());
    for file in files {
        let inner = file.strip_prefix(&source).unwrap();
        let module = inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(place) = ORDER.iter().position(|name| *name == module) else {
            assert!(["lib", "main"].contains(&module), "{module} has no place in the layout");
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + "crate::".len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let target = ORDER.iter().position(|known| *known == name);
            let target = target.unwrap_or_else(|| panic!("{}: crate::{name} has no place", inner.display()));
            arrows += 1;
            if target > place {
                wrong.push(format!("{}: crate::{name}", inner.display()));
            }
        }
    }
    assert!(arrows > 50, "the test reads nothing");
    assert!(wrong.is_empty(), "{wrong:#?}");
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
