//! What `herald` serves beside its clients: the page, and the publish endpoint.

use herald_edge::Body;
use herald_ingest::Intake;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};

const PAGE: &str = include_str!("page.html");
/// The page needs nothing from elsewhere, and nothing that it shows may run.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self' ws: wss:";

/// Answers a request that is not a client's.
pub(crate) async fn answer(intake: Intake, request: Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (_, "/publish") => intake.answer(request).await.map(|body| body.boxed()),
        (&Method::GET | &Method::HEAD, "/") => page(),
        _ => text(StatusCode::NOT_FOUND, "nothing here: see /, /publish, /events, /ws and /socket.io/\n"),
    }
}

fn page() -> Response<Body> {
    let mut response = text(StatusCode::OK, PAGE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
