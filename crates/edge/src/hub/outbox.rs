//! A connection's bounded queue of frames to write. Pure: it decides what to keep, what to drop and when a connection
//! lags; who writes is not its business.
//!
//! Policy when full: a volatile frame pushes out the oldest volatile ones, never a reliable one; a reliable frame for
//! which dropping every volatile one makes no room is refused: the connection lags. Control frames (replies, pings)
//! pass the bound up to [`CONTROL_FACTOR`] times it.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use herald_wire::Position;

/// How much a connection may have queued.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    pub(crate) frames_max: usize,
    pub(crate) bytes_max: usize,
}

/// Replies and pings may stretch the bound this many times: beyond it, the client asks without reading.
const CONTROL_FACTOR: usize = 2;

/// What a frame is to the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Part of the protocol's conversation.
    Control,
    /// May be dropped.
    Volatile,
    /// Must not be dropped silently. `mailbox`: it came by the connection's own socketId.
    Reliable { position: Position, mailbox: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Bytes,
    pub(crate) class: Class,
}

/// What became of a pushed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// Queued, at the price of this many older volatile frames.
    Evicted(usize),
    /// A volatile frame for which there is no room.
    Dropped,
    /// A reliable frame, or a reply, for which there is no room.
    Full,
}

/// What was written of an outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) volatile: u64,
    pub(crate) reliable: u64,
    /// The last reliable frame among them that came by the connection's own socketId.
    pub(crate) mailbox: Option<Position>,
}

