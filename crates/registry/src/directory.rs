//! Who owns each socketId and which edges stand: the conflict rule and the leases. Pure: `now_ms` goes in, effects come
//! out. No I/O, no clock, no gRPC service. `store/scripts/*.lua` say the same to Redis, and one test suite holds both.
//!
//! The rules:
//! - the newest claim wins, `since = now − age`; of two with the same `since` the later arrival;
//! - the same edge and connection claiming again keep their `since`;
//! - a release drops only what that edge and connection still hold;
//! - an edge whose lease ended owns nothing;
//! - every attach gets a higher number than the one before: what was claimed under a lower number and not repeated is
//!   forgotten a lease later, and what an older stream still says is refused.

use std::collections::{BTreeMap, HashMap};

use herald_wire::registry::{Claim, Edge, Evict, Heartbeat, Location, Pressure, Release};

#[cfg(test)]
mod tests;

/// One stay of an edge at a registry: from Hello to the stream's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Who is attached.
    pub edge_id: String,
    /// Which of its stays this is: microseconds since the Unix epoch at the attach, or one more than the last.
    pub number: u64,
}

/// The lease ended, or the edge attached anew: this stay's word counts no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced;

/// A socketId on one of an edge's connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hold {
    /// What is held.
    pub socket_id: String,
    /// Which connection holds it.
    pub connection: u64,
}

/// Somebody lost a socketId and must be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Eviction {
    /// The edge to tell.
    pub edge_id: String,
    /// What to tell it.
    pub evict: Evict,
}

impl Eviction {
    /// `hold` of `edge_id` was lost to `by_edge_id`.
    pub fn new(edge_id: &str, hold: Hold, by_edge_id: &str) -> Self {
        let Hold { socket_id, connection } = hold;
        let evict = Evict { socket_id, connection, by_edge_id: by_edge_id.to_owned() };
        Self { edge_id: edge_id.to_owned(), evict }
    }
}

/// Who owns a socketId.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The edge.
    pub edge_id: String,
    /// Its connection.
    pub connection: u64,
    /// When the client registered, by the directory's clock.
    pub since_ms: u64,
    /// The stay under which the edge said so last.
    pub attachment: u64,
}

/// What becomes of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It holds it already.
    Kept,
    /// Nobody held it.
    Taken,
    /// It is newer than the owner.
    Won,
    /// The owner is newer.
    Lost,
}

/// The conflict rule. `held` is the owner, if its edge's lease stands.
pub fn rule(held: Option<&Owner>, claim: &Owner) -> Ruling {
    match held {
        None => Ruling::Taken,
        Some(held) if held.edge_id == claim.edge_id && held.connection == claim.connection => Ruling::Kept,
        Some(held) if held.since_ms > claim.since_ms => Ruling::Lost,
        Some(_) => Ruling::Won,
    }
}

/// What came of comparing an edge's claims with the owners. See [`Directory::audit`].
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Lost to another, and not told yet.
    pub(crate) untold: Vec<Eviction>,
    // nobody owns these: their record was lost, or went with the edge that had won them
    ownerless: Vec<Hold>,
}

impl Audit {
    /// Compares one; `owner` tells who owns a socketId, if that edge's lease stands.
    pub(crate) fn compare<'o>(
        &mut self,
        by: &Attachment,
        hold: Hold,
        owner: impl FnOnce(&str) -> Option<&'o Owner>,
    ) {
        match owner(&hold.socket_id) {
            None => self.ownerless.push(hold),
            Some(owner) if owner.edge_id == by.edge_id && owner.connection == hold.connection => {}
            Some(owner) => self.untold.push(Eviction::new(&by.edge_id, hold, &owner.edge_id)),
        }
    }

    /// What to claim again. When the client registered is lost; the attach is the nearest known time before.
    pub(crate) fn ownerless(&mut self, now_ms: u64, by: &Attachment) -> Vec<Claim> {
        let age_ms = now_ms.saturating_sub(by.number / 1_000);
        let claim = |Hold { socket_id, connection }| Claim { socket_id, connection, age_ms };
        // of two connections with one socketId the higher is the later, and wins the tie
        self.ownerless.sort();
        self.ownerless.drain(..).map(claim).collect()
    }
}

/// All owners and all edges. Memory grows with claims; [`sweep`](Self::sweep) gives back what dead edges left.
#[derive(Debug)]
pub struct Directory {
    lease_ms: u64,
    owners: HashMap<String, Owner>,
    edges: BTreeMap<String, Attached>,
}

#[derive(Debug)]
struct Attached {
    attachment: u64,
    lease_ends_ms: u64,
    vitals: Edge,
    // what this edge claims, by the stay under which it said so last
    claims: HashMap<Hold, u64>,
}

