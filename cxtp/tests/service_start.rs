//! A daemon that cannot start says what is wrong and what to do; a client that
//! talks nonsense disturbs nobody.
#![cfg(feature = "service")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;
mod service_support;

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use cxtp::service::{self, Service, config::Config};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use common::{ModelGateway, Pki, within};
use service_support::{free_address, own, settings};

async fn start(directory: &Path, text: &str) -> Result<Service, String> {
    let config = Config::from_toml(text, directory).unwrap();
    let started = service::start(config, Box::new(ModelGateway::default())).await;
    started.map_err(|error| error.to_string())
}

async fn fails(directory: &Path, text: &str, words: &[&str]) {
    let Err(error) = start(directory, text).await else { panic!("it starts: {words:?}") };
    for word in words {
        assert!(error.contains(word), "`{error}` does not say `{word}`");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_keys_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (ours, others) = (Pki::new(), Pki::new());
    ours.write("gw-a", path);
    let text = settings("gw-a", free_address());
    let key = path.join("gw-a.key");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    fails(path, &text, &["gw-a.key", "0640", "chmod 600"]).await;
    own(&key);
    fails(path, &text.replace("gw-a.key", "none.key"), &["none.key", "No such file"]).await;
    fails(path, &text.replace("gw-a.key", "ca.pem"), &["ca.pem", "chmod 600"]).await;
    let named = text.replace("name = \"gw-a\"", "name = \"gw-c\"");
    fails(path, &named, &["gw-a.pem", "cxtp://gateway/gw-a", "gw-c"]).await;
    let seal = format!("{text}[seal]\nkey = \"seal\"\n");
    fs::write(path.join("seal"), "no key").unwrap();
    fails(path, &seal, &["seal", "chmod 600"]).await;
    own(&path.join("seal"));
    fails(path, &seal, &["seal", "64 hexadecimal digits"]).await;
    // A certificate of another authority, and a key of another certificate.
    let elsewhere = tempfile::tempdir().unwrap();
    others.write("gw-a", elsewhere.path());
    fs::copy(elsewhere.path().join("gw-a.key"), path.join("other.key")).unwrap();
    own(&path.join("other.key"));
    fails(path, &text.replace("gw-a.key", "other.key"), &["tls.key", "does not fit"]).await;
    fs::copy(elsewhere.path().join("ca.pem"), path.join("ca.pem")).unwrap();
    fails(path, &text, &["gw-a.pem", "issue a new one", "ca.pem"]).await;
    ours.write("gw-a", path);
    start(path, &text).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_daemon_uses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Pki::new().write("gw-a", path);
    let address = free_address();
    let text = settings("gw-a", address);
    let first = start(path, &text).await.unwrap();
    let control = path.join("gw-a.control");
    assert_eq!(fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o600);

    fails(path, &text, &["another cxtpd"]).await;
    let own_state = text.replace("gw-a.state", "second.state");
    fails(path, &own_state, &["control_socket", "another cxtpd"]).await;
    let own_control = own_state.replace("gw-a.control", "second.control");
    fails(path, &own_control, &["listen", &address.to_string(), "in use"]).await;
    UnixStream::connect(&control).expect("the first one still answers");
    first.stop().await;
    assert!(!control.exists(), "the socket goes with the daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_a_dead_daemon_left_is_replaced_and_another_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Pki::new().write("gw-a", path);
    let text =
        settings("gw-a", free_address()).replace("listen", "control_mode = \"0660\"\nlisten");
    let control = path.join("gw-a.control");
    drop(UnixListener::bind(&control).unwrap());
    let service = start(path, &text).await.unwrap();
    assert_eq!(fs::metadata(&control).unwrap().permissions().mode() & 0o777, 0o660);
    service.stop().await;
    fs::write(&control, "somebody's notes").unwrap();
    fails(path, &text, &["gw-a.control", "not a socket"]).await;
    assert_eq!(fs::read_to_string(&control).unwrap(), "somebody's notes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_talk_nonsense_disturb_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Pki::new().write("gw-a", path);
    let service = start(path, &settings("gw-a", free_address())).await.unwrap();
    let connect = || tokio::net::UnixStream::connect(path.join("gw-a.control"));
    for nonsense in [&b"\n"[..], b"{}\n", b"{\"op\":\"fly\"}\n", b"\xff\xfe\n", b"[[[[\n"] {
        let mut stream = BufReader::new(connect().await.unwrap());
        stream.write_all(nonsense).await.unwrap();
        let mut line = String::new();
        within("an answer", stream.read_line(&mut line)).await.unwrap();
        assert!(line.starts_with("{\"error\":"), "{line}");
    }
    // A line without an end is not gathered for ever.
    let mut endless = connect().await.unwrap();
    let flood = async {
        let chunk = vec![b'x'; 1 << 20];
        while endless.write_all(&chunk).await.is_ok() {}
    };
    within("the daemon to let go", flood).await;
    // One who never reads what it asked for, and many who say nothing.
    let mut deaf = connect().await.unwrap();
    deaf.write_all(b"{\"op\":\"watch\"}\n").await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(connect().await.unwrap());
    }
    let mut good = BufReader::new(connect().await.unwrap());
    good.write_all(b"{\"op\":\"status\"}\n").await.unwrap();
    let mut line = String::new();
    within("the status", good.read_line(&mut line)).await.unwrap();
    assert!(line.contains("\"name\":\"gw-a\""), "{line}");
    let stopped = tokio::time::timeout(Duration::from_secs(10), service.stop()).await;
    assert!(stopped.is_ok(), "clients do not hold up the end");
    let mut rest = Vec::new();
    let _ = silent[0].read_to_end(&mut rest).await;
}
