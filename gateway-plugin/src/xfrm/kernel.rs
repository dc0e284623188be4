//! The kernel's security association and policy databases.

use std::{net::IpAddr, time::Duration};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_xfrm::{
    Address, Id, UserSaInfo, UserSpiInfo, XFRM_MSG_ALLOCSPI, XFRM_MSG_GETPOLICY, XFRM_MSG_GETSA,
    XFRM_MSG_NEWAE, XFRM_MSG_NEWPOLICY, XFRM_MSG_NEWSA, XFRM_MSG_UPDPOLICY, XFRMA_IF_ID,
};
use protocol_spec::context::Mode;
use zeroize::Zeroizing;

use super::{
    algorithm::Suite,
    clock::wall_seconds,
    convert::{family_of, mode_number, protocol_number},
    decode::{self, Foreign, NotOurs, ReplayForm},
    encode,
    error::XfrmError,
    netlink::{IN_FLIGHT, Malformed, Message, NetlinkError, NetlinkSocket},
    policy::{self, KernelPolicy},
    sa::{Counters, KernelSa, SaId},
};

/// `NETLINK_XFRM`.
pub(super) const NETLINK_XFRM: isize = 6;
/// Longest wait for one answer. The kernel answers within the call; only the
/// first use of an algorithm, which loads a module, takes longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Entries of a table: those that can be carried, and what else there is.
#[derive(Debug, PartialEq)]
pub struct Listing<T> {
    /// What can be carried.
    pub entries: Vec<T>,
    /// What cannot, and why.
    pub foreign: Vec<Foreign>,
}

/// A connection to the SAD and SPD of the network namespace in which it was
/// opened. Every call is bounded in time.
pub struct Kernel {
    socket: NetlinkSocket,
}

impl Kernel {
    /// Connects.
    ///
    /// # Errors
    /// [`XfrmError::NoXfrm`] if the kernel has none.
    pub fn open() -> Result<Self, XfrmError> {
        let socket = NetlinkSocket::open(NETLINK_XFRM, PATIENCE)
            .map_err(|error| XfrmError::about(&"XFRM", error))?;
        Ok(Self { socket })
    }

    /// Every SA, with its keys and counters.
    ///
    /// # Errors
    /// [`XfrmError`] if the list could not be read as a whole.
    pub fn sas(&mut self) -> Result<Listing<KernelSa>, XfrmError> {
        let now = wall_seconds();
        self.list(&"the list of SAs", XFRM_MSG_GETSA, XFRM_MSG_NEWSA, |payload| {
            decode::sa(payload, now)
        })
    }

    /// One SA, or `None` if there is none of this name.
    ///
    /// # Errors
    /// [`XfrmError::Foreign`] for one that is no more than reserved or cannot be
    /// carried; others as usual.
    pub fn sa(&mut self, id: &SaId) -> Result<Option<KernelSa>, XfrmError> {
        let now = wall_seconds();
        let mut found = None;
        let answered = self.socket.ask(encode::get_sa(id), |received| {
            if received.kind == XFRM_MSG_NEWSA {
                found = Some(decode::sa(received.payload, now));
            }
        });
        match answered.map_err(|error| XfrmError::about(id, error)) {
            Err(XfrmError::Missing(_)) => Ok(None),
            Err(other) => Err(other),
            Ok(()) => match found {
                Some(Ok(sa)) => Ok(Some(sa)),
                Some(Err(NotOurs::Foreign(foreign))) => {
                    let text = format!("{id} cannot be carried: {}", foreign.reason);
                    Err(XfrmError::Foreign(text))
                }
                Some(Err(NotOurs::Malformed(error))) => Err(XfrmError::malformed(id, error)),
                None => Err(XfrmError::malformed(id, Malformed("no SA where it said yes"))),
            },
        }
    }

