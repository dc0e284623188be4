//! Sessions as IKE would have set them up, made without IKE.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use protocol_spec::{
    KeyMaterial,
    context::{
        Authentication, ChildSa, ChildTransforms, Context, Direction, ENCR_AES_GCM_16, Extensions,
        Identification, IkeKeys, IkeSa, IkeSecrets, IkeTransforms, InboundSa, Lifetime, Load, Mode,
        Nat, OutboundSa, Policy, Prefix, Protocol, SaKeys, Selector, SideEffects, UdpEncapsulation,
        VirtualIp,
    },
    id::{Generation, SessionId},
};

use super::super::window;
use crate::holder::random;

/// Inbound SPIs at the gateway, by number.
const GATEWAY_SPIS: u32 = 0x1000_0000;
/// Inbound SPIs at the end users, by number.
const USER_SPIS: u32 = 0x8000_0000;
/// Most numbers: inner IPv4 addresses are taken from 10.0.0.0/8.
pub(crate) const MAX_NUMBER: u32 = (1 << 24) - 2;

/// The address of the inner host.
pub(crate) fn host(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    }
}

/// What sessions are made like.
#[derive(Clone, Debug)]
pub struct SessionShape {
    /// AES key length in bits: 128 or 256.
    pub key_bits: u16,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Replay window in packets, 32 to 4096.
    pub window: u32,
    /// IPv6 inside.
    pub inner_v6: bool,
    /// Child SAs in each session, each with an inner address of its own.
    pub children: u32,
    /// Name of the configuration that they were set up under.
    pub configuration: String,
}

impl Default for SessionShape {
    fn default() -> Self {
        Self {
            key_bits: 128,
            esn: false,
            window: 128,
            inner_v6: false,
            children: 1,
            configuration: "embedded".to_owned(),
        }
    }
}

/// The two keys of a Child SA pair, as the end user needs them.
pub(crate) struct PairKeys {
    /// What the gateway receives under, its SPI and key.
    pub(crate) to_gateway: (u32, KeyMaterial),
    /// What the end user receives under, its SPI and key.
    pub(crate) to_user: (u32, KeyMaterial),
}

impl SessionShape {
    /// The `index`th session, with numbers from `first` on, between a gateway and
    /// an end user. Its id is the gateway's to give. `None` if the operating
    /// system has no random numbers, or there are no more addresses.
    pub fn context(
        &self,
        first: u32,
        index: u32,
        gateway: SocketAddr,
        user: SocketAddr,
    ) -> Option<Context> {
        self.session(first, index, gateway, user).map(|(context, _)| context)
    }

    pub(crate) fn session(
        &self,
        first: u32,
        index: u32,
        gateway: SocketAddr,
        user: SocketAddr,
    ) -> Option<(Context, Vec<PairKeys>)> {
        let number = self.number(first, index, 0)?;
        let mut children = Vec::with_capacity(self.children as usize);
        let mut keys = Vec::with_capacity(self.children as usize);
        for child in 0..self.children {
            let number = self.number(first, index, child)?;
            let (spis, address) = (spis(number, 0), self.address(number));
            let (child, pair) = self.child(spis, address, gateway, user)?;
            children.push(child);
            keys.push(pair);
        }
        let virtual_ips = (0..self.children)
            .filter_map(|child| self.number(first, index, child))
            .map(|number| VirtualIp { address: self.address(number), pool: String::new() })
            .collect();
        let ike = self.ike(number, gateway, user, virtual_ips)?;
        let context = Context {
            session: SessionId([0; 16]),
            generation: Generation(1),
            ike: Some(ike),
            children,
            load: Load::default(),
        };
        Some((context, keys))
    }

    /// A number for each Child SA of each session.
    fn number(&self, first: u32, index: u32, child: u32) -> Option<u32> {
        let number = index.checked_mul(self.children)?.checked_add(child)?.checked_add(first)?;
        (number <= MAX_NUMBER).then_some(number)
    }

    /// Which session and Child SA an inner address belongs to.
    pub(crate) fn owner(&self, first: u32, address: IpAddr) -> Option<(usize, usize)> {
        let number = match address {
            IpAddr::V4(address) => address.to_bits() & 0xff_ffff,
            IpAddr::V6(address) => address.to_bits() as u32,
        };
        let place = number.checked_sub(first)?;
        Some(((place / self.children) as usize, (place % self.children) as usize))
    }

    /// The inner address of a Child SA of a session.
    pub(crate) fn inner_address(&self, first: u32, index: u32, child: u32) -> Option<IpAddr> {
        self.number(first, index, child).map(|number| self.address(number))
    }

