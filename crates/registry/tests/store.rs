//! One suite for both stores: what holds in memory holds in Redis, on one node and on a cluster.

#![allow(clippy::unwrap_used, reason = "this is test code, though not all in test functions")]

mod support;

use std::time::Duration;

use herald_registry::directory::{Attachment, Eviction, Hold};
use herald_registry::event::Event;
use herald_registry::{Store, StoreError};
use herald_wire::registry::{Claim, Close, Heartbeat, Pressure, Release};
use support::{Redis, memory, until};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(400);

fn claim(socket_id: &str, connection: u64, age_ms: u64) -> Claim {
    Claim { socket_id: socket_id.into(), connection, age_ms }
}

fn release(socket_id: &str, connection: u64) -> Release {
    Release { socket_id: socket_id.into(), connection }
}

fn hold(socket_id: &str, connection: u64) -> Hold {
    Hold { socket_id: socket_id.into(), connection }
}

fn lost(edge: &str, socket_id: &str, connection: u64, by: &str) -> Eviction {
    Eviction::new(edge, hold(socket_id, connection), by)
}

async fn owner(store: &Store, socket_id: &str) -> Option<(String, u64)> {
    let found = store.locate(&[socket_id.to_owned()]).await.unwrap();
    found.into_iter().next().map(|location| (location.edge_id, location.connection))
}

fn fenced<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Fenced))
}

/// Runs the same test on a store of each kind.
macro_rules! on_all {
    ($($name:ident($lease:expr);)*) => {
        mod in_memory {
            $(#[tokio::test] async fn $name() { super::$name(super::memory($lease)).await; })*
        }
        mod in_redis {
            $(#[tokio::test] async fn $name() {
                let redis = super::Redis::start();
                super::$name(redis.store($lease)).await;
            })*
        }
        mod in_a_redis_cluster {
            $(#[tokio::test] async fn $name() {
                let redis = super::Redis::start_cluster().await;
                super::$name(redis.store($lease)).await;
            })*
        }
    };
}

on_all! {
    the_newest_claim_wins(super::LONG);
    awkward_ids_and_numbers_are_kept(super::LONG);
    a_later_stay_fences_the_earlier(super::LONG);
    an_audit_tells_what_was_not_told(super::LONG);
    many_claims_are_paged(super::LONG);
    replicas_hear_each_other(super::LONG);
    a_lease_ends(super::SHORT);
    heartbeats_keep_a_lease(super::SHORT);
    claims_and_releases_keep_a_lease(super::SHORT);
}

async fn the_newest_claim_wins(store: Store) {
    let a = store.attach("a", "a:1").await.unwrap();
    let b = store.attach("b", "b:1").await.unwrap();
    assert_eq!(store.claim(&a, &[claim("s", 1, 60_000)]).await.unwrap(), []);
    assert_eq!(store.claim(&b, &[claim("s", 7, 30_000)]).await.unwrap(), [lost("a", "s", 1, "b")]);
    assert_eq!(store.claim(&a, &[claim("s", 1, 60_000)]).await.unwrap(), [lost("a", "s", 1, "b")]);
    let since = store.locate(&["s".into()]).await.unwrap()[0].since_ms;
    assert_eq!(store.claim(&b, &[claim("s", 7, 0)]).await.unwrap(), []);
    let location = store.locate(&["none".into(), "s".into()]).await.unwrap().remove(0);
    assert_eq!((location.edge_id.as_str(), location.address.as_str()), ("b", "b:1"));
    assert_eq!((location.connection, location.since_ms), (7, since));
    assert_eq!(store.release(&a, &[release("s", 1)]).await.unwrap(), 0);
    assert_eq!(store.release(&b, &[release("s", 8)]).await.unwrap(), 0);
    assert_eq!(owner(&store, "s").await, Some(("b".into(), 7)));
    assert_eq!(store.release(&b, &[release("s", 7)]).await.unwrap(), 1);
    assert_eq!(owner(&store, "s").await, None);
    let evictions =
        store.claim(&a, &[claim("t", 1, 9_000), claim("t", 2, 3_000), claim("t", 3, 5_000)]).await;
    assert_eq!(evictions.unwrap(), [lost("a", "t", 1, "a"), lost("a", "t", 3, "a")]);
    assert_eq!(owner(&store, "t").await, Some(("a".into(), 2)));
}

