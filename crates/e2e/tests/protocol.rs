//! The error answers of Engine.IO 4 and Socket.IO 5, as their published documents and the reference server give them.

use std::net::SocketAddr;
use std::sync::LazyLock;

use herald_e2e::http::{Answer, get, post};
use herald_e2e::{Herald, PlainClient, json, until};

static HERALD: LazyLock<Herald> = LazyLock::new(|| {
    Herald::named("protocol")
        .edges(1)
        .registries(0)
        .ingests(0)
        .set("edge", "HERALD_CONNECT_TIMEOUT_MS", "700")
        .set("edge", "HERALD_PING_INTERVAL_MS", "500")
        .set("edge", "HERALD_PING_TIMEOUT_MS", "500")
        .start()
});

const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

/// A session over raw HTTP.
struct Polling {
    edge: SocketAddr,
    sid: String,
}

impl Polling {
    async fn open() -> Self {
        let edge = HERALD.edge(0);
        let answer = get(edge, POLLING).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let open: serde_json::Value = serde_json::from_str(&answer.text()[1..]).unwrap_or_default();
        let sid = open["sid"].as_str().unwrap_or_default().to_owned();
        Self { edge, sid }
    }

    async fn poll(&self) -> Answer {
        get(self.edge, &format!("{POLLING}&sid={}", self.sid)).await
    }

    async fn post(&self, body: &str) -> Answer {
        let path = format!("{POLLING}&sid={}", self.sid);
        post(self.edge, &path, &[("content-type", "text/plain;charset=UTF-8")], body.to_owned()).await
    }

