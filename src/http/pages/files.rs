//! The pages' scripts and styles, embedded in the program, and the texts that scripts show as one more script.
//!
//! Pages name them under a folder that is called after the content of all of them, so a browser may keep them for
//! ever, and a module's relative imports stay within what belongs together. Without that folder, as
//! `/static/carillon.js`, they have an address for others' pages, which a browser asks about again each time.

use std::borrow::Cow;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;
use sha2::{Digest as _, Sha256};

use super::super::problem::Problem;
use super::texts::{LANGUAGE, Texts};
use crate::identity::hex;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Files;

/// How many letters of the hash name the folder.
const VERSION_LEN: usize = 12;
/// A file under the folder of its content never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";
const ASK_AGAIN: &str = "no-cache";

/// A file, and the hash of its content.
struct File {
    content: Cow<'static, [u8]>,
    hash: [u8; 32],
}

/// The module of the texts: `texts.en.js`.
static TEXTS: LazyLock<(String, String)> =
    LazyLock::new(|| (format!("texts.{LANGUAGE}.js"), Texts::get().module()));

/// The folder's name.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut names: Vec<_> = Files::iter().chain([Cow::from(&*TEXTS.0)]).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        hash.update(name.as_bytes());
        hash.update(get(&name).map(|file| file.hash).unwrap_or_default());
    }
    hex(&hash.finalize())[..VERSION_LEN].to_owned()
});

fn get(name: &str) -> Option<File> {
    if name == TEXTS.0 {
        let content = Cow::from(TEXTS.1.as_bytes());
        return Some(File { hash: Sha256::digest(&content).into(), content });
    }
    Files::get(name).map(|file| File { content: file.data, hash: file.metadata.sha256_hash() })
}

/// Where a page finds the file `name`.
pub fn address(name: &str) -> String {
    format!("/static/{}/{name}", *VERSION)
}

/// The file `name`, for people to read.
pub fn text(name: &str) -> String {
    get(name).map(|file| String::from_utf8_lossy(&file.content).into_owned()).unwrap_or_default()
}

/// `GET /static/{name}`
pub async fn current(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Response {
    let Ok(Path(name)) = name else { return Problem::not_found().into_response() };
    answer(&name, &headers, ASK_AGAIN)
}

/// `GET /static/{version}/{name}`
///
/// While nodes are being replaced, a page of one may ask another for its files: that gives its own, to be asked
/// about again.
pub async fn versioned(path: Result<Path<(String, String)>, PathRejection>, headers: HeaderMap) -> Response {
    let Ok(Path((version, name))) = path else { return Problem::not_found().into_response() };
    answer(&name, &headers, if version == *VERSION { FOR_EVER } else { ASK_AGAIN })
}

fn answer(name: &str, headers: &HeaderMap, keep: &'static str) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => return Problem::not_found().into_response(),
    };
    let Some(file) = get(name) else { return Problem::not_found().into_response() };
    let tag = tag(&file);
    let kept = [(header::CACHE_CONTROL, keep.to_owned()), (header::ETAG, tag.clone())];
    if is_known(headers, &tag) {
        return (StatusCode::NOT_MODIFIED, kept).into_response();
    }
    (kept, [(header::CONTENT_TYPE, kind)], file.content.into_owned()).into_response()
}

/// RFC 9110 §8.8.3. Weak, since it is also sent compressed.
fn tag(file: &File) -> String {
    format!("W/\"{}\"", &hex(&file.hash)[..VERSION_LEN])
}

/// RFC 9110 §13.1.2.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag))
}