async fn awkward_ids_and_numbers_are_kept(store: Store) {
    let edge_id = "edge {1} ü";
    let a = store.attach(edge_id, "a:1").await.unwrap();
    let ids = ["with space", "{tag}", "}", "{", "ünïcødé 🦀", "0", "*", " "];
    let claims: Vec<_> = ids.iter().map(|id| claim(id, u64::MAX, u64::MAX)).collect();
    assert_eq!(store.claim(&a, &claims).await.unwrap(), []);
    let asked: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let found = store.locate(&asked).await.unwrap();
    assert_eq!(found.iter().map(|location| location.socket_id.as_str()).collect::<Vec<_>>(), ids);
    assert!(found.iter().all(|l| (l.edge_id.as_str(), l.connection, l.since_ms) == (edge_id, u64::MAX, 0)));
    assert_eq!(store.audit(&a).await.unwrap(), []);
    let releases: Vec<_> = ids.iter().map(|id| release(id, u64::MAX)).collect();
    assert_eq!(store.release(&a, &releases).await.unwrap(), ids.len());
    assert_eq!(store.locate(&asked).await.unwrap(), []);
    assert_eq!(store.claim(&a, &[]).await.unwrap(), []);
    assert_eq!(store.release(&a, &[]).await.unwrap(), 0);
    assert_eq!(store.locate(&[]).await.unwrap(), []);
}

async fn a_later_stay_fences_the_earlier(store: Store) {
    let old = store.attach("a", "a:1").await.unwrap();
    store.claim(&old, &[claim("kept", 1, 5_000), claim("gone", 2, 0)]).await.unwrap();
    let new = store.attach("a", "a:2").await.unwrap();
    assert!(new.number > old.number);
    assert!(fenced(&store.claim(&old, &[claim("late", 3, 0)]).await));
    assert!(fenced(&store.release(&old, &[release("kept", 1)]).await));
    assert!(fenced(&store.heartbeat(&old, &Heartbeat::default()).await));
    assert!(fenced(&store.claim(&Attachment { edge_id: "unknown".into(), number: 1 }, &[]).await));
    assert_eq!(store.claim(&new, &[claim("kept", 1, 5_000)]).await.unwrap(), []);
    assert_eq!(owner(&store, "gone").await, Some(("a".into(), 2)));
    assert_eq!(store.forget(&new).await.unwrap(), 1);
    assert_eq!(store.forget(&new).await.unwrap(), 0);
    assert_eq!(owner(&store, "gone").await, None);
    assert_eq!(owner(&store, "kept").await, Some(("a".into(), 1)));
    assert_eq!(owner(&store, "late").await, None);
}

async fn an_audit_tells_what_was_not_told(store: Store) {
    let a = store.attach("a", "a:1").await.unwrap();
    let b = store.attach("b", "b:1").await.unwrap();
    store.claim(&a, &[claim("s", 1, 9_000), claim("t", 2, 9_000)]).await.unwrap();
    store.claim(&b, &[claim("s", 1, 3_000)]).await.unwrap();
    assert_eq!(store.audit(&b).await.unwrap(), []);
    assert_eq!(store.audit(&a).await.unwrap(), [lost("a", "s", 1, "b")]);
    assert_eq!(store.audit(&a).await.unwrap(), [lost("a", "s", 1, "b")], "until it was told");
    store.told(&a, &[hold("s", 1)]).await.unwrap();
    assert_eq!(store.audit(&a).await.unwrap(), []);
    assert_eq!(owner(&store, "t").await, Some(("a".into(), 2)));
}