    /// Of these SAs those that are there and can be carried, in their order.
    ///
    /// # Errors
    /// [`XfrmError`] if the kernel does not say of one whether it is there.
    pub fn present(&mut self, ids: &[SaId]) -> Result<Vec<KernelSa>, XfrmError> {
        let now = wall_seconds();
        let messages: Vec<Message> = ids.iter().map(encode::get_sa).collect();
        let mut found = Vec::new();
        let answers = self.socket.ask_all(&messages, |i, received| {
            if received.kind == XFRM_MSG_NEWSA {
                found.push((i, decode::sa(received.payload, now)));
            }
        });
        for (answer, id) in answers.into_iter().zip(ids) {
            match answer.map_err(|error| XfrmError::about(id, error)) {
                Ok(()) | Err(XfrmError::Missing(_)) => {}
                Err(other) => return Err(other),
            }
        }
        let mut sas = Vec::with_capacity(found.len());
        for (i, sa) in found {
            match sa {
                Ok(sa) => sas.push(sa),
                Err(NotOurs::Foreign(_)) => {}
                Err(NotOurs::Malformed(error)) => return Err(XfrmError::malformed(&ids[i], error)),
            }
        }
        Ok(sas)
    }

    /// Installs SAs, complete with their numbers and what is used of their
    /// lifetime. One result for each, in their order; one that fails leaves
    /// nothing behind and does not touch the others.
    pub fn install(&mut self, sas: &[KernelSa]) -> Vec<Result<(), XfrmError>> {
        let now = wall_seconds();
        self.each(
            sas,
            |sa| encode::new_sa(sa, now).map_err(|what| cannot_hold(&sa.id, &what)),
            |sa, error| XfrmError::installing(&sa.id, &algorithms(sa), error),
        )
    }

    /// Deletes SAs. One result for each.
    pub fn remove(&mut self, ids: &[SaId]) -> Vec<Result<(), XfrmError>> {
        self.each(ids, |id| Ok(encode::delete_sa(id)), |id, error| XfrmError::about(id, error))
    }

    /// Reads the numbers of SAs, without their keys. One result for each. Of a
    /// legacy window the kernel does not tell the size here: 32 is shown.
    pub fn counters(&mut self, ids: &[SaId]) -> Vec<Result<Counters, XfrmError>> {
        self.events(ids).into_iter().map(|result| result.map(|(_, counters)| counters)).collect()
    }

    /// Sets the numbers of SAs and what is used of their lifetime, replacing what
    /// the kernel has: never on an SA that is sending. A window of another size is
    /// fitted to the SA's own. One result for each.
    pub fn set_counters(&mut self, orders: &[(SaId, Counters)]) -> Vec<Result<(), XfrmError>> {
        // The kernel takes only the form and length that the SA has, and ignores
        // the wrong form in silence: so ask first.
        let ids: Vec<SaId> = orders.iter().map(|(id, _)| *id).collect();
        let forms: Vec<_> = self
            .events(&ids)
            .into_iter()
            .zip(orders)
            .map(|(event, (id, counters))| self.form(id, event?.0, counters))
            .collect();
        let now = wall_seconds();
        let orders: Vec<_> = orders.iter().zip(forms).collect();
        self.each(
            &orders,
            |((id, counters), form)| {
                encode::set_counters(id, counters, form.clone()?, now)
                    .map_err(|what| cannot_hold(id, &what))
            },
            |((id, _), _), error| XfrmError::about(id, error),
        )
    }

    /// Every policy of the main type.
    ///
    /// # Errors
    /// [`XfrmError`] if the list could not be read as a whole.
    pub fn policies(&mut self) -> Result<Listing<KernelPolicy>, XfrmError> {
        self.list(&"the list of policies", XFRM_MSG_GETPOLICY, XFRM_MSG_NEWPOLICY, policy::policy)
    }

    /// Installs policies. One result for each; [`XfrmError::Exists`] where one with
    /// the same selector, direction, mark and interface id is there.
    pub fn install_policies(&mut self, policies: &[KernelPolicy]) -> Vec<Result<(), XfrmError>> {
        self.write_policies(XFRM_MSG_NEWPOLICY, NLM_F_CREATE | NLM_F_EXCL, policies)
    }

    /// Installs policies, in the place of those that are there with the same
    /// selector, direction, mark and interface id.
    pub fn replace_policies(&mut self, policies: &[KernelPolicy]) -> Vec<Result<(), XfrmError>> {
        self.write_policies(XFRM_MSG_UPDPOLICY, 0, policies)
    }

