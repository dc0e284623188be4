//! What changes in the kernel's databases by itself or by others.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netlink_packet_xfrm::{
    UserExpire, UserMapping, UserPolicyExpire, UserSaId, XFRM_AE_CR, XFRM_AE_CU,
    XFRM_MSG_DELPOLICY, XFRM_MSG_DELSA, XFRM_MSG_EXPIRE, XFRM_MSG_FLUSHPOLICY, XFRM_MSG_FLUSHSA,
    XFRM_MSG_MAPPING, XFRM_MSG_NEWAE, XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA, XFRM_MSG_POLEXPIRE,
    XFRM_MSG_UPDPOLICY, XFRM_MSG_UPDSA, XFRM_USER_EXPIRE_LEN, XFRM_USER_MAPPING_LEN,
    XFRM_USER_POLICY_EXPIRE_LEN, XFRM_USER_POLICY_ID_LEN, XFRM_USER_SA_ID_LEN,
    XFRM_USER_SA_INFO_LEN, XFRMA_POLICY, XFRMNLGRP_AEVENTS, XFRMNLGRP_EXPIRE, XFRMNLGRP_MAPPING,
    XFRMNLGRP_POLICY, XFRMNLGRP_SA,
};

use super::{
    clock::{Deadline, wall_seconds},
    convert::address_from,
    decode::{self, NotOurs, mark_and_interface},
    error::XfrmError,
    kernel::NETLINK_XFRM,
    netlink::{Attributes, Malformed, NetlinkError, NetlinkSocket, Received},
    policy::{self, KernelPolicy},
    sa::{Counters, SaId},
};

/// Kinds of events; each costs the kernel work once somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// SAs added, changed, removed.
    Sas,
    /// Policies added, changed, removed.
    Policies,
    /// Lifetimes that ended.
    Expiry,
    /// Counters: by default every second packet of each SA and every second
    /// (`net.core.xfrm_aevent_rseqth`, `xfrm_aevent_etime`).
    Counters,
    /// An end user's address or port changed (NAT).
    Mappings,
}

impl Group {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Sas, Self::Policies, Self::Expiry, Self::Counters, Self::Mappings];

    fn number(self) -> u32 {
        match self {
            Self::Sas => XFRMNLGRP_SA,
            Self::Policies => XFRMNLGRP_POLICY,
            Self::Expiry => XFRMNLGRP_EXPIRE,
            Self::Counters => XFRMNLGRP_AEVENTS,
            Self::Mappings => XFRMNLGRP_MAPPING,
        }
    }
}

/// Something that happened in the kernel's databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// An SA was installed. Its keys are not here: ask [`super::Kernel::sa`].
    SaAdded {
        /// Which.
        id: SaId,
        /// Its request id.
        reqid: u32,
        /// Its XFRM interface id.
        if_id: Option<u32>,
    },
    /// An SA's limits, encapsulation or marks were changed, or a reserved SPI
    /// became an SA.
    SaChanged {
        /// Which.
        id: SaId,
        /// Its request id.
        reqid: u32,
        /// Its XFRM interface id.
        if_id: Option<u32>,
    },
    /// An SA was deleted, or a reserved SPI ran out.
    SaRemoved {
        /// Which.
        id: SaId,
    },
    /// All SAs of a protocol, or all, were deleted at once.
    SasFlushed,
    /// A limit of an SA was reached.
    SaExpired {
        /// Which.
        id: SaId,
        /// Its request id.
        reqid: u32,
        /// The hard limit: it is deleted.
        hard: bool,
    },
    /// Counters of an SA.
    Counters {
        /// Which.
        id: SaId,
        /// Its request id.
        reqid: u32,
        /// What made the kernel tell.
        cause: Cause,
        /// The counters. Of a legacy window the size is not told: 32 is shown.
        /// The packet at hand may not be among octets and packets yet.
        counters: Counters,
    },
    /// A policy was installed.
    PolicyAdded(KernelPolicy),
    /// A policy was replaced.
    PolicyChanged(KernelPolicy),
    /// A policy was deleted.
    PolicyRemoved(KernelPolicy),
    /// All policies were deleted at once.
    PoliciesFlushed,
    /// A limit of a policy was reached.
    PolicyExpired {
        /// Which.
        policy: KernelPolicy,
        /// The hard limit: it is deleted.
        hard: bool,
    },
    /// Packets of an inbound SA with ESP in UDP come from elsewhere: a NAT
    /// changed. The kernel does not tell the SA's mark here.
    Mapping {
        /// Which, without its mark.
        id: SaId,
        /// Its request id.
        reqid: u32,
        /// From where packets came.
        old: SocketAddr,
        /// From where they come.
        new: SocketAddr,
    },
    /// Events were lost: read the tables again.
    Overflow,
}

