//! Keeps the records of open sessions alive on Redis, and knows which connection is which session's.

mod marks;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use foldhash::fast::RandomState;
use herald_bus::Bus;
use herald_chassis::Shutdown;
use metrics::Gauge;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

pub(crate) use self::marks::{LastMarks, Mark, save_regularly};
use crate::hub::{CloseReason, Connection, Signal};

/// Records refreshed in one pipeline.
const RECORDS_AT_ONCE: usize = 1_000;
/// A record is refreshed this many times within its life.
const REFRESHES: u32 = 3;

type Sessions = HashMap<String, Arc<Connection>, RandomState>;

/// Cloning is a reference count.
#[derive(Clone)]
pub(crate) struct Keeper {
    sessions: Arc<Mutex<Sessions>>,
    /// Redis lost its data, and these records with it.
    lost: Arc<Notify>,
    open: Gauge,
}

impl Keeper {
    pub(crate) fn new(open: Gauge) -> Self {
        Self { sessions: Arc::default(), lost: Arc::default(), open }
    }

    /// The session is this connection's now; another one that still has it ends.
    pub(crate) fn open(&self, pid: &str, connection: &Arc<Connection>) {
        let mut sessions = self.lock();
        if let Some(older) = sessions.insert(pid.to_owned(), connection.clone()) {
            older.signal(Signal::Close(CloseReason::Resumed));
        }
        self.open.set(sessions.len() as f64);
    }

    /// The connection is gone.
    pub(crate) fn close(&self, pid: &str, connection: &Arc<Connection>) {
        let mut sessions = self.lock();
        if sessions.get(pid).is_some_and(|holder| holder.id == connection.id) {
            sessions.remove(pid);
        }
        self.open.set(sessions.len() as f64);
    }

    /// Every connection, for a drain.
    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.lock().values().cloned().collect()
    }

    /// Refreshes records until the edge stops.
    pub(crate) async fn refresh(self, bus: Bus, life: Duration, shutdown: Shutdown) {
        let mut ticks = interval(life / REFRESHES);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.hard() => return,
                _ = ticks.tick() => {}
                () = self.lost.notified() => {}
            }
            let pids: Vec<String> = self.lock().keys().cloned().collect();
            for some in pids.chunks(RECORDS_AT_ONCE) {
                match bus.touch_sessions(some, life).await {
                    Ok(gone) => self.tell_unrecorded(&gone),
                    Err(e) => {
                        tracing::warn!("cannot refresh session records, will try again: {e}");
                        break;
                    }
                }
            }
        }
    }

    /// Redis has lost its data: looks after the records at once.
    pub(crate) fn data_lost(&self) {
        self.lost.notify_one();
    }

    /// A session that registered nothing has no record either: whose it is knows.
    fn tell_unrecorded(&self, gone: &[String]) {
        let sessions = self.lock();
        for connection in gone.iter().filter_map(|pid| sessions.get(pid)) {
            connection.signal(Signal::Unrecorded);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
