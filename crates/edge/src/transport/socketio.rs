//! `/socket.io/`: what each request asks for, and the protocol's own error answers (Engine.IO 4).

use bytes::Bytes;
use herald_socketio::engine::{CLOSE, Handshake as Open, PROBE_PONG, Packet, decode_payload};
use herald_socketio::query::Method as Asked;
use herald_socketio::{HandshakeError, Request as Query, Step, Transport, Upgrade};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming as HttpBody;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::engine::{self, Engine, Source};
use super::handshake::{self, Handshake};
use super::polling::{Polled, PollingSession};
use super::reader::{Incoming, Reader};
use super::secret_id;
use crate::delivery::Encoding;
use crate::frame;
use crate::http::{Body, full, respond};
use crate::hub::Sink;
use crate::metrics;
use crate::serve::Server;

const TEXT: &str = "text/plain; charset=UTF-8";
/// Chunks handed over and not fetched by a poll.
const CHUNKS_MAX: usize = 1;

/// Answers a request to `/socket.io/`.
pub(crate) async fn serve(server: Server, request: Request<HttpBody>) -> Response<Body> {
    let asked = match *request.method() {
        Method::GET if handshake::is_asked(request.headers()) => Asked::GetUpgrade,
        Method::GET => Asked::Get,
        Method::POST => Asked::Post,
        _ => Asked::Other,
    };
    let uri = request.uri().clone();
    match Query::parse(uri.query().unwrap_or_default(), asked) {
        Ok(Query::Open(Transport::Polling)) => open_polling(&server).await,
        Ok(Query::Open(Transport::WebSocket)) => open_websocket(server, request),
        Ok(Query::Poll(sid)) => poll(&server, &sid).await,
        Ok(Query::Send(sid)) => post(&server, &sid, request).await,
        Ok(Query::Upgrade(sid)) => upgrade(server, &sid, request),
        Err(e) => refuse(e),
    }
}

fn refuse(error: HandshakeError) -> Response<Body> {
    metrics::refused(error.metric_label());
    let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    respond(status, "application/json", error.body())
}

fn open_packet(server: &Server, sid: &str, transport: Transport) -> Bytes {
    Open {
        sid,
        transport,
        ping_interval_ms: server.config.ping_interval.as_millis() as u64,
        ping_timeout_ms: server.config.ping_timeout.as_millis() as u64,
        max_payload: server.config.max_payload_bytes as u64,
    }
    .encode()
}

async fn open_polling(server: &Server) -> Response<Body> {
    let Some(place) = server.place("polling") else { return full() };
    let (chunks, fetched) = mpsc::channel(CHUNKS_MAX);
    let client = engine::open(server, Encoding::Polling, Sink::Pull(chunks)).await;
    let (Some(client), Ok(sid)) = (client, secret_id()) else { return full() };
    let posts = server.polling.open(&sid, fetched);
    let open = open_packet(server, &sid, Transport::Polling);
    engine::spawn(server, Engine::new(server.clone(), client, sid, (Source::Posts(posts), place)));
    respond(StatusCode::OK, TEXT, open)
}

fn open_websocket(server: Server, mut request: Request<HttpBody>) -> Response<Body> {
    let Ok(handshake) = Handshake::read(&mut request) else { return refuse(HandshakeError::BadRequest) };
    let Some(place) = server.place("websocket") else { return full() };
    let (response, upgrading) = handshake.accept();
    let tasks = server.ctx.tasks.clone();
    tasks.track("websocket", async move {
        let (Some((stream, already)), Ok(sid)) = (upgrading.stream().await, secret_id()) else { return };
        let Some(client) = engine::open(&server, Encoding::SocketIo, Sink::Socket(stream.clone())).await
        else {
            return;
        };
        let open = frame::text(&open_packet(&server, &sid, Transport::WebSocket));
        if client.send(open).await.is_err() {
            return;
        }
        let reader = Reader::new(stream, &already, server.config.max_payload_bytes);
        let engine = Engine::new(server.clone(), client, sid, (Source::Socket(reader), place));
        // a task of its own, which is smaller than this one
        engine::spawn(&server, engine);
    });
    response
}

async fn poll(server: &Server, sid: &str) -> Response<Body> {
    let Some(session) = server.polling.get(sid) else { return refuse(HandshakeError::SessionUnknown) };
    match session.poll().await {
        Polled::Packets(packets) => respond(StatusCode::OK, TEXT, packets),
        Polled::Overlap => {
            metrics::refused("overlapping_polls");
            respond(StatusCode::BAD_REQUEST, TEXT, CLOSE)
        }
    }
}

async fn post(server: &Server, sid: &str, request: Request<HttpBody>) -> Response<Body> {
    let Some(session) = server.polling.get(sid) else { return refuse(HandshakeError::SessionUnknown) };
    let binary =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/octet-stream");
    if binary {
        session.end("binary_payload");
        return refuse(HandshakeError::BadRequest);
    }
    let limit = server.config.max_payload_bytes;
    let payload = match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) if e.is::<LengthLimitError>() => {
            session.end("payload_too_big");
            metrics::refused("payload_too_big");
            return respond(
                StatusCode::PAYLOAD_TOO_LARGE,
                TEXT,
                format!("a payload has at most {limit} bytes"),
            );
        }
        Err(_) => return refuse(HandshakeError::BadRequest),
    };
    if let Err(e) = decode_payload(&payload, limit) {
        session.end("bad_payload");
        metrics::refused("bad_payload");
        let status = StatusCode::from_u16(e.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
        return respond(status, TEXT, e.to_string());
    }
    if session.post(payload).await {
        respond(StatusCode::OK, "text/html", "ok")
    } else {
        refuse(HandshakeError::BadRequest)
    }
}

fn upgrade(server: Server, sid: &str, mut request: Request<HttpBody>) -> Response<Body> {
    let Some(session) = server.polling.get(sid) else { return refuse(HandshakeError::SessionUnknown) };
    let Ok(handshake) = Handshake::read(&mut request) else { return refuse(HandshakeError::BadRequest) };
    let (response, upgrading) = handshake.accept();
    let tasks = server.ctx.tasks.clone();
    tasks.track("upgrade", async move {
        let Some((stream, already)) = upgrading.stream().await else { return };
        let reader = Reader::new(stream, &already, server.config.max_payload_bytes);
        // as long as a client has to answer anything
        let switched = timeout(server.config.ping_timeout, probe(&session, reader)).await;
        match switched {
            Ok(Some(reader)) => session.switch(reader).await,
            Ok(None) | Err(_) => {
                metrics::refused("upgrade_failed");
                session.unprobe();
            }
        }
    });
    response
}

/// Until the client says that it has moved. `None`: it did not, and the session stays on polling.
async fn probe(session: &PollingSession, mut reader: Reader) -> Option<Reader> {
    let mut upgrade = Upgrade::default();
    loop {
        match reader.next().await {
            Incoming::Text(text) => {
                let packet = Packet::decode(&text).ok()?;
                match upgrade.on_packet(&packet) {
                    Step::Probed => {
                        if !session.probe() {
                            return None;
                        }
                        write(reader.stream(), &frame::text(&PROBE_PONG)).await?;
                    }
                    Step::Switch => return Some(reader),
                    Step::Refuse => return None,
                }
            }
            Incoming::Answer(bytes) => write(reader.stream(), &bytes).await?,
            Incoming::Binary | Incoming::End { .. } => return None,
        }
    }
}

/// Before the session has moved there is no outbox: a few bytes, straight into the socket.
async fn write(stream: &TcpStream, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        stream.writable().await.ok()?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(())
}
