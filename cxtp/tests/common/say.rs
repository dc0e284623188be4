//! What gateways say to each other, made by hand.

use protocol_spec::{
    context::Context,
    frame::Header,
    id::{BatchId, GatewayEpoch, Name, SessionEpoch, SessionId},
    message::{Ctd, CtdEntry, Hello, Lane, Message, Pctd, PctdEntry, VERSION},
    profile::{Capabilities, FeatureSet},
    samples,
    transfer::TransferMode,
};

use super::KEY_MARK;

/// Sixteen octets for the number of a session, batch or request.
pub(crate) fn id(number: u64) -> [u8; 16] {
    let mut octets = [0xf0; 16];
    octets[8..].copy_from_slice(&number.to_be_bytes());
    octets
}

/// Hexadecimal digits.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// A frame as it is written, whatever it claims.
pub(crate) fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let mut octets = Header { kind, flags, length }.to_octets().to_vec();
    octets.extend_from_slice(body);
    octets
}

/// A session that has nothing in common with one of another number; every octet
/// of its keys is [`KEY_MARK`].
pub(crate) fn session(number: u32) -> Context {
    let mut context = samples::context(KEY_MARK);
    context.session = SessionId(id(number.into()));
    if let Some(ike) = &mut context.ike {
        ike.spi_initiator = u64::from(number) << 32 | 1;
        ike.spi_responder = u64::from(number) << 32 | 2;
        let [_, b, c, d] = number.to_be_bytes();
        ike.virtual_ips[0].address = [10, b, c, d].into();
    }
    context.children = vec![samples::child(KEY_MARK, 0x1000_0000 | number)];
    context
}

/// A second copy, which the type itself has not on purpose.
pub(crate) fn copy(context: &Context) -> Context {
    let octets = protocol_spec::codec::encode(context).unwrap();
    protocol_spec::codec::decode(&octets).unwrap()
}

/// What an honest gateway can carry: everything.
pub(crate) fn capabilities() -> Capabilities {
    Capabilities {
        features: FeatureSet(u64::MAX),
        child_transforms: [(20, 128, 0), (20, 256, 0)].into(),
        ike_transforms: [].into(),
        max_replay_window: 4096,
        max_sessions: 1 << 20,
    }
}

/// The hello of an honest gateway.
pub(crate) fn hello(name: &str, lane: Lane) -> Hello {
    Hello {
        versions: (VERSION, VERSION),
        name: self::name(name),
        epoch: GatewayEpoch(1),
        lane,
        capabilities: Some(capabilities()),
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A PCTD with good grants for each context.
pub(crate) fn pushed(batch: u64, epoch: u64, contexts: Vec<Context>) -> Message {
    let entries = contexts
        .into_iter()
        .map(|context| PctdEntry {
            epoch: SessionEpoch(epoch),
            grants: samples::grants(&context),
            context,
        })
        .collect();
    Message::Pctd(Pctd { batch: BatchId(id(batch)), mode: TransferMode::Predictive, entries })
}

/// The CTD that commits one session.
pub(crate) fn committed(batch: u64, epoch: u64, context: &Context) -> Message {
    let entry = CtdEntry {
        session: context.session,
        epoch: SessionEpoch(epoch),
        finals: samples::finals(context),
    };
    Message::Ctd(Ctd { batch: BatchId(id(batch)), entries: vec![entry] })
}
