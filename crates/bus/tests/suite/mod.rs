//! What every bus does, whatever it is on. Each function is one test; [`on_every_bus!`] runs them all.

#![allow(dead_code)] // each test binary uses its part

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use herald_bus::{
    Bus, BusError, Entry, Feed, FeedEvent, FeedLimits, Interruption, LogConfig, Publication, Published,
};
use herald_wire::{Envelope, Position, Target};
use tokio::time::timeout;

use crate::server::{PATIENCE, until};

/// Makes a `#[tokio::test]` of each test here; `$bench` is an expression that makes a [`Bench`] from a [`LogConfig`].
#[macro_export]
macro_rules! on_every_bus {
    ($bench:expr) => {
        $crate::on_every_bus!(
            $bench;
            a_batch_is_answered_in_order, a_message_id_counts_once_per_target, positions_increase_over_all_targets,
            entries_name_the_one_before, a_log_holds_its_newest_entries, a_log_ends_at_its_age,
            a_message_id_is_forgotten, a_feed_brings_what_the_log_holds_in_order, an_overflow_is_told,
            volatile_messages_reach_who_is_subscribed, feeds_are_independent, what_is_unsubscribed_stays_away,
            a_dropped_feed_ends, unknown_targets_have_empty_logs, sessions_live_as_long_as_they_are_touched,
            a_mark_never_moves_back, a_holder_is_the_last_one_noted, a_log_is_read_backwards, an_epoch_stays, the_clock_is_the_last_position_given, any_id_is_a_target, large_batches_and_messages_pass
        );
    };
    ($bench:expr; $($name:ident),+) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::suite::$name(async |log| ($bench)(log).await).await;
            }
        )+
    };
}

/// A bus to test, and what keeps it alive.
pub(crate) struct Bench {
    pub(crate) bus: Bus,
    /// Whether one clock gives all positions.
    pub(crate) one_clock: bool,
    pub(crate) _server: Option<Box<dyn std::any::Any>>,
}

pub(crate) fn socket(id: &str) -> Target {
    Target::socket(id, 256).unwrap()
}

pub(crate) fn volatile(target: &Target, body: &str) -> Publication {
    publication(target, body, false)
}

pub(crate) fn reliable(target: &Target, body: &str) -> Publication {
    publication(target, body, true)
}

fn publication(target: &Target, body: &str, reliable: bool) -> Publication {
    let envelope =
        Envelope { body: Bytes::copy_from_slice(body.as_bytes()), reliable, ..Envelope::default() };
    Publication { target: target.clone(), envelope: envelope.to_bytes(), reliable, message_id: None }
}

fn with_id(message: Publication, id: &str) -> Publication {
    Publication { message_id: Some(id.into()), ..message }
}

pub(crate) async fn publish(bus: &Bus, message: Publication) -> Published {
    bus.publish(&[message]).await.pop().unwrap().unwrap()
}

pub(crate) fn logged(published: Published) -> Position {
    match published {
        Published::Logged(position) => position,
        other => panic!("{other:?} instead of a position"),
    }
}

/// A feed that has begun.
pub(crate) async fn feed(bus: &Bus) -> (herald_bus::Subscriptions, Feed) {
    let (subscriptions, mut feed) = bus.feed(FeedLimits::default());
    assert_eq!(next(&mut feed, 1).await, [FeedEvent::Interrupted { reason: Interruption::Started }]);
    (subscriptions, feed)
}

/// Waits for exactly `count` events.
pub(crate) async fn next(feed: &mut Feed, count: usize) -> Vec<FeedEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let missing = count - events.len();
        let taken = timeout(PATIENCE, feed.next(&mut events, missing)).await;
        assert_ne!(taken.unwrap_or_else(|_| panic!("only {events:?}")), 0);
    }
    events
}

pub(crate) fn body(event: &FeedEvent) -> (String, String) {
    let FeedEvent::Message { target, envelope } = event else { panic!("{event:?} instead of a message") };
    (target.to_string(), text(envelope))
}

fn text(envelope: &Bytes) -> String {
    String::from_utf8(Envelope::read(envelope.clone()).unwrap().body.to_vec()).unwrap()
}

fn bodies(log: &[Entry]) -> Vec<String> {
    log.iter().map(|entry| text(&entry.envelope)).collect()
}