    /// Deletes policies by selector, direction, mark and interface id.
    pub fn remove_policies(&mut self, policies: &[KernelPolicy]) -> Vec<Result<(), XfrmError>> {
        self.each(
            policies,
            |one| policy::delete_policy(one).map_err(|what| cannot_hold(one, &what)),
            |one, error| XfrmError::about(one, error),
        )
    }

    /// Reserves exactly this SPI, so that nobody else gets it: the kernel holds a
    /// larval SA in its place, for `net.core.xfrm_acq_expires` seconds (30 by
    /// default). Nothing can be installed there before [`Kernel::free_spi`].
    ///
    /// # Errors
    /// [`XfrmError::Exists`] if it is in use or reserved.
    pub fn reserve_spi(
        &mut self,
        id: &SaId,
        source: IpAddr,
        mode: Mode,
        reqid: u32,
        if_id: Option<u32>,
    ) -> Result<(), XfrmError> {
        if family_of(&source) != family_of(&id.destination) {
            return Err(XfrmError::CannotHold("an SA from one address family to the other".into()));
        }
        let mut message = Message::new(XFRM_MSG_ALLOCSPI, NLM_F_ACK);
        message.body(&UserSpiInfo {
            info: UserSaInfo {
                id: Id {
                    daddr: Address::from_ip(&id.destination),
                    spi: 0,
                    proto: protocol_number(id.protocol),
                },
                saddr: Address::from_ip(&source),
                reqid,
                family: family_of(&id.destination),
                mode: mode_number(mode),
                ..UserSaInfo::default()
            },
            min: id.spi,
            max: id.spi,
        });
        encode::mark(id.mark, &mut message);
        if let Some(if_id) = if_id.filter(|if_id| *if_id != 0) {
            message.number(XFRMA_IF_ID, if_id);
        }
        match self.socket.request(message).map_err(|error| XfrmError::about(id, error)) {
            // No SPI was left in a range of one.
            Err(XfrmError::Missing(what)) => Err(XfrmError::Exists(what)),
            other => other,
        }
    }

    /// Gives a reserved SPI back. One that has become an SA meanwhile is left
    /// alone; one that is not there is no error.
    ///
    /// # Errors
    /// [`XfrmError::Exists`] if an SA stands in its place.
    pub fn free_spi(&mut self, id: &SaId) -> Result<(), XfrmError> {
        let mut larval = Ok(false);
        let answered = self.socket.ask(encode::get_sa(id), |received| {
            if received.kind == XFRM_MSG_NEWSA {
                larval = decode::is_larval(received.payload);
            }
        });
        match answered.map_err(|error| XfrmError::about(id, error)) {
            Err(XfrmError::Missing(_)) => return Ok(()),
            other => other?,
        }
        if !larval.map_err(|error| XfrmError::malformed(id, error))? {
            return Err(XfrmError::Exists(id.to_string()));
        }
        match self.remove(&[*id]).pop() {
            None | Some(Ok(()) | Err(XfrmError::Missing(_))) => Ok(()),
            Some(other) => other,
        }
    }

    /// Form and numbers of SAs.
    fn events(&mut self, ids: &[SaId]) -> Vec<Result<(ReplayForm, Counters), XfrmError>> {
        let now = wall_seconds();
        let messages: Vec<Message> = ids.iter().map(encode::get_counters).collect();
        let mut found: Vec<_> = ids.iter().map(|_| None).collect();
        let answers = self.socket.ask_all(&messages, |i, received| {
            if received.kind == XFRM_MSG_NEWAE {
                found[i] = Some(decode::event(received.payload, now));
            }
        });
        answers
            .into_iter()
            .zip(found)
            .zip(ids)
            .map(|((answer, event), id)| {
                answer.map_err(|error| XfrmError::about(id, error))?;
                let event = event.unwrap_or(Err(Malformed("no counters where it said yes")));
                let event = event.map_err(|error| XfrmError::malformed(id, error))?;
                Ok((event.form, event.counters))
            })
            .collect()
    }

