//! Every way in for a client: the official Socket.IO clients over each transport, the plain WebSocket, event streams.

use std::io::BufRead as _;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{Driver, Herald, Inbox, PlainClient, SocketClient, SseClient, Value, json, unique};

/// Pings often, so that a client which cannot take part in them shows.
static HERALD: LazyLock<Herald> = LazyLock::new(|| {
    Herald::named("transports")
        .edges(2)
        .registries(0)
        .set("edge", "HERALD_PING_INTERVAL_MS", "400")
        .set("edge", "HERALD_PING_TIMEOUT_MS", "4000")
        .start()
});

/// Registers, gets a small and a large message of each class, and gets them in order.
async fn works(client: &mut SocketClient) {
    let (me, group) = (unique("me"), unique("group"));
    let answer = client.register(json!({"socketId": me, "groupFlag": [group]})).await;
    assert_eq!((&answer["ok"], &answer["socketId"]), (&json!(true), &json!(me)));
    assert!(answer["groups"].as_array().is_some_and(|groups| groups.contains(&json!(group))), "{answer}");
    delivers(&mut client.inbox, &me, &group).await;
}

async fn delivers(inbox: &mut Inbox, me: &str, group: &str) {
    let large = "ü🦀\"\\ ".repeat(20_000);
    let producer = HERALD.producer().await;
    producer.send(&to_socket(me, json!({"f": ["x", null]}))).await;
    producer.send(&reliable(to_group(group, "reliable"))).await;
    producer.send(&to_group(group, large.as_str())).await;
    assert_eq!(inbox.data().await, json!({"f": ["x", null]}));
    let delivery = inbox.delivery().await;
    assert_eq!(delivery.message["data"], "reliable");
    assert!(delivery.cursor.is_some_and(|cursor| !cursor.is_empty()));
    assert!(inbox.data().await == large.as_str(), "the large message came garbled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_works_over_each_transport() {
    let node = Driver::node();
    for (i, transports) in [json!(["websocket"]), json!(["polling"])].into_iter().enumerate() {
        let transport = transports[0].clone();
        let mut client =
            node.connecting(&format!("{i}"), &HERALD.edge_url(i), json!({"transports": transports})).await;
        let connected = client.inbox.next("connect").await;
        assert_eq!((&connected["transport"], &connected["recovered"]), (&transport, &json!(false)));
        works(&mut client).await;
        for _ in 0..3 {
            client.inbox.next("ping").await;
        }
        works(&mut client).await;
        assert!(client.inbox.unasked("disconnect").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_upgrades_from_polling_to_websocket_and_loses_nothing() {
    const COUNT: usize = 300;
    let node = Driver::node();
    for round in 0..3 {
        let group = unique("group");
        let mut client = node
            .registered(&format!("u{round}"), &HERALD.edge_url(0), json!({}), json!({"groupFlag": group}))
            .await;
        let messages: Vec<Value> = (0..COUNT).map(|i| to_group(&group, i)).collect();
        let producer = HERALD.producer().await;
        producer.send_all(&messages[..COUNT / 2]).await;
        assert_eq!(client.inbox.next("upgrade").await["transport"], "websocket");
        producer.send_all(&messages[COUNT / 2..]).await;
        let expected: Vec<Value> = (0..COUNT).map(Value::from).collect();
        assert_eq!(client.inbox.data_of(COUNT).await, expected);
        client.inbox.next("ping").await;
        works(&mut client).await;
        assert!(client.inbox.unasked("disconnect").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works_over_each_transport_and_upgraded() {
    let python = Driver::python();
    for (name, transports) in [
        ("websocket", json!(["websocket"])),
        ("polling", json!(["polling"])),
        ("upgraded", json!(["polling", "websocket"])),
    ] {
        let mut client = python.connect(name, &HERALD.edge_url(1), json!({"transports": transports})).await;
        works(&mut client).await;
        works(&mut client).await;
        let state = client.command(json!({"do": "state"})).await;
        let transport = if name == "polling" { "polling" } else { "websocket" };
        assert_eq!((&state["connected"], &state["transport"]), (&json!(true), &json!(transport)));
        client.disconnect().await;
        client.inbox.next("disconnect").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_websocket_speaks_json_and_answers_by_id() {
    let (me, group) = (unique("me"), unique("group"));
    let mut client = PlainClient::open(HERALD.edge(0), "/ws");
    let hello = client.inbox.next("hello").await;
    assert!(hello["pid"].as_str().is_some_and(|pid| pid.len() >= 20), "{hello}");
    client.send(&json!({"type": "ping", "id": "p"}));
    assert_eq!(client.inbox.next("pong").await["id"], "p");
    let answer = client.register(json!({"socketId": me, "groupFlag": group, "id": 1})).await;
    assert_eq!(answer["id"], 1);
    assert_eq!((&answer["socketId"], &answer["groups"]), (&json!(me), &json!([group])));
    delivers(&mut client.inbox, &me, &group).await;
    client.close();
    assert_eq!(client.inbox.next("closed").await["code"], 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_is_registered_by_its_url() {
    let (me, group, other) = (unique("me"), unique("group"), unique("other"));
    let path = format!("/events?socketId={me}&group={group}&group={other}");
    let mut client = SseClient::connect(HERALD.edge(0), &path).await;
    let registered = client.inbox.next("registered").await;
    assert_eq!(registered["message"]["socketId"], json!(me));
    assert_eq!(registered["message"]["groups"], json!([group, other]));
    delivers(&mut client.inbox, &me, &group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_an_event_stream() {
    let me = unique("me");
    let url = format!("{}/events?socketId={me}", HERALD.edge_url(0));
    let mut curl = Command::new("curl").args(["-sN", &url]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(curl.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "event: registered"));
    HERALD.publish(&reliable(to_socket(&me, "hello"))).await;
    let mut event = lines.skip_while(|line| line != "event: message").take(3);
    assert_eq!(event.next().as_deref(), Some("event: message"));
    let mut fields: Vec<String> = event.collect();
    fields.sort();
    let data = json!({"socketSessionId": me, "data": "hello", "isVolatile": false});
    let sent: Value = serde_json::from_str(fields[0].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(sent, data);
    assert!(fields[1].strip_prefix("id: ").is_some_and(|cursor| !cursor.is_empty()), "{fields:?}");
    curl.kill().unwrap();
    curl.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_closed_and_the_others_stay() {
    let herald = Herald::named("pings")
        .edges(1)
        .registries(0)
        .set("edge", "HERALD_PING_INTERVAL_MS", "200")
        .set("edge", "HERALD_PING_TIMEOUT_MS", "300")
        .start();
    let node = Driver::node();
    let mut alive = node
        .registered("a", &herald.edge_url(0), json!({"transports": ["websocket"]}), json!({"groupFlag": "g"}))
        .await;
    let mut events = SseClient::connect(herald.edge(0), "/events?group=g").await;
    // reads and never answers: what it gets are the handshake and a ping, then the end
    let mut silent = PlainClient::open(herald.edge(0), "/socket.io/?EIO=4&transport=websocket");
    assert!(silent.inbox.next("text").await["text"].as_str().unwrap().starts_with("0{"));
    silent.inbox.next("closed").await;
    for _ in 0..3 {
        alive.inbox.next("ping").await;
    }
    herald.publish(&to_group("g", 1)).await;
    assert_eq!(alive.inbox.data().await, 1);
    assert_eq!(events.inbox.data().await, 1);
    assert!(alive.inbox.unasked("disconnect").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_foreign_origins_are_refused_when_origins_are_named() {
    let herald = Herald::named("origins")
        .edges(1)
        .registries(0)
        .ingests(0)
        .set("edge", "HERALD_ALLOWED_ORIGINS", "https://ours.example")
        .start();
    let get = |origin: &'static str| {
        let edge = herald.edge(0);
        let path = "/socket.io/?EIO=4&transport=polling";
        herald_e2e::http::send(
            edge,
            herald_e2e::http::request("GET", edge, path, &[("origin", origin)], bytes::Bytes::new()),
        )
    };
    assert_eq!(get("https://theirs.example").await.status, 403);
    let ours = get("https://ours.example").await;
    assert_eq!(ours.status, 200);
    assert_eq!(ours.headers["access-control-allow-origin"], "https://ours.example");
}
