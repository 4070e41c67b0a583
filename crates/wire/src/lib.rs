//! What crosses a process boundary in Herald: the producer's message, the envelope that travels on Redis, the cursor
//! that clients hand back, the names on Redis, and the generated gRPC. No I/O and no clock live here.

pub mod cursor;
pub mod envelope;
pub mod limits;
pub mod message;
pub mod names;
pub mod position;
pub mod target;

/// Generated from `proto/` by `tests/generated.rs`, which also fails when the two differ.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
mod generated {
    pub mod bus {
        include!("generated/herald.bus.v1.rs");
    }
    pub mod registry {
        include!("generated/herald.registry.v1.rs");
    }
}

/// The registry's gRPC contract, `proto/herald/registry/v1/registry.proto`.
pub use generated::registry;

/// The compiled descriptors of `proto/`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

pub use cursor::{Cursor, CursorError, Epoch};
pub use envelope::Envelope;
pub use limits::Limits;
pub use message::{Message, Rejection};
pub use names::Names;
pub use position::Position;
pub use target::{Target, TargetError, TargetKind};
