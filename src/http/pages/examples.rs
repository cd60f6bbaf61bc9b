//! The examples: pages that show what can be done with the API, each with its own source beside it.

use axum::extract::State;
use axum::response::Response;
use minijinja::{Value, context};

use super::super::examples::{MAX_BYTES, check_segment, uploads_of};
use super::super::params::Params;
use super::super::problem::Problem;
use super::{Pages, Visitor, files};
use crate::identity::Identity;

/// Where the navigation says a visitor is.
const HERE: &str = "/examples";

/// `GET /examples`
pub async fn index(Visitor(identity): Visitor, State(pages): State<Pages>) -> Response {
    pages.page("examples.html", HERE, &identity, Value::UNDEFINED)
}

/// `GET /examples/chat`: the room `?room=`.
pub async fn chat(Visitor(identity): Visitor, State(pages): State<Pages>, params: Params) -> Response {
    match topic(&params, "room", "lobby", "chat") {
        Ok((room, topic)) => show(&pages, &identity, "chat", context! { room, topic }),
        Err(problem) => pages.error(&problem),
    }
}

/// `GET /examples/upload`: a new one, or that of `?id=`.
pub async fn upload(Visitor(identity): Visitor, State(pages): State<Pages>, params: Params) -> Response {
    let prefix = uploads_of(&identity.user);
    match topic(&params, "id", "", &prefix) {
        Ok((id, _)) => show(&pages, &identity, "upload", context! { id, prefix, max_bytes => MAX_BYTES }),
        Err(problem) => pages.error(&problem),
    }
}

/// `GET /examples/log`: the log `?name=`.
pub async fn log(Visitor(identity): Visitor, State(pages): State<Pages>, params: Params) -> Response {
    match topic(&params, "name", "app", "logs") {
        Ok((name, topic)) => show(&pages, &identity, "log", context! { name, topic }),
        Err(problem) => pages.error(&problem),
    }
}

/// `GET /examples/stream`: with the parameters of the stream.
pub async fn stream(Visitor(identity): Visitor, State(pages): State<Pages>, params: Params) -> Response {
    let names = ["topic", "history", "last", "cursor", "alive", "presence", "min_priority"];
    let given = names.map(|name| (name, params.one(name).ok().flatten().unwrap_or_default()));
    show(&pages, &identity, "stream", context! { given => Value::from_pairs(given) })
}

/// The parameter `name`, and the topic that is called so below `prefix`. Without a default it may be absent.
fn topic(params: &Params, name: &str, default: &str, prefix: &str) -> Result<(String, String), Problem> {
    let segment = params.one(name)?.unwrap_or(default);
    if !segment.is_empty() {
        check_segment(name, segment)?;
    }
    Ok((segment.to_owned(), format!("{prefix}/{segment}")))
}

fn show(pages: &Pages, identity: &Identity, example: &str, values: Value) -> Response {
    let file = format!("example-{example}.js");
    let source = files::text(&file);
    pages.page(&format!("example-{example}.html"), HERE, identity, context! { file, source, ..values })
}
