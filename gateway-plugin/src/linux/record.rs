//! What must outlive the process and is no key: where each session stands.
//!
//! The kernel keeps SAs, policies and guards when this process dies, and charon
//! its IKE SAs; neither knows a session's id, its epoch, or whether it is paused.
//! The file lies on /run, in memory: it ends with the boot, as the kernel's tables
//! do. An entry is written before what it allows and after what it forbids.

use std::{
    fs::OpenOptions,
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bincode::{Decode, Encode};
use protocol_spec::{
    codec,
    context::{Endpoints, Mark, Prefix, Protocol},
    id::{BatchId, Generation, Name, SessionEpoch, SessionId},
    status::{Refusal, Status},
    transfer::{Finals, GrantedRange, SaRef},
};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, backends::FileBackend};
use thiserror::Error;

use super::{
    daemon::Spis,
    ground::Flow,
    pair::Pair,
    session::{End, Paths, Phase, Session},
    voice::{Announcement, Sealed},
};
use crate::xfrm::SaId;

const SESSIONS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("sessions");
/// Octets that the library may keep in memory.
const CACHE: usize = 1 << 20;

/// Why the file of sessions cannot be used.
#[derive(Debug, Error)]
#[error(
    "{}: {why}. Without it paused and staged sessions are not known: if there are none, remove the \
     file and start again", .path.display()
)]
pub(crate) struct RecordError {
    path: PathBuf,
    why: String,
}

/// The file.
pub(crate) struct Record {
    database: Database,
    path: PathBuf,
}

/// What the library says, as text; its error types are many.
struct Problem(String);

impl<E: std::error::Error> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Record {
    /// The file at `path`, made if it is not there, and the sessions in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Session>), RecordError> {
        let begin = || -> Result<_, Problem> {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let backend = FileBackend::new(options.open(path)?)?;
            let mut builder = redb::Builder::new();
            let database = builder.set_cache_size(CACHE).create_with_backend(backend)?;
            let write = database.begin_write()?;
            write.open_table(SESSIONS)?;
            write.commit()?;
            let mut sessions = Vec::new();
            for entry in database.begin_read()?.open_table(SESSIONS)?.iter()? {
                let (id, octets) = entry?;
                let row: Row = codec::decode(octets.value())?;
                sessions.push(row.into_session(SessionId(id.value())));
            }
            Ok((database, sessions))
        };
        let failed = |Problem(why)| RecordError { path: path.to_owned(), why };
        let (database, sessions) = begin().map_err(failed)?;
        Ok((Self { database, path: path.to_owned() }, sessions))
    }

    /// Writes where sessions stand, all at once; `None` for one that is gone.
    pub(crate) fn keep<'a>(
        &self,
        sessions: impl Iterator<Item = (SessionId, Option<&'a Session>)>,
    ) -> Result<(), Refusal> {
        let work = || -> Result<(), Problem> {
            let write = self.database.begin_write()?;
            let mut table = write.open_table(SESSIONS)?;
            for (id, session) in sessions {
                match session {
                    Some(session) => {
                        table.insert(id.0, codec::encode(&Row::of(session))?.as_slice())?;
                    }
                    None => drop(table.remove(id.0)?),
                }
            }
            drop(table);
            Ok(write.commit()?)
        };
        work().map_err(|Problem(why)| {
            let detail = format!("{} cannot be written: {why}", self.path.display());
            Refusal::new(Status::GatewayFault, detail)
        })
    }
}

/// A session as it stands in the file.
#[derive(Encode, Decode)]
struct Row {
    epoch: SessionEpoch,
    generation: Generation,
    stand: Stand,
    ike: Option<(u64, u64)>,
    inbound: Vec<u32>,
    at: Option<Endpoints>,
    paths: Option<RowPaths>,
    ends: Vec<(SaRef, u64)>,
    moved: bool,
    stays: bool,
    announcement: Option<RowAnnouncement>,
}

#[derive(Encode, Decode)]
struct RowAnnouncement {
    message_id: u32,
    sealed: Option<([u8; 16], Vec<u8>)>,
}

#[derive(Encode, Decode)]
enum Stand {
    Active,
    Unsettled,
    Paused { target: Name, finals: Option<Finals> },
    Staging { source: Name, batch: BatchId },
    Staged { source: Name, batch: BatchId, grants: Vec<GrantedRange> },
    Released,
}

