//! What is measured in the guest: two gateways with an unmodified charon each, and
//! users of one more; the calls that the daemon makes to move a session are made here,
//! one after the other, with a clock beside them.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use gateway_plugin::{
    Activate, GatewayPlugin as _, Pause, PerSession, Release, Stage, embedded::RemoteGateway,
    strongswan::vici::Client,
};
use protocol_spec::{
    context::Context,
    id::{BatchId, Name, SessionEpoch, SessionId},
    limits::GRANT_SPAN,
    status::Refusal,
    transfer::{GrantedRange, SessionState},
};
use serde_json::Value;

use super::{Calls, Figures, INSTALL_TEST, Install, Run};
use crate::{
    clock,
    lab::{
        charon::{
            Charon, EXCHANGE,
            config::{Vpn, connection_of},
        },
        gateway::{Settings, Sharing},
        net::GATEWAYS,
        world::{Setup, World},
    },
    process::{tail, wait_for},
    stats::Spread,
};

/// Sessions that are looked at among all of a size, as in the thesis.
const CHOSEN: usize = 10;
/// Moves of each to the other gateway and back; as many of all ten together.
const ROUNDS: usize = 5;
/// Users that connect at a time: as many keep the only processor busy.
const TOGETHER: usize = 4;
/// For charon's answer, beyond the exchange itself.
const SPARE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a session may need to be staged, which says how far its grants are away.
const STAGING: Duration = Duration::from_millis(500);
/// Where sessions are, among the gateways.
const HOME: usize = 0;
const AWAY: usize = 1;
/// Before the figures of the kernel test.
const MARK: &str = "figures: ";

/// Measures all sizes, smallest first, on one pair of gateways.
///
/// # Errors
/// What could not be done.
pub(crate) fn run(programs: &[PathBuf], tunnels: &[usize]) -> Result<Value> {
    let install = install(programs)?;
    let most = tunnels.iter().copied().max().context("no size to measure")?;
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    let mut world = World::build(Setup {
        // Users that say nothing of themselves while nobody asks them, nor of all the
        // addresses in their node.
        vpn: Vpn { dpd: 0, mobike: false, ..Vpn::default() },
        each: most,
        shared: true,
        daemons: Some(settings),
        ..Setup::default()
    })?;
    // What they would ask their gateways meanwhile is not what is measured.
    world.sites.iter_mut().try_for_each(|site| site.kill_daemon())?;
    let mut bench = Bench::open(&world)?;
    let users = world.users.first().context("no end users")?;
    let (mut runs, mut up, mut stopped) = (Vec::new(), 0, None);
    for size in tunnels.iter().copied() {
        let begun = clock::now();
        connect(users, up + 1..=size)?;
        up = up.max(size);
        println!("{up} tunnels are up after {:?}", begun.elapsed());
        match bench.run(up) {
            Ok(run) => runs.push(run),
            // What was measured before it is worth something.
            Err(error) => {
                stopped = Some(format!("with {up} tunnels: {error:#}"));
                break;
            }
        }
    }
    if stopped.is_none() {
        users.rekey_ike_of(&connection_of(1)).context("after all moves")?;
    }
    let mut figures = serde_json::to_value(Figures { runs, install, stopped })?;
    figures["passed"] = true.into();
    Ok(figures)
}

