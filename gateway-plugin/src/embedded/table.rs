//! Maps that many threads read at a time: cut into shards, each with its lock.
//! A lookup returns a clone and never keeps a lock.

use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use protocol_spec::{context::Prefix, id::SessionId};

use super::packet::masked;

const SHARDS: usize = 64;

/// Which shard a key belongs to; cheap, since the map within hashes well.
pub(crate) trait ShardKey: Hash + Eq {
    fn shard(&self) -> usize;
}

impl ShardKey for u32 {
    fn shard(&self) -> usize {
        *self as usize
    }
}

impl ShardKey for SessionId {
    fn shard(&self) -> usize {
        usize::from(self.0[0])
    }
}

impl ShardKey for Prefix {
    fn shard(&self) -> usize {
        match self.address {
            IpAddr::V4(address) => address.to_bits() as usize,
            IpAddr::V6(address) => (address.to_bits() & 0xff) as usize,
        }
    }
}

/// A map in shards.
pub(crate) struct Sharded<K, V> {
    shards: Vec<RwLock<HashMap<K, V>>>,
    length: AtomicUsize,
}

impl<K: ShardKey, V: Clone> Sharded<K, V> {
    pub(crate) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::new(HashMap::new())).collect();
        Self { shards, length: AtomicUsize::new(0) }
    }

    fn read(&self, key: &K) -> RwLockReadGuard<'_, HashMap<K, V>> {
        self.shards[key.shard() % SHARDS].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: &K) -> RwLockWriteGuard<'_, HashMap<K, V>> {
        self.shards[key.shard() % SHARDS].write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, key: &K) -> Option<V> {
        self.read(key).get(key).cloned()
    }

    pub(crate) fn insert(&self, key: K, value: V) {
        if self.write(&key).insert(key, value).is_none() {
            self.length.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Removes an entry if it still is what the caller thinks. Says whether it was.
    pub(crate) fn remove_if(&self, key: &K, wanted: impl FnOnce(&V) -> bool) -> bool {
        let mut shard = self.write(key);
        let found = shard.get(key).is_some_and(wanted);
        if found {
            shard.remove(key);
            self.length.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    pub(crate) fn len(&self) -> usize {
        self.length.load(Ordering::Relaxed)
    }

    /// Every value that is there, shard by shard.
    pub(crate) fn values(&self) -> Vec<V> {
        let mut values = Vec::with_capacity(self.len());
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            values.extend(shard.values().cloned());
        }
        values
    }
}

/// Inner prefixes, the longest of which wins.
pub(crate) struct Routes<V> {
    entries: Sharded<Prefix, V>,
    /// How many entries there are of each length, IPv4 and IPv6.
    lengths: [Vec<AtomicUsize>; 2],
}

impl<V: Clone> Routes<V> {
    pub(crate) fn new() -> Self {
        let counters = |n| (0..=n).map(|_| AtomicUsize::new(0)).collect();
        Self { entries: Sharded::new(), lengths: [counters(32), counters(128)] }
    }

    fn lengths(&self, address: IpAddr) -> &[AtomicUsize] {
        &self.lengths[usize::from(address.is_ipv6())]
    }

    /// Who has the longest prefix that holds this address.
    pub(crate) fn find(&self, address: IpAddr) -> Option<V> {
        let lengths = self.lengths(address).iter().enumerate().rev();
        lengths.filter(|(_, used)| used.load(Ordering::Relaxed) > 0).find_map(|(bits, _)| {
            let bits = bits as u8;
            self.entries.find(&Prefix { address: masked(address, bits), bits })
        })
    }

    /// Who has exactly this prefix.
    pub(crate) fn exact(&self, prefix: Prefix) -> Option<V> {
        self.entries.find(&normal(prefix))
    }

    pub(crate) fn insert(&self, prefix: Prefix, value: V) {
        let prefix = normal(prefix);
        let before = self.entries.find(&prefix).is_some();
        self.entries.insert(prefix, value);
        if let Some(used) = self.lengths(prefix.address).get(usize::from(prefix.bits))
            && !before
        {
            used.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn remove_if(&self, prefix: Prefix, wanted: impl FnOnce(&V) -> bool) {
        let prefix = normal(prefix);
        if self.entries.remove_if(&prefix, wanted)
            && let Some(used) = self.lengths(prefix.address).get(usize::from(prefix.bits))
        {
            used.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Without host bits and with a length that its family has.
pub(crate) fn normal(prefix: Prefix) -> Prefix {
    let bits = prefix.bits.min(if prefix.address.is_ipv4() { 32 } else { 128 });
    Prefix { address: masked(prefix.address, bits), bits }
}

/// A lock whose value is used even if a thread died with it: each value is
/// whole after each of its changes.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
