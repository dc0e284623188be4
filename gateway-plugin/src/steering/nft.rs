//! Elements of nf_tables sets over netlink: one batch is one transaction, so all
//! of it happens or nothing.

use std::io;

use protocol_spec::id::SessionId;

use super::{
    SteeringError,
    message::{Attributes, Builder, Messages, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL},
    netlink::{DUMP_ATTEMPTS, Dump, Netlink},
    set::{Element, FAMILIES, Set, TABLE},
};

/// `NETLINK_NETFILTER`.
pub(super) const NETFILTER: isize = 12;
const NFTABLES: u16 = 10;
const NEW_ELEMENTS: u16 = NFTABLES << 8 | 12;
const GET_RULES: u16 = NFTABLES << 8 | 7;
const GET_ELEMENTS: u16 = NFTABLES << 8 | 13;
const DELETE_ELEMENTS: u16 = NFTABLES << 8 | 14;
const GET_GENERATION: u16 = NFTABLES << 8 | 16;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

// Attributes of an element list, of an element, and of data (nf_tables.h).
const LIST_TABLE: u16 = 1;
const RULE_TABLE: u16 = 1;
const GENERATION: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_USERDATA: u16 = 6;
const ELEMENT_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const INTERVAL_END: u32 = 1;
/// In the user data: a comment, as `nft` shows it.
const COMMENT: u8 = 0;
/// Octets of a batch that go out at once; more sessions make more batches.
const BATCH_OCTETS: usize = 4 << 20;
/// Octets of elements in one message: the list's length has 16 bits.
const LIST_OCTETS: usize = 32 << 10;

/// One change of one session.
#[derive(Clone, Debug, Default)]
pub(super) struct Change {
    pub(super) session: Option<SessionId>,
    pub(super) remove: Vec<Element>,
    pub(super) add: Vec<Element>,
}

/// The kernel's sets.
pub(super) struct Nft {
    netlink: Netlink,
    /// Transactions that the kernel took.
    taken: u32,
}

impl Nft {
    pub(super) fn open() -> Result<Self, SteeringError> {
        Ok(Self { netlink: Netlink::open(NETFILTER, &[])?, taken: 0 })
    }

