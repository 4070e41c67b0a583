//! One message on the queue reaches every client it is for, once, whichever edge holds it: targets, `data`, classes.

use std::sync::LazyLock;

use herald_e2e::herald::{reliable, to_group, to_socket};
use herald_e2e::{Brokers, Driver, Herald, PlainClient, SseClient, Value, json, unique};
use lapin::BasicProperties;

static HERALD: LazyLock<Herald> = LazyLock::new(|| Herald::named("delivery").edges(2).registries(2).start());

/// A client of edge `edge` that registered.
async fn client(edge: usize, register: Value) -> PlainClient {
    PlainClient::registered(HERALD.edge(edge), register).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_socket_id_reaches_its_client_alone() {
    let (one, other, group) = (unique("one"), unique("other"), unique("group"));
    let mut addressed = client(0, json!({"socketId": one, "groupFlag": group})).await;
    let mut neighbour = client(0, json!({"socketId": other, "groupFlag": group})).await;
    let mut remote = client(1, json!({"groupFlag": group})).await;
    let producer = HERALD.producer().await;
    producer.send(&to_socket(&one, "for one")).await;
    producer.send(&to_group(&group, "for all")).await;
    assert_eq!(addressed.inbox.data_of(2).await, ["for one", "for all"]);
    assert_eq!(neighbour.inbox.data().await, "for all");
    assert_eq!(remote.inbox.data().await, "for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_to_a_group_reaches_its_members_on_every_edge_and_nobody_else() {
    let (group, elsewhere) = (unique("group"), unique("group"));
    let mut members = Vec::new();
    for edge in [0, 1, 0, 1] {
        members.push(client(edge, json!({"groupFlag": [group, elsewhere]})).await);
    }
    let mut outsider = client(1, json!({"groupFlag": elsewhere})).await;
    let producer = HERALD.producer().await;
    producer.send(&to_group(&group, 1)).await;
    producer.send(&to_group(&elsewhere, 2)).await;
    for member in &mut members {
        assert_eq!(member.inbox.data_of(2).await, [1, 2]);
    }
    assert_eq!(outsider.inbox.data().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_several_targets_of_a_message_name_gets_it_once() {
    let (me, mate, g, h) = (unique("me"), unique("mate"), unique("g"), unique("h"));
    let mut clients = [
        client(0, json!({"socketId": me, "groupFlag": [g, h]})).await,
        client(1, json!({"socketId": mate, "groupFlag": g})).await,
        client(1, json!({"groupFlag": h})).await,
    ];
    let producer = HERALD.producer().await;
    for volatile in [true, false] {
        for (targets, data) in [
            (json!({"socketSessionId": me, "socketGroupFlag": g}), 1),
            (json!({"socketSessionId": [me, mate, me], "socketGroupFlag": [g, h]}), 2),
        ] {
            let mut message = json!({"isVolatile": volatile, "data": data});
            message.as_object_mut().unwrap().extend(targets.as_object().unwrap().clone());
            producer.send(&message).await;
        }
        producer.send(&to_group(&g, "end")).await;
        producer.send(&to_group(&h, "end of h")).await;
        assert_eq!(clients[0].inbox.data_of(4).await, [json!(1), json!(2), json!("end"), json!("end of h")]);
        assert_eq!(clients[1].inbox.data_of(3).await, [json!(1), json!(2), json!("end")]);
        assert_eq!(clients[2].inbox.data_of(2).await, [json!(2), json!("end of h")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_is_every_registered_client_and_no_other() {
    // a Herald of its own: the others' clients would get it too
    let herald = Herald::named("everyone").edges(2).registries(0).start();
    let mut registered = [
        PlainClient::registered(herald.edge(0), json!({"socketId": "a"})).await,
        PlainClient::registered(herald.edge(1), json!({"groupFlag": "g"})).await,
        PlainClient::registered(herald.edge(1), json!({})).await,
    ];
    let mut late = PlainClient::connect(herald.edge(0)).await;
    let producer = herald.producer().await;
    producer.send(&to_group("*", "first")).await;
    for client in &mut registered {
        assert_eq!(client.inbox.data().await, "first");
    }
    late.register(json!({"groupFlag": "g"})).await;
    producer.send(&json!({"socketGroupFlag": ["*", "g"], "socketSessionId": "a", "data": "second"})).await;
    producer.send(&reliable(to_group("*", "third"))).await;
    for client in registered.iter_mut().chain([&mut late]) {
        assert_eq!(client.inbox.data_of(2).await, ["second", "third"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_gets_the_producers_object_with_data_decoded() {
    let me = unique("me");
    let mut web_socket = client(0, json!({"socketId": me, "groupFlag": me})).await;
    let mut events = SseClient::connect(HERALD.edge(1), &format!("/events?group={me}")).await;
    let node = Driver::node();
    let mut socketio = node.connect("a", &HERALD.edge_url(1), json!({"transports": ["websocket"]})).await;
    assert_eq!(socketio.register(json!({"groupFlag": me})).await["ok"], true);
    let producer = HERALD.producer().await;
    for (sent, received) in [
        (
            json!({"data": {"f": "show", "a": [1, 2.5, null, true]}}),
            json!({"data": {"f": "show", "a": [1, 2.5, null, true]}}),
        ),
        (json!({"data": "{\"f\":\"show\",\"a\":[1]}"}), json!({"data": {"f": "show", "a": [1]}})),
        (json!({"data": "[\"an\\nd\", \"\\u00e9\"]"}), json!({"data": ["an\nd", "é"]})),
        (json!({"data": "show('x', 1)"}), json!({"data": "show('x', 1)"})),
        (json!({"data": "{ not json"}), json!({"data": "{ not json"})),
        (json!({"data": "line\nbreak \u{2028} ü 🦀"}), json!({"data": "line\nbreak \u{2028} ü 🦀"})),
        (json!({"data": ""}), json!({"data": ""})),
        (json!({"data": null}), json!({"data": null})),
        (json!({}), json!({})),
        (
            json!({"more": {"deep": [[]]}, "type": "x", "event": "y"}),
            json!({"more": {"deep": [[]]}, "type": "x", "event": "y"}),
        ),
    ] {
        let with_target = |mut object: Value| {
            object["socketGroupFlag"] = json!(me);
            object
        };
        producer.send(&with_target(sent)).await;
        let received = with_target(received);
        assert_eq!(web_socket.inbox.message().await, received);
        assert_eq!(events.inbox.message().await, received);
        assert_eq!(socketio.inbox.message().await, received);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_volatile_unless_it_says_false_and_only_a_reliable_one_has_a_cursor() {
    let me = unique("me");
    let mut client = client(0, json!({"socketId": me})).await;
    let mut cursors = Vec::new();
    let producer = HERALD.producer().await;
    for (flag, is_reliable) in [
        (json!({}), false),
        (json!({"isVolatile": true}), false),
        (json!({"isVolatile": null}), false),
        (json!({"isVolatile": false}), true),
    ] {
        let mut message = to_socket(&me, 1);
        message.as_object_mut().unwrap().extend(flag.as_object().unwrap().clone());
        producer.send(&message).await;
        let delivery = client.inbox.delivery().await;
        assert_eq!(delivery.message, message, "the flag is passed through as it came");
        assert_eq!(delivery.cursor.is_some(), is_reliable, "{flag}");
        cursors.extend(delivery.cursor);
    }
    producer.send(&reliable(to_socket(&me, 2))).await;
    cursors.extend(client.inbox.delivery().await.cursor);
    assert_ne!(cursors[0], cursors[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_channel_arrive_in_order_everywhere() {
    const COUNT: usize = 600;
    let group = unique("group");
    let node = Driver::node();
    let options = |transport| json!({"transports": [transport]});
    let mut socketio = [
        node.connect("ws", &HERALD.edge_url(0), options("websocket")).await,
        node.connect("polling", &HERALD.edge_url(1), options("polling")).await,
    ];
    for client in &socketio {
        assert_eq!(client.register(json!({"groupFlag": group})).await["ok"], true);
    }
    let mut plain = client(1, json!({"groupFlag": group})).await;
    let mut events = SseClient::connect(HERALD.edge(0), &format!("/events?group={group}")).await;
    // within the outbox, so that no volatile one may be dropped
    let messages: Vec<Value> = (0..COUNT)
        .map(|i| {
            let message = to_group(&group, i);
            if i % 3 == 0 { reliable(message) } else { message }
        })
        .collect();
    HERALD.producer().await.send_all(&messages).await;
    let expected: Vec<Value> = (0..COUNT).map(Value::from).collect();
    for inbox in socketio.iter_mut().map(|c| &mut c.inbox).chain([&mut plain.inbox, &mut events.inbox]) {
        assert_eq!(inbox.data_of(COUNT).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_that_comes_again_is_delivered_once() {
    let me = unique("me");
    let mut client = client(0, json!({"socketId": me})).await;
    let producer = HERALD.producer().await;
    for (volatile, id) in [(true, unique("id")), (false, unique("id"))] {
        for data in 1..=3 {
            let message = json!({"socketSessionId": me, "isVolatile": volatile, "data": data});
            let properties = BasicProperties::default().with_message_id(id.as_str().into());
            producer.send_with(&message, properties).await;
        }
        producer.send(&to_socket(&me, "end")).await;
        assert_eq!(client.inbox.data_of(2).await, [json!(1), json!("end")], "volatile: {volatile}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_a_group_or_was_closed_is_sent_nothing_more() {
    let (group, other) = (unique("group"), unique("group"));
    let mut client = client(0, json!({"groupFlag": [group, other]})).await;
    client.send(&json!({"type": "leave", "groupFlag": group, "id": 7}));
    let left = client.inbox.next("left").await;
    assert_eq!((&left["groups"], &left["id"]), (&json!([other]), &json!(7)));
    let producer = HERALD.producer().await;
    producer.send(&to_group(&group, "not for me")).await;
    producer.send(&to_group(&other, "for me")).await;
    assert_eq!(client.inbox.data().await, "for me");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_join_a_busy_group_cost_its_members_no_message() {
    const COUNT: usize = 3_000;
    let group = unique("group");
    let mut member = client(0, json!({"groupFlag": group})).await;
    let messages: Vec<Value> = (0..COUNT).map(|i| reliable(to_group(&group, i))).collect();
    let producer = HERALD.producer().await;
    let sending = tokio::spawn(async move { producer.send_all(&messages).await });
    let joining = tokio::spawn(async move {
        loop {
            client(0, json!({"groupFlag": group})).await;
        }
    });
    let expected: Vec<Value> = (0..COUNT).map(Value::from).collect();
    assert_eq!(member.inbox.data_of(COUNT).await, expected);
    joining.abort();
    sending.await.expect("all sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_subscribes_to_what_its_own_clients_are_in_once_and_to_nothing_else() {
    let (group, other) = (unique("group"), unique("other"));
    // how many edges are subscribed to this group's channel
    let subscribed = |name: &str| {
        let redis = &Brokers::shared().redis;
        let channels = redis.ctl(&["pubsub", "channels", &format!("*:{name}}}")]);
        let channels: Vec<&str> = channels.split_whitespace().collect();
        assert!(channels.len() <= 1, "{channels:?}");
        let counts = redis.ctl(&[&["pubsub", "numsub"], channels.as_slice()].concat());
        counts.split_whitespace().nth(1).map_or(0, |count| count.parse::<usize>().unwrap())
    };
    let _first = client(0, json!({"groupFlag": group})).await;
    let _second = client(0, json!({"groupFlag": [group, other]})).await;
    assert_eq!((subscribed(&group), subscribed(&other)), (1, 1));
    let _third = client(1, json!({"groupFlag": group})).await;
    assert_eq!((subscribed(&group), subscribed(&other)), (2, 1));
}
