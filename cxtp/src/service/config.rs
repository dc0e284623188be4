//! Configuration: a TOML file, `CXTP__SECTION__KEY` in the environment above
//! it, checked into types of our own. What is wrong is answered with the key,
//! its value and what would cure it.

mod gateway;
mod raw;

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use config::{Environment, File, FileFormat};
use protocol_spec::id::Name;
use thiserror::Error;

pub use self::gateway::{GatewayConfig, GatewayKind};
use self::raw::{Raw, RawPeer};
use super::seal::{PublicSealKey, from_hex};
use crate::engine::{EngineConfig, PeerPolicy};

/// The settings of a daemon, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the journal is kept.
    pub state_dir: PathBuf,
    /// Where `cxtpctl` connects.
    pub control_socket: PathBuf,
    /// File mode of the control socket.
    pub control_mode: u32,
    /// UDP address for peers.
    pub listen: SocketAddr,
    /// Whether end users' agents may connect.
    pub accept_clients: bool,
    /// Who we are to peers, and who they may be.
    pub tls: TlsFiles,
    /// The private key that sessions are sealed to.
    pub seal_key: Option<PathBuf>,
    /// Our gateway.
    pub gateway: GatewayConfig,
    /// Where peers are, by name. What they may do stands in `engine.peers`.
    pub peers: BTreeMap<Name, PeerConfig>,
    /// Name, peers' rights, controllers, times and windows.
    pub engine: EngineConfig,
    /// Times of the transport.
    pub transport: TransportTimes,
    /// What is logged, and how.
    pub log: LogConfig,
    effective: String,
}

/// Files in PEM form.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate authority of all gateways, controllers and clients.
    pub ca: PathBuf,
    /// Our certificate, with what stands between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where a peer is.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// HOST:PORT; needed where we dial.
    pub address: Option<String>,
    /// What `get` seals to.
    pub seal_key: Option<PublicSealKey>,
}

/// Times of the transport.
#[derive(Clone, Copy, Debug)]
pub struct TransportTimes {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// A peer that is silent for this time is down.
    pub dead_after: Duration,
    /// A frame that was begun must end, and a write must proceed, within this time.
    pub stall: Duration,
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// JSON, one object a line; else text for a person.
    pub json: bool,
    /// Directives as of `RUST_LOG`.
    pub filter: String,
}

/// What is wrong with a configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file or the environment cannot be read as a configuration.
    #[error("{}: {problem}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What, with the key where there is one.
        problem: String,
    },
    /// A value cannot be used.
    #[error("`{key}` is `{value}`: {problem}; {cure}")]
    Value {
        /// Which key.
        key: String,
        /// What it is set to.
        value: String,
        /// What is wrong with that.
        problem: String,
        /// What to do.
        cure: String,
    },
}

/// Defaults that do not depend on the name.
fn engine_defaults() -> EngineConfig {
    // A literal that is a name; `unwrap_or_else` never runs.
    EngineConfig::new(Name::from_str("unnamed").unwrap_or_else(|_| unreachable!()))
}

