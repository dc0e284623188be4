//! What the fuzz targets and the corpus test do with octets: whatever they are,
//! nothing panics, and what is accepted means one thing only.

use crate::{
    codec,
    context::Context,
    frame::{HEADER, Header},
    id::{BatchId, Identity, Name, RequestId, SessionId},
    message::{Kind, Message, PctdEntry},
    token::{Order, Token},
};

/// A whole frame, as it comes from a peer.
pub fn frame(octets: &[u8]) {
    if let Ok(Some(message)) = Message::from_frame(octets) {
        same_body(&message, octets.get(HEADER..).unwrap_or_default());
    }
}

/// A message type and a body: finds bodies faster than whole frames do.
pub fn message(octets: &[u8]) {
    let Some((kind, body)) = octets.split_first() else { return };
    let Some(kind) = Kind::ALL.get(usize::from(*kind) % Kind::ALL.len()) else { return };
    let Ok(length) = u32::try_from(body.len()) else { return };
    let header = Header { kind: *kind as u8, flags: 0, length };
    if let Ok(Some(message)) = Message::from_parts(header, body) {
        same_body(&message, body);
        match &message {
            Message::Pctd(pctd) => {
                pctd.entries.iter().for_each(|entry| use_context(&entry.context));
            }
            Message::ReplicaDelta(delta) => {
                delta
                    .entries
                    .iter()
                    .filter_map(|entry| entry.context.as_ref())
                    .for_each(use_context);
            }
            _ => {}
        }
    }
}

/// A context, and what a target does with one.
pub fn context(octets: &[u8]) {
    if let Ok(context) = codec::decode::<Context>(octets) {
        use_context(&context);
    }
    if let Ok(entry) = codec::decode::<PctdEntry>(octets) {
        let _ = entry.check();
    }
}

/// Tokens and orders.
pub fn authority(octets: &[u8]) {
    if let Ok(token) = codec::decode::<Token>(octets) {
        let key = crate::KeyMaterial::new(vec![0; 32]);
        assert!(!token.verify(&key, 0), "a function that does not exist");
        let _ = token.verify(&key, 5);
    }
    if let Ok(order) = codec::decode::<Order>(octets) {
        assert!(!order.verify(&[0; 31]), "a key of the wrong length");
        let _ = order.verify(&[1; 32]);
    }
}

/// Texts that name somebody.
pub fn identity(octets: &[u8]) {
    let Ok(text) = std::str::from_utf8(octets) else { return };
    if let Ok(identity) = text.parse::<Identity>() {
        assert_eq!(identity.to_string(), text, "an identity has one form only");
    }
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.as_str(), text, "a name is its text");
    }
    let _ = text.parse::<SessionId>();
    let _ = text.parse::<BatchId>();
    let _ = text.parse::<RequestId>();
}

fn use_context(context: &Context) {
    let _ = context.check();
    let _ = context.check_grants(&[]);
    let profile = context.profile();
    for child in &profile.children {
        let _ = child.usage.grant(std::time::Duration::from_secs(1), crate::limits::GRANT_SPAN);
    }
    let _ = context.ike.as_ref().and_then(crate::context::IkeSa::sk_d);
}

fn same_body(message: &Message, body: &[u8]) {
    match message.to_frame() {
        Ok(again) => assert_eq!(again.get(HEADER..), Some(body), "a body has one form only"),
        Err(e) => panic!("what was read cannot be written: {e}"),
    }
}
