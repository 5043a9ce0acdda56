//! Errors in MLflow's words: a code that its clients act on, and a sentence.
use serde::Serialize;

/// MLflow's error codes, as far as we use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// A parameter is missing or not right.
    InvalidParameterValue,
    /// There is no such line, version, alias.
    ResourceDoesNotExist,
    /// The name is taken.
    ResourceAlreadyExists,
    /// It does not fit what is now.
    ResourceConflict,
    /// The token is good, but not for this.
    PermissionDenied,
    /// No token, or none that counts.
    Unauthenticated,
    /// The request cannot be read.
    BadRequest,
    /// There is no such operation in MLflow's protocol, or not here.
    EndpointNotFound,
    /// There is one, and it is not done here on purpose.
    NotImplemented,
    /// Too often.
    RequestLimitExceeded,
    /// Not now.
    TemporarilyUnavailable,
    /// A fault of this program.
    InternalError,
}

impl Code {
    /// The HTTP status that MLflow's server sends with it.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidParameterValue | Self::ResourceAlreadyExists | Self::BadRequest => 400,
            Self::Unauthenticated => 401,
            Self::PermissionDenied => 403,
            Self::ResourceDoesNotExist | Self::EndpointNotFound => 404,
            Self::ResourceConflict => 409,
            Self::RequestLimitExceeded => 429,
            Self::InternalError => 500,
            Self::NotImplemented => 501,
            Self::TemporarilyUnavailable => 503,
        }
    }

    /// The code for a status of ours.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::ResourceDoesNotExist,
            405 => Self::EndpointNotFound,
            409 | 412 => Self::ResourceConflict,
            422 => Self::InvalidParameterValue,
            429 => Self::RequestLimitExceeded,
            503 => Self::TemporarilyUnavailable,
            400..=499 => Self::BadRequest,
            _ => Self::InternalError,
        }
    }
}

/// A request that is not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What clients act on.
    pub error_code: Code,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(error_code: Code, message: impl Into<String>) -> Self {
        Self { error_code, message: message.into() }
    }

    /// A parameter is not right.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidParameterValue, message)
    }

    /// There is no such thing.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(Code::ResourceDoesNotExist, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_written_as_mlflow_writes_it() {
        let refusal = Refusal::missing("there is no line x");
        assert_eq!(serde_json::to_string(&refusal).unwrap(), r#"{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"there is no line x"}"#);
        for status in [400, 401, 403, 409, 429, 500, 503] {
            assert_eq!(Code::of_status(status).status(), status);
        }
    }
}
