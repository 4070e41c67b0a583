//! Redis under the edges: it closes a subscriber that is too slow for it, loses its data while it runs or over a restart,
//! and lets a quiet channel's last message get lost. Clients stay, and what cannot be had any more is told.

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{
    Broker, Brokers, Driver, Herald, PlainClient, Process, Signal, SseClient, Value, json, until,
};
use herald_wire::{Names, Target};

async fn herald(name: &str, redis: &Broker) -> Herald {
    Herald::on(name, &redis.url, &Brokers::shared().rabbitmq.url).edges(2).registries(1).start()
}

async fn ready(process: &Process, wanted: bool) {
    let what = format!("{} is {}ready", process.name, if wanted { "" } else { "not " });
    until(&what, async || (process.is_ready() == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_redis_closes_for_its_output_buffer_loses_nothing_reliable() {
    const COUNT: usize = 6_000;
    let redis = Broker::redis();
    redis.ctl(&["config", "set", "client-output-buffer-limit", "pubsub 262144 262144 1"]);
    let herald = herald("buffer", &redis).await;
    let mut other = PlainClient::registered(herald.edge(1), json!({"groupFlag": "g"})).await;
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let subscribers = || redis.ctl(&["client", "list", "type", "pubsub"]).lines().count();
    let before = subscribers();
    herald.edges[0].signal(Signal::Stop);
    let producer = herald.producer().await;
    let message = |number: usize| {
        let mut message = reliable(to_group("g", number));
        message["pad"] = json!("x".repeat(4_000));
        message
    };
    for chunk in (0..COUNT).collect::<Vec<_>>().chunks(500) {
        producer.send_all(&chunk.iter().map(|number| message(*number)).collect::<Vec<_>>()).await;
    }
    let numbers: Vec<Value> = (0..COUNT).map(Value::from).collect();
    assert_eq!(other.inbox.data_of(COUNT).await, numbers, "the other edge is not concerned");
    assert_eq!(subscribers(), before - 1, "Redis closes the subscriber that does not read");
    herald.edges[0].signal(Signal::Cont);
    assert_eq!(client.inbox.data_of(COUNT).await, numbers, "all, in order, none twice");
    for inbox in [&mut other.inbox, &mut client.inbox] {
        assert!(inbox.unasked("gap").is_empty() && inbox.unasked("closed").is_empty());
    }
    let recovered = herald.edges[0].metrics().sum("herald_edge_feed_recovered_total", &[]);
    assert!(recovered > 0.0, "the logs were not needed");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_redis_loses_its_data_everybody_is_told_a_gap_and_all_goes_on() {
    let redis = Broker::redis();
    let mut herald = herald("data-lost", &redis).await;
    let node = Driver::node();
    let register = json!({"socketId": "a", "groupFlag": "g"});
    let options = json!({"transports": ["websocket"], "reconnectionDelay": 50});
    let mut official = node.registered("a", &herald.edge_url(0), options, register).await;
    let mut plain = PlainClient::open(herald.edge(1), "/ws");
    let pid = plain.inbox.next("hello").await["pid"].take();
    plain.register(json!({"socketId": "b", "groupFlag": "g"})).await;
    let path = "/events?group=g";
    let mut events = SseClient::connect(herald.edge(1), path).await;
    let producer = herald.producer().await;
    for (round, restarts) in [("flushed", false), ("restarted", true)] {
        producer.send(&reliable(to_group("g", format!("{round}: before")))).await;
        let mut cursors = Vec::new();
        for inbox in [&mut official.inbox, &mut plain.inbox, &mut events.inbox] {
            let delivery = inbox.delivery().await;
            assert_eq!(delivery.message["data"], format!("{round}: before"));
            cursors.push(delivery.cursor);
        }
        if restarts {
            redis.kill();
            redis.lose_data();
            ready(&herald.edges[0], false).await;
            redis.start();
            herald.wait_ready();
        } else {
            redis.ctl(&["flushall"]);
        }
        for inbox in [&mut official.inbox, &mut plain.inbox, &mut events.inbox] {
            // an event stream's object is in its data
            let of_group = |gap: &Value| {
                gap["target"]["group"] == "g"
                    || gap["detail"]["target"]["group"] == "g"
                    || gap["message"]["target"]["group"] == "g"
            };
            inbox.next_where("gap", of_group).await;
        }
        producer.send(&reliable(to_group("g", format!("{round}: after")))).await;
        for inbox in [&mut official.inbox, &mut plain.inbox, &mut events.inbox] {
            assert_eq!(inbox.data().await, format!("{round}: after"), "no wedge");
        }
        // a cursor of the data that is gone: told, and everything of the new
        drop(events);
        events = SseClient::resume(herald.edge(0), path, cursors[2].as_deref()).await;
        events.inbox.next("gap").await;
        assert_eq!(events.inbox.data().await, format!("{round}: after"));
        // sessions were put on record again: they resume
        plain.cut();
        producer.send(&reliable(to_socket("b", format!("{round}: meanwhile")))).await;
        let mut again = PlainClient::connect(herald.edge(0)).await;
        again.send(&json!({"type": "resume", "pid": pid, "cursor": cursors[1]}));
        again.inbox.next("resumed").await;
        again.inbox.next("gap").await;
        assert_eq!(again.inbox.data_of(2).await, [format!("{round}: after"), format!("{round}: meanwhile")]);
        plain = again;
        official.cut().await;
        official.inbox.next("disconnect").await;
        assert_eq!(official.inbox.next("connect").await["recovered"], true);
        for inbox in [&mut official.inbox, &mut plain.inbox, &mut events.inbox] {
            inbox.unasked("gap");
        }
    }
}

/// Logs the newest entry of a log once more, at the next position, and tells nobody.
const LOG_SILENTLY: &str = r"
local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][2][2]
local body = string.match(entry, '^(.*)r.%d+z.%d+$')
local last = redis.call('GET', KEYS[2])
local text = string.format('%.0f', last + 1)
local place = 'r' .. string.char(#text) .. text .. 'z' .. string.char(#last) .. last
local ms = math.floor(text / 1000)
redis.call('XADD', KEYS[1], string.format('%.0f-%.0f', ms, text - ms * 1000), 'e', body .. place)
redis.call('SET', KEYS[2], text)
redis.call('SET', KEYS[3], text)
return text";

#[tokio::test(flavor = "multi_thread")]
async fn the_last_message_of_a_channel_that_the_feed_lost_is_found_without_a_next_one() {
    let redis = Broker::redis();
    let herald = herald("quiet", &redis).await;
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    herald.publish(&reliable(to_group("g", 1))).await;
    assert_eq!(client.inbox.data().await, 1);
    let (names, group) = (Names::new(&herald.queue), Target::group("g", 8).expect("a group"));
    let keys = [names.log(&group), names.last(&group), names.clock()];
    redis.ctl(&["eval", LOG_SILENTLY, "3", &keys[0], &keys[1], &keys[2]]);
    assert_eq!(client.inbox.data().await, 1, "the same again, by the log alone");
    assert!(client.inbox.unasked("gap").is_empty());
    let behind = herald.edges[0].metrics().sum("herald_edge_positions_behind_total", &[]);
    assert_eq!(behind, 1.0);
    herald.publish(&reliable(to_group("g", 2))).await;
    assert_eq!(client.inbox.data().await, 2);
}
