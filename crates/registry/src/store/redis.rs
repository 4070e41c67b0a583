//! The directory in Redis. Every script touches one slot, so that Redis Cluster works too.
//!
//! What an edge claims (a sorted set beside its record) is written before the owners and struck after them, so that
//! whatever stops in between leaves too much there and never too little: sweep, forget and audit go by that set.

mod connections;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use herald_wire::Names;
use herald_wire::registry::{Claim, Edge, Heartbeat, Location, Pressure, Release};
use redis::{Cmd, FromRedisValue, ParsingError, Value, cmd};

pub use connections::ConnectError;
use connections::{Connections, Script};

use super::{Edges, Events, StoreError};
use crate::directory::{Attachment, Audit, Eviction, Hold, Owner, hold};
use crate::event::Event;

/// Claims looked at in one go by sweep, forget and audit.
const PAGE: usize = 1_000;

type Answer<T> = Result<T, StoreError>;
type HeldBy = (Option<String>, Option<u64>, Option<u64>);

/// One replica's way to the directory in Redis.
pub struct RedisStore {
    connections: Connections,
    names: Names,
    lease_ms: u64,
    scripts: Scripts,
}

struct Scripts {
    attach: Script,
    heartbeat: Script,
    list: Script,
    unlist: Script,
    assert: Script,
    claim: Script,
    drop_owner: Script,
    drop_claims: Script,
}

