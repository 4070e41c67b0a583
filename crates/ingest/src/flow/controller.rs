//! How many messages may be on their way from ingest to the sockets: the window, moved by pressure as congestion
//! control moves a TCP window. Pure: time and readings go in, a window and a pace come out.
//!
//! Redis answers in a millisecond however far the edges are behind, so a bound on what is unacknowledged alone would
//! let thousands of messages a second into a machine that is drowning. What is bounded is therefore what was handed to
//! Redis and that nobody can yet have reported on: a message counts for [`HORIZON`], the time that word of it takes to
//! come back, and for as long as the worst edge is late. That is the pace `window / (HORIZON + lateness)`: it falls by
//! itself while an edge falls behind, before the window has moved (what TCP calls self-clocking), and it is what makes
//! the loop stable; the window then finds the level at which the lateness stays below its target.
//!
//! - **Increase** is additive and only while the window held something back. It is the same for every replica, whatever
//!   its share, so that shares become equal; and it doubles every [`STEP_DOUBLES`] since the last cut, so that a
//!   machine of any size is filled within seconds. Until its first cut a replica grows by a factor instead. The nearer
//!   the lateness is to its target, the smaller the step.
//! - **Decrease** is multiplicative, to what makes the worst edge three quarters of the target late, never by more than
//!   half at once, and not again before its effect can be seen.
//! - **Tolerance**: some lateness is no queue. A pass over ten thousand sockets takes a busy machine what it takes,
//!   however few messages it carries; fewer of them would only make each dearer. So where cuts have halved the window and
//!   the lateness is what it was, they are taken back and that lateness is tolerated, up to [`TOLERANCE_MAX`] targets,
//!   for [`TOLERATED_FOR`]; then it is tried again.
//! - What a window allows and nobody used is no knowledge: one that held nothing back is cut to what was used, and one
//!   that is not used shrinks to twice that.
//! - While nobody says how the edges are, the window stands still at what was last used, or at [`START`].
//!
//! The constants were found by closing the loop in a simulation (`tests`), over machines that take from 60 to 60,000
//! messages a second and reports that take from 50 to 200 ms.

use std::time::{Duration, Instant};

/// The smallest window: one message must always be able to pass, or nothing would ever widen it again.
pub const WINDOW_MIN: f64 = 1.0;
/// The widest: 260,000 messages a second on idle edges, more than one Redis takes, hence no bound at all.
pub const WINDOW_MAX: f64 = 65_536.0;
/// The first window, and the least that is kept while unused or blind: 1,000 messages a second.
pub const START: f64 = 256.0;
/// A cut leaves this much to a replica that was not held back: whose fault it is not keeps a start for when it has
/// something to say.
const IDLE_MIN: f64 = 64.0;
/// How long it takes until what an edge suffers from a message is known here: up to 100 ms until it reports, 50 ms until
/// the registry looks, 100 ms until the next step.
pub const HORIZON: Duration = Duration::from_millis(250);
/// Additive increase for each horizon, in messages, right after a cut ...
const STEP: f64 = 4.0;
/// ... and how soon it doubles: whatever the edges can take, they are asked for it within seconds.
const STEP_DOUBLES: Duration = Duration::from_millis(500);
/// The most that the window grows by in one horizon, as a factor.
const GROWTH_MAX: f64 = 1.25;
/// Growth for each horizon until the first cut.
const GROWTH_FIRST: f64 = 1.5;
/// What is left of a step when the lateness is at its target: the nearer, the smaller.
const HEADROOM_MIN: f64 = 0.1;
/// What a cut aims at, as a part of the target.
const AIM: f64 = 0.75;
/// The most that one cut takes.
const CUT_MAX: f64 = 0.5;
/// What a cut leaves when something is full that is not late yet.
const CUT_FULL: f64 = 0.7;
/// The most lateness that is tolerated because cuts do not shorten it, in targets.
pub const TOLERANCE_MAX: f64 = 3.0;
/// A cut window shows whether cutting helps when this much is left of it ...
const TRIED: f64 = 0.5;
/// ... and it does not when this much is left of the lateness.
const IN_VAIN: f64 = 0.8;
/// Cuts that come no later after the last one are tried together.
const TRIAL_FOR: Duration = Duration::from_secs(5);
/// What is tolerated beyond the lateness that was not shortened, as a factor: room to find the window that fits.
const TOLERANCE_ROOM: f64 = 1.25;
/// Then it is tried again whether cuts help.
const TOLERATED_FOR: Duration = Duration::from_secs(30);
/// Fuller than this, an edge's own queue behind its hub's fills: it will be late.
pub const FULL_PERMILLE: u32 = 500;
/// An output buffer of Redis larger than this shows that a subscriber falls behind: an eighth of what Redis tolerates
/// for a minute, and nothing that a healthy subscriber leaves standing.
pub const BACKLOG_BYTES: u64 = 1 << 20;
/// What an answer of Redis may take before the rest counts as lateness. A batch is a few milliseconds, and one is on its
/// way at a time: it is Redis, its disk or the network that stand still, not a queue of ours.
const REDIS_ALLOWED: Duration = Duration::from_millis(100);
/// Over how long the use of the window is averaged.
const USE_AVERAGED: Duration = Duration::from_millis(500);
/// An unused window shrinks by `1/e` in this time.
const UNUSED_FOR: Duration = Duration::from_secs(20);
/// Pressure is over when nothing was held back for this long.
pub const RELIEF: Duration = Duration::from_secs(1);
/// Steps that come later than this after the last count as if they had not.
const STEP_MAX: Duration = Duration::from_secs(1);

