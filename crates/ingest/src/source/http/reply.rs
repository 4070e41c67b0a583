//! What a request is answered with: JSON, always.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;

/// Seconds after which to try again.
const RETRY_AFTER: &str = "1";

/// What became of one message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Result {
    pub(super) accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duplicate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<Error>,
    /// Of an answer to this message alone.
    #[serde(skip)]
    pub(super) status: StatusCode,
}

/// What is wrong, for programs and for people.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Error {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// A request that is refused as a whole.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    error: Error,
    header: Option<(HeaderName, &'static str)>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, error: Error { code, message: message.into() }, header: None }
    }

    pub(super) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = respond(self.status, &serde_json::json!({ "error": self.error }));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl Result {
    pub(super) fn accepted(id: Option<String>, duplicate: bool) -> Self {
        Self { accepted: true, id, duplicate: Some(duplicate), error: None, status: StatusCode::OK }
    }

    pub(super) fn refused(status: StatusCode, code: &'static str, message: String) -> Self {
        let error = Some(Error { code, message });
        Self { accepted: false, id: None, duplicate: None, error, status }
    }
}

/// One message: its result is the answer.
pub(super) fn one(result: &Result) -> Response<Full<Bytes>> {
    respond(result.status, result)
}

/// An array: 503 only if the bus took none of what could be published.
pub(super) fn many(results: &[Result]) -> Response<Full<Bytes>> {
    let unavailable = |result: &Result| result.status == StatusCode::SERVICE_UNAVAILABLE;
    let none = results.iter().any(unavailable) && !results.iter().any(|result| result.accepted);
    let status = if none { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    respond(status, &serde_json::json!({ "results": results }))
}

fn respond(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // plain structs with string keys always serialise
    let mut body = serde_json::to_vec(body).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    }
    response
}