impl RedisStore {
    /// A store on the Redis of this URL; nothing is connected yet. URLs as `herald-bus` takes them, without Sentinel.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn new(url: &str, prefix: &str, lease: Duration) -> Result<Self, ConnectError> {
        let scripts = Scripts {
            attach: Script::new(include_str!("scripts/attach.lua")),
            heartbeat: Script::new(include_str!("scripts/heartbeat.lua")),
            list: Script::new(include_str!("scripts/list.lua")),
            unlist: Script::new(include_str!("scripts/unlist.lua")),
            assert: Script::new(include_str!("scripts/assert.lua")),
            claim: Script::new(include_str!("scripts/claim.lua")),
            drop_owner: Script::new(include_str!("scripts/drop_owner.lua")),
            drop_claims: Script::new(include_str!("scripts/drop_claims.lua")),
        };
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Ok(Self { connections: Connections::new(url)?, names: Names::new(prefix), lease_ms, scripts })
    }

    pub(super) async fn attach(&self, edge_id: &str, address: &str) -> Answer<Attachment> {
        let key = self.names.edge(edge_id);
        let attach = self.scripts.attach.call(&[&key]).arg(address).arg(self.lease_ms).to_owned();
        let [_, number] = self.ask_two([self.list(edge_id), attach]).await?;
        Ok(Attachment { edge_id: edge_id.to_owned(), number: read(number)? })
    }

    pub(super) async fn heartbeat(&self, by: &Attachment, beat: &Heartbeat) -> Answer<()> {
        let pressure = beat.pressure.clone().unwrap_or_default();
        let mut renew = self.scripts.heartbeat.call(&[&self.names.edge(&by.edge_id)]);
        renew.arg(by.number).arg(self.lease_ms).arg(beat.connections).arg(beat.sessions);
        renew.arg(pressure.lateness_us).arg(pressure.fullness_permille).arg(pressure.feed_us);
        let [renewed, _] = self.ask_two([renew, self.list(&by.edge_id)]).await?;
        standing(renewed)
    }

    pub(super) async fn claim(&self, by: &Attachment, claims: &[Claim]) -> Answer<Vec<Eviction>> {
        self.claim_all(by, claims, self.lease_ms).await
    }

    async fn claim_all(&self, by: &Attachment, claims: &[Claim], lease_ms: u64) -> Answer<Vec<Eviction>> {
        let holds: Vec<Hold> = claims.iter().map(|claim| hold(&claim.socket_id, claim.connection)).collect();
        self.assert(by, &holds, lease_ms).await?;
        let claims: Vec<(&Claim, &str)> = claims.iter().map(|claim| (claim, "")).collect();
        let mut ruled = self.rule(by, &claims).await?;
        self.retry_against_the_dead(by, &claims, &mut ruled).await?;
        let evictions = claims.iter().zip(ruled).filter_map(|((claim, _), (ruling, edge_id, connection))| {
            match ruling.as_str() {
                "won" => Some(Eviction::new(&edge_id, hold(&claim.socket_id, connection?), &by.edge_id)),
                "lost" => {
                    Some(Eviction::new(&by.edge_id, hold(&claim.socket_id, claim.connection), &edge_id))
                }
                _ => None,
            }
        });
        Ok(evictions.collect())
    }

    /// Only the slot of the edge's record knows whether its lease stands, so the claim's script cannot: those that
    /// lost to an edge that is dead are ruled again, with that edge known to be nobody.
    async fn retry_against_the_dead(
        &self,
        by: &Attachment,
        claims: &[(&Claim, &str)],
        ruled: &mut [Ruled],
    ) -> Answer<()> {
        let lost = |ruled: &Ruled| ruled.0 == "lost" && ruled.1 != by.edge_id;
        let winners: HashSet<String> = ruled.iter().filter(|r| lost(r)).map(|r| r.1.clone()).collect();
        if winners.is_empty() {
            return Ok(());
        }
        let standing = self.addresses(winners).await?;
        let again: Vec<(usize, String)> = ruled
            .iter()
            .enumerate()
            .filter(|(_, r)| lost(r) && !standing.contains_key(&r.1))
            .map(|(index, r)| (index, r.1.clone()))
            .collect();
        let retried: Vec<_> = again.iter().map(|(index, dead)| (claims[*index].0, dead.as_str())).collect();
        for ((index, _), ruling) in again.iter().zip(self.rule(by, &retried).await?) {
            ruled[*index] = ruling;
        }
        Ok(())
    }

    async fn rule(&self, by: &Attachment, claims: &[(&Claim, &str)]) -> Answer<Vec<Ruled>> {
        let commands = claims.iter().map(|(claim, dead)| {
            let mut command = self.scripts.claim.call_loaded(&[&self.names.owner(&claim.socket_id)]);
            command.arg(&by.edge_id).arg(claim.connection).arg(by.number).arg(claim.age_ms).arg(dead);
            command
        });
        let answers = self.connections.ask_loaded(&self.scripts.claim, commands.collect()).await?;
        answers.into_iter().map(ruled).collect()
    }

    pub(super) async fn release(&self, by: &Attachment, releases: &[Release]) -> Answer<usize> {
        self.assert(by, &[], self.lease_ms).await?;
        let holds: Vec<Hold> = releases.iter().map(|r| hold(&r.socket_id, r.connection)).collect();
        self.drop_holds(&by.edge_id, by.number, &holds).await
    }

    pub(super) async fn told(&self, by: &Attachment, holds: &[Hold]) -> Answer<()> {
        let strike = self.strike(&by.edge_id, by.number, holds);
        self.ask(vec![strike]).await.map(drop)
    }

    pub(super) async fn forget(&self, by: &Attachment) -> Answer<usize> {
        self.drop_up_to(&by.edge_id, by.number - 1).await
    }

    pub(super) async fn sweep(&self, edge_id: &str) -> Answer<bool> {
        let claims = self.names.edge_claims(edge_id);
        let last = cmd("ZRANGE").arg(&claims).arg(0).arg(0).arg("REV").arg("WITHSCORES").to_owned();
        let listed = cmd("ZSCORE").arg(self.names.edges()).arg(edge_id).to_owned();
        let [last, listed] = self.ask_two([last, listed]).await?;
        // whatever it claims once it is back has a higher number than what is there now
        let last: Option<u64> = read::<Vec<(String, f64)>>(last)?.first().map(|(_, number)| *number as u64);
        let [stands] = self.ask_one([cmd("EXISTS").arg(self.names.edge(edge_id)).to_owned()]).await?;
        let (Some(listed), false) = (read::<Option<String>>(listed)?, read(stands)?) else {
            return Ok(false);
        };
        if let Some(last) = last {
            self.drop_up_to(edge_id, last).await?;
        }
        let mut unlist = self.scripts.unlist.call(&[&self.names.edges()]);
        let [unlisted] = self.ask_one([unlist.arg(edge_id).arg(listed).to_owned()]).await?;
        read(unlisted)
    }

    pub(super) async fn audit(&self, by: &Attachment) -> Answer<Vec<Eviction>> {
        let mut audit = Audit::default();
        for page in 0.. {
            let holds = self.claims_page(by, page).await?;
            let last = holds.len() < PAGE;
            let owners = self.owners(holds.iter().map(|hold| hold.socket_id.as_str())).await?;
            let edges = owners.iter().flatten().map(|owner| owner.edge_id.clone());
            let standing = self.addresses(edges.collect()).await?;
            for (hold, owner) in holds.into_iter().zip(&owners) {
                let held = owner.as_ref().filter(|owner| standing.contains_key(&owner.edge_id));
                audit.compare(by, hold, |_| held);
            }
            if last {
                break;
            }
        }
        let ownerless = audit.ownerless(self.now_ms().await?, by);
        for claims in ownerless.chunks(PAGE) {
            // the edge has not said a word, so its lease stays as it is
            audit.untold.extend(self.claim_all(by, claims, 0).await?);
        }
        Ok(audit.untold)
    }

    pub(super) async fn locate(&self, socket_ids: &[String]) -> Answer<Vec<Location>> {
        let owners = self.owners(socket_ids.iter().map(String::as_str)).await?;
        let edges = owners.iter().flatten().map(|owner| owner.edge_id.clone());
        let addresses = self.addresses(edges.collect()).await?;
        let locations = socket_ids.iter().zip(owners).filter_map(|(socket_id, owner)| {
            let Owner { edge_id, connection, since_ms, .. } = owner?;
            let address = addresses.get(&edge_id)?.clone();
            Some(Location { socket_id: socket_id.clone(), edge_id, address, connection, since_ms })
        });
        Ok(locations.collect())
    }

    pub(super) async fn edges(&self) -> Answer<Edges> {
        let [listed] =
            self.ask_one([cmd("ZRANGE").arg(self.names.edges()).arg(0).arg(-1).to_owned()]).await?;
        let listed: Vec<String> = read(listed)?;
        let fields = ["address", "connections", "sessions", "lateness_us", "fullness_permille", "feed_us"];
        let mut commands = Vec::with_capacity(2 * listed.len());
        for edge_id in &listed {
            let key = self.names.edge(edge_id);
            commands.push(cmd("HMGET").arg(&key).arg(&fields).to_owned());
            commands.push(cmd("PTTL").arg(&key).to_owned());
        }
        let mut answers = self.ask(commands).await?.into_iter();
        let mut edges = Edges::default();
        for edge_id in listed {
            let (Some(record), Some(left)) = (answers.next(), answers.next()) else { break };
            match edge(&edge_id, record, left)? {
                Some(edge) => edges.standing.push(edge),
                None => edges.lapsed.push(edge_id),
            }
        }
        edges.standing.sort_by(|a, b| a.edge_id.cmp(&b.edge_id));
        Ok(edges)
    }

    pub(super) async fn tell(&self, events: &[Event]) -> Answer<()> {
        let channel = self.names.registry_events();
        let commands = events.iter().map(|event| cmd("PUBLISH").arg(&channel).arg(event.encode()).to_owned());
        self.ask(commands.collect()).await.map(drop)
    }

    pub(super) async fn listen(&self) -> Answer<Events> {
        let messages = self.connections.subscribe(&self.names.registry_events()).await?;
        let events = futures_util::StreamExt::filter_map(messages, |message| {
            std::future::ready(Event::decode(message.get_payload_bytes()))
        });
        Ok(Events::Redis(Box::new(events)))
    }

    fn list(&self, edge_id: &str) -> Cmd {
        self.scripts.list.call(&[&self.names.edges()]).arg(edge_id).arg(self.lease_ms).to_owned()
    }

    /// Renews the lease by so much too, unless it is 0.
    async fn assert(&self, by: &Attachment, holds: &[Hold], lease_ms: u64) -> Answer<()> {
        let keys = [self.names.edge(&by.edge_id), self.names.edge_claims(&by.edge_id)];
        let mut command = self.scripts.assert.call(&[&keys[0], &keys[1]]);
        command.arg(by.number).arg(lease_ms).arg(holds.iter().map(member).collect::<Vec<_>>());
        let [stands] = self.ask_one([command]).await?;
        standing(stands)
    }

    /// Drops what the edge claimed under this number at most, page by page.
    async fn drop_up_to(&self, edge_id: &str, number_max: u64) -> Answer<usize> {
        let claims = self.names.edge_claims(edge_id);
        let mut dropped = 0;
        loop {
            let mut range = cmd("ZRANGE");
            range.arg(&claims).arg("-inf").arg(number_max).arg("BYSCORE").arg("LIMIT").arg(0).arg(PAGE);
            let [members] = self.ask_one([range]).await?;
            let holds: Vec<Hold> =
                read::<Vec<String>>(members)?.iter().filter_map(|text| parse_member(text)).collect();
            if holds.is_empty() {
                return Ok(dropped);
            }
            dropped += self.drop_holds(edge_id, number_max, &holds).await?;
        }
    }

    async fn drop_holds(&self, edge_id: &str, number_max: u64, holds: &[Hold]) -> Answer<usize> {
        let drop_one = |hold: &Hold| {
            let mut command = self.scripts.drop_owner.call_loaded(&[&self.names.owner(&hold.socket_id)]);
            command.arg(edge_id).arg(hold.connection).arg(number_max);
            command
        };
        let commands = holds.iter().map(drop_one).collect();
        let answers = self.connections.ask_loaded(&self.scripts.drop_owner, commands).await?;
        // after the owners, never before them
        self.ask(vec![self.strike(edge_id, number_max, holds)]).await?;
        answers.into_iter().map(read::<usize>).sum()
    }

    fn strike(&self, edge_id: &str, number_max: u64, holds: &[Hold]) -> Cmd {
        let mut command = self.scripts.drop_claims.call(&[&self.names.edge_claims(edge_id)]);
        command.arg(number_max).arg(holds.iter().map(member).collect::<Vec<_>>());
        command
    }

    /// What the edge claimed in this stay.
    async fn claims_page(&self, by: &Attachment, page: usize) -> Answer<Vec<Hold>> {
        let mut range = cmd("ZRANGE");
        range.arg(self.names.edge_claims(&by.edge_id)).arg(by.number).arg(by.number);
        range.arg("BYSCORE").arg("LIMIT").arg(page * PAGE).arg(PAGE);
        let [members] = self.ask_one([range]).await?;
        Ok(read::<Vec<String>>(members)?.iter().filter_map(|text| parse_member(text)).collect())
    }

    async fn owners<'a>(&self, socket_ids: impl Iterator<Item = &'a str>) -> Answer<Vec<Option<Owner>>> {
        let commands = socket_ids.map(|socket_id| {
            cmd("HMGET").arg(self.names.owner(socket_id)).arg(&["edge", "connection", "since"]).to_owned()
        });
        let answers = self.ask(commands.collect()).await?;
        let owner = |answer| -> Answer<Option<Owner>> {
            let (Some(edge_id), Some(connection), Some(since_ms)) = read::<HeldBy>(answer)? else {
                return Ok(None);
            };
            Ok(Some(Owner { edge_id, connection, since_ms, attachment: 0 }))
        };
        answers.into_iter().map(owner).collect()
    }

    /// The addresses of those whose lease stands.
    async fn addresses(&self, edges: HashSet<String>) -> Answer<HashMap<String, String>> {
        let commands =
            edges.iter().map(|edge| cmd("HGET").arg(self.names.edge(edge)).arg("address").to_owned());
        let answers = self.ask(commands.collect()).await?;
        let mut addresses = HashMap::with_capacity(edges.len());
        for (edge_id, answer) in edges.into_iter().zip(answers) {
            if let Some(address) = read::<Option<String>>(answer)? {
                addresses.insert(edge_id, address);
            }
        }
        Ok(addresses)
    }

    async fn now_ms(&self) -> Answer<u64> {
        let [time] = self.ask_one([cmd("TIME")]).await?;
        let (seconds, micros): (u64, u64) = read(time)?;
        Ok(seconds * 1_000 + micros / 1_000)
    }

    async fn ask(&self, commands: Vec<Cmd>) -> Answer<Vec<Value>> {
        self.connections.ask(commands).await
    }

    async fn ask_one(&self, command: [Cmd; 1]) -> Answer<[Value; 1]> {
        exactly(self.ask(command.into()).await?)
    }

    async fn ask_two(&self, commands: [Cmd; 2]) -> Answer<[Value; 2]> {
        exactly(self.ask(commands.into()).await?)
    }
}

