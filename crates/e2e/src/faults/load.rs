//! The messages: of every class and kind of target, published over AMQP and HTTP by producers that do not give up.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use herald_wire::Cursor;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{interval, timeout};

use super::{Run, World};
use crate::{Herald, http};

const GROUPS: usize = 5;
/// Producers at the same time, of each kind.
const PRODUCERS: usize = 4;
/// Messages made and not taken by a producer.
const WAITING_MAX: usize = 64;
/// One of so many is published over HTTP.
const BY_HTTP: u64 = 8;
/// A producer that hears nothing for as long asks again, on a new connection.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Between attempts.
const RETRY_EVERY: Duration = Duration::from_millis(200);
const PAD_BYTES_MAX: usize = 2_000;

/// What a client registers as: two groups each, so that one message can reach it by several of its channels.
pub(super) fn registration(index: usize) -> Value {
    json!({"socketId": format!("c{index}"), "groupFlag": groups(index).map(group)})
}

fn groups(index: usize) -> [usize; 2] {
    [index % GROUPS, (index + 1) % GROUPS]
}

fn group(number: usize) -> String {
    format!("g{number}")
}

/// The channel that brought a message, if its targets leave no choice.
pub(super) fn channel(message: &Value) -> Option<String> {
    match (&message["socketGroupFlag"], &message["socketSessionId"]) {
        (Value::String(group), Value::Null) => Some(format!("g:{group}")),
        (Value::Null, Value::String(socket_id)) => Some(format!("s:{socket_id}")),
        _ => None,
    }
}

/// Where the message that brought this cursor stands in its log.
pub(super) fn position(cursor: &str, channel: Option<&str>) -> u64 {
    let cursor = Cursor::parse(cursor).expect("a cursor");
    match (cursor.mailbox, channel) {
        (Some(mailbox), Some(channel)) if channel.starts_with("s:") => mailbox.0,
        _ => cursor.position.0,
    }
}

/// A message, and whom it is for.
struct Made {
    number: u64,
    body: String,
}

struct Maker {
    random: fastrand::Rng,
    clients: usize,
    next: u64,
    world: Arc<World>,
}

impl Maker {
    fn make(&mut self) -> Made {
        let number = self.next;
        self.next += 1;
        let (mut client, mut member) = (None, BTreeSet::new());
        let mut message = json!({});
        let (a, b) = (self.random.usize(..GROUPS), self.random.usize(..GROUPS));
        let socket = self.random.usize(..self.clients);
        match self.random.u8(..20) {
            0..10 => {
                message["socketGroupFlag"] = json!(group(a));
                member.insert(a);
            }
            10..15 => {
                message["socketSessionId"] = json!(format!("c{socket}"));
                client = Some(socket);
            }
            15 => {
                message["socketGroupFlag"] = json!("*");
                member.extend(0..GROUPS);
            }
            16..19 => {
                message["socketGroupFlag"] = json!([group(a), group((a + 1) % GROUPS), group(b)]);
                member.extend([a, (a + 1) % GROUPS, b]);
            }
            _ => {
                message["socketGroupFlag"] = json!(group(a));
                message["socketSessionId"] = json!([format!("c{socket}")]);
                member.insert(a);
                client = Some(socket);
            }
        }
        let reliable = self.random.u8(..10) < 7;
        message["isVolatile"] = json!(!reliable);
        message["data"] = json!({"n": number, "pad": "x".repeat(self.random.usize(..PAD_BYTES_MAX))});
        let is_due =
            |index: &usize| Some(*index) == client || groups(*index).iter().any(|g| member.contains(g));
        let due = (0..self.clients).filter(is_due).collect();
        let to = format!("{} {}", message["socketSessionId"], message["socketGroupFlag"]);
        self.world.account().sent(number, (reliable, due, to), self.world.now());
        Made { number, body: message.to_string() }
    }
}

/// Publishes until the run is over, and ends when every message is with RabbitMQ or Redis.
pub(super) fn start(herald: &Herald, run: Run, world: Arc<World>) -> JoinHandle<()> {
    let (amqp, by_amqp) = mpsc::channel(WAITING_MAX);
    let (web, by_http) = mpsc::channel(WAITING_MAX);
    let mut producers = JoinSet::new();
    let (by_amqp, by_http) = (Arc::new(Mutex::new(by_amqp)), Arc::new(Mutex::new(by_http)));
    let ingests: Vec<SocketAddr> = herald.ingests.iter().map(|ingest| ingest.listen).collect();
    for _ in 0..PRODUCERS {
        producers.spawn(produce_amqp(herald.amqp_url.clone(), herald.queue.clone(), by_amqp.clone()));
        producers.spawn(produce_http(ingests.clone(), by_http.clone()));
    }
    let random = fastrand::Rng::with_seed(run.seed);
    let mut maker = Maker { random, clients: run.plain + run.official, next: 1, world };
    tokio::spawn(async move {
        let mut ticks = interval(Duration::from_secs(1) / run.rate);
        while !maker.world.is_over() {
            ticks.tick().await;
            let made = maker.make();
            let way = if made.number % BY_HTTP == 0 { &web } else { &amqp };
            way.send(made).await.expect("producers live");
        }
        drop((web, amqp));
        while let Some(produced) = producers.join_next().await {
            produced.expect("a producer ended well");
        }
    })
}

type Waiting = Arc<Mutex<mpsc::Receiver<Made>>>;

async fn produce_amqp(url: String, queue: String, waiting: Waiting) {
    let mut connected: Option<(Connection, Channel)> = None;
    let mut retries = interval(RETRY_EVERY);
    loop {
        let made = waiting.lock().await.recv().await;
        let Some(Made { number, body }) = made else { return };
        loop {
            if connected.is_none() {
                retries.tick().await;
                connected = timeout(ANSWER_MAX, connect(&url)).await.ok().flatten();
            }
            let Some((_, channel)) = &connected else { continue };
            let id = number.to_string();
            let properties =
                BasicProperties::default().with_delivery_mode(2).with_message_id(id.as_str().into());
            let publishing = async {
                let options = BasicPublishOptions::default();
                channel
                    .basic_publish("".into(), queue.as_str().into(), options, body.as_bytes(), properties)
                    .await?
                    .await
            };
            match timeout(ANSWER_MAX, publishing).await {
                Ok(Ok(confirmed)) if confirmed.is_ack() => break,
                // it may be there already: the id makes it one delivery
                _ => connected = None,
            }
        }
    }
}

async fn connect(url: &str) -> Option<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.ok()?;
    let channel = connection.create_channel().await.ok()?;
    channel.confirm_select(ConfirmSelectOptions::default()).await.ok()?;
    Some((connection, channel))
}

async fn produce_http(ingests: Vec<SocketAddr>, waiting: Waiting) {
    let mut retries = interval(RETRY_EVERY);
    loop {
        let made = waiting.lock().await.recv().await;
        let Some(Made { number, body }) = made else { return };
        for ingest in ingests.iter().cycle() {
            let key = number.to_string();
            let headers = [("content-type", "application/json"), ("idempotency-key", key.as_str())];
            let request = http::request("POST", *ingest, "/publish", &headers, body.clone().into());
            match timeout(ANSWER_MAX, http::try_send(*ingest, request)).await {
                Ok(Ok(answer)) if answer.status == 200 => break,
                _ => drop(retries.tick().await),
            }
        }
    }
}
