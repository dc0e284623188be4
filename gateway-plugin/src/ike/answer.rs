//! Answers to requests of the end user that arrive while no daemon owns the
//! session: a liveness check, a MOBIKE address update, a repeated request whose
//! answer was lost. Whatever needs a daemon (a rekey, a Delete) is left to it; the
//! end user repeats it.

use std::net::{IpAddr, SocketAddr};

use super::{
    Association, IkeError,
    crypt::Iv,
    message::{Header, INFORMATIONAL, Payload, payload},
    notify::{MessageIds, Notify, additional_address, kind, nat_detection, no_nats_allowed},
};

/// The answer that was sent to the request before the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastResponse {
    /// Message ID of request and response.
    pub message_id: u32,
    /// The IKE messages as they were sent; more than one if the response was
    /// fragmented (RFC 7383).
    pub datagrams: Vec<Vec<u8>>,
}

impl LastResponse {
    /// Its octets: IKE messages behind one another.
    pub fn to_octets(&self) -> Vec<u8> {
        self.datagrams.concat()
    }

    /// What [`LastResponse::to_octets`] wrote; the length in each IKE header says
    /// where the next one begins.
    ///
    /// # Errors
    /// [`IkeError::Malformed`] if it is not responses to one request.
    pub fn from_octets(mut octets: &[u8]) -> Result<Self, IkeError> {
        let mut datagrams = Vec::new();
        let mut message_id = None;
        while !octets.is_empty() {
            let length = Header::length(octets)?;
            let (message, rest) = octets
                .split_at_checked(length)
                .ok_or(IkeError::Malformed("shorter than its length field says"))?;
            let header = Header::parse(message)?;
            if !header.response || message_id.is_some_and(|id| id != header.message_id) {
                return Err(IkeError::Malformed("not the response to one request"));
            }
            message_id = Some(header.message_id);
            datagrams.push(message.to_vec());
            octets = rest;
        }
        let message_id = message_id.ok_or(IkeError::Malformed("no response"))?;
        Ok(Self { message_id, datagrams })
    }
}

/// From where to where a request came, as its IP and UDP headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The end user.
    pub source: SocketAddr,
    /// Us.
    pub destination: SocketAddr,
}

/// What is to be done about a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: it is no request of this end user, or out of its window.
    Ignore,
    /// The request was answered before: send those octets again.
    Repeat(Vec<Vec<u8>>),
    /// A new request, answered.
    Reply {
        /// The response to send, back to where the request came from.
        datagram: Vec<u8>,
        /// What the daemon must learn from the request.
        learnt: Learnt,
    },
    /// The Message IDs were set anew (RFC 6311).
    Synced {
        /// The response to send.
        datagram: Vec<u8>,
        /// Message ID of our next request.
        next_send: u32,
        /// Message ID of the request that we expect next.
        next_receive: u32,
    },
    /// An authentic new request that a daemon must answer.
    Leave,
}

/// What an answered request said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learnt {
    /// The end user wants the SAs at the addresses that this request came from and
    /// went to (UPDATE_SA_ADDRESSES).
    pub update_addresses: bool,
    /// All further addresses of the end user, if it gave a list.
    pub addresses: Option<Vec<IpAddr>>,
}

/// Answers the requests of one IKE SA's end user, with a window of one.
#[derive(Debug)]
pub struct Responder {
    next: u32,
    last: Option<LastResponse>,
    sync: Option<SyncSide>,
}

/// The answering side of RFC 6311.
#[derive(Debug)]
struct SyncSide {
    next_send: u32,
    highest_offer: Option<u32>,
}

impl Responder {
    /// Expects the request `next`; `last` is the answer to the one before it, if
    /// its octets are known.
    pub fn new(next: u32, last: Option<LastResponse>) -> Self {
        // An answer to another request than the last one is never asked for again.
        let last = last.filter(|last| last.message_id.checked_add(1) == Some(next));
        Self { next, last, sync: None }
    }

    /// Answers Message ID synchronisations too (RFC 6311), which both sides must
    /// have announced. `next_send` is the Message ID of our own next request.
    pub fn with_message_id_sync(self, next_send: u32) -> Self {
        Self { sync: Some(SyncSide { next_send, highest_offer: None }), ..self }
    }

    /// The Message ID of the request that is expected next: what the daemon that
    /// takes over must expect.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The answer to the request before that, to be kept for its repetition.
    pub fn last_response(&self) -> Option<&LastResponse> {
        self.last.as_ref()
    }

