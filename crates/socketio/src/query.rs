//! What the query string of a request to `/socket.io/` asks for, and the protocol's answer when that makes no sense.
//! Whether a session exists, and on which transport it is, only the caller knows.
//!
//! Engine.IO protocol 4, "Query parameters", says which there are and that a missing one is a 400; the codes and their
//! texts are the reference server's.

use std::borrow::Cow;

/// How a client and a server exchange packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// HTTP long-polling.
    Polling,
    /// WebSocket.
    WebSocket,
}

impl Transport {
    /// Its name on the wire and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
        }
    }
}

/// What of a request, beside its query string, the protocol looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// A GET.
    Get,
    /// A GET that asks for the WebSocket protocol (`Upgrade: websocket`).
    GetUpgrade,
    /// A POST.
    Post,
    /// Any other.
    Other,
}

/// A request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'q> {
    /// Open a session.
    Open(Transport),
    /// Wait for packets of the session with this sid, which must be on polling.
    Poll(Cow<'q, str>),
    /// Take packets from the client of the session with this sid, which must be on polling.
    Send(Cow<'q, str>),
    /// Move the session with this sid from polling to this WebSocket.
    Upgrade(Cow<'q, str>),
}

impl<'q> Request<'q> {
    /// Reads a query string (without its `?`). `t`, which defeats caches, and `b64`, which matters to binary packets
    /// only, are ignored; so is anything unknown. Of a key that is repeated the first counts.
    ///
    /// # Errors
    /// What to answer instead, in the reference server's order of checks.
    pub fn parse(query: &'q str, method: Method) -> Result<Self, HandshakeError> {
        let params = Params::read(query);
        let transport = match params.transport.as_deref() {
            Some("polling") => Transport::Polling,
            Some("websocket") => Transport::WebSocket,
            _ => return Err(HandshakeError::TransportUnknown),
        };
        if params.sid.is_none() && !matches!(method, Method::Get | Method::GetUpgrade) {
            return Err(HandshakeError::BadHandshakeMethod);
        }
        if (transport == Transport::WebSocket) != (method == Method::GetUpgrade) || params.jsonp {
            return Err(HandshakeError::BadRequest);
        }
        if params.version.as_deref() != Some("4") {
            return Err(HandshakeError::UnsupportedProtocolVersion);
        }
        let Some(sid) = params.sid else { return Ok(Self::Open(transport)) };
        match method {
            Method::Get => Ok(Self::Poll(sid)),
            Method::GetUpgrade => Ok(Self::Upgrade(sid)),
            Method::Post => Ok(Self::Send(sid)),
            Method::Other => Err(HandshakeError::BadRequest),
        }
    }
}

#[derive(Default)]
struct Params<'q> {
    version: Option<Cow<'q, str>>,
    transport: Option<Cow<'q, str>>,
    sid: Option<Cow<'q, str>>,
    // JSONP left the protocol with revision 4: plain text would be executed as a script
    jsonp: bool,
}

impl<'q> Params<'q> {
    fn read(query: &'q str) -> Self {
        let mut params = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let param = match &*key {
                "EIO" => &mut params.version,
                "transport" => &mut params.transport,
                "sid" if !value.is_empty() => &mut params.sid,
                "j" => {
                    params.jsonp = true;
                    continue;
                }
                _ => continue,
            };
            param.get_or_insert(value);
        }
        params
    }
}

/// The errors of the Engine.IO handshake, answered as the reference server does: this status, this body as
/// `application/json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandshakeError {
    /// `transport` is missing or neither `polling` nor `websocket`.
    #[error("Transport unknown")]
    TransportUnknown,
    /// No session with that `sid` lives here: it ended, or polling went to another edge (a balancer must be sticky
    /// for polling).
    #[error("Session ID unknown")]
    SessionUnknown,
    /// A session is opened by GET.
    #[error("Bad handshake method")]
    BadHandshakeMethod,
    /// The transport, the method and the session do not fit each other.
    #[error("Bad request")]
    BadRequest,
    /// The server does not want this client.
    #[error("Forbidden")]
    Forbidden,
    /// `EIO` is missing or not 4.
    #[error("Unsupported protocol version")]
    UnsupportedProtocolVersion,
}

