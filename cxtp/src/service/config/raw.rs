//! The configuration as it stands in the file, before anything is checked. What
//! the file leaves out has its default here, so that writing this down again
//! gives the effective configuration.

use std::{collections::BTreeMap, time::Duration};

use protocol_spec::limits;
use serde::{Deserialize, Serialize};

use crate::engine::{EngineConfig, PeerPolicy};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) name: String,
    pub(super) state_dir: String,
    pub(super) control_socket: String,
    pub(super) control_mode: String,
    pub(super) listen: String,
    pub(super) accept_clients: bool,
    pub(super) tls: RawTls,
    pub(super) seal: RawSeal,
    pub(super) gateway: RawGateway,
    pub(super) transfer: RawTransfer,
    pub(super) transport: RawTransport,
    pub(super) log: RawLog,
    pub(super) peers: BTreeMap<String, RawPeer>,
    pub(super) controllers: BTreeMap<String, RawController>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub(super) ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSeal {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGateway {
    pub(super) kind: String,
    pub(super) socket: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPeer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) address: Option<String>,
    pub(super) may_push: bool,
    pub(super) may_pull: bool,
    pub(super) max_staged: usize,
    pub(super) pulls_per_minute: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seal_key: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawController {
    pub(super) public_key: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTransfer {
    pub(super) max_transfer_ms: u64,
    pub(super) request_retry_ms: u64,
    pub(super) retry_max_ms: u64,
    pub(super) stage_timeout_ms: u64,
    pub(super) staged_timeout_ms: u64,
    pub(super) tombstone_ms: u64,
    pub(super) staging_window: Option<usize>,
    pub(super) pause_window: Option<usize>,
    pub(super) max_restage: u32,
    pub(super) max_batches: usize,
    pub(super) grant_span: u64,
    pub(super) request_rate: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTransport {
    pub(super) heartbeat_ms: u64,
    pub(super) dead_after_ms: u64,
    pub(super) stall_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: String,
    pub(super) filter: String,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            name: String::new(),
            state_dir: "/var/lib/cxtp".to_owned(),
            control_socket: "/run/cxtp/control.sock".to_owned(),
            control_mode: "0600".to_owned(),
            listen: "0.0.0.0:4067".to_owned(),
            accept_clients: false,
            tls: RawTls::default(),
            seal: RawSeal::default(),
            gateway: RawGateway::default(),
            transfer: RawTransfer::default(),
            transport: RawTransport::default(),
            log: RawLog::default(),
            peers: BTreeMap::new(),
            controllers: BTreeMap::new(),
        }
    }
}

impl Default for RawGateway {
    fn default() -> Self {
        Self { kind: "embedded".to_owned(), socket: "/run/cxtp/gateway.sock".to_owned() }
    }
}

impl Default for RawPeer {
    fn default() -> Self {
        let PeerPolicy { may_push, may_pull, max_staged, pulls_per_minute } = PeerPolicy::default();
        Self { address: None, may_push, may_pull, max_staged, pulls_per_minute, seal_key: None }
    }
}

impl Default for RawTransfer {
    fn default() -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // The name is not used; the rest are the engine's own defaults.
        let EngineConfig {
            stage_timeout, staged_timeout, max_restage, max_batches, tombstone, ..
        } = super::engine_defaults();
        Self {
            max_transfer_ms: ms(limits::CT_MAX_TRANSFER_TIME),
            request_retry_ms: ms(limits::CT_REQUEST_RETRY),
            retry_max_ms: ms(limits::CT_RETRY_MAX),
            stage_timeout_ms: ms(stage_timeout),
            staged_timeout_ms: ms(staged_timeout),
            tombstone_ms: ms(tombstone),
            staging_window: None,
            pause_window: None,
            max_restage,
            max_batches,
            grant_span: limits::GRANT_SPAN,
            request_rate: limits::CT_REQUEST_RATE,
        }
    }
}

impl Default for RawTransport {
    fn default() -> Self {
        Self { heartbeat_ms: 1000, dead_after_ms: 5000, stall_ms: 10_000 }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self { format: "text".to_owned(), filter: "info".to_owned() }
    }
}
