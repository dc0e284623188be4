//! charon as the IKE daemon of a Linux gateway: HA messages carry sessions in and
//! out, vici says what those leave out.

mod acts;
mod listen;
mod news;
mod recent;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    time::Duration,
};

use protocol_spec::{
    context::Prefix,
    id::SessionId,
    status::{Refusal, Status},
};

use self::{news::News, recent::Recent};
use super::{
    checks,
    ha::{Gate, HaSocket, IkeId, IkeSpis, Life, Segments, SocketError, Version, put},
    tracker::{Limits, ListedChild, ListedIke, ListedState, Tracker},
    vici::{
        Client, IkeSaInfo, Subscription, Version as Named, ViciError,
        sa::{ChildState, IkeState},
    },
};
use crate::linux::{DaemonEvent, LastResponses};

/// For one question to charon.
const PATIENCE: Duration = Duration::from_secs(1);
/// Until charon has done what a message told it, as long as it answers at all: on a busy
/// machine its one thread for HA messages waits its turn.
const SETTLED: Duration = Duration::from_secs(3);
/// How long what charon is and has configured is not asked again.
const CONFIGURED: Duration = Duration::from_secs(1);
/// So many IKE SAs may have begun since the newest that was told of.
const BEGUN: u32 = 4;
/// Events of vici that wait.
const EVENTS: usize = 1024;

/// Where charon is, and what of it vici does not tell.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The vici socket.
    pub vici: PathBuf,
    /// Our address for HA messages (`ha.remote` of charon's configuration).
    pub ours: SocketAddr,
    /// charon's address for HA messages (`ha.local`).
    pub charons: SocketAddr,
    /// `ha.segment_count`.
    pub segments: u16,
    /// Addresses that this gateway's pools hand out.
    pub hands_out: Vec<Prefix>,
    /// What the kernel can do with Child SAs: encryption, key bits, integrity.
    pub child_transforms: BTreeSet<(u16, u16, u16)>,
    /// `strongswan.conf`, with what it includes.
    pub strongswan_conf: PathBuf,
    /// `swanctl.conf`, with what it includes.
    pub swanctl_conf: PathBuf,
}

/// A running charon.
pub struct Charon {
    settings: Settings,
    vici: Client,
    socket: HaSocket,
    segments: Segments,
    tracker: Arc<Mutex<Tracker>>,
    news: Arc<News>,
    /// IKE SAs of which no session was known when all were listed.
    strangers: HashSet<IkeSpis>,
    /// The charon that was talked to last.
    life: Option<Life>,
    /// Sessions that were seen to wait for their activation, and in which charon.
    passive: BTreeMap<SessionId, Life>,
    /// Where the end users of sessions of an earlier process were.
    remotes: HashMap<SessionId, SocketAddr>,
    /// Sessions that an earlier process staged: charon never tells of those.
    staged_before: HashMap<SessionId, (IkeId, SocketAddr)>,
    /// What admission looks at.
    facts: Recent<checks::Facts>,
    /// What says which side effects a session has: vici's, and both files.
    effects: Recent<(super::vici::Stats, checks::Settings, checks::Settings)>,
    met: Option<Met>,
    responses: Arc<dyn LastResponses>,
    _listeners: listen::Listeners,
}

/// What a charon said of itself.
#[derive(Clone, Debug)]
struct Met {
    /// How it calls itself: `charon`, `charon-systemd`.
    daemon: String,
    /// Of its HA messages.
    version: Version,
    /// Which it was.
    life: Option<Life>,
}

/// Why charon cannot be worked with.
#[derive(Debug, thiserror::Error)]
pub enum CharonError {
    /// vici does not answer.
    #[error("charon at {}: {error}", path.display())]
    Vici {
        /// Its socket.
        path: PathBuf,
        /// What came instead.
        error: ViciError,
    },
    /// A release whose HA messages are not known.
    #[error("strongSwan {0} speaks another version of HA messages: use 5.x or 6.0.2 and later")]
    Release(String),
    /// Without the plugin nothing can be moved.
    #[error(
        "charon has no ha plugin: set charon.plugins.ha.load = yes, with local = {charons}, \
         remote = {ours} and restart it"
    )]
    NoHa {
        /// Our address.
        ours: SocketAddr,
        /// charon's address.
        charons: SocketAddr,
    },
    /// The HA socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] io::Error),
}

