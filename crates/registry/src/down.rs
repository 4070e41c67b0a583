//! A stream's way down to the edge: a bounded queue, and a status that overtakes it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream};
use herald_wire::registry::RegistryMessage;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Messages on their way to one edge.
pub(crate) const DOWN_MAX: usize = 1_024;
/// How long an edge may leave its queue full before its stream is closed.
pub(crate) const SLOW_AFTER: Duration = Duration::from_secs(10);

/// The registry's end.
pub(crate) struct Down {
    queue: mpsc::Sender<RegistryMessage>,
    status: oneshot::Sender<Status>,
}

/// The edge's end: what tonic sends.
pub(crate) struct DownStream {
    queue: mpsc::Receiver<RegistryMessage>,
    // None once it was told
    status: Option<oneshot::Receiver<Status>>,
}

pub(crate) fn down() -> (Down, DownStream) {
    let (sender, receiver) = mpsc::channel(DOWN_MAX);
    let (end, ended) = oneshot::channel();
    (Down { queue: sender, status: end }, DownStream { queue: receiver, status: Some(ended) })
}

/// Why nothing can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownError {
    /// The edge is gone.
    Gone,
    /// The edge does not read.
    Slow,
}

impl Down {
    /// Sends, waiting for room if there is none.
    pub(crate) async fn send(&self, message: RegistryMessage) -> Result<(), DownError> {
        match self.queue.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(DownError::Gone),
            Err(mpsc::error::TrySendError::Full(message)) => {
                match self.queue.send_timeout(message, SLOW_AFTER).await {
                    Ok(()) => Ok(()),
                    Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(DownError::Gone),
                    Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(DownError::Slow),
                }
            }
        }
    }

    /// Resolves when the edge is gone.
    pub(crate) async fn gone(&self) {
        self.queue.closed().await;
    }

    /// Ends the stream; what is queued still is not sent any more.
    pub(crate) fn end(self, status: Status) {
        // nobody is left to be told when this fails
        let _ = self.status.send(status);
    }
}

impl Stream for DownStream {
    type Item = Result<RegistryMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(status) = &mut self.status else { return Poll::Ready(None) };
        if let Poll::Ready(ended) = status.poll_unpin(cx) {
            self.status = None;
            self.queue.close();
            return Poll::Ready(match ended {
                Ok(status) if status.code() == tonic::Code::Ok => None,
                Ok(status) => Some(Err(status)),
                Err(_) => Some(Err(Status::internal("the registry dropped this stream"))),
            });
        }
        match self.queue.poll_recv(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(message))),
            // the queue ends just before the status comes
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;

    #[tokio::test(start_paused = true)]
    async fn an_edge_that_does_not_read_is_slow() {
        let (down, mut stream) = down();
        for _ in 0..DOWN_MAX {
            assert_eq!(down.send(RegistryMessage::default()).await, Ok(()));
        }
        assert_eq!(down.send(RegistryMessage::default()).await, Err(DownError::Slow));
        down.end(Status::resource_exhausted("slow"));
        assert_eq!(stream.next().await.unwrap().unwrap_err().message(), "slow");
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn an_edge_that_left_is_gone() {
        let (down, stream) = down();
        drop(stream);
        down.gone().await;
        assert_eq!(down.send(RegistryMessage::default()).await, Err(DownError::Gone));
    }
}
