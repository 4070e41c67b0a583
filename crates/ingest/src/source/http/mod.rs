//! `POST /publish`: the queue's contract over HTTP, for producers without an AMQP client and for the embedded mode.
//!
//! The body is one message, or an array of messages, in JSON. An answer is given only once the bus has answered, so
//! `"accepted":true` for a reliable message means that it is in the log of every one of its targets.
//!
//! | request header | meaning |
//! |---|---|
//! | `Content-Type` | `application/json`; what `curl -d` sends is taken too, and none at all |
//! | `Authorization: Bearer …` | where a token is configured |
//! | `Idempotency-Key` | the `message_id`; in an array the n-th message, from 0, gets `key/n` |
//! | `Herald-Expiration-Ms` | time to live of the message, or of each in the array |
//! | `traceparent` | W3C trace context |
//!
//! | status | body | when |
//! |---|---|---|
//! | 200 | `{"accepted":true,"id":"…","duplicate":false}` | one message, published. `id` is what duplicates are told by; a volatile message without a key has none |
//! | 422 | `{"accepted":false,"error":{"code":"no_target","message":"…"}}` | one message that can never be published |
//! | 200 | `{"results":[…]}` | an array: for each message, in order, one of the objects above |
//! | 400 | `{"error":{"code":"not_json","message":"…"}}`, `invalid_header`, `unreadable` | the request cannot be read |
//! | 401 `unauthorized`, 403 `cross_origin`, 404 `not_found`, 405 `method_not_allowed`, 408 `too_slow`, 413 `too_large`, `too_many_messages`, 415 `unsupported_media_type` | the same | as they say |
//! | 503 with `Retry-After` | the same, `overloaded`; or the answers above with `unavailable` or, volatile, `shed` | too much is in flight, or messages must wait and did so for a second; or the bus took none of the messages; or it waited too long to be worth sending. Sending them again with the same key (or the `id` that was answered) is safe |
//!
//! A browser's page on another origin is refused: there is no CORS here, and a page that a person happens to look at
//! must not publish to their own machine's Herald.

mod messages;
mod reply;
mod server;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_bus::Bus;
use herald_chassis::{Secret, Tasks};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use crate::clock::now_us;
use crate::flow::Flow;
use crate::metrics::Metrics;
use crate::plan::Rules;
use messages::{Properties, Request as Messages, Ways};
use reply::Failure;
pub(crate) use server::serve;

/// The one path.
pub const PATH: &str = "/publish";
/// All request bodies together; further requests are answered 503.
pub const BODIES_BYTES_MAX: usize = 64 << 20;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a request waits while messages must wait; longer, and its producer is told to come back.
const PATIENCE: Duration = Duration::from_secs(1);
/// What is counted against [`BODIES_BYTES_MAX`].
const BLOCK_BYTES: usize = 1_024;

/// The bounds of the HTTP source.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The largest request body; at most [`BODIES_BYTES_MAX`] counts.
    pub body_bytes_max: usize,
    /// The most messages in one request.
    pub messages_max: usize,
    /// The most messages in flight to the bus; never less than `messages_max`.
    pub window: usize,
    /// The most connections; further ones wait in the kernel.
    pub connections_max: usize,
    /// What `Authorization: Bearer` must say, where set.
    pub token: Option<Secret>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: 5_000_000,
            messages_max: 1_000,
            window: 4_000,
            connections_max: 1_000,
            token: None,
        }
    }
}

/// Answers publish requests; a server of its own ([`crate::run`]) or another service's can hand them in. Cloning is a
/// reference count.
#[derive(Clone)]
pub struct Intake(Arc<Inner>);

struct Inner {
    config: HttpConfig,
    rules: Rules,
    ways: Ways,
    tasks: Tasks,
    bodies: Arc<Semaphore>,
    window: Arc<Semaphore>,
}

impl Intake {
    /// Call it after the metrics recorder was installed.
    pub fn new(config: HttpConfig, rules: Rules, (bus, flow): (Bus, Flow), tasks: Tasks) -> Self {
        let bodies = Arc::new(Semaphore::new(BODIES_BYTES_MAX / BLOCK_BYTES));
        let window = Arc::new(Semaphore::new(config.window.max(config.messages_max)));
        let ways = Ways { bus, flow, metrics: Metrics::new() };
        Self(Arc::new(Inner { config, rules, ways, tasks, bodies, window }))
    }

    /// Answers one request, whatever its path.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let response = match self.0.publish(request).await {
            Ok(response) => response,
            Err(failure) => failure.response(),
        };
        self.0.ways.metrics.http_answered(response.status());
        response
    }
}