/// How the way behind ingest is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// The worst edge; `None` when nobody says.
    pub edges: Option<Edges>,
    /// The slowest answer of Redis to a batch since the last step.
    pub redis_latency: Duration,
    /// The longest that a message stayed in this ingest, of those published since the last step.
    pub stay: Duration,
    /// The largest output buffer of a live subscriber on Redis.
    pub backlog_bytes: u64,
}

/// How the worst edge is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// How long a message takes from Redis to the sockets.
    pub lateness: Duration,
    /// How full the queues between are.
    pub fullness_permille: u32,
}

/// What was done with the window since the last step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Publications.
    pub spent: f64,
    /// Whether there was a moment without room.
    pub held_back: bool,
}

/// What the window was cut for, or stands still for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An edge is late.
    EdgeLate,
    /// An edge's queues are full.
    EdgeFull,
    /// Redis answers late.
    RedisSlow,
    /// Redis holds much back for a subscriber.
    RedisBacklog,
    /// Nobody says how the edges are.
    Blind,
    /// This ingest itself, or Redis' share of the machine, takes no more: no reason to be slower still, but messages
    /// wait.
    IngestBusy,
}

impl Cause {
    /// All of them, for metrics.
    pub const ALL: [Self; 6] =
        [Self::EdgeLate, Self::EdgeFull, Self::RedisSlow, Self::RedisBacklog, Self::Blind, Self::IngestBusy];

    /// For metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::EdgeLate => "edge_late",
            Self::EdgeFull => "edge_full",
            Self::RedisSlow => "redis_slow",
            Self::RedisBacklog => "redis_backlog",
            Self::Blind => "registry_away",
            Self::IngestBusy => "ingest_busy",
        }
    }
}

/// What came of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stepped {
    /// What is too late or too full.
    pub congested: Option<Cause>,
    /// Whether the window was made smaller for it.
    pub cut: bool,
}

/// Moves the window.
#[derive(Clone, Debug)]
pub struct Controller {
    target: Duration,
    window: f64,
    /// How late a message is behind ingest, as last read.
    delay: Duration,
    /// How late it may be: the target, or more where cuts did not help.
    tolerated: Duration,
    tolerated_at: Option<Instant>,
    trial: Option<Trial>,
    /// Publications a second, averaged.
    used: f64,
    stepped_at: Option<Instant>,
    cut_at: Option<Instant>,
    /// While nobody says how the edges are.
    ceiling: Option<f64>,
    pressed: Option<Cause>,
    held_back_at: Option<Instant>,
    /// When a message last stayed here for too long.
    busy_at: Option<Instant>,
}

