//! A backend that talks AMQP, and looks into queues as an operator would.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::until;

pub(crate) struct Producer {
    _connection: Connection,
    channel: Channel,
    queue: String,
}

/// A message taken from a queue.
pub(crate) struct Taken {
    pub(crate) body: Vec<u8>,
    pub(crate) properties: BasicProperties,
}

impl Taken {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            other => Some(format!("{other:?}")),
        }
    }
}

impl Producer {
    pub(crate) async fn connect(url: &str, queue: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel, queue: queue.to_owned() }
    }

    /// Publishes, and waits until RabbitMQ has them all.
    pub(crate) async fn send(&self, messages: impl IntoIterator<Item = (String, BasicProperties)>) {
        let mut confirms = Vec::new();
        for (body, properties) in messages {
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let queue = self.queue.as_str().into();
            let properties = properties.with_delivery_mode(2);
            let sent = self.channel.basic_publish("".into(), queue, options, body.as_bytes(), properties);
            confirms.push(sent.await.unwrap());
        }
        for confirm in confirms {
            assert_eq!(confirm.await.unwrap(), Confirmation::Ack(None));
        }
    }

    pub(crate) async fn send_one(&self, body: &str, properties: BasicProperties) {
        self.send([(body.to_owned(), properties)]).await;
    }

    /// Declares a durable queue with arguments of the test's own.
    pub(crate) async fn declare(&self, queue: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        self.channel.queue_declare(queue.into(), options, arguments).await.unwrap();
    }

    pub(crate) async fn delete(&self, queue: &str) {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }

    /// The next message in a queue, when it comes.
    pub(crate) async fn take(&self, queue: &str) -> Taken {
        until(&format!("a message in {queue}"), async || self.try_take(queue).await).await
    }

    pub(crate) async fn try_take(&self, queue: &str) -> Option<Taken> {
        let options = BasicGetOptions { no_ack: true };
        let got = self.channel.basic_get(queue.into(), options).await.unwrap()?;
        Some(Taken { body: got.delivery.data, properties: got.delivery.properties })
    }

    /// How many messages there are; removes them.
    pub(crate) async fn purge(&self, queue: &str) -> u32 {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap()
    }

    /// Takes all there is.
    pub(crate) async fn empty(&self, queue: &str) -> Vec<Taken> {
        let mut taken = Vec::new();
        while let Some(message) = self.try_take(queue).await {
            taken.push(message);
        }
        taken
    }
}
