//! Saves on Redis up to where mailboxes were written, so that a socketId's next session begins there: of open
//! connections every moment, of those that end at once, many together. A connection that ends hands its mark in and
//! waits for little; when thousands end at the same time, their marks are a few calls, and not one call and its memory
//! for each.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use herald_bus::{Bus, BusError};
use herald_chassis::Shutdown;
use herald_wire::{Position, Target};
use metrics::Counter;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::hub::Hub;

/// Between saves of how far mailboxes of open connections were written.
const MARKS_EVERY: Duration = Duration::from_millis(250);
/// Marks of connections that end, handed in and not looked at yet; whoever has one more waits, and is counted.
const LAST_MARKS_MAX: usize = 4_096;
/// Marks saved by one call.
const MARKS_AT_ONCE: usize = 1_000;
/// Calls under way at once: more than begin within the time that Redis is given for one. Beyond it the queue fills.
const CALLS_MAX: usize = 64;
/// While a call is under way, the next gathers for so long: one that does not end (a node of a cluster is gone, say) must
/// not hold up what other nodes would take.
const GATHER: Duration = Duration::from_millis(100);

/// Up to where a mailbox was written.
pub(crate) type Mark = (Target, Position);

/// Where connections hand in their last marks. Cloning is a reference count.
#[derive(Clone)]
pub(crate) struct LastMarks {
    queue: mpsc::Sender<LastMark>,
    waited: Counter,
}

struct LastMark {
    mark: Mark,
    saved: oneshot::Sender<()>,
}

/// The task's end of the handle.
pub(crate) struct HandedIn(mpsc::Receiver<LastMark>);

impl LastMarks {
    /// `waited` counts the marks that found the queue full.
    pub(crate) fn new(waited: Counter) -> (Self, HandedIn) {
        let (queue, handed_in) = mpsc::channel(LAST_MARKS_MAX);
        (Self { queue, waited }, HandedIn(handed_in))
    }

    /// Hands a mark in; waits while the queue is full. From then on it is saved, whether or not somebody waits for the
    /// answer, which comes when Redis has the mark, or failed to take it.
    pub(crate) async fn save(&self, mark: Mark) -> oneshot::Receiver<()> {
        let (saved, told) = oneshot::channel();
        match self.queue.try_send(LastMark { mark, saved }) {
            // when the edge stops, nobody is there to save it
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(last)) => {
                self.waited.increment(1);
                let _ = self.queue.send(last).await;
            }
        }
        told
    }
}

impl HandedIn {
    /// Saves what is handed in until the edge stops, and then the rest: only `forced` cuts that short.
    pub(crate) async fn save_all<F>(
        mut self,
        save: impl Fn(Vec<Mark>) -> F,
        shutdown: Shutdown,
        forced: Shutdown,
    ) where
        F: Future<Output = Result<(), BusError>>,
    {
        let mut calls = FuturesUnordered::new();
        let mut gathered = Instant::now();
        let mut taken = Vec::new();
        let mut is_over = false;
        while !is_over || !calls.is_empty() {
            let (is_calling, is_stopping) = (!calls.is_empty(), self.0.is_closed());
            let has_room = calls.len() < CALLS_MAX;
            let gather = async {
                if is_calling {
                    sleep_until(gathered).await;
                }
                self.0.recv_many(&mut taken, MARKS_AT_ONCE).await
            };
            tokio::select! {
                () = forced.hard() => return,
                () = shutdown.hard(), if !is_stopping => self.0.close(),
                Some(()) = calls.next() => {}
                count = gather, if has_room && !is_over => {
                    is_over = count == 0;
                    if !is_over {
                        gathered = Instant::now() + GATHER;
                        let (marks, told) = taken.drain(..).map(|last: LastMark| (last.mark, last.saved)).unzip();
                        calls.push(tell(save(marks), told));
                    }
                }
            }
        }
    }
}

/// Tells who handed marks in when they are saved.
async fn tell(saving: impl Future<Output = Result<(), BusError>>, told: Vec<oneshot::Sender<()>>) {
    match saving.await {
        Ok(()) => {
            for saved in told {
                // whoever has stopped waiting hears nothing
                let _ = saved.send(());
            }
        }
        // they are among those of every moment too, which are tried again
        Err(e) => tracing::debug!("cannot save how far {} mailboxes were written: {e}", told.len()),
    }
}