fn assert_chained(log: &[Entry]) {
    for pair in log.windows(2) {
        assert!(pair[0].position < pair[1].position);
        assert_eq!(pair[1].prev, pair[0].position);
    }
    for entry in log {
        let place = Envelope::read(entry.envelope.clone()).unwrap().place().unwrap().unwrap();
        assert_eq!((place.position, place.prev), (entry.position, entry.prev));
    }
}

pub(crate) async fn a_batch_is_answered_in_order(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (a, b) = (socket("a"), socket("b"));
    let batch = [
        reliable(&a, "1"),
        volatile(&a, "2"),
        with_id(reliable(&b, "3"), "m"),
        with_id(reliable(&b, "3"), "m"),
        with_id(volatile(&a, "4"), "v"),
        with_id(volatile(&a, "4"), "v"),
        reliable(&a, "5"),
    ];
    let answers: Vec<_> = bus.publish(&batch).await.into_iter().map(Result::unwrap).collect();
    let [first, sent, third, duplicate, once, twice, last] = answers[..] else { panic!("{answers:?}") };
    assert!(logged(first) < logged(last));
    logged(third);
    assert_eq!([sent, once], [Published::Sent { receivers: 0 }; 2]);
    assert_eq!([duplicate, twice], [Published::Duplicate; 2]);
    assert!(bus.publish(&[]).await.is_empty());
}

pub(crate) async fn a_message_id_counts_once_per_target(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let (a, b) = (socket("a"), socket("b"));
    subscriptions.subscribe(&[a.clone(), b.clone()]).await.unwrap();
    for make in [reliable, volatile] {
        let id = make(&a, "").reliable.to_string();
        let first = publish(&bus, with_id(make(&a, "one"), &id)).await;
        assert_ne!(first, Published::Duplicate);
        assert_eq!(publish(&bus, with_id(make(&a, "two"), &id)).await, Published::Duplicate);
        assert_ne!(publish(&bus, with_id(make(&b, "three"), &id)).await, Published::Duplicate);
        let events = next(&mut feed, 2).await;
        assert_eq!([body(&events[0]).1, body(&events[1]).1], ["one", "three"]);
    }
    assert_eq!(bodies(&bus.read_log(&a, Position::ZERO, 9).await.unwrap()), ["one"]);
}

pub(crate) async fn positions_increase_over_all_targets(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, one_clock, .. } = &bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(bus).await;
    let targets: Vec<_> = (0..10).map(|n| socket(&n.to_string())).collect();
    subscriptions.subscribe(&targets).await.unwrap();
    let publishers: Vec<_> = (0..8)
        .map(|_| {
            let (bus, targets) = (bus.clone(), targets.clone());
            tokio::spawn(async move {
                let batch: Vec<_> = targets.iter().map(|target| reliable(target, "")).collect();
                let mut given = Vec::new();
                for _ in 0..10 {
                    given.extend(bus.publish(&batch).await.into_iter().map(|answer| logged(answer.unwrap())));
                }
                given
            })
        })
        .collect();
    let mut given = HashSet::new();
    for publisher in publishers {
        let positions = publisher.await.unwrap();
        assert!(!one_clock || positions.is_sorted());
        given.extend(positions);
    }
    assert!(!one_clock || given.len() == 800);
    let events = next(&mut feed, 800).await;
    let seen: Vec<_> = events
        .into_iter()
        .map(|event| {
            let FeedEvent::Message { envelope, .. } = event else { panic!("{event:?}") };
            Envelope::read(envelope).unwrap().place().unwrap().unwrap().position
        })
        .collect();
    assert!(!one_clock || seen.windows(2).all(|pair| pair[0] < pair[1]));
    for target in &targets {
        let log = bus.read_log(target, Position::ZERO, 1_000).await.unwrap();
        assert_eq!(log.len(), 80);
        assert_chained(&log);
    }
}

pub(crate) async fn entries_name_the_one_before(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let a = socket("a");
    let mut positions = Vec::new();
    for n in 0..5 {
        positions.push(logged(publish(&bus, reliable(&a, &n.to_string())).await));
        publish(&bus, reliable(&socket("other"), "")).await;
    }
    let log = bus.read_log(&a, Position::ZERO, 100).await.unwrap();
    assert_eq!(log[0].prev, Position::ZERO);
    assert_chained(&log);
    assert_eq!(log.iter().map(|entry| entry.position).collect::<Vec<_>>(), positions);
    let some = bus.read_log(&a, positions[1], 2).await.unwrap();
    assert_eq!(some, log[2..4]);
    assert_eq!(bus.read_log(&a, positions[4], 2).await.unwrap(), []);
    assert_eq!(bus.tails(std::slice::from_ref(&a)).await.unwrap(), [positions[4]]);
}

