//! RabbitMQ: connect, declare, consume, acknowledge, and publish dead letters. The only place that knows lapin; when
//! to do any of it is `pipeline`'s and `dead_letters`'.
//!
//! One connection is one generation: nothing here reconnects, so a tag can never reach another channel than its own.
//! (lapin can recover by itself, but then redelivered tags start again at 1 on the same handle, without an error.)
//! Dead letters go over a connection of their own: a broker that is short of memory stops reading from connections
//! that publish, and the acks that would relieve it must not be behind that.

mod properties;

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use herald_chassis::SecretUrl;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind, ExchangeKind, Queue,
};
use tokio::time::{sleep, timeout};

use self::properties::Properties;
use crate::plan::Refusal;
use crate::source::queue::{AmqpConfig, Argument, Declare};

/// How long connecting and declaring may take together, and closing.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a session that hands out nothing looks whether it still stands.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Seconds; a peer that is silent for twice that long is gone. The URL may say otherwise.
const HEARTBEAT_S: u16 = 10;
const CLOSE_CODE: u16 = 200;

/// Why RabbitMQ could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The URL cannot be used.
    #[error("the AMQP URL cannot be used: {0}")]
    Url(String),
    /// No usable connection.
    #[error("no connection to RabbitMQ at {server}: {source}")]
    Connect {
        /// Without the password.
        server: String,
        /// What it ended with.
        source: lapin::Error,
    },
    /// No answer while connecting or declaring.
    #[error("RabbitMQ at {server} did not answer within {after:?}")]
    Timeout {
        /// Without the password.
        server: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It exists, and is not what it was declared as.
    #[error(
        "{what} exists with other arguments than those it was declared with: {text}. Delete it, or \
         set HERALD_QUEUE_TYPE, HERALD_QUEUE_TTL_MS and HERALD_DEAD_LETTER to what it has, or \
         HERALD_QUEUE_DECLARE=passive to take it as it is"
    )]
    Mismatch {
        /// Queue or exchange and its name.
        what: String,
        /// RabbitMQ's own words, which name the argument.
        text: String,
    },
    /// Declaring or consuming was refused.
    #[error("RabbitMQ refuses {what}: {source}")]
    Refused {
        /// Queue or exchange and its name.
        what: String,
        /// Its answer.
        source: lapin::Error,
    },
    /// The connection, the channel or the consumer ended.
    #[error("the connection to RabbitMQ ended: {0}")]
    Lost(#[from] lapin::Error),
    /// A delivery is not AMQP as lapin reads it. No tag of it is known, so it cannot be refused.
    #[error(
        "RabbitMQ delivered what cannot be read, such as a message_id that is not UTF-8 ({source}); messages come one \
         at a time until a quorum queue has dead-lettered it, a classic queue must be rid of it by hand"
    )]
    Unreadable {
        /// What lapin made of it.
        source: lapin::Error,
    },
    /// The queue was deleted, or its leader moved.
    #[error("RabbitMQ ended the consumer of {queue}: was the queue deleted?")]
    Cancelled {
        /// Its name.
        queue: String,
    },
    /// A dead letter came back, or was refused.
    #[error("the dead-letter exchange {exchange} did not take a message: {why}")]
    NotConfirmed {
        /// Its name.
        exchange: String,
        /// What RabbitMQ said.
        why: String,
    },
}

impl AmqpError {
    /// Whether trying again is pointless until somebody changes something.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Url(_) | Self::Mismatch { .. })
    }

    fn ended(source: lapin::Error) -> Self {
        match source.kind() {
            ErrorKind::ParsingError(_) => Self::Unreadable { source },
            _ => Self::Lost(source),
        }
    }
}

/// A message as RabbitMQ delivered it.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Its tag on this connection's channel.
    pub(crate) number: u64,
    pub(crate) body: Bytes,
    pub(crate) properties: Properties,
}

/// A message for the dead-letter queue.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) body: Bytes,
    pub(crate) properties: Properties,
    pub(crate) refusal: Refusal,
}

/// A connection that consumes. Dropping it closes it.
pub(crate) struct Session {
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    queue: String,
    /// Received while there was no room.
    stash: Option<Delivery>,
}

/// A connection that publishes dead letters. Dropping it closes it.
pub(crate) struct Outlet {
    /// Dropping it would end the channel.
    _connection: Connection,
    channel: Channel,
    exchange: String,
    queue: String,
}

