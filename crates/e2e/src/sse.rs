//! A client of `/events`: Server-Sent Events as the HTML standard frames them (section 9.2.6, "Interpreting an event
//! stream").

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::Inbox;
use crate::wait::PATIENCE;

/// An open event stream. Its end shows as the event `closed`.
#[derive(Debug)]
pub struct SseClient {
    /// What the server sent; an event's `id` is the `cursor`, its parsed `data` the `message`.
    pub inbox: Inbox,
    reader: JoinHandle<()>,
}

impl SseClient {
    /// Asks for a stream, such as `/events?socketId=me`, and waits for the answer's head: the client is registered.
    pub async fn connect(edge: SocketAddr, path: &str) -> Self {
        Self::resume(edge, path, None).await
    }

    /// The same with the cursor that a browser would send when it reconnects.
    pub async fn resume(edge: SocketAddr, path: &str, last_event_id: Option<&str>) -> Self {
        let stream = tokio::net::TcpStream::connect(edge).await.expect("connects");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection);
        let mut request =
            Request::get(path).header("host", edge.to_string()).header("accept", "text/event-stream");
        if let Some(cursor) = last_event_id {
            request = request.header("last-event-id", cursor);
        }
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let answer =
            timeout(PATIENCE, sender.send_request(request)).await.expect("an answer").expect("a stream");
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], "text/event-stream", "{path}");
        let (events, inbox) = Inbox::new(&format!("the event stream {edge}{path}"));
        let body = answer.into_body();
        let reader = tokio::spawn(async move {
            read(body, &events).await;
            // the connection lives as long as its sender
            drop(sender);
        });
        Self { inbox, reader }
    }
}

impl Drop for SseClient {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(mut body: Incoming, events: &UnboundedSender<Value>) {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        while let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = bytes.drain(..end + 2).collect();
            if let Some(event) = event(std::str::from_utf8(&block).expect("UTF-8")) {
                let _ = events.send(event);
            }
        }
    }
    let _ = events.send(json!({"event": "closed"}));
}

/// One block of lines; `None` for a comment.
fn event(block: &str) -> Option<Value> {
    let (mut kind, mut id, mut data) = ("message", Value::Null, Vec::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = value,
            "id" => id = json!(value),
            "data" => data.push(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return None;
    }
    let data = data.join("\n");
    let parsed = serde_json::from_str(&data).unwrap_or(Value::String(data));
    Some(json!({"event": kind, "message": parsed, "cursor": id}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_events_and_comments_are_nothing() {
        assert_eq!(
            event("event: message\nid: c1\ndata: {\"a\":1}\n\n"),
            Some(json!({"event": "message", "message": {"a": 1}, "cursor": "c1"}))
        );
        assert_eq!(event(": ping\n\n"), None);
        assert_eq!(
            event("data: x\ndata: y\n\n"),
            Some(json!({"event": "message", "message": "x\ny", "cursor": null}))
        );
    }
}