    /// Makes changes, each wholly or not at all; what one is refused does not
    /// touch the others. One result for each, in order.
    pub(super) fn apply(&mut self, changes: &[Change]) -> Vec<Result<(), SteeringError>> {
        let mut results: Vec<Option<SteeringError>> = changes.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..changes.len()).collect();
        while !open.is_empty() {
            let (taken, refused) = match self.batch(changes, &open) {
                Ok(outcome) => outcome,
                // The batch as a whole: everybody in it hears why.
                Err(error) => {
                    for index in open {
                        results[index] = Some(again(&error));
                    }
                    break;
                }
            };
            if refused.is_empty() {
                open.drain(..taken);
            }
            for (index, error) in refused {
                open.retain(|&other| other != index);
                results[index] = Some(error);
            }
        }
        results.into_iter().map(|error| error.map_or(Ok(()), Err)).collect()
    }

    /// Sends one transaction of as many changes as fit. Returns how many it held,
    /// and which of them made the kernel refuse it all.
    fn batch(
        &mut self,
        changes: &[Change],
        open: &[usize],
    ) -> Result<(usize, Vec<(usize, SteeringError)>), SteeringError> {
        let mut builder = Builder::default();
        let begin = self.netlink.next_sequence();
        builder.message(BATCH_BEGIN, 0, begin, &envelope(0, NFTABLES));
        // In the order of their sequence numbers, which begin behind the batch's.
        let mut whose: Vec<(usize, Set)> = Vec::new();
        let mut last = begin;
        let mut taken = 0;
        for &index in open {
            let Some(change) = changes.get(index) else { break };
            for (kind, flags, elements) in [
                (DELETE_ELEMENTS, 0, &change.remove),
                (NEW_ELEMENTS, NLM_F_CREATE | NLM_F_EXCL, &change.add),
            ] {
                for run in elements.chunk_by(|a, b| a.set == b.set) {
                    for piece in pieces(run) {
                        let Some(first) = piece.first() else { continue };
                        last = self.netlink.next_sequence();
                        put_elements(&mut builder, (kind, flags, last), change.session, piece);
                        whose.push((index, first.set));
                    }
                }
            }
            taken += 1;
            if builder.len() > BATCH_OCTETS {
                break;
            }
        }
        // One answer is enough: refusals come unasked, and before it.
        builder.acknowledge();
        builder.message(BATCH_END, 0, self.netlink.next_sequence(), &envelope(0, NFTABLES));
        if whose.is_empty() {
            return Ok((taken, Vec::new()));
        }
        let ask = |error| SteeringError::kernel("nftables transaction", error);
        self.netlink.send(&builder.into_octets()).map_err(ask)?;

        let mut refused: Vec<(usize, SteeringError)> = Vec::new();
        loop {
            let Some(octets) = self.netlink.receive().map_err(ask)? else {
                return Err(ask(io::ErrorKind::TimedOut.into()));
            };
            for message in Messages(&octets) {
                let Some(error) = message.error() else { continue };
                if message.sequence == begin && error != 0 {
                    return Err(ask(io::Error::from_raw_os_error(-error)));
                }
                let offset = message.sequence.wrapping_sub(begin).wrapping_sub(1);
                let known = usize::try_from(offset).ok().and_then(|offset| whose.get(offset));
                if let Some(&(index, set)) = known
                    && error != 0
                    && refused.iter().all(|(other, _)| *other != index)
                {
                    let what = format!("nftables set {}", set.name());
                    let error = io::Error::from_raw_os_error(-error);
                    refused.push((index, SteeringError::kernel(what, error)));
                }
                if message.sequence == last {
                    self.taken = self.taken.wrapping_add(u32::from(refused.is_empty()));
                    return Ok((taken, refused));
                }
            }
        }
    }

    /// How many transactions others made: each changes the kernel's count. Another number
    /// than before says that rules or elements may be gone.
    pub(super) fn foreign(&mut self) -> Result<u32, SteeringError> {
        let fail = |error| SteeringError::kernel("nftables generation", error);
        let sequence = self.netlink.next_sequence();
        let mut builder = Builder::default();
        builder.message(GET_GENERATION, NLM_F_ACK, sequence, &envelope(0, 0));
        let answer = self.netlink.ask(&builder.into_octets(), sequence).map_err(fail)?;
        let generation = answer.and_then(|body| Attributes(body.get(4..)?).be32(GENERATION));
        let why = "it has no number";
        let generation =
            generation.ok_or(SteeringError::Answer { what: "nftables generation", why })?;
        Ok(generation.wrapping_sub(self.taken))
    }

    /// How many rules our tables have.
    pub(super) fn rules(&mut self) -> Result<usize, SteeringError> {
        let fail = |error| SteeringError::kernel("nftables rules", error);
        let mut count = 0;
        for family in FAMILIES {
            let mut left = DUMP_ATTEMPTS;
            count += loop {
                let sequence = self.netlink.next_sequence();
                let mut builder = Builder::default();
                builder.message(GET_RULES, NLM_F_DUMP, sequence, &envelope(family, 0));
                builder.put_text(RULE_TABLE, TABLE);
                match self.netlink.dump(&builder.into_octets(), sequence).map_err(fail)? {
                    Dump::Whole(bodies) => break bodies.len(),
                    Dump::Interrupted if left > 0 => left -= 1,
                    Dump::Interrupted => {
                        let why = "it changes without pause";
                        return Err(SteeringError::Answer { what: "nftables dump", why });
                    }
                }
            };
        }
        Ok(count)
    }

    /// All elements of a set, with the session in their comment.
    pub(super) fn elements(
        &mut self,
        set: Set,
    ) -> Result<Vec<(Element, Option<SessionId>)>, SteeringError> {
        let fail = |error| SteeringError::kernel(format!("nftables set {}", set.name()), error);
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.netlink.next_sequence();
            let mut builder = Builder::default();
            builder.message(GET_ELEMENTS, NLM_F_DUMP, sequence, &envelope(set.family(), 0));
            builder.put_text(LIST_TABLE, TABLE);
            builder.put_text(LIST_SET, set.name());
            match self.netlink.dump(&builder.into_octets(), sequence).map_err(fail)? {
                Dump::Whole(bodies) => return Ok(read_elements(set, &bodies)),
                Dump::Interrupted => {}
            }
        }
        Err(SteeringError::Answer { what: "nftables dump", why: "it changes without pause" })
    }
}

