//! The suite on a real Redis, and what only a real Redis does: it goes away.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // functions that tests share are tests too

mod server;
mod suite;

use std::time::Duration;

use herald_bus::{Bus, BusError, FeedEvent, FeedLimits, Interruption, LogConfig, Published, RedisConfig};
use herald_wire::{Cursor, Envelope, Names, Position, Target};
use server::{Server, until};
use suite::{Bench, body, feed, logged, next, publish, reliable, socket, volatile};
use tokio::time::{Instant, timeout};

async fn bench(log: LogConfig) -> Bench {
    let server = Server::started(&[]).await;
    let config = RedisConfig { log, ..RedisConfig::new(&server.url()) };
    let bus = Bus::redis(config).await.unwrap();
    Bench { bus, one_clock: true, _server: Some(Box::new(server)) }
}

on_every_bus!(bench);

async fn bus_on(server: &Server) -> Bus {
    Bus::redis(RedisConfig::new(&server.url())).await.unwrap()
}

const RECONNECTED: FeedEvent = FeedEvent::Interrupted { reason: Interruption::Reconnected };

#[tokio::test]
async fn a_redis_that_is_not_up_yet_is_waited_for() {
    let mut server = Server::new(&[]);
    let short =
        RedisConfig { response_timeout: Duration::from_millis(200), ..RedisConfig::new(&server.url()) };
    let bus = Bus::redis(short).await.unwrap();
    let answers = bus.publish(&[reliable(&socket("a"), ""), volatile(&socket("a"), "")]).await;
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(matches!(error, BusError::Unreachable { .. }) && !error.may_have_happened(), "{error}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port)), "{error}");
    }
    let bus = bus_on(&server).await;
    let (subscriptions, mut feed) = bus.feed(FeedLimits::default());
    let subscribed = tokio::spawn(async move { subscriptions.subscribe(&[socket("a")]).await });
    server.start().await;
    subscribed.await.unwrap().unwrap();
    assert_eq!(next(&mut feed, 1).await, [FeedEvent::Interrupted { reason: Interruption::Started }]);
    assert_eq!(publish(&bus, volatile(&socket("a"), "1")).await, Published::Sent { receivers: 1 });
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "1");
}

#[tokio::test]
async fn a_killed_redis_is_down_and_when_it_is_back_all_is_subscribed_again() {
    let mut server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let targets: Vec<_> = (0..3_000).map(|n| socket(&n.to_string())).collect();
    subscriptions.subscribe(&targets).await.unwrap();
    let epoch = bus.epoch().await.unwrap();
    for _ in 0..2 {
        server.kill();
        assert_eq!(next(&mut feed, 1).await, [FeedEvent::Down]);
        // what is wanted meanwhile comes with the rest
        let waiting = tokio::spawn({
            let subscriptions = subscriptions.clone();
            async move { subscriptions.subscribe(&[socket("new")]).await }
        });
        subscriptions.unsubscribe(&[socket("0")]).await.unwrap();
        server.start().await;
        assert_eq!(next(&mut feed, 1).await, [RECONNECTED]);
        waiting.await.unwrap().unwrap();
        for answer in
            bus.publish(&targets[1..].iter().map(|t| volatile(t, t.as_str())).collect::<Vec<_>>()).await
        {
            assert_eq!(answer.unwrap(), Published::Sent { receivers: 1 });
        }
        for (event, target) in next(&mut feed, 2_999).await.iter().zip(&targets[1..]) {
            assert_eq!(body(event).0, target.as_str());
        }
        assert_eq!(publish(&bus, volatile(&socket("0"), "")).await, Published::Sent { receivers: 0 });
        assert_eq!(publish(&bus, volatile(&socket("new"), "new")).await, Published::Sent { receivers: 1 });
        next(&mut feed, 1).await;
    }
    assert_ne!(bus.epoch().await.unwrap(), epoch, "the data is gone: a new life of it");
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_and_nothing_hangs() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    let a = socket("a");
    subscriptions.subscribe(std::slice::from_ref(&a)).await.unwrap();
    let first = logged(publish(&bus, reliable(&a, "1")).await);
    next(&mut feed, 1).await;
    server.signal("-STOP");
    let frozen = Instant::now();
    let publishing = tokio::spawn({
        let (bus, message) = (bus.clone(), reliable(&a, "2"));
        async move { bus.publish(&[message]).await.pop().unwrap() }
    });
    assert_eq!(next(&mut feed, 1).await, [FeedEvent::Down]);
    assert!(frozen.elapsed() < Duration::from_secs(5), "{:?}", frozen.elapsed());
    let error = publishing.await.unwrap().unwrap_err();
    assert!(matches!(error, BusError::Timeout { .. }) && error.may_have_happened(), "{error}");
    assert!(frozen.elapsed() < Duration::from_secs(7), "{:?}", frozen.elapsed());
    server.signal("-CONT");
    assert_eq!(next(&mut feed, 1).await, [RECONNECTED]);
    // what was sent before it froze was done; the log has what the feed missed
    let missed = bus.read_log(&a, first, 9).await.unwrap();
    assert_eq!(missed.len(), 1);
    publish(&bus, reliable(&a, "3")).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "3");
}

