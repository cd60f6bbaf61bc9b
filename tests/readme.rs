//! The README names everything there is to set, to ask and to watch, and the documents name what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every file under `folder`, by its path from the top of the repository.
fn files(folder: &str, end: &str) -> Vec<String> {
    let (mut folders, mut found) = (vec![PathBuf::from(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(end) {
                found.push(path.to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// All that stands in the source between `before` and the next quotation mark.
fn quoted_after(source: &str, before: &str) -> BTreeSet<String> {
    let rests = source.split(before).skip(1);
    rests.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

/// The code, without line breaks inside macro calls.
fn source() -> String {
    let all: Vec<String> = files("src", ".rs").iter().map(|path| read(path)).collect();
    all.join("\n").replace("!(\n", "!(").replace("( ", "(")
}

fn assert_named(document: &str, names: impl IntoIterator<Item = String>, least: usize) {
    let text = read(document);
    let names: Vec<String> = names.into_iter().collect();
    assert!(names.len() >= least, "only {} found: this test reads nothing", names.len());
    let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{document} does not name {missing:#?}");
}

#[test]
fn every_variable_is_in_the_readme() {
    assert_named("README.md", quoted_after(&source(), "env = \""), 20);
}

#[test]
fn every_figure_is_in_the_readme() {
    let source = source();
    let kinds = ["counter!(\"", "gauge!(\"", "histogram!(\""];
    assert_named("README.md", kinds.into_iter().flat_map(|kind| quoted_after(&source, kind)), 20);
}

#[test]
fn every_route_is_in_the_readme() {
    let mut routes = BTreeSet::new();
    for path in ["src/http/mod.rs", "src/http/health.rs"] {
        let text = read(path).replace(char::is_whitespace, "");
        for rest in text.split(".route(\"").skip(1) {
            let (address, handlers) = rest.split_once("\",").unwrap();
            let handlers = handlers.split(".layer(").next().unwrap().split(".route(").next().unwrap();
            for method in ["get", "post", "put", "delete"] {
                if handlers.contains(&format!("{method}(")) {
                    routes.insert(format!("{} {address}", method.to_uppercase()));
                }
            }
        }
    }
    assert_named("README.md", routes, 20);
}

#[test]
fn every_file_is_in_the_reading_order_once() {
    let text = read("ARCHITECTURE.md");
    let order = text.split("\n## ").find(|part| part.starts_with("Reading order")).expect("a reading order");
    for path in files("src", ".rs") {
        let times = order.matches(&format!("`{path}`")).count();
        assert_eq!(times, 1, "{path} stands {times} times in the reading order");
    }
}

#[test]
fn every_test_that_guards_an_invariant_exists() {
    let text = read("ARCHITECTURE.md");
    let guards = text.split("\n## ").find(|part| part.starts_with("Invariants")).expect("invariants");
    let named: Vec<&str> = guards.split('`').skip(1).step_by(2).collect();
    let (mut place, mut checked) = (String::new(), 0);
    for name in named {
        if name.ends_with(".rs") {
            place = read(name);
        } else {
            assert!(
                place.contains(&format!("fn {name}(")),
                "there is no test {name} in the file named before it"
            );
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} tests are named");
}
