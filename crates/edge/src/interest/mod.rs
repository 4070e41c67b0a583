//! Subscribes on Redis to what this edge's own clients need, and to nothing else.
//!
//! One step is under way at a time, and whatever is asked meanwhile makes the next one: a reconnect storm becomes a few
//! large commands by itself.

mod table;

use std::time::Duration;

use herald_bus::Subscriptions;
use herald_chassis::{Backoff, Shutdown};
use herald_wire::Target;
use metrics::Gauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::table::{Step, Table};
use crate::feed::Positions;

/// How long a channel stays subscribed after its last user left.
const LINGER: Duration = Duration::from_secs(10);
/// Channels in one command.
const CHANNELS_AT_ONCE: usize = 1_000;
/// Requests not looked at yet.
const REQUESTS_MAX: usize = 4_096;

enum Request {
    Acquire(Vec<Target>, oneshot::Sender<()>),
    Release(Vec<Target>),
}

/// Cloning is a reference count.
#[derive(Clone, Debug)]
pub(crate) struct Interest(mpsc::Sender<Request>);

/// Why a channel is not subscribed to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSubscribed {
    #[error("the edge is stopping")]
    Stopping,
    #[error("Redis has not confirmed the subscription in time")]
    Late(#[from] tokio::time::error::Elapsed),
}

/// The task's end of the handle.
pub(crate) struct Requests(mpsc::Receiver<Request>);

impl Interest {
    pub(crate) fn new() -> (Self, Requests) {
        let (requests, taken) = mpsc::channel(REQUESTS_MAX);
        (Self(requests), Requests(taken))
    }

    /// Needs these channels; returns when all are subscribed to. Unless that is so by `deadline`, they are not needed.
    pub(crate) async fn acquire(&self, targets: Vec<Target>, deadline: Instant) -> Result<(), NotSubscribed> {
        let (tell, told) = oneshot::channel();
        let request = Request::Acquire(targets.clone(), tell);
        timeout_at(deadline, self.0.send(request)).await?.map_err(|_| NotSubscribed::Stopping)?;
        match timeout_at(deadline, told).await {
            Ok(told) => told.map_err(|_| NotSubscribed::Stopping),
            Err(e) => {
                self.release(targets).await;
                Err(e.into())
            }
        }
    }

    /// No longer needs these channels.
    pub(crate) async fn release(&self, targets: Vec<Target>) {
        // when the edge stops, its subscriptions end with it
        let _ = self.0.send(Request::Release(targets)).await;
    }
}

/// Runs until the edge stops.
pub(crate) async fn run(
    mut requests: Requests,
    subscriptions: Subscriptions,
    (positions, channels): (Positions, Gauge),
    shutdown: Shutdown,
) {
    let mut table: Table<oneshot::Sender<()>> = Table::new(LINGER);
    let mut backoff = Backoff::EAGER;
    let mut taken = Vec::with_capacity(CHANNELS_AT_ONCE);
    loop {
        while let Some(step) = table.step(Instant::now(), CHANNELS_AT_ONCE) {
            let told = tokio::select! {
                () = shutdown.hard() => return,
                told = tell(&subscriptions, &step) => told,
            };
            if let Err(e) = told {
                tracing::warn!("cannot subscribe on Redis, will try again: {e}");
                table.failed(step, Instant::now());
                if !backoff.wait(&shutdown).await {
                    return;
                }
                continue;
            }
            backoff.reset();
            if let Step::Unsubscribe(targets) = &step {
                positions.end(targets);
            }
            // whoever gave up waiting is told nothing
            for waiter in table.done(&step) {
                let _ = waiter.send(());
            }
            channels.set(table.len() as f64);
            while let Ok(request) = requests.0.try_recv() {
                take(&mut table, request);
            }
        }
        let due = table.next_due();
        tokio::select! {
            () = shutdown.hard() => return,
            count = requests.0.recv_many(&mut taken, CHANNELS_AT_ONCE) => {
                if count == 0 {
                    return;
                }
                taken.drain(..).for_each(|request| take(&mut table, request));
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

async fn tell(subscriptions: &Subscriptions, step: &Step) -> Result<(), herald_bus::BusError> {
    match step {
        Step::Subscribe(targets) => subscriptions.subscribe(targets).await,
        Step::Unsubscribe(targets) => subscriptions.unsubscribe(targets).await,
    }
}

fn take(table: &mut Table<oneshot::Sender<()>>, request: Request) {
    match request {
        Request::Acquire(targets, tell) => {
            if let Some(tell) = table.acquire(targets, tell) {
                let _ = tell.send(());
            }
        }
        Request::Release(targets) => table.release(&targets, Instant::now()),
    }
}
