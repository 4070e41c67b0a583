//! One Socket.IO client's conversation, by whatever transport its packets come: this task owns the connection.
//!
//! Order of the `select!`: signals (superseded, close) before what the client says, so that a connection that is over
//! does nothing more; the time to CONNECT last.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use herald_socketio::engine::{CLOSE, Packet, decode_payload};
use herald_socketio::{Auth, Effect, Protocol, encode_ack};
use herald_wire::{Target, TargetKind};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::ask::{self, AskError};
use super::polling::{Posted, Posts};
use super::reader::{Incoming, Reader};
use crate::client::Client;
use crate::delivery::{self, Encoding};
use crate::frame;
use crate::hub::{CloseReason, Command, HubEnded, Signal, Sink};
use crate::metrics;
use crate::serve::{Place, Server};

/// Where the client's packets come from.
#[allow(clippy::large_enum_variant)] // nearly all are sockets: a box would cost each of them an allocation
pub(super) enum Source {
    Socket(Reader),
    Posts(Posts),
}

/// Why a conversation is over.
struct End {
    farewell: Bytes,
    reason: &'static str,
}

type Flow = ControlFlow<End>;

pub(super) struct Engine {
    pub(super) server: Server,
    pub(super) client: Client,
    pub(super) sid: String,
    pub(super) source: Source,
    protocol: Protocol,
    connect_by: Instant,
    _place: Place,
}

enum Input {
    Text(tungstenite::Utf8Bytes),
    Payload(Bytes),
    Binary,
    Answer(Bytes),
    Upgraded(Box<Reader>),
    End(End),
}

impl Engine {
    pub(super) fn new(server: Server, client: Client, sid: String, (source, place): (Source, Place)) -> Self {
        let connect_by = Instant::now() + server.config.connect_timeout;
        Self { server, client, sid, source, protocol: Protocol::new(), connect_by, _place: place }
    }

    /// Until the client or the edge ends it.
    pub(super) async fn run(mut self) {
        let End { farewell, reason } = self.converse().await;
        metrics::closed(reason);
        tracing::debug!(sid = self.sid, reason, "a Socket.IO connection is over");
        if let Source::Posts(posts) = &self.source {
            posts.close();
        }
        Box::pin(self.client.close(farewell)).await;
    }

    async fn converse(&mut self) -> End {
        let connection = self.client.connection.clone();
        loop {
            let flow = tokio::select! {
                biased;
                signal = connection.signalled() => self.heed(signal).await,
                input = self.source.next() => {
                    connection.hear();
                    self.take(input).await
                }
                () = sleep_until(self.connect_by), if !self.protocol.connected() => {
                    ControlFlow::Break(self.end("connect_timeout"))
                }
            };
            if let ControlFlow::Break(end) = flow {
                return end;
            }
        }
    }

    async fn take(&mut self, input: Input) -> Flow {
        match input {
            Input::Text(text) => {
                let effect = self.protocol.on_text(&text);
                self.carry_out(effect).await
            }
            Input::Binary => {
                let effect = self.protocol.on_packet(Packet::Binary);
                self.carry_out(effect).await
            }
            Input::Payload(payload) => {
                // the HTTP handler has refused what does not decode
                let packets = decode_payload(&payload, payload.len()).unwrap_or_default();
                for packet in packets {
                    let effect = self.protocol.on_packet(packet);
                    self.carry_out(effect).await?;
                }
                ControlFlow::Continue(())
            }
            Input::Answer(bytes) => self.sent(self.client.send(bytes).await),
            Input::Upgraded(reader) => self.upgraded(*reader).await,
            Input::End(end) => ControlFlow::Break(end),
        }
    }

    async fn carry_out(&mut self, effect: Option<Effect<'_>>) -> Flow {
        match effect {
            None | Some(Effect::Pong | Effect::Ack { .. }) => ControlFlow::Continue(()),
            Some(Effect::Send(packet)) => self.send(packet).await,
            Some(Effect::Connect(auth)) => Box::pin(self.connect(auth)).await,
            Some(Effect::Event { name, args, ack }) => {
                let argument = args.first().map_or("null", |raw| raw.get());
                let answer = Box::pin(ask::answer(&mut self.client, &name, argument)).await;
                self.reply(answer, ack).await
            }
            Some(Effect::BinaryEvent { ack, .. }) => self.reply(Err(AskError::Binary), ack).await,
            Some(Effect::Disconnect) => ControlFlow::Break(self.end("client_disconnected")),
            Some(Effect::Close(reason)) => {
                tracing::debug!(sid = self.sid, "closing: {reason}");
                ControlFlow::Break(self.end(reason.metric_label()))
            }
        }
    }

    /// Lets the client in: as the session it was, if it says so and that can be; as a new one otherwise.
    async fn connect(&mut self, auth: Auth<'_>) -> Flow {
        if let Some(pid) = &auth.pid {
            let encoding = self.encoding();
            let accepted = self.protocol.accept(&self.sid, Some(pid));
            let first = (encoding, move || wrap(encoding, accepted));
            match self.client.resume(pid, auth.offset.as_deref(), first).await {
                Ok(()) => return ControlFlow::Continue(()),
                // the client comes back by itself, perhaps to another edge
                Err(e) if e.is_ours() => return ControlFlow::Break(self.end("unavailable")),
                Err(e) => tracing::debug!(sid = self.sid, "not resumed: {e}"),
            }
        }
        let accepted = self.protocol.accept(&self.sid, Some(self.client.pid()));
        self.send(accepted).await
    }

