//! Errors of the HTTP API: one enum, one table, problem+json (RFC 9457).
//!
//! Each kind has one status, one stable `type` that is a page of this controller, and a detail that names the thing and says
//! what to do. Pages show the same sentence as HTML. What stays true: nothing internal (a path, a backtrace) leaves the process.
use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pages::session::problem_page;
use crate::access::Scope;

/// What went wrong, as the caller may know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// The request cannot be read.
    #[error("{0}")]
    BadRequest(String),
    /// It reads, but asks for something that does not add up.
    #[error("{0}")]
    Invalid(String),
    /// No token, or a wrong one.
    #[error("this needs a token of this controller: send it as `Authorization: Bearer …`, or sign in at /login")]
    Unauthorized,
    /// A token, but not for this.
    #[error(
        "this needs a token of scope {}; this one is {who}'s, of scope {has}: ask the admin for another (`leeway token create`)",
        either(needs)
    )]
    Scope {
        /// Whose token it is.
        who: String,
        /// What it may do.
        has: Scope,
        /// What would do.
        needs: &'static [Scope],
    },
    /// Too often from one address.
    #[error("that is too often from this address: wait {0} seconds, then try again")]
    TooMany(u64),
    /// Too much at one time from all together.
    #[error("the controller works on as many requests as it takes at one time: wait {0} seconds, then try again")]
    Busy(u64),
    /// The body came too slowly.
    #[error("the body came too slowly, so it was not waited for: send it again over a better line")]
    TooSlow,
    /// The name is taken; only who holds its key may have it again.
    #[error("{detail}")]
    Prove {
        /// What to do.
        detail: String,
        /// What to sign.
        challenge: String,
    },
    /// A browser was made to send this by another site.
    #[error("the request came from another site ({0}), so it was refused: use the dashboard itself, or a token")]
    CrossSite(String),
    /// The state does not allow it.
    #[error("{0}")]
    IllegalTransition(String),
    /// Something of that name is there already, or has changed since.
    #[error("{0}")]
    Conflict(String),
    /// It is foreseen to cost more than its own risk budget allows.
    #[error("{0}")]
    Risk(String),
    /// The caller's copy is out of date.
    #[error("{0}")]
    Stale(String),
    /// More bytes than are read.
    #[error("the body is larger than the {0} bytes this operation reads: send less")]
    TooLarge(u64),
    /// A signature, a digest or the preflight refused what was sent.
    #[error("{0}")]
    Refused(String),
    /// A device that is not let in: refused, revoked, or without a certificate that counts.
    #[error("{0}")]
    Device(String),
    /// A content type that is not read here.
    #[error("{0}")]
    MediaType(String),
    /// This path takes other methods.
    #[error("{0}")]
    Method(String),
    /// Nothing of the range exists.
    #[error("the range is outside the {0} bytes of this file")]
    Range(u64),
    /// Not now: the disk is full, or it shuts down.
    #[error("{0}")]
    Unavailable(String),
    /// A fault of this program.
    #[error("the controller could not do this: {0}; its log says more")]
    Internal(String),
}

/// One row of the table of kinds.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Last part of the `type`.
    pub slug: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// Short title.
    pub title: &'static str,
    /// What it means and what to do, for its page.
    pub meaning: &'static str,
}

