//! The steps of a transfer, and how one is held at a step for as long as somebody needs:
//! the processes that would go on are stopped, one after the other.

use std::{collections::BTreeMap, process::Command, thread::JoinHandle, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use cxtp::service::api::Summary;

use super::crash::Played;
use crate::{
    clock::Deadline,
    lab::{
        gateway::Site,
        net::{GATEWAYS, Namespace, output},
    },
    process::wait_for,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// After this time what a gateway was asked is answered, and was no order to pause.
const ANSWER: Duration = Duration::from_millis(500);

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// The source's gateway is asked for the context.
    Reading,
    /// The target's gateway is asked to install it.
    Staging,
    /// It is installed; the source's gateway is asked to pause the session.
    Staged,
    /// It is paused, and nothing about that is written down yet.
    Paused,
    /// *Committed* is written down, and the target does not know.
    Committed,
    /// *Active* is written down; the target's gateway is asked to activate it.
    Claimed,
    /// It is active, and the source does not know.
    Taken,
    /// The source knows; its gateway is asked to release it.
    Releasing,
    /// All is done.
    Ended,
}

/// All of them.
pub(super) const STEPS: [Step; 9] = [
    Step::Reading,
    Step::Staging,
    Step::Staged,
    Step::Paused,
    Step::Committed,
    Step::Claimed,
    Step::Taken,
    Step::Releasing,
    Step::Ended,
];

impl Step {
    /// Whether the target will have the session whatever happens to a daemon.
    pub(super) fn is_settled(self) -> bool {
        self >= Self::Claimed
    }

    /// The steps at which it is held on its way here, and here.
    fn way(self) -> &'static [Self] {
        use Step as S;
        match self {
            S::Reading => &[S::Reading],
            S::Staging => &[S::Staging],
            S::Staged => &[S::Staging, S::Staged],
            S::Paused => &[S::Staging, S::Staged, S::Paused],
            S::Committed => &[S::Staging, S::Staged, S::Paused, S::Committed],
            S::Claimed => &[S::Staging, S::Staged, S::Paused, S::Claimed],
            S::Taken => &[S::Staging, S::Staged, S::Paused, S::Claimed, S::Taken],
            S::Releasing => &[S::Staging, S::Staged, S::Paused, S::Claimed, S::Releasing],
            S::Ended => &[S::Ended],
        }
    }
}

/// How often something was done at each step, and the steps at which it never was.
pub(super) fn counted(steps: &[Step]) -> (BTreeMap<String, usize>, Vec<Step>) {
    let count = |step: &Step| steps.iter().filter(|other| *other == step).count();
    let counts = STEPS.iter().map(|step| (format!("{step:?}"), count(step))).collect();
    (counts, STEPS.into_iter().filter(|step| count(step) == 0).collect())
}

/// A transfer that is held at a step.
pub(super) struct Held(JoinHandle<Result<Summary>>);

impl Held {
    /// Begins to move the session and holds it at a step, which is seen from outside.
    ///
    /// # Errors
    /// If the transfer does not come to that.
    pub(super) fn at(played: &Played, step: Step) -> Result<Self> {
        let (source, target) = ends(played);
        match step {
            Step::Reading => source.freeze_linux(true)?,
            Step::Ended => {}
            _ => target.freeze_linux(true)?,
        }
        let held = Self(played.begin_transfer()?);
        for next in step.way() {
            held.come_to(played, *next).with_context(|| format!("on the way to {next:?}"))?;
        }
        Ok(held)
    }

