//! HTTP long-polling (Engine.IO 4, "HTTP long-polling"): sessions, the polls that fetch packets, the posts that bring
//! them, and the handing over to a WebSocket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::fast::RandomState;
use herald_socketio::engine::{NOOP, join_payload};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::reader::Reader;

/// Payloads of one client that its task has not looked at yet.
const POSTS_MAX: usize = 4;

/// What a polling client's task hears.
pub(super) enum Posted {
    Payload(Bytes),
    Upgraded(Box<Reader>),
    End(&'static str),
}

/// All polling sessions of this edge. Cloning is a reference count.
#[derive(Clone, Default)]
pub(crate) struct PollingSessions(Arc<Mutex<HashMap<String, Arc<PollingSession>, RandomState>>>);

/// One of them, as the HTTP requests that belong to it see it.
pub(super) struct PollingSession {
    posts: mpsc::Sender<Posted>,
    /// Chunks for polls. Whoever polls holds it: a second poll at the same time is an error.
    chunks: tokio::sync::Mutex<mpsc::Receiver<Vec<Bytes>>>,
    posting: AtomicBool,
    /// A WebSocket probes: polls are answered at once.
    probed: AtomicBool,
    let_go: Notify,
    ended: CancellationToken,
}

/// The task's end of a session; removes it when dropped.
pub(super) struct Posts {
    sessions: PollingSessions,
    sid: String,
    session: Arc<PollingSession>,
    posted: mpsc::Receiver<Posted>,
}

/// What a poll is answered with.
pub(super) enum Polled {
    Packets(Bytes),
    /// Another poll of this session is waiting.
    Overlap,
}

impl PollingSessions {
    /// A new session, whose frames come by `chunks`.
    pub(super) fn open(&self, sid: &str, chunks: mpsc::Receiver<Vec<Bytes>>) -> Posts {
        let (posts, posted) = mpsc::channel(POSTS_MAX);
        let session = Arc::new(PollingSession {
            posts,
            chunks: tokio::sync::Mutex::new(chunks),
            posting: AtomicBool::new(false),
            probed: AtomicBool::new(false),
            let_go: Notify::new(),
            ended: CancellationToken::new(),
        });
        self.lock().insert(sid.to_owned(), session.clone());
        Posts { sessions: self.clone(), sid: sid.to_owned(), session, posted }
    }

    pub(super) fn get(&self, sid: &str) -> Option<Arc<PollingSession>> {
        self.lock().get(sid).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<PollingSession>, RandomState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PollingSession {
    /// Waits for packets. A poll that the client gives up ends the session: what it carried may be lost.
    pub(super) async fn poll(&self) -> Polled {
        let Ok(mut chunks) = self.chunks.try_lock() else {
            self.end("overlapping_polls");
            return Polled::Overlap;
        };
        let given_up = EndUnless { session: self, done: false };
        let packets = if self.probed.load(Ordering::Acquire) {
            chunks.try_recv().ok()
        } else {
            tokio::select! {
                biased;
                chunk = chunks.recv() => chunk,
                () = self.let_go.notified() => None,
            }
        };
        given_up.done();
        Polled::Packets(packets.map_or(NOOP, |packets| join_payload(&packets)))
    }

    /// Hands a payload to the session's task; waits while it has too many. False: another post is under way, or the
    /// session is over.
    pub(super) async fn post(&self, payload: Bytes) -> bool {
        if self.posting.swap(true, Ordering::AcqRel) {
            self.end("overlapping_posts");
            return false;
        }
        let posted = self.posts.send(Posted::Payload(payload)).await.is_ok();
        self.posting.store(false, Ordering::Release);
        posted
    }

    /// Ends the session from outside of its task.
    pub(super) fn end(&self, reason: &'static str) {
        // the task may be busy with posts: the token is heard anyway
        let _ = self.posts.try_send(Posted::End(reason));
        self.ended.cancel();
    }

    /// A WebSocket probes: polls are answered at once from now on, so that the client can let go of polling. False:
    /// another one does already.
    pub(super) fn probe(&self) -> bool {
        if self.probed.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.let_go.notify_one();
        true
    }

    /// The WebSocket came to nothing.
    pub(super) fn unprobe(&self) {
        self.probed.store(false, Ordering::Release);
    }

    /// The session goes on on this WebSocket.
    pub(super) async fn switch(&self, reader: Reader) {
        let _ = self.posts.send(Posted::Upgraded(Box::new(reader))).await;
    }
}

/// Ends the session when dropped before it is done.
struct EndUnless<'a> {
    session: &'a PollingSession,
    done: bool,
}

impl EndUnless<'_> {
    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for EndUnless<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.session.end("poll_aborted");
        }
    }
}

impl Posts {
    pub(super) async fn next(&mut self) -> Posted {
        tokio::select! {
            biased;
            posted = self.posted.recv() => posted.unwrap_or(Posted::End("lost")),
            () = self.session.ended.cancelled() => Posted::End("ended"),
        }
    }

    /// No request finds the session any more.
    pub(super) fn close(&self) {
        self.sessions.lock().remove(&self.sid);
    }

    /// Closes, and takes what no poll has fetched.
    pub(super) async fn close_and_drain(&self) -> Vec<Bytes> {
        self.close();
        self.session.let_go.notify_one();
        let mut chunks = self.session.chunks.lock().await;
        chunks.close();
        let mut left = Vec::new();
        while let Ok(chunk) = chunks.try_recv() {
            left.extend(chunk);
        }
        left
    }
}

impl Drop for Posts {
    fn drop(&mut self) {
        self.close();
    }
}
