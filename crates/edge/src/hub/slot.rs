//! One connection as its shard keeps it, and the rule by which it takes a message: now, later, or not at all.

use std::sync::Arc;

use herald_wire::{Position, Target};
use tokio::sync::oneshot;

use super::outbox::{Class, Frame, Outbox, OutboxLimits, Pushed};
use super::sink::Sink;
use super::{Begin, Connection, Page, PageDone};
use crate::delivery::{Delivery, Encoding};

/// A channel that the connection is subscribed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) channel: u32,
    /// Where in the channel's list of subscribers it stands.
    pub(crate) index: u32,
    /// Nothing up to here is due to the connection: it came before it joined, or the connection has it.
    pub(crate) floor: Position,
}

/// Messages with several targets whose numbers a connection remembers, so that it gets each once.
const COPIES_REMEMBERED: usize = 32;

pub(crate) struct Slot {
    pub(crate) connection: Arc<Connection>,
    pub(crate) encoding: Encoding,
    pub(crate) sink: Sink,
    pub(crate) outbox: Outbox,
    pub(crate) memberships: Vec<Membership>,
    /// Its own socketId's target, and the last position written of it.
    pub(crate) mailbox: Option<Target>,
    pub(crate) mailbox_written: Option<Position>,
    /// The last reliable position queued.
    position: Position,
    /// The connection has, or is not due, nothing beyond this: only up to here can a message be known to it.
    known: Position,
    /// Its client says itself what it has: what is written of its mailbox does not count.
    pub(crate) explicit_acks: bool,
    /// Its sink takes no more for now.
    pub(crate) blocked: bool,
    touched: [bool; 2],
    /// `None`: it follows the live feed.
    lags: Option<Box<Lags>>,
    copies: Option<Box<Copies>>,
}

/// Of a connection whose reliable messages are read from the logs instead.
#[derive(Debug, Default)]
struct Lags {
    stage: Stage,
    /// Targets to be read from elsewhere than where the connection stands, by the next catch-up.
    from: Vec<Begin>,
    /// Live frames held back while the end of the logs is read.
    held: Vec<(Target, OneOfCopies)>,
    /// The catch-up to tell when there is room for more.
    waiting: Option<(oneshot::Sender<PageDone>, PageDone)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The outbox still drains.
    #[default]
    Draining,
    /// A catch-up reads.
    Reading,
    /// A catch-up reads what may be the end: live frames are held back.
    Holding,
}

/// A frame, and the number that it shares with its copies for other targets; 0: there are none.
#[derive(Clone, Debug)]
pub(crate) struct OneOfCopies {
    pub(crate) copies_id: u64,
    pub(crate) frame: Frame,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    Queued {
        evicted: usize,
    },
    /// Volatile, and no room.
    Dropped,
    /// Reliable, and no room: the connection lags from here on.
    Lags,
    /// Reliable: the log will bring it, or it is held back.
    Later,
    /// The connection has it already.
    Known,
}

impl Slot {
    pub(crate) fn new(connection: Arc<Connection>, encoding: Encoding, sink: Sink) -> Self {
        Self {
            connection,
            encoding,
            sink,
            outbox: Outbox::default(),
            memberships: Vec::new(),
            mailbox: None,
            mailbox_written: None,
            position: Position::ZERO,
            known: Position::ZERO,
            explicit_acks: false,
            blocked: false,
            touched: [false; 2],
            lags: None,
            copies: None,
        }
    }

    /// Marks the outbox as waiting in this dirty queue; false when it was already.
    pub(crate) fn touch(&mut self, queue: usize) -> bool {
        !std::mem::replace(&mut self.touched[queue], true)
    }

    /// The opposite of [`Slot::touch`].
    pub(crate) fn untouch(&mut self, queue: usize) -> bool {
        std::mem::replace(&mut self.touched[queue], false)
    }

