//! A client of the plain WebSocket, `/ws`: JSON text frames, each shown as an event of its `type`.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tungstenite::protocol::{CloseFrame, Role, WebSocket};
use tungstenite::{ClientHandshake, HandshakeError, Message};

use crate::Inbox;
use crate::wait::PATIENCE;

/// A connection to `/ws`, or to any other WebSocket of an edge. A thread reads, so pings are answered; the end shows as
/// the event `closed`.
#[derive(Debug)]
pub struct PlainClient {
    /// What the server sent.
    pub inbox: Inbox,
    writer: WebSocket<TcpStream>,
    stream: TcpStream,
    stalled: Arc<(Mutex<bool>, Condvar)>,
}

impl PlainClient {
    /// Connects to `/ws` and takes the server's `hello` away.
    pub async fn connect(edge: SocketAddr) -> Self {
        let mut client = Self::open(edge, "/ws");
        client.inbox.next("hello").await;
        client
    }

    /// Connects, registers, and waits for the answer.
    pub async fn registered(edge: SocketAddr, register: Value) -> Self {
        let mut client = Self::connect(edge).await;
        client.register(register).await;
        client
    }

    /// Connects, registers, and reads nothing from then on. Dropping what is returned closes the connection.
    pub fn stalled(edge: SocketAddr, mut register: Value) -> impl Send {
        let stream = TcpStream::connect(edge).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut socket, _) =
            tungstenite::client(format!("ws://{edge}/ws"), stream).map_err(refusal).expect("a WebSocket");
        register["type"] = json!("register");
        socket.send(Message::text(register.to_string())).expect("sent");
        loop {
            let Message::Text(text) = socket.read().expect("an answer") else { continue };
            if shown(&text)["event"] == "registered" {
                return socket;
            }
        }
    }

    /// Connects to a path.
    pub fn open(edge: SocketAddr, path: &str) -> Self {
        Self::try_open(edge, path).unwrap_or_else(|error| panic!("no WebSocket at {edge}{path}: {error}"))
    }

    /// Connects to a path, or says how the server refused: `HTTP 400` or another failure.
    pub fn try_open(edge: SocketAddr, path: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(edge).expect("connects");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout for the handshake");
        let url = format!("ws://{edge}{path}");
        let (reader, _) =
            tungstenite::client(url, stream.try_clone().expect("a second handle")).map_err(refusal)?;
        stream.set_read_timeout(None).expect("no timeout from here on");
        let (events, inbox) = Inbox::new(&format!("the client of {edge}{path}"));
        let stalled = Arc::<(Mutex<bool>, Condvar)>::default();
        let stalls = stalled.clone();
        std::thread::spawn(move || read(reader, &events, &stalls));
        let writer =
            WebSocket::from_raw_socket(stream.try_clone().expect("a second handle"), Role::Client, None);
        Ok(Self { inbox, writer, stream, stalled })
    }

    /// Sends a frame of JSON.
    pub fn send(&mut self, frame: &Value) {
        self.send_message(Message::text(frame.to_string()));
    }

    /// Sends any WebSocket message. A server that has closed is not an error: the event `closed` tells.
    pub fn send_message(&mut self, message: Message) {
        let _ = self.writer.send(message);
    }

    /// Sends bytes that need not be a WebSocket frame.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        use std::io::Write as _;
        let _ = self.stream.write_all(bytes);
    }

    /// Registers, and returns the answer.
    pub async fn register(&mut self, mut register: Value) -> Value {
        register["type"] = json!("register");
        self.send(&register);
        self.inbox.next("registered").await
    }

    /// Reads no more after the next frame, and so answers no ping.
    pub fn stall(&self) {
        *lock(&self.stalled.0) = true;
    }

    /// Reads again.
    pub fn go_on(&self) {
        *lock(&self.stalled.0) = false;
        self.stalled.1.notify_all();
    }

    /// The network goes: no close frame.
    pub fn cut(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Says goodbye as the protocol asks for.
    pub fn close(&mut self) {
        let _ = self.writer.close(Some(CloseFrame {
            code: tungstenite::protocol::frame::coding::CloseCode::Normal,
            reason: "done".into(),
        }));
    }
}

impl Drop for PlainClient {
    fn drop(&mut self) {
        self.cut();
        self.go_on();
    }
}

fn lock(stalled: &Mutex<bool>) -> MutexGuard<'_, bool> {
    stalled.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(
    mut socket: WebSocket<TcpStream>,
    events: &UnboundedSender<Value>,
    (stalled, changed): &(Mutex<bool>, Condvar),
) {
    let closed = loop {
        drop(changed.wait_while(lock(stalled), |stalled| *stalled));
        let event = match socket.read() {
            Ok(Message::Text(text)) => shown(&text),
            Ok(Message::Binary(bytes)) => json!({"event": "binary", "length": bytes.len()}),
            Ok(Message::Close(frame)) => {
                let code = frame.as_ref().map(|frame| u16::from(frame.code));
                break json!({"event": "closed", "code": code, "reason": frame.map(|f| f.reason.to_string())});
            }
            Ok(_) => continue,
            Err(error) => break json!({"event": "closed", "error": error.to_string()}),
        };
        if events.send(event).is_err() {
            return;
        }
    };
    let _ = events.send(closed);
}

fn refusal(error: HandshakeError<ClientHandshake<TcpStream>>) -> String {
    match error {
        HandshakeError::Failure(tungstenite::Error::Http(answer)) => {
            format!("HTTP {}", answer.status().as_u16())
        }
        other => other.to_string(),
    }
}

/// A frame as an event; what is not one of `/ws`' objects is shown as `text`.
fn shown(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(mut frame) if frame["type"].is_string() => {
            frame["event"] = frame["type"].take();
            frame
        }
        _ => json!({"event": "text", "text": text}),
    }
}
