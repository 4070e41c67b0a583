//! `POST /publish`: the queue's contract over HTTP, one message or an array, with an answer for each.

use std::sync::LazyLock;

use herald_e2e::http::{Answer, post, publish};
use herald_e2e::{Herald, PlainClient, Value, json, unique};

static HERALD: LazyLock<Herald> = LazyLock::new(|| {
    Herald::named("publish")
        .edges(2)
        .registries(0)
        .set("ingest", "HERALD_HTTP_MESSAGES_MAX", "4")
        .set("ingest", "HERALD_HTTP_BODY_BYTES_MAX", "20000")
        .start()
});

const JSON: (&str, &str) = ("content-type", "application/json");

async fn send(message: &Value, headers: &[(&str, &str)]) -> Answer {
    post(HERALD.ingests[0].listen, "/publish", headers, message.to_string()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_is_accepted_and_delivered_on_every_edge() {
    let group = unique("group");
    let mut clients = [
        PlainClient::registered(HERALD.edge(0), json!({"groupFlag": group})).await,
        PlainClient::registered(HERALD.edge(1), json!({"groupFlag": group})).await,
    ];
    for (volatile, has_id) in [(true, false), (false, true)] {
        let message = json!({"socketGroupFlag": group, "isVolatile": volatile, "data": "hello"});
        let answer = publish(HERALD.ingests[0].listen, &message).await;
        assert_eq!(answer.status, 200);
        let answer = answer.json();
        assert_eq!((&answer["accepted"], &answer["duplicate"]), (&json!(true), &json!(false)));
        assert_eq!(answer["id"].is_string(), has_id, "{answer}");
        for client in &mut clients {
            assert_eq!(client.inbox.message().await, message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_answered_message_by_message_and_published_in_order() {
    let me = unique("me");
    let mut client = PlainClient::registered(HERALD.edge(1), json!({"socketId": me})).await;
    let messages = json!([
        {"socketSessionId": me, "data": 1},
        {"data": "to nobody"},
        {"socketSessionId": me, "data": 2, "isVolatile": false},
        "not even an object",
    ]);
    let answer = publish(HERALD.ingests[0].listen, &messages).await;
    assert_eq!(answer.status, 200);
    let results = answer.json()["results"].clone();
    let accepted: Vec<&Value> =
        results.as_array().unwrap().iter().map(|result| &result["accepted"]).collect();
    assert_eq!(accepted, [true, false, true, false]);
    assert_eq!(results[1]["error"]["code"], "no_target");
    assert_eq!(results[3]["error"]["code"], "malformed");
    assert_eq!(client.inbox.data_of(2).await, [1, 2]);
    assert_eq!(publish(HERALD.ingests[0].listen, &json!([])).await.json(), json!({"results": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_is_delivered_once() {
    let (me, key) = (unique("me"), unique("key"));
    let mut client = PlainClient::registered(HERALD.edge(0), json!({"socketId": me})).await;
    for (data, duplicate) in [(1, false), (2, true), (3, true)] {
        let answer = send(
            &json!({"socketSessionId": me, "isVolatile": false, "data": data}),
            &[JSON, ("idempotency-key", &key)],
        )
        .await;
        assert_eq!(answer.json(), json!({"accepted": true, "id": key, "duplicate": duplicate}));
    }
    send(&json!({"socketSessionId": me, "data": "end"}), &[]).await;
    assert_eq!(client.inbox.data_of(2).await, [json!(1), json!("end")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_no_sense_is_told_why() {
    let message = json!({"socketSessionId": "a", "data": 1}).to_string();
    let big = format!(r#"{{"socketSessionId":"a","data":"{}"}}"#, "x".repeat(20_000));
    let five = json!([{}, {}, {}, {}, {}]).to_string();
    for (path, headers, body, status, code) in [
        ("/publish", &[JSON][..], "{ not json", 400, "not_json"),
        ("/publish", &[JSON], "", 400, "not_json"),
        ("/publish", &[JSON], r#"{"data":1}"#, 422, "no_target"),
        ("/publish", &[JSON], "7", 422, "malformed"),
        ("/publish", &[JSON, ("herald-expiration-ms", "soon")], &message, 422, "invalid_expiration"),
        ("/publish", &[JSON, ("herald-expiration-ms", "0")], &message, 422, "expired"),
        ("/publish", &[JSON, ("idempotency-key", &"k".repeat(300))], &message, 422, "invalid_message_id"),
        ("/publish", &[JSON], &big, 413, "too_large"),
        ("/publish", &[JSON], &five, 413, "too_many_messages"),
        ("/publish", &[("content-type", "text/csv")], &message, 415, "unsupported_media_type"),
        ("/publish", &[JSON, ("origin", "https://elsewhere.example")], &message, 403, "cross_origin"),
        ("/elsewhere", &[JSON], &message, 404, "not_found"),
    ] {
        let answer = post(HERALD.ingests[0].listen, path, headers, body.to_owned()).await;
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (status, &json!(code)),
            "{path} {headers:?}"
        );
        assert!(answer.json()["error"]["message"].as_str().is_some_and(|text| text.len() > 5));
    }
    let answer = herald_e2e::http::get(HERALD.ingests[0].listen, "/publish").await;
    assert_eq!((answer.status, &answer.headers["allow"]), (405, &"POST".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_configured_nobody_else_publishes() {
    let herald = Herald::named("token")
        .edges(0)
        .registries(0)
        .set("ingest", "HERALD_PUBLISH_TOKEN", "open sesame")
        .start();
    let message = json!({"socketSessionId": "a", "data": 1}).to_string();
    for (headers, status) in [
        (&[JSON][..], 401),
        (&[JSON, ("authorization", "Bearer wrong")], 401),
        (&[JSON, ("authorization", "Bearer open sesame")], 200),
    ] {
        let answer = post(herald.ingests[0].listen, "/publish", headers, message.clone()).await;
        assert_eq!(answer.status, status, "{headers:?}");
    }
    assert!(!herald.ingests[0].log().contains("sesame"), "the token is logged");
}
