//! Requests that we send: one INFORMATIONAL exchange each, as a machine without
//! socket, clock and randomness. One contract drives it:
//!
//! 1. build a [`Request`] at a time `now` (any clock that only goes forward);
//! 2. call [`Request::poll_output`] until it says [`Output::Wait`] or [`Output::Done`];
//! 3. hand every IKE datagram that arrives to [`Request::handle_datagram`] and
//!    poll again; poll again too when the time of `Wait` has come.
//!
//! A Message ID is used for one octet string only (I4): a request is sealed once
//! and repeated as it is. The number is used up when the request has been sent,
//! whether or not it was answered: the daemon that takes the session over goes on
//! after it. The window of the IKE SA must have room for it.

use std::{net::IpAddr, time::Duration};

use super::{
    Association, IkeError,
    crypt::Iv,
    message::{Header, INFORMATIONAL, Payload},
    notify::{MessageIds, Notify, additional_addresses, kind},
};

/// When a request is sent again, and when it is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the first transmission to the second; doubles from there on.
    pub first: Duration,
    /// Longest time between two transmissions.
    pub longest: Duration,
    /// From the first transmission until the request is given up.
    pub total: Duration,
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this IKE message to the end user.
    Send(Vec<u8>),
    /// Nothing until a datagram arrives or this time has come.
    Wait(Duration),
    /// It is over.
    Done(Outcome),
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The end user answered.
    Answered,
    /// The end user answered with this error notification (below 16384).
    Refused(u16),
    /// The answer did not return our COOKIE2: somebody answered who did not see
    /// the request, and RFC 4555 section 3.7 wants the IKE SA closed.
    CookieMismatch,
    /// The Message IDs are agreed on.
    Synced {
        /// Message ID of our next request.
        next_send: u32,
        /// Message ID of the request that we expect next.
        next_receive: u32,
    },
    /// An authentic answer that RFC 6311 forbids.
    Misbehaved(&'static str),
    /// No answer within [`Pace::total`].
    TimedOut,
}

/// One request and the wait for its answer.
#[derive(Debug)]
pub struct Request {
    message_id: u32,
    asked: Asked,
    /// One that is repeated, or the attempts of a synchronisation, each sent once.
    datagrams: Vec<Vec<u8>>,
    sent: usize,
    pace: Pace,
    pause: Duration,
    next_at: Duration,
    deadline: Duration,
    outcome: Option<Outcome>,
}

#[derive(Debug)]
enum Asked {
    Plain {
        cookie: Option<[u8; 16]>,
    },
    /// What each attempt offered.
    MessageIds(Vec<MessageIds>),
}

/// From which Message IDs a synchronisation starts (RFC 6311 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncOffer {
    /// M1 of the first attempt. Must lie above every Message ID that was or may
    /// have been used towards the end user and above the M1 of every earlier
    /// synchronisation, since the end user drops anything else silently: the last
    /// known one, the window and a margin. Skipping numbers costs nothing.
    pub next_send: u32,
    /// P1: the Message ID after the last request known to have come.
    pub next_receive: u32,
    /// How much higher each further attempt offers: at least 1, since the end user
    /// drops a repeated M1 if only its answer was lost.
    pub step: u32,
}

/// Random octets for one attempt of a synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Fresh for each attempt.
    pub iv: Iv,
    /// Fresh for each attempt: tells its answer from others.
    pub nonce: [u8; 4],
}

impl Request {
    /// Tells the end user our addresses (RFC 4555 section 3.6): the one that the
    /// message is sent from and `additional` ones, which together replace all that
    /// it knew. An end user that is the MOBIKE initiator and no longer finds the
    /// address in use among them moves the session to the new one. By the RFC it
    /// says so in an UPDATE_SA_ADDRESSES of its own, which [`Responder`] or the
    /// daemon answers; strongSwan moves at once and sends none, so
    /// [`Outcome::Answered`] is all that there is to wait for.
    ///
    /// For the MOBIKE responder only: who answered the very first IKE_SA_INIT,
    /// whoever rekeyed the IKE SA later. `cookie` is a random COOKIE2, if the
    /// answer is to prove that the end user can be reached there.
    ///
    /// [`Responder`]: super::answer::Responder
    ///
    /// # Errors
    /// [`IkeError::TooLong`] for more addresses than a message holds.
    pub fn announce_address(
        association: &Association,
        message_id: u32,
        additional: &[IpAddr],
        cookie: Option<[u8; 16]>,
        iv: &Iv,
        pace: Pace,
        now: Duration,
    ) -> Result<Self, IkeError> {
        let cookie_notify = cookie.map(|cookie| Notify::new(kind::COOKIE2, cookie.to_vec()));
        let payloads: Vec<Payload> = additional_addresses(additional)
            .iter()
            .chain(cookie_notify.iter())
            .map(Notify::payload)
            .collect();
        Self::plain(association, message_id, &payloads, cookie, iv, pace, now)
    }

