//! Signing in and out by the page's form.

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use axum_extra::extract::cookie::CookieJar;

use super::super::App;
use super::super::params::Params;
use super::super::session::{SignIn, begin, end};
use super::Pages;
use crate::event::Invalid;
use crate::identity::Accounts;

/// `GET /login`
pub async fn show(State(pages): State<Pages>, params: Params) -> Response {
    let next = params.one("next").ok().flatten().unwrap_or("/");
    pages.login(None, "", local_path(next))
}

/// `POST /login`, from the page's form.
pub async fn sign_in(
    State(app): State<App>,
    headers: HeaderMap,
    jar: CookieJar,
    form: Result<Form<SignIn>, FormRejection>,
) -> Response {
    let Ok(Form(form)) = form else {
        return app.pages.error(&Invalid::new("form", "must hold a name and a password").into());
    };
    match begin(&app.accounts, app.settings, &headers, jar, &form).await {
        Ok(jar) => (jar, Redirect::to(local_path(&form.next))).into_response(),
        Err(problem) => {
            let page = app.pages.login(Some(&problem), &form.name, local_path(&form.next));
            (problem.status(), problem.retry_after(), page).into_response()
        }
    }
}

/// `POST /logout`, from the page's form.
pub async fn sign_out(
    State(accounts): State<Accounts>,
    State(pages): State<Pages>,
    jar: CookieJar,
) -> Response {
    match end(&accounts, jar).await {
        Ok(jar) => (jar, Redirect::to("/login")).into_response(),
        Err(problem) => pages.error(&problem).into_response(),
    }
}

/// A path on this host, or `/`: never another host, whatever a link said.
pub fn local_path(next: &str) -> &str {
    let is_local = next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains(['\\', '\r', '\n', '\t'])
        && next.bytes().all(|b| b.is_ascii_graphic());
    if is_local { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_is_only_ever_a_local_path() {
        for good in ["/", "/a/b?c=d#e"] {
            assert_eq!(local_path(good), good);
        }
        let bad =
            ["", "a", "//evil", "/\\evil", "https://evil", "/\t/evil", "/a\r\nx: y", "\\\\evil", "/ä", " /"];
        for next in bad {
            assert_eq!(local_path(next), "/", "{next:?}");
        }
    }
}