/// Every kind, for its page.
pub const KINDS: [Kind; 22] = [
    Kind {
        slug: "not-found",
        status: StatusCode::NOT_FOUND,
        title: "Not found",
        meaning: "There is nothing of that name. Names are case-sensitive; the list of the resource shows those that exist.",
    },
    Kind {
        slug: "bad-request",
        status: StatusCode::BAD_REQUEST,
        title: "Request cannot be read",
        meaning: "A parameter or the body is not in the form this operation takes. Unknown fields are refused, so that a misspelt one is not silently ignored.",
    },
    Kind {
        slug: "invalid",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        title: "Does not add up",
        meaning: "The request reads, but what it asks for is not possible. The detail names the value.",
    },
    Kind {
        slug: "unauthorized",
        status: StatusCode::UNAUTHORIZED,
        title: "Token needed",
        meaning: "Changing something needs a token of this controller; so does reading from another machine. A token may be unknown, over or revoked.",
    },
    Kind {
        slug: "scope",
        status: StatusCode::FORBIDDEN,
        title: "Another scope needed",
        meaning: "The token is good, but not for this. Scopes are jobs: viewer looks, operator runs the fleet, publisher brings models in, approver approves rollouts of others, admin does everything.",
    },
    Kind {
        slug: "too-many",
        status: StatusCode::TOO_MANY_REQUESTS,
        title: "Too often",
        meaning: "So many wrong tokens, sign-ins or enrolments came from this address that it has to wait. `Retry-After` says how many seconds.",
    },
    Kind {
        slug: "busy",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "Busy",
        meaning: "The controller works on as many requests as it takes at one time. `Retry-After` says how many seconds to wait.",
    },
    Kind {
        slug: "too-slow",
        status: StatusCode::REQUEST_TIMEOUT,
        title: "Body too slow",
        meaning: "The body of the request came so slowly that the connection was given up. Nothing was stored.",
    },
    Kind {
        slug: "prove-key",
        status: StatusCode::CONFLICT,
        title: "Prove that you hold the key",
        meaning: "The device is enrolled already. Sign the `challenge` of the answer with the device's key, and send challenge and proof; no token is needed then.",
    },
    Kind {
        slug: "cross-site",
        status: StatusCode::FORBIDDEN,
        title: "Request from another site",
        meaning: "A browser sent this on behalf of another site. Requests that change something must come from the dashboard itself or carry a token.",
    },
    Kind {
        slug: "illegal-transition",
        status: StatusCode::CONFLICT,
        title: "Not in this state",
        meaning: "The thing is in a state that does not allow this action. `allowed_actions` of the resource lists what is allowed now.",
    },
    Kind {
        slug: "conflict",
        status: StatusCode::CONFLICT,
        title: "Conflicts with what exists",
        meaning: "Something of that name exists with other content. Versions never change their content: use another name.",
    },
    Kind {
        slug: "risk-budget",
        status: StatusCode::CONFLICT,
        title: "Beyond its risk budget",
        meaning: "The rollout was looked ahead at and would cost more than its own policy allows (`risk`). Change the plan or the budget, or send `force` with a reason; both are kept in the audit log.",
    },
    Kind {
        slug: "stale-revision",
        status: StatusCode::PRECONDITION_FAILED,
        title: "Changed since you looked",
        meaning: "The resource has changed since it was read (its ETag differs). Read it again and decide anew.",
    },
    Kind {
        slug: "too-large",
        status: StatusCode::PAYLOAD_TOO_LARGE,
        title: "Body too large",
        meaning: "The body has more bytes than this operation reads.",
    },
    Kind {
        slug: "refused",
        status: StatusCode::UNPROCESSABLE_ENTITY,
        title: "Refused",
        meaning: "A signature, a digest or the trial run of a model was not right. Nothing was stored; the detail says which check failed.",
    },
    Kind {
        slug: "device-refused",
        status: StatusCode::FORBIDDEN,
        title: "Device not let in",
        meaning: "The device was refused or revoked, or it shows no certificate that counts: one that is over or was replaced is followed by a new one when it enrols again. The detail says which.",
    },
    Kind {
        slug: "media-type",
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        title: "Content type not read here",
        meaning: "Send JSON as application/json, and files as application/octet-stream.",
    },
    Kind {
        slug: "method",
        status: StatusCode::METHOD_NOT_ALLOWED,
        title: "Method not allowed",
        meaning: "This path takes other methods; the description at /api/openapi.json lists them.",
    },
    Kind {
        slug: "range",
        status: StatusCode::RANGE_NOT_SATISFIABLE,
        title: "Range outside the file",
        meaning: "Start again from the beginning, or ask for bytes that exist.",
    },
    Kind {
        slug: "unavailable",
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: "Not now",
        meaning: "The controller cannot do this at the moment, for example because its disk is full. Nothing was lost; try again.",
    },
    Kind {
        slug: "internal",
        status: StatusCode::INTERNAL_SERVER_ERROR,
        title: "Fault of the controller",
        meaning: "The controller could not do what it should. Its log says more; please report it.",
    },
];

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProblemBody {
    /// Stable path of the kind of problem; a page of this controller.
    #[serde(rename = "type")]
    pub kind: String,
    /// Title of the kind.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what to do.
    pub detail: String,
    /// What a device has to sign, where that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<String>,
}

fn either(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" or ")
}

impl Problem {
    /// A thing that is not there: `no rollout is called "x"; leeway rollout list shows those that exist`.
    pub fn missing(what: &str, name: impl std::fmt::Display) -> Self {
        let listed = what.rsplit(' ').next().unwrap_or(what);
        Self::NotFound(format!("no {what} is called {name}: `leeway {listed} list` shows those that exist"))
    }