#[tokio::test]
async fn a_subscriber_that_redis_closes_comes_back() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let (subscriptions, mut feed) = feed(&bus).await;
    subscriptions.subscribe(&[Target::everyone()]).await.unwrap();
    for _ in 0..5 {
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        assert_eq!(next(&mut feed, 2).await, [FeedEvent::Down, RECONNECTED]);
        assert_eq!(publish(&bus, volatile(&Target::everyone(), "")).await, Published::Sent { receivers: 1 });
        next(&mut feed, 1).await;
    }
}

#[tokio::test]
async fn a_publisher_that_redis_closes_comes_back() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    for _ in 0..5 {
        publish(&bus, reliable(&socket("a"), "")).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        // the end may be learned of only by trying
        until("it publishes again", async || bus.publish(&[reliable(&socket("a"), "")]).await[0].is_ok())
            .await;
    }
}

#[tokio::test]
async fn lost_scripts_are_given_again() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    publish(&bus, reliable(&socket("a"), "1")).await;
    server.command(&["SCRIPT", "FLUSH"]).await;
    let batch = [reliable(&socket("a"), "2"), volatile(&socket("b"), ""), reliable(&socket("a"), "3")];
    let answers = bus.publish(&batch).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(bus.read_log(&socket("a"), Position::ZERO, 9).await.unwrap().len(), 3);
    server.command(&["SCRIPT", "FLUSH"]).await;
    bus.save_sent(&[(socket("a"), Position(5))], Duration::from_secs(9)).await.unwrap();
    assert_eq!(bus.load_sent(&socket("a")).await.unwrap(), Position(5));
}

#[tokio::test]
async fn positions_stay_ahead_of_a_clock_that_was_ahead() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let names = Names::new(Names::PREFIX_DEFAULT);
    let ahead = "8000000000000999";
    server.command(&["SET", &names.clock(), ahead]).await;
    let at = logged(publish(&bus, reliable(&socket("a"), "")).await);
    assert_eq!(at, Position(8_000_000_000_001_000));
    assert_eq!(logged(publish(&bus, reliable(&socket("b"), "")).await), Position(8_000_000_000_001_001));
    assert_eq!(bus.read_log(&socket("a"), Position::ZERO, 9).await.unwrap()[0].position, at);
    // lost with the clock, kept by the log's own last position
    server.command(&["DEL", &names.clock()]).await;
    assert_eq!(logged(publish(&bus, reliable(&socket("a"), "")).await), Position(at.0 + 1));
    // and without that too: the log itself knows
    server.command(&["DEL", &names.clock(), &names.last(&socket("a"))]).await;
    assert_eq!(logged(publish(&bus, reliable(&socket("a"), "")).await), Position(at.0 + 2));
    let log = bus.read_log(&socket("a"), at, 9).await.unwrap();
    assert_eq!(log.iter().map(|entry| entry.prev).collect::<Vec<_>>(), [at, Position(at.0 + 1)]);
}

#[tokio::test]
async fn a_refused_publication_says_so_and_can_be_repeated() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let names = Names::new(Names::PREFIX_DEFAULT);
    let (a, b) = (socket("a"), socket("b"));
    server.command(&["SET", &names.log(&a), "not a stream"]).await;
    let message = herald_bus::Publication { message_id: Some("m".into()), ..reliable(&a, "1") };
    let answers = bus.publish(&[message.clone(), reliable(&b, "2")]).await;
    assert!(
        matches!(&answers[0], Err(error @ BusError::Refused { .. }) if !error.may_have_happened()),
        "{answers:?}"
    );
    assert!(matches!(answers[1], Ok(Published::Logged(_))));
    assert!(bus.read_log(&a, Position::ZERO, 9).await.is_err());
    server.command(&["DEL", &names.log(&a)]).await;
    logged(publish(&bus, message).await);
}

#[tokio::test]
async fn one_log_that_refuses_spoils_no_other() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let names = Names::new(Names::PREFIX_DEFAULT);
    let (a, b) = (socket("a"), socket("b"));
    let keyed =
        |target, id: &str| herald_bus::Publication { message_id: Some(id.into()), ..reliable(target, id) };
    let batch = [keyed(&a, "1"), keyed(&b, "2"), keyed(&a, "3"), keyed(&b, "4")];
    server.command(&["SET", &names.log(&a), "not a stream"]).await;
    let answers = bus.publish(&batch).await;
    assert!(matches!(answers[..], [Err(_), Ok(Published::Logged(_)), Err(_), Ok(Published::Logged(_))]));
    server.command(&["DEL", &names.log(&a)]).await;
    let answers = bus.publish(&batch).await;
    assert!(
        matches!(
            answers[..],
            [
                Ok(Published::Logged(_)),
                Ok(Published::Duplicate),
                Ok(Published::Logged(_)),
                Ok(Published::Duplicate)
            ]
        ),
        "{answers:?}"
    );
}

