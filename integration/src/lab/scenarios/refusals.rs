//! What a target cannot take: said with reason and cure before anything is touched.

use std::{net::UdpSocket, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use gateway_plugin::strongswan::ha::{Attribute, IkeId, Kind, Message, Version};
use protocol_spec::key::KeyMaterial;
use serde_json::{Value, json};

use crate::{
    lab::{
        charon::{Charon, EXCHANGE},
        gateway::{Settings, Sharing, Site},
        net::{GATEWAYS, Namespace, POOLS, SHARED, output, user_outer},
        report::Report,
        traffic::Traffic,
        world::{Setup, World},
    },
    process::wait_for,
};

/// Packets per second each way.
const RATE: u32 = 1000;
const AFTER: Duration = Duration::from_secs(1);
/// Beyond the second for which a gateway asks charon nothing twice.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session with traffic, and a target that is asked to take it.
struct Case {
    world: World,
    source: usize,
    traffic: Traffic,
    refusals: Vec<Value>,
}

impl Case {
    fn new(setup: Setup) -> Result<Self> {
        let mut world = World::build(setup)?;
        world.establish()?;
        let source = world.wait_for_owner(1)?;
        let traffic = world.start_traffic(RATE)?;
        world.baseline(&traffic);
        Ok(Self { world, source, traffic, refusals: Vec::new() })
    }

    fn target(&self) -> usize {
        1 - self.source
    }

    fn charon(&mut self) -> &mut Charon {
        let target = self.target();
        &mut self.world.gateways[target]
    }

    /// Both answers must have this status and these words; nothing may be at the
    /// target afterwards.
    fn refused(&mut self, why: &str, status: &str, words: &[&str]) -> Result<()> {
        let target = self.target();
        let site = &self.world.sites[self.source];
        let to = ["--all", "--to", GATEWAYS[target]];
        let preflight = || site.ask(&[&["preflight"], &to[..]].concat());
        // A gateway asks its charon for its configuration at most once a second.
        let mut last = Value::Null;
        let asked = wait_for(&format!("{why}: a refusal"), PATIENCE, || {
            last = preflight()?;
            let failure = last["refused"][0].clone();
            let said = failure.to_string();
            let whole = said.contains(status) && words.iter().all(|word| said.contains(word));
            Ok(whole.then_some(failure))
        });
        let asked = asked.with_context(|| format!("preflight said {last}"))?;
        let summary = site.ask(&[&["transfer"], &to[..]].concat())?;
        if summary["moved"] != 0 {
            bail!("{why}: it moved: {summary}");
        }
        let tried = summary["failures"][0].clone();
        for (answer, failure) in [("preflight", &asked), ("transfer", &tried)] {
            let said = failure["reason"].to_string();
            let lacks = words.iter().find(|word| !said.contains(**word));
            if failure["outcome"] != "refused" || !said.contains(status) || lacks.is_some() {
                bail!("{why}: {answer} said {failure}, wanted {status} with {words:?}");
            }
        }
        self.nothing_left().with_context(|| why.to_owned())?;
        self.refusals.push(json!({ "why": why, "reason": tried["reason"] }));
        Ok(())
    }

    /// Nothing of the session is at the target: in charon, in the kernel's tables of
    /// IPsec and of packet filters.
    fn nothing_left(&self) -> Result<()> {
        let target = self.target();
        let user = &self.world.users[0].sas()?[0];
        let child = user.child("net").context("no Child SA")?;
        let site = &self.world.sites[self.source];
        let session = site.control.sessions()?.first().context("no session")?.session.clone();
        let inner = self.world.flow(1)?.user.to_string();
        let look = |program: &str, args: &[&str]| {
            let run = || output(Command::new(program).args(args));
            Namespace::of(GATEWAYS[target]).enter(run)
        };
        let tables = [
            look("ip", &["xfrm", "state"])?,
            look("ip", &["xfrm", "policy"])?,
            look("nft", &["list", "ruleset"])?,
        ];
        for trace in [&child.spi_in, &child.spi_out, &session, &inner] {
            if let Some(table) = tables.iter().find(|table| table.contains(trace.as_str())) {
                bail!("{trace} is left at the target: {table}");
            }
        }
        let there = self.world.gateways[target].sas()?;
        if there.iter().any(|sa| sa.spis == user.spis) {
            bail!("the IKE SA is left at the target's charon");
        }
        Ok(())
    }

    /// The session was not disturbed by any of this, and still works where it is.
    fn finish(mut self, moves: bool) -> Result<Value> {
        self.traffic.wait_for_packets(20, EXCHANGE)?;
        if moves {
            let target = GATEWAYS[self.target()];
            let site = &self.world.sites[self.source];
            let summary = wait_for("a move without obstacle", PATIENCE, || {
                let summary = site.ask(&["transfer", "--all", "--to", target])?;
                Ok((summary["moved"] == 1).then_some(summary))
            })?;
            self.world.report.moved += summary["moved"].as_u64().unwrap_or_default();
        }
        self.traffic.run_for(AFTER);
        self.world.stop_traffic(self.traffic)?;
        self.world.still_works(1)?;
        let mut report: Report = self.world.finish()?;
        report.more.insert("refusals".into(), self.refusals.into());
        Ok(serde_json::to_value(report)?)
    }
}

fn mono_lan() -> Setup {
    let settings = Settings { sharing: Sharing::Multicast, ..Settings::default() };
    Setup { moves: 1, shared: true, daemons: Some(settings), ..Setup::default() }
}

/// One reason after the other at the same target; without them it takes the session.
///
/// # Errors
/// What could not be done, or was not refused.
pub fn all(_: &[PathBuf]) -> Result<Value> {
    let mut case = Case::new(mono_lan())?;
    let (source, target) = (case.source, case.target());

    case.charon().change_connections(|text| text.replace("{ vpn {", "{ other {"))?;
    case.charon().load()?;
    let words = ["no connection `vpn`", "swanctl --load-conns"];
    case.refused("configuration", "no-configuration", &words)?;
    case.charon().change_connections(|text| text.replace("{ other {", "{ vpn {"))?;

    let (own, theirs) = (POOLS[target][0], POOLS[source][0]);
    case.charon().change_connections(|text| text.replace(own, theirs))?;
    case.charon().load()?;
    case.refused("pool", "address-collision", &["may be handed out here", "a range of its own"])?;
    case.charon().change_connections(|text| text.replace(theirs, own))?;
    case.charon().load()?;

    // charon at the source tells no scripts: they are read in its file.
    let at_source = &case.world.gateways[source];
    at_source.change_connections(|text| {
        text.replace("esp_proposals", "updown = /bin/true\n   esp_proposals")
    })?;
    case.refused("hooks", "side-effects", &["`updown` script", "remove `updown`"])?;
    let at_source = &case.world.gateways[source];
    at_source.change_connections(|text| text.replace("updown = /bin/true\n", "\n"))?;

    let without = |plugins: &[&str], text: String| {
        let out = |text: String, plugin: &&str| text.replace(&format!(" {plugin} "), " ");
        plugins.iter().fold(text, out)
    };
    let restart = |case: &mut Case, change: &dyn Fn(String) -> String| {
        case.charon().kill()?;
        case.charon().change_settings(change)?;
        case.charon().run()?;
        case.charon().load()
    };
    let settings = std::fs::read_to_string(
        case.world.folder().join(GATEWAYS[target]).join("strongswan.conf"),
    )?;
    restart(&mut case, &|text| without(&["openssl", "curve25519"], text))?;
    let words = ["CURVE_25519", "load the plugin"];
    case.refused("transform", "no-transform", &words)?;
    restart(&mut case, &|_| settings.clone())?;

    let room = |site: &mut Site, most: &str| {
        change(site, |text| {
            let rest = text.lines().filter(|line| !line.starts_with("max_sessions"));
            format!("{most}\n{}\n", rest.collect::<Vec<_>>().join("\n"))
        })
    };
    room(&mut case.world.sites[target], "max_sessions = 0")?;
    case.refused("room", "no-room", &["raise max_sessions"])?;
    room(&mut case.world.sites[target], "")?;
    case.finish(true)
}

/// Changes the settings of a gateway that has no session.
fn change(site: &mut Site, change: impl FnOnce(String) -> String) -> Result<()> {
    site.kill_linux()?;
    site.change_settings(change)?;
    site.start_linux()?;
    site.wait_for_peer()
}

/// Different addresses, and a user that did not announce MOBIKE.
///
/// # Errors
/// What could not be done, or was not refused.
pub fn multi_lan(_: &[PathBuf]) -> Result<Value> {
    let mut setup = Setup {
        daemons: Some(Settings { routed: true, ..Settings::default() }),
        ..Setup::default()
    };
    setup.vpn.mobike = false;
    let mut case = Case::new(setup)?;
    case.refused("mobike", "no-steering", &["MOBIKE", "share the address"])?;
    case.finish(false)
}

/// A target that wants sessions on which Message IDs can be agreed on (RFC 6311):
/// between stock charons there is none. Without that wish it takes the session.
///
/// # Errors
/// What could not be done, or was not refused.
pub fn message_id_sync(_: &[PathBuf]) -> Result<Value> {
    let mut case = Case::new(mono_lan())?;
    let target = case.target();
    let wish = "require = [\"message-id-sync\"]\n";
    change(&mut case.world.sites[target], |text| format!("{wish}{text}"))?;
    let words = ["Message-ID synchronisation", "RFC 6311", "strongSwan gateway never"];
    case.refused("message-id-sync", "no-feature", &words)?;
    change(&mut case.world.sites[target], |text| text.replace(wish, ""))?;
    case.finish(true)
}

/// The inbound SPI or the IKE SPIs are another's at the target.
///
/// # Errors
/// What could not be done, or was not refused.
pub fn spi_collision(_: &[PathBuf]) -> Result<Value> {
    let mut case = Case::new(mono_lan())?;
    let target = case.target();
    let user = case.world.users[0].sas()?[0].clone();
    let child = user.child("net").context("no Child SA")?;
    // What the user sends with is the gateway's inbound SPI.
    let spi = format!("0x{}", child.spi_out);
    let (from, to) = (user_outer(200).of(false).to_string(), SHARED.of(false).to_string());
    let state = |args: &[&str]| {
        let whole = [&["xfrm", "state"], args].concat();
        let run = || output(Command::new("ip").args(&whole));
        Namespace::of(GATEWAYS[target]).enter(run).map(drop)
    };
    let name = ["src", &from, "dst", &to, "proto", "esp", "spi", &spi];
    let key = format!("0x{}", "5a".repeat(36));
    let rest = ["mode", "tunnel", "aead", "rfc4106(gcm(aes))", &key, "128"];
    state(&[&["add"], &name[..], &rest].concat())?;
    let answer = refused_only(&mut case, "spi-collision", &["rekey the Child SA"]);
    state(&["delete", "src", &from, "dst", &to, "proto", "esp", "spi", &spi])?;
    answer.context("inbound SPI")?;
    case.nothing_left()?;

    // An IKE SA that charon has and that nobody moved there.
    let [initiator, responder] =
        [&user.spis[0], &user.spis[1]].map(|spi| u64::from_str_radix(spi, 16).context("an SPI"));
    let id = IkeId {
        version: 2,
        spi_initiator: initiator?,
        spi_responder: responder?,
        initiator: false,
    };
    case.world.sites[target].kill_linux()?;
    plant(GATEWAYS[target], id)?;
    let there =
        |sas: &[crate::lab::charon::IkeSa]| sas.iter().any(|sa| sa.spis == user.spis).then_some(());
    case.charon().wait_for_sas("the other IKE SA", there)?;
    case.world.sites[target].start_linux()?;
    case.world.sites[target].wait_for_peer()?;
    refused_only(&mut case, "spi-collision", &["same IKE SPIs"]).context("IKE SPIs")?;
    case.world.sites[target].kill_linux()?;
    let delete = Message { kind: Kind::IkeDelete, attributes: vec![Attribute::IkeId(id)] };
    tell(GATEWAYS[target], &[delete])?;
    case.charon().wait_for_sas("no IKE SA", |sas| sas.is_empty().then_some(()))?;
    case.world.sites[target].start_linux()?;
    case.world.sites[target].wait_for_peer()?;
    case.finish(true)
}

/// The refusal alone: what is in the way has the session's SPIs itself.
fn refused_only(case: &mut Case, status: &str, words: &[&str]) -> Result<()> {
    let site = &case.world.sites[case.source];
    let target = GATEWAYS[case.target()];
    for command in ["preflight", "transfer"] {
        let answer = site.ask(&[command, "--all", "--to", target])?.to_string();
        let lacks = words.iter().find(|word| !answer.contains(**word));
        if !answer.contains(status) || lacks.is_some() {
            bail!("{command} said {answer}, wanted {status} with {words:?}");
        }
        case.refusals.push(serde_json::from_str(&answer)?);
    }
    Ok(())
}

/// Puts an IKE SA into a gateway's charon, whose other node nobody is at the time.
fn plant(node: &str, id: IkeId) -> Result<()> {
    let attributes = vec![
        Attribute::IkeVersion(2),
        Attribute::IkeId(id),
        Attribute::Encryption(12),
        Attribute::KeyBits(256),
        Attribute::Integrity(12),
        Attribute::Prf(5),
        Attribute::KeyExchange(31),
        Attribute::NonceInitiator(vec![1; 32]),
        Attribute::NonceResponder(vec![2; 32]),
        Attribute::Secret(KeyMaterial::new(vec![3; 32])),
        Attribute::RemoteAddress((user_outer(200).of(false), 500).into()),
    ];
    tell(node, &[Message { kind: Kind::IkeAdd, attributes }])
}

fn tell(node: &str, messages: &[Message]) -> Result<()> {
    Namespace::of(node).enter(|| {
        let socket = UdpSocket::bind("127.0.0.2:4510")?;
        for message in messages {
            socket.send_to(message.encode(Version::V3)?.expose(), "127.0.0.1:4510")?;
        }
        Ok(())
    })
}
