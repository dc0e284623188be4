//! Names, ids and a session as a gateway could have it.

use super::*;

pub const A: usize = 0;
pub const B: usize = 1;

pub fn name(node: usize) -> Name {
    ["a", "b"][node].parse().unwrap()
}

pub fn gateway(node: usize) -> Identity {
    Identity { role: Role::Gateway, name: name(node) }
}

pub fn session(number: u32) -> SessionId {
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&number.to_be_bytes());
    SessionId(octets)
}

pub fn batch(number: u8) -> BatchId {
    BatchId([number; 16])
}

pub fn request(number: u8) -> RequestId {
    RequestId([number; 16])
}

pub fn sa(id: SessionId) -> SaRef {
    let [a, b, c, d, ..] = id.0;
    SaRef { protocol: Protocol::Esp, inbound_spi: u32::from_be_bytes([a, b, c, d]) + 256 }
}

pub fn context(id: SessionId, generation: Generation, sequence: u64) -> Context {
    let keys = || SaKeys {
        encryption: KeyMaterial::new(vec![7; 20]),
        integrity: KeyMaterial::new(Vec::new()),
    };
    let child = ChildSa {
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        configuration: String::new(),
        reqid: 1,
        cpi: None,
        transforms: ChildTransforms { encryption: ENCR_AES_GCM_16, key_bits: 128, integrity: 0 },
        esn: true,
        inbound: InboundSa {
            spi: sa(id).inbound_spi,
            keys: keys(),
            window: ReplayWindow { size: 32, highest: 0, bitmap: vec![0] },
        },
        outbound: OutboundSa { spi: 9, keys: keys(), sequence },
        policies: Vec::new(),
        encapsulation: None,
        pmtu: None,
        mark: None,
        if_id: None,
        lifetime: Lifetime::default(),
        rekey_in: None,
        seed: None,
        endpoints: None,
    };
    Context { session: id, generation, ike: None, children: vec![child], load: Load::default() }
}

/// SPIs, SK_d (each octet) and prf of every IKE SA.
pub const IKE_SPIS: (u64, u64) = (11, 12);
pub const SK_D: u8 = 9;
pub const PRF: u16 = 5;

pub fn ike() -> IkeSa {
    let key = |octet| KeyMaterial::new(vec![octet; 32]);
    let id = |text: &str| Identification { kind: 2, data: text.as_bytes().to_vec() };
    IkeSa {
        spi_initiator: IKE_SPIS.0,
        spi_responder: IKE_SPIS.1,
        initiator: false,
        version: 2,
        transforms: IkeTransforms {
            encryption: 20,
            key_bits: 256,
            integrity: 0,
            prf: PRF,
            key_exchange: 31,
        },
        secrets: IkeSecrets::Keys(IkeKeys {
            sk_d: key(SK_D),
            sk_ai: KeyMaterial::new(Vec::new()),
            sk_ar: KeyMaterial::new(Vec::new()),
            sk_ei: KeyMaterial::new(vec![1; 36]),
            sk_er: KeyMaterial::new(vec![2; 36]),
            sk_pi: key(3),
            sk_pr: key(4),
        }),
        window: 1,
        next_send: 0,
        next_receive: 2,
        local_id: id("gateway.example"),
        remote_id: id("user.example"),
        eap_identity: None,
        authentication: Authentication::Method(14),
        local: "192.0.2.1:4500".parse().unwrap(),
        remote: "198.51.100.7:4500".parse().unwrap(),
        nat: Nat::default(),
        extensions: Extensions::default(),
        peer_addresses: Vec::new(),
        virtual_ips: Vec::new(),
        rekey_in: None,
        reauthenticate_in: None,
        expire_in: None,
        configuration: "users".to_owned(),
        side_effects: SideEffects::default(),
        native: None,
    }
}