    fn slug(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not-found",
            Self::BadRequest(_) => "bad-request",
            Self::Invalid(_) => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::Scope { .. } => "scope",
            Self::TooMany(_) => "too-many",
            Self::Busy(_) => "busy",
            Self::TooSlow => "too-slow",
            Self::Prove { .. } => "prove-key",
            Self::CrossSite(_) => "cross-site",
            Self::IllegalTransition(_) => "illegal-transition",
            Self::Conflict(_) => "conflict",
            Self::Risk(_) => "risk-budget",
            Self::Stale(_) => "stale-revision",
            Self::TooLarge(_) => "too-large",
            Self::Refused(_) => "refused",
            Self::Device(_) => "device-refused",
            Self::MediaType(_) => "media-type",
            Self::Method(_) => "method",
            Self::Range(_) => "range",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }

    /// The row of the table.
    pub fn kind(&self) -> Kind {
        let slug = self.slug();
        KINDS.into_iter().find(|k| k.slug == slug).unwrap_or(KINDS[KINDS.len() - 1])
    }

    /// The body that is sent.
    pub fn body(&self) -> ProblemBody {
        let kind = self.kind();
        ProblemBody {
            kind: format!("/problems/{}", kind.slug),
            title: kind.title.to_owned(),
            status: kind.status.as_u16(),
            detail: self.to_string(),
            challenge: if let Self::Prove { challenge, .. } = self { Some(challenge.clone()) } else { None },
        }
    }

    /// Seconds to wait before trying again, where waiting helps.
    fn wait_secs(&self) -> Option<u64> {
        match self {
            Self::TooMany(secs) | Self::Busy(secs) => Some(*secs),
            Self::Unavailable(_) => Some(UNAVAILABLE_SECS),
            _ => None,
        }
    }
}

/// What is said to wait where nobody knows how long it takes.
const UNAVAILABLE_SECS: u64 = 5;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Self::Internal(detail) = &self {
            tracing::error!(detail, "a request could not be served");
        }
        let mut response = (self.kind().status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match &self {
            Self::Unauthorized => drop(headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"leeway\""))),
            Self::Range(length) => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{length}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            Self::Scope { needs, .. } => {
                let value = format!("Bearer realm=\"leeway\", error=\"insufficient_scope\", scope=\"{}\"", either(needs));
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(header::WWW_AUTHENTICATE, value);
                }
            }
            // What is left of the body is not waited for.
            Self::TooSlow => drop(headers.insert(header::CONNECTION, HeaderValue::from_static("close"))),
            _ => {}
        }
        retry_after(&self, headers);
        response
    }
}

fn retry_after(problem: &Problem, headers: &mut HeaderMap) {
    if let Some(secs) = problem.wait_secs() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
}

/// The same as a page.
#[derive(Debug)]
pub struct PageProblem(pub Problem);

impl From<Problem> for PageProblem {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl IntoResponse for PageProblem {
    fn into_response(self) -> Response {
        let kind = self.0.kind();
        let mut response = (kind.status, problem_page(kind.title, &self.0.to_string())).into_response();
        retry_after(&self.0, response.headers_mut());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_row_and_a_detail_that_says_what_to_do() {
        let all = [
            Problem::missing("rollout", "x"),
            Problem::BadRequest("b".into()),
            Problem::Invalid("i".into()),
            Problem::Unauthorized,
            Problem::Scope { who: "ann".into(), has: Scope::Viewer, needs: &[Scope::Operator, Scope::Publisher] },
            Problem::TooMany(7),
            Problem::Busy(1),
            Problem::TooSlow,
            Problem::Prove { detail: "p".into(), challenge: "c".into() },
            Problem::CrossSite("http://evil".into()),
            Problem::IllegalTransition("t".into()),
            Problem::Conflict("c".into()),
            Problem::Risk("r".into()),
            Problem::Stale("s".into()),
            Problem::TooLarge(7),
            Problem::Refused("r".into()),
            Problem::Device("d".into()),
            Problem::MediaType("m".into()),
            Problem::Method("m".into()),
            Problem::Range(7),
            Problem::Unavailable("u".into()),
            Problem::Internal("i".into()),
        ];
        let slugs: std::collections::BTreeSet<_> = all.iter().map(|p| p.body().kind).collect();
        assert_eq!(slugs.len(), KINDS.len(), "two problems share a row, or one has none");
        assert!(all[0].to_string().contains("leeway rollout list"));
        assert!(all[4].to_string().contains("operator or publisher"));
        let wait = |problem: &Problem| problem.clone().into_response().headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!((wait(&all[5]).as_deref(), wait(&all[6]).as_deref(), wait(&all[0])), (Some("7"), Some("1"), None));
    }
}
