//! `/ws`: JSON in WebSocket text frames, for clients that want no library. `docs/protocol.md` has the whole of it.
//!
//! Client: `register`, `leave`, `ack`, `resume`. Server: `hello`, `registered`, `left`, `acked`, `resumed`, `message`,
//! `superseded`, `gap`, `error`. An `id` in an ask comes back in its answer.

use std::ops::ControlFlow;

use bytes::Bytes;
use herald_wire::TargetKind;
use http::{Request, Response};
use hyper::body::Incoming as HttpBody;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::ask::{self, AskError};
use super::engine;
use super::handshake::Handshake;
use super::reader::{Incoming, Reader};
use crate::client::Client;
use crate::delivery::{self, Encoding};
use crate::frame;
use crate::http::{Body, error, full};
use crate::hub::{CloseReason, HubEnded, Signal, Sink};
use crate::metrics;
use crate::serve::{Place, Server};

/// The frame around every ask; the rest depends on `type`.
#[derive(Deserialize)]
struct Ask<'a> {
    r#type: &'a str,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(default)]
    pid: Option<&'a str>,
    #[serde(default)]
    cursor: Option<&'a str>,
}

struct End {
    farewell: Bytes,
    reason: &'static str,
}

type Flow = ControlFlow<End>;

struct Conversation {
    client: Client,
    reader: Reader,
    _place: Place,
}

/// Answers a request to `/ws`.
pub(crate) fn serve(server: Server, mut request: Request<HttpBody>) -> Response<Body> {
    let handshake = match Handshake::read(&mut request) {
        Ok(handshake) => handshake,
        Err(e) => {
            metrics::refused("bad_handshake");
            return error(e.status(), "bad_handshake", &e.to_string());
        }
    };
    let Some(place) = server.place("plain") else { return full() };
    let (response, upgrading) = handshake.accept();
    let tasks = server.ctx.tasks.clone();
    tasks.clone().track("websocket", async move {
        let Some((stream, already)) = upgrading.stream().await else { return };
        let Some(client) = engine::open(&server, Encoding::Plain, Sink::Socket(stream.clone())).await else {
            return;
        };
        let reader = Reader::new(stream, &already, server.config.max_payload_bytes);
        tasks.track("client", Conversation { client, reader, _place: place }.run());
    });
    response
}

impl Conversation {
    async fn run(mut self) {
        let End { farewell, reason } = match self.hello().await {
            ControlFlow::Continue(()) => self.converse().await,
            ControlFlow::Break(end) => end,
        };
        metrics::closed(reason);
        Box::pin(self.client.close(farewell)).await;
    }

    async fn hello(&self) -> Flow {
        self.tell("hello", json!({ "pid": self.client.pid() })).await
    }

    async fn converse(&mut self) -> End {
        let connection = self.client.connection.clone();
        loop {
            let flow = tokio::select! {
                biased;
                signal = connection.signalled() => Box::pin(self.heed(signal)).await,
                incoming = self.reader.next() => {
                    connection.hear();
                    match incoming {
                        Incoming::Text(text) => Box::pin(self.answer(&text)).await,
                        Incoming::Binary => self.refuse(None, "bad_request", "frames are JSON text").await,
                        Incoming::Answer(bytes) => sent(self.client.send(bytes).await),
                        Incoming::End { farewell, reason } => return End { farewell, reason },
                    }
                }
            };
            if let ControlFlow::Break(end) = flow {
                return end;
            }
        }
    }

    async fn answer(&mut self, text: &str) -> Flow {
        let ask: Ask<'_> = match serde_json::from_str(text) {
            Ok(ask) => ask,
            Err(e) => {
                let message = format!("a frame is a JSON object with a `type`: {e}");
                return self.refuse(None, "bad_request", &message).await;
            }
        };
        let answered = match ask.r#type {
            "ping" => return self.tell("pong", with_id(json!({}), ask.id)).await,
            "resume" => self.resume(&ask).await,
            name => ask::answer(&mut self.client, name, text).await,
        };
        match answered {
            Ok(mut json) => {
                if let Some(fields) = json.as_object_mut() {
                    fields.remove("ok");
                }
                self.tell(answer_name(ask.r#type), with_id(json, ask.id)).await
            }
            Err(e) => self.refuse(ask.id, e.code(), &e.to_string()).await,
        }
    }

    async fn resume(&mut self, ask: &Ask<'_>) -> Result<Value, AskError> {
        let pid = ask.pid.unwrap_or_default();
        // the answer comes behind; a client tells messages from it by their type
        self.client.resume(pid, ask.cursor, (Encoding::Plain, Bytes::new)).await?;
        let mut json = ask::registered(&self.client);
        json["pid"] = pid.into();
        Ok(json)
    }

    async fn heed(&mut self, signal: Signal) -> Flow {
        match signal {
            Signal::Superseded(target) => {
                let lost = self.client.superseded(&target).await;
                let (true, TargetKind::Socket(socket_id)) = (lost, target.kind()) else {
                    return ControlFlow::Continue(());
                };
                self.tell("superseded", json!({ "socketId": socket_id })).await
            }
            Signal::Unrecorded => {
                self.client.record_again().await;
                ControlFlow::Continue(())
            }
            Signal::Close(reason) => {
                // RFC 6455 section 7.4.1, and 4xxx for what is ours
                let (code, text) = match &reason {
                    CloseReason::Draining => (1012, "the edge is restarting: come back"),
                    CloseReason::Unavailable => (1013, "try again later"),
                    CloseReason::PingTimeout => (4000, "no answer to a ping"),
                    CloseReason::NotReading => (1008, "answers are not read"),
                    CloseReason::Resumed => (4001, "the session goes on on another connection"),
                    CloseReason::Disconnected(text) => (4002, text.as_str()),
                    CloseReason::WriteFailed => (1011, "cannot write"),
                };
                ControlFlow::Break(End { farewell: frame::close(code, text), reason: reason.label() })
            }
        }
    }

    async fn tell(&self, name: &str, json: Value) -> Flow {
        sent(self.client.send(delivery::event(Encoding::Plain, name, &json)).await)
    }

    async fn refuse(&self, id: Option<&RawValue>, code: &str, message: &str) -> Flow {
        self.tell("error", with_id(json!({ "code": code, "message": message }), id)).await
    }
}

fn answer_name(ask: &str) -> &'static str {
    match ask {
        "register" => "registered",
        "leave" => "left",
        "resume" => "resumed",
        _ => "acked",
    }
}

fn with_id(mut json: Value, id: Option<&RawValue>) -> Value {
    if let Some(id) = id.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok()) {
        json["id"] = id;
    }
    json
}

fn sent(sent: Result<(), HubEnded>) -> Flow {
    match sent {
        Ok(()) => ControlFlow::Continue(()),
        Err(HubEnded) => ControlFlow::Break(End { farewell: Bytes::new(), reason: "edge_ended" }),
    }
}