impl HandshakeError {
    /// Its number in the protocol.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::TransportUnknown => 0,
            Self::SessionUnknown => 1,
            Self::BadHandshakeMethod => 2,
            Self::BadRequest => 3,
            Self::Forbidden => 4,
            Self::UnsupportedProtocolVersion => 5,
        }
    }

    /// The HTTP status of the answer.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            _ => 400,
        }
    }

    /// The body of the answer.
    #[must_use]
    pub fn body(self) -> String {
        format!(r#"{{"code":{},"message":"{self}"}}"#, self.code())
    }

    /// Its name in metrics.
    #[must_use]
    pub fn metric_label(self) -> &'static str {
        match self {
            Self::TransportUnknown => "transport_unknown",
            Self::SessionUnknown => "session_unknown",
            Self::BadHandshakeMethod => "bad_handshake_method",
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::UnsupportedProtocolVersion => "unsupported_protocol_version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const METHODS: [Method; 4] = [Method::Get, Method::GetUpgrade, Method::Post, Method::Other];

    #[test]
    fn what_clients_send_is_understood() {
        let sid = || Cow::Borrowed("a_b-c");
        for (query, method, request) in [
            ("EIO=4&transport=polling&t=N8hyd6w", Method::Get, Request::Open(Transport::Polling)),
            ("EIO=4&transport=polling&sid=", Method::Get, Request::Open(Transport::Polling)),
            (
                "transport=websocket&EIO=4&token=x%20y",
                Method::GetUpgrade,
                Request::Open(Transport::WebSocket),
            ),
            ("EIO=4&transport=polling&t=1.2&b64=1&sid=a_b-c", Method::Get, Request::Poll(sid())),
            ("EIO=4&transport=polling&sid=a_b-c&sid=other", Method::Post, Request::Send(sid())),
            ("EIO=4&transport=websocket&sid=a%5Fb-c", Method::GetUpgrade, Request::Upgrade(sid())),
        ] {
            assert_eq!(Request::parse(query, method), Ok(request), "{query}");
        }
    }

    #[test]
    fn every_wrong_request_gets_the_reference_servers_answer() {
        use HandshakeError::{BadHandshakeMethod, BadRequest, TransportUnknown, UnsupportedProtocolVersion};
        for (query, method, error) in [
            ("", Method::Get, TransportUnknown),
            ("EIO=4", Method::Get, TransportUnknown),
            ("EIO=4&transport=", Method::Get, TransportUnknown),
            ("EIO=4&transport=abc", Method::Post, TransportUnknown),
            ("EIO=4&transport=Polling", Method::Get, TransportUnknown),
            ("EIO=4&transport=webtransport", Method::Get, TransportUnknown),
            ("EIO=4&transport=polling", Method::Post, BadHandshakeMethod),
            ("transport=polling", Method::Other, BadHandshakeMethod),
            ("EIO=4&transport=polling&sid=", Method::Post, BadHandshakeMethod),
            ("EIO=4&transport=websocket", Method::Get, BadRequest),
            ("EIO=4&transport=polling", Method::GetUpgrade, BadRequest),
            ("EIO=4&transport=polling&sid=x", Method::GetUpgrade, BadRequest),
            ("EIO=4&transport=websocket&sid=x", Method::Get, BadRequest),
            ("EIO=4&transport=websocket&sid=x", Method::Post, BadRequest),
            ("EIO=4&transport=polling&sid=x", Method::Other, BadRequest),
            ("EIO=4&transport=polling&j=0", Method::Get, BadRequest),
            ("transport=polling", Method::Get, UnsupportedProtocolVersion),
            ("EIO=3&transport=polling", Method::Get, UnsupportedProtocolVersion),
            ("EIO=abc&transport=websocket", Method::GetUpgrade, UnsupportedProtocolVersion),
            ("EIO=04&transport=polling", Method::Get, UnsupportedProtocolVersion),
            ("EIO=3&transport=polling&sid=x", Method::Post, UnsupportedProtocolVersion),
        ] {
            assert_eq!(Request::parse(query, method), Err(error), "{query} {method:?}");
        }
    }

    #[test]
    fn every_error_has_its_body_and_status() {
        for (error, status, body) in [
            (HandshakeError::TransportUnknown, 400, r#"{"code":0,"message":"Transport unknown"}"#),
            (HandshakeError::SessionUnknown, 400, r#"{"code":1,"message":"Session ID unknown"}"#),
            (HandshakeError::BadHandshakeMethod, 400, r#"{"code":2,"message":"Bad handshake method"}"#),
            (HandshakeError::BadRequest, 400, r#"{"code":3,"message":"Bad request"}"#),
            (HandshakeError::Forbidden, 403, r#"{"code":4,"message":"Forbidden"}"#),
            (
                HandshakeError::UnsupportedProtocolVersion,
                400,
                r#"{"code":5,"message":"Unsupported protocol version"}"#,
            ),
        ] {
            assert_eq!((error.http_status(), error.body().as_str()), (status, body));
        }
    }

    proptest! {
        #[test]
        fn an_arbitrary_query_is_answered(query in any::<String>(), method in prop::sample::select(&METHODS)) {
            prop_assert!(Request::parse(&query, method).is_err());
        }

        #[test]
        fn a_sid_comes_back_as_it_was(sid in ".{1,40}") {
            let query: String =
                form_urlencoded::Serializer::new("EIO=4&transport=polling".to_owned()).append_pair("sid", &sid).finish();
            prop_assert_eq!(Request::parse(&query, Method::Get), Ok(Request::Poll(sid.into())));
        }
    }
}