    fn address(&self, number: u32) -> IpAddr {
        if self.inner_v6 {
            Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number)).into()
        } else {
            Ipv4Addr::from_bits(10 << 24 | number).into()
        }
    }

    /// A Child SA that replaces another one after `rekeys` rekeys.
    pub(crate) fn rekeyed(
        &self,
        (first, index, child): (u32, u32, u32),
        rekeys: u32,
        gateway: SocketAddr,
        user: SocketAddr,
    ) -> Option<(ChildSa, PairKeys)> {
        let number = self.number(first, index, child)?;
        self.child(spis(number, rekeys), self.address(number), gateway, user)
    }

    fn child(
        &self,
        (inbound, outbound): (u32, u32),
        address: IpAddr,
        gateway: SocketAddr,
        user: SocketAddr,
    ) -> Option<(ChildSa, PairKeys)> {
        let (to_gateway, to_user) = (self.key()?, self.key()?);
        let sa = |key: &KeyMaterial| SaKeys {
            encryption: key.duplicate(),
            integrity: KeyMaterial::new(Vec::new()),
        };
        let ports = (0, u16::MAX);
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let inside = Selector { prefix: Prefix { address, bits }, ports };
        let any: IpAddr = if address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let anywhere = Selector { prefix: Prefix { address: any, bits: 0 }, ports };
        let policy = |direction, source: &Selector, destination: &Selector| Policy {
            direction,
            priority: 1000,
            source: source.clone(),
            destination: destination.clone(),
            protocol: 0,
        };
        let child = ChildSa {
            protocol: Protocol::Esp,
            mode: Mode::Tunnel,
            configuration: self.configuration.clone(),
            reqid: 0,
            cpi: None,
            transforms: ChildTransforms {
                encryption: ENCR_AES_GCM_16,
                key_bits: self.key_bits,
                integrity: 0,
            },
            esn: self.esn,
            inbound: InboundSa {
                spi: inbound,
                keys: sa(&to_gateway),
                window: window::empty(self.window),
            },
            outbound: OutboundSa { spi: outbound, keys: sa(&to_user), sequence: 0 },
            policies: vec![
                policy(Direction::Out, &anywhere, &inside),
                policy(Direction::Forward, &inside, &anywhere),
            ],
            encapsulation: Some(UdpEncapsulation {
                local_port: gateway.port(),
                remote_port: user.port(),
            }),
            pmtu: None,
            mark: None,
            if_id: None,
            lifetime: Lifetime::default(),
            rekey_in: Some(Duration::from_secs(3600)),
            seed: None,
            endpoints: None,
        };
        Some((child, PairKeys { to_gateway: (inbound, to_gateway), to_user: (outbound, to_user) }))
    }

    /// AES key and salt.
    fn key(&self) -> Option<KeyMaterial> {
        let octets = zeroize::Zeroizing::new(random::octets::<36>()?);
        let length = usize::from(self.key_bits / 8) + 4;
        octets.get(..length).map(|key| KeyMaterial::new(key.to_vec()))
    }

    fn ike(
        &self,
        number: u32,
        gateway: SocketAddr,
        user: SocketAddr,
        virtual_ips: Vec<VirtualIp>,
    ) -> Option<IkeSa> {
        let random = zeroize::Zeroizing::new(random::octets::<240>()?);
        let mut parts = random.chunks_exact(32);
        let mut sk =
            |octets: usize| parts.next().map(|part| KeyMaterial::new(part[..octets].to_vec()));
        let none = || KeyMaterial::new(Vec::new());
        let keys = IkeKeys {
            sk_d: sk(32)?,
            sk_ai: none(),
            sk_ar: none(),
            sk_ei: sk(20)?,
            sk_er: sk(20)?,
            sk_pi: sk(32)?,
            sk_pr: sk(32)?,
        };
        let spis = random.rchunks_exact(8).filter_map(|part| part.first_chunk::<8>());
        let mut spis = spis.map(|part| u64::from_be_bytes(*part) | 1);
        Some(IkeSa {
            spi_initiator: spis.next()?,
            spi_responder: spis.next()?,
            initiator: false,
            version: 2,
            // AES-GCM-16 with 128 bits, PRF_HMAC_SHA2_256, curve25519.
            transforms: IkeTransforms {
                encryption: 20,
                key_bits: 128,
                integrity: 0,
                prf: 5,
                key_exchange: 31,
            },
            secrets: IkeSecrets::Keys(keys),
            window: 1,
            next_send: 0,
            next_receive: 2,
            local_id: Identification { kind: 2, data: b"gateway".to_vec() },
            remote_id: Identification { kind: 2, data: format!("user-{number}").into_bytes() },
            eap_identity: None,
            authentication: Authentication::Method(14),
            local: gateway,
            remote: user,
            nat: Nat::default(),
            extensions: Extensions { mobike: true, ..Extensions::default() },
            peer_addresses: Vec::new(),
            virtual_ips,
            rekey_in: Some(Duration::from_secs(4 * 3600)),
            reauthenticate_in: None,
            expire_in: Some(Duration::from_secs(5 * 3600)),
            configuration: self.configuration.clone(),
            side_effects: SideEffects::default(),
            native: None,
        })
    }
}

/// Inbound SPIs of the gateway and of the end user. Rekeys take a new range each.
fn spis(number: u32, rekeys: u32) -> (u32, u32) {
    let offset = number + (rekeys % 64) * (MAX_NUMBER + 2);
    (GATEWAY_SPIS + offset, USER_SPIS + offset)
}