    /// The form of an SA's window, with whether it has ESN where that matters:
    /// the kernel takes a number above 32 bits also without, and forgets the high
    /// half.
    fn form(
        &mut self,
        id: &SaId,
        form: ReplayForm,
        counters: &Counters,
    ) -> Result<ReplayForm, XfrmError> {
        let large = counters.sequence.max(counters.window.highest) > u64::from(u32::MAX);
        match form {
            ReplayForm::Ring { size, words, .. } if large => {
                let mut esn = Ok(false);
                let answered = self.socket.ask(encode::get_sa(id), |received| {
                    if received.kind == XFRM_MSG_NEWSA {
                        esn = decode::has_esn(received.payload);
                    }
                });
                answered.map_err(|error| XfrmError::about(id, error))?;
                let esn = esn.map_err(|error| XfrmError::malformed(id, error))?;
                Ok(ReplayForm::Ring { size, words, esn })
            }
            other => Ok(other),
        }
    }

    fn write_policies(
        &mut self,
        kind: u16,
        flags: u16,
        policies: &[KernelPolicy],
    ) -> Vec<Result<(), XfrmError>> {
        self.each(
            policies,
            |one| policy::new_policy(kind, flags, one).map_err(|what| cannot_hold(one, &what)),
            |one, error| XfrmError::about(one, error),
        )
    }

    /// Writes items down and sends them, some at a time, so that many SAs need no
    /// more memory than a few. One result for each, in their order.
    fn each<T>(
        &mut self,
        items: &[T],
        build: impl Fn(&T) -> Result<Message, XfrmError>,
        explain: impl Fn(&T, NetlinkError) -> XfrmError,
    ) -> Vec<Result<(), XfrmError>> {
        let mut results = Vec::with_capacity(items.len());
        let mut messages = Vec::with_capacity(IN_FLIGHT);
        for some in items.chunks(IN_FLIGHT) {
            let built: Vec<_> =
                some.iter().map(|item| build(item).map(|message| messages.push(message))).collect();
            let mut answers = self.socket.batch(&messages).into_iter();
            messages.clear();
            results.extend(some.iter().zip(built).map(|(item, built)| {
                built?;
                answers.next().unwrap_or(Ok(())).map_err(|error| explain(item, error))
            }));
        }
        results
    }

    fn list<T>(
        &mut self,
        what: &dyn std::fmt::Display,
        request: u16,
        answer: u16,
        decode: impl Fn(&[u8]) -> Result<T, NotOurs>,
    ) -> Result<Listing<T>, XfrmError> {
        let mut listing = Listing { entries: Vec::new(), foreign: Vec::new() };
        let mut broken = None;
        let cell = std::cell::RefCell::new(&mut listing);
        let done = self.socket.dump(
            |flags| Message::new(request, flags),
            || {
                let mut listing = cell.borrow_mut();
                listing.entries.clear();
                listing.foreign.clear();
            },
            |received| {
                if received.kind != answer {
                    return;
                }
                match decode(received.payload) {
                    Ok(entry) => cell.borrow_mut().entries.push(entry),
                    Err(NotOurs::Foreign(foreign)) => cell.borrow_mut().foreign.push(foreign),
                    Err(NotOurs::Malformed(error)) => broken = Some(error),
                }
            },
        );
        done.map_err(|error| XfrmError::about(what, error))?;
        match broken {
            Some(error) => Err(XfrmError::malformed(what, error)),
            None => Ok(listing),
        }
    }
}

/// The octets of the message with which [`Kernel::install`] installs an SA, for
/// measurements beside it.
///
/// # Errors
/// [`XfrmError::CannotHold`].
pub fn encoded(sa: &KernelSa) -> Result<Zeroizing<Vec<u8>>, XfrmError> {
    let message = encode::new_sa(sa, wall_seconds()).map_err(|what| cannot_hold(&sa.id, &what))?;
    Ok(message.to_octets(0))
}

fn cannot_hold(of: &dyn std::fmt::Display, what: &str) -> XfrmError {
    XfrmError::CannotHold(format!("{what} (of {of})"))
}

/// The kernel's names of an SA's algorithms, for an error.
fn algorithms(sa: &KernelSa) -> String {
    match Suite::of(sa.id.protocol, &sa.transforms) {
        Ok(Suite::Aead(aead)) => format!("{} {}", aead.name, aead.icv_bits),
        Ok(Suite::Pair(cipher, integrity)) => {
            let names = [cipher.map(|it| it.name), integrity.map(|it| it.name)];
            names.into_iter().flatten().collect::<Vec<_>>().join(" and ")
        }
        Err(unknown) => unknown.into(),
    }
}