/// Saves up to where mailboxes were written, until the edge stops.
pub(crate) async fn save_regularly(hub: Hub, bus: Bus, life: Duration, shutdown: Shutdown) {
    let mut ticks = interval(MARKS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unsaved = HashMap::<_, _, RandomState>::default();
    loop {
        tokio::select! {
            () = shutdown.hard() => return,
            _ = ticks.tick() => {}
        }
        unsaved.extend(hub.take_marks().await);
        let marks: Vec<_> =
            unsaved.iter().map(|(target, position)| (Clone::clone(target), *position)).collect();
        match bus.save_sent(&marks, life).await {
            Ok(()) => unsaved.clear(),
            Err(e) => tracing::warn!("cannot save how far mailboxes were written, will try again: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    type Call = (Vec<Mark>, oneshot::Sender<Result<(), BusError>>);

    /// What Redis is asked for, and answers when the test says so.
    fn redis() -> (impl Fn(Vec<Mark>) -> futures_util::future::BoxFuture<'static, Result<(), BusError>>, Calls)
    {
        let (calls, called) = mpsc::unbounded_channel();
        let save = move |marks| {
            let (answer, answered) = oneshot::channel();
            calls.send((marks, answer)).unwrap();
            Box::pin(async move { answered.await.unwrap() }) as _
        };
        (save, Calls(called))
    }

    struct Calls(mpsc::UnboundedReceiver<Call>);

    impl Calls {
        async fn next(&mut self) -> Call {
            self.0.recv().await.unwrap()
        }
    }

    fn mark(number: u64) -> Mark {
        (Target::socket(&number.to_string(), 8).unwrap(), Position(number))
    }

    fn error() -> BusError {
        BusError::Unreachable { server: String::new(), after: Duration::ZERO, source: None }
    }

    fn last_marks() -> (LastMarks, HandedIn, Arc<AtomicU64>) {
        let waited = Arc::<AtomicU64>::default();
        let (last_marks, handed_in) = LastMarks::new(Counter::from_arc(waited.clone()));
        (last_marks, handed_in, waited)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_handed_in_during_a_call_is_one_call() {
        let (last_marks, handed_in, _) = last_marks();
        let (save, mut calls) = redis();
        tokio::spawn(handed_in.save_all(save, Shutdown::new(), Shutdown::new()));
        let first = last_marks.save(mark(0)).await;
        let (marks, answer) = calls.next().await;
        assert_eq!(marks, [mark(0)]);
        let mut others = Vec::new();
        for number in 1..=3 {
            others.push(last_marks.save(mark(number)).await);
        }
        answer.send(Ok(())).unwrap();
        first.await.unwrap();
        let (marks, answer) = calls.next().await;
        assert_eq!(marks, [mark(1), mark(2), mark(3)]);
        assert!(others[0].try_recv().is_err(), "it is not saved yet");
        answer.send(Err(error())).unwrap();
        for other in others {
            assert!(other.await.is_err(), "those whose marks were not taken wait no longer");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_end_holds_up_others_for_a_moment() {
        let (last_marks, handed_in, _) = last_marks();
        let (save, mut calls) = redis();
        tokio::spawn(handed_in.save_all(save, Shutdown::new(), Shutdown::new()));
        last_marks.save(mark(0)).await;
        let (_, _unanswered) = calls.next().await;
        let handed_in_at = Instant::now();
        let saved = last_marks.save(mark(1)).await;
        let (_, answer) = calls.next().await;
        assert_eq!(handed_in_at.elapsed().as_millis(), GATHER.as_millis());
        answer.send(Ok(())).unwrap();
        saved.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_saved_when_the_edge_stops_unless_it_is_forced_to() {
        for is_forced in [false, true] {
            let (last_marks, handed_in, _) = last_marks();
            let (save, mut calls) = redis();
            let (shutdown, forced) = (Shutdown::new(), Shutdown::new());
            let task = tokio::spawn(handed_in.save_all(save, shutdown.clone(), forced.clone()));
            last_marks.save(mark(0)).await;
            let (_, answer) = calls.next().await;
            last_marks.save(mark(1)).await;
            shutdown.force();
            if is_forced {
                forced.force();
                task.await.unwrap();
                continue;
            }
            let (marks, another) = calls.next().await;
            assert_eq!(marks, [mark(1)]);
            assert!(!task.is_finished());
            [answer, another].into_iter().for_each(|answer| answer.send(Ok(())).unwrap());
            task.await.unwrap();
            // nobody is there any more
            assert!(last_marks.save(mark(2)).await.await.is_err());
        }
    }

    #[tokio::test]
    async fn whoever_finds_the_queue_full_waits_and_is_counted() {
        let (last_marks, mut handed_in, waited) = last_marks();
        for number in 0..LAST_MARKS_MAX as u64 {
            last_marks.save(mark(number)).await;
        }
        assert_eq!(waited.load(Ordering::Relaxed), 0);
        let one_more = tokio::spawn(async move { drop(last_marks.save(mark(99_999)).await) });
        tokio::task::yield_now().await;
        assert!(!one_more.is_finished());
        assert_eq!(waited.load(Ordering::Relaxed), 1);
        assert_eq!(handed_in.0.recv().await.unwrap().mark, mark(0));
        one_more.await.unwrap();
    }
}