/// `struct nfgenmsg`.
pub(super) fn envelope(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// The same refusal for one more session.
fn again(error: &SteeringError) -> SteeringError {
    match error {
        SteeringError::Kernel { what, error, hint } => SteeringError::Kernel {
            what: what.clone(),
            error: error
                .raw_os_error()
                .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error),
            hint,
        },
        other => SteeringError::Traffic(other.to_string()),
    }
}

/// Splits elements of one set so that each part fits a message.
fn pieces(elements: &[Element]) -> impl Iterator<Item = &[Element]> {
    /// Octets of one element at most: two keys, data, comment and attributes.
    const ELEMENT: usize = 256;
    elements.chunks(LIST_OCTETS / ELEMENT)
}

fn put_elements(
    builder: &mut Builder,
    (kind, flags, sequence): (u16, u16, u32),
    session: Option<SessionId>,
    elements: &[Element],
) {
    let Some(first) = elements.first() else { return };
    builder.message(kind, flags, sequence, &envelope(first.set.family(), 0));
    builder.put_text(LIST_TABLE, TABLE);
    builder.put_text(LIST_SET, first.set.name());
    builder.nest(LIST_ELEMENTS, |list| {
        for element in elements {
            list.nest(LIST_ELEMENT, |inside| {
                inside.nest(ELEMENT_KEY, |key| key.put(DATA_VALUE, &element.key));
                if let Some(end) = element.end.as_ref().filter(|_| element.set.spans()) {
                    inside.nest(ELEMENT_KEY_END, |key| key.put(DATA_VALUE, end));
                }
                if let Some(data) = &element.data {
                    inside.nest(ELEMENT_DATA, |value| value.put(DATA_VALUE, data));
                }
                if let Some(session) = session {
                    inside.put(ELEMENT_USERDATA, &comment(session));
                }
            });
            if let Some(end) = element.end.as_ref().filter(|_| !element.set.spans()) {
                list.nest(LIST_ELEMENT, |inside| {
                    inside.put(ELEMENT_FLAGS, &INTERVAL_END.to_be_bytes());
                    inside.nest(ELEMENT_KEY, |key| key.put(DATA_VALUE, end));
                });
            }
        }
    });
}

/// A session id as `nft` writes a comment: type, length, text with a zero.
fn comment(session: SessionId) -> Vec<u8> {
    let text = session.to_string();
    let mut octets = vec![COMMENT, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    octets.extend_from_slice(text.as_bytes());
    octets.push(0);
    octets
}

/// The session id in user data, if it is one of ours.
fn read_comment(octets: &[u8]) -> Option<SessionId> {
    let [COMMENT, length, rest @ ..] = octets else { return None };
    let text = rest.get(..usize::from(*length))?.strip_suffix(&[0])?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn read_elements(set: Set, bodies: &[Vec<u8>]) -> Vec<(Element, Option<SessionId>)> {
    let mut found: Vec<(Element, Option<SessionId>)> = Vec::new();
    let mut ends: Vec<Vec<u8>> = Vec::new();
    for body in bodies {
        let list = Attributes(body.get(4..).unwrap_or_default()).inside(LIST_ELEMENTS);
        for (_, octets) in list {
            let inside = Attributes(octets);
            let Some(key) = inside.inside(ELEMENT_KEY).find(DATA_VALUE) else { continue };
            if inside.be32(ELEMENT_FLAGS).unwrap_or(0) & INTERVAL_END != 0 {
                ends.push(key.to_vec());
                continue;
            }
            let data = inside.inside(ELEMENT_DATA).find(DATA_VALUE).map(<[u8]>::to_vec);
            let session = inside.find(ELEMENT_USERDATA).and_then(read_comment);
            let end = inside.inside(ELEMENT_KEY_END).find(DATA_VALUE).map(<[u8]>::to_vec);
            found.push((Element { set, key: key.to_vec(), end, data }, session));
        }
    }
    // An interval ends at the nearest end above its key: intervals never overlap.
    ends.sort_unstable();
    for (element, _) in found.iter_mut().filter(|_| !set.spans()) {
        let at = ends.partition_point(|end| *end <= element.key);
        element.end = ends.get(at).cloned();
    }
    found
}

#[cfg(test)]
mod tests;
