//! The bounded queue between a bus and the reader of its feed. It never blocks who fills it: when it is full,
//! messages are lost, counted, and the place of the loss is marked. Knows neither Redis nor subscriptions.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use herald_wire::Target;
use tokio::sync::Notify;

use crate::FeedLimits;
use crate::metrics::Metrics;

/// What a feed brings, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// A message, volatile or reliable.
    Message {
        /// Whom it is for.
        target: Target,
        /// With its place when it is reliable.
        envelope: Bytes,
    },
    /// Messages were lost in this place, or may have been. Everything subscribed is subscribed again from here on, so
    /// the logs read now hold all reliable messages that were lost. Ends what [`FeedEvent::Down`] began.
    Interrupted {
        /// What happened.
        reason: Interruption,
    },
    /// The feed is lost and not yet back. Messages of nodes that still live may follow; `Interrupted` comes when all
    /// of it is back. A feed starts in this state, without the event.
    Down,
}

/// Why a feed has a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// It begins here.
    Started,
    /// A connection was lost (also when Redis closed it for its output buffer), or a slot moved, and is back.
    Reconnected,
    /// Its reader was too slow for [`FeedLimits`].
    Overflow,
}

impl Interruption {
    /// All of them, for metrics.
    pub const ALL: [Self; 3] = [Self::Started, Self::Reconnected, Self::Overflow];

    /// A short constant name for metrics.
    pub fn metric_label(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Reconnected => "reconnected",
            Self::Overflow => "overflow",
        }
    }
}

/// Where messages come from; what a source that ended still hands in is not taken.
#[derive(Debug)]
pub(crate) struct Source(AtomicBool);

