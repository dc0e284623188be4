//! The control API's server: JSON lines over a Unix socket, one request at a
//! time on each connection.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use protocol_spec::{
    codec,
    id::{BatchId, Name, RequestId, SessionId},
    status::{Refusal, Status},
    token::Order,
    transfer::TransferMode,
};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, broadcast, mpsc, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    api::{Event, Line, Mode, Request, Resolution},
    client::MAX_LINE,
    config::Config,
    driver::{Ask, fail, random},
    report,
    seal::{SealKey, from_hex},
};
use crate::engine;

/// Connections at one time.
const CONNECTIONS: usize = 64;
/// Lines that may wait for a client.
const LINES: usize = 64;
/// Sessions in one line of a list.
const PAGE: usize = 1000;
/// How long a client may take to read a line, and to send the rest of one.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the control socket cannot be offered.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The system says no.
    #[error("control_socket {}: {error}; its directory must exist and be writable", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A daemon answers there.
    #[error("control_socket {}: another cxtpd is using it; give each its own", .0.display())]
    InUse(PathBuf),
    /// Something else stands there.
    #[error("control_socket {}: there is a file that is not a socket; move it away", .0.display())]
    NotASocket(PathBuf),
}

/// What connections need.
struct Counter {
    config: Arc<Config>,
    seal_key: Option<SealKey>,
    asks: mpsc::Sender<Ask>,
    events: broadcast::Sender<Arc<Event>>,
    stop: CancellationToken,
}

/// The control API's server.
pub(super) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Takes the socket; replaces one that a dead daemon left behind.
    pub(super) fn bind(path: &Path, mode: u32) -> Result<Self, ControlError> {
        let failed = |error| ControlError::Socket { path: path.to_owned(), error };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ControlError::NotASocket(path.to_owned()));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(ControlError::InUse(path.to_owned()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // Nobody can connect under the name before the mode is right.
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(new);
        let listener = UnixListener::bind(&new).map_err(failed)?;
        let placed = fs::set_permissions(&new, fs::Permissions::from_mode(mode))
            .and_then(|()| fs::rename(&new, path));
        if let Err(error) = placed {
            // The first error is the one to tell.
            let _ = fs::remove_file(&new);
            return Err(failed(error));
        }
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until told to stop, then removes the socket.
    pub(super) async fn serve(
        self,
        config: Arc<Config>,
        seal_key: Option<SealKey>,
        asks: mpsc::Sender<Ask>,
        events: broadcast::Sender<Arc<Event>>,
        stop: CancellationToken,
    ) {
        let counter = Arc::new(Counter { config, seal_key, asks, events, stop: stop.clone() });
        let seats = Arc::new(Semaphore::new(CONNECTIONS));
        let tracker = TaskTracker::new();
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { break };
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a client could not be let in");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let counter = Arc::clone(&counter);
            tracker.spawn(async move {
                // A client that goes away is no event.
                let _ = counter.client(stream).await;
                drop(seat);
            });
        }
        // The same path may be another daemon's only after this one has ended.
        let _ = fs::remove_file(&self.path);
        tracker.close();
        let _ = timeout(Duration::from_secs(1), tracker.wait()).await;
    }
}