/// Cuts one after the other: do they help?
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Before the first of them.
    window: f64,
    delay: Duration,
    congested_at: Instant,
}

impl Controller {
    /// Begins with [`START`]. `target`: how late the worst edge may be.
    pub fn new(target: Duration) -> Self {
        Self {
            target,
            window: START,
            delay: Duration::ZERO,
            tolerated: target,
            tolerated_at: None,
            trial: None,
            used: 0.0,
            stepped_at: None,
            cut_at: None,
            ceiling: None,
            pressed: None,
            held_back_at: None,
            busy_at: None,
        }
    }

    /// How many messages may be on their way.
    pub fn window(&self) -> f64 {
        self.window
    }

    /// How many may be published in a second, in the long run.
    pub fn pace(&self) -> f64 {
        self.window / (HORIZON + self.delay).as_secs_f64()
    }

    /// How late the worst edge may be: the target, or more where a slower pace did not make it less late.
    pub fn tolerated(&self) -> Duration {
        self.tolerated
    }

    /// How many were published a second of late.
    pub fn used(&self) -> f64 {
        self.used
    }

    /// How many may be published at once, after quiet.
    pub fn burst(&self) -> f64 {
        (self.window / 2.0).max(WINDOW_MIN)
    }

    /// What holds messages back; `None` when nothing does.
    pub fn pressed(&self) -> Option<Cause> {
        self.pressed
    }

    /// Takes in what is known now.
    pub fn step(&mut self, now: Instant, readings: &Readings, usage: Usage) -> Stepped {
        let elapsed = self.stepped_at.map_or(Duration::ZERO, |at| now.duration_since(at)).min(STEP_MAX);
        self.stepped_at = Some(now);
        self.note_use(now, elapsed, usage);
        self.delay = readings.delay();
        self.heed_blindness(readings);
        self.end_tolerance(now);
        let congested = readings.congested(self.tolerated);
        let cut = congested.is_some() && self.cut(now, usage.held_back);
        if congested.is_none() {
            self.move_freely(now, elapsed, usage.held_back);
        }
        self.window = self.window.clamp(WINDOW_MIN, self.ceiling.unwrap_or(WINDOW_MAX));
        self.note_pressure(now, readings, congested);
        Stepped { congested, cut }
    }

    fn note_use(&mut self, now: Instant, elapsed: Duration, usage: Usage) {
        if usage.held_back {
            self.held_back_at = Some(now);
        }
        if !elapsed.is_zero() {
            let weight = 1.0 - (-elapsed.as_secs_f64() / USE_AVERAGED.as_secs_f64()).exp();
            self.used += (usage.spent / elapsed.as_secs_f64() - self.used) * weight;
        }
    }

    /// The window that the traffic of late needs.
    fn used_window(&self) -> f64 {
        self.used * (HORIZON + self.delay).as_secs_f64()
    }

    fn heed_blindness(&mut self, readings: &Readings) {
        match (readings.edges, self.ceiling) {
            (None, None) => self.ceiling = Some(self.used_window().max(START).min(self.window.max(START))),
            (Some(_), Some(_)) => self.ceiling = None,
            _ => {}
        }
    }

    /// False when the last cut cannot have shown its effect yet.
    fn cut(&mut self, now: Instant, held_back: bool) -> bool {
        let settles = HORIZON + self.delay;
        if self.cut_at.is_some_and(|at| now.duration_since(at) < settles) {
            return false;
        }
        self.cut_at = Some(now);
        if held_back && self.delay > self.tolerated && self.cutting_is_vain(now) {
            return false;
        }
        let aim = (HORIZON + self.tolerated.mul_f64(AIM)).as_secs_f64() / settles.as_secs_f64();
        let factor = if self.delay > self.tolerated { aim.max(CUT_MAX) } else { CUT_FULL };
        let used = if held_back { self.window } else { self.used_window().max(IDLE_MIN) };
        let base = self.window.min(used);
        self.window = if held_back { base * factor } else { base };
        true
    }

