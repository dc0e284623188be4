//! Contexts of the world's sessions: what the model needs of one, and one made
//! from that.

use protocol_spec::{
    context::{
        Authentication, ChildSa, ChildTransforms, Context, ENCR_AES_GCM_16, Extensions,
        Identification, IkeKeys, IkeSa, IkeSecrets, IkeTransforms, InboundSa, Lifetime, Load, Mode,
        Nat, OutboundSa, Protocol, SaKeys, SideEffects,
    },
    id::{Generation, SessionId},
    key::KeyMaterial,
};

use super::gateway_model::{MessageIds, Sa, Window};

/// What a context says of a session.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Image {
    /// Counts changes of the SA.
    pub generation: Generation,
    /// The IKE SA's counters.
    pub ike: MessageIds,
    /// The Child SAs.
    pub sa: Sa,
}

impl Image {
    /// Reads what the model needs out of a context.
    pub fn of(context: &Context) -> Option<Self> {
        let ike = context.ike.as_ref()?;
        let child = context.children.first()?;
        Some(Self {
            generation: context.generation,
            ike: MessageIds {
                next_send: ike.next_send,
                next_receive: ike.next_receive,
                last_response: None,
            },
            sa: Sa {
                spi: child.inbound.spi,
                sequence: child.outbound.sequence,
                end: 0,
                window: Window::from_wire(&child.inbound.window),
            },
        })
    }

    /// Writes the session down.
    pub fn context(&self, session: SessionId) -> Context {
        Context {
            session,
            generation: self.generation,
            ike: Some(ike_sa(session, &self.ike)),
            children: vec![child_sa(&self.sa)],
            load: Load::default(),
        }
    }
}

fn key(octets: usize) -> KeyMaterial {
    KeyMaterial::new(vec![0x5a; octets])
}

fn ike_sa(session: SessionId, ids: &MessageIds) -> IkeSa {
    let id = |name: &[u8]| Identification { kind: 2, data: name.to_vec() };
    let [.., low] = session.0;
    IkeSa {
        spi_initiator: u64::from(low),
        spi_responder: u64::from(low) << 8,
        initiator: false,
        version: 2,
        transforms: IkeTransforms {
            encryption: ENCR_AES_GCM_16,
            key_bits: 128,
            integrity: 0,
            prf: 5,
            key_exchange: 31,
        },
        secrets: IkeSecrets::Keys(IkeKeys {
            sk_d: key(32),
            sk_ai: key(0),
            sk_ar: key(0),
            sk_ei: key(20),
            sk_er: key(20),
            sk_pi: key(32),
            sk_pr: key(32),
        }),
        window: 1,
        next_send: ids.next_send,
        next_receive: ids.next_receive,
        local_id: id(b"g"),
        remote_id: id(b"u"),
        eap_identity: None,
        authentication: Authentication::Method(2),
        local: ([192, 0, 2, 1], 4500).into(),
        remote: ([198, 51, 100, 1], 4500).into(),
        nat: Nat::default(),
        extensions: Extensions::default(),
        peer_addresses: Vec::new(),
        virtual_ips: Vec::new(),
        rekey_in: None,
        reauthenticate_in: None,
        expire_in: None,
        configuration: String::from("c"),
        side_effects: SideEffects::default(),
        native: None,
    }
}

fn child_sa(sa: &Sa) -> ChildSa {
    let keys = || SaKeys { encryption: key(20), integrity: key(0) };
    ChildSa {
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        configuration: String::from("c"),
        reqid: sa.spi,
        cpi: None,
        transforms: ChildTransforms { encryption: ENCR_AES_GCM_16, key_bits: 128, integrity: 0 },
        esn: true,
        inbound: InboundSa { spi: sa.spi, keys: keys(), window: sa.window.to_wire() },
        outbound: OutboundSa { spi: sa.spi, keys: keys(), sequence: sa.sequence },
        policies: Vec::new(),
        encapsulation: None,
        pmtu: None,
        mark: None,
        if_id: None,
        lifetime: Lifetime::default(),
        rekey_in: None,
        seed: None,
        endpoints: None,
    }
}