/// What made the kernel tell counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// So many packets passed.
    Packets,
    /// So much time passed.
    Time,
    /// Somebody set them (NEWAE).
    Set,
}

/// A second socket that listens to the kernel.
pub struct Follower {
    socket: NetlinkSocket,
    waiting: VecDeque<KernelEvent>,
}

impl Follower {
    /// Listens to everything.
    ///
    /// # Errors
    /// [`XfrmError`] if the kernel does not let us: CAP_NET_ADMIN is needed.
    pub fn open() -> Result<Self, XfrmError> {
        Self::of(&Group::ALL)
    }

    /// Listens to some kinds of events.
    ///
    /// # Errors
    /// As [`Follower::open`].
    pub fn of(groups: &[Group]) -> Result<Self, XfrmError> {
        let about = |error| XfrmError::about(&"events of XFRM", error);
        let mut socket =
            NetlinkSocket::open(NETLINK_XFRM, Duration::from_secs(1)).map_err(about)?;
        for group in groups {
            socket.join(group.number()).map_err(about)?;
        }
        Ok(Self { socket, waiting: VecDeque::new() })
    }

    /// The next event, or `None` after `timeout` without one. Events of SAs that
    /// are neither ESP nor AH are left out.
    ///
    /// # Errors
    /// [`XfrmError`] if the socket failed or the kernel sent nonsense; what comes
    /// after may still be read.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<KernelEvent>, XfrmError> {
        let deadline = Deadline::after(timeout);
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let now = wall_seconds();
            let waiting = &mut self.waiting;
            let mut broken = None;
            let heard =
                self.socket.listen(deadline.left(), |received| match event(received, now) {
                    Ok(event) => waiting.extend(event),
                    Err(malformed) => broken = Some(malformed),
                });
            match heard {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(NetlinkError::Lost) => return Ok(Some(KernelEvent::Overflow)),
                Err(error) => return Err(XfrmError::about(&"events of XFRM", error)),
            }
            if let Some(malformed) = broken {
                return Err(XfrmError::malformed(&"events of XFRM", malformed));
            }
        }
    }
}

