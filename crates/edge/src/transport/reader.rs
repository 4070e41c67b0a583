//! Reads a client's WebSocket frames with tungstenite. Whatever tungstenite writes by itself (pongs, the answer to a
//! close) is handed out, so that it goes through the connection's outbox like everything else.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tungstenite::error::{CapacityError, Error};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Message, Utf8Bytes};

use crate::frame;

/// tungstenite reads in pieces of this size, and zeroes as much at every read: small, since clients say little.
const READ_BYTES: usize = 128;

/// What a client sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(Utf8Bytes),
    Binary,
    /// Nothing for the conversation, but this is to be answered.
    Answer(Bytes),
    /// The end: what is to be sent last, and why for metrics.
    End {
        farewell: Bytes,
        reason: &'static str,
    },
}

pub(crate) struct Reader {
    socket: WebSocket<Shared>,
}

/// The stream's reading half, and what tungstenite wants to write.
struct Shared {
    stream: Arc<TcpStream>,
    answer: Vec<u8>,
}

impl Reader {
    /// `already` came with the request.
    pub(crate) fn new(stream: Arc<TcpStream>, already: &Bytes, message_bytes_max: usize) -> Self {
        let limit = Some(message_bytes_max);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(READ_BYTES)
            .max_message_size(limit)
            .max_frame_size(limit);
        let shared = Shared { stream, answer: Vec::new() };
        let socket = WebSocket::from_partially_read(shared, already.to_vec(), Role::Server, Some(config));
        Self { socket }
    }

    pub(crate) fn stream(&self) -> &Arc<TcpStream> {
        &self.socket.get_ref().stream
    }

    /// The next thing the client sent. Cancel safe.
    pub(crate) async fn next(&mut self) -> Incoming {
        loop {
            // a client that never pauses must not keep others from running
            tokio::task::coop::consume_budget().await;
            let read = self.socket.read();
            let answer = std::mem::take(&mut self.socket.get_mut().answer);
            match read {
                Ok(Message::Text(text)) => return Incoming::Text(text),
                Ok(Message::Binary(_)) => return Incoming::Binary,
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => {
                    // the answer, if there is one, is written by the next read
                    let _ = self.socket.flush();
                    let more = std::mem::take(&mut self.socket.get_mut().answer);
                    return Incoming::Answer([answer, more].concat().into());
                }
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !answer.is_empty() {
                        return Incoming::Answer(answer.into());
                    }
                    if self.stream().readable().await.is_err() {
                        return end(Bytes::new(), "lost");
                    }
                }
                Err(e) => return ended(&e, answer),
            }
        }
    }
}

fn end(farewell: Bytes, reason: &'static str) -> Incoming {
    Incoming::End { farewell, reason }
}

/// RFC 6455 section 7.4.1 has the codes.
fn ended(error: &Error, answer: Vec<u8>) -> Incoming {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => end(answer.into(), "client_closed"),
        Error::Io(_) => end(Bytes::new(), "lost"),
        Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
            end(frame::close(1009, &format!("messages have at most {max_size} bytes")), "message_too_big")
        }
        Error::Utf8(_) => end(frame::close(1007, "text frames are UTF-8"), "bad_frame"),
        other => end(frame::close(1002, &other.to_string()), "bad_frame"),
    }
}

impl Read for Shared {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.try_read(into)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
