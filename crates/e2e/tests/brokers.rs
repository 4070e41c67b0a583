//! RabbitMQ and Redis come late, go and come back: the services wait for them, say so, and lose nothing reliable.

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{Broker, Brokers, Driver, Herald, PlainClient, Process, Producer, SseClient, json, until};

async fn ready(process: &Process, wanted: bool) {
    let what = format!("{} is {}ready", process.name, if wanted { "" } else { "not " });
    until(&what, async || (process.is_ready() == wanted).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_start_before_their_brokers_and_survive_rabbitmqs_restart() {
    let (redis, rabbitmq) = (Broker::redis(), Broker::rabbitmq());
    redis.stop();
    rabbitmq.stop();
    let mut herald = Herald::on("early", &redis.url, &rabbitmq.url).edges(2).registries(1).ingests(2).build();
    herald.start();
    for process in herald.processes() {
        process.wait_up();
        assert!(!process.is_ready(), "{} cannot be ready", process.name);
        let (status, text) = process.admin_get("/readyz").expect("it is up");
        assert_eq!(status, 503, "{text}");
    }
    redis.start();
    for process in herald.edges.iter().chain(&herald.registries) {
        ready(process, true).await;
    }
    assert!(!herald.ingests[0].is_ready());
    rabbitmq.start();
    herald.wait_ready();
    let mut client = PlainClient::registered(herald.edge(1), json!({"socketId": "me"})).await;
    herald.producer().await.send(&to_socket("me", "early")).await;
    assert_eq!(client.inbox.data().await, "early");
    for (round, kill) in [(1, false), (2, true)] {
        // what RabbitMQ has confirmed survives it
        if kill {
            rabbitmq.kill();
        } else {
            rabbitmq.stop();
        }
        ready(&herald.ingests[0], false).await;
        herald.publish(&to_socket("me", format!("by HTTP meanwhile, {round}"))).await;
        assert_eq!(client.inbox.data().await, format!("by HTTP meanwhile, {round}"));
        rabbitmq.start();
        herald.wait_ready();
        herald.producer().await.send(&reliable(to_socket("me", round))).await;
        assert_eq!(client.inbox.data().await, round);
    }
    assert!(client.inbox.unasked("closed").is_empty());
    let reconnects = Herald::sum(&herald.ingests, "herald_ingest_reconnects_total", &[]);
    assert!(reconnects >= 4.0, "{reconnects}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_to_rabbitmq_loses_and_doubles_nothing_that_has_an_id() {
    const COUNT: usize = 3_000;
    let herald = Herald::named("amqp-lost").edges(1).registries(0).start();
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let producer = herald.producer().await;
    let sending = tokio::spawn(async move {
        for i in 0..COUNT {
            let id = format!("id-{i}");
            let properties = lapin::BasicProperties::default().with_message_id(id.as_str().into());
            producer.send_with(&reliable(to_group("g", i)), properties).await;
        }
    });
    let rabbitmq = &Brokers::shared().rabbitmq;
    let mut data = client.inbox.data_of(COUNT / 4).await;
    for _ in 0..3 {
        close_connections_of_ingest(rabbitmq, &herald.queue).await;
        data.extend(client.inbox.data_of(COUNT / 8).await);
    }
    sending.await.expect("all sent");
    data.extend(client.inbox.data_of(COUNT - data.len()).await);
    herald.publish(&to_group("g", "end")).await;
    assert_eq!(client.inbox.data().await, "end", "nothing came twice");
    let mut numbers: Vec<u64> = data.iter().filter_map(herald_e2e::Value::as_u64).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..COUNT as u64).collect::<Vec<_>>());
    Herald::wait_sum(&herald.ingests, "herald_ingest_in_flight_messages", &[], 0.0);
}

/// As an operator does it. Only the consumer of this queue: other tests use the same RabbitMQ.
async fn close_connections_of_ingest(rabbitmq: &Broker, queue: &str) {
    let pid = until("the queue has a consumer", async || {
        let consumers = rabbitmq.ctl(&["-q", "list_consumers", "queue_name", "channel_pid"]);
        let of_queue = consumers.lines().find(|line| line.split('\t').next() == Some(queue))?.to_owned();
        let channel = of_queue.split('\t').nth(1)?.to_owned();
        let channels = rabbitmq.ctl(&["-q", "list_channels", "pid", "connection"]);
        let of_channel = channels.lines().find(|line| line.split('\t').next() == Some(&channel))?.to_owned();
        Some(of_channel.split('\t').nth(1)?.to_owned())
    })
    .await;
    rabbitmq.ctl(&["-q", "close_connection", &pid, "told to by a test"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarts_and_the_clients_stay_and_get_what_came_meanwhile() {
    let redis = Broker::redis();
    let mut herald = Herald::on("redis-restart", &redis.url, &Brokers::shared().rabbitmq.url)
        .edges(2)
        .registries(2)
        .start();
    let node = Driver::node();
    let register = json!({"socketId": "a", "groupFlag": "g"});
    let mut socketio =
        node.registered("a", &herald.edge_url(0), json!({"transports": ["websocket"]}), register).await;
    let mut plain = PlainClient::registered(herald.edge(1), json!({"socketId": "b", "groupFlag": "g"})).await;
    let mut events = SseClient::connect(herald.edge(1), "/events?group=g").await;
    let producer = herald.producer().await;
    producer.send(&reliable(to_group("g", "before"))).await;
    for inbox in [&mut socketio.inbox, &mut plain.inbox, &mut events.inbox] {
        assert_eq!(inbox.data().await, "before");
    }
    for round in ["restart", "crash"] {
        if round == "crash" {
            redis.kill();
        } else {
            redis.stop();
        }
        for process in herald.edges.iter().chain(&herald.ingests).chain(&herald.registries) {
            ready(process, false).await;
        }
        // RabbitMQ keeps it
        producer.send(&reliable(to_group("g", round))).await;
        producer.send(&reliable(to_socket("a", round))).await;
        redis.start();
        herald.wait_ready();
        assert_eq!(socketio.inbox.data_of(2).await, [round, round]);
        assert_eq!(plain.inbox.data().await, round);
        assert_eq!(events.inbox.data().await, round);
    }
    producer.send(&to_group("g", "end")).await;
    for inbox in [&mut socketio.inbox, &mut plain.inbox, &mut events.inbox] {
        assert_eq!(inbox.data().await, "end");
    }
    for (inbox, event) in
        [(&mut socketio.inbox, "disconnect"), (&mut plain.inbox, "closed"), (&mut events.inbox, "closed")]
    {
        assert!(inbox.unasked(event).is_empty(), "a client was disconnected");
    }
    assert!(plain.inbox.unasked("gap").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_silent_is_noticed_and_what_it_swallowed_is_delivered_afterwards() {
    let redis = Broker::redis();
    let herald = Herald::on("redis-silent", &redis.url, &Brokers::shared().rabbitmq.url)
        .edges(1)
        .registries(0)
        .start();
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let producer: Producer = herald.producer().await;
    redis.freeze();
    producer.send(&reliable(to_group("g", 1))).await;
    ready(&herald.edges[0], false).await;
    ready(&herald.ingests[0], false).await;
    redis.thaw();
    ready(&herald.edges[0], true).await;
    producer.send(&reliable(to_group("g", 2))).await;
    assert_eq!(client.inbox.data_of(2).await, [1, 2]);
    assert!(client.inbox.unasked("closed").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_that_is_killed_is_replaced_by_another_and_nothing_is_lost() {
    const COUNT: usize = 2_000;
    let mut herald = Herald::named("ingest-killed").edges(1).registries(0).ingests(2).start();
    let mut client = PlainClient::registered(herald.edge(0), json!({"groupFlag": "g"})).await;
    let producer = herald.producer().await;
    let sending = tokio::spawn(async move {
        for i in 0..COUNT {
            let id = format!("id-{i}");
            let properties = lapin::BasicProperties::default().with_message_id(id.as_str().into());
            producer.send_with(&reliable(to_group("g", i)), properties).await;
        }
    });
    let mut data = client.inbox.data_of(COUNT / 4).await;
    herald.ingests[0].kill();
    data.extend(client.inbox.data_of(COUNT / 4).await);
    herald.ingests[0].start();
    herald.ingests[0].wait_ready();
    assert_eq!(herald.ingests[1].terminate(), Some(0), "a drain ends in order");
    sending.await.expect("all sent");
    data.extend(client.inbox.data_of(COUNT - data.len()).await);
    herald.publish(&to_group("g", "end")).await;
    assert_eq!(client.inbox.data().await, "end", "nothing came twice");
    let mut numbers: Vec<u64> = data.iter().filter_map(herald_e2e::Value::as_u64).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..COUNT as u64).collect::<Vec<_>>());
}
