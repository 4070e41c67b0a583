//! Publishing on a queue of RabbitMQ. What is not confirmed when a connection is lost is sent again where it must not be
//! lost, with the same `message_id`; otherwise its fate is unknown. The only file that knows lapin.
//!
//! Messages that are due together are handed to the connection together. Awaiting each before the next would be two
//! turns of threads and a write to the socket for each, and a read by RabbitMQ.

use std::collections::VecDeque;
use std::future::{Future, ready};
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ConnectionState, ErrorKind,
    PublisherConfirm,
};

use super::{BATCH_MAX, Composer, Fates, Job, PublishError};

/// Messages that one publisher lets wait for their confirms before it waits itself.
const UNCONFIRMED_MAX: usize = 10_000;
/// Between attempts to reach RabbitMQ.
const RETRY: Duration = Duration::from_millis(200);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

pub(super) struct Amqp {
    to: Broker,
    link: Option<Link>,
    /// In the order in which they are to leave.
    waiting: VecDeque<Job>,
    /// Handed to the connection, which may not have written them yet: [`BATCH_MAX`] at most.
    leaving: VecDeque<(Job, Leaving)>,
    unconfirmed: VecDeque<(Job, PublisherConfirm)>,
    fates: Fates,
}

/// Resolves when a message is written to the socket.
type Leaving = Pin<Box<dyn Future<Output = Result<PublisherConfirm, lapin::Error>> + Send>>;

struct Broker {
    url: String,
    queue: String,
    confirms: bool,
}

struct Link {
    _connection: Connection,
    channel: Channel,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Broker {
    async fn connect(&self) -> Result<Link, BoxError> {
        let connecting = async {
            let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            // it must be there: what is published on no queue is lost in silence
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(self.queue.as_str().into(), passive, FieldTable::default()).await?;
            if self.confirms {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
            }
            Ok::<_, lapin::Error>(Link { _connection: connection, channel })
        };
        Ok(tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??)
    }
}

impl Amqp {
    pub(super) async fn connect(url: &str, queue: &str, confirms: bool) -> Result<Self, PublishError> {
        let to = Broker { url: url.to_owned(), queue: queue.to_owned(), confirms };
        let link = to.connect().await;
        let link = link.map_err(|source| PublishError::Amqp { queue: queue.to_owned(), source })?;
        Ok(Self {
            to,
            link: Some(link),
            waiting: VecDeque::new(),
            leaving: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            fates: Fates::default(),
        })
    }

    pub(super) async fn send(&mut self, jobs: &[Job], composer: &Composer, give_up: Instant) {
        self.waiting.extend(jobs);
        while !self.waiting.is_empty() && self.is_linked(give_up).await {
            if let Err(error) = self.pump(composer).await {
                self.lost(&error, composer);
            }
        }
    }

    /// Sends what is waiting, and reads the confirms that are there.
    async fn pump(&mut self, composer: &Composer) -> Result<(), lapin::Error> {
        while !self.waiting.is_empty() {
            while self.unconfirmed.len() >= UNCONFIRMED_MAX {
                self.await_oldest().await?;
            }
            while self.leaving.len() < BATCH_MAX
                && let Some(job) = self.waiting.pop_front()
            {
                let leaving = self.publish(&job, composer);
                self.leaving.push_back((job, leaving));
            }
            while let Some((_, leaving)) = self.leaving.front_mut() {
                let confirm = leaving.await?;
                if let Some((job, _)) = self.leaving.pop_front()
                    && self.to.confirms
                {
                    self.unconfirmed.push_back((job, confirm));
                }
            }
        }
        while let Some((_, confirm)) = self.unconfirmed.front_mut() {
            let Some(answer) = confirm.now_or_never() else { break };
            self.confirmed(&answer?);
        }
        Ok(())
    }

    /// Hands a message to the connection.
    fn publish(&self, job: &Job, composer: &Composer) -> Leaving {
        let Some(link) = &self.link else {
            return Box::pin(ready(Err(ErrorKind::InvalidConnectionState(ConnectionState::Closed).into())));
        };
        let mut body = Vec::new();
        composer.write(job, &mut body);
        let is_reliable = composer.is_reliable(job);
        // the start of the latency account that the services keep
        let mut headers = FieldTable::default();
        let sent_ms = (crate::clock::now_us() / 1_000) as i64;
        headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(sent_ms));
        let mut properties = BasicProperties::default()
            .with_headers(headers)
            .with_delivery_mode(if is_reliable { PERSISTENT } else { TRANSIENT });
        if is_reliable {
            properties = properties.with_message_id(composer.id(job).into());
        }
        let options = BasicPublishOptions { mandatory: self.to.confirms, ..BasicPublishOptions::default() };
        let (channel, queue) = (link.channel.clone(), self.to.queue.as_str().into());
        let mut publishing =
            Box::pin(
                async move { channel.basic_publish("".into(), queue, options, &body, properties).await },
            );
        // lapin takes a message when it is first asked whether that has been written
        match (&mut publishing).now_or_never() {
            Some(result) => Box::pin(ready(result)),
            None => publishing,
        }
    }

    async fn await_oldest(&mut self) -> Result<(), lapin::Error> {
        if let Some((_, confirm)) = self.unconfirmed.front_mut() {
            let answer = confirm.await?;
            self.confirmed(&answer);
        }
        Ok(())
    }

    fn confirmed(&mut self, answer: &Confirmation) {
        let Some((job, _)) = self.unconfirmed.pop_front() else { return };
        if !matches!(answer, Confirmation::Ack(None) | Confirmation::NotRequested) {
            self.fates.refused.push(job);
            self.fates.trouble = Some("RabbitMQ did not take a message".to_owned());
        }
    }

    /// The connection is gone: what must not be lost goes again, first and in its order.
    fn lost(&mut self, error: &lapin::Error, composer: &Composer) {
        self.fates.reconnects += 1;
        self.fates.trouble = Some(format!("RabbitMQ: {error}"));
        self.link = None;
        let mut again = VecDeque::new();
        let unconfirmed = self.unconfirmed.drain(..).map(|(job, _)| job);
        for job in unconfirmed.chain(self.leaving.drain(..).map(|(job, _)| job)) {
            if composer.is_reliable(&job) {
                again.push_back(job);
            } else {
                self.fates.unknown.push(job);
            }
        }
        self.fates.resent += again.len() as u64;
        again.append(&mut self.waiting);
        self.waiting = again;
    }

    async fn is_linked(&mut self, give_up: Instant) -> bool {
        while self.link.is_none() {
            if Instant::now() >= give_up {
                return false;
            }
            match self.to.connect().await {
                Ok(link) => self.link = Some(link),
                Err(error) => {
                    self.fates.trouble = Some(format!("RabbitMQ: {error}"));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        true
    }

    pub(super) async fn finish(mut self, composer: &Composer, give_up: Instant) -> Fates {
        let deadline = tokio::time::Instant::from_std(give_up);
        loop {
            self.send(&[], composer, give_up).await;
            if self.unconfirmed.is_empty() {
                break;
            }
            match tokio::time::timeout_at(deadline, self.await_oldest()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.lost(&error, composer),
                Err(_) => break,
            }
        }
        self.fates.unknown.extend(self.unconfirmed.drain(..).map(|(job, _)| job));
        self.fates.unknown.extend(self.leaving.drain(..).map(|(job, _)| job));
        // an earlier attempt may have arrived
        self.fates.unknown.extend(self.waiting.drain(..));
        self.fates
    }
}