    /// Notes that a cut is due. True when those before did not help: they are taken back, and the lateness is tolerated.
    fn cutting_is_vain(&mut self, now: Instant) -> bool {
        let new = Trial { window: self.window, delay: self.delay, congested_at: now };
        let trial = self.trial.get_or_insert(new);
        trial.congested_at = now;
        let left = self.delay.as_secs_f64() / trial.delay.as_secs_f64();
        let is_tried = self.window <= trial.window * TRIED;
        let helped = is_tried && left < IN_VAIN;
        if helped || left > 1.0 / IN_VAIN {
            *trial = new;
            return false;
        }
        let most = self.target.mul_f64(TOLERANCE_MAX);
        if !is_tried || self.delay > most {
            return false;
        }
        self.window = trial.window;
        self.tolerated = self.delay.mul_f64(TOLERANCE_ROOM).min(most);
        (self.tolerated_at, self.trial) = (Some(now), None);
        true
    }

    fn end_tolerance(&mut self, now: Instant) {
        if self.tolerated_at.is_some_and(|at| now.duration_since(at) >= TOLERATED_FOR) {
            (self.tolerated, self.tolerated_at) = (self.target, None);
        }
        self.trial = self.trial.filter(|trial| now.duration_since(trial.congested_at) < TRIAL_FOR);
    }

    fn move_freely(&mut self, now: Instant, elapsed: Duration, held_back: bool) {
        let needed = (2.0 * self.used_window()).max(START);
        if held_back || self.window < needed {
            self.window += self.step_of(now) * elapsed.as_secs_f64() / HORIZON.as_secs_f64();
        } else {
            let keep = (-elapsed.as_secs_f64() / UNUSED_FOR.as_secs_f64()).exp();
            self.window = needed + (self.window - needed) * keep;
        }
    }

    /// By how much the window grows in one horizon.
    fn step_of(&self, now: Instant) -> f64 {
        let step = match self.cut_at {
            None => self.window * (GROWTH_FIRST - 1.0),
            Some(at) => {
                let doublings = now.duration_since(at).as_secs_f64() / STEP_DOUBLES.as_secs_f64();
                (STEP * doublings.exp2()).min(self.window * (GROWTH_MAX - 1.0))
            }
        };
        let headroom = 1.0 - self.delay.as_secs_f64() / self.tolerated.as_secs_f64();
        step * headroom.max(HEADROOM_MIN)
    }

    fn note_pressure(&mut self, now: Instant, readings: &Readings, congested: Option<Cause>) {
        let holding = self.held_back_at.is_some_and(|at| now.duration_since(at) < RELIEF);
        let blind = self.ceiling.filter(|_| holding).map(|_| Cause::Blind);
        if readings.stay > self.target {
            self.busy_at = Some(now);
        }
        let busy = self.busy_at.filter(|at| now.duration_since(*at) < RELIEF).map(|_| Cause::IngestBusy);
        let still = self.pressed.filter(|cause| holding && *cause != Cause::IngestBusy);
        self.pressed = congested.or(still).or(busy).or(blind);
    }
}

impl Readings {
    fn delay(&self) -> Duration {
        self.edges.map_or(Duration::ZERO, |edges| edges.lateness).max(self.redis_lateness())
    }

    fn redis_lateness(&self) -> Duration {
        self.redis_latency.saturating_sub(REDIS_ALLOWED)
    }

    /// What is worst, if something is bad.
    fn congested(&self, target: Duration) -> Option<Cause> {
        let edges = self.edges.unwrap_or_default();
        if self.delay() > target {
            let edge = edges.lateness >= self.redis_lateness();
            return Some(if edge { Cause::EdgeLate } else { Cause::RedisSlow });
        }
        if edges.fullness_permille > FULL_PERMILLE {
            return Some(Cause::EdgeFull);
        }
        (self.backlog_bytes > BACKLOG_BYTES).then_some(Cause::RedisBacklog)
    }
}

#[cfg(test)]
mod tests;