impl Attached {
    fn stands(&self, now_ms: u64) -> bool {
        self.lease_ends_ms > now_ms
    }
}

impl Directory {
    /// An empty one whose leases last `lease_ms`.
    pub fn new(lease_ms: u64) -> Self {
        Self { lease_ms, owners: HashMap::new(), edges: BTreeMap::new() }
    }

    /// An edge says hello: its lease starts, and any earlier stay of it counts no more.
    pub fn attach(&mut self, now_ms: u64, edge_id: &str, address: &str) -> Attachment {
        let edge = self.edges.entry(edge_id.to_owned()).or_insert_with(|| Attached {
            attachment: 0,
            lease_ends_ms: 0,
            vitals: Edge { edge_id: edge_id.to_owned(), ..Edge::default() },
            claims: HashMap::new(),
        });
        edge.attachment = now_ms.saturating_mul(1_000).max(edge.attachment + 1);
        edge.lease_ends_ms = now_ms + self.lease_ms;
        address.clone_into(&mut edge.vitals.address);
        edge.vitals.pressure.get_or_insert_with(|| pressure_of(edge_id, &Heartbeat::default()));
        Attachment { edge_id: edge_id.to_owned(), number: edge.attachment }
    }

    /// Renews the lease.
    pub fn heartbeat(&mut self, now_ms: u64, by: &Attachment, beat: &Heartbeat) -> Result<(), Fenced> {
        let edge = self.renew(now_ms, by)?;
        edge.vitals.connections = beat.connections;
        edge.vitals.sessions = beat.sessions;
        edge.vitals.pressure = Some(pressure_of(&by.edge_id, beat));
        Ok(())
    }

    /// Rules on claims, in order; returns who lost what. The claimant itself may be among them. Renews the lease.
    pub fn claim(&mut self, now_ms: u64, by: &Attachment, claims: &[Claim]) -> Result<Vec<Eviction>, Fenced> {
        self.renew(now_ms, by)?;
        self.claim_all(now_ms, by, claims)
    }

    fn claim_all(&mut self, now_ms: u64, by: &Attachment, claims: &[Claim]) -> Result<Vec<Eviction>, Fenced> {
        let edge = self.attached(now_ms, by)?;
        edge.claims.extend(claims.iter().map(|claim| (hold(&claim.socket_id, claim.connection), by.number)));
        let ruled = claims.iter().filter_map(|claim| self.claim_one(now_ms, by, claim));
        Ok(ruled.collect())
    }

    fn claim_one(&mut self, now_ms: u64, by: &Attachment, claim: &Claim) -> Option<Eviction> {
        let mut new = Owner {
            edge_id: by.edge_id.clone(),
            connection: claim.connection,
            since_ms: now_ms.saturating_sub(claim.age_ms),
            attachment: by.number,
        };
        let held = self.standing_owner(now_ms, &claim.socket_id);
        let eviction = match (rule(held, &new), held) {
            (Ruling::Kept, Some(held)) => {
                new.since_ms = held.since_ms;
                new.attachment = held.attachment.max(by.number);
                None
            }
            (Ruling::Lost, Some(held)) => {
                let lost = hold(&claim.socket_id, claim.connection);
                return Some(Eviction::new(&by.edge_id, lost, &held.edge_id));
            }
            (Ruling::Won, Some(held)) => {
                let lost = hold(&claim.socket_id, held.connection);
                Some(Eviction::new(&held.edge_id, lost, &by.edge_id))
            }
            _ => None,
        };
        self.owners.insert(claim.socket_id.clone(), new);
        eviction
    }

    /// Drops what this edge and connection still hold; returns how many that were. Renews the lease.
    pub fn release(&mut self, now_ms: u64, by: &Attachment, releases: &[Release]) -> Result<usize, Fenced> {
        self.renew(now_ms, by)?;
        let holds = releases.iter().map(|release| hold(&release.socket_id, release.connection)).collect();
        Ok(self.drop_holds(&by.edge_id, by.number, holds))
    }

    /// The edge has been sent these evictions: they need no audit.
    pub fn told(&mut self, by: &Attachment, holds: &[Hold]) {
        if let Some(edge) = self.edges.get_mut(&by.edge_id) {
            for hold in holds {
                if edge.claims.get(hold).is_some_and(|number| *number <= by.number) {
                    edge.claims.remove(hold);
                }
            }
        }
    }

    /// Forgets what the edge claimed in earlier stays and did not repeat in this one; returns how many owners that
    /// were. For one lease after the attach.
    pub fn forget(&mut self, by: &Attachment) -> usize {
        self.drop_below(&by.edge_id, by.number)
    }

