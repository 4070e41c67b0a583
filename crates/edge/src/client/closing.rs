//! The end of a connection: what it leaves behind, in which order. What Redis must know of it is handed in, not written
//! from here: each connection has this future for itself, and thousands may end at the same time.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Client;
use crate::hub::Command;

/// How long a farewell waits for Redis.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(250);

impl Client {
    /// Ends the connection; the session stays on Redis for as long as it is kept. `farewell` is the last that is sent: who
    /// comes back then finds how far its mailbox was written, if Redis answers.
    pub(crate) async fn close(self, farewell: Bytes) {
        let Self { services, connection, session, pid, .. } = self;
        let mut handed_in = None;
        if let Some(mailbox) = session.socket_target() {
            let (mark, marked) = oneshot::channel();
            if services.hub.send(connection.id, Command::Mark { id: connection.id, mark }).await.is_err() {
                return;
            }
            if let Some(position) = marked.await.ok().flatten() {
                let deadline = Instant::now() + FAREWELL_PATIENCE;
                let save = services.last_marks.save((mailbox.clone(), position));
                if let Ok(saved) = timeout_at(deadline, save).await {
                    handed_in = Some(position);
                    let _ = timeout_at(deadline, saved).await;
                }
            }
        }
        let (parting, parted) = oneshot::channel();
        let close = Command::Close { id: connection.id, farewell, parting };
        if services.hub.send(connection.id, close).await.is_err() {
            return;
        }
        services.keeper.close(&pid, &connection);
        if let Some(socket_id) = session.socket_id() {
            services.presence.release(socket_id, &connection);
        }
        services.interest.release(session.targets()).await;
        let mark = parted.await.ok().and_then(|parting| parting.mailbox);
        if let (Some(mailbox), Some(position)) = (session.socket_target(), mark)
            && handed_in != mark
        {
            // nobody waits for this one: it is saved before the edge ends
            services.last_marks.save((mailbox.clone(), position)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use herald_bus::{Bus, LogConfig};
    use herald_chassis::Shutdown;
    use herald_wire::envelope::{Place, append_place};
    use herald_wire::{Envelope, Position, Target};
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::client::Services;
    use crate::delivery::{Delivery, Encoding};
    use crate::feed::Positions;
    use crate::hub::{HeartbeatTimes, Hub, Join, OutboxLimits, ShardConfig, Sink};
    use crate::interest::Interest;
    use crate::keeper::{Keeper, LastMarks, Mark};
    use crate::metrics::{ClientMetrics, HubMetrics};
    use crate::origin::Origins;
    use crate::presence::Presence;
    use crate::pressure::Lateness;
    use crate::session::{Change, SessionLimits};

    /// Of one connection that ends: the rest is for what else it needs.
    const BYTES_MAX: usize = 1_024;

    struct Edge {
        services: Arc<Services>,
        /// What is handed to Redis, which answers when the test says so.
        saves: mpsc::UnboundedReceiver<(Vec<Mark>, oneshot::Sender<()>)>,
        _lagging: mpsc::Receiver<crate::catchup::Lagging>,
        _requests: crate::interest::Requests,
    }

    fn edge() -> Edge {
        let bus = Bus::memory(LogConfig::default());
        let (lagging, _lagging) = mpsc::channel(1);
        let heartbeat =
            HeartbeatTimes { interval: Duration::from_secs(3_600), timeout: Duration::from_secs(20) };
        let outbox = OutboxLimits { frames_max: 100, bytes_max: 100_000 };
        let (metrics, lateness) = (HubMetrics::new(), Lateness::new());
        let config = ShardConfig { heartbeat, outbox, one_clock: true, lagging, metrics, lateness };
        let (hub, queues) = Hub::new(1);
        for queues in queues {
            tokio::spawn(crate::hub::run(config.clone(), queues));
        }
        let metrics = ClientMetrics::new();
        let (last_marks, handed_in) = LastMarks::new(metrics.marks_waited.clone());
        let (calls, saves) = mpsc::unbounded_channel();
        let save = move |marks| {
            let (answer, answered) = oneshot::channel();
            calls.send((marks, answer)).unwrap();
            answered.map(|_| Ok(()))
        };
        tokio::spawn(handed_in.save_all(save, Shutdown::new(), Shutdown::new()));
        let (interest, _requests) = Interest::new();
        let services = Services {
            hub,
            interest,
            positions: Positions::default(),
            presence: Presence::new(metrics.claims.clone(), watch::channel(Default::default()).1),
            origins: Origins::new(bus.clone()),
            bus,
            keeper: Keeper::new(metrics.sessions.clone()),
            last_marks,
            limits: SessionLimits { groups_max: 1, id_bytes_max: 8 },
            retention: Duration::from_secs(60),
            metrics,
        };
        Edge { services: Arc::new(services), saves, _lagging, _requests }
    }

    impl Edge {
        /// A client that is `a`, and what it is sent.
        async fn client(&self) -> (Client, mpsc::Receiver<Vec<Bytes>>) {
            let (sink, chunks) = mpsc::channel(8);
            let connection = self.services.hub.open(Encoding::Polling, Sink::Pull(sink)).await.unwrap();
            let id = connection.id;
            let mut client = Client::new(self.services.clone(), connection, "p".into());
            let change = Change { joins: vec![mailbox()], leaves: Vec::new() };
            client.session.take_over(&change, |_| Position::ZERO);
            let join =
                Join { target: mailbox(), floor: Position::ZERO, replay: false, joined: Position::ZERO };
            let join = Command::Join { id, joins: vec![join], explicit_acks: false };
            self.services.hub.send(id, join).await.unwrap();
            (client, chunks)
        }

        async fn deliver(&self, position: u64) {
            let envelope = Envelope { body: "1".into(), reliable: true, ..Envelope::default() }.to_bytes();
            let place = Place { position: Position(position), prev: Position::ZERO };
            let delivery =
                Delivery::read(mailbox(), append_place(&envelope, place), &self.services.origins).unwrap();
            self.services.hub.deliver(&[Arc::new(delivery)]).await.unwrap();
        }
    }

    fn mailbox() -> Target {
        Target::socket("a", 8).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_farewell_waits_until_the_mailbox_is_saved() {
        let mut edge = edge();
        let (client, mut chunks) = edge.client().await;
        edge.deliver(5).await;
        chunks.recv().await.unwrap();
        let closing = tokio::spawn(client.close("bye".into()));
        let (marks, answer) = edge.saves.recv().await.unwrap();
        assert_eq!(marks, [(mailbox(), Position(5))]);
        tokio::time::sleep(FAREWELL_PATIENCE / 2).await;
        assert!(chunks.try_recv().is_err(), "nothing is sent before");
        answer.send(()).unwrap();
        assert_eq!(chunks.recv().await.unwrap(), ["bye"]);
        closing.await.unwrap();
        assert!(edge.saves.try_recv().is_err(), "what is saved is saved once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_farewell_does_not_wait_long_and_what_was_sent_meanwhile_is_saved_behind_it() {
        let mut edge = edge();
        let (client, mut chunks) = edge.client().await;
        edge.deliver(5).await;
        chunks.recv().await.unwrap();
        let began = Instant::now();
        let closing = tokio::spawn(client.close("bye".into()));
        let (_, _unanswered) = edge.saves.recv().await.unwrap();
        edge.deliver(6).await;
        chunks.recv().await.unwrap();
        assert_eq!(chunks.recv().await.unwrap(), ["bye"]);
        assert_eq!(began.elapsed().as_millis(), FAREWELL_PATIENCE.as_millis());
        // the connection is over, whenever Redis answers
        closing.await.unwrap();
        let (marks, _) = edge.saves.recv().await.unwrap();
        assert_eq!(marks, [(mailbox(), Position(6))]);
    }

    #[tokio::test]
    async fn a_connection_that_ends_takes_little_memory() {
        let edge = edge();
        let (client, _chunks) = edge.client().await;
        let bytes = size_of_val(&client.close(Bytes::new()));
        assert!(bytes <= BYTES_MAX, "{bytes} bytes: thousands may end at the same time");
    }
}