    /// A request that was sealed by [`Request::announce_address`] before and may have
    /// been sent: the same octets under its Message ID.
    pub fn announce_again(
        message_id: u32,
        cookie: Option<[u8; 16]>,
        datagram: Vec<u8>,
        pace: Pace,
        now: Duration,
    ) -> Self {
        Self::new(message_id, Asked::Plain { cookie }, vec![datagram], pace, now)
    }

    /// Asks whether the end user lives: an empty request (RFC 7296 section 1.4).
    ///
    /// # Errors
    /// None that a valid association can cause.
    pub fn dead_peer_detection(
        association: &Association,
        message_id: u32,
        iv: &Iv,
        pace: Pace,
        now: Duration,
    ) -> Result<Self, IkeError> {
        Self::plain(association, message_id, &[], None, iv, pace, now)
    }

    fn plain(
        association: &Association,
        message_id: u32,
        payloads: &[Payload],
        cookie: Option<[u8; 16]>,
        iv: &Iv,
        pace: Pace,
        now: Duration,
    ) -> Result<Self, IkeError> {
        let datagrams = vec![association.seal(message_id, false, payloads, iv)?];
        Ok(Self::new(message_id, Asked::Plain { cookie }, datagrams, pace, now))
    }

    /// Agrees with the end user on the Message IDs (RFC 6311), for an IKE SA on
    /// which both sides announced it: Message ID 0, which counts for nothing. Each
    /// attempt takes one of `draws`, offers a higher M1 and has a new nonce; when
    /// they are used up the last one's answer is awaited.
    ///
    /// A strongSwan end user with an AEAD cipher for IKE answers at most one such
    /// request in the life of an IKE SA and gives the IKE SA up at a second one:
    /// with such a peer use one draw.
    ///
    /// # Errors
    /// [`IkeError::NoMessageIdSync`] if it was not announced by both,
    /// [`IkeError::TooLong`] if there is no draw or M1 would pass 32 bits.
    pub fn message_id_sync(
        association: &Association,
        offer: SyncOffer,
        draws: &[Draw],
        pace: Pace,
        now: Duration,
    ) -> Result<Self, IkeError> {
        if !association.has_message_id_sync() {
            return Err(IkeError::NoMessageIdSync);
        }
        let (mut offers, mut datagrams) = (Vec::new(), Vec::new());
        let mut expected_send = Some(offer.next_send);
        for draw in draws {
            let ids = MessageIds {
                nonce: draw.nonce,
                expected_send: expected_send.ok_or(IkeError::TooLong)?,
                expected_receive: offer.next_receive,
            };
            datagrams.push(association.seal(0, false, &[ids.notify().payload()], &draw.iv)?);
            offers.push(ids);
            expected_send = ids.expected_send.checked_add(offer.step.max(1));
        }
        if offers.is_empty() {
            return Err(IkeError::TooLong);
        }
        Ok(Self::new(0, Asked::MessageIds(offers), datagrams, pace, now))
    }

    fn new(
        message_id: u32,
        asked: Asked,
        datagrams: Vec<Vec<u8>>,
        pace: Pace,
        now: Duration,
    ) -> Self {
        Self {
            message_id,
            asked,
            datagrams,
            sent: 0,
            pace,
            pause: pace.first,
            next_at: now,
            deadline: now.saturating_add(pace.total),
            outcome: None,
        }
    }

    /// Its Message ID.
    pub fn message_id(&self) -> u32 {
        self.message_id
    }