    /// Answers by the client's callback; without one, an error is an event of its own.
    async fn reply(&mut self, answer: Result<serde_json::Value, AskError>, ack: Option<u64>) -> Flow {
        let json = match (&answer, ack) {
            (Ok(json), _) => json.clone(),
            (Err(e), Some(_)) => ask::refusal(e.code(), &e.to_string()),
            (Err(e), None) => {
                let error = json!({ "code": e.code(), "message": e.to_string() });
                let bytes = delivery::event(self.encoding(), "error", &error);
                return self.sent(self.client.send(bytes).await);
            }
        };
        match ack {
            Some(id) => self.send(encode_ack(id, json.to_string().as_bytes())).await,
            None => ControlFlow::Continue(()),
        }
    }

    async fn heed(&mut self, signal: Signal) -> Flow {
        match signal {
            Signal::Superseded(target) => Box::pin(self.superseded(target)).await,
            Signal::Unrecorded => {
                Box::pin(self.client.record_again()).await;
                ControlFlow::Continue(())
            }
            Signal::Close(CloseReason::Disconnected(reason)) => {
                tracing::debug!(sid = self.sid, "disconnected: {reason}");
                let packet = self.protocol.disconnect();
                let farewell = wrap(self.encoding(), packet);
                ControlFlow::Break(End { farewell: self.with_close(farewell), reason: "disconnected" })
            }
            Signal::Close(reason) => ControlFlow::Break(self.end(reason.label())),
        }
    }

    async fn superseded(&mut self, target: Target) -> Flow {
        let lost = self.client.superseded(&target).await;
        let (true, TargetKind::Socket(socket_id)) = (lost, target.kind()) else {
            return ControlFlow::Continue(());
        };
        let event = delivery::event(self.encoding(), "superseded", &json!({ "socketId": socket_id }));
        self.sent(self.client.send(event).await)
    }

    /// The client moved from polling to a WebSocket: what polls did not fetch goes out there first.
    async fn upgraded(&mut self, reader: Reader) -> Flow {
        let Source::Posts(posts) = &self.source else { return ControlFlow::Continue(()) };
        let first = posts.close_and_drain().await;
        let (id, sink) = (self.client.connection.id, Sink::Socket(reader.stream().clone()));
        self.source = Source::Socket(reader);
        let switch = Command::Switch { id, encoding: Encoding::SocketIo, sink, first };
        let switched = self.server.services.hub.send(id, switch).await;
        self.sent(switched)
    }

    fn encoding(&self) -> Encoding {
        match self.source {
            Source::Socket(_) => Encoding::SocketIo,
            Source::Posts(_) => Encoding::Polling,
        }
    }

    async fn send(&self, packet: Bytes) -> Flow {
        self.sent(self.client.send(wrap(self.encoding(), packet)).await)
    }

    fn sent(&self, sent: Result<(), HubEnded>) -> Flow {
        match sent {
            Ok(()) => ControlFlow::Continue(()),
            Err(HubEnded) => ControlFlow::Break(self.end("edge_ended")),
        }
    }

    fn end(&self, reason: &'static str) -> End {
        End { farewell: self.with_close(Bytes::new()), reason }
    }

    /// Ends the transport, not the session: the official clients then come back by themselves.
    fn with_close(&self, farewell: Bytes) -> Bytes {
        match self.encoding() {
            Encoding::SocketIo => [farewell, frame::close(1000, "")].concat().into(),
            _ if farewell.is_empty() => CLOSE,
            _ => farewell,
        }
    }
}

impl Source {
    async fn next(&mut self) -> Input {
        match self {
            Self::Socket(reader) => match reader.next().await {
                Incoming::Text(text) => Input::Text(text),
                Incoming::Binary => Input::Binary,
                Incoming::Answer(bytes) => Input::Answer(bytes),
                Incoming::End { farewell, reason } => Input::End(End { farewell, reason }),
            },
            Self::Posts(posts) => match posts.next().await {
                Posted::Payload(payload) => Input::Payload(payload),
                Posted::Upgraded(reader) => Input::Upgraded(reader),
                Posted::End(reason) => Input::End(End { farewell: Bytes::new(), reason }),
            },
        }
    }
}

fn wrap(encoding: Encoding, packet: Bytes) -> Bytes {
    if encoding == Encoding::SocketIo { frame::text(&packet) } else { packet }
}

/// Starts a conversation on a connection that was just opened.
pub(super) fn spawn(server: &Server, engine: Engine) {
    server.ctx.tasks.track("client", engine.run());
}

/// A client on a new connection of the hub.
pub(super) async fn open(server: &Server, encoding: Encoding, sink: Sink) -> Option<Client> {
    let pid = super::secret_id().ok()?;
    let connection = server.services.hub.open(encoding, sink).await.ok()?;
    Some(Client::new(Arc::clone(&server.services), connection, pid))
}
