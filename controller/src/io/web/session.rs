//! Signing in from a browser: the token once, a cookie afterwards.
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use leeway_protocol::digest::Digest;

use super::Web;
use super::error::{PageProblem, Problem};
use super::extract::{Query, read};
use super::guard::COOKIE;
use super::limits::Asker;
use super::pages::session::login_page;

/// The longest form.
const MAX_FORM: usize = 4 << 10;

/// `?token=…`, as printed at start; taken out of the address by the redirect.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    token: Option<String>,
}

/// The form, with the status that says why it is shown.
pub(super) fn login_form(wrong: bool) -> Response {
    (StatusCode::UNAUTHORIZED, login_page(wrong)).into_response()
}

/// Sign in by link, or show the form.
pub(super) async fn show(State(web): State<Web>, asker: Asker, Query(login): Query<Login>) -> Result<Response, PageProblem> {
    match login.token {
        Some(token) => sign_in(&web, asker, &token),
        None => Ok(login_page(false).into_response()),
    }
}

/// Sign in by form.
pub(super) async fn submit(State(web): State<Web>, asker: Asker, body: axum::body::Body) -> Result<Response, PageProblem> {
    let form = read(body, MAX_FORM).await?;
    let login: Login =
        axum::extract::Query::try_from_uri(&form_uri(&form)?).map(|q| q.0).map_err(|e| Problem::BadRequest(e.to_string()))?;
    sign_in(&web, asker, &login.token.unwrap_or_default())
}

/// Sign out.
pub(super) async fn out(State(web): State<Web>, headers: HeaderMap) -> Response {
    web.sessions().end(&headers);
    let cookie = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict{}", secure(&web));
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_owned()), (header::SET_COOKIE, cookie)]).into_response()
}

fn sign_in(web: &Web, asker: Asker, token: &str) -> Result<Response, PageProblem> {
    let token = token.trim();
    if web.controller().principal(token).is_none() {
        return match web.limits().wrong(asker.0, web.now(), Problem::Unauthorized) {
            Problem::Unauthorized => Ok(login_form(true)),
            problem => Err(problem.into()),
        };
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Problem::Unavailable(format!("no random bytes could be drawn: {e}")))?;
    let value = Digest::from_bytes(bytes).hex();
    web.sessions().begin(Digest::of(token.as_bytes()), &value, web.now());
    let cookie = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict{}", secure(web));
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_owned()), (header::SET_COOKIE, cookie)]).into_response())
}

/// Where the controller is reached by TLS, the cookie never leaves by another way.
fn secure(web: &Web) -> &'static str {
    if web.controller().is_reached_by_tls() { "; Secure" } else { "" }
}

/// A form's body reads like a query.
pub(super) fn form_uri(form: &[u8]) -> Result<axum::http::Uri, Problem> {
    let text = std::str::from_utf8(form).map_err(|_| Problem::BadRequest("the form is not text".to_owned()))?;
    format!("/?{text}").parse().map_err(|_| Problem::BadRequest("the form cannot be read".to_owned()))
}
