//! A backend that talks AMQP: publishes with confirms, and looks into queues as an operator would.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;

use crate::until;

/// A connection to RabbitMQ.
#[derive(Debug)]
pub struct Producer {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

/// A message taken from the dead-letter queue.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Its body as it was.
    pub body: Vec<u8>,
    /// Its properties as they are now.
    pub properties: BasicProperties,
}

impl DeadLetter {
    /// A header's text; `None` when there is none.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            other => Some(format!("{other:?}")),
        }
    }
}

/// Says that a message was sent now, in milliseconds, as RabbitMQ's message-timestamp plugin does.
pub fn sent_now() -> BasicProperties {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let mut headers = FieldTable::default();
    let millis = i64::try_from(now).expect("before the year 292277026");
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(millis));
    BasicProperties::default().with_headers(headers)
}

impl Producer {
    /// Connects. `queue` is where [`Producer::send`] publishes to.
    pub async fn connect(url: &str, queue: &str) -> Self {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.expect("RabbitMQ answers");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { _connection: connection, channel, queue: queue.to_owned() }
    }

    /// Publishes a message, and waits until RabbitMQ has it.
    pub async fn send(&self, message: &Value) {
        self.send_bytes(message.to_string().into_bytes(), BasicProperties::default()).await;
    }

    /// The same with properties.
    pub async fn send_with(&self, message: &Value, properties: BasicProperties) {
        self.send_bytes(message.to_string().into_bytes(), properties).await;
    }

    /// The same with any body.
    pub async fn send_bytes(&self, body: impl Into<Bytes>, properties: BasicProperties) {
        let body = body.into();
        // `mandatory`: without the queue it would be lost, and the test would wait for nothing
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publishing = self.channel.basic_publish(
            "".into(),
            self.queue.as_str().into(),
            options,
            &body,
            properties.with_delivery_mode(2),
        );
        let confirmed = publishing.await.expect("published").await.expect("answered");
        assert!(matches!(confirmed, Confirmation::Ack(None)), "RabbitMQ did not take it: {confirmed:?}");
    }

    /// Publishes many, and waits for RabbitMQ once.
    pub async fn send_all(&self, messages: &[Value]) {
        let messages = messages.iter().map(|message| (message.clone(), BasicProperties::default()));
        self.send_all_with(messages.collect()).await;
    }

    /// The same with properties.
    pub async fn send_all_with(&self, messages: Vec<(Value, BasicProperties)>) {
        let mut confirms = Vec::with_capacity(messages.len());
        for (message, properties) in messages {
            let body = message.to_string();
            let publishing = self.channel.basic_publish(
                "".into(),
                self.queue.as_str().into(),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                body.as_bytes(),
                properties.with_delivery_mode(2),
            );
            confirms.push(publishing.await.expect("published"));
        }
        for confirm in confirms {
            let confirmed = confirm.await.expect("answered");
            assert!(matches!(confirmed, Confirmation::Ack(None)), "RabbitMQ did not take it: {confirmed:?}");
        }
    }

    /// How many messages of its queue RabbitMQ holds and has not handed out.
    pub async fn waiting(&self) -> u32 {
        self.waiting_in(&self.queue).await
    }

    /// The same of another queue.
    pub async fn waiting_in(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), options, FieldTable::default());
        declared.await.expect("the queue is there").message_count()
    }

    /// Declares a queue with arguments of the test's own.
    pub async fn declare(&self, queue: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, arguments).await.expect("declared");
    }

    /// Removes a queue.
    pub async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.expect("deleted");
    }

    /// Takes the next message from a queue, when it comes.
    pub async fn take(&self, queue: &str) -> DeadLetter {
        until(&format!("a message in {queue}"), async || {
            let options = BasicGetOptions { no_ack: true };
            let got = self.channel.basic_get(queue.into(), options).await.expect("the queue is there")?;
            Some(DeadLetter { body: got.delivery.data, properties: got.delivery.properties })
        })
        .await
    }
}
