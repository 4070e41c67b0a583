//! The embedded default as a person meets it: the page in Chromium, and the official client in that page.

use herald_e2e::process::Process;
use herald_e2e::{Driver, Inbox, Value, json};

fn herald() -> Process {
    let mut herald = Process::new("herald", "herald", Vec::new());
    herald.start();
    herald.wait_ready();
    herald
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_from_the_page_is_seen_on_the_page() {
    let herald = herald();
    let browser = Driver::browser();
    let mut page = browser.client("page");
    let opened = page.command(json!({"do": "open", "url": herald.url()})).await;
    assert_eq!((&opened["status"], &opened["title"]), (&json!(200), &json!("Herald")));
    shows(&page, "#state", "registered as me, groups: news").await;
    page.command(json!({"do": "fill", "selector": "[name=data]", "value": "{\"text\": \"from a person\"}"}))
        .await;
    page.command(json!({"do": "click", "selector": "#publish button"})).await;
    shows(&page, "#answer", "accepted").await;
    shows(&page, "#messages li", "from a person").await;
    no_errors(&mut page.inbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_is_published_elsewhere_and_only_what_is_for_it() {
    let herald = herald();
    let browser = Driver::browser();
    let mut page = browser.client("page");
    page.command(json!({"do": "open", "url": herald.url()})).await;
    shows(&page, "#state", "groups: news").await;
    // the other group is taken, the first one is left
    page.command(json!({"do": "fill", "selector": "[name=groups]", "value": "sport, chrome"})).await;
    page.command(json!({"do": "click", "selector": "#register button"})).await;
    shows(&page, "#state", "registered as me, groups: sport, chrome").await;
    for group in ["news", "sport"] {
        let message = json!({"socketGroupFlag": group, "data": {"from": group}, "extra": "kept"});
        assert_eq!(herald_e2e::http::publish(herald.listen, &message).await.status, 200);
    }
    publish(&herald, 7).await;
    shows(&page, "#messages li", "to group chrome").await;
    let list = page.command(json!({"do": "text", "selector": "#messages"})).await;
    let list = list.as_str().unwrap();
    for shown in
        ["to group sport", r#"{"from":"sport"}"#, r#"{"extra":"kept"}"#, "to group chrome · reliable"]
    {
        assert!(list.contains(shown), "{shown} in {list}");
    }
    assert!(!list.contains(r#"{"from":"news"}"#), "{list}");
    no_errors(&mut page.inbox);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_works_in_a_browser_over_each_transport_and_recovers_after_being_offline() {
    let herald = herald();
    let browser = Driver::browser();
    for (name, transports, settles_on) in [
        ("ws", json!(["websocket"]), "websocket"),
        ("polling", json!(["polling"]), "polling"),
        ("upgraded", json!(["polling", "websocket"]), "websocket"),
    ] {
        let mut page = browser.client(name);
        page.command(json!({"do": "open", "url": herald.url()})).await;
        page.command(json!({"do": "load_socketio"})).await;
        let register = json!({"socketId": name, "groupFlag": "chrome"});
        let script = format!(
            r#"(async () => {{
                const transports = {transports};
                window.official = io({{ reconnectionDelay: 50, reconnectionDelayMax: 200, transports }});
                official.on("connect", () => {{
                    const tellTransport = () => tell("transport", {{ name: official.io.engine.transport.name }});
                    if (official.io.engine.transport.name === transports.at(-1)) tellTransport();
                    else official.io.engine.once("upgrade", tellTransport);
                    tell("connected", {{ recovered: official.recovered }});
                }});
                official.on("message", (message) => tell("heard", {{ data: message.data }}));
                return await official.emitWithAck("register", {register});
            }})()"#
        );
        let answer = page.command(json!({"do": "eval", "script": script})).await;
        assert_eq!(answer["ok"], json!(true), "{name}: {answer}");
        assert_eq!(page.inbox.next("connected").await["recovered"], json!(false));
        assert_eq!(page.inbox.next("transport").await["name"], settles_on);
        publish(&herald, 1).await;
        assert_eq!(page.inbox.next("heard").await["data"], json!(1));
        page.command(json!({"do": "offline", "value": true})).await;
        publish(&herald, 2).await;
        page.command(json!({"do": "offline", "value": false})).await;
        assert_eq!(page.inbox.next("connected").await["recovered"], json!(true), "{name}");
        assert_eq!(page.inbox.next("transport").await["name"], settles_on);
        publish(&herald, 3).await;
        assert_eq!(page.inbox.next("heard").await["data"], json!(2));
        assert_eq!(page.inbox.next("heard").await["data"], json!(3));
        page.command(json!({"do": "eval", "script": "void official.disconnect()"})).await;
    }
}

async fn publish(herald: &Process, number: u64) {
    let message = json!({"socketGroupFlag": "chrome", "isVolatile": false, "data": number});
    let answer = herald_e2e::http::publish(herald.listen, &message).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn shows(page: &herald_e2e::SocketClient, selector: &str, text: &str) {
    page.command(json!({"do": "wait_text", "selector": selector, "value": text})).await;
}

fn no_errors(inbox: &mut Inbox) {
    assert_eq!(inbox.unasked("pageerror"), Vec::<Value>::new());
}
