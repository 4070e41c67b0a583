//! The bus on Redis.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herald_wire::{Epoch, Position, Target};

use crate::feed::{Feed, Subscriptions};
use crate::{BusError, Entry, FeedLimits, Publication, Published, RedisConfig};

/// The bus on Redis.
#[derive(Debug)]
pub struct Redis;

#[derive(Clone, Debug)]
pub(crate) struct RedisSubscriptions;

#[allow(clippy::unused_async, clippy::todo, clippy::needless_pass_by_value)]
impl Redis {
    pub(crate) fn new(_config: RedisConfig) -> Result<Self, BusError> {
        todo!()
    }
    pub(crate) async fn publish(&self, _batch: &[Publication]) -> Vec<Result<Published, BusError>> {
        todo!()
    }
    pub(crate) async fn ping(&self) -> Result<(), BusError> {
        todo!()
    }
    pub(crate) async fn epoch(&self) -> Result<Epoch, BusError> {
        todo!()
    }
    pub(crate) fn slot_of(&self, _target: &Target) -> u16 {
        todo!()
    }
    pub(crate) fn feed(_bus: &Arc<Self>, _limits: FeedLimits) -> (Subscriptions, Feed) {
        todo!()
    }
    pub(crate) async fn read_logs(
        &self,
        _from: &[(Target, Position)],
        _limit: usize,
    ) -> Result<Vec<Vec<Entry>>, BusError> {
        todo!()
    }
    pub(crate) async fn tails(&self, _targets: &[Target]) -> Result<Vec<Position>, BusError> {
        todo!()
    }
    pub(crate) async fn save_session(
        &self,
        _pid: &str,
        _record: &[u8],
        _ttl: Duration,
    ) -> Result<(), BusError> {
        todo!()
    }
    pub(crate) async fn touch_sessions(&self, _pids: &[String], _ttl: Duration) -> Result<(), BusError> {
        todo!()
    }
    pub(crate) async fn load_session(&self, _pid: &str) -> Result<Option<Bytes>, BusError> {
        todo!()
    }
    pub(crate) async fn save_sent(
        &self,
        _marks: &[(Target, Position)],
        _ttl: Duration,
    ) -> Result<(), BusError> {
        todo!()
    }
    pub(crate) async fn load_sent(&self, _target: &Target) -> Result<Position, BusError> {
        todo!()
    }
}

#[allow(clippy::unused_async, clippy::todo)]
impl RedisSubscriptions {
    pub(crate) async fn subscribe(&self, _targets: &[Target]) -> Result<(), BusError> {
        todo!()
    }
    pub(crate) async fn unsubscribe(&self, _targets: &[Target]) -> Result<(), BusError> {
        todo!()
    }
}
