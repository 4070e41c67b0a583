//! Drains RabbitMQ and HTTP into the bus.

pub mod acks;
pub mod outstanding;
pub mod plan;
pub mod window;
