//! A charon for tests: a thread behind a Unix socket that plays one script for
//! each connection.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread::JoinHandle,
};

use super::{codec::Packet, section::Section};

/// What happens on one connection.
pub(super) type Script = Box<dyn FnOnce(Peer) + Send>;

pub(super) struct Fake {
    pub(super) path: PathBuf,
    thread: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Fake {
    /// Accepts as many connections as there are scripts, one after the other.
    pub(super) fn new(scripts: Vec<Script>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vici");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            for script in scripts {
                script(Peer(listener.accept().unwrap().0));
            }
        });
        Self { path, thread, _folder: folder }
    }

    /// Every script was played to its end.
    pub(super) fn finish(self) {
        self.thread.join().unwrap();
    }
}

/// The client, as the fake sees it.
pub(super) struct Peer(pub(super) UnixStream);

impl Peer {
    /// What the client sends next, or `None` once it has closed.
    pub(super) fn read(&mut self) -> Option<Packet> {
        let mut header = [0; 4];
        self.0.read_exact(&mut header).ok()?;
        let mut octets = vec![0; u32::from_be_bytes(header) as usize];
        self.0.read_exact(&mut octets).ok()?;
        Some(Packet::read(&octets).unwrap())
    }

    pub(super) fn write(&mut self, packet: &Packet) {
        self.0.write_all(&packet.write().unwrap()).unwrap();
    }

    pub(super) fn answer(&mut self, key: &str, value: &str) {
        self.write(&Packet::Response(Section::new().with(key, value)));
    }

    pub(super) fn event(&mut self, name: &str, message: Section) {
        self.write(&Packet::Event { name: name.to_owned(), message });
    }

    /// The command of the next request.
    pub(super) fn request(&mut self) -> String {
        match self.read() {
            Some(Packet::Request { name, .. }) => name,
            other => panic!("a request was expected, not {other:?}"),
        }
    }

    /// Reads a registration and answers it.
    pub(super) fn register(&mut self, answer: &Packet) -> String {
        match self.read() {
            Some(Packet::Register(name)) => {
                self.write(answer);
                name
            }
            other => panic!("a registration was expected, not {other:?}"),
        }
    }
}
