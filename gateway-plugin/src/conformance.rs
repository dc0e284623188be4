//! What every body of [`GatewayPlugin`] must do, as a suite that any body can run.
//!
//! Write a [`Harness`] for your gateway: two gateways of the kind, a way to set a
//! session up at the first and to pass packets at either. Then call [`run`] in a
//! test:
//!
//! ```
//! use gateway_plugin::conformance::{Harness, run};
//!
//! fn my_gateway_conforms(harness: &mut dyn Harness) {
//!     assert_eq!(run(harness), Ok(()));
//! }
//! ```
//!
//! Each check sets up sessions of its own, so one that fails spoils none of the
//! others. What the suite cannot see: that a pause outlives the daemon, that keys
//! are wiped, and that inner traffic is diverted and not dropped.

mod checks;

use protocol_spec::{
    context::Context,
    id::{BatchId, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{GrantedRange, SessionState, SessionStatus},
};

use crate::plugin::{EventSource, Fault, GatewayPlugin, PerSession, Stage};

/// Which of the two gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where sessions are set up.
    Source,
    /// Where they move to.
    Target,
}

/// What came of packets that were offered to a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Outbound sequence numbers of the ESP packets that the end user got from
    /// this gateway, dummy packets included, in their order.
    pub numbers: Vec<u64>,
    /// How many of the end user's packets this gateway gave to the inner network.
    pub delivered: u32,
}

/// Two gateways under test and what surrounds them.
pub trait Harness {
    /// One of the gateways.
    fn gateway(&mut self, side: Side) -> &mut dyn GatewayPlugin;

    /// What a gateway is called by the other one.
    fn name(&self, side: Side) -> Name;

    /// Subscribes to a gateway's events, from now on.
    ///
    /// # Errors
    /// [`Fault`] if the gateway cannot be asked.
    fn events(&mut self, side: Side) -> Result<EventSource, Fault>;

    /// Sets a new session up at the source.
    ///
    /// # Errors
    /// Text for a person.
    fn provision(&mut self) -> Result<SessionId, String>;

    /// Changes the session's keys and SPIs, as a rekey does.
    ///
    /// # Errors
    /// Text for a person.
    fn rekey(&mut self, side: Side, session: SessionId) -> Result<(), String>;

    /// Offers `packets` inner packets for the end user and as many new ESP packets
    /// from the end user to one gateway, waits until what passes has passed, and
    /// tells what did since the last time.
    ///
    /// # Errors
    /// Text for a person.
    fn pass(&mut self, side: Side, session: SessionId, packets: u32) -> Result<Passed, String>;

    /// Offers the end user's last ESP packet to a gateway once more, octet by
    /// octet the same. Says whether it reached the inner network.
    ///
    /// # Errors
    /// Text for a person.
    fn replay(&mut self, side: Side, session: SessionId) -> Result<bool, String>;
}

/// Runs every check.
///
/// # Errors
/// One line for each check that failed: its name and what was wrong.
pub fn run(harness: &mut dyn Harness) -> Result<(), Vec<String>> {
    let mut suite = Suite { harness };
    let failed: Vec<_> = checks::ALL
        .iter()
        .filter_map(|(name, check)| {
            check(&mut suite).err().map(|finding| format!("{name}: {finding}"))
        })
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(failed) }
}

/// The names of the checks, in their order.
pub fn checks() -> impl Iterator<Item = &'static str> {
    checks::ALL.iter().map(|(name, _)| *name)
}

type Finding = Result<(), String>;

/// The first epoch of a move.
const ONE: SessionEpoch = SessionEpoch(1);
/// Numbers between the highest used and a granted base.
const HEADROOM: u64 = 1 << 16;

struct Suite<'a> {
    harness: &'a mut dyn Harness,
}

impl Suite<'_> {
    fn at(&mut self, side: Side) -> &mut dyn GatewayPlugin {
        self.harness.gateway(side)
    }

    fn list(&mut self, side: Side) -> Result<Vec<SessionStatus>, String> {
        self.at(side).list().map_err(|fault| fault.to_string())
    }

    fn status(&mut self, side: Side, session: SessionId) -> Result<Option<SessionStatus>, String> {
        Ok(self.list(side)?.into_iter().find(|status| status.session == session))
    }

    fn expect(&mut self, side: Side, session: SessionId, epoch: u64, state: &str) -> Finding {
        let status = self.status(side, session)?;
        let found = match status.as_ref().map(|status| &status.state) {
            None => "absent",
            Some(SessionState::Active) => "active",
            Some(SessionState::Paused { .. }) => "paused",
            Some(SessionState::Staged { .. }) => "staged",
        };
        same("the listed state", found, state)?;
        let epoch = (state != "absent").then_some(SessionEpoch(epoch));
        same("the listed epoch", status.map(|status| status.epoch), epoch)
    }

    fn context(&mut self, session: SessionId) -> Result<Context, String> {
        let answer = self.at(Side::Source).snapshot(&[session]);
        done("snapshot", answer)
    }

    /// An order to stage with the numbers `[used + headroom + 1, + span)`.
    fn order(&mut self, session: SessionId, epoch: u64, span: u64) -> Result<Stage, String> {
        let context = self.context(session)?;
        let grants = context.profile().children;
        let grants = grants.iter().map(|child| {
            let base = child.usage.sequence + HEADROOM + 1;
            GrantedRange { sa: child.usage.sa, base, end: base.saturating_add(span) }
        });
        Ok(Stage {
            epoch: SessionEpoch(epoch),
            source: self.harness.name(Side::Source),
            batch: BatchId([epoch as u8; 16]),
            grants: grants.collect(),
            context,
        })
    }
}

/// The one result of an act that must have succeeded.
fn done<T>(act: &str, answer: Result<PerSession<T>, Fault>) -> Result<T, String> {
    one(act, answer)?.map_err(|refusal| format!("{act} was refused: {refusal}"))
}

/// The one refusal of an act that must not have succeeded.
fn refused<T>(act: &str, answer: Result<PerSession<T>, Fault>) -> Result<Refusal, String> {
    match one(act, answer)? {
        Ok(_) => Err(format!("{act} was not refused")),
        Err(refusal) => Ok(refusal),
    }
}

/// The same, with the reason that there is to be.
fn refused_as<T>(act: &str, answer: Result<PerSession<T>, Fault>, status: Status) -> Finding {
    same(&format!("{act}: the reason of the refusal"), refused(act, answer)?.status, status)
}

fn one<T>(act: &str, answer: Result<PerSession<T>, Fault>) -> Result<Result<T, Refusal>, String> {
    let answer = answer.map_err(|fault| format!("{act}: {fault}"))?;
    let count = answer.len();
    match answer.into_iter().next() {
        Some((_, result)) if count == 1 => Ok(result),
        _ => Err(format!("{act} answered for {count} sessions, asked for one")),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Finding {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?} instead of {expected:?}"))
    }
}

fn holds(what: &str, condition: bool) -> Finding {
    if condition { Ok(()) } else { Err(format!("{what}: no")) }
}