impl Counter {
    async fn client(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                read = read_line(&mut reader, &mut line) => if !read? { return Ok(()) },
            }
            match serde_json::from_slice::<Request>(&line) {
                Ok(Request::Watch) => self.watch(&mut reader, &mut writer).await?,
                Ok(Request::Sessions) => self.sessions(&mut writer).await?,
                Ok(Request::Status) => self.status(&mut writer).await?,
                Ok(request) => self.answer(request, &mut writer).await?,
                Err(error) => {
                    let what = format!("this is not a request of the control API: {error}");
                    say(&mut writer, &refuse(Status::NoVersion, what)).await?;
                }
            }
        }
    }

    /// Asks the driver and passes its lines on.
    async fn answer(&self, request: Request, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        let (lines, mut answer) = mpsc::channel(LINES);
        match self.ask(request, lines) {
            Ok(ask) => self.put(ask).await?,
            Err(why) => return say(writer, &Line::Error(report::refused(&why))).await,
        }
        while let Some(line) = answer.recv().await {
            let last = matches!(line, Line::Done(_) | Line::Error(_));
            say(writer, &line).await?;
            if last {
                return Ok(());
            }
        }
        say(writer, &refuse(Status::ShuttingDown, "the daemon ended before the answer")).await
    }

    async fn put(&self, ask: Ask) -> io::Result<()> {
        self.asks.send(ask).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn status(&self, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        let (answer, status) = oneshot::channel();
        self.put(Ask::Status(answer)).await?;
        let status = status.await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        say(writer, &Line::Done(serde_json::to_value(status)?)).await
    }

    async fn sessions(&self, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        let (mut after, mut total) = (None, 0);
        loop {
            let (answer, page) = oneshot::channel();
            self.put(Ask::Page(after, PAGE, answer)).await?;
            let page = page.await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            total += page.len();
            let Some(last) = page.last() else { break };
            after = last.session.parse().ok();
            let whole = page.len() == PAGE;
            say(writer, &Line::Sessions(page)).await?;
            if !whole {
                break;
            }
        }
        say(writer, &Line::Done(serde_json::json!({"sessions": total}))).await
    }

    /// Passes events on until the client says or closes something.
    async fn watch(
        &self,
        reader: &mut BufReader<OwnedReadHalf>,
        writer: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        let mut events = self.events.subscribe();
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => break,
                _ = reader.fill_buf() => break,
                event = events.recv() => event,
            };
            match event {
                Ok(event) => say(writer, &Line::Event((*event).clone())).await?,
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    let fields = serde_json::json!({"missed": missed});
                    let event = report::plain_event("events-missed", fields);
                    say(writer, &Line::Event(event)).await?;
                }
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        say(writer, &Line::Done(serde_json::json!({}))).await
    }

    /// The request in the driver's words, or what is wrong with it.
    fn ask(&self, request: Request, lines: mpsc::Sender<Line>) -> Result<Ask, Refusal> {
        Ok(match request {
            Request::Show { session } => Ask::Show(session_id(&session)?, lines),
            Request::Transfer { sessions, to, mode } => {
                let mode = match mode {
                    Mode::Predictive => TransferMode::Predictive,
                    Mode::Reactive => TransferMode::Reactive,
                };
                Ask::Transfer(session_ids(sessions)?, name(&to)?, mode, lines)
            }
            Request::Preflight { sessions, to } => {
                Ask::Preflight(session_ids(sessions)?, name(&to)?, lines)
            }
            Request::Pull { order } => {
                let bad = |what: &str| Refusal::new(Status::BadAuthorization, what);
                let octets = from_hex(&order).ok_or_else(|| bad("the order is not hexadecimal"))?;
                let order: Order = codec::decode(&octets)
                    .map_err(|e| bad(&format!("this is not an order; it {e}")))?;
                let request = RequestId(order.claims.id.0);
                Ask::Pull(request, engine::Command::Pull { request, order }, lines)
            }
            Request::Cancel { batch } => {
                let batch: BatchId =
                    batch.parse().map_err(|e| Refusal::new(Status::NoTransfer, format!("{e}")))?;
                Ask::Cancel(batch, lines)
            }
            Request::Resolve { session, resolution } => {
                let request = RequestId(random());
                let resolution = match resolution {
                    Resolution::ResumeHere => engine::Resolution::ResumeHere,
                    Resolution::ReleaseHere => engine::Resolution::ReleaseHere,
                };
                let session = session_id(&session)?;
                let command = engine::Command::Resolve { request, session, resolution };
                Ask::Plain(request, command, lines)
            }
            Request::Get { session, to } => Ask::Export(session_id(&session)?, name(&to)?, lines),
            Request::Put { sealed } => {
                let refused = |what: String| Refusal::new(Status::NotAuthorized, what);
                let key = self.seal_key.as_ref().ok_or_else(|| {
                    refused("this gateway has no key to open it with: set `seal.key`".into())
                })?;
                let export =
                    key.open(&sealed, self.config.name()).map_err(|e| refused(e.to_string()))?;
                let request = RequestId(random());
                let command = engine::Command::Import { request, export: Box::new(export) };
                Ask::Plain(request, command, lines)
            }
            Request::Status | Request::Sessions | Request::Watch => {
                fail(&lines, &Refusal::new(Status::NoVersion, "this request has its own answer"));
                return Err(Refusal::new(Status::NoVersion, "this request has its own answer"));
            }
        })
    }
}

fn session_id(text: &str) -> Result<SessionId, Refusal> {
    text.parse().map_err(|error| Refusal::new(Status::NoSession, format!("{error}")))
}

fn session_ids(texts: Option<Vec<String>>) -> Result<Option<Vec<SessionId>>, Refusal> {
    texts.map(|texts| texts.iter().map(|text| session_id(text)).collect()).transpose()
}

fn name(text: &str) -> Result<Name, Refusal> {
    text.parse().map_err(|error| Refusal::new(Status::NoPeer, format!("{error}")))
}

fn refuse(status: Status, detail: impl Into<String>) -> Line {
    Line::Error(report::refused(&Refusal::new(status, detail)))
}

/// Reads a line of bounded length; `false` at the end. A client may be silent
/// between requests, but not in the middle of one.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<bool> {
    if reader.fill_buf().await?.is_empty() {
        return Ok(false);
    }
    let mut bounded = reader.take(MAX_LINE as u64 + 1);
    timeout(CLIENT_TIMEOUT, bounded.read_until(b'\n', line))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    if line.last() == Some(&b'\n') { Ok(true) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn say(writer: &mut OwnedWriteHalf, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    timeout(CLIENT_TIMEOUT, writer.write_all(&text)).await.map_err(|_| io::ErrorKind::TimedOut)?
}
