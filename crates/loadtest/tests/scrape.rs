//! `/metrics` over real sockets: what can be read, and what is said of what cannot.

#![allow(clippy::expect_used, reason = "this is test code, though not all in test functions")]

use std::net::SocketAddr;

use herald_loadtest::Scraper;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Answers one request with this, and returns the request.
async fn answering(answer: &'static str) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("reads"));
        }
        stream.write_all(answer.as_bytes()).await.expect("writes");
        String::from_utf8(request).expect("is text")
    });
    (address, serving)
}

#[tokio::test]
async fn metrics_are_asked_for_at_every_address() {
    let (one, first) = answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n").await;
    let (other, second) = answering("HTTP/1.1 200 OK\r\n\r\n").await;
    Scraper::new(vec![one, other]).await.expect("both answer");
    for (address, serving) in [(one, first), (other, second)] {
        let request = serving.await.expect("was asked");
        assert!(request.starts_with("GET /metrics HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&address.to_string()), "{request}");
    }
}

#[tokio::test]
async fn an_address_that_does_not_tell_is_an_error_that_names_it() {
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("has an address");
    let (missing, _serving) = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let (cut, _cutting) = answering("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    for (address, why) in [(closed, "refused"), (missing, "404 Not Found"), (cut, "")] {
        let error = Scraper::new(vec![address]).await.expect_err("cannot be read").to_string();
        assert!(error.starts_with(&format!("http://{address}/metrics cannot be read: ")), "{error}");
        assert!(error.contains(why), "{error}");
    }
}