    /// Its octets, as they are sent first.
    pub fn datagram(&self) -> &[u8] {
        self.datagrams.first().map_or(&[], Vec::as_slice)
    }

    /// Highest M1 that was sent, of a synchronisation: a later one starts above it.
    pub fn highest_offer(&self) -> Option<u32> {
        self.latest_offer().map(|ids| ids.expected_send)
    }

    /// What to do next at the time `now`.
    pub fn poll_output(&mut self, now: Duration) -> Output {
        if self.outcome.is_none() && now >= self.deadline {
            self.outcome = Some(Outcome::TimedOut);
        }
        if let Some(outcome) = self.outcome {
            return Output::Done(outcome);
        }
        match self.due() {
            Some(datagram) if now >= self.next_at => {
                self.sent = self.sent.saturating_add(1);
                self.next_at = now.saturating_add(self.pause);
                self.pause = self.pause.saturating_mul(2).min(self.pace.longest);
                Output::Send(datagram)
            }
            Some(_) => Output::Wait(self.next_at.min(self.deadline)),
            None => Output::Wait(self.deadline),
        }
    }

    /// What the next transmission would send.
    fn due(&self) -> Option<Vec<u8>> {
        let index = match self.asked {
            Asked::Plain { .. } => 0,
            Asked::MessageIds(_) => self.sent,
        };
        self.datagrams.get(index).cloned()
    }

    /// Looks at an IKE datagram (without non-ESP marker) that arrived, and says
    /// whether it was the answer. Anything else, forged or late, changes nothing.
    pub fn handle_datagram(&mut self, association: &Association, datagram: &[u8]) -> bool {
        if self.outcome.is_some() || self.sent == 0 {
            return false;
        }
        // Cheap looks first: most of what arrives is for somebody else.
        let ours = Header::parse(datagram).is_ok_and(|header| {
            header.response
                && header.exchange == INFORMATIONAL
                && header.message_id == self.message_id
                && association.is_from_peer(&header)
        });
        if !ours {
            return false;
        }
        let Ok(message) = association.open(datagram) else { return false };
        self.outcome = match &self.asked {
            Asked::Plain { cookie } => Some(judge_plain(&message.payloads, cookie.as_ref())),
            Asked::MessageIds(_) => {
                self.latest_offer().and_then(|offer| judge_sync(&message.payloads, offer))
            }
        };
        self.outcome.is_some()
    }

    /// The attempt that was sent last. Only its answer counts: once the end user
    /// has seen its M1, it drops all attempts before, however late they arrive.
    fn latest_offer(&self) -> Option<&MessageIds> {
        match &self.asked {
            Asked::MessageIds(offers) => offers.get(self.sent.checked_sub(1)?),
            Asked::Plain { .. } => None,
        }
    }
}

fn judge_plain(payloads: &[Payload], cookie: Option<&[u8; 16]>) -> Outcome {
    let notifies: Vec<Notify> =
        payloads.iter().filter_map(|payload| Notify::parse(payload).ok()).collect();
    if let Some(error) = notifies.iter().find(|notify| notify.is_error()) {
        return Outcome::Refused(error.kind);
    }
    let returned = |cookie: &[u8; 16]| {
        notifies.iter().any(|notify| notify.kind == kind::COOKIE2 && notify.data == cookie)
    };
    if cookie.is_none_or(returned) { Outcome::Answered } else { Outcome::CookieMismatch }
}

/// RFC 6311 section 5.1; `None` for an answer to another attempt.
fn judge_sync(payloads: &[Payload], offer: &MessageIds) -> Option<Outcome> {
    let [payload] = payloads else {
        return Some(Outcome::Misbehaved("its answer has other payloads than one notification"));
    };
    let ids = Notify::parse(payload).ok().and_then(|notify| MessageIds::from_notify(&notify));
    let Some(ids) = ids else {
        return Some(Outcome::Misbehaved("its answer holds no Message IDs"));
    };
    if ids.nonce != offer.nonce {
        return None;
    }
    if ids.expected_receive < offer.expected_send || ids.expected_send < offer.expected_receive {
        return Some(Outcome::Misbehaved("its answer goes below the numbers that we offered"));
    }
    Some(Outcome::Synced { next_send: ids.expected_receive, next_receive: ids.expected_send })
}

#[cfg(test)]
mod tests;