#[derive(Encode, Decode)]
struct RowPaths {
    pairs: Vec<RowPair>,
    inner: Vec<Prefix>,
    children: Vec<(u32, u32)>,
    ike: Option<(u64, u64)>,
    local: SocketAddr,
    remote: SocketAddr,
    in_udp: bool,
}

#[derive(Encode, Decode)]
struct RowPair {
    protocol: Protocol,
    mark: Option<Mark>,
    inbound: (IpAddr, u32),
    outbound: (IpAddr, u32),
    outbound_mark: Option<Mark>,
    reqid: u32,
    window: u32,
    outbound_window: u32,
}

impl Row {
    fn of(session: &Session) -> Self {
        let stand = match session.phase.clone() {
            Phase::Active => Stand::Active,
            Phase::Unsettled => Stand::Unsettled,
            Phase::Paused { target, finals } => Stand::Paused { target, finals },
            Phase::Staging { source, batch } => Stand::Staging { source, batch },
            Phase::Staged { source, batch, grants } => Stand::Staged { source, batch, grants },
            Phase::Released { .. } => Stand::Released,
        };
        Self {
            epoch: session.epoch,
            generation: session.generation,
            stand,
            ike: session.spis.ike,
            inbound: session.spis.inbound.clone(),
            at: session.spis.ends,
            paths: session.paths.as_ref().map(RowPaths::of),
            ends: session.ends.iter().map(|end| (end.sa, end.end)).collect(),
            moved: session.moved,
            stays: session.stays,
            announcement: session.announcement.clone().map(|announcement| {
                let Announcement { message_id, sealed } = announcement;
                let sealed = sealed.map(|sealed| (sealed.cookie, sealed.datagram));
                RowAnnouncement { message_id, sealed }
            }),
        }
    }

    fn into_session(self, id: SessionId) -> Session {
        let phase = match self.stand {
            Stand::Active => Phase::Active,
            Stand::Unsettled => Phase::Unsettled,
            Stand::Paused { target, finals } => Phase::Paused { target, finals },
            Stand::Staging { source, batch } => Phase::Staging { source, batch },
            Stand::Staged { source, batch, grants } => Phase::Staged { source, batch, grants },
            Stand::Released => Phase::Released { until: Duration::ZERO },
        };
        let ends = self.ends.into_iter().map(|(sa, end)| End { sa, end, told: false });
        Session {
            id,
            epoch: self.epoch,
            generation: self.generation,
            phase,
            spis: Spis { ike: self.ike, inbound: self.inbound, ends: self.at },
            paths: self.paths.map(RowPaths::into_paths),
            ends: ends.collect(),
            moved: self.moved,
            stays: self.stays,
            announcement: self.announcement.map(|row| {
                let RowAnnouncement { message_id, sealed } = row;
                let sealed = sealed.map(|(cookie, datagram)| Sealed { cookie, datagram });
                Announcement { message_id, sealed }
            }),
            look_at: Duration::ZERO,
        }
    }
}

impl RowPaths {
    fn of(Paths { pairs, flow }: &Paths) -> Self {
        let Flow { inner, children, ike, local, remote, in_udp } = flow.clone();
        let pairs = pairs.iter().map(|pair| RowPair {
            protocol: pair.sa.protocol,
            mark: pair.inbound.mark,
            inbound: (pair.inbound.destination, pair.inbound.spi),
            outbound: (pair.outbound.destination, pair.outbound.spi),
            outbound_mark: pair.outbound.mark,
            reqid: pair.reqid,
            window: pair.window,
            outbound_window: pair.outbound_window,
        });
        Self { pairs: pairs.collect(), inner, children, ike, local, remote, in_udp }
    }

    fn into_paths(self) -> Paths {
        let Self { pairs, inner, children, ike, local, remote, in_udp } = self;
        let pairs = pairs.into_iter().map(|row| {
            let id =
                |(destination, spi), mark| SaId { destination, spi, protocol: row.protocol, mark };
            Pair {
                sa: SaRef { protocol: row.protocol, inbound_spi: row.inbound.1 },
                inbound: id(row.inbound, row.mark),
                outbound: id(row.outbound, row.outbound_mark),
                reqid: row.reqid,
                window: row.window,
                outbound_window: row.outbound_window,
            }
        });
        Paths { pairs: pairs.collect(), flow: Flow { inner, children, ike, local, remote, in_udp } }
    }
}

#[cfg(test)]
mod tests;