    /// Lets all that still run go on.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn let_go(&self, played: &Played) -> Result<()> {
        played.world.sites.iter().try_for_each(Site::thaw)
    }

    /// Waits for the end of the transfer, which may not be answered.
    ///
    /// # Errors
    /// If a thread panicked.
    pub(super) fn end(self) -> Result<Result<Summary>> {
        self.0.join().ok().context("the thread")
    }

    fn come_to(&self, played: &Played, step: Step) -> Result<()> {
        let (source, target) = ends(played);
        let [here, there] = [played.at, 1 - played.at];
        match step {
            Step::Reading => self.stands(played, here, &["Reading"]),
            Step::Staging => self.stands(played, there, &["Staging"]),
            Step::Staged => {
                source.freeze_linux(true)?;
                target.freeze_linux(false)?;
                self.stands(played, there, &["Staged"])?;
                self.stands(played, here, &["Pausing", "Overdue"])?;
                self.comes("an order to pause", || source.daemon_is_waiting())
            }
            Step::Paused => {
                let sas = played.world.users[0].sas()?;
                let spis = &sas.first().context("the user has no IKE SA")?.spis;
                let patience = Deadline::after(PATIENCE);
                loop {
                    source.freeze_daemon(true)?;
                    source.freeze_linux(false)?;
                    let answer = Deadline::after(ANSWER);
                    let is_blocked = wait_for("a blocked session", PATIENCE, || {
                        let is_blocked = blocked(here, &spis[0])?;
                        Ok((is_blocked || answer.passed()).then_some(is_blocked))
                    })?;
                    if is_blocked {
                        return Ok(());
                    }
                    ensure!(!patience.passed(), "no blocked session within {PATIENCE:?}");
                    // It had asked whether its gateway is there: the order comes next.
                    source.freeze_linux(true)?;
                    source.freeze_daemon(false)?;
                    self.stands(played, here, &["Pausing", "Overdue"])?;
                    self.comes("an order to pause", || source.daemon_is_waiting())?;
                }
            }
            Step::Committed => {
                target.freeze_daemon(true)?;
                source.freeze_daemon(false)?;
                self.stands(played, here, &["Committed", "InDoubt"])
            }
            Step::Claimed => {
                target.freeze_linux(true)?;
                source.freeze_daemon(false)?;
                self.stands(played, there, &["Activating"])
            }
            Step::Taken => {
                source.freeze_daemon(true)?;
                target.freeze_linux(false)?;
                let active = || Ok(played.entry(there)?.is_some_and(|it| it.state == "active"));
                self.comes("an active session", active)
            }
            Step::Releasing => {
                source.freeze_linux(true)?;
                target.freeze_linux(false)?;
                self.stands(played, here, &["Releasing"])
            }
            Step::Ended => wait_for("the end", PATIENCE, || Ok(self.0.is_finished().then_some(()))),
        }
    }

    /// Waits until a daemon has the session at one of these steps of its table.
    fn stands(&self, played: &Played, at: usize, steps: &[&str]) -> Result<()> {
        let mut last = None;
        let comes = self.comes(steps[0], || {
            last = played.entry(at)?.and_then(|entry| entry.step);
            Ok(last.as_deref().is_some_and(|step| steps.contains(&step)))
        });
        comes.with_context(|| format!("{} has it at {last:?}", GATEWAYS[at]))
    }

    fn comes(&self, what: &str, mut there: impl FnMut() -> Result<bool>) -> Result<()> {
        wait_for(what, PATIENCE, || {
            if there()? {
                return Ok(Some(()));
            }
            ensure!(!self.0.is_finished(), "the transfer has ended");
            Ok(None)
        })
    }
}

fn ends(played: &Played) -> (&Site, &Site) {
    (&played.world.sites[played.at], &played.world.sites[1 - played.at])
}

/// Whether a gateway blocks what it would say in IKE under this initiator's SPI.
fn blocked(at: usize, spi: &str) -> Result<bool> {
    let Ok(number) = u64::from_str_radix(spi, 16) else { bail!("{spi} is no SPI") };
    let mut list = Command::new("nft");
    list.args(["list", "set", "netdev", "cxtp", "block_ike4"]);
    let blocked = Namespace::of(GATEWAYS[at]).enter(|| output(&mut list))?;
    Ok(blocked.contains(&format!("{number:x}")) || blocked.contains(&number.to_string()))
}
