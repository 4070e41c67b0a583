//! The bounds on what a message or a registration may name. Every service takes the same ones from its settings.

/// Lengths are in bytes of UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest socketId or group.
    pub id_bytes_max: usize,
    /// The most targets one message may name.
    pub targets_max: usize,
    /// The largest message body, as the producer sent it.
    pub message_bytes_max: usize,
    /// The longest `message_id`.
    pub message_id_bytes_max: usize,
}

impl Limits {
    /// What a deployment gets that sets nothing.
    pub const DEFAULT: Self = Self {
        id_bytes_max: 256,
        targets_max: 1_000,
        message_bytes_max: 1_000_000,
        message_id_bytes_max: 256,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
