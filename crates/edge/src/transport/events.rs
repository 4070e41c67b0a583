//! `/events`: Server-Sent Events (WHATWG HTML, section 9.2). The URL says who the client is, and so does it again when
//! the browser reconnects; `Last-Event-ID` says from where on.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::StreamExt as _;
use herald_wire::TargetKind;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming as HttpBody};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::ask;
use super::engine;
use crate::client::Client;
use crate::delivery::{self, Encoding};
use crate::http::{Body, error, full, not_allowed};
use crate::hub::{Signal, Sink};
use crate::metrics;
use crate::serve::{Place, Server};
use crate::session::Registration;

/// Chunks handed to the response and not sent yet.
const CHUNKS_MAX: usize = 2;
/// A browser that was cut off comes back after this, in milliseconds.
const RETRY: &str = "retry: 1000\n\n";

/// Answers a request to `/events`.
pub(crate) async fn serve(server: Server, request: Request<HttpBody>) -> Response<Body> {
    if request.method() != Method::GET {
        return not_allowed("GET");
    }
    let asked = registration(request.uri().query().unwrap_or_default());
    let cursor = request.headers().get("last-event-id").and_then(|id| id.to_str().ok());
    let cursor = cursor.filter(|id| !id.is_empty()).map(str::to_owned);
    let Some(place) = server.place("events") else { return full() };
    let (chunks, sent) = mpsc::channel(CHUNKS_MAX);
    let Some(mut client) = engine::open(&server, Encoding::Events, Sink::Pull(chunks.clone())).await else {
        return full();
    };
    let from = cursor.as_deref().map(|cursor| (cursor, Encoding::Events));
    if let Err(e) = Box::pin(client.register_from(asked, from)).await {
        metrics::refused(e.code());
        let status = if e.is_ours() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        client.close(Bytes::new()).await;
        return error(status, e.code(), &e.to_string());
    }
    let hello = ask::registered(&client);
    let first =
        [Bytes::from_static(RETRY.as_bytes()), delivery::event(Encoding::Events, "registered", &hello)];
    server.ctx.tasks.track("client", converse(client, chunks, place));
    stream(first, sent)
}

/// `socketId=…&group=…&group=…`; `groupFlag` is `group` by its other name.
fn registration(query: &str) -> Registration {
    let mut asked = Registration::default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "socketId" => asked.socket_id = Some(value.into_owned()),
            "group" | "groupFlag" => asked.groups.push(value.into_owned()),
            _ => {}
        }
    }
    asked
}

fn stream(first: [Bytes; 2], chunks: mpsc::Receiver<Vec<Bytes>>) -> Response<Body> {
    let later = ReceiverStream::new(chunks).map(|chunk| Bytes::from(chunk.concat()));
    let frames =
        futures_util::stream::iter(first).chain(later).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // a proxy that buffers would hold every event back
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The connection's owner: there is nothing to read, only the end to wait for.
async fn converse(mut client: Client, chunks: mpsc::Sender<Vec<Bytes>>, _place: Place) {
    let connection = client.connection.clone();
    let reason = loop {
        tokio::select! {
            biased;
            signal = connection.signalled() => match signal {
                Signal::Superseded(target) => {
                    let lost = client.superseded(&target).await;
                    if let (true, TargetKind::Socket(socket_id)) = (lost, target.kind()) {
                        let json = json!({ "socketId": socket_id });
                        let event = delivery::event(Encoding::Events, "superseded", &json);
                        if client.send(event).await.is_err() {
                            break "edge_ended";
                        }
                    }
                }
                Signal::Unrecorded => client.record_again().await,
                Signal::Close(reason) => break reason.label(),
            },
            () = chunks.closed() => break "client_closed",
        }
    };
    metrics::closed(reason);
    drop(chunks);
    client.close(Bytes::new()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_says_who_the_client_is() {
        let asked = registration("socketId=a%20b&group=g&groupFlag=h&x=y&group=i");
        assert_eq!(asked.socket_id.as_deref(), Some("a b"));
        assert_eq!(asked.groups, ["g", "h", "i"]);
        assert_eq!(registration(""), Registration::default());
    }
}
