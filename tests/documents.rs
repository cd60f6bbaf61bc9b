//! The documents name everything there is to set, to ask and to watch, and only what exists; links lead somewhere; what
//! they give to paste works.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The most bytes of documents that are to be read in one go.
const SIZES: [(&str, usize); 2] = [("README.md", 12_000), ("ARCHITECTURE.md", 14_000)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
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

fn documents() -> Vec<String> {
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"];
    top.map(str::to_owned).into_iter().chain(files("docs", ".md")).collect()
}

/// The part of a document below a heading of the second level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let found = text.split("\n## ").find(|part| part.starts_with(heading));
    found.unwrap_or_else(|| panic!("there is no section {heading}"))
}

/// A document without its blocks of code.
fn prose(text: &str) -> String {
    let parts = text.split("\n```").enumerate();
    parts.filter(|(index, _)| index % 2 == 0).map(|(_, part)| part).collect::<Vec<_>>().join("\n")
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The blocks of code in this language, in order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("\n```{language}\n");
    let found = text.split(&begin).skip(1).map(|rest| rest.split("\n```").next().unwrap());
    found.collect()
}

// What there is, and what is named.

/// All that stands in the source between `before` and the next quotation mark.
fn quoted_after(source: &str, before: &str) -> BTreeSet<String> {
    let rests = source.split(before).skip(1);
    rests.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

/// The code, without line breaks inside macro calls.
fn source() -> String {
    let all: Vec<String> = files("src", ".rs").iter().map(|path| read(path)).collect();
    let all = all.join("\n").replace("!(\n", "!(");
    all.split("!(").map(str::trim_start).collect::<Vec<_>>().join("!(")
}

fn metrics() -> BTreeSet<String> {
    let source = source();
    let kinds = ["counter!(\"", "gauge!(\"", "histogram!(\""];
    kinds.into_iter().flat_map(|kind| quoted_after(&source, kind)).collect()
}

fn assert_named(document: &str, names: BTreeSet<String>, least: usize) {
    let text = read(document);
    assert!(names.len() >= least, "only {} found: this test reads nothing", names.len());
    let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "{document} does not name {missing:#?}");
}

#[test]
fn every_variable_is_in_operations() {
    assert_named("docs/operations.md", quoted_after(&source(), "env = \""), 20);
}

/// `deploy/carillon.toml` is tested against the program.
#[test]
fn every_default_is_in_operations() {
    let (file, text) = (read("deploy/carillon.toml"), read("docs/operations.md"));
    let settings =
        file.split("[[topic_rules]]").next().unwrap().lines().filter(|line| !line.starts_with('#'));
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (key, value) in settings.filter_map(|line| line.split_once(" = ")) {
        checked += 1;
        let row = format!("| `CARILLON_{}` | `{}` |", key.to_uppercase(), value.trim_matches('"'));
        if !text.contains(&row) {
            wrong.push(row);
        }
    }
    assert!(checked > 15, "only {checked} settings");
    assert!(wrong.is_empty(), "docs/operations.md has no {wrong:#?}");
}

#[test]
fn every_event_of_the_servers_own_is_in_the_api() {
    assert_named(
        "docs/api.md",
        quoted_after(&read("src/delivery/frame/server_event.rs"), "Self::new(\""),
        10,
    );
}

#[test]
fn every_field_of_a_nodes_status_is_in_the_api() {
    let source = read("src/cluster/status.rs");
    let fields = source.split("pub struct NodeStatus {").nth(1).unwrap().split("\n}").next().unwrap();
    let names = fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
    assert_named("docs/api.md", names.map(|(name, _)| name.to_owned()).collect(), 15);
}

#[test]
fn every_metric_is_in_operations() {
    assert_named("docs/operations.md", metrics(), 20);
}

/// Without bounds of its own a histogram is served as a summary, which cannot be added up over nodes.
#[test]
fn every_histogram_has_buckets() {
    let histograms = quoted_after(&source(), "histogram!(\"");
    let serve = read("src/cli/serve.rs");
    let table = serve.split("const HISTOGRAMS").nth(1).unwrap().split(';').nth(1).unwrap().to_owned();
    let missing: Vec<_> = histograms.iter().filter(|name| !table.contains(&format!("\"{name}\""))).collect();
    assert!(!histograms.is_empty() && missing.is_empty(), "no buckets for {missing:#?}");
}

#[test]
fn every_route_is_in_the_api() {
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
    assert_named("docs/api.md", routes, 20);
}

