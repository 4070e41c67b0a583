//! What RabbitMQ and lapin allow on this machine: a consumer that does nothing but acknowledge. The ceiling that unicast
//! is compared with. Knows nothing of Herald but how its queue is declared. Prints one line of JSON.
//!
//! `cargo run --release -p herald-loadtest --example bare_consumer -- --amqp-url amqp://127.0.0.1:5672/%2f`
//!
//! `backlog_per_s`: a full queue is drained, nobody publishes. `through_per_s`: a publisher beside it sends as fast as
//! messages are acknowledged, never more than `--in-flight` ahead: what can go through while latency stays bounded. With
//! `--in-flight 0` somebody else publishes, and the queue stays.

#![allow(clippy::print_stdout)] // a line is what it is for

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A consumer that only acknowledges
#[derive(Clone, Debug, Parser)]
struct Settings {
    /// RabbitMQ
    #[arg(long, env = "HERALD_AMQP_URL")]
    amqp_url: String,
    /// Declared as ingest declares it, and deleted at the end unless somebody else publishes
    #[arg(long, default_value = "bare-consumer")]
    queue: String,
    /// Bytes of a message
    #[arg(long, default_value = "300")]
    bytes: usize,
    /// Messages unacknowledged at one time: ingest's window
    #[arg(long, default_value = "2000")]
    prefetch: u16,
    /// Messages acknowledged at once, unless fewer are there: ingest's batch
    #[arg(long, default_value = "256")]
    batch: usize,
    /// Messages of the backlog
    #[arg(long, default_value = "200000")]
    backlog: usize,
    /// Messages published and not yet acknowledged, at most, when both go on at once
    #[arg(long, default_value = "10000")]
    in_flight: usize,
    /// How long both go on at once
    #[arg(long, default_value = "10")]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let settings = Settings::parse();
    let admin = channel(&settings).await?;
    declare(&admin.1, &settings.queue).await?;

    let publisher = channel(&settings).await?;
    // permits that nobody gives back: as many as the backlog has messages
    let backlog = Arc::new(Semaphore::new(settings.backlog));
    publish(publisher.1.clone(), &settings, Arc::clone(&backlog), settings.backlog).await?;
    let started = Instant::now();
    consume(&settings, settings.backlog, Instant::now() + Duration::from_secs(600), |_| {}).await?;
    let backlog_per_s = settings.backlog as f64 / started.elapsed().as_secs_f64();

    let room = Arc::new(Semaphore::new(settings.in_flight));
    if settings.in_flight == 0 {
        // what was consumed makes room for nobody
        room.close();
    }
    let publishing = tokio::spawn(publish_all(publisher.1.clone(), settings.clone(), Arc::clone(&room)));
    let started = Instant::now();
    let until = started + Duration::from_secs(settings.seconds);
    let through = consume(&settings, usize::MAX, until, |count| room.add_permits(count)).await?;
    let through_per_s = through as f64 / started.elapsed().as_secs_f64();
    room.close();
    publishing.await??;

    if settings.in_flight > 0 {
        admin.1.queue_delete(settings.queue.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    println!(
        "{}",
        serde_json::json!({
            "backlog_per_s": backlog_per_s.round(),
            "through_per_s": through_per_s.round(),
            "prefetch": settings.prefetch,
            "bytes": settings.bytes,
        })
    );
    Ok(())
}

/// A connection of its own, which must live as long as its channel.
async fn channel(settings: &Settings) -> Result<(Connection, Channel), Failure> {
    let connection = Connection::connect(&settings.amqp_url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// As ingest declares its queue, without a dead-letter exchange, which would have to exist.
async fn declare(channel: &Channel, queue: &str) -> Result<(), Failure> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(600_000));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(100));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(())
}

async fn publish_all(channel: Channel, settings: Settings, room: Arc<Semaphore>) -> Result<(), Failure> {
    publish(channel, &settings, room, usize::MAX).await
}

/// Publishes `count` messages, each as soon as there is room for it, and waits for the confirms; or until the semaphore is
/// closed.
async fn publish(
    channel: Channel,
    settings: &Settings,
    room: Arc<Semaphore>,
    count: usize,
) -> Result<(), Failure> {
    const UNCONFIRMED_MAX: usize = 1_000;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let body = vec![b'x'; settings.bytes];
    let properties = BasicProperties::default().with_delivery_mode(2);
    let mut confirms = futures_util::stream::FuturesUnordered::new();
    for _ in 0..count {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        OwnedSemaphorePermit::forget(permit); // the consumer gives it back
        let options = BasicPublishOptions::default();
        let queue = settings.queue.as_str().into();
        confirms.push(channel.basic_publish("".into(), queue, options, &body, properties.clone()).await?);
        if confirms.len() >= UNCONFIRMED_MAX
            && let Some(confirmed) = confirms.next().await
        {
            confirmed?;
        }
    }
    while let Some(confirmed) = confirms.next().await {
        confirmed?;
    }
    Ok(())
}

/// Consumes and acknowledges up to `count` messages until a time, telling how many each batch had.
async fn consume(
    settings: &Settings,
    count: usize,
    until: Instant,
    acknowledged: impl Fn(usize),
) -> Result<usize, Failure> {
    let (_connection, channel) = channel(settings).await?;
    channel.basic_qos(settings.prefetch, BasicQosOptions::default()).await?;
    let queue = settings.queue.as_str().into();
    let consumer =
        channel.basic_consume(queue, "bare".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut batches = consumer.await?.ready_chunks(settings.batch);
    let mut done = 0;
    while done < count && Instant::now() < until {
        let Ok(Some(batch)) = tokio::time::timeout_at(until.into(), batches.next()).await else { break };
        let size = batch.len();
        if let Some(last) = batch.into_iter().next_back() {
            channel.basic_ack(last?.delivery_tag, BasicAckOptions { multiple: true }).await?;
        }
        done += size;
        acknowledged(size);
    }
    Ok(done)
}