impl Config {
    /// Reads a file, then the environment.
    ///
    /// # Errors
    /// [`ConfigError`] for whatever cannot be used.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable =
            |problem: String| ConfigError::Unreadable { path: path.to_owned(), problem };
        let text = fs::read_to_string(path)
            .map_err(|error| unreadable(format!("{error}; name the file with --config FILE")))?;
        let environment = Environment::with_prefix("CXTP").prefix_separator("__").separator("__");
        let base = path.parent().unwrap_or(Path::new("."));
        Self::build(&text, Some(environment), base).map_err(|error| match error {
            ConfigError::Unreadable { problem, .. } => unreadable(problem),
            error @ ConfigError::Value { .. } => error,
        })
    }

    /// Reads the text of a file, without the environment. Paths that are not
    /// absolute are taken from `base`.
    ///
    /// # Errors
    /// [`ConfigError`] for whatever cannot be used.
    pub fn from_toml(text: &str, base: &Path) -> Result<Self, ConfigError> {
        Self::build(text, None, base)
    }

    /// This gateway.
    pub fn name(&self) -> &Name {
        &self.engine.name
    }

    /// All settings with their defaults, as TOML. Secrets are only paths.
    pub fn effective(&self) -> &str {
        &self.effective
    }

    fn build(
        text: &str,
        environment: Option<Environment>,
        base: &Path,
    ) -> Result<Self, ConfigError> {
        let unreadable =
            |problem: String| ConfigError::Unreadable { path: base.to_owned(), problem };
        let mut sources =
            config::Config::builder().add_source(File::from_str(text, FileFormat::Toml));
        if let Some(environment) = environment {
            sources = sources.add_source(environment);
        }
        let mut raw: Raw = sources
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| unreadable(error.to_string()))?;
        let kind = GatewayKind::named(&raw.gateway.kind)?;
        raw.transfer.staging_window.get_or_insert(kind.staging_window());
        raw.transfer.pause_window.get_or_insert(kind.pause_window());
        let effective = toml::to_string(&raw).map_err(|error| unreadable(error.to_string()))?;
        Self::check(raw, base, effective)
    }

    fn check(raw: Raw, base: &Path, effective: String) -> Result<Self, ConfigError> {
        let name: Name = parse(
            "name",
            &raw.name,
            "set it to the NAME in the gateway's certificate, cxtp://gateway/NAME",
        )?;
        let path = |key: &str, value: &str| {
            if value.is_empty() {
                Err(wrong(key, value, "it is needed", "set it to a path"))
            } else {
                Ok(base.join(value))
            }
        };
        let engine = engine(&raw, name)?;
        let peers = raw
            .peers
            .iter()
            .map(|(peer, settings)| peer_config(&engine.name, peer, settings, base))
            .collect::<Result<_, _>>()?;
        let gateway = GatewayConfig {
            kind: GatewayKind::named(&raw.gateway.kind)?,
            socket: path("gateway.socket", &raw.gateway.socket)?,
        };
        let json = match raw.log.format.as_str() {
            "json" => true,
            "text" => false,
            format => {
                let problem = "no such format";
                return Err(wrong("log.format", format, problem, "set it to `text` or `json`"));
            }
        };
        parse::<tracing_subscriber::filter::Targets>(
            "log.filter",
            &raw.log.filter,
            "write for example `info` or `cxtp=debug`",
        )?;
        Ok(Self {
            state_dir: path("state_dir", &raw.state_dir)?,
            control_socket: path("control_socket", &raw.control_socket)?,
            control_mode: control_mode(&raw.control_mode)?,
            listen: parse("listen", &raw.listen, "write ADDRESS:PORT, for example 0.0.0.0:4067")?,
            accept_clients: raw.accept_clients,
            tls: TlsFiles {
                ca: path("tls.ca", &raw.tls.ca)?,
                certificate: path("tls.certificate", &raw.tls.certificate)?,
                key: path("tls.key", &raw.tls.key)?,
            },
            seal_key: raw.seal.key.as_deref().map(|key| path("seal.key", key)).transpose()?,
            gateway,
            peers,
            engine,
            transport: transport(&raw)?,
            log: LogConfig { json, filter: raw.log.filter },
            effective,
        })
    }
}

fn engine(raw: &Raw, name: Name) -> Result<EngineConfig, ConfigError> {
    let t = &raw.transfer;
    let ms = |key: &str, value: u64, allowed| {
        within(&format!("transfer.{key}"), value, allowed).map(Duration::from_millis)
    };
    let count = |key: &str, value: usize| {
        within(&format!("transfer.{key}"), value as u64, 1..=1 << 20).map(|_| value)
    };
    let hour = 3_600_000;
    let mut engine = EngineConfig {
        max_transfer_time: ms("max_transfer_ms", t.max_transfer_ms, 1..=60_000)?,
        request_retry: ms("request_retry_ms", t.request_retry_ms, 10..=hour)?,
        retry_max: ms("retry_max_ms", t.retry_max_ms, t.request_retry_ms..=hour)?,
        stage_timeout: ms("stage_timeout_ms", t.stage_timeout_ms, 10..=hour)?,
        staged_timeout: ms("staged_timeout_ms", t.staged_timeout_ms, 10..=hour)?,
        tombstone: ms("tombstone_ms", t.tombstone_ms, 1000..=hour * 24 * 366)?,
        staging_window: count("staging_window", t.staging_window.unwrap_or_default())?,
        pause_window: count("pause_window", t.pause_window.unwrap_or_default())?,
        stage_first: GatewayKind::named(&raw.gateway.kind)?.stages_first(),
        max_batches: count("max_batches", t.max_batches)?,
        max_restage: t.max_restage,
        grant_span: within("transfer.grant_span", t.grant_span, 1 << 16..=1 << 32)?,
        request_rate: t.request_rate,
        ..EngineConfig::new(name)
    };
    for (peer, settings) in &raw.peers {
        let policy = PeerPolicy {
            may_push: settings.may_push,
            may_pull: settings.may_pull,
            max_staged: settings.max_staged,
            pulls_per_minute: settings.pulls_per_minute,
        };
        engine.peers.insert(peer_name("peers", peer)?, policy);
    }
    for (controller, settings) in &raw.controllers {
        let key =
            from_hex(&settings.public_key).filter(|key| key.len() == 32).ok_or_else(|| {
                wrong(
                    &format!("controllers.{controller}.public_key"),
                    &settings.public_key,
                    "it is no Ed25519 public key",
                    "write its 32 octets as 64 hexadecimal digits",
                )
            })?;
        engine.controllers.insert(peer_name("controllers", controller)?, key.to_vec());
    }
    Ok(engine)
}

