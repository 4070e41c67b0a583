//! Hands refused messages to the dead-letter queue, and does not let go of one before RabbitMQ has confirmed it.

use std::sync::Arc;

use herald_chassis::{Backoff, Shutdown};

use crate::acks::Tag;
use crate::metrics::Metrics;
use crate::source::amqp::{AmqpError, Letter, Outlet};
use crate::source::queue::AmqpConfig;

/// Letters published at once, before their confirms are waited for.
pub(crate) const LETTERS_MAX: usize = 64;

/// The way to the dead-letter queue, connected when the first letter needs it.
pub(crate) struct DeadLetters {
    config: Arc<AmqpConfig>,
    metrics: Metrics,
    shutdown: Shutdown,
    outlet: Option<Outlet>,
}

/// What became of some letters.
pub(crate) struct Delivered {
    pub(crate) done: Vec<Tag>,
    /// Not empty only when the process drains.
    pub(crate) left: Vec<Tag>,
}

impl DeadLetters {
    pub(crate) fn new(config: Arc<AmqpConfig>, metrics: Metrics, shutdown: Shutdown) -> Self {
        Self { config, metrics, shutdown, outlet: None }
    }

    /// Delivers all of them, trying again without end; only a drain makes it give up. Dropping the future gives up too.
    pub(crate) async fn deliver(mut self, letters: Vec<(Tag, Letter)>) -> (Self, Delivered) {
        let (mut tags, mut letters): (Vec<Tag>, Vec<Letter>) = letters.into_iter().unzip();
        let mut done = Vec::with_capacity(tags.len());
        let mut backoff = Backoff::EAGER;
        loop {
            let answers = self.attempt(&letters).await;
            let mut failure = None;
            let mut kept = (Vec::new(), Vec::new());
            for ((tag, letter), answer) in tags.into_iter().zip(letters).zip(answers) {
                match answer {
                    Ok(()) => {
                        self.metrics.dead_lettered(&letter.refusal);
                        done.push(tag);
                    }
                    Err(error) => {
                        failure = Some(error);
                        kept.0.push(tag);
                        kept.1.push(letter);
                    }
                }
            }
            (tags, letters) = kept;
            let Some(error) = failure else { break };
            self.metrics.dead_letter_retries.increment(1);
            tracing::warn!(waiting = tags.len(), "dead letters must wait: {error}");
            // a new connection declares exchange and queue again, should they be gone
            self.outlet = None;
            if !backoff.wait(&self.shutdown).await {
                break;
            }
        }
        (self, Delivered { done, left: tags })
    }

    /// One answer per letter.
    async fn attempt(&mut self, letters: &[Letter]) -> Vec<Result<(), AmqpError>> {
        let outlet = match self.outlet.take() {
            Some(outlet) => outlet,
            None => match Outlet::open(&self.config).await {
                Ok(outlet) => outlet,
                Err(error) => {
                    let why = error.to_string();
                    let failed = |_| {
                        let exchange = self.config.dead_letter.clone();
                        Err(AmqpError::NotConfirmed { exchange, why: why.clone() })
                    };
                    return letters.iter().map(failed).collect();
                }
            },
        };
        self.outlet.insert(outlet).publish(letters).await
    }
}
