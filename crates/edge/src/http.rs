//! Routes requests to transports, and answers what is none of theirs: unknown paths, wrong methods, foreign origins.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::json;

use crate::metrics;
use crate::serve::Server;
use crate::transport;

/// The body of an answer.
pub type Body = BoxBody<Bytes, Infallible>;

/// Answers requests to paths that are not the edge's own: the embedded default serves its page and the publish endpoint
/// on the same port. Cloning is a reference count.
#[derive(Clone)]
pub struct Elsewhere(Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>);

impl Elsewhere {
    /// Hands requests to `answer`.
    pub fn new<F>(answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(answer(request))))
    }
}

/// How long a browser may remember the answer to a preflight request, in seconds.
const PREFLIGHT_AGE: &str = "7200";

/// Answers one request. Never fails: what goes wrong is an answer.
pub(crate) async fn serve(server: Server, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let Some(allowed) = allowed_origin(&server.config.allowed_origins, origin.as_ref()) else {
        metrics::refused("foreign_origin");
        return Ok(forbidden(request.uri().path()));
    };
    let mut response = if request.method() == Method::OPTIONS {
        preflight(request.headers())
    } else {
        route(server, request).await
    };
    allow(response.headers_mut(), allowed);
    Ok(response)
}

async fn route(server: Server, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/socket.io/" | "/socket.io" => transport::socketio(server, request).await,
        "/ws" => transport::plain(server, request),
        "/events" => transport::events(server, request).await,
        _ => {
            if let Some(Elsewhere(answer)) = &server.elsewhere {
                return answer(request).await;
            }
            metrics::refused("not_found");
            error(StatusCode::NOT_FOUND, "not_found", "clients connect to /socket.io/, /ws or /events")
        }
    }
}

/// An answer of these bytes.
pub(crate) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `{"error":{"code","message"}}`
pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let body = json!({ "error": { "code": code, "message": message } });
    respond(status, "application/json", body.to_string())
}

/// As many clients as allowed are connected, or the edge drains.
pub(crate) fn full() -> Response<Body> {
    let mut response = error(
        StatusCode::SERVICE_UNAVAILABLE,
        "too_many_connections",
        "this edge takes no more connections: try again, or another edge",
    );
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A method that the path does not take.
pub(crate) fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response =
        error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", &format!("this path takes {allow} only"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

fn forbidden(path: &str) -> Response<Body> {
    if path.starts_with("/socket.io") {
        let refusal = herald_socketio::HandshakeError::Forbidden;
        return respond(StatusCode::FORBIDDEN, "application/json", refusal.body());
    }
    error(
        StatusCode::FORBIDDEN,
        "foreign_origin",
        "pages of this origin may not connect: see HERALD_ALLOWED_ORIGINS",
    )
}

/// `None`: the request comes from a page that may not connect. `Some(None)`: no page sent it.
fn allowed_origin(allowed: &[String], origin: Option<&HeaderValue>) -> Option<Option<Allowed>> {
    let Some(origin) = origin else { return Some(None) };
    if allowed.iter().any(|one| one == "*") {
        return Some(Some(Allowed::Any));
    }
    let named = allowed.iter().any(|one| one.as_bytes() == origin.as_bytes());
    named.then(|| Some(Allowed::Named(origin.clone())))
}

/// What a page's origin is answered with.
enum Allowed {
    Any,
    /// Named in the settings: may send its cookies, which sticky balancers need.
    Named(HeaderValue),
}

fn allow(headers: &mut HeaderMap, allowed: Option<Allowed>) {
    match allowed {
        None => {}
        Some(Allowed::Any) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        }
        Some(Allowed::Named(origin)) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

fn preflight(asked: &HeaderMap) -> Response<Body> {
    let mut response = respond(StatusCode::NO_CONTENT, "text/plain", Bytes::new());
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE));
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}
