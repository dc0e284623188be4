//! The last response of each IKE SA: what must be repeated, octet by octet, if the
//! end user never got it.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
};

use super::Sighting;
use crate::ike::answer::LastResponse;

/// Fragments (RFC 7383) of one response that are kept.
const MAX_FRAGMENTS: usize = 32;

/// Bounded: the IKE SA that was heard of longest ago makes room.
#[derive(Debug)]
pub(super) struct Memory {
    locals: Vec<IpAddr>,
    room: usize,
    responses: HashMap<(u64, u64), LastResponse>,
    /// SPIs in the order in which they were first seen.
    order: VecDeque<(u64, u64)>,
}

impl Memory {
    pub(super) fn new(locals: Vec<IpAddr>, room: usize) -> Self {
        Self { locals, room, responses: HashMap::new(), order: VecDeque::new() }
    }

    /// Takes note of a response that left this host. One from another address was
    /// only forwarded: whoever sent it must not push ours out.
    pub(super) fn remember(&mut self, sighting: &Sighting) {
        if self.room == 0 || !self.locals.contains(&sighting.source.ip()) {
            return;
        }
        let header = &sighting.header;
        let spis = (header.spi_initiator, header.spi_responder);
        let fresh = || LastResponse {
            message_id: header.message_id,
            datagrams: vec![sighting.message.clone()],
        };
        let Some(last) = self.responses.get_mut(&spis) else {
            self.order.push_back(spis);
            self.responses.insert(spis, fresh());
            return self.make_room();
        };
        // Responses of a side count upwards; a lower number is an old one repeated,
        // or Message ID 0 of a synchronisation, which is never repeated.
        if header.message_id > last.message_id {
            *last = fresh();
        } else if header.message_id == last.message_id
            && last.datagrams.len() < MAX_FRAGMENTS
            && !last.datagrams.contains(&sighting.message)
        {
            last.datagrams.push(sighting.message.clone());
        }
    }

    /// Puts a response that another gateway sent in the place of older ones.
    pub(super) fn learn(&mut self, spis: (u64, u64), last: LastResponse) {
        if self.room == 0 || self.last(spis).is_some_and(|l| l.message_id >= last.message_id) {
            return;
        }
        if self.responses.insert(spis, last).is_none() {
            self.order.push_back(spis);
            self.make_room();
        }
    }

    /// The one that was first seen longest ago goes where there are too many.
    fn make_room(&mut self) {
        if self.responses.len() > self.room
            && let Some(oldest) = self.order.pop_front()
        {
            self.responses.remove(&oldest);
        }
    }

    pub(super) fn last(&self, spis: (u64, u64)) -> Option<LastResponse> {
        self.responses.get(&spis).cloned()
    }

    pub(super) fn forget(&mut self, spis: (u64, u64)) {
        if self.responses.remove(&spis).is_some() {
            self.order.retain(|other| *other != spis);
        }
    }
}

#[cfg(test)]
mod tests;