pub(crate) async fn a_log_holds_its_newest_entries(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig { entries_max: 100, ..LogConfig::default() }).await;
    let a = socket("a");
    let batch: Vec<_> = (0..1_000).map(|n| reliable(&a, &n.to_string())).collect();
    let positions: Vec<_> =
        bus.publish(&batch).await.into_iter().map(|answer| logged(answer.unwrap())).collect();
    let log = bus.read_log(&a, Position::ZERO, 10_000).await.unwrap();
    assert!((100..=200).contains(&log.len()), "{}", log.len());
    assert_chained(&log);
    // the gap shows: the first entry left names one that is gone
    assert_eq!(log[0].prev, positions[1_000 - log.len() - 1]);
    assert_eq!(bodies(&log).last().unwrap(), "999");
}

pub(crate) async fn a_log_ends_at_its_age(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } =
        bench(LogConfig { age: Duration::from_millis(400), ..LogConfig::default() }).await;
    let a = socket("a");
    let first = logged(publish(&bus, reliable(&a, "1")).await);
    assert_eq!(bus.read_log(&a, Position::ZERO, 9).await.unwrap().len(), 1);
    until("the log ends", async || bus.read_log(&a, Position::ZERO, 9).await.unwrap().is_empty()).await;
    assert_eq!(bus.tails(std::slice::from_ref(&a)).await.unwrap(), [first]);
    publish(&bus, reliable(&a, "2")).await;
    assert_eq!(bus.read_log(&a, first, 9).await.unwrap()[0].prev, first);
}

pub(crate) async fn a_message_id_is_forgotten(bench: impl AsyncFn(LogConfig) -> Bench) {
    let window = Duration::from_millis(300);
    let Bench { bus, _server, .. } = bench(LogConfig { dedup_window: window, ..LogConfig::default() }).await;
    for make in [reliable, volatile] {
        let message = with_id(make(&socket(&make(&socket("x"), "").reliable.to_string()), ""), "m");
        assert_ne!(publish(&bus, message.clone()).await, Published::Duplicate);
        assert_eq!(publish(&bus, message.clone()).await, Published::Duplicate);
        until("it is forgotten", async || publish(&bus, message.clone()).await != Published::Duplicate).await;
    }
}