/// Reads a URL, without its password in what is wrong with it.
pub(crate) fn parse_url(url: &SecretUrl) -> Result<AMQPUri, AmqpError> {
    let mut uri: AMQPUri = url.expose().parse().map_err(AmqpError::Url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    Ok(uri)
}

impl Session {
    /// Connects, declares, and consumes up to `prefetch` unacknowledged messages.
    pub(crate) async fn open(config: &AmqpConfig, prefetch: u16) -> Result<Self, AmqpError> {
        within_open_timeout(config, async {
            let connection = connect(config, "herald-ingest").await?;
            let channel = connection.create_channel().await?;
            declare(&channel, config).await?;
            channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let (queue, tag, none) = (short(&config.queue), ShortString::default(), FieldTable::default());
            let consuming = channel.basic_consume(queue, tag, BasicConsumeOptions::default(), none);
            let refused = |source| AmqpError::Refused { what: format!("consuming {}", config.queue), source };
            let consumer = consuming.await.map_err(refused)?;
            Ok(Self { connection, channel, consumer, queue: config.queue.clone(), stash: None })
        })
        .await
    }

    /// Waits for a delivery, and takes what else is there, up to `max`. With `max` 0 it only ever answers an error.
    /// Cancel safe.
    pub(crate) async fn next(&mut self, max: usize) -> Result<Vec<Delivery>, AmqpError> {
        if self.is_live() && self.stash.is_none() {
            self.stash = Some(self.receive().await?);
        }
        // what was received before the end would hide it, and comes again
        while max == 0 && self.is_live() {
            sleep(LOOK_EVERY).await;
        }
        if !self.is_live() {
            return Err(self.end().await);
        }
        let mut deliveries: Vec<_> = self.stash.take().into_iter().collect();
        while deliveries.len() < max
            && let Some(delivery) = self.receive().now_or_never()
        {
            match delivery {
                Ok(delivery) => deliveries.push(delivery),
                // it will be told again: what came before it is worth handing on
                Err(_) => break,
            }
        }
        Ok(deliveries)
    }

    fn is_live(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Why it ended; forgets what was received.
    async fn end(&mut self) -> AmqpError {
        self.stash = None;
        loop {
            if let Err(error) = self.receive().await {
                return error;
            }
        }
    }

    /// How many messages wait in the queue, and how many consumers take from it, if RabbitMQ says.
    pub(crate) fn backlog(&self) -> impl Future<Output = Option<(u32, u32)>> + Send + use<> {
        let (channel, name) = (self.channel.clone(), self.queue.clone());
        async move {
            let queue = declare_queue(&channel, Declare::Passive, &name, Vec::new()).await.ok()?;
            Some((queue.message_count(), queue.consumer_count()))
        }
    }

    /// Whether a delivery came for which there was no room.
    pub(crate) fn is_waiting(&self) -> bool {
        self.stash.is_some()
    }

    async fn receive(&mut self) -> Result<Delivery, AmqpError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => Ok(Delivery {
                number: delivery.delivery_tag,
                body: delivery.data.into(),
                properties: Properties(delivery.properties),
            }),
            Some(Err(error)) => Err(AmqpError::ended(error)),
            None => Err(AmqpError::Cancelled { queue: self.queue.clone() }),
        }
    }

    /// Acknowledges this delivery and all before it.
    pub(crate) async fn ack(&self, number: u64) -> Result<(), AmqpError> {
        self.channel.basic_ack(number, BasicAckOptions { multiple: true }).await.map_err(AmqpError::ended)
    }

    /// No more deliveries; those on their way go back to the queue when the connection closes.
    pub(crate) async fn cancel(&self) {
        let cancelled = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions { nowait: false });
        // a consumer that is gone already is what was wanted
        let _ = timeout(CLOSE_TIMEOUT, cancelled).await;
    }

    /// Ends channel and connection in order.
    pub(crate) async fn close(self) {
        let closed = async {
            self.channel.close(CLOSE_CODE, short("OK")).await?;
            self.connection.close(CLOSE_CODE, short("OK")).await
        };
        match timeout(CLOSE_TIMEOUT, closed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the connection was closed already"),
            Err(_) => tracing::warn!("RabbitMQ does not answer to close; leaving"),
        }
    }
}

