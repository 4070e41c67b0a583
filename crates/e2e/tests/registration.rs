//! Who a client is: registering, leaving, limits, and what becomes of a socketId that two connections claim.

use std::sync::LazyLock;

use herald_e2e::herald::{to_group, to_socket};
use herald_e2e::{Driver, Herald, PlainClient, SocketClient, SseClient, Value, json, unique};

static HERALD: LazyLock<Herald> = LazyLock::new(|| {
    Herald::named("registration").edges(2).registries(2).set("edge", "HERALD_MAX_GROUPS", "5").start()
});

async fn socketio(node: &Driver, edge: usize) -> SocketClient {
    let options = json!({"transports": ["websocket"]});
    node.connect(&unique("client"), &HERALD.edge_url(edge), options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_is_additive_and_doing_it_again_changes_nothing() {
    let (me, g, h) = (unique("me"), unique("g"), unique("h"));
    let node = Driver::node();
    let mut client = socketio(&node, 0).await;
    for (asked, socket_id, groups) in [
        (json!({}), Value::Null, json!([])),
        (json!({"groupFlag": g}), Value::Null, json!([g])),
        (json!({"socketId": me}), json!(me), json!([g])),
        (json!({"socketId": me, "groupFlag": [h, g, h]}), json!(me), json!([g, h])),
        (json!({"socketId": me, "groupFlag": [h, g]}), json!(me), json!([g, h])),
        (json!({"socketId": null, "groupFlag": null}), json!(me), json!([g, h])),
    ] {
        let answer = client.register(asked.clone()).await;
        assert_eq!(answer, json!({"ok": true, "socketId": socket_id, "groups": groups}), "{asked}");
    }
    // registered five times, sent once
    let producer = HERALD.producer().await;
    for message in [to_socket(&me, 1), to_group(&g, 2), to_group(&h, 3)] {
        producer.send(&message).await;
    }
    assert_eq!(client.inbox.data_of(3).await, [1, 2, 3]);
    assert!(client.inbox.unasked("superseded").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_undoes_groups_and_a_new_socket_id_replaces_the_old_one() {
    let (old, new, g, h) = (unique("old"), unique("new"), unique("g"), unique("h"));
    let node = Driver::node();
    let mut client = socketio(&node, 1).await;
    client.register(json!({"socketId": old, "groupFlag": [g, h]})).await;
    let left = client.ask("leave", &[json!({"groupFlag": [g, "never joined"]})]).await;
    assert_eq!(left, json!({"ok": true, "socketId": old, "groups": [h]}));
    let renamed = client.register(json!({"socketId": new})).await;
    assert_eq!(renamed, json!({"ok": true, "socketId": new, "groups": [h]}));
    let producer = HERALD.producer().await;
    for message in
        [to_socket(&old, "old"), to_group(&g, "left"), to_socket(&new, "new"), to_group(&h, "kept")]
    {
        producer.send(&message).await;
    }
    assert_eq!(client.inbox.data_of(2).await, ["new", "kept"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ask_without_an_acknowledgement_is_heeded_too() {
    let me = unique("me");
    let node = Driver::node();
    let mut client = socketio(&node, 0).await;
    client.emit("register", &[json!({"socketId": me})]).await;
    // asks are answered in order, so by now it is registered
    assert_eq!(client.ask("leave", &[json!({"groupFlag": []})]).await["socketId"], json!(me));
    HERALD.publish(&to_socket(&me, 1)).await;
    assert_eq!(client.inbox.data().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_registered_is_refused_and_leaves_all_as_it_was() {
    let (me, group) = (unique("me"), unique("group"));
    let node = Driver::node();
    let mut client = socketio(&node, 0).await;
    let mut plain = PlainClient::connect(HERALD.edge(0)).await;
    let before = json!({"socketId": me, "groupFlag": group});
    client.register(before.clone()).await;
    plain.register(json!({"groupFlag": group})).await;
    let many: Vec<String> = (0..6).map(|i| format!("g{i}")).collect();
    for (asked, code) in [
        (json!({"socketId": ""}), "invalid_id"),
        (json!({"socketId": "a\u{7}b"}), "invalid_id"),
        (json!({"socketId": "x".repeat(257)}), "id_too_long"),
        (json!({"groupFlag": "x".repeat(257)}), "id_too_long"),
        (json!({"groupFlag": ["fine", ""]}), "invalid_id"),
        (json!({"groupFlag": "*"}), "invalid_id"),
        (json!({"groupFlag": many}), "too_many_groups"),
        (json!({"socketId": 7}), "bad_request"),
        (json!({"groupFlag": {"a": 1}}), "bad_request"),
        (json!("me"), "bad_request"),
        (json!(null), "bad_request"),
    ] {
        let answer = client.register(asked.clone()).await;
        assert_eq!((&answer["ok"], &answer["error"]["code"]), (&json!(false), &json!(code)), "{asked}");
        assert!(answer["error"]["message"].as_str().is_some_and(|text| text.len() > 10), "{answer}");
        if asked.is_object() {
            let mut frame = asked.clone();
            frame["type"] = json!("register");
            frame["id"] = json!("i");
            plain.send(&frame);
            let error = plain.inbox.next("error").await;
            assert_eq!((&error["code"], &error["id"]), (&json!(code), &json!("i")), "{asked}");
        }
    }
    let unknown = client.ask("subscribe", &[json!({})]).await;
    assert_eq!(unknown["error"]["code"], "unknown_event");
    assert_eq!(client.register(json!({})).await, json!({"ok": true, "socketId": me, "groups": [group]}));
    HERALD.publish(&to_group(&group, 1)).await;
    assert_eq!(client.inbox.data().await, 1);
    assert_eq!(plain.inbox.data().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_with_a_wrong_url_is_told_what_is_wrong() {
    let long = "x".repeat(257);
    for (query, code) in
        [("socketId=", "invalid_id"), (&format!("group={long}"), "id_too_long"), ("group=*", "invalid_id")]
    {
        let answer = herald_e2e::http::get(HERALD.edge(0), &format!("/events?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.json()["error"]["code"], code, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_claim_wins_on_one_edge_and_across_edges() {
    for (first_edge, second_edge) in [(0, 0), (0, 1)] {
        let (me, group) = (unique("me"), unique("group"));
        let node = Driver::node();
        let mut first = socketio(&node, first_edge).await;
        first.register(json!({"socketId": me, "groupFlag": group})).await;
        let mut second = PlainClient::registered(HERALD.edge(second_edge), json!({"socketId": me})).await;
        let told = first.inbox.next("superseded").await;
        assert_eq!(told["detail"]["socketId"], json!(me));
        HERALD.publish(&to_socket(&me, "for the newest")).await;
        HERALD.publish(&to_group(&group, "for the group")).await;
        assert_eq!(second.inbox.data().await, "for the newest");
        assert_eq!(first.inbox.data().await, "for the group", "it stays in its groups");
        assert_eq!(first.register(json!({})).await["socketId"], Value::Null);
        // back again, on the other side of an event stream
        let mut third = SseClient::connect(HERALD.edge(first_edge), &format!("/events?socketId={me}")).await;
        assert_eq!(second.inbox.next("superseded").await["socketId"], json!(me));
        first.register(json!({"socketId": me})).await;
        assert_eq!(third.inbox.next("superseded").await["message"]["socketId"], json!(me));
        HERALD.publish(&to_socket(&me, "for the first")).await;
        assert_eq!(first.inbox.data().await, "for the first");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_allowed_are_refused_and_room_is_made_by_leaving() {
    let herald = Herald::named("full")
        .edges(1)
        .registries(0)
        .ingests(0)
        .set("edge", "HERALD_MAX_CONNECTIONS", "2")
        .start();
    let first = PlainClient::connect(herald.edge(0)).await;
    let _events = SseClient::connect(herald.edge(0), "/events?group=g").await;
    assert_eq!(PlainClient::try_open(herald.edge(0), "/ws").err().as_deref(), Some("HTTP 503"));
    for path in ["/events?group=g", "/socket.io/?EIO=4&transport=polling"] {
        let refused = herald_e2e::http::get(herald.edge(0), path).await;
        assert_eq!(refused.status, 503, "{path}");
        assert!(refused.headers.contains_key("retry-after"), "{path}");
    }
    drop(first);
    herald_e2e::until("there is room again", async || PlainClient::try_open(herald.edge(0), "/ws").ok())
        .await;
}