#[tokio::test]
async fn a_full_redis_refuses_all_and_does_nothing() {
    let server = Server::started(&["--maxmemory-policy", "noeviction"]).await;
    let bus = bus_on(&server).await;
    let keyed = |id: &str| herald_bus::Publication {
        message_id: Some(id.into()),
        ..reliable(&socket(if id == "2" { "b" } else { "a" }), id)
    };
    for batch in [vec![keyed("1"), keyed("2")], vec![reliable(&socket("a"), "3"), keyed("4")]] {
        server.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let answers = bus.publish(&batch).await;
        let refused = |answer: &Result<Published, BusError>| matches!(answer, Err(BusError::Refused { source, .. }) if source.code() == Some("OOM"));
        assert!(answers.iter().all(refused), "{answers:?}");
        server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        let answers = bus.publish(&batch).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Published::Logged(_)))), "{answers:?}");
    }
}

#[tokio::test]
async fn every_log_ends_some_time() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let names = Names::new(Names::PREFIX_DEFAULT);
    let a = socket("a");
    let ttl = async |key: &str| match server.command(&["PTTL", key]).await {
        redis::Value::Int(ms) => ms,
        other => panic!("{other:?}"),
    };
    let age = LogConfig::default().age.as_millis() as i64;
    for gone in ["nothing", &names.log(&a), &names.last(&a), &names.clock()] {
        server.command(&["DEL", gone]).await;
        logged(publish(&bus, reliable(&a, "")).await);
        let (log, last) = (ttl(&names.log(&a)).await, ttl(&names.last(&a)).await);
        assert!(log > age && last > log && last <= age * 5 / 2, "{gone}: {log} {last}");
    }
    // another hour: told anew
    server.command(&["PEXPIRE", &names.log(&a), "1000"]).await;
    server.command(&["SET", &names.last(&a), "1000", "PX", "1000"]).await;
    logged(publish(&bus, reliable(&a, "")).await);
    assert!(ttl(&names.log(&a)).await > age && ttl(&names.last(&a)).await > age);
}

#[tokio::test]
async fn prefixes_keep_heralds_apart() {
    let server = Server::started(&[]).await;
    let one = bus_on(&server).await;
    let two =
        Bus::redis(RedisConfig { prefix: "two".into(), ..RedisConfig::new(&server.url()) }).await.unwrap();
    let (subscriptions, mut feed) = feed(&one).await;
    subscriptions.subscribe(&[socket("a")]).await.unwrap();
    assert_eq!(publish(&two, volatile(&socket("a"), "2")).await, Published::Sent { receivers: 0 });
    publish(&two, reliable(&socket("a"), "2")).await;
    publish(&one, reliable(&socket("a"), "1")).await;
    assert_eq!(body(&next(&mut feed, 1).await[0]).1, "1");
    assert_ne!(one.epoch().await.unwrap(), two.epoch().await.unwrap());
    assert_eq!(one.slot_of(&socket("a")), Cursor::ONE_REDIS);
}

#[tokio::test]
async fn a_wrong_password_is_told_without_telling_it() {
    let server = Server::started(&["--requirepass", "right"]).await;
    let config = |password: &str| RedisConfig {
        response_timeout: Duration::from_millis(500),
        ..RedisConfig::new(&format!("redis://:{password}@127.0.0.1:{}", server.port))
    };
    let bus = Bus::redis(config("wrongsecret")).await.unwrap();
    let error = bus.ping().await.unwrap_err().to_string();
    assert!(!error.contains("wrongsecret") && error.to_lowercase().contains("password"), "{error}");
    assert!(!format!("{bus:?}{:?}", config("wrongsecret")).contains("wrongsecret"));
    Bus::redis(config("right")).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn what_travels_is_what_wire_reads() {
    let server = Server::started(&[]).await;
    let bus = bus_on(&server).await;
    let bytes: Vec<u8> = (0..=255).collect();
    let envelope =
        Envelope { body: bytes.into(), reliable: true, message_id: "m\r\n".into(), ..Envelope::default() };
    let message = herald_bus::Publication { envelope: envelope.to_bytes(), ..reliable(&socket("a"), "") };
    let at = logged(publish(&bus, message).await);
    let read =
        Envelope::read(bus.read_log(&socket("a"), Position::ZERO, 1).await.unwrap()[0].envelope.clone())
            .unwrap();
    assert_eq!(read, Envelope { position: at.to_string(), prev: "0".into(), ..envelope });
}

#[tokio::test]
async fn a_cancelled_subscribe_stays_wanted() {
    let mut server = Server::new(&[]);
    let bus = bus_on(&server).await;
    let (subscriptions, mut feed) = bus.feed(FeedLimits::default());
    assert!(timeout(Duration::from_millis(50), subscriptions.subscribe(&[socket("a")])).await.is_err());
    server.start().await;
    next(&mut feed, 1).await;
    assert_eq!(publish(&bus, volatile(&socket("a"), "")).await, Published::Sent { receivers: 1 });
}