impl Written {
    pub(crate) fn add(&mut self, more: Self) {
        self.volatile += more.volatile;
        self.reliable += more.reliable;
        self.mailbox = more.mailbox.or(self.mailbox);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Frame>,
    bytes: usize,
    volatile: usize,
    /// The first frame is partly written: it can no longer be dropped.
    started: bool,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(crate) fn push(&mut self, frame: Frame, limits: &OutboxLimits) -> Pushed {
        let mut evicted = 0;
        if frame.class == Class::Control {
            if self.frames.len() >= limits.frames_max.saturating_mul(CONTROL_FACTOR) {
                return Pushed::Full;
            }
        } else if !self.fits(&frame, limits) {
            // decide before dropping anything: a frame that would not fit anyway evicts nobody
            if !self.fits_without_volatile(&frame, limits) {
                return if frame.class == Class::Volatile { Pushed::Dropped } else { Pushed::Full };
            }
            while !self.fits(&frame, limits) && self.evict_oldest_volatile() {
                evicted += 1;
            }
        }
        self.append(frame);
        if evicted > 0 { Pushed::Evicted(evicted) } else { Pushed::Queued }
    }

    /// Queues without asking for room; for frames whose number the caller bounds.
    pub(crate) fn append(&mut self, frame: Frame) {
        self.bytes += frame.bytes.len();
        self.volatile += usize::from(frame.class == Class::Volatile);
        self.frames.push_back(frame);
    }

    /// How many volatile and reliable messages are queued.
    pub(crate) fn left(&self) -> (u64, u64) {
        let reliable = self.frames.iter().filter(|frame| matches!(frame.class, Class::Reliable { .. }));
        (self.volatile as u64, reliable.count() as u64)
    }

    /// How many bytes are queued.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The queued bytes, in order, as many slices as fit.
    pub(crate) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, frame) in into.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(&frame.bytes);
            filled += 1;
        }
        filled
    }

    /// Forgets `written` bytes from the front.
    pub(crate) fn advance(&mut self, mut written: usize) -> Written {
        let mut done = Written::default();
        while let Some(front) = self.frames.front_mut() {
            let length = front.bytes.len();
            if written < length {
                front.bytes.advance(written);
                self.bytes -= written;
                self.started |= written > 0;
                return done;
            }
            written -= length;
            self.pop(&mut done);
        }
        self.release();
        done
    }

    /// Takes whole frames from the front: at least one, at most `frames_max`, and no more than `bytes_max` beyond one.
    pub(crate) fn take(&mut self, frames_max: usize, bytes_max: usize) -> (Vec<Bytes>, Written) {
        let (mut taken, mut bytes, mut done) = (Vec::new(), 0, Written::default());
        while let Some(front) = self.frames.front() {
            bytes += front.bytes.len();
            if !taken.is_empty() && (bytes > bytes_max || taken.len() >= frames_max) {
                break;
            }
            taken.extend(self.pop(&mut done));
        }
        self.release();
        (taken, done)
    }

    /// Frames that were handed over and not taken come first again.
    pub(crate) fn put_back(&mut self, frames: Vec<Bytes>) {
        for bytes in frames.into_iter().rev() {
            self.bytes += bytes.len();
            self.frames.push_front(Frame { bytes, class: Class::Control });
        }
    }

    /// Rewrites every queued frame, for a connection that changes its transport.
    pub(crate) fn map(&mut self, rewrite: impl Fn(&Bytes) -> Bytes) {
        for frame in &mut self.frames {
            self.bytes -= frame.bytes.len();
            frame.bytes = rewrite(&frame.bytes);
            self.bytes += frame.bytes.len();
        }
    }

    fn fits(&self, frame: &Frame, limits: &OutboxLimits) -> bool {
        self.frames.is_empty()
            || (self.frames.len() < limits.frames_max && self.bytes + frame.bytes.len() <= limits.bytes_max)
    }

    fn fits_without_volatile(&self, frame: &Frame, limits: &OutboxLimits) -> bool {
        let droppable = self.droppable();
        let volatile_bytes: usize = droppable.clone().map(|f| f.bytes.len()).sum();
        let volatile = droppable.count();
        let (frames, bytes) = (self.frames.len() - volatile, self.bytes - volatile_bytes);
        volatile > 0
            && (frames == 0 || (frames < limits.frames_max && bytes + frame.bytes.len() <= limits.bytes_max))
    }

    fn droppable(&self) -> impl Iterator<Item = &Frame> + Clone {
        let volatile = if self.volatile == 0 { 0 } else { self.frames.len() };
        self.frames
            .iter()
            .take(volatile)
            .skip(usize::from(self.started))
            .filter(|f| f.class == Class::Volatile)
    }

    fn evict_oldest_volatile(&mut self) -> bool {
        let from = usize::from(self.started);
        let Some(at) = self.frames.iter().skip(from).position(|f| f.class == Class::Volatile) else {
            return false;
        };
        if let Some(frame) = self.frames.remove(from + at) {
            self.bytes -= frame.bytes.len();
            self.volatile -= 1;
        }
        true
    }

    fn pop(&mut self, done: &mut Written) -> Option<Bytes> {
        let frame = self.frames.pop_front()?;
        self.bytes -= frame.bytes.len();
        self.started = false;
        match frame.class {
            Class::Control => {}
            Class::Volatile => {
                self.volatile -= 1;
                done.volatile += 1;
            }
            Class::Reliable { position, mailbox } => {
                done.reliable += 1;
                if mailbox {
                    done.mailbox = Some(position);
                }
            }
        }
        Some(frame.bytes)
    }

    fn release(&mut self) {
        // an allocation is nothing beside the write that follows it, and most connections are idle
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: OutboxLimits = OutboxLimits { frames_max: 4, bytes_max: 40 };

    fn frame(class: Class, length: usize) -> Frame {
        Frame { bytes: Bytes::from(vec![b'x'; length]), class }
    }

    fn reliable(position: u64) -> Class {
        Class::Reliable { position: Position(position), mailbox: false }
    }

    #[test]
    fn a_volatile_frame_pushes_out_the_oldest_volatile_one() {
        let mut outbox = Outbox::default();
        for _ in 0..4 {
            assert_eq!(outbox.push(frame(Class::Volatile, 5), &LIMITS), Pushed::Queued);
        }
        assert_eq!(outbox.push(frame(Class::Volatile, 5), &LIMITS), Pushed::Evicted(1));
        assert_eq!(outbox.push(frame(reliable(1), 25), &LIMITS), Pushed::Evicted(1));
        assert_eq!(outbox.frames.len(), 4);
    }

    #[test]
    fn a_reliable_frame_is_never_pushed_out() {
        let mut outbox = Outbox::default();
        for position in 1..=4 {
            assert_eq!(outbox.push(frame(reliable(position), 5), &LIMITS), Pushed::Queued);
        }
        assert_eq!(outbox.push(frame(Class::Volatile, 5), &LIMITS), Pushed::Dropped);
        assert_eq!(outbox.push(frame(reliable(5), 5), &LIMITS), Pushed::Full);
        assert_eq!(outbox.push(frame(Class::Control, 5), &LIMITS), Pushed::Queued);
        assert_eq!(outbox.advance(25).reliable, 4);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_partly_written_frame_is_not_dropped() {
        let mut outbox = Outbox::default();
        for _ in 0..4 {
            outbox.push(frame(Class::Volatile, 10), &LIMITS);
        }
        assert_eq!(outbox.advance(3), Written::default());
        assert_eq!(outbox.push(frame(Class::Volatile, 10), &LIMITS), Pushed::Evicted(1));
        assert_eq!(outbox.frames[0].bytes.len(), 7);
        assert_eq!(outbox.advance(7).volatile, 1);
    }

    #[test]
    fn a_frame_larger_than_the_bound_goes_alone() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(frame(reliable(1), 100), &LIMITS), Pushed::Queued);
        assert_eq!(outbox.push(frame(reliable(2), 1), &LIMITS), Pushed::Full);
    }

    #[test]
    fn replies_to_a_client_that_does_not_read_are_bounded() {
        let mut outbox = Outbox::default();
        let queued =
            (0..100).filter(|_| outbox.push(frame(Class::Control, 1), &LIMITS) == Pushed::Queued).count();
        assert_eq!(queued, LIMITS.frames_max * CONTROL_FACTOR);
    }

    proptest! {
        #[test]
        fn stays_within_its_bound_and_loses_no_reliable_frame_silently(
            steps in prop::collection::vec((0..4u8, 1..20usize), 1..200)
        ) {
            let mut outbox = Outbox::default();
            let (mut position, mut accepted, mut written) = (0, 0, 0);
            for (kind, length) in steps {
                match kind {
                    0 => {
                        outbox.push(frame(Class::Volatile, length), &LIMITS);
                    }
                    1 => {
                        position += 1;
                        accepted += u64::from(outbox.push(frame(reliable(position), length), &LIMITS) != Pushed::Full);
                    }
                    2 => written += outbox.advance(length.min(outbox.bytes)).reliable,
                    _ => written += outbox.take(3, length).1.reliable,
                }
                prop_assert!(outbox.frames.len() <= LIMITS.frames_max);
                prop_assert!(outbox.bytes <= LIMITS.bytes_max || outbox.frames.len() == 1);
                prop_assert_eq!(outbox.bytes, outbox.frames.iter().map(|f| f.bytes.len()).sum::<usize>());
                let volatile = outbox.frames.iter().filter(|f| f.class == Class::Volatile).count();
                prop_assert_eq!(outbox.volatile, volatile);
            }
            let queued = outbox.frames.iter().filter(|f| matches!(f.class, Class::Reliable { .. })).count() as u64;
            prop_assert_eq!(accepted, written + queued);
        }
    }
}