    /// Takes a message that the live feed brought for one of its channels.
    pub(crate) fn admit(&mut self, delivery: &Delivery, channel: u32, limits: &OutboxLimits) -> Admitted {
        let class = self.class(delivery);
        if let Some(lags) = &mut self.lags {
            return lags.admit(delivery, self.encoding, class, limits);
        }
        if self.has(class, channel) {
            return Admitted::Known;
        }
        if self.has_copy(delivery.copies_id) {
            self.queued(class, 0);
            return Admitted::Known;
        }
        match self.outbox.push(Frame { bytes: delivery.frame(self.encoding), class }, limits) {
            Pushed::Queued => self.queued(class, 0),
            Pushed::Evicted(evicted) => self.queued(class, evicted),
            Pushed::Dropped => Admitted::Dropped,
            Pushed::Full => {
                if let Some(copies) = &mut self.copies {
                    copies.forget(delivery.copies_id);
                }
                self.lags = Some(Box::default());
                if let Class::Reliable { position, .. } = class
                    && position <= self.position
                {
                    // one that comes late: the connection stands behind it already
                    let after = Position(position.0 - 1);
                    self.lag_from(vec![Begin { target: delivery.target.clone(), after, joined: after }]);
                }
                Admitted::Lags
            }
        }
    }

    /// From now on its reliable messages are read from the logs: of these targets from there, of others from where it
    /// stands.
    pub(crate) fn lag_from(&mut self, from: Vec<Begin>) {
        self.lags.get_or_insert_default().from.extend(from);
    }

    /// A catch-up begins to read what may be the end: from now on live frames are held back. Returns how many volatile
    /// ones, held back before, are dropped. `None`: the connection is live.
    pub(crate) fn hold(&mut self) -> Option<usize> {
        let lags = self.lags.as_mut()?;
        lags.stage = Stage::Holding;
        Some(lags.held.drain(..).filter(|(_, held)| held.frame.class == Class::Volatile).count())
    }

    /// From where this target's log is to be read, unless a catch-up got further already.
    pub(crate) fn begin(&mut self, target: &Target, stands: Position) -> Begin {
        let given = self.lags.as_mut().and_then(|lags| {
            let at = lags.from.iter().position(|begin| begin.target == *target)?;
            Some(lags.from.swap_remove(at))
        });
        given.unwrap_or_else(|| Begin { target: target.clone(), after: stands, joined: stands })
    }

    /// Nothing up to `floor` is due of this membership.
    pub(crate) fn set_floor(&mut self, at: usize, floor: Position) {
        self.memberships[at].floor = floor;
        self.known = self.known.max(floor);
    }

    /// The connection has this channel's messages up to `position`.
    pub(crate) fn move_floor(&mut self, channel: u32, position: Position) {
        if let Some(membership) = self.memberships.iter_mut().find(|m| m.channel == channel) {
            membership.floor = membership.floor.max(position);
        }
    }

    /// The channel's positions begin anew behind `position`. False: a catch-up reads on from where they were.
    pub(crate) fn begin_anew(&mut self, channel: u32, position: Position) -> bool {
        for membership in self.memberships.iter_mut().filter(|m| m.channel == channel) {
            membership.floor = membership.floor.min(position);
        }
        self.position = self.position.min(position);
        self.lags.is_none()
    }

    /// The last reliable position queued, by any channel.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Takes what a catch-up read. `Some` when the connection is live again: what it has of each target.
    pub(crate) fn page(
        &mut self,
        page: Page,
        done: oneshot::Sender<PageDone>,
        limits: &OutboxLimits,
    ) -> Option<Vec<(Target, Position)>> {
        for one in page.frames {
            self.append(one);
        }
        let lags = self.lags.as_mut()?;
        let answer = match page.reached {
            None => PageDone::Continue,
            // too much was held back, or another target joined that the catch-up has not read
            Some(_) if lags.stage != Stage::Holding || !lags.from.is_empty() => PageDone::Continue,
            Some(mut reached) => {
                let held = std::mem::take(&mut lags.held);
                self.lags = None;
                for (target, one) in held {
                    if reach(&mut reached, &target, &one.frame) {
                        self.append(one);
                    }
                }
                let _ = done.send(PageDone::Live);
                return Some(reached);
            }
        };
        if self.outbox.bytes() < limits.bytes_max / 2 {
            // a catch-up whose task is gone is no reason to fail
            let _ = done.send(answer);
        } else {
            lags.waiting = Some((done, answer));
        }
        None
    }