pub(crate) async fn a_feed_brings_what_the_log_holds_in_order(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let a = socket("a");
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    let batch: Vec<_> = (0..500).map(|n| publication(&a, &n.to_string(), n % 3 == 0)).collect();
    bus.publish(&batch).await;
    let events = next(&mut feed, 500).await;
    assert_eq!(
        events.iter().map(|event| body(event).1).collect::<Vec<_>>(),
        (0..500).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    let log = bus.read_log(&a, Position::ZERO, 500).await.unwrap();
    for (event, entry) in events.iter().step_by(3).zip(&log) {
        assert_eq!(*event, FeedEvent::Message { target: a.clone(), envelope: entry.envelope.clone() });
    }
}

pub(crate) async fn an_overflow_is_told(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = bus.feed(FeedLimits { messages_max: 10, bytes_max: 1 << 20 });
    next(&mut feed, 1).await;
    let a = socket("a");
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    let batch: Vec<_> = (0..100).map(|n| reliable(&a, &n.to_string())).collect();
    bus.publish(&batch).await;
    // confirmed behind all of them: it shares their hash tag, so their node
    subscriptions.subscribe(&[socket("a}x")]).await.unwrap();
    let events = next(&mut feed, 11).await;
    let bodies: Vec<_> = events[..10].iter().map(|event| body(event).1).collect();
    assert_eq!(bodies, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(events[10], FeedEvent::Interrupted { reason: Interruption::Overflow });
    // the place of the loss is told once, and what comes later comes
    publish(&bus, reliable(&a, "later")).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "later");
    assert_eq!(bus.read_log(&a, Position::ZERO, 1_000).await.unwrap().len(), 101);
}

pub(crate) async fn volatile_messages_reach_who_is_subscribed(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let (a, b) = (socket("a"), Target::group("a", 256).unwrap());
    subscriptions.subscribe(std::slice::from_ref(&b)).await.unwrap();
    assert_eq!(publish(&bus, volatile(&a, "not for b")).await, Published::Sent { receivers: 0 });
    assert_eq!(publish(&bus, volatile(&b, "for b")).await, Published::Sent { receivers: 1 });
    assert_eq!(body(&next(&mut feed, 1).await[0]), ("g:a".into(), "for b".into()));
    assert_eq!(bus.read_log(&b, Position::ZERO, 9).await.unwrap(), []);
    assert_eq!(bus.tails(&[b]).await.unwrap(), [Position::ZERO]);
}

pub(crate) async fn feeds_are_independent(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (first, mut first_feed) = feed(&bus).await;
    let (second, mut second_feed) = feed(&bus).await;
    let everyone = Target::everyone();
    for subscriptions in [&first, &second, &first] {
        subscriptions.subscribe(std::slice::from_ref(&everyone)).await.unwrap();
    }
    assert_eq!(publish(&bus, volatile(&everyone, "1")).await, Published::Sent { receivers: 2 });
    assert_eq!(next(&mut first_feed, 1).await, next(&mut second_feed, 1).await);
    first.unsubscribe(std::slice::from_ref(&everyone)).await.unwrap();
    assert_eq!(publish(&bus, volatile(&everyone, "2")).await, Published::Sent { receivers: 1 });
    drop(second_feed);
    until("nobody reads", async || {
        publish(&bus, volatile(&everyone, "3")).await == Published::Sent { receivers: 0 }
    })
    .await;
}

pub(crate) async fn what_is_unsubscribed_stays_away(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let (a, b) = (socket("a"), socket("b"));
    subscriptions.subscribe(&[a.clone(), b.clone(), a.clone()]).await.unwrap();
    subscriptions.unsubscribe(&[a.clone(), socket("never subscribed")]).await.unwrap();
    bus.publish(&[volatile(&a, "away"), volatile(&b, "1")]).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "1");
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    bus.publish(&[volatile(&a, "2")]).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "2");
    subscriptions.subscribe(&[]).await.unwrap();
}

pub(crate) async fn a_dropped_feed_ends(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, feed) = feed(&bus).await;
    drop(feed);
    until("it ended", async || {
        matches!(subscriptions.subscribe(&[socket("a")]).await, Err(BusError::FeedEnded))
    })
    .await;
}

pub(crate) async fn unknown_targets_have_empty_logs(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (a, b, c) = (socket("a"), socket("b"), socket("c"));
    let at_a = logged(publish(&bus, reliable(&a, "a")).await);
    let at_c = logged(publish(&bus, reliable(&c, "c")).await);
    let targets = [b.clone(), c.clone(), a.clone()];
    assert_eq!(bus.tails(&targets).await.unwrap(), [Position::ZERO, at_c, at_a]);
    let from = targets.map(|target| (target, Position::ZERO));
    let logs = bus.read_logs(&from, 9).await.unwrap();
    assert_eq!(logs.iter().map(|log| bodies(log)).collect::<Vec<_>>(), [vec![], vec!["c"], vec!["a"]]);
    assert_eq!(bus.tails(&[]).await.unwrap(), []);
    assert!(bus.read_logs(&[], 9).await.unwrap().is_empty());
}

pub(crate) async fn sessions_live_as_long_as_they_are_touched(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    assert_eq!(bus.load_session("p").await.unwrap(), None);
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(600));
    let record = Bytes::from_static(b"\x00record\xff");
    for pid in ["p", "q"] {
        bus.save_session(pid, record.clone(), short).await.unwrap();
    }
    let gone = bus.touch_sessions(&["p".to_owned(), "unknown".to_owned()], long).await.unwrap();
    assert_eq!(gone, ["unknown"]);
    until("q ends", async || bus.load_session("q").await.unwrap().is_none()).await;
    assert_eq!(bus.load_session("p").await.unwrap(), Some(record));
    assert_eq!(bus.load_session("unknown").await.unwrap(), None);
    bus.save_session("p", Bytes::new(), long).await.unwrap();
    assert_eq!(bus.load_session("p").await.unwrap(), Some(Bytes::new()));
}