impl Source {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(true))
    }

    pub(crate) fn is_live(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
pub(crate) struct FeedQueue {
    state: Mutex<State>,
    filled: Notify,
    limits: FeedLimits,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    events: VecDeque<FeedEvent>,
    messages: usize,
    bytes: usize,
    /// Set when a message was lost: all others are too, until half the queue is free. Otherwise a reader that is a
    /// little too slow would be sent to the logs once per message.
    losing: bool,
    /// Whether the last word on it was `Down`, or there was none yet. Until the next `Interrupted` no loss needs
    /// telling.
    down: bool,
    closed: bool,
}

/// What a waiting message costs besides its bytes.
const MESSAGE_OVERHEAD_BYTES: usize = 96;

impl FeedQueue {
    pub(crate) fn new(limits: FeedLimits, metrics: Metrics) -> Self {
        let state = State {
            events: VecDeque::new(),
            messages: 0,
            bytes: 0,
            losing: false,
            down: true,
            closed: false,
        };
        Self { state: Mutex::new(state), filled: Notify::new(), limits, metrics }
    }

    /// False when nobody reads any more.
    pub(crate) fn message(&self, source: &Source, target: Target, envelope: Bytes) -> bool {
        let cost = cost(&target, &envelope);
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        if !source.is_live() {
            return true;
        }
        self.metrics.feed_messages.increment(1);
        let full = state.messages >= self.limits.messages_max
            || (state.messages > 0 && state.bytes + cost > self.limits.bytes_max);
        if state.losing || full {
            self.metrics.feed_dropped.increment(1);
            let first = !std::mem::replace(&mut state.losing, true);
            if first && !state.down {
                self.push(&mut state, FeedEvent::Interrupted { reason: Interruption::Overflow });
            }
            return true;
        }
        state.messages += 1;
        state.bytes += cost;
        self.push(&mut state, FeedEvent::Message { target, envelope });
        true
    }

    /// Ends a source: nothing more is taken from it, and the feed is down from here on.
    pub(crate) fn lost(&self, source: &Source) {
        let mut state = self.lock();
        if source.0.swap(false, Ordering::AcqRel) {
            self.set_down(&mut state);
        }
    }

    /// The feed is down from here on, if it is not already.
    pub(crate) fn down(&self) {
        self.set_down(&mut self.lock());
    }

    fn set_down(&self, state: &mut State) {
        if std::mem::replace(&mut state.down, true) {
            return;
        }
        // what stands right before and was not read yet adds nothing, and the queue stays bounded
        while matches!(state.events.back(), Some(FeedEvent::Interrupted { .. })) {
            state.events.pop_back();
        }
        if state.events.back() != Some(&FeedEvent::Down) {
            self.push(state, FeedEvent::Down);
        }
    }

    /// The feed is whole again from here on.
    pub(crate) fn interrupted(&self, reason: Interruption) {
        let mut state = self.lock();
        state.down = false;
        self.push(&mut state, FeedEvent::Interrupted { reason });
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.filled.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// How much of it waits, 0 to 1000, by the nearer limit.
    pub(crate) fn fullness_permille(&self) -> u32 {
        let state = self.lock();
        let part = |used: usize, max: usize| used.saturating_mul(1_000) / max.max(1);
        let fullest =
            part(state.messages, self.limits.messages_max).max(part(state.bytes, self.limits.bytes_max));
        fullest.min(1_000) as u32
    }

    /// Waits for at least one event and moves up to `max` to `into`; zero when the queue is closed and empty.
    pub(crate) async fn next(&self, into: &mut Vec<FeedEvent>, max: usize) -> usize {
        loop {
            if let Some(taken) = self.take(into, max) {
                return taken;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self, into: &mut Vec<FeedEvent>, max: usize) -> Option<usize> {
        let mut state = self.lock();
        if state.events.is_empty() {
            return state.closed.then_some(0);
        }
        let taken = state.events.len().min(max.max(1));
        for _ in 0..taken {
            let Some(event) = state.events.pop_front() else { break };
            if let FeedEvent::Message { target, envelope } = &event {
                state.messages -= 1;
                state.bytes -= cost(target, envelope);
            }
            into.push(event);
        }
        if state.messages <= self.limits.messages_max / 2 && state.bytes <= self.limits.bytes_max / 2 {
            state.losing = false;
        }
        self.metrics.feed_waiting.set(state.messages as f64);
        Some(taken)
    }

    fn push(&self, state: &mut State, event: FeedEvent) {
        if let FeedEvent::Interrupted { reason } = &event {
            self.metrics.interrupted(*reason);
        }
        state.events.push_back(event);
        if state.events.len() == 1 {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(target: &Target, envelope: &Bytes) -> usize {
    target.as_str().len() + envelope.len() + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(messages_max: usize, bytes_max: usize) -> (FeedQueue, Source) {
        let queue = FeedQueue::new(FeedLimits { messages_max, bytes_max }, Metrics::new());
        queue.interrupted(Interruption::Started);
        assert_eq!(take(&queue, 9), "i");
        (queue, Source::new())
    }

    fn send(queue: &FeedQueue, source: &Source, n: u8) {
        queue.message(source, Target::everyone(), Bytes::copy_from_slice(&[n]));
    }

    /// Message bodies as they are, `i` for interrupted, `d` for down.
    fn take(queue: &FeedQueue, max: usize) -> String {
        let mut events = Vec::new();
        queue.take(&mut events, max);
        let mut text = String::new();
        for event in events {
            text.push(match event {
                FeedEvent::Message { envelope, .. } => char::from(envelope[0]),
                FeedEvent::Interrupted { .. } => 'i',
                FeedEvent::Down => 'd',
            });
        }
        text
    }

    #[test]
    fn a_loss_is_marked_once_in_its_place_and_ends_at_half() {
        let (queue, source) = started(4, 1 << 20);
        for n in b'1'..=b'7' {
            send(&queue, &source, n);
        }
        assert_eq!(take(&queue, 1), "1");
        send(&queue, &source, b'8');
        assert_eq!(take(&queue, 1), "2");
        send(&queue, &source, b'9');
        assert_eq!(take(&queue, 9), "34i9");
    }

    #[test]
    fn bytes_count_too_but_one_message_always_fits() {
        let (queue, source) = started(100, 10);
        send(&queue, &source, b'1');
        assert_eq!(queue.fullness_permille(), 1_000);
        send(&queue, &source, b'2');
        assert_eq!(take(&queue, 9), "1i");
        assert_eq!(queue.fullness_permille(), 0);
        send(&queue, &source, b'3');
        assert_eq!(take(&queue, 9), "3");
    }

    #[test]
    fn a_lost_source_is_down_once_and_hands_in_no_more() {
        let (queue, source) = started(4, 1 << 20);
        send(&queue, &source, b'1');
        queue.lost(&source);
        queue.lost(&source);
        send(&queue, &source, b'2');
        assert_eq!(take(&queue, 9), "1d");
        queue.interrupted(Interruption::Reconnected);
        assert_eq!(take(&queue, 9), "i");
    }

    #[test]
    fn while_down_a_loss_is_not_told_and_nothing_sounds_like_being_up() {
        let (queue, source) = started(2, 1 << 20);
        queue.lost(&Source::new());
        for n in b'1'..=b'9' {
            send(&queue, &source, n);
        }
        queue.down();
        assert_eq!(take(&queue, 9), "d12");
        queue.interrupted(Interruption::Reconnected);
        queue.down();
        assert_eq!(take(&queue, 9), "d");
    }

    #[test]
    fn a_reader_that_stands_still_while_the_feed_flaps_keeps_a_bounded_queue() {
        let (queue, _) = started(4, 1 << 20);
        for _ in 0..100 {
            let source = Source::new();
            queue.interrupted(Interruption::Reconnected);
            for n in b'1'..=b'9' {
                send(&queue, &source, n);
            }
            queue.lost(&source);
        }
        assert!(queue.lock().events.len() <= 8, "{:?}", queue.lock().events);
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_first_event_and_learns_of_the_end() {
        let (queue, source) = started(4, 1 << 20);
        let queue = std::sync::Arc::new(queue);
        let reader = tokio::spawn({
            let queue = queue.clone();
            async move {
                let mut events = Vec::new();
                while queue.next(&mut events, 10).await > 0 {}
                events.len()
            }
        });
        tokio::task::yield_now().await;
        send(&queue, &source, b'1');
        tokio::task::yield_now().await;
        send(&queue, &source, b'2');
        queue.close();
        assert_eq!(reader.await.unwrap(), 2);
    }
}
