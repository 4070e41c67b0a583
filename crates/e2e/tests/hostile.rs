//! Malformed and hostile input at each entrance: whatever comes, nothing panics, hangs or takes the others down. After
//! each table a well-behaved client must still get its message, from the same processes.

use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use fastrand::Rng;
use herald_e2e::herald::{reliable, to_group};
use herald_e2e::{Driver, Herald, PlainClient, SocketClient, Value, http, json, unique};
use herald_wire::registry::{
    Claim, Claims, EdgeMessage, Heartbeat, Hello, LocateRequest, Pressure, Release, Releases, edge_message,
};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use tonic::Code;
use tungstenite::Message;

static HERALD: LazyLock<Herald> = LazyLock::new(|| Herald::named("hostile").edges(1).registries(1).start());

/// Random inputs of a kind; the same ones in every run.
const ROUNDS: usize = 150;
const SEED: u64 = 7;

/// Clients that mind their own business, and must not notice anything.
struct Witness {
    group: String,
    plain: PlainClient,
    socketio: SocketClient,
    _node: Driver,
}

impl Witness {
    async fn new() -> Self {
        let group = unique("witness");
        let register = json!({"groupFlag": group});
        let plain = PlainClient::registered(HERALD.edge(0), register.clone()).await;
        let node = Driver::node();
        let socketio = node.registered("witness", &HERALD.edge_url(0), json!({}), register).await;
        Self { group, plain, socketio, _node: node }
    }

    /// By the queue and over HTTP, from the same processes as before.
    async fn still_gets_its_messages(&mut self) {
        let data = [unique("by the queue"), unique("over HTTP")];
        HERALD.producer().await.send(&reliable(to_group(&self.group, data[0].as_str()))).await;
        assert_eq!(self.plain.inbox.data().await, data[0]);
        assert_eq!(self.socketio.inbox.data().await, data[0]);
        HERALD.publish(&to_group(&self.group, data[1].as_str())).await;
        assert_eq!(self.plain.inbox.data().await, data[1]);
        assert_eq!(self.socketio.inbox.data().await, data[1]);
        assert!(self.plain.inbox.unasked("closed").is_empty());
        assert!(self.socketio.inbox.unasked("disconnect").is_empty());
        for processes in [&HERALD.edges, &HERALD.ingests, &HERALD.registries] {
            assert_eq!(Herald::sum(processes, "herald_task_panics_total", &[]), 0.0, "a task panicked");
        }
    }
}

