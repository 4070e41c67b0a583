//! From an HTTP request to a WebSocket (RFC 6455 section 4.2): checks what the library leaves to its caller, answers,
//! and hands out the raw stream.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;

use crate::http::Body;

/// A request that asks for a WebSocket, as it should.
pub(crate) struct Handshake {
    key: HeaderValue,
    upgrade: OnUpgrade,
}

/// Why a request is no WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("a WebSocket begins with GET")]
    Method,
    #[error("a WebSocket needs `Connection: Upgrade` and `Upgrade: websocket`")]
    NoUpgrade,
    #[error("only version 13 of the WebSocket protocol is spoken here: send `Sec-WebSocket-Version: 13`")]
    Version,
    #[error("`Sec-WebSocket-Key` must be 16 bytes in base64")]
    Key,
}

impl HandshakeError {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key => StatusCode::BAD_REQUEST,
        }
    }
}

/// Whether a request asks for a WebSocket at all.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

impl Handshake {
    pub(crate) fn read(request: &mut Request<Incoming>) -> Result<Self, HandshakeError> {
        let key = check(request.method(), request.headers())?;
        Ok(Self { key, upgrade: hyper::upgrade::on(request) })
    }

    /// The answer, and the stream once it was sent.
    pub(crate) fn accept(self) -> (Response<Body>, Upgrading) {
        let mut response = Response::new(Empty::new().boxed());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let accept = HeaderValue::try_from(derive_accept_key(self.key.as_bytes()));
        if let Ok(accept) = accept {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        (response, Upgrading(self.upgrade))
    }
}

/// Becomes a stream when the answer was sent.
pub(crate) struct Upgrading(OnUpgrade);

impl Upgrading {
    /// The stream, and what the client sent behind its request in the same segment. `None`: the client is gone.
    pub(crate) async fn stream(self) -> Option<(Arc<TcpStream>, Bytes)> {
        let parts = self.0.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
        Some((Arc::new(parts.io.into_inner()), parts.read_buf))
    }
}

fn check(method: &Method, headers: &HeaderMap) -> Result<HeaderValue, HandshakeError> {
    if method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if !is_asked(headers) || !has_token(headers, &header::CONNECTION, "upgrade") {
        return Err(HandshakeError::NoUpgrade);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()));
    key.cloned().ok_or(HandshakeError::Key)
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// 16 bytes are 22 characters of base64 and two of padding.
fn is_key(key: &[u8]) -> bool {
    let Some((digits, b"==")) = key.split_at_checked(22) else { return false };
    digits.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with(name: &str, value: Option<&str>) -> HeaderMap {
        let kept = GOOD.into_iter().filter(|(n, _)| *n != name).chain(value.map(|value| (name, value)));
        kept.map(|(n, v)| (HeaderName::try_from(n).unwrap(), HeaderValue::try_from(v).unwrap())).collect()
    }

    #[test]
    fn what_the_protocol_demands_is_checked() {
        assert!(check(&Method::GET, &with("x", None)).is_ok());
        assert_eq!(check(&Method::POST, &with("x", None)), Err(HandshakeError::Method));
        for (name, value, error) in [
            ("connection", None, HandshakeError::NoUpgrade),
            ("connection", Some("close"), HandshakeError::NoUpgrade),
            ("upgrade", Some("h2c"), HandshakeError::NoUpgrade),
            ("sec-websocket-version", Some("8"), HandshakeError::Version),
            ("sec-websocket-key", None, HandshakeError::Key),
            ("sec-websocket-key", Some("c2hvcnQ="), HandshakeError::Key),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ**"), HandshakeError::Key),
        ] {
            assert_eq!(check(&Method::GET, &with(name, value)), Err(error), "{name}: {value:?}");
        }
    }
}