async fn many_claims_are_paged(store: Store) {
    let a = store.attach("a", "a:1").await.unwrap();
    let ids: Vec<String> = (0..2_500).map(|index| format!("s{index}")).collect();
    for ids in ids.chunks(1_000) {
        let claims: Vec<_> = ids.iter().map(|id| claim(id, 1, 9_000)).collect();
        assert_eq!(store.claim(&a, &claims).await.unwrap(), []);
    }
    let b = store.attach("b", "b:1").await.unwrap();
    let claims: Vec<_> = ids[..1_500].iter().map(|id| claim(id, 2, 3_000)).collect();
    assert_eq!(store.claim(&b, &claims).await.unwrap().len(), 1_500);
    assert_eq!(store.audit(&a).await.unwrap().len(), 1_500);
    let again = store.attach("a", "a:1").await.unwrap();
    assert_eq!(store.forget(&again).await.unwrap(), 1_000);
    assert_eq!(store.audit(&again).await.unwrap(), []);
    assert_eq!(store.locate(&ids).await.unwrap().len(), 1_500);
}

async fn replicas_hear_each_other(store: Store) {
    let mut events = store.listen().await.unwrap();
    let close = Close { socket_id: "s".into(), connection: 1, reason: "r".into() };
    let told = [Event::close("a".into(), close), Event::probe()];
    store.tell(&told).await.unwrap();
    assert_eq!([events.next().await.unwrap(), events.next().await.unwrap()], told);
}

async fn a_lease_ends(store: Store) {
    let a = store.attach("a", "a:1").await.unwrap();
    assert!(!store.sweep("a").await.unwrap());
    store.claim(&a, &[claim("s", 1, 0), claim("t", 2, 0)]).await.unwrap();
    until("the lease ends", async || (store.edges().await.unwrap().lapsed == ["a"]).then_some(())).await;
    assert_eq!(store.edges().await.unwrap().standing, []);
    assert_eq!(store.locate(&["s".into(), "t".into()]).await.unwrap(), []);
    assert!(fenced(&store.heartbeat(&a, &Heartbeat::default()).await));
    // an older claim than the dead edge's, swept or not: the dead own nothing, and need not be told
    let b = store.attach("b", "b:1").await.unwrap();
    assert_eq!(store.claim(&b, &[claim("s", 4, 60_000)]).await.unwrap(), []);
    assert_eq!(owner(&store, "s").await, Some(("b".into(), 4)));
    assert!(store.sweep("a").await.unwrap());
    assert!(!store.sweep("a").await.unwrap());
    assert_eq!(store.edges().await.unwrap().lapsed, Vec::<String>::new());
    // it comes back and says again what it holds
    let a = store.attach("a", "a:1").await.unwrap();
    let evictions = store.claim(&a, &[claim("s", 1, 90_000), claim("t", 2, 90_000)]).await.unwrap();
    assert_eq!(evictions, [lost("a", "s", 1, "b")]);
}

async fn heartbeats_keep_a_lease(store: Store) {
    let a = store.attach("a", "a:1").await.unwrap();
    let pressure = |edge_id: &str| Pressure {
        edge_id: edge_id.to_owned(),
        lateness_us: 7,
        fullness_permille: 30,
        feed_us: 5,
        bottleneck: String::new(),
    };
    let beat = Heartbeat { connections: 1, sessions: 2, pressure: Some(pressure("ignored")) };
    let start = tokio::time::Instant::now();
    let mut every = tokio::time::interval(SHORT / 8);
    while start.elapsed() < SHORT * 3 {
        every.tick().await;
        store.heartbeat(&a, &beat).await.unwrap();
    }
    let edge = store.edges().await.unwrap().standing.remove(0);
    assert_eq!((edge.edge_id.as_str(), edge.address.as_str()), ("a", "a:1"));
    assert_eq!((edge.connections, edge.sessions), (1, 2));
    assert_eq!(edge.pressure, Some(pressure("a")));
    assert!(edge.lease_left_ms <= 400);
}

/// An edge that has much to say may come to its heartbeats late.
async fn claims_and_releases_keep_a_lease(store: Store) {
    let a = store.attach("a", "a:1").await.unwrap();
    let start = tokio::time::Instant::now();
    let mut every = tokio::time::interval(SHORT / 8);
    while start.elapsed() < SHORT * 3 {
        every.tick().await;
        store.claim(&a, &[claim("s", 1, 0)]).await.unwrap();
        every.tick().await;
        store.release(&a, &[release("s", 1)]).await.unwrap();
    }
    until("the lease ends", async || (store.edges().await.unwrap().lapsed == ["a"]).then_some(())).await;
}

