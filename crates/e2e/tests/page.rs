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
async fn the_official_client_works_in_a_browser_and_recovers_after_being_offline() {
    let herald = herald();
    let browser = Driver::browser();
    let mut page = browser.client("page");
    page.command(json!({"do": "open", "url": herald.url()})).await;
    page.command(json!({"do": "load_socketio"})).await;
    let script = r#"(async () => {
        window.official = io({ reconnectionDelay: 50, reconnectionDelayMax: 200, transports: ["websocket"] });
        official.on("connect", () => tell("connected", { recovered: official.recovered }));
        official.on("message", (message) => tell("heard", { data: message.data }));
        return await official.emitWithAck("register", { socketId: "browser", groupFlag: "chrome" });
    })()"#;
    let answer = page.command(json!({"do": "eval", "script": script})).await;
    assert_eq!(answer["ok"], json!(true), "{answer}");
    assert_eq!(page.inbox.next("connected").await["recovered"], json!(false));
    publish(&herald, 1).await;
    assert_eq!(page.inbox.next("heard").await["data"], json!(1));
    page.command(json!({"do": "offline", "value": true})).await;
    publish(&herald, 2).await;
    page.command(json!({"do": "offline", "value": false})).await;
    assert_eq!(page.inbox.next("connected").await["recovered"], json!(true));
    publish(&herald, 3).await;
    assert_eq!(page.inbox.next("heard").await["data"], json!(2));
    assert_eq!(page.inbox.next("heard").await["data"], json!(3));
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
