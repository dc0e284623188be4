//! What the threads that hear charon find out for those who ask it.
//!
//! vici's list of all IKE SAs is long, and charon asks the kernel for each of them: so
//! it is read where something was missed, and not to find one of them.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::strongswan::{ha::IkeSpis, vici::IkeSaInfo};

/// See the module's text.
#[derive(Debug)]
pub(super) struct News(Mutex<Found>);

#[derive(Debug)]
struct Found {
    /// Whether charon may have something that was not heard.
    missed: bool,
    /// Whether charon tells old sessions again, which it does not in full.
    retold: bool,
    /// charon's own numbers of IKE SAs.
    numbers: HashMap<IkeSpis, u32>,
    /// The highest of them; charon counts.
    newest: u32,
    /// Of the IKE SA that each of these has replaced.
    replaced: HashMap<IkeSpis, u32>,
}

impl Default for Found {
    fn default() -> Self {
        let (numbers, replaced) = Default::default();
        Self { missed: true, retold: false, numbers, newest: 0, replaced }
    }
}

impl News {
    /// Nothing was heard yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Found::default()))
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// charon may have something that was not heard.
    pub(super) fn miss(&self) {
        self.found().missed = true;
    }

    /// Another charon runs, of which nothing was heard yet.
    pub(super) fn begin_anew(&self) {
        *self.found() = Found::default();
    }

    /// Whether that is so. Whoever asks has it no longer.
    pub(super) fn take_missed(&self) -> bool {
        std::mem::take(&mut self.found().missed)
    }

    /// The same, and it stays so.
    pub(super) fn has_missed(&self) -> bool {
        self.found().missed
    }

    /// charon was asked to tell its sessions again.
    pub(super) fn retell(&self) {
        self.found().retold = true;
    }

    /// A session came up, or was told again.
    pub(super) fn up(&self) {
        let mut found = self.found();
        found.missed |= found.retold;
    }

    /// vici told of an IKE SA.
    pub(super) fn told(&self, ike: IkeSpis, number: u32) {
        let mut found = self.found();
        found.numbers.insert(ike, number);
        found.newest = found.newest.max(number);
    }

    /// An IKE SA was replaced by another one, which its user deletes soon.
    pub(super) fn rekeyed(&self, (old, before): (IkeSpis, u32), (new, number): (IkeSpis, u32)) {
        self.told(new, number);
        let mut found = self.found();
        found.numbers.remove(&old);
        found.replaced.remove(&old);
        found.replaced.insert(new, before);
    }

    /// The number of the IKE SA `old` that `new` has replaced, if it was told.
    pub(super) fn number_before(&self, old: IkeSpis, new: IkeSpis) -> Option<u32> {
        let found = self.found();
        // The event may be on its way still.
        found.numbers.get(&old).or_else(|| found.replaced.get(&new)).copied()
    }

    /// It ended, and so did what it had replaced.
    pub(super) fn down(&self, ike: IkeSpis) {
        self.forget(ike);
        self.found().replaced.remove(&ike);
    }

    /// Its number is not, or no longer, what was told.
    pub(super) fn forget(&self, ike: IkeSpis) {
        self.found().numbers.remove(&ike);
    }

    /// vici listed all of them; `whole` if the sessions of all are known.
    pub(super) fn listed(&self, list: &[IkeSaInfo], whole: bool) {
        let mut found = self.found();
        found.numbers = list.iter().map(|sa| (super::spis(sa), sa.unique_id)).collect();
        found.newest = found.numbers.values().max().copied().unwrap_or(0);
        let Found { numbers, replaced, .. } = &mut *found;
        replaced.retain(|ike, _| numbers.contains_key(ike));
        found.retold &= !whole;
    }

    /// The number that an IKE SA has, or those that it may have: charon counts on, for
    /// every IKE SA that begins.
    pub(super) fn numbers(&self, ike: IkeSpis, tries: u32) -> Vec<u32> {
        let found = self.found();
        match found.numbers.get(&ike) {
            Some(number) => vec![*number],
            None => (1..=tries).map(|more| found.newest.saturating_add(more)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_guessed_and_forgotten() {
        let news = News::new();
        assert_eq!(news.numbers((1, 2), 2), [1, 2]);
        news.told((1, 2), 7);
        news.told((3, 4), 5);
        assert_eq!(news.numbers((1, 2), 2), [7]);
        assert_eq!(news.numbers((5, 6), 2), [8, 9]);
        news.forget((1, 2));
        assert_eq!(news.numbers((1, 2), 1), [8]);
        news.listed(&[], true);
        assert_eq!(news.numbers((3, 4), 1), [1], "charon counts anew");
        news.told((1, 2), 7);
        assert!(news.take_missed());
        news.begin_anew();
        assert_eq!(news.numbers((1, 2), 1), [1], "another charon does, too");
        assert!(news.take_missed());
    }

    #[test]
    fn what_an_ike_sa_has_replaced_is_found_by_its_number() {
        let news = News::new();
        news.told((1, 2), 7);
        assert_eq!(news.number_before((1, 2), (3, 4)), Some(7), "the event is on its way");
        news.rekeyed(((1, 2), 7), ((3, 4), 8));
        assert_eq!(news.number_before((1, 2), (3, 4)), Some(7));
        assert_eq!(news.numbers((3, 4), 1), [8]);
        news.rekeyed(((3, 4), 8), ((5, 6), 9));
        assert_eq!(news.number_before((3, 4), (5, 6)), Some(8));
        assert_eq!(news.number_before((1, 2), (3, 4)), None, "one for each IKE SA");
        news.down((5, 6));
        assert_eq!(news.number_before((3, 4), (5, 6)), None);
    }

    #[test]
    fn what_was_missed_is_asked_for_once() {
        let news = News::new();
        assert!(news.take_missed() && !news.take_missed());
        news.miss();
        assert!(news.has_missed() && news.take_missed() && !news.has_missed());
        news.up();
        assert!(!news.take_missed(), "a new session is told in full");
        news.retell();
        news.up();
        assert!(news.take_missed(), "an old one is not");
        news.listed(&[], true);
        news.up();
        assert!(!news.take_missed());
    }
}
