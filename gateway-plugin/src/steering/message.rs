//! Netlink messages as octets: a builder and a reader that never panics, for the
//! few messages of nf_tables, nfnetlink_queue and rtnetlink that steering speaks.

/// Header octets of a netlink message (`struct nlmsghdr`).
pub(super) const HEADER: usize = 16;
/// Header octets of an attribute (`struct nlattr`).
const ATTRIBUTE: usize = 4;
const NESTED: u16 = 0x8000;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLMSG_OVERRUN: u16 = 4;

/// One or more messages in the making.
#[derive(Default)]
pub(super) struct Builder {
    octets: Vec<u8>,
    /// Where the message that is being written begins.
    start: usize,
}

impl Builder {
    /// Begins a message; whatever was written before is a message of its own.
    pub(super) fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
        self.finish();
        self.start = self.octets.len();
        self.octets.extend_from_slice(&[0; 4]);
        self.octets.extend_from_slice(&kind.to_ne_bytes());
        self.octets.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.octets.extend_from_slice(&sequence.to_ne_bytes());
        self.octets.extend_from_slice(&[0; 4]);
        self.octets.extend_from_slice(body);
        self.pad();
    }

    /// Asks for an acknowledgement of the message that is being written.
    pub(super) fn acknowledge(&mut self) {
        let flags = self.octets.iter_mut().skip(self.start + 6);
        for (octet, add) in flags.zip(NLM_F_ACK.to_ne_bytes()) {
            *octet |= add;
        }
    }

    /// Adds an attribute.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
        self.octets.extend_from_slice(&length.to_ne_bytes());
        self.octets.extend_from_slice(&kind.to_ne_bytes());
        self.octets.extend_from_slice(value);
        self.pad();
    }

    /// Adds a text with its closing zero.
    pub(super) fn put_text(&mut self, kind: u16, text: &str) {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value);
    }

    /// Adds an attribute that holds attributes.
    pub(super) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.octets.len();
        self.put(kind | NESTED, &[]);
        inside(self);
        let length = u16::try_from(self.octets.len() - at).unwrap_or(u16::MAX);
        self.octets[at..at + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Octets written so far.
    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    /// The messages.
    pub(super) fn into_octets(mut self) -> Vec<u8> {
        self.finish();
        self.octets
    }

    fn finish(&mut self) {
        let length = self.octets.len() - self.start;
        if length >= HEADER {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.octets[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        self.octets.resize(self.octets.len().next_multiple_of(4), 0);
    }
}

/// A message that was received.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

impl Message<'_> {
    /// The error number of an NLMSG_ERROR, 0 for an acknowledgement.
    pub(super) fn error(&self) -> Option<i32> {
        let at = self.body.first_chunk::<4>()?;
        (self.kind == NLMSG_ERROR).then(|| i32::from_ne_bytes(*at))
    }

    /// The attributes behind a fixed part of `fixed` octets.
    pub(super) fn attributes(&self, fixed: usize) -> Attributes<'_> {
        Attributes(self.body.get(fixed.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// Splits what one receive call returned into its messages; ends at what is not
/// a message.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = self.0.first_chunk::<HEADER>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    }
}

/// Attributes in the order in which they came; ends at what is not one.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// The value of the first attribute of a kind.
    pub(super) fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The attributes inside one.
    pub(super) fn inside(self, kind: u16) -> Self {
        Self(self.find(kind).unwrap_or_default())
    }

    /// A number in network order.
    pub(super) fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.find(kind)?.first_chunk()?))
    }

    /// A number in this machine's order.
    pub(super) fn ne32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.find(kind)?.first_chunk()?))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1] = *self.0.first_chunk::<ATTRIBUTE>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = self.0.get(ATTRIBUTE..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & !(NESTED | 0x4000), value))
    }
}

#[cfg(test)]
mod tests;
