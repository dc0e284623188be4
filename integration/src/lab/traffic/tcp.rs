//! A TCP stream both ways between an end user and the inner server: it must stay up
//! and deliver every octet in its place.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;

use super::{Flow, millis};
use crate::{
    clock::now,
    lab::net::{Namespace, SERVER},
};

const PORT: u16 = 6999;
/// A stream that stands still for so long is broken.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a piece is written.
const BEAT: Duration = Duration::from_millis(10);

/// What became of the stream, over both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TcpTally {
    /// Octets written.
    pub sent: u64,
    /// Octets that came, each in its place.
    pub received: u64,
    /// The longest time without any, in milliseconds.
    pub stall_ms: f64,
}

/// A running stream.
pub struct Stream {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<u64>>>,
    readers: Vec<JoinHandle<Result<(u64, Duration)>>>,
}

impl Stream {
    /// Connects and begins to write so many octets per second each way.
    ///
    /// # Errors
    /// If it cannot connect.
    pub fn start(flow: &Flow, octets_per_second: usize) -> Result<Self> {
        let server = SocketAddr::new(flow.server, PORT);
        let listener = Namespace::of(SERVER)
            .enter(|| TcpListener::bind(server).with_context(|| format!("{server}")))?;
        let user = Namespace::of(&flow.node).enter(|| {
            let connected = TcpStream::connect_timeout(&server, PATIENCE);
            connected.with_context(|| format!("{} to {server}", flow.node))
        })?;
        let (accepted, _) = listener.accept()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (mut writers, mut readers) = (Vec::new(), Vec::new());
        let piece = (octets_per_second / 100).max(1);
        for end in [user, accepted] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
            let (reads, stopped) = (end.try_clone()?, Arc::clone(&stop));
            writers.push(std::thread::spawn(move || write(end, piece, &stopped)));
            readers.push(std::thread::spawn(move || read(reads)));
        }
        Ok(Self { stop, writers, readers })
    }

    /// Ends it and counts.
    ///
    /// # Errors
    /// If the stream broke or an octet was not in its place.
    pub fn stop(self) -> Result<TcpTally> {
        self.stop.store(true, Ordering::Relaxed);
        let mut tally = TcpTally::default();
        for writer in self.writers {
            tally.sent += writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        for reader in self.readers {
            let (received, stall) = reader.join().map_err(|_| anyhow!("a reader panicked"))??;
            tally.received += received;
            tally.stall_ms = tally.stall_ms.max(millis(stall));
        }
        if tally.sent != tally.received {
            bail!("TCP: {} octets sent, {} received", tally.sent, tally.received);
        }
        Ok(tally)
    }
}

/// The octet at a place of the stream: neighbours and neighbouring pages differ.
fn octet(place: u64) -> u8 {
    place.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]
}

fn write(mut stream: TcpStream, piece: usize, stop: &AtomicBool) -> Result<u64> {
    let mut place: u64 = 0;
    let begun = now();
    let mut beats = 0;
    while !stop.load(Ordering::Relaxed) {
        let octets: Vec<u8> = (place..).take(piece).map(octet).collect();
        stream.write_all(&octets).context("the TCP stream broke")?;
        place += octets.len() as u64;
        beats += 1;
        std::thread::sleep((BEAT * beats).saturating_sub(begun.elapsed()));
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(place)
}

fn read(mut stream: TcpStream) -> Result<(u64, Duration)> {
    let mut place: u64 = 0;
    let mut buffer = [0; 4096];
    let mut stall = Duration::ZERO;
    loop {
        let begun = now();
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok((place, stall)),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("the TCP stream broke"),
        };
        stall = stall.max(begun.elapsed());
        for (here, at) in buffer[..length].iter().zip(place..) {
            if *here != octet(at) {
                bail!("TCP: the octet at {at} is another one");
            }
        }
        place += length as u64;
    }
}