/// A variable or metric that was renamed must not go on living in the documents.
#[test]
fn every_variable_and_metric_that_is_named_exists() {
    let metrics = metrics();
    let mut used = source();
    for folder in ["tests", "scripts", "examples", "deploy", "k8s"] {
        files(folder, "").iter().for_each(|path| used.push_str(&read(path)));
    }
    let mut wrong = Vec::new();
    for document in documents().into_iter().filter(|path| path != "CHANGELOG.md") {
        let text = read(&document);
        for name in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            let is_metric = name.starts_with("carillon_") && name.ends_with("_total");
            let is_variable = name.starts_with("CARILLON_");
            if (is_metric && !metrics.contains(name)) || (is_variable && !used.contains(name)) {
                wrong.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "there is no {wrong:#?}");
}

#[test]
fn every_path_that_is_named_exists() {
    let folders =
        ["src/", "tests/", "docs/", "migrations/", "static/", "templates/", "deploy/", "k8s/", "scripts/"];
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents().into_iter().filter(|path| path != "CHANGELOG.md") {
        let text = read(&document);
        let paths = quoted(&text).filter(|name| folders.iter().any(|folder| name.starts_with(folder)));
        // The way of an event is a drawing.
        let drawn = text.split_whitespace().filter(|word| word.starts_with("src/") && word.ends_with(".rs"));
        for name in paths.map(|name| name.split(' ').next().unwrap()).chain(drawn) {
            if name.contains('*') {
                continue;
            }
            checked += 1;
            if !root().join(name).exists() {
                wrong.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(checked > 80, "only {checked} paths are named");
    assert!(wrong.is_empty(), "there is no {wrong:#?}");
}

// ARCHITECTURE.md.

#[test]
fn documents_that_are_read_in_one_go_are_short() {
    for (document, most) in SIZES {
        let size = read(document).len();
        assert!(size <= most, "{document} has {size} bytes, more than {most}");
    }
}

/// Each room has a row, in the order in which rooms may import each other, and what the row names is in that room.
#[test]
fn every_room_is_described() {
    let text = read("ARCHITECTURE.md");
    let rows: Vec<&str> =
        section(&text, "Rooms").lines().filter(|line| line.starts_with("| `src/")).collect();
    let rooms: Vec<&str> = rows.iter().map(|row| room_of(quoted(row).next().unwrap())).collect();
    let mut there: BTreeSet<String> = BTreeSet::new();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        there.insert(name.trim_end_matches(".rs").to_owned());
    }
    let missing: Vec<_> = there
        .iter()
        .filter(|name| !["main", "lib"].contains(&&***name) && !rooms.contains(&&***name))
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md has no row for {missing:?}");
    let order = read("tests/import_order.rs");
    let order = order.split("const ORDER").nth(1).unwrap().split(';').nth(1).unwrap();
    let place =
        |room: &&str| order.find(&format!("\"{room}\"")).unwrap_or_else(|| panic!("{room} has no place"));
    let places: Vec<usize> =
        rooms.iter().filter(|room| !["sse_parser", "failpoint"].contains(room)).map(place).collect();
    assert!(places.is_sorted(), "the rows do not stand in the order of tests/import_order.rs");
    for (row, room) in rows.iter().zip(&rooms) {
        let inside = files("src", "").into_iter().filter(|path| path.starts_with(&format!("src/{room}/")));
        let inside: Vec<String> = inside.collect();
        for name in quoted(row).skip(1).filter(|name| name.ends_with(".rs") || name.ends_with('/')) {
            let is_there =
                name.starts_with("src/") || inside.iter().any(|path| path.contains(&format!("/{name}")));
            assert!(is_there, "ARCHITECTURE.md: there is no {name} in src/{room}");
        }
    }
}

fn room_of(path: &str) -> &str {
    path.trim_start_matches("src/").trim_end_matches('/').trim_end_matches(".rs")
}

#[test]
fn every_test_that_guards_an_invariant_exists() {
    let text = read("ARCHITECTURE.md");
    let rows = section(&text, "Invariants").lines().filter(|line| line.starts_with("| I"));
    let rows = rows.collect::<Vec<_>>().join("\n");
    let (mut place, mut checked) = (String::new(), 0);
    for name in quoted(&rows) {
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

// Links.

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let (mut checked, mut wrong) = (0, Vec::new());
    for document in documents() {
        let text = prose(&read(&document));
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            checked += 1;
            let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&document).parent().unwrap();
            let path = if path.is_empty() { PathBuf::from(&document) } else { folder.join(path) };
            if !root().join(&path).exists() {
                wrong.push(format!("{document}: {target}: there is no such file"));
            } else if !fragment.is_empty() {
                let there = prose(&fs::read_to_string(root().join(&path)).unwrap());
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                if !headings.any(|line| anchor(line.trim_start_matches('#')) == fragment) {
                    wrong.push(format!("{document}: {target}: there is no such heading"));
                }
            }
        }
    }
    assert!(checked > 60, "only {checked} links");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

// What can be pasted.

/// Runs a script as one shell, in an empty folder, with this program as `carillon` on a port that takes the place of
/// 8080. Every job it leaves is ended. A command that fails is reported on standard error.
fn run(name: &str, script: &str, port: u16) -> Output {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_carillon")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let before = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n\
        trap 'echo \"FAILED ($?): $BASH_COMMAND\" >&2' ERR\n\
        cargo() { :; }\n";
    let script = format!("{before}{}", script.replace(":8080", &format!(":{port}")));
    fs::write(folder.join("script"), script).unwrap();
    // A bound, should it hang; the script itself takes seconds.
    let output = Command::new("timeout")
        .args(["120", "bash", "script"])
        .current_dir(&folder)
        .env("PATH", path)
        .env("CARILLON_LISTEN", format!("127.0.0.1:{port}"))
        .env("CARILLON_SERVER", format!("http://127.0.0.1:{port}"))
        .env("CARILLON_METRICS_LISTEN", "off")
        .output()
        .unwrap();
    let _ = fs::remove_dir_all(&folder);
    output
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn assert_in_order(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for part in wanted {
        let (_, after) =
            rest.split_once(part).unwrap_or_else(|| panic!("no {part} (in this order) in:\n{text}"));
        rest = after;
    }
}

/// The README's blocks, pasted one after the other, and then those of the guide.
#[test]
fn the_session_works_as_it_stands() {
    let (readme, guide) = (read("README.md"), read("docs/guide.md"));
    let script: Vec<&str> = blocks(&readme, "sh").into_iter().chain(blocks(&guide, "sh")).collect();
    assert!(script.len() >= 8, "the session has only {} blocks", script.len());
    let output = run("documents-session", &script.join("\n"), free_port());
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed = errors.lines().filter(|line| line.starts_with("FAILED"));
    // It ends a stream that would not end by itself.
    let failed: Vec<&str> = failed.filter(|line| !line.contains("curl -sN -m 2")).collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}\n{said}\n{errors}");
    assert_in_order(
        &said,
        &[
            // The same key twice; the listener receives the event once.
            "\"position\":1}",
            "\"position\":1}",
            "event: carillon.connected",
            "retry: ",
            "id: ",
            "\"type\":\"order.paid\"",
            // What was missed.
            "{\"events\":[{\"id\":",
            "\"type\":\"order.sent\"",
            "\"type\":\"notification\"",
            &format!("{}\n", blocks(&readme, "text").last().unwrap()),
            // The guide: publish, tail, JSON, history, and an event taken back.
            "order.paid",
            "Lunch is ready",
            "first line",
            "second line",
            "\"type\":\"log\"",
            "\"type\":\"log\"",
            "first line",
            "second line",
            "204",
        ],
    );
}

/// The site of docs/browser.md: its lines of nginx in front of a node, its page, somebody who signs in there.
#[test]
fn the_page_works_on_one_site() {
    let text = read("docs/browser.md");
    let block = |language: &str| *blocks(&text, language).first().expect("a block");
    let (port, site) = (free_port(), free_port());
    let server = block("nginx").replace(":8000", &format!(":{site}")).replace("/srv/site", "site");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path tmp-{kind}; "))
        .concat();
    let script = format!(
        r#"
mkdir site
cat > site/index.html <<'EOF'
{html}
EOF
cat > site/app.js <<'EOF'
{js}
EOF
cat > nginx.conf <<'EOF'
daemon off; pid nginx.pid; error_log stderr; events {{}}
http {{ access_log off; {temporary} types {{ text/html html; text/javascript js; }}
{server}
}}
EOF
nginx=$(command -v nginx || echo /usr/sbin/nginx)
$nginx -e stderr -p "$PWD" -c nginx.conf &
carillon serve > node.log &
until curl -fs -o /dev/null http://127.0.0.1:8080/readyz; do sleep 0.1; done
site=http://127.0.0.1:{site}
until curl -fs $site/ | grep -q /app.js; do sleep 0.1; done
curl -fs $site/app.js | grep -c "from '/static/carillon.js'"
for file in carillon.js $(curl -fs $site/static/carillon.js | sed -n "s/.* from '.\/\(.*\)';/\1/p"); do
  curl -fs -o /dev/null -w '%{{http_code}} %{{content_type}}\n' $site/static/$file
done
curl -s -o /dev/null -w 'nobody %{{http_code}}\n' $site/api/v1/account
password=$(sed -n 's/^ *alice *//p' node.log)
sign_in() {{ curl -s -o /dev/null -w '%{{http_code}}\n' -c cookies -H "Origin: $1" $site/api/v1/session \
  -d "{{\"name\": \"alice\", \"password\": \"$password\"}}"; }}
sign_in http://elsewhere.example
sign_in $site
curl -s -b cookies $site/api/v1/account; echo
curl -sN -m 2 -b cookies $site/api/v1/stream
"#,
        html = block("html"),
        js = blocks(&text, "js").first().expect("a script"),
    );
    let output = run("documents-site", &script, port);
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let failed: Vec<&str> =
        errors.lines().filter(|line| line.starts_with("FAILED") && !line.contains("-m 2")).collect();
    assert!(failed.is_empty(), "{failed:#?}\n{said}\n{errors}");
    assert_in_order(
        &said,
        &[
            "1\n",
            "200 text/javascript",
            "200 text/javascript",
            "nobody 401",
            "403",
            "204",
            "\"name\":\"alice\"",
            "retry: ",
        ],
    );
}
