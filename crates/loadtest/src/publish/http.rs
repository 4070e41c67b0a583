//! Publishing over HTTP: what is due together goes in one `POST /publish`, over one connection that is kept. A request
//! that nobody answered, or that was answered "later", is sent again with the same key.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::{Composer, Fates, Job, PublishError};

/// Between attempts.
const RETRY: Duration = Duration::from_millis(100);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Http {
    to: SocketAddr,
    lane: u32,
    sender: Option<SendRequest<Full<Bytes>>>,
    requests: u64,
    fates: Fates,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    accepted: bool,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Http {
    pub(super) async fn connect(to: SocketAddr, lane: u32) -> Result<Self, PublishError> {
        let stream = TcpStream::connect(to).await.map_err(|source| PublishError::Http { to, source })?;
        drop(stream);
        Ok(Self { to, lane, sender: None, requests: 0, fates: Fates::default() })
    }

    pub(super) async fn send(&mut self, jobs: &[Job], composer: &Composer, give_up: Instant) {
        if jobs.is_empty() {
            return;
        }
        let body = body(jobs, composer);
        let key = format!("{:08x}-{}-{}", composer.run(), self.lane, self.requests);
        self.requests += 1;
        let mut attempts = 0_u64;
        loop {
            match self.post(&key, body.clone()).await {
                Ok(Some(outcomes)) => return self.answered(jobs, &outcomes),
                Ok(None) => {}
                Err(error) => {
                    self.fates.reconnects += 1;
                    self.fates.trouble = Some(format!("POST /publish at {}: {error}", self.to));
                    self.sender = None;
                }
            }
            if Instant::now() >= give_up {
                return self.fates.unknown.extend(jobs);
            }
            attempts += 1;
            if attempts == 1 {
                self.fates.resent += jobs.len() as u64;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// What was said of each message; `None`: try again later.
    async fn post(&mut self, key: &str, body: Bytes) -> Result<Option<Vec<Outcome>>, BoxError> {
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(open(self.to).await?),
        };
        let request = Request::post("/publish")
            .header(header::HOST, self.to.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .body(Full::new(body))?;
        let answer = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            Ok::<_, hyper::Error>((status, answer.into_body().collect().await?.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(ANSWER_TIMEOUT, answer).await??;
        match status {
            StatusCode::OK => Ok(Some(serde_json::from_slice::<Answer>(&body)?.results)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => {
                self.fates.trouble = Some(format!("POST /publish at {}: {status}", self.to));
                Ok(None)
            }
            _ => Err(format!("{status} {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    fn answered(&mut self, jobs: &[Job], outcomes: &[Outcome]) {
        for (i, job) in jobs.iter().enumerate() {
            if !outcomes.get(i).is_some_and(|outcome| outcome.accepted) {
                self.fates.refused.push(*job);
            }
        }
    }

    pub(super) fn finish(self) -> Fates {
        self.fates
    }
}

async fn open(to: SocketAddr) -> Result<SendRequest<Full<Bytes>>, BoxError> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // ends with its sender, or with the connection
    tokio::spawn(connection);
    Ok(sender)
}

fn body(jobs: &[Job], composer: &Composer) -> Bytes {
    let mut body = vec![b'['];
    for (i, job) in jobs.iter().enumerate() {
        if i > 0 {
            body.push(b',');
        }
        composer.write(job, &mut body);
    }
    body.push(b']');
    body.into()
}