fn lock(tracker: &Mutex<Tracker>) -> MutexGuard<'_, Tracker> {
    tracker.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Charon {
    /// Takes up a charon: binds its HA address first, then asks who it is.
    ///
    /// # Errors
    /// [`CharonError`] says what is missing and what to do.
    pub fn start(
        settings: Settings,
        events: SyncSender<DaemonEvent>,
        new_id: fn() -> SessionId,
        responses: Arc<dyn LastResponses>,
    ) -> Result<Self, CharonError> {
        let socket = match HaSocket::inherit(settings.charons)? {
            Some(socket) => socket,
            None => HaSocket::bind(settings.ours, settings.charons)?,
        };
        // charon may start after us: what it says first must find us here.
        let vici = Client::new(&settings.vici);
        let tracker = Arc::new(Mutex::new(Tracker::new(Limits::default())));
        let news = Arc::new(News::new());
        let listeners = listen::Listeners::start(
            [socket.try_clone()?, socket.try_clone()?],
            Subscription::start(&settings.vici, EVENTS)?,
            (Arc::clone(&tracker), Arc::clone(&news)),
            events,
            new_id,
        )?;
        Ok(Self {
            segments: Segments::new(settings.segments),
            settings,
            vici,
            socket,
            tracker,
            news,
            strangers: HashSet::new(),
            life: None,
            passive: BTreeMap::new(),
            remotes: HashMap::new(),
            staged_before: HashMap::new(),
            facts: Recent::new(CONFIGURED),
            effects: Recent::new(CONFIGURED),
            met: None,
            responses,
            _listeners: listeners,
        })
    }

    /// Who charon is; asked once for each of its lives.
    fn meet(&mut self) -> Result<Met, CharonError> {
        if let Some(met) = self.met.as_ref().filter(|met| met.life == self.life) {
            return Ok(met.clone());
        }
        let path = self.settings.vici.clone();
        let error = |error| CharonError::Vici { path: path.clone(), error };
        let Named { daemon, version: release, .. } = self.vici.version(PATIENCE).map_err(error)?;
        let version = Version::of_release(&release).ok_or(CharonError::Release(release))?;
        let stats = self.vici.stats(PATIENCE).map_err(error)?;
        if !stats.plugins.iter().any(|plugin| plugin == "ha") {
            let Settings { ours, charons, .. } = self.settings;
            return Err(CharonError::NoHa { ours, charons });
        }
        let met = Met { daemon, version, life: self.life };
        self.met = Some(met.clone());
        Ok(met)
    }

    /// Forgets what charon said if another one runs now.
    fn notice_another(&mut self) {
        let now = self.socket.charons_life();
        if now != self.life {
            self.life = now;
            self.passive.clear();
            self.facts = Recent::new(CONFIGURED);
            self.effects = Recent::new(CONFIGURED);
            self.news.begin_anew();
        }
    }

    fn version(&mut self) -> Result<Version, Refusal> {
        let met = self.meet();
        met.map(|met| met.version)
            .map_err(|error| Refusal::new(Status::GatewayFault, error.to_string()))
    }

    /// Makes up for what was missed, if anything was.
    fn catch_up(&mut self) -> Result<(), CharonError> {
        if !self.news.take_missed() {
            return Ok(());
        }
        self.reconcile().inspect_err(|_| self.news.miss())
    }

    /// vici's list, compared with what was heard. Sends a RESYNC for what was
    /// missed.
    fn reconcile(&mut self) -> Result<(), CharonError> {
        self.notice_another();
        // What that missed is made up for now.
        self.news.take_missed();
        self.meet()?;
        // What it had it may have no longer.
        self.passive.clear();
        self.facts.clear();
        self.effects.clear();
        let mark = lock(&self.tracker).mark();
        let sas = self.vici.list_sas(PATIENCE).map_err(|error| {
            let path = self.settings.vici.clone();
            CharonError::Vici { path, error }
        })?;
        let listed: Vec<ListedIke> = sas.iter().map(listed).collect();
        // What the list has and was not heard yet is not missed.
        self.socket.catch_up(PATIENCE)?;
        let mut tracker = lock(&self.tracker);
        let notices = tracker.reconcile(mark, &listed);
        let all = sas.iter().map(spis);
        self.strangers = all.filter(|spis| tracker.find(*spis).is_none()).collect();
        let passive = sas.iter().filter(|sa| sa.is_passive());
        let staged = passive.clone().filter(|sa| self.strangers.contains(&spis(sa)));
        let staged = staged.filter_map(|sa| {
            let (session, _) = tracker.remembered(spis(sa))?;
            Some((session, (id(sa), *self.remotes.get(&session)?)))
        });
        self.staged_before = staged.collect();
        drop(tracker);
        let parked = passive.count() > 0;
        let missed = listen::missed(&notices, self.segments);
        self.news.listed(&sas, missed.is_empty());
        for segment in missed {
            tracing::info!(segment, "charon is asked to tell its sessions again");
            if let Err(error) = self.resync(segment, parked) {
                tracing::warn!(%error, segment, "charon could not be asked");
            }
        }
        Ok(())
    }

    /// `parked` says whether sessions are staged.
    fn resync(&mut self, segment: u16, parked: bool) -> Result<(), Refusal> {
        let version = self.version()?;
        lock(&self.tracker).report_gaps_again();
        // Staged sessions wait there, and would all become active.
        if parked && segment == self.segments.parking() {
            return Ok(());
        }
        self.news.retell();
        let messages = put::relearn(segment, version).map_err(unsent)?;
        self.socket.send(&messages, PATIENCE).map(drop).map_err(unsent)
    }

    /// The IKE SA of a session as vici has it now.
    fn ask(&mut self, session: SessionId) -> Result<IkeSaInfo, Refusal> {
        if let Some(found) = self.look_up(session, PATIENCE)? {
            return Ok(found);
        }
        let wanted = self.ike(session)?.spis();
        let all = self.vici.list_sas(PATIENCE).map_err(unanswered)?;
        let found = all.into_iter().find(|sa| spis(sa) == wanted).ok_or_else(|| {
            let detail = format!("charon has no IKE SA of session {session} any more");
            Refusal::new(Status::SessionEnded, detail)
        })?;
        self.news.told(wanted, found.unique_id);
        Ok(found)
    }

    /// The same if it has its number, or one that it may have.
    fn look_up(
        &mut self,
        session: SessionId,
        patience: Duration,
    ) -> Result<Option<IkeSaInfo>, Refusal> {
        let wanted = self.ike(session)?.spis();
        for number in self.news.numbers(wanted, BEGUN) {
            if let Some(found) = self.vici.find_sa(number, patience).map_err(unanswered)?
                && spis(&found) == wanted
            {
                self.news.told(wanted, number);
                return Ok(Some(found));
            }
        }
        self.news.forget(wanted);
        Ok(None)
    }

    /// How charon calls a session's IKE SA.
    fn ike(&self, session: SessionId) -> Result<IkeId, Refusal> {
        let known = lock(&self.tracker).ike_id(session);
        let before = || self.staged_before.get(&session).map(|(ike, _)| *ike);
        known.or_else(before).ok_or_else(|| {
            Refusal::new(Status::NoSession, format!("charon has no session {session}"))
        })
    }

    /// The segment through which single sessions are activated: the one with the
    /// fewest clients.
    fn gate(&self) -> Result<Gate, Refusal> {
        let clients: Vec<_> = lock(&self.tracker).clients().collect();
        self.segments.gate(clients).ok_or_else(|| {
            let detail = "charon has a single HA segment: set charon.plugins.ha.segment_count = 16";
            Refusal::new(Status::GatewayFault, detail)
        })
    }
}

