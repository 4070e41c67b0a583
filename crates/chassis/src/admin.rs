//! The admin port: `/livez`, `/readyz` and `/metrics`, for the machinery around a service and nobody else.

use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::readiness::Readiness;
use crate::telemetry::Metrics;

/// Connections served at once; further ones wait in the kernel.
pub const CONNECTIONS_MAX: usize = 64;

/// How long a connection may take to send a request, and to send the next one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped: the admin port outlives the drain.
pub async fn serve(listener: TcpListener, readiness: Readiness, metrics: Metrics) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // most likely out of file descriptors: accepting at once again would spin
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (readiness, metrics) = (readiness.clone(), metrics.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, readiness.clone(), metrics.clone()));
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    readiness: Readiness,
    metrics: Metrics,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET"));
    }
    Ok(match request.uri().path() {
        "/livez" => text(StatusCode::OK, "alive\n"),
        "/readyz" => ready(&readiness),
        "/metrics" => match tokio::task::spawn_blocking(move || metrics.render()).await {
            Ok(rendered) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", rendered),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be rendered\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "here are /livez, /readyz and /metrics\n"),
    })
}

fn ready(readiness: &Readiness) -> Response<Full<Bytes>> {
    let conditions: serde_json::Map<_, _> = readiness
        .report()
        .into_iter()
        .map(|(name, reason)| (name.to_owned(), reason.unwrap_or_else(|| "ok".to_owned()).into()))
        .collect();
    let ready = readiness.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = serde_json::json!({ "ready": ready, "conditions": conditions });
    let notes: serde_json::Map<_, _> =
        readiness.notes().into_iter().map(|(name, sentence)| (name.to_owned(), sentence.into())).collect();
    if !notes.is_empty() {
        body["notes"] = notes.into();
    }
    respond(status, "application/json", format!("{body}\n"))
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Asks the process whose admin port this is whether it is ready: what `--check-health` does. Blocks up to 2 s a step.
///
/// # Errors
/// When it cannot be asked; `Ok(false, answer)` when it says no.
pub fn check_health(admin: SocketAddr) -> io::Result<(bool, String)> {
    let mut stream = TcpStream::connect_timeout(&reachable(admin), CHECK_TIMEOUT)?;
    stream.set_read_timeout(Some(CHECK_TIMEOUT))?;
    stream.set_write_timeout(Some(CHECK_TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim_end();
    Ok((answer.starts_with("HTTP/1.1 200"), body.to_owned()))
}

/// Where a listener on `address` is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