/// How fast SAs are installed: the kernel test that demands it says how fast.
fn install(programs: &[PathBuf]) -> Result<Install> {
    let is_test = |path: &&PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(INSTALL_TEST.0))
    };
    let program = programs.iter().find(is_test).context("the kernel tests were not built")?;
    let output = Command::new(program)
        .args(["--ignored", "--exact", "--nocapture", INSTALL_TEST.1])
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let figures = said.lines().find_map(|line| line.split_once(MARK)).map(|(_, text)| text);
    let text = figures.with_context(|| {
        format!(
            "{} has no figures: {said}{}",
            INSTALL_TEST.1,
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    Ok(serde_json::from_str(text)?)
}

/// Sets up the tunnels of these users, a few at a time.
fn connect(users: &Charon, which: RangeInclusive<usize>) -> Result<()> {
    let waiting = Mutex::new(which);
    let begin = || -> Result<()> {
        let mut client = Client::new(users.vici());
        loop {
            let next = waiting.lock().map_err(|_| anyhow!("another one panicked"))?.next();
            let Some(user) = next else { return Ok(()) };
            client
                .initiate(&connection_of(user), "net", EXCHANGE, EXCHANGE + SPARE)
                .with_context(|| tail(&users.log()))?;
        }
    };
    std::thread::scope(|scope| {
        let begun: Vec<_> = (0..TOGETHER).map(|_| scope.spawn(begin)).collect();
        begun.into_iter().try_for_each(|client| match client.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Both gateways, as their daemons see them.
struct Bench {
    gateways: [RemoteGateway; 2],
    names: [Name; 2],
    /// Moves so far, each of which is an ownership of its own.
    moves: u64,
}

/// What the calls of one move took, for each of its sessions.
struct Sample {
    get: Duration,
    stage: Duration,
    pause: Duration,
    activate: Duration,
    release: Duration,
}

impl Bench {
    fn open(world: &World) -> Result<Self> {
        let gateway = |name: &str| {
            let socket: PathBuf = Path::new(world.folder()).join(name).join("gateway.sock");
            RemoteGateway::connect(socket)
        };
        let [one, other] = GATEWAYS;
        Ok(Self {
            gateways: [gateway(one)?, gateway(other)?],
            names: [one.parse()?, other.parse()?],
            moves: 0,
        })
    }

    /// Measures with so many tunnels at one gateway.
    fn run(&mut self, tunnels: usize) -> Result<Run> {
        let all = self.gather(tunnels)?;
        let chosen: Vec<_> = all.iter().step_by((tunnels / CHOSEN).max(1)).take(CHOSEN).collect();
        let chosen: Vec<SessionId> = chosen.into_iter().copied().collect();
        let (mut single, mut batch) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for session in &chosen {
                for from in [HOME, AWAY] {
                    single.push(self.once(from, &[*session])?);
                }
            }
            for from in [HOME, AWAY] {
                batch.push(self.once(from, &chosen)?);
            }
        }
        let [left, away] = self.find(tunnels)?;
        ensure!(left == all && away.is_empty(), "sessions are not where they were");
        println!("{tunnels} tunnels are measured");
        Ok(Run { tunnels, single: calls(&single), batch: calls(&batch) })
    }

    /// Brings all sessions home: the gateways agree by themselves on who answers whom.
    fn gather(&mut self, tunnels: usize) -> Result<Vec<SessionId>> {
        let [_, away] = self.find(tunnels)?;
        for some in away.chunks(CHOSEN) {
            self.once(AWAY, some)?;
        }
        let [home, away] = self.find(tunnels)?;
        println!("{tunnels} tunnels are at home");
        ensure!(away.is_empty(), "{} sessions are not at home", away.len());
        Ok(home)
    }

    /// Waits until the gateways have so many sessions together, all in use.
    fn find(&mut self, tunnels: usize) -> Result<[Vec<SessionId>; 2]> {
        wait_for(&format!("{tunnels} sessions"), PATIENCE, || {
            let mut found = [Vec::new(), Vec::new()];
            for (gateway, found) in self.gateways.iter_mut().zip(&mut found) {
                let sessions = gateway.list()?.into_iter();
                let active = sessions.filter(|session| session.state == SessionState::Active);
                found.extend(active.map(|session| session.session));
                found.sort_unstable();
            }
            Ok((found.iter().map(Vec::len).sum::<usize>() == tunnels).then_some(found))
        })
    }

    /// Moves sessions from one gateway to the other.
    fn once(&mut self, from: usize, sessions: &[SessionId]) -> Result<Sample> {
        self.moves += 1;
        let epoch = SessionEpoch(self.moves);
        let batch = BatchId(u128::from(self.moves).to_be_bytes());
        let [source, target] = [from, 1 - from].map(|at| self.names[at].clone());
        let sessions = || sessions.iter().copied();

        let of: Vec<_> = sessions().collect();
        let (get, contexts) = self.timed(from, |gateway| gateway.snapshot(&of))?;
        let orders = contexts.into_iter().map(|(_, context)| {
            let (source, grants) = (source.clone(), grants(&context)?);
            Ok(Stage { epoch, source, batch, grants, context })
        });
        let orders: Vec<Stage> = orders.collect::<Result<_>>()?;
        let (stage, _) = self.timed(1 - from, |gateway| gateway.stage(orders))?;

        let order = |session| Pause { session, target: target.clone(), generation: None };
        let orders = sessions().map(order).collect();
        let (pause, finals) = self.timed(from, |gateway| gateway.pause(orders))?;
        let order = |(session, finals)| Activate { session, epoch, finals };
        let orders = finals.into_iter().map(order).collect();
        let (activate, _) = self.timed(1 - from, |gateway| gateway.activate(orders))?;

        let order = |session| Release { session, epoch, target: target.clone() };
        let orders = sessions().map(order).collect();
        let (release, _) = self.timed(from, |gateway| gateway.release(orders))?;
        Ok(Sample { get, stage, pause, activate, release })
    }

    /// One call: what it took for each session, and what it answered of each.
    fn timed<T>(
        &mut self,
        at: usize,
        call: impl FnOnce(&mut RemoteGateway) -> Result<PerSession<T>, gateway_plugin::Fault>,
    ) -> Result<(Duration, Vec<(SessionId, T)>)> {
        let begun = clock::now();
        let answers = call(&mut self.gateways[at])?;
        let took = clock::now().saturating_duration_since(begun);
        let count = u32::try_from(answers.len())?;
        if count == 0 {
            bail!("{} said nothing", self.names[at]);
        }
        let told = |(session, answer): (SessionId, Result<T, Refusal>)| match answer {
            Ok(answer) => Ok((session, answer)),
            Err(refusal) => bail!("{session} at {}: {refusal}", GATEWAYS[at]),
        };
        Ok((took / count, answers.into_iter().map(told).collect::<Result<_>>()?))
    }
}

fn grants(context: &Context) -> Result<Vec<GrantedRange>> {
    let children = context.profile().children;
    let grant = |child: &protocol_spec::profile::ChildProfile| {
        child.usage.grant(STAGING, GRANT_SPAN).context("no numbers are left")
    };
    children.iter().map(grant).collect()
}

fn calls(samples: &[Sample]) -> Calls {
    let spread = |of: fn(&Sample) -> Duration| Spread::of(samples.iter().map(of));
    Calls {
        get: spread(|sample| sample.get),
        put: spread(|sample| sample.stage + sample.activate),
        stage: spread(|sample| sample.stage),
        activate: spread(|sample| sample.activate),
        pause: spread(|sample| sample.pause),
        release: spread(|sample| sample.release),
    }
}