    /// Removes an edge whose lease ended, and all it owned: how many. `None` when its lease stands.
    pub fn sweep(&mut self, now_ms: u64, edge_id: &str) -> Option<usize> {
        if self.edges.get(edge_id)?.stands(now_ms) {
            return None;
        }
        let dropped = self.drop_below(edge_id, u64::MAX);
        self.edges.remove(edge_id);
        Some(dropped)
    }

    /// Compares what the edge claimed in this stay with who is on record, and makes good what got lost on the way:
    /// evictions not told are returned, what nobody owns is claimed again, as of the attach.
    pub fn audit(&mut self, now_ms: u64, by: &Attachment) -> Result<Vec<Eviction>, Fenced> {
        let claims = self.attached(now_ms, by)?.claims.iter();
        let holds: Vec<Hold> =
            claims.filter(|(_, number)| **number == by.number).map(|(hold, _)| hold.clone()).collect();
        let mut audit = Audit::default();
        for hold in holds {
            audit.compare(by, hold, |socket_id| self.standing_owner(now_ms, socket_id));
        }
        // the edge has not said a word, so its lease stays as it is
        let again = self.claim_all(now_ms, by, &audit.ownerless(now_ms, by))?;
        Ok(audit.untold.into_iter().chain(again).collect())
    }

    /// Who owns these, in the order asked; those nobody owns are left out.
    pub fn locate(&self, now_ms: u64, socket_ids: &[String]) -> Vec<Location> {
        let location = |socket_id: &String| {
            let owner = self.standing_owner(now_ms, socket_id)?;
            Some(Location {
                socket_id: socket_id.clone(),
                edge_id: owner.edge_id.clone(),
                address: self.edges.get(&owner.edge_id)?.vitals.address.clone(),
                connection: owner.connection,
                since_ms: owner.since_ms,
            })
        };
        socket_ids.iter().filter_map(location).collect()
    }

    /// Every edge whose lease stands, and those whose lease ended and that were not swept yet.
    pub fn edges(&self, now_ms: u64) -> (Vec<Edge>, Vec<String>) {
        let (standing, lapsed): (Vec<_>, Vec<_>) =
            self.edges.iter().partition(|(_, edge)| edge.stands(now_ms));
        let standing = standing
            .into_iter()
            .map(|(_, edge)| Edge { lease_left_ms: edge.lease_ends_ms - now_ms, ..edge.vitals.clone() });
        (standing.collect(), lapsed.into_iter().map(|(edge_id, _)| edge_id.clone()).collect())
    }

    fn renew(&mut self, now_ms: u64, by: &Attachment) -> Result<&mut Attached, Fenced> {
        let lease_ms = self.lease_ms;
        let edge = self.attached(now_ms, by)?;
        edge.lease_ends_ms = now_ms + lease_ms;
        Ok(edge)
    }

    fn attached(&mut self, now_ms: u64, by: &Attachment) -> Result<&mut Attached, Fenced> {
        self.edges
            .get_mut(&by.edge_id)
            .filter(|edge| edge.attachment == by.number && edge.stands(now_ms))
            .ok_or(Fenced)
    }

    fn standing_owner(&self, now_ms: u64, socket_id: &str) -> Option<&Owner> {
        let owner = self.owners.get(socket_id)?;
        self.edges.get(&owner.edge_id)?.stands(now_ms).then_some(owner)
    }

    fn drop_below(&mut self, edge_id: &str, number: u64) -> usize {
        let Some(edge) = self.edges.get(edge_id) else { return 0 };
        let old = edge.claims.iter().filter(|(_, claimed)| **claimed < number).map(|(hold, _)| hold.clone());
        let old = old.collect();
        self.drop_holds(edge_id, number - 1, old)
    }

    /// Drops those of the edge's holds that were last claimed under `number_max` at most.
    fn drop_holds(&mut self, edge_id: &str, number_max: u64, holds: Vec<Hold>) -> usize {
        let mut dropped = 0;
        for hold in holds {
            let mine = self.owners.get(&hold.socket_id).is_some_and(|owner| {
                owner.edge_id == edge_id
                    && owner.connection == hold.connection
                    && owner.attachment <= number_max
            });
            if mine {
                self.owners.remove(&hold.socket_id);
                dropped += 1;
            }
            if let Some(edge) = self.edges.get_mut(edge_id)
                && edge.claims.get(&hold).is_some_and(|claimed| *claimed <= number_max)
            {
                edge.claims.remove(&hold);
            }
        }
        dropped
    }
}

pub(crate) fn hold(socket_id: &str, connection: u64) -> Hold {
    Hold { socket_id: socket_id.to_owned(), connection }
}

fn pressure_of(edge_id: &str, beat: &Heartbeat) -> Pressure {
    let pressure = beat.pressure.clone().unwrap_or_default();
    Pressure { edge_id: edge_id.to_owned(), ..pressure }
}