impl Inner {
    async fn publish<B>(&self, request: Request<B>) -> Result<Response<Full<Bytes>>, Failure>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let arrived_us = now_us();
        let (parts, body) = request.into_parts();
        self.admit(&parts)?;
        let properties = Properties::read(&parts.headers)?;
        let announced = body.size_hint().upper();
        let _held = self.reserve_body(announced)?;
        let body = self.read(body).await?;
        let messages = Messages::read(body, self.config.messages_max)?;
        let window = take(&self.window, messages.len())?;
        self.wait_for_room(messages.len()).await?;
        // finished even when the producer hangs up meanwhile, so that every message taken in is accounted for
        let (sender, answer) = oneshot::channel();
        let (ways, rules) = (self.ways.clone(), self.rules.clone());
        self.tasks.track("http publish", async move {
            let _window = window;
            let response = messages.publish(&ways, &rules, (&properties, arrived_us)).await;
            // nobody may be waiting any more
            let _ = sender.send(response);
        });
        answer.await.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", "see the log"))
    }

    /// A request passes as a whole: what it takes beyond the room of now, later ones wait for.
    async fn wait_for_room(&self, messages: usize) -> Result<(), Failure> {
        let admitted = timeout(PATIENCE, self.ways.flow.admit(messages)).await;
        admitted.map_err(|_| overloaded("more is published than clients can be sent: try again in a second"))
    }

    /// Everything that can be refused before the body is read.
    fn admit(&self, parts: &Parts) -> Result<(), Failure> {
        let headers = &parts.headers;
        if parts.uri.path() != PATH {
            let what = format!("there is only {PATH} here");
            return Err(Failure::new(StatusCode::NOT_FOUND, "not_found", what));
        }
        if parts.method != Method::POST {
            let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use POST");
            return Err(failure.with(header::ALLOW, "POST"));
        }
        if !is_same_origin(headers) {
            let what = "pages of other origins must not publish: send it from your own server";
            return Err(Failure::new(StatusCode::FORBIDDEN, "cross_origin", what));
        }
        if let Some(token) = &self.config.token
            && !bearer(headers).is_some_and(|given| equal(given.as_bytes(), token.expose().as_bytes()))
        {
            let what = "send the token as Authorization: Bearer";
            let failure = Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", what);
            return Err(failure.with(header::WWW_AUTHENTICATE, "Bearer"));
        }
        if !is_json(headers) {
            let what = "send application/json, not compressed";
            return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", what));
        }
        Ok(())
    }

    fn reserve_body(&self, announced: Option<u64>) -> Result<OwnedSemaphorePermit, Failure> {
        let max = self.config.body_bytes_max as u64;
        let expected = announced.unwrap_or(max);
        if expected > max {
            return Err(self.too_large());
        }
        let blocks = (expected as usize).min(BODIES_BYTES_MAX).div_ceil(BLOCK_BYTES);
        take(&self.bodies, blocks)
    }

    async fn read<B>(&self, body: B) -> Result<Bytes, Failure>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match timeout(BODY_TIMEOUT, Limited::new(body, self.config.body_bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(self.too_large()),
            Ok(Err(error)) => Err(Failure::unreadable(error)),
            Err(_) => {
                let what = format!("the body did not arrive within {BODY_TIMEOUT:?}");
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "too_slow", what))
            }
        }
    }

    fn too_large(&self) -> Failure {
        let what = format!("the body is larger than {} bytes", self.config.body_bytes_max);
        // the rest of it is still on its way
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", what).with(header::CONNECTION, "close")
    }
}

fn take(semaphore: &Arc<Semaphore>, count: usize) -> Result<OwnedSemaphorePermit, Failure> {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    semaphore
        .clone()
        .try_acquire_many_owned(count)
        .map_err(|_| overloaded("too much is in flight already: try again"))
}

fn overloaded(what: &str) -> Failure {
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", what)
}

/// Browsers name the page's origin on every cross-origin POST; other clients do not.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// In a time that does not tell how much of it is right.
fn equal(given: &[u8], token: &[u8]) -> bool {
    given.len() == token.len() && given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn is_json(headers: &HeaderMap) -> bool {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return false;
    }
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // what `curl -d` says unless told otherwise
    matches!(kind.as_str(), "application/json" | "application/x-www-form-urlencoded")
        || kind.ends_with("+json")
}

impl Failure {
    fn unreadable(error: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unreadable", format!("the body cannot be read: {error}"))
    }
}

#[cfg(test)]
mod tests;