/// What `claim.lua` says: the ruling, and the edge and connection that held it or hold it.
type Ruled = (String, String, Option<u64>);

fn ruled(answer: Value) -> Answer<Ruled> {
    let (ruling, edge_id, connection): (String, String, String) = read(answer)?;
    Ok((ruling, edge_id, connection.parse().ok()))
}

fn edge(edge_id: &str, record: Value, left: Value) -> Answer<Option<Edge>> {
    type Record = (Option<String>, Option<u64>, Option<u64>, Option<u64>, Option<u32>, Option<u64>);
    let (address, connections, sessions, lateness_us, fullness_permille, feed_us) = read::<Record>(record)?;
    let (Some(address), Ok(lease_left_ms)) = (address, u64::try_from(read::<i64>(left)?)) else {
        return Ok(None);
    };
    let pressure = Pressure {
        edge_id: edge_id.to_owned(),
        lateness_us: lateness_us.unwrap_or_default(),
        fullness_permille: fullness_permille.unwrap_or_default(),
        feed_us: feed_us.unwrap_or_default(),
        bottleneck: String::new(),
    };
    Ok(Some(Edge {
        edge_id: edge_id.to_owned(),
        address,
        connections: connections.unwrap_or_default(),
        sessions: sessions.unwrap_or_default(),
        pressure: Some(pressure),
        lease_left_ms,
    }))
}

fn standing(answer: Value) -> Answer<()> {
    if read(answer)? { Ok(()) } else { Err(StoreError::Fenced) }
}

fn member(hold: &Hold) -> String {
    format!("{} {}", hold.connection, hold.socket_id)
}

fn parse_member(text: &str) -> Option<Hold> {
    let (connection, socket_id) = text.split_once(' ')?;
    Some(hold(socket_id, connection.parse().ok()?))
}

fn read<T: FromRedisValue>(value: Value) -> Answer<T> {
    Ok(redis::from_redis_value(value)?)
}

fn exactly<const N: usize>(answers: Vec<Value>) -> Answer<[Value; N]> {
    answers.try_into().map_err(|_| ParsingError::from("another number of answers than of questions").into())
}
