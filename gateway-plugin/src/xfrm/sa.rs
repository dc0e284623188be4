//! An SA as the kernel holds it.

use std::{fmt, net::IpAddr, time::Duration};

use protocol_spec::context::{
    ChildTransforms, LifetimeLimit, Mark, Mode, Protocol, ReplayWindow, SaKeys, Selector,
    UdpEncapsulation,
};

use super::window;

/// What names an SA in the kernel: destination, SPI, protocol and mark. The
/// source does not, nor does the interface id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SaId {
    /// Outer destination address.
    pub destination: IpAddr,
    /// Security Parameters Index.
    pub spi: u32,
    /// ESP or AH.
    pub protocol: Protocol,
    /// Mark that selects it. A mask and value of 0 is the same as none.
    pub mark: Option<Mark>,
}

impl SaId {
    /// An ESP SA without mark.
    pub fn esp(destination: IpAddr, spi: u32) -> Self {
        Self { destination, spi, protocol: Protocol::Esp, mark: None }
    }
}

impl fmt::Display for SaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Esp => "ESP",
            Protocol::Ah => "AH",
        };
        write!(f, "{protocol} SPI {:#010x} to {}", self.spi, self.destination)?;
        match self.mark {
            Some(mark) => write!(f, " mark {:#x}/{:#x}", mark.value, mark.mask),
            None => Ok(()),
        }
    }
}

/// An SA, complete: installed as it stands here it goes on where it was.
#[derive(Debug, PartialEq)]
pub struct KernelSa {
    /// Its name.
    pub id: SaId,
    /// Outer source address.
    pub source: IpAddr,
    /// Request id that ties policies to it.
    pub reqid: u32,
    /// Tunnel, transport or BEET.
    pub mode: Mode,
    /// Algorithms by their IANA numbers.
    pub transforms: ChildTransforms,
    /// Keys.
    pub keys: SaKeys,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Numbers and lifetime used so far.
    pub counters: Counters,
    /// Packets in the replay window; 0 switches the check off. Above 32 or with
    /// ESN the kernel holds it as a bitmap of up to 4096.
    pub window_size: u32,
    /// ESP in UDP.
    pub encapsulation: Option<Encapsulation>,
    /// XFRM interface id.
    pub if_id: Option<u32>,
    /// Mark that packets get which this SA made or opened.
    pub output_mark: Option<Mark>,
    /// Limits; what is used of them stands in `counters`.
    pub lifetime: Limits,
    /// Which inner packets may use it (transport and BEET mode; in tunnel mode
    /// mostly none, for policies say that).
    pub selector: Option<SaSelector>,
    /// What else is switched on.
    pub flags: SaFlags,
    /// What the kernel holds beside all this and a copy would lose, by name
    /// (hardware offload and the like). Only filled when read; ignored when
    /// installed.
    pub not_carried: Vec<&'static str>,
}

impl KernelSa {
    /// One that has seen nothing: tunnel mode, a window of 32 packets, no limits, and
    /// nothing else switched on.
    pub fn new(id: SaId, source: IpAddr, transforms: ChildTransforms, keys: SaKeys) -> Self {
        const WINDOW: u32 = 32;
        Self {
            id,
            source,
            reqid: 0,
            mode: Mode::Tunnel,
            transforms,
            keys,
            esn: false,
            counters: Counters::new(WINDOW),
            window_size: WINDOW,
            encapsulation: None,
            if_id: None,
            output_mark: None,
            lifetime: Limits::default(),
            selector: None,
            flags: SaFlags::TUNNEL,
            not_carried: Vec::new(),
        }
    }
}

/// Numbers of an SA that change with each packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Outbound: the number last used, 0 before the first packet.
    pub sequence: u64,
    /// Inbound: which numbers were received.
    pub window: ReplayWindow,
    /// Octets so far.
    pub octets: u64,
    /// Packets so far.
    pub packets: u64,
    /// Time since the SA was made, in whole seconds as the kernel counts.
    pub age: Duration,
    /// Time since its first packet; `None` before it.
    pub since_first_use: Option<Duration>,
}

impl Counters {
    /// Of an SA that has seen nothing.
    pub fn new(window_size: u32) -> Self {
        Self {
            sequence: 0,
            window: window::empty(window_size),
            octets: 0,
            packets: 0,
            age: Duration::ZERO,
            since_first_use: None,
        }
    }
}

/// When the kernel says that an SA should be renewed, and when it deletes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// An event is sent.
    pub soft: LifetimeLimit,
    /// The SA is deleted and an event is sent.
    pub hard: LifetimeLimit,
}

/// Ports of ESP in UDP as they stand in the SA's own packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Encapsulation {
    /// Source port of the SA's packets.
    pub source: u16,
    /// Destination port of the SA's packets.
    pub destination: u16,
    /// Original address (transport mode behind a NAT).
    pub original: Option<IpAddr>,
}

impl Encapsulation {
    /// Of the SA on which we send.
    pub fn outbound(ports: UdpEncapsulation) -> Self {
        Self { source: ports.local_port, destination: ports.remote_port, original: None }
    }

    /// Of the SA on which we receive.
    pub fn inbound(ports: UdpEncapsulation) -> Self {
        Self { source: ports.remote_port, destination: ports.local_port, original: None }
    }
}

/// Inner packets that may use an SA.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SaSelector {
    /// Their source.
    pub source: Selector,
    /// Their destination.
    pub destination: Selector,
    /// Their IP protocol, 0 for any.
    pub protocol: u8,
    /// Index of the interface that they pass, if only one counts.
    pub interface: Option<u32>,
}

/// Switches of an SA by their names in `linux/xfrm.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SaFlags {
    /// `XFRM_STATE_*` bits. `ESN` (128) is left out: it is [`KernelSa::esn`].
    pub bits: u8,
    /// `XFRM_SA_XFLAG_*` bits.
    pub extra: u32,
}

impl SaFlags {
    /// `XFRM_STATE_AF_UNSPEC`: inner packets of both families.
    pub const ANY_FAMILY: u8 = 32;
    /// Nothing.
    pub const NONE: Self = Self { bits: 0, extra: 0 };
    /// What a tunnel should have: inner packets of both families, as charon does.
    pub const TUNNEL: Self = Self { bits: Self::ANY_FAMILY, extra: 0 };

    /// What an SA of this mode should have. Linux refuses packets of both
    /// families in all modes but tunnel mode.
    pub fn of(mode: Mode) -> Self {
        if mode == Mode::Tunnel { Self::TUNNEL } else { Self::NONE }
    }
}