    /// The outbox is empty: tells the catch-up that waits for room. True when it is time for one to begin.
    pub(crate) fn drained(&mut self) -> bool {
        let Some(lags) = self.lags.as_mut() else { return false };
        if let Some((waiting, answer)) = lags.waiting.take() {
            let _ = waiting.send(answer);
        }
        let begins = lags.stage == Stage::Draining;
        if begins {
            lags.stage = Stage::Reading;
        }
        begins
    }

    /// Whether the connection was given this message by its log.
    fn has(&self, class: Class, channel: u32) -> bool {
        let Class::Reliable { position, .. } = class else { return false };
        // beyond all it knows is the rule; otherwise its floor decides
        position <= self.known && self.memberships.iter().any(|m| m.channel == channel && position <= m.floor)
    }

    /// Whether it was given a message of this number, by whatever target; from now on it was.
    fn has_copy(&mut self, copies_id: u64) -> bool {
        copies_id != 0 && self.copies.get_or_insert_default().knows(copies_id)
    }

    fn append(&mut self, one: OneOfCopies) {
        self.queued(one.frame.class, 0);
        if !self.has_copy(one.copies_id) {
            self.outbox.append(one.frame);
        }
    }

    fn queued(&mut self, class: Class, evicted: usize) -> Admitted {
        if let Class::Reliable { position, .. } = class {
            self.position = self.position.max(position);
            self.known = self.known.max(position);
        }
        Admitted::Queued { evicted }
    }

    fn class(&self, delivery: &Delivery) -> Class {
        match delivery.place {
            None if delivery.is_gap() => Class::Control,
            None => Class::Volatile,
            Some(place) => Class::Reliable {
                position: place.position,
                mailbox: self.mailbox.as_ref() == Some(&delivery.target),
            },
        }
    }
}

impl Lags {
    fn admit(
        &mut self,
        delivery: &Delivery,
        encoding: Encoding,
        class: Class,
        limits: &OutboxLimits,
    ) -> Admitted {
        if self.stage != Stage::Holding {
            return if class == Class::Volatile { Admitted::Dropped } else { Admitted::Later };
        }
        if self.held.len() >= limits.frames_max {
            if class == Class::Volatile {
                return Admitted::Dropped;
            }
            // too much to hold back: the catch-up reads on instead
            self.held.clear();
            self.stage = Stage::Reading;
            return Admitted::Later;
        }
        let frame = Frame { bytes: delivery.frame(encoding), class };
        self.held.push((delivery.target.clone(), OneOfCopies { copies_id: delivery.copies_id, frame }));
        Admitted::Later
    }
}

/// Whether a frame that was held back stands beyond what was reached of its target; that is reached too then.
fn reach(reached: &mut [(Target, Position)], target: &Target, frame: &Frame) -> bool {
    let Class::Reliable { position, .. } = frame.class else { return true };
    let Some((_, upto)) = reached.iter_mut().find(|(t, _)| t == target) else { return true };
    let is_beyond = position > *upto;
    *upto = position.max(*upto);
    is_beyond
}

/// The numbers of the last messages with several targets.
#[derive(Debug, Default)]
struct Copies {
    ids: [u64; COPIES_REMEMBERED],
    next: usize,
}

impl Copies {
    /// Whether it was here before; it is from now on.
    fn knows(&mut self, id: u64) -> bool {
        if self.ids.contains(&id) {
            return true;
        }
        self.ids[self.next] = id;
        self.next = (self.next + 1) % COPIES_REMEMBERED;
        false
    }

    fn forget(&mut self, id: u64) {
        for known in &mut self.ids {
            if *known == id {
                *known = 0;
            }
        }
    }
}