fn peer_config(
    this: &Name,
    peer: &str,
    settings: &RawPeer,
    base: &Path,
) -> Result<(Name, PeerConfig), ConfigError> {
    let name = peer_name("peers", peer)?;
    if name == *this {
        let problem = "it is this gateway itself";
        return Err(wrong(&format!("peers.{peer}"), peer, problem, "take this section out"));
    }
    let key = format!("peers.{peer}.address");
    match &settings.address {
        // The gateway whose name sorts lower dials.
        None if *this < name => {
            let problem = format!(
                "it is needed, because `{this}` sorts before `{name}` and so connects to it"
            );
            return Err(wrong(&key, "", &problem, "set it to HOST:PORT"));
        }
        Some(address)
            if address.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) =>
        {
            return Err(wrong(&key, address, "it names no port", "set it to HOST:PORT"));
        }
        _ => {}
    }
    let seal_key = settings.seal_key.as_deref().map(|text| {
        let key = format!("peers.{peer}.seal_key");
        let cure = "write 64 hexadecimal digits, or the path of a file that holds them";
        // Hexadecimal digits are the key itself, anything else is a path.
        if let Ok(key) = text.parse() {
            return Ok(key);
        }
        let read = fs::read_to_string(base.join(text))
            .map_err(|error| wrong(&key, text, &error.to_string(), cure))?;
        read.trim().parse().map_err(|_| wrong(&key, text, "the file holds no seal key", cure))
    });
    Ok((name, PeerConfig { address: settings.address.clone(), seal_key: seal_key.transpose()? }))
}

fn transport(raw: &Raw) -> Result<TransportTimes, ConfigError> {
    let t = &raw.transport;
    let ms = |key: &str, value: u64, allowed| {
        within(&format!("transport.{key}"), value, allowed).map(Duration::from_millis)
    };
    Ok(TransportTimes {
        heartbeat: ms("heartbeat_ms", t.heartbeat_ms, 10..=60_000)?,
        dead_after: ms("dead_after_ms", t.dead_after_ms, 100..=600_000)?,
        stall: ms("stall_ms", t.stall_ms, 100..=600_000)?,
    })
}

fn control_mode(text: &str) -> Result<u32, ConfigError> {
    let wrong = |problem| {
        wrong("control_mode", text, problem, "write `\"0600\"`, or `\"0660\"` to let the group in")
    };
    match u32::from_str_radix(text, 8) {
        Err(_) => Err(wrong("it is no octal file mode")),
        Ok(mode) if mode & !0o770 != 0 => Err(wrong("whoever can connect can move every session")),
        Ok(mode) => Ok(mode),
    }
}

fn peer_name(section: &str, text: &str) -> Result<Name, ConfigError> {
    parse(&format!("{section}.{text}"), text, "name the section as the certificate does")
}

fn parse<T: FromStr>(key: &str, value: &str, cure: &str) -> Result<T, ConfigError>
where
    T::Err: Display,
{
    value.parse().map_err(|error: T::Err| wrong(key, value, &error.to_string(), cure))
}

fn within(key: &str, value: u64, allowed: RangeInclusive<u64>) -> Result<u64, ConfigError> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let cure = format!("set it from {} to {}", allowed.start(), allowed.end());
    Err(wrong(key, &value.to_string(), "it is out of range", &cure))
}

fn wrong(key: &str, value: &str, problem: &str, cure: &str) -> ConfigError {
    ConfigError::Value {
        key: key.to_owned(),
        value: value.to_owned(),
        problem: problem.to_owned(),
        cure: cure.to_owned(),
    }
}

#[cfg(test)]
mod tests;