/// What one message means; `None` for what is not ours.
pub(super) fn event(received: Received<'_>, now: u64) -> Result<Option<KernelEvent>, Malformed> {
    let payload = received.payload;
    Ok(match received.kind {
        XFRM_MSG_NEWSA => {
            sa(payload)?.map(|(id, reqid, if_id)| KernelEvent::SaAdded { id, reqid, if_id })
        }
        XFRM_MSG_UPDSA => {
            sa(payload)?.map(|(id, reqid, if_id)| KernelEvent::SaChanged { id, reqid, if_id })
        }
        XFRM_MSG_DELSA => {
            let id = UserSaId::parse(payload).map_err(|_| Malformed("an SA's name too short"))?;
            let (mark, _) = mark_and_interface(Attributes::after(payload, XFRM_USER_SA_ID_LEN)?)?;
            decode::sa_id(&id, mark).map(|id| KernelEvent::SaRemoved { id })
        }
        XFRM_MSG_FLUSHSA => Some(KernelEvent::SasFlushed),
        XFRM_MSG_EXPIRE => expired(payload)?,
        XFRM_MSG_NEWAE => {
            let decode::Event { id, reqid, flags, counters, .. } = decode::event(payload, now)?;
            let cause = if flags & XFRM_AE_CU != 0 {
                Cause::Set
            } else if flags & XFRM_AE_CR != 0 {
                Cause::Packets
            } else {
                Cause::Time
            };
            id.map(|id| KernelEvent::Counters { id, reqid, cause, counters })
        }
        XFRM_MSG_NEWPOLICY => ours(policy::policy(payload))?.map(KernelEvent::PolicyAdded),
        XFRM_MSG_UPDPOLICY => ours(policy::policy(payload))?.map(KernelEvent::PolicyChanged),
        XFRM_MSG_DELPOLICY => removed(payload)?.map(KernelEvent::PolicyRemoved),
        XFRM_MSG_FLUSHPOLICY => Some(KernelEvent::PoliciesFlushed),
        XFRM_MSG_POLEXPIRE => {
            let hard = UserPolicyExpire::parse(payload)
                .map_err(|_| Malformed("an expiry that is too short"))?
                .hard;
            let attributes = Attributes::after(payload, XFRM_USER_POLICY_EXPIRE_LEN)?;
            ours(policy::from_parts(payload, attributes))?
                .map(|policy| KernelEvent::PolicyExpired { policy, hard: hard != 0 })
        }
        XFRM_MSG_MAPPING => mapping(payload)?,
        _ => None,
    })
}

fn sa(payload: &[u8]) -> Result<Option<(SaId, u32, Option<u32>)>, Malformed> {
    let info = decode::sa_info(payload)?;
    let (mark, if_id) = mark_and_interface(Attributes::after(payload, XFRM_USER_SA_INFO_LEN)?)?;
    Ok(decode::id_of(&info, mark).map(|id| (id, info.reqid, if_id)))
}

fn expired(payload: &[u8]) -> Result<Option<KernelEvent>, Malformed> {
    let expire =
        UserExpire::parse(payload).map_err(|_| Malformed("an expiry that is too short"))?;
    let (mark, _) = mark_and_interface(Attributes::after(payload, XFRM_USER_EXPIRE_LEN)?)?;
    Ok(decode::id_of(&expire.state, mark).map(|id| KernelEvent::SaExpired {
        id,
        reqid: expire.state.reqid,
        hard: expire.hard != 0,
    }))
}

/// DELPOLICY: the policy itself stands in an attribute.
fn removed(payload: &[u8]) -> Result<Option<KernelPolicy>, Malformed> {
    let attributes = Attributes::after(payload, XFRM_USER_POLICY_ID_LEN)?;
    for one in attributes.clone() {
        let (kind, value) = one?;
        if kind == XFRMA_POLICY {
            return ours(policy::from_parts(value, attributes));
        }
    }
    Ok(None)
}

fn mapping(payload: &[u8]) -> Result<Option<KernelEvent>, Malformed> {
    if payload.len() < XFRM_USER_MAPPING_LEN {
        return Err(Malformed("a mapping that is too short"));
    }
    let mapping =
        UserMapping::parse(payload).map_err(|_| Malformed("a mapping that is too short"))?;
    let socket = |address: Option<IpAddr>, port| address.map(|ip| SocketAddr::new(ip, port));
    let family = mapping.id.family;
    let old = socket(address_from(family, &mapping.old_saddr), mapping.old_sport);
    let new = socket(address_from(family, &mapping.new_saddr), mapping.new_sport);
    Ok(match (decode::sa_id(&mapping.id, None), old, new) {
        (Some(id), Some(old), Some(new)) => {
            Some(KernelEvent::Mapping { id, reqid: mapping.reqid, old, new })
        }
        _ => None,
    })
}

fn ours<T>(decoded: Result<T, NotOurs>) -> Result<Option<T>, Malformed> {
    match decoded {
        Ok(one) => Ok(Some(one)),
        Err(NotOurs::Foreign(_)) => Ok(None),
        Err(NotOurs::Malformed(malformed)) => Err(malformed),
    }
}
