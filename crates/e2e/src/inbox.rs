//! What a client of any kind was sent, awaited event by event. Events that are not asked for wait for their turn, so a
//! test says what it expects and in which order, and never how long that takes.

use std::collections::VecDeque;

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::wait::PATIENCE;

/// A message as a client got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// The producer's object.
    pub message: Value,
    /// What a client hands back to resume; reliable messages have one.
    pub cursor: Option<String>,
}

/// A client's events; each is an object whose `event` says what it is.
#[derive(Debug)]
pub struct Inbox {
    who: String,
    arriving: UnboundedReceiver<Value>,
    waiting: VecDeque<Value>,
}

impl Inbox {
    /// An inbox, and what fills it. `who` is for messages of tests that fail.
    pub fn new(who: &str) -> (UnboundedSender<Value>, Self) {
        let (sender, arriving) = unbounded_channel();
        (sender, Self { who: who.to_owned(), arriving, waiting: VecDeque::new() })
    }

    /// The next event of this kind.
    pub async fn next(&mut self, event: &str) -> Value {
        self.next_where(event, |_| true).await
    }

    /// The next event of this kind for which `wanted` holds; others of the kind before it stay.
    pub async fn next_where(&mut self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let is = |value: &Value| value["event"] == event && wanted(value);
        if let Some(at) = self.waiting.iter().position(is) {
            return self.waiting.remove(at).expect("it was found there");
        }
        loop {
            match timeout(PATIENCE, self.arriving.recv()).await {
                Ok(Some(value)) if is(&value) => return value,
                Ok(Some(value)) => self.waiting.push_back(value),
                Ok(None) => panic!("{} ended before `{event}`; other events: {:?}", self.who, self.waiting),
                Err(_) => panic!("{} got no `{event}`; other events: {:?}", self.who, self.waiting),
            }
        }
    }

    /// The next message.
    pub async fn delivery(&mut self) -> Delivery {
        let mut event = self.next("message").await;
        let cursor = event["cursor"].as_str().map(str::to_owned);
        Delivery { message: event["message"].take(), cursor }
    }

    /// The next message's object.
    pub async fn message(&mut self) -> Value {
        self.delivery().await.message
    }

    /// The `data` of the next message.
    pub async fn data(&mut self) -> Value {
        self.message().await["data"].take()
    }

    /// The `data` of the next `count` messages.
    pub async fn data_of(&mut self, count: usize) -> Vec<Value> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.data().await);
        }
        all
    }

    /// Everything that has arrived and was not asked for, in order.
    pub fn everything(&mut self) -> Vec<Value> {
        while let Ok(value) = self.arriving.try_recv() {
            self.waiting.push_back(value);
        }
        self.waiting.drain(..).collect()
    }

    /// What has arrived of this kind and was not asked for. Means something only after a later event was awaited: what
    /// is sent afterwards on the same way arrives afterwards.
    pub fn unasked(&mut self, event: &str) -> Vec<Value> {
        while let Ok(value) = self.arriving.try_recv() {
            self.waiting.push_back(value);
        }
        let (of_kind, others): (Vec<Value>, Vec<Value>) =
            self.waiting.drain(..).partition(|value| value["event"] == event);
        self.waiting = others.into();
        of_kind
    }
}
