//! What the end-to-end tests stand on: private brokers, real processes of the services, and clients of every kind.
//! Knows nothing of how a service works inside: only its settings, its ports and its contracts.
//!
//! Every line here is test code, so a step that fails panics and says which. The log of every process goes to a file,
//! and its end is shown when a test fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]
#![allow(clippy::missing_panics_doc, reason = "this is test code: every step may")]

pub mod balancer;
pub mod brokers;
pub mod driver;
pub mod faults;
pub mod herald;
pub mod http;
pub mod inbox;
pub mod metrics;
pub mod place;
pub mod plain;
pub mod process;
pub mod producer;
pub mod registry;
pub mod sse;
pub mod wait;

pub use balancer::Balancer;
pub use brokers::{Broker, Brokers};
pub use driver::{Driver, SocketClient};
pub use herald::{Builder, Herald};
pub use inbox::{Delivery, Inbox};
pub use metrics::Metrics;
pub use place::unique;
pub use plain::PlainClient;
pub use process::{Process, Signal};
pub use producer::Producer;
pub use sse::SseClient;
pub use wait::{until, until_blocking};

pub use serde_json::{Value, json};