fn unanswered(error: ViciError) -> Refusal {
    Refusal::new(Status::GatewayFault, format!("charon does not answer: {error}"))
}

fn unsent(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Status::GatewayFault, format!("charon was not told: {error}"))
}

fn spis(sa: &IkeSaInfo) -> IkeSpis {
    (sa.spi_initiator, sa.spi_responder)
}

fn id(sa: &IkeSaInfo) -> IkeId {
    let (spi_initiator, spi_responder) = spis(sa);
    IkeId { version: sa.version, spi_initiator, spi_responder, initiator: sa.initiator }
}

fn listed(sa: &IkeSaInfo) -> ListedIke {
    let children = sa.children.iter().filter_map(|child| {
        Some(ListedChild {
            inbound: child.spi_in?,
            outbound: child.spi_out?,
            name: child.name.clone(),
            installed: match &child.state {
                ChildState::Installed | ChildState::Rekeying => true,
                ChildState::Other(name) => name == "UPDATING",
                ChildState::Rekeyed | ChildState::Deleting | ChildState::Deleted => false,
            },
        })
    });
    ListedIke {
        spis: spis(sa),
        state: match sa.state {
            IkeState::Established | IkeState::Rekeying => ListedState::Established,
            IkeState::Passive => ListedState::Passive,
            _ => ListedState::Other,
        },
        local: sa.local,
        remote: sa.remote,
        virtual_ips: sa.virtual_ips.clone(),
        children: children.collect(),
    }
}
