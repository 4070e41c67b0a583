//! HTTP, as a plain client speaks it: one request a connection, or raw bytes for what no client would send.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }
}

/// Sends a request to a service and reads the whole answer.
pub async fn send(to: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let what = format!("{} {} at {to}", request.method(), request.uri());
    try_send(to, request).await.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// The same, or what went wrong.
pub async fn try_send(to: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let answer = async {
        let stream = tokio::net::TcpStream::connect(to).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    };
    timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err("no answer".into()))
}

/// GET.
pub async fn get(to: SocketAddr, path: &str) -> Answer {
    send(to, request("GET", to, path, &[], Bytes::new())).await
}

/// POST with a body and headers.
pub async fn post(to: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    send(to, request("POST", to, path, headers, body.into())).await
}

/// Posts one message or an array to ingest's `/publish`, as JSON.
pub async fn publish(ingest: SocketAddr, body: &Value) -> Answer {
    post(ingest, "/publish", &[("content-type", "application/json")], body.to_string()).await
}

/// Any request.
pub fn request(
    method: &str,
    to: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path).header("host", to.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body)).expect("a request")
}

/// Whatever comes back for raw bytes until the server closes, or until it has been silent for a second: a server that
/// hangs is told from one that answers by what came. Blocks.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).expect("connects");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(1))).expect("a timeout");
    // a server may well close before it has read everything
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The status of a raw answer; `None` when there is none.
pub fn status_of(raw: &[u8]) -> Option<u16> {
    let line = raw.split(|byte| *byte == b'\r').next()?;
    let status = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.1 ")?.split(' ').next()?;
    StatusCode::from_bytes(status.as_bytes()).ok().map(|status| status.as_u16())
}

/// Status and body of a small page, outside of any runtime; `None` when nobody answers.
pub(crate) fn blocking_get(from: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(from).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {from}\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let status = status_of(&answer)?;
    let text = String::from_utf8_lossy(&answer);
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}
