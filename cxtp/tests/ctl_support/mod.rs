//! What the tests of `cxtpctl` share: the tool as a process, and a daemon that
//! answers as it is told to and remembers what it was asked.
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use assert_cmd::Command;
use cxtp::service::api::{Line, Request};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::Value;

/// A session id with this number.
pub(crate) fn id(number: u8) -> String {
    format!("{number:032x}")
}

/// The tool, which gives up after a minute whatever happens.
pub(crate) fn tool() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cxtpctl"));
    command.env_remove("CXTP_SOCKET").timeout(Duration::from_secs(60));
    command
}

/// What the tool printed and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The last line on stdout, which must be the only JSON object.
    pub(crate) fn json(&self) -> Value {
        let objects = self.stdout.lines().filter(|line| line.starts_with('{')).count();
        assert_eq!(objects, 1, "{self:?}");
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }
}

/// Runs the tool to its end.
pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    let output = tool().args(args).output().unwrap();
    Ran {
        code: output.status.code().expect("ended by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// How the fake daemon goes on after its lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Closes the connection.
    Close,
    /// Says nothing more, until the client goes away.
    Hang,
}

/// A daemon that gives the same lines to each request.
pub(crate) struct FakeDaemon {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    asked: Receiver<Request>,
}

impl FakeDaemon {
    /// Answers with these lines.
    pub(crate) fn answering(lines: &[Line]) -> Self {
        let lines = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
        Self::saying(lines.collect::<String>(), Then::Close)
    }

    /// Says exactly this after each request.
    pub(crate) fn saying(words: impl Into<Vec<u8>>, then: Then) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (tell, asked) = channel();
        let words = words.into();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let request = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"));
                if tell.send(request).is_err() {
                    return;
                }
                // The client may have gone away; that is its right.
                let _ = stream.write_all(&words);
                if then == Then::Hang {
                    let _ = reader.read_line(&mut line);
                }
            }
        });
        Self { _dir: dir, socket, asked }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs the tool against it.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        let socket = self.socket.to_str().unwrap();
        run(["--socket", socket].iter().chain(args))
    }

    /// What it was asked, once.
    pub(crate) fn asked(&self) -> Request {
        let asked = self.asked.recv_timeout(Duration::from_secs(10)).expect("it was asked");
        assert!(self.asked.try_recv().is_err(), "it was asked once");
        asked
    }

    /// It was asked nothing.
    pub(crate) fn was_not_asked(&self) -> bool {
        self.asked.try_recv().is_err()
    }
}

/// Checks the server's signature and nothing of its certificate: the tests look
/// at that by other means.
#[derive(Debug)]
pub(crate) struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A directory with an authority, gateways `a` and `b`, controller `noc`, client `phone`.
pub(crate) fn pki() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path());
    for (role, name) in
        [("gateway", "a"), ("gateway", "b"), ("controller", "noc"), ("client", "phone")]
    {
        let ran = issue(dir.path(), role, name);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
    dir
}

/// Makes an authority.
pub(crate) fn init(dir: &Path) -> Ran {
    run(["pki", "init", "--dir", dir.to_str().unwrap()])
}

/// Issues a certificate.
pub(crate) fn issue(dir: &Path, role: &str, name: &str) -> Ran {
    run(["pki", "issue", "--dir", dir.to_str().unwrap(), role, name])
}

/// The octets of hexadecimal digits.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