fn random_bytes(rng: &mut Rng, max: usize) -> Vec<u8> {
    let length = rng.usize(..max);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

/// A valid text with some of its bytes changed, doubled or cut off.
fn mutated(rng: &mut Rng, valid: &str) -> Vec<u8> {
    let mut bytes = valid.as_bytes().to_vec();
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..bytes.len().max(1)).min(bytes.len().saturating_sub(1));
        match rng.u8(..4) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 if !bytes.is_empty() => bytes[at] = rng.u8(..),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn raw_requests(to: SocketAddr, path: &str) -> Vec<Vec<u8>> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {to}\r\n");
    let post = format!("POST {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n");
    let mut requests = vec![
        b"\r\n\r\n".to_vec(),
        b"\0\0\0\0".to_vec(),
        b"GET".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        format!("{head}x: {}\r\n\r\n", "y".repeat(200_000)).into_bytes(),
        format!("{head}{}\r\n", "x: y\r\n".repeat(5_000)).into_bytes(),
        format!("{head}: no name\r\n\r\n").into_bytes(),
        format!("{head}x: \u{0}\r\n\r\n").into_bytes(),
        format!("GET {path}?{} HTTP/1.1\r\nhost: {to}\r\n\r\n", "sid=%zz&".repeat(5_000)).into_bytes(),
        format!("GET {path}?a=%ff%00%&&==& HTTP/1.1\r\nhost: {to}\r\n\r\n").into_bytes(),
        format!("GET http://elsewhere{path} HTTP/1.1\r\nhost: {to}\r\n\r\n").into_bytes(),
        format!("GET {path}/../../../../etc/passwd HTTP/1.1\r\nhost: {to}\r\n\r\n").into_bytes(),
        format!("OPTIONS * HTTP/1.1\r\nhost: {to}\r\n\r\n").into_bytes(),
        format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n\r\n").into_bytes(),
        format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /").into_bytes(),
        format!("{post}content-length: 18446744073709551615\r\n\r\nx").into_bytes(),
        format!("{post}content-length: -1\r\n\r\nx").into_bytes(),
        format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx").into_bytes(),
        format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n").into_bytes(),
        format!("{head}connection: upgrade\r\nupgrade: websocket\r\n\r\n").into_bytes(),
        format!("{head}connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 99\r\nsec-websocket-key: x\r\n\r\n").into_bytes(),
        format!("{head}connection: upgrade\r\nupgrade: h2c\r\n\r\n").into_bytes(),
    ];
    let mut rng = Rng::with_seed(SEED);
    requests.extend((0..ROUNDS).map(|_| random_bytes(&mut rng, 400)));
    requests.extend((0..ROUNDS).map(|_| mutated(&mut rng, &format!("{head}accept: */*\r\n\r\n"))));
    requests
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_http_at_every_port() {
    let mut witness = Witness::new().await;
    let (edge, ingest) = (HERALD.edge(0), HERALD.ingests[0].listen);
    for (to, path) in [
        (edge, "/socket.io/"),
        (edge, "/ws"),
        (edge, "/events"),
        (ingest, "/publish"),
        (HERALD.edges[0].admin, "/metrics"),
        (HERALD.registries[0].listen, "/herald.registry.v1.Registry/Locate"),
    ] {
        // each may take until the server has looked at it: all at once
        let answers: Vec<_> = raw_requests(to, path)
            .into_iter()
            .map(|bytes| tokio::task::spawn_blocking(move || (http::raw(to, &bytes), bytes)))
            .collect();
        for answer in answers {
            let (answer, bytes) = answer.await.unwrap();
            // an answer, if there is one, is no failure of ours
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            assert!(
                http::status_of(&answer).is_none_or(|status| status < 500),
                "{path} {shown:?}: {answer:?}"
            );
        }
    }
    witness.still_gets_its_messages().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_that_say_nothing() {
    let mut witness = Witness::new().await;
    let silent: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(HERALD.edge(0)).unwrap()).collect();
    let half: Vec<TcpStream> = (0..300)
        .map(|_| {
            use std::io::Write as _;
            let mut stream = TcpStream::connect(HERALD.edge(0)).unwrap();
            stream.write_all(b"GET /ws HTTP/1.1\r\nhost: x\r\n").unwrap();
            stream
        })
        .collect();
    witness.still_gets_its_messages().await;
    drop((silent, half));
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_frames_of_every_kind() {
    let mut witness = Witness::new().await;
    let mut rng = Rng::with_seed(SEED);
    let large = [&[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat();
    let mut frames: Vec<Vec<u8>> = vec![
        // unmasked, reserved bits, reserved opcode, a continuation of nothing, a fragmented ping, a ping that is too
        // long, a close with half a code, text that is no UTF-8
        b"\x81\x02{}".to_vec(),
        b"\xf1\x82\0\0\0\0{}".to_vec(),
        b"\x83\x82\0\0\0\0{}".to_vec(),
        b"\x80\x82\0\0\0\0{}".to_vec(),
        b"\x09\x82\0\0\0\0{}".to_vec(),
        [&b"\x89\xfe\x00\xff\0\0\0\0"[..], &[b'x'; 255]].concat(),
        b"\x88\x81\0\0\0\0\x03".to_vec(),
        b"\x81\x82\0\0\0\0\xff\xfe".to_vec(),
        large,
    ];
    frames.extend((0..ROUNDS).map(|_| random_bytes(&mut rng, 60)));
    for path in ["/ws", "/socket.io/?EIO=4&transport=websocket"] {
        for frame in &frames {
            let mut socket = PlainClient::open(HERALD.edge(0), path);
            socket.send_raw(frame);
            drop(socket);
        }
        // a message that never ends
        let mut socket = PlainClient::open(HERALD.edge(0), path);
        socket.send_raw(&[&b"\x01\x81\0\0\0\0a"[..], &b"\x00\x81\0\0\0\0a".repeat(50_000)].concat());
        socket.send_message(Message::Ping(bytes::Bytes::from_static(b"x")));
    }
    witness.still_gets_its_messages().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_frames_of_every_kind() {
    let mut witness = Witness::new().await;
    let mut client = PlainClient::connect(HERALD.edge(0)).await;
    let deep = nested(100_000);
    let refused = [
        "",
        "x",
        "7",
        "null",
        "[]",
        "{}",
        "\"\\ud800\"",
        "{\"type\":7}",
        "{\"type\":\"\"}",
        "{\"type\":\"nothing\"}",
        "{\"type\":\"register\",\"socketId\":{}}",
        "{\"type\":\"register\",\"groupFlag\":[[]]}",
        "{\"type\":\"register\",\"type\":\"leave\"}",
        "{\"type\":\"leave\"}",
        "{\"type\":\"ack\"}",
        "{\"type\":\"ack\",\"cursor\":\"forged\"}",
        "{\"type\":\"resume\"}",
        "{\"type\":\"resume\",\"pid\":\"x\",\"cursor\":\"forged\"}",
        "{\"type\":\"resume\",\"pid\":\"\\u0000*}{\"}",
        deep.as_str(),
    ];
    for text in refused {
        client.send_message(Message::text(text));
        let error = client.inbox.next("error").await;
        assert!(error["code"].is_string() && error["message"].is_string(), "{text:?}: {error}");
    }
    client.send_message(Message::binary(vec![0, 1, 2]));
    client.inbox.next("error").await;
    let mut rng = Rng::with_seed(SEED);
    for _ in 0..ROUNDS {
        let frame = mutated(&mut rng, r#"{"type":"register","groupFlag":["a","b"],"id":1}"#);
        client.send_message(Message::text(String::from_utf8_lossy(&frame).into_owned()));
    }
    client.send(&json!({"type": "ping", "id": "end"}));
    client.inbox.next_where("pong", |pong| pong["id"] == "end").await;
    witness.still_gets_its_messages().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn socketio_events_of_every_kind() {
    let mut witness = Witness::new().await;
    let node = Driver::node();
    let client = node.connect("a", &HERALD.edge_url(0), json!({"transports": ["websocket"]})).await;
    let deep: Value = serde_json::from_str(&nested(100)).unwrap();
    for arguments in [
        vec![],
        vec![Value::Null],
        vec![deep],
        vec![json!("register"); 50],
        vec![json!({"socketId": ["a"], "groupFlag": 1e300})],
        vec![json!({"__proto__": {"socketId": "a"}, "constructor": null})],
    ] {
        for event in ["register", "leave", "ack", "message", "gap", "", "\u{0}"] {
            let answer = client.try_command(json!({"do": "ask", "name": event, "args": arguments})).await;
            assert!(answer.is_ok(), "{event:?} {arguments:?} was not answered: {answer:?}");
        }
    }
    let mut rng = Rng::with_seed(SEED);
    let packets = [
        "40".to_owned(),
        "40{\"pid\":\"x\",\"offset\":\"forged\"}".to_owned(),
        "421[\"register\",{\"groupFlag\":\"a\"}]".to_owned(),
        "4299999999999999999999[\"register\",{}]".to_owned(),
        "451-[\"register\",{\"_placeholder\":true,\"num\":0}]".to_owned(),
        "45999999999-[\"register\"]".to_owned(),
        format!("42[\"register\",{}]", nested(50_000)),
        "41".to_owned(),
        "1".to_owned(),
        "2probe".to_owned(),
        "5".to_owned(),
    ];
    for packet in packets.iter().cycle().take(ROUNDS) {
        let mut socket = PlainClient::open(HERALD.edge(0), "/socket.io/?EIO=4&transport=websocket");
        if rng.bool() {
            socket.send_message(Message::text("40"));
        }
        socket.send_message(Message::text(packet.as_str()));
        let frame = mutated(&mut rng, packet);
        socket.send_message(Message::text(String::from_utf8_lossy(&frame).into_owned()));
        if rng.bool() {
            socket.send_message(Message::binary(frame));
        }
    }
    let path = "/socket.io/?EIO=4&transport=polling";
    for packet in packets.iter().cycle().take(ROUNDS / 3) {
        let open = http::get(HERALD.edge(0), path).await.text();
        let sid: Value = serde_json::from_str(&open[1..]).unwrap();
        let path = format!("{path}&sid={}", sid["sid"].as_str().unwrap());
        let body = [b"40\x1e", mutated(&mut rng, packet).as_slice()].concat();
        let answer = http::post(HERALD.edge(0), &path, &[("content-type", "text/plain")], body).await;
        assert!(answer.status < 500, "{packet}: {}", answer.text());
    }
    witness.still_gets_its_messages().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn amqp_messages_of_every_kind() {
    let mut witness = Witness::new().await;
    let producer = HERALD.producer().await;
    let mut rng = Rng::with_seed(SEED);
    let valid =
        r#"{"socketSessionId":"nobody","socketGroupFlag":["x"],"isVolatile":false,"data":"{\"a\":1}"}"#;
    let mut bodies: Vec<Vec<u8>> = vec![
        nested(100_000).into_bytes(),
        format!(r#"{{"socketSessionId":"nobody","data":{}}}"#, nested(100_000)).into_bytes(),
        format!(r#"{{"socketSessionId":"nobody","data":"{}"}}"#, nested(100_000)).into_bytes(),
        b"{\"socketSessionId\":\"nobody\",\"data\":1e999999}".to_vec(),
        b"{\"socketSessionId\":\"}{*\",\"data\":1}".to_vec(),
        br#"{"socketSessionId":"\ud800","data":1}"#.to_vec(),
        vec![b'['; 1_500_000],
    ];
    bodies.extend((0..ROUNDS).map(|_| random_bytes(&mut rng, 200)));
    bodies.extend((0..ROUNDS).map(|_| mutated(&mut rng, valid)));
    for body in bodies {
        producer.send_bytes(body, BasicProperties::default()).await;
    }
    let mut odd = FieldTable::default();
    odd.insert("traceparent".into(), AMQPValue::LongLongInt(7));
    odd.insert("timestamp_in_ms".into(), AMQPValue::LongString("\u{0}never".into()));
    odd.insert("x-herald-reason".into(), AMQPValue::Boolean(true));
    odd.insert("large".into(), AMQPValue::LongString("x".repeat(100_000).into()));
    for body in [valid, "no json"] {
        let properties = BasicProperties::default()
            .with_headers(odd.clone())
            .with_message_id("\u{0}}{ \u{1f980}".into())
            .with_timestamp(u64::MAX)
            .with_content_encoding("gzip".into());
        producer.send_bytes(body.to_owned(), properties).await;
    }
    witness.still_gets_its_messages().await;
    Herald::wait_sum(&HERALD.ingests, "herald_ingest_in_flight_messages", &[], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_requests_of_every_kind() {
    let mut witness = Witness::new().await;
    let mut rng = Rng::with_seed(SEED);
    let valid = r#"[{"socketSessionId":"nobody","data":1},{"socketGroupFlag":"x","isVolatile":false}]"#;
    let mut bodies = vec![nested(100_000).into_bytes(), vec![b'['; 1_000_000], b"[".to_vec(), vec![0; 1_000]];
    bodies.extend((0..ROUNDS).map(|_| random_bytes(&mut rng, 200)));
    bodies.extend((0..ROUNDS).map(|_| mutated(&mut rng, valid)));
    for body in bodies {
        let answer = http::post(HERALD.ingests[0].listen, "/publish", &[], body).await;
        assert!(answer.status < 500, "{}", answer.text());
        answer.json();
    }
    witness.still_gets_its_messages().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_messages_of_every_kind() {
    let mut witness = Witness::new().await;
    let mut registry = HERALD.registry(0).await;
    for socket_ids in
        [vec![String::new()], vec!["x".repeat(300)], vec!["a".to_owned(); 1_001], vec!["\u{0}".to_owned()]]
    {
        let error = registry.0.locate(LocateRequest { socket_ids }).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    }
    let hello =
        |edge_id: &str| edge_message::Kind::Hello(Hello { edge_id: edge_id.into(), address: "x".into() });
    let claim = |socket_id: &str, age_ms| Claim { socket_id: socket_id.into(), connection: 1, age_ms };
    let heartbeat = Heartbeat {
        pressure: Some(Pressure { fullness_permille: u32::MAX, ..Pressure::default() }),
        ..Heartbeat::default()
    };
    let edge = unique("edge");
    for kinds in [
        vec![],
        vec![edge_message::Kind::Heartbeat(Heartbeat::default())],
        vec![hello("")],
        vec![hello(&"x".repeat(10_000))],
        vec![hello(&edge), hello(&edge)],
        vec![hello(&edge), edge_message::Kind::Heartbeat(heartbeat)],
        vec![hello(&edge), edge_message::Kind::Claims(Claims { claims: vec![claim("", 0)] })],
        vec![hello(&edge), edge_message::Kind::Claims(Claims { claims: vec![claim("a", 0); 1_001] })],
        vec![hello(&edge), edge_message::Kind::Claims(Claims { claims: vec![claim("odd", u64::MAX)] })],
        vec![
            hello(&edge),
            edge_message::Kind::Releases(Releases {
                releases: vec![Release { socket_id: "nobody's".into(), connection: u64::MAX }],
            }),
        ],
    ] {
        let messages: Vec<EdgeMessage> =
            kinds.into_iter().map(|kind| EdgeMessage { kind: Some(kind) }).collect();
        let stream = futures_util::stream::iter(messages);
        if let Ok(answer) = registry.0.attach(stream).await {
            let mut answers = answer.into_inner();
            let ended = async { while let Ok(Some(_)) = answers.message().await {} };
            assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok(), "the stream goes on");
        }
    }
    assert!(registry.locate(&["a", "nobody"]).await.is_empty());
    witness.still_gets_its_messages().await;
}