impl Outlet {
    /// Connects, and declares what dead letters need.
    pub(crate) async fn open(config: &AmqpConfig) -> Result<Self, AmqpError> {
        within_open_timeout(config, async {
            let connection = connect(config, "herald-ingest dead letters").await?;
            let channel = connection.create_channel().await?;
            declare_dead_letter(&channel, config).await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let (exchange, queue) = (config.dead_letter.clone(), config.queue.clone());
            Ok(Self { _connection: connection, channel, exchange, queue })
        })
        .await
    }

    /// Publishes, and waits for the confirms; one answer per letter, in order.
    pub(crate) async fn publish(&self, letters: &[Letter]) -> Vec<Result<(), AmqpError>> {
        let mut confirms = Vec::with_capacity(letters.len());
        for letter in letters {
            let sent = self.channel.basic_publish(
                short(&self.exchange),
                short(&self.queue),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                &letter.body,
                letter.properties.dead(&letter.refusal, &self.queue),
            );
            confirms.push(sent.await);
        }
        let mut answers = Vec::with_capacity(letters.len());
        for confirm in confirms {
            answers.push(match confirm {
                Ok(confirm) => {
                    confirm.await.map_err(AmqpError::from).and_then(|answer| self.confirmed(answer))
                }
                Err(error) => Err(error.into()),
            });
        }
        answers
    }

    fn confirmed(&self, answer: Confirmation) -> Result<(), AmqpError> {
        let why = match answer {
            Confirmation::Ack(None) => return Ok(()),
            Confirmation::Ack(Some(returned)) => format!("no queue is bound to it ({})", returned.reply_text),
            Confirmation::Nack(_) => "RabbitMQ could not store it".to_owned(),
            Confirmation::NotRequested => "confirms are off".to_owned(),
        };
        Err(AmqpError::NotConfirmed { exchange: self.exchange.clone(), why })
    }
}

async fn within_open_timeout<T>(
    config: &AmqpConfig,
    opening: impl Future<Output = Result<T, AmqpError>>,
) -> Result<T, AmqpError> {
    let late = |_| Err(AmqpError::Timeout { server: config.url.to_string(), after: OPEN_TIMEOUT });
    timeout(OPEN_TIMEOUT, opening).await.unwrap_or_else(late)
}

async fn connect(config: &AmqpConfig, name: &str) -> Result<Connection, AmqpError> {
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Connection::connect_uri(parse_url(&config.url)?, properties)
        .await
        .map_err(|source| AmqpError::Connect { server: config.url.to_string(), source })
}

async fn declare(channel: &Channel, config: &AmqpConfig) -> Result<(), AmqpError> {
    declare_dead_letter(channel, config).await?;
    declare_queue(channel, config.declare, &config.queue, config.arguments()).await.map(drop)
}

async fn declare_dead_letter(channel: &Channel, config: &AmqpConfig) -> Result<(), AmqpError> {
    let name = &config.dead_letter;
    let passive = config.declare == Declare::Passive;
    let declared = channel.exchange_declare(
        short(name),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions { passive, durable: true, ..Default::default() },
        FieldTable::default(),
    );
    declared.await.map_err(|source| refused(format!("the exchange {name}"), source))?;
    declare_queue(channel, config.declare, name, config.dead_letter_arguments()).await?;
    if passive {
        return Ok(());
    }
    let (queue, exchange) = (short(name), short(name));
    let options = QueueBindOptions::default();
    let bound = channel.queue_bind(queue, exchange, ShortString::default(), options, FieldTable::default());
    bound.await.map_err(|source| refused(format!("to bind the queue {name}"), source))
}

async fn declare_queue(
    channel: &Channel,
    declare: Declare,
    name: &str,
    arguments: Vec<(&str, Argument)>,
) -> Result<Queue, AmqpError> {
    let passive = declare == Declare::Passive;
    let options = QueueDeclareOptions { passive, durable: true, ..Default::default() };
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.into()),
            Argument::Number(number) => AMQPValue::LongLongInt(number),
        };
        table.insert(short(name), value);
    }
    let declared = channel.queue_declare(short(name), options, table);
    declared.await.map_err(|source| refused(format!("the queue {name}"), source))
}

fn refused(what: String, source: lapin::Error) -> AmqpError {
    let ErrorKind::ProtocolError(error) = source.kind() else { return AmqpError::Lost(source) };
    match error.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            AmqpError::Mismatch { what, text: error.get_message().to_string() }
        }
        // the broker is going down or the connection was closed by hand
        AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => AmqpError::Lost(source),
        _ => AmqpError::Refused { what, source },
    }
}

/// Names are checked when the settings are read; lapin panics on longer ones.
fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}
