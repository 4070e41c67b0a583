//! Where messages come from. Each source knows its own protocol and nothing of the others.

pub mod amqp;
pub mod http;
pub mod queue;