    /// Looks at an IKE datagram (without non-ESP marker) that arrived. `iv` is used
    /// if it is answered anew.
    ///
    /// # Errors
    /// [`IkeError::TooLong`] if the answer, which echoes parts of the request, fits
    /// no datagram; then nothing has changed.
    pub fn handle_datagram(
        &mut self,
        association: &Association,
        datagram: &[u8],
        path: Path,
        iv: &Iv,
    ) -> Result<Answer, IkeError> {
        let request = Header::parse(datagram)
            .is_ok_and(|header| !header.response && association.is_from_peer(&header));
        let message = match association.open(datagram) {
            Ok(message) if request => message,
            _ => return Ok(Answer::Ignore),
        };
        let Header { exchange, message_id, .. } = message.header;
        if exchange == INFORMATIONAL
            && message_id == 0
            && let Some(offer) = offered(&message.payloads)
        {
            return self.synchronise(association, offer, iv);
        }
        if message_id.checked_add(1) == Some(self.next) {
            return Ok(match &self.last {
                Some(last) => Answer::Repeat(last.datagrams.clone()),
                None => Answer::Ignore,
            });
        }
        if message_id != self.next {
            return Ok(Answer::Ignore);
        }
        let answerable = (exchange == INFORMATIONAL)
            .then(|| reply(association.spis(), &message.payloads, path))
            .flatten();
        let (Some((payloads, learnt)), Some(next)) = (answerable, self.next.checked_add(1)) else {
            return Ok(Answer::Leave);
        };
        let datagram = association.seal(message_id, true, &payloads, iv)?;
        self.last = Some(LastResponse { message_id, datagrams: vec![datagram.clone()] });
        self.next = next;
        Ok(Answer::Reply { datagram, learnt })
    }

    /// RFC 6311 section 5.1, as the member of the pair that did not fail over.
    fn synchronise(
        &mut self,
        association: &Association,
        offer: MessageIds,
        iv: &Iv,
    ) -> Result<Answer, IkeError> {
        let Some(side) = &mut self.sync else { return Ok(Answer::Ignore) };
        // Must exceed all that was seen from there, earlier offers included; this
        // also stops replays.
        let new = offer.expected_send >= self.next
            && side.highest_offer.is_none_or(|highest| offer.expected_send > highest);
        if !new {
            return Ok(Answer::Ignore);
        }
        let ids = MessageIds {
            nonce: offer.nonce,
            expected_send: offer.expected_receive.max(side.next_send),
            expected_receive: offer.expected_send,
        };
        let datagram = association.seal(0, true, &[ids.notify().payload()], iv)?;
        side.highest_offer = Some(offer.expected_send);
        side.next_send = ids.expected_send;
        self.next = ids.expected_receive;
        self.last = None;
        Ok(Answer::Synced {
            datagram,
            next_send: ids.expected_send,
            next_receive: ids.expected_receive,
        })
    }
}

/// The offer of a synchronisation: one set of Message IDs, and beside it at most
/// the replay counters' notification.
fn offered(payloads: &[Payload]) -> Option<MessageIds> {
    let notifies: Vec<Notify> =
        payloads.iter().map(|payload| Notify::parse(payload).ok()).collect::<Option<_>>()?;
    let (ids, others): (Vec<_>, Vec<_>) =
        notifies.iter().partition(|notify| notify.kind == kind::MESSAGE_ID_SYNC);
    match ids.as_slice() {
        [ids] if others.iter().all(|notify| notify.kind == kind::REPLAY_COUNTER_SYNC) => {
            MessageIds::from_notify(ids)
        }
        _ => None,
    }
}

/// The payloads of the answer, or `None` if only a daemon can answer.
fn reply(spis: (u64, u64), payloads: &[Payload], path: Path) -> Option<(Vec<Payload>, Learnt)> {
    let mut learnt = Learnt::default();
    let (mut answer, mut refusal, mut detect_nat) = (Vec::new(), None, false);
    for found in payloads {
        if found.kind != payload::NOTIFY {
            return None;
        }
        let notify = Notify::parse(found).ok()?;
        match notify.kind {
            kind::UPDATE_SA_ADDRESSES => learnt.update_addresses = true,
            kind::ADDITIONAL_IP4_ADDRESS | kind::ADDITIONAL_IP6_ADDRESS => {
                let address = additional_address(&notify)?;
                learnt.addresses.get_or_insert_default().push(address);
            }
            kind::NO_ADDITIONAL_ADDRESSES => {
                learnt.addresses.get_or_insert_default();
            }
            kind::COOKIE2 => answer.push(notify),
            kind::NAT_DETECTION_SOURCE_IP | kind::NAT_DETECTION_DESTINATION_IP => {
                detect_nat = true;
            }
            kind::NO_NATS_ALLOWED => {
                if notify != no_nats_allowed(path.source, path.destination) {
                    refusal = Some(Notify::new(kind::UNEXPECTED_NAT_DETECTED, Vec::new()));
                }
            }
            // Synchronisations have a message of their own.
            kind::MESSAGE_ID_SYNC | kind::REPLAY_COUNTER_SYNC => return None,
            // Unknown status types are to be ignored (RFC 7296 section 3.10.1).
            _ if !notify.is_error() => {}
            _ => return None,
        }
    }
    if detect_nat {
        answer.extend(nat_detection(spis, path.destination, path.source));
    }
    if refusal.is_some() {
        learnt.update_addresses = false;
    }
    answer.extend(refusal);
    Some((answer.iter().map(Notify::payload).collect(), learnt))
}

#[cfg(test)]
mod tests;