/// The pure rules and the scripts, given the same, say the same. Ages are whole tens of seconds, so that the clocks of
/// the two do not matter.
#[tokio::test]
async fn both_stores_agree_on_a_random_history() {
    let redis = Redis::start();
    let stores = [memory(LONG), redis.store(LONG)];
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let edges = [format!("{seed}-a"), format!("{seed}-b"), format!("{seed}-c")];
        let sockets: Vec<String> = (0..4).map(|socket| format!("{seed}-s{socket}")).collect();
        let mut stays: [Vec<Attachment>; 2] = [Vec::new(), Vec::new()];
        for (store, stays) in stores.iter().zip(&mut stays) {
            for edge in &edges {
                stays.push(store.attach(edge, "x").await.unwrap());
            }
        }
        // a claim of the same age as another would be ruled by the clocks
        let mut ages: Vec<u64> = (1..=100).map(|age| age * 10_000).collect();
        random.shuffle(&mut ages);
        for age in ages {
            let (edge, socket) = (random.usize(..3), random.choice(&sockets).unwrap());
            let (connection, action) = (random.u64(1..4), random.u32(..20));
            let mut said = Vec::new();
            for (store, stays) in stores.iter().zip(&mut stays) {
                let by = &stays[edge];
                said.push(match action {
                    0 => {
                        stays[edge] = store.attach(&edges[edge], "x").await.unwrap();
                        String::new()
                    }
                    1 => format!("{:?}", store.forget(by).await.unwrap()),
                    2 => format!("{:?}", store.told(by, &[hold(socket, connection)]).await.unwrap()),
                    3..=5 => {
                        format!("{:?}", store.release(by, &[release(socket, connection)]).await.unwrap())
                    }
                    6..=7 => {
                        let mut evictions = store.audit(by).await.unwrap();
                        evictions.sort_by_key(|e| (e.evict.socket_id.clone(), e.evict.connection));
                        format!("{evictions:?}")
                    }
                    _ => format!("{:?}", store.claim(by, &[claim(socket, connection, age)]).await.unwrap()),
                });
            }
            assert_eq!(said[0], said[1], "seed {seed}, action {action}");
            let owners = [owner(&stores[0], socket).await, owner(&stores[1], socket).await];
            assert_eq!(owners[0], owners[1], "seed {seed}, action {action}");
        }
    }
}

#[tokio::test]
async fn an_owner_that_redis_lost_is_made_good() {
    let redis = Redis::start();
    let store = redis.store(LONG);
    let a = store.attach("a", "a:1").await.unwrap();
    store.claim(&a, &[claim("s", 1, 0)]).await.unwrap();
    assert_eq!(redis.command::<u64>(&["DEL", "test:owner:{s}"]).await, 1);
    assert_eq!(owner(&store, "s").await, None);
    assert_eq!(store.audit(&a).await.unwrap(), []);
    assert_eq!(owner(&store, "s").await, Some(("a".into(), 1)));
}

#[tokio::test]
async fn nothing_is_left_in_redis_when_all_is_released_or_swept() {
    let redis = Redis::start();
    let store = redis.store(SHORT);
    let a = store.attach("a", "a:1").await.unwrap();
    let b = store.attach("b", "b:1").await.unwrap();
    store.claim(&a, &[claim("s", 1, 9_000), claim("t", 2, 9_000), claim("u", 2, 9_000)]).await.unwrap();
    store.claim(&b, &[claim("s", 1, 3_000)]).await.unwrap();
    store.release(&a, &[release("t", 2)]).await.unwrap();
    until("the leases end", async || (store.edges().await.unwrap().lapsed.len() == 2).then_some(())).await;
    assert!(store.sweep("a").await.unwrap() && store.sweep("b").await.unwrap());
    assert_eq!(redis.command::<Vec<String>>(&["KEYS", "*"]).await, Vec::<String>::new());
}