pub(crate) async fn a_mark_never_moves_back(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (a, b) = (socket("a"), socket("b"));
    let ttl = Duration::from_secs(600);
    let (low, high) = (Position(1_700_000_000_000_000), Position(1_700_000_000_000_001));
    assert_eq!(bus.load_sent(&a).await.unwrap(), Position::ZERO);
    bus.save_sent(&[(a.clone(), high), (b.clone(), low)], ttl).await.unwrap();
    bus.save_sent(&[(a.clone(), low), (b.clone(), high)], ttl).await.unwrap();
    for target in [&a, &b] {
        assert_eq!(bus.load_sent(target).await.unwrap(), high);
    }
    bus.save_sent(&[(a.clone(), low)], Duration::from_millis(50)).await.unwrap();
    until("it ends", async || bus.load_sent(&a).await.unwrap() == Position::ZERO).await;
}

pub(crate) async fn a_holder_is_the_last_one_noted(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (target, ttl) = (socket("a"), Duration::from_secs(600));
    assert_eq!(bus.load_holder(&target).await.unwrap(), None);
    bus.save_holder(&target, "p", ttl).await.unwrap();
    bus.save_holder(&target, "q", ttl).await.unwrap();
    assert_eq!(bus.load_holder(&target).await.unwrap().as_deref(), Some("q"));
    assert_eq!(bus.load_holder(&socket("b")).await.unwrap(), None);
    bus.save_holder(&target, "r", Duration::from_millis(50)).await.unwrap();
    until("it ends", async || bus.load_holder(&target).await.unwrap().is_none()).await;
}

pub(crate) async fn a_log_is_read_backwards(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (a, b) = (socket("a"), socket("b"));
    let mut positions = Vec::new();
    for body in ["1", "2", "3", "4"] {
        positions.push(logged(publish(&bus, reliable(&a, body)).await));
    }
    let upto = [(a.clone(), positions[2]), (b, positions[3]), (a, Position(positions[0].0 - 1))];
    let logs = bus.read_logs_back(&upto, 2).await.unwrap();
    assert_eq!(logs.iter().map(|log| bodies(log)).collect::<Vec<_>>(), [vec!["3", "2"], vec![], vec![]]);
}

pub(crate) async fn an_epoch_stays(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let epoch = bus.epoch().await.unwrap();
    assert_ne!(epoch.0, 0);
    assert_eq!(bus.epoch().await.unwrap(), epoch);
    bus.ping().await.unwrap();
}

pub(crate) async fn the_clock_is_the_last_position_given(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, one_clock, _server } = bench(LogConfig::default()).await;
    assert_eq!(bus.clock().await.unwrap(), one_clock.then_some(Position::ZERO));
    for id in ["a", "b"] {
        let given = logged(publish(&bus, reliable(&socket(id), "")).await);
        assert_eq!(bus.clock().await.unwrap(), one_clock.then_some(given));
    }
}

pub(crate) async fn any_id_is_a_target(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    for id in ["{", "}", "{}", "a}b", "{a}{b}", "*", "[a-z]?", "ä 漢 🙂", "x y:z"] {
        let target = socket(id);
        subscriptions.subscribe(std::slice::from_ref(&target)).await.unwrap();
        publish(&bus, with_id(reliable(&target, id), id)).await;
        assert_eq!(body(&next(&mut feed, 1).await[0]), (format!("s:{id}"), id.to_owned()));
        assert_eq!(bodies(&bus.read_log(&target, Position::ZERO, 9).await.unwrap()), [id]);
    }
}

pub(crate) async fn large_batches_and_messages_pass(bench: impl AsyncFn(LogConfig) -> Bench) {
    let Bench { bus, _server, .. } = bench(LogConfig::default()).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let targets: Vec<_> = (0..2_500).map(|n| socket(&n.to_string())).collect();
    subscriptions.subscribe(&targets).await.unwrap();
    let batch: Vec<_> = targets.iter().map(|target| volatile(target, target.as_str())).collect();
    for answer in bus.publish(&batch).await {
        assert_eq!(answer.unwrap(), Published::Sent { receivers: 1 });
    }
    for event in next(&mut feed, 2_500).await {
        let (target, body) = body(&event);
        assert_eq!(target, body);
    }
    subscriptions.unsubscribe(&targets).await.unwrap();
    let large = "x".repeat(4 << 20);
    let a = socket("large");
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    publish(&bus, reliable(&a, &large)).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, large);
}