    /// Every later request says that the session is gone.
    async fn is_gone(&self) {
        until("the session is gone", async || {
            let answer = self.poll().await;
            (answer.status == 400 && answer.json()["code"] == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_opens_a_session_with_the_settings() {
    let answer = get(HERALD.edge(0), POLLING).await;
    assert_eq!(answer.headers["content-type"], "text/plain; charset=UTF-8");
    let text = answer.text();
    let open: serde_json::Value = serde_json::from_str(text.strip_prefix('0').unwrap()).unwrap();
    assert_eq!(open["upgrades"], json!(["websocket"]));
    assert_eq!((&open["pingInterval"], &open["pingTimeout"]), (&json!(500), &json!(500)));
    assert_eq!(open["maxPayload"], json!(1_000_000));
    let mut socket = PlainClient::open(HERALD.edge(0), WEBSOCKET);
    let text = socket.inbox.next("text").await["text"].take();
    let open: serde_json::Value = serde_json::from_str(&text.as_str().unwrap()[1..]).unwrap();
    assert_eq!(open["upgrades"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_handshake_is_answered_as_the_reference_server_does() {
    for (method, query, code, message) in [
        ("GET", "transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=3&transport=polling", 5, "Unsupported protocol version"),
        ("GET", "EIO=4", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=abc", 0, "Transport unknown"),
        ("GET", "EIO=4&transport=websocket", 3, "Bad request"),
        ("GET", "EIO=4&transport=polling&sid=unknown", 1, "Session ID unknown"),
        ("POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
        ("POST", "EIO=4&transport=polling&sid=unknown", 1, "Session ID unknown"),
        ("PUT", "EIO=4&transport=polling", 2, "Bad handshake method"),
    ] {
        let path = format!("/socket.io/?{query}");
        let request = herald_e2e::http::request(method, HERALD.edge(0), &path, &[], bytes::Bytes::new());
        let answer = herald_e2e::http::send(HERALD.edge(0), request).await;
        assert_eq!(answer.status, 400, "{method} {query}");
        assert_eq!(answer.json(), json!({"code": code, "message": message}), "{method} {query}");
    }
    for query in ["EIO=3&transport=websocket", "EIO=4&transport=abc", "EIO=4&transport=websocket&sid=unknown"]
    {
        let refused = PlainClient::try_open(HERALD.edge(0), &format!("/socket.io/?{query}"));
        assert_eq!(refused.err().as_deref(), Some("HTTP 400"), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_polls_at_once_close_the_session() {
    let session = Polling::open().await;
    let (one, other) = tokio::join!(session.poll(), session.poll());
    assert!(one.status == 400 || other.status == 400, "{one:?} {other:?}");
    session.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_payload_closes_the_session() {
    for body in ["abc", "", "4\u{1e}", "\u{1e}", "9", "2probe\u{1e}zzz"] {
        let session = Polling::open().await;
        let answer = session.post(body).await;
        assert!(answer.status == 400 || answer.status == 200, "{body:?}: {}", answer.status);
        session.is_gone().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_too_large_is_refused() {
    let session = Polling::open().await;
    assert_eq!(session.post(&"4".repeat(1_000_001)).await.status, 413);
    session.is_gone().await;
    let mut socket = PlainClient::open(HERALD.edge(0), WEBSOCKET);
    socket.send_message(tungstenite::Message::text("4".repeat(1_000_001)));
    assert_eq!(socket.inbox.next("closed").await["code"], 1009);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_polls_and_answers_no_ping_is_gone_after_the_timeout() {
    let session = Polling::open().await;
    assert_eq!(session.post("40").await.text(), "ok");
    let mut texts = String::new();
    while texts.matches('\u{1e}').count() + usize::from(!texts.is_empty()) < 2 {
        let answer = session.poll().await;
        assert_eq!(answer.status, 200);
        if !texts.is_empty() {
            texts.push('\u{1e}');
        }
        texts.push_str(&answer.text());
    }
    let packets: Vec<&str> = texts.split('\u{1e}').collect();
    assert!(packets[0].starts_with("40{"), "{packets:?}");
    assert_eq!(packets[1], "2");
    session.is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_connects_is_closed_though_it_answers_pings() {
    let mut socket = PlainClient::open(HERALD.edge(0), WEBSOCKET);
    socket.inbox.next("text").await;
    assert_eq!(socket.inbox.next("text").await["text"], "2");
    socket.send_message(tungstenite::Message::text("3"));
    socket.inbox.next("closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_namespace_is_refused_and_the_default_one_still_works() {
    let mut socket = PlainClient::open(HERALD.edge(0), WEBSOCKET);
    socket.inbox.next("text").await;
    socket.send_message(tungstenite::Message::text("40/admin,"));
    assert_eq!(socket.inbox.next("text").await["text"], r#"44/admin,{"message":"Invalid namespace"}"#);
    socket.send_message(tungstenite::Message::text(r#"40{"token":"x"}"#));
    let connected = socket.inbox.next_where("text", |event| event["text"] != "2").await;
    let text = connected["text"].as_str().unwrap();
    let reply: serde_json::Value = serde_json::from_str(text.strip_prefix("40").unwrap()).unwrap();
    assert!(reply["sid"].is_string() && reply["pid"].is_string(), "{reply}");
    assert_ne!(reply["sid"], reply["pid"]);
    socket.send_message(tungstenite::Message::text(r#"427["register",{"socketId":"ns"}]"#));
    let answer = socket.inbox.next_where("text", |event| event["text"] != "2").await;
    assert_eq!(answer["text"], r#"437[{"groups":[],"ok":true,"socketId":"ns"}]"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_packet_ends_the_connection() {
    for texts in [
        &["x"][..],
        &[""],
        &["2"],
        &["4"],
        &["4x"],
        &[r#"42["register",{}]"#],
        &["40", "40"],
        &["40", "42[]"],
        &["40", r#"42{"a":1}"#],
        &["40", "42"],
        &["40", r#"42["register""#],
        &["40", r#"42["connect"]"#],
        &["40", "451-[]"],
        &["40", "49"],
    ] {
        let mut socket = PlainClient::open(HERALD.edge(0), WEBSOCKET);
        socket.inbox.next("text").await;
        for text in texts {
            socket.send_message(tungstenite::Message::text(*text));
        }
        let closed = socket.inbox.next("closed").await;
        assert!(socket.inbox.unasked("text").len() <= 2, "{texts:?} was answered");
        assert!(closed["event"] == "closed", "{texts:?}");
    }
}
