//! The gateway as a process of its own: lost, replaced, reconnected, abused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{all, batch, grants, name, until};
use gateway_plugin::{
    EventSink, Fault, GatewayEvent, GatewayPlugin, Stage,
    embedded::{
        EmbeddedGateway, GatewayAdmin, GatewayConfig, GatewayServer, RemoteGateway, SessionShape,
    },
};
use protocol_spec::{
    context::Context,
    id::{SessionEpoch, SessionId},
};

/// A gateway process that is killed at the end.
struct Process(Child);

impl Process {
    fn start(socket: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cxtp-gateway"))
            .arg("--socket")
            .arg(socket)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready outer=127.0.0.1:"), "{line}");
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        self.0.wait().unwrap();
    }
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.sock");
    (folder, path)
}

fn served() -> (tempfile::TempDir, PathBuf, EmbeddedGateway, GatewayServer) {
    let (folder, path) = socket();
    let gateway = EmbeddedGateway::start(GatewayConfig::default()).unwrap();
    let server = GatewayServer::start(gateway.clone(), &path).unwrap();
    (folder, path, gateway, server)
}

fn contexts(shape: &SessionShape, count: u32) -> Vec<Context> {
    let nowhere = "127.0.0.1:9".parse().unwrap();
    (0..count).map(|i| shape.context(1, i, nowhere, nowhere).unwrap()).collect()
}

fn provision(gateway: &mut RemoteGateway, count: u32) -> Vec<SessionId> {
    let ids = gateway.provision(contexts(&SessionShape::default(), count)).unwrap();
    ids.into_iter().map(Result::unwrap).collect()
}

#[test]
fn a_restarted_daemon_finds_its_sessions() {
    let (_folder, path, _gateway, _server) = served();
    let ids = provision(&mut RemoteGateway::connect(&path).unwrap(), 10);
    let listed = RemoteGateway::connect(&path).unwrap().list().unwrap();
    assert_eq!(listed.len(), ids.len());
    assert!(listed.iter().all(|status| ids.contains(&status.session)));
}

#[test]
fn a_killed_gateway_is_lost_and_its_successor_is_another_one() {
    let (_folder, path) = socket();
    let process = Process::start(&path);
    let mut gateway = RemoteGateway::connect(&path).unwrap();
    provision(&mut gateway, 5);
    drop(process);
    assert!(matches!(gateway.list(), Err(Fault::Lost(_))));
    assert!(matches!(gateway.list(), Err(Fault::Unreachable(_))), "lost only once");
    let _process = Process::start(&path);
    assert_eq!(gateway.list(), Ok(Vec::new()));
}

#[test]
fn a_gateway_replaced_unnoticed_is_lost_too() {
    let (_folder, path) = socket();
    let process = Process::start(&path);
    let mut gateway = RemoteGateway::connect(&path).unwrap();
    provision(&mut gateway, 5);
    drop(process);
    let _process = Process::start(&path);
    assert!(matches!(gateway.list(), Err(Fault::Lost(_))));
    assert_eq!(gateway.list(), Ok(Vec::new()));
}

#[test]
fn a_broken_connection_is_made_again_unnoticed() {
    let (_folder, path, local, server) = served();
    let mut gateway = RemoteGateway::connect(&path).unwrap();
    let (sink, events) = EventSink::bounded(100);
    gateway.subscribe(sink).unwrap();
    provision(&mut gateway, 3);
    for _ in 0..3 {
        let event = events.next(Duration::from_secs(5));
        assert!(matches!(event, Some(GatewayEvent::Up(_))), "{event:?}");
    }
    drop(server);
    let _server = GatewayServer::start(local.clone(), &path).unwrap();
    assert_eq!(gateway.list().unwrap().len(), 3);
    // What was told in between is lost, so the daemon is to list again.
    assert_eq!(events.next(Duration::from_secs(5)), Some(GatewayEvent::Overflow));
    until("resubscription", || {
        let id = local.provision(contexts(&SessionShape { esn: true, ..Default::default() }, 4));
        if let Some(Ok(id)) = id.last() {
            local.remove(*id).unwrap();
        }
        matches!(events.next(Duration::from_millis(100)), Some(GatewayEvent::Up(_)))
    });
}

#[test]
fn large_batches_are_cut_into_messages() {
    let (_folder, path, _gateway, _server) = served();
    let (_folder_b, path_b, _gateway_b, _server_b) = served();
    let mut a = RemoteGateway::connect(path).unwrap();
    let mut b = RemoteGateway::connect(path_b).unwrap();
    b.set_neighbour(name("gw-a"), a.addresses().unwrap().relay).unwrap();
    // 16 Child SAs with the largest window: some 25 KiB each.
    let shape = SessionShape { children: 16, window: 4096, ..SessionShape::default() };
    let ids: Vec<_> =
        a.provision(contexts(&shape, 300)).unwrap().into_iter().map(Result::unwrap).collect();
    let snapshots = all(a.snapshot(&ids).unwrap());
    assert_eq!(snapshots.iter().map(|context| context.session).collect::<Vec<_>>(), ids);
    let orders = snapshots.into_iter().map(|context| Stage {
        epoch: SessionEpoch(1),
        source: name("gw-a"),
        batch: batch(1),
        grants: grants(&context),
        context,
    });
    assert_eq!(all(b.stage(orders.collect()).unwrap()).len(), 300);
    assert_eq!(b.list().unwrap().len(), 300);
}

#[test]
fn only_its_user_may_speak_and_only_one_gateway_listens() {
    let (_folder, path, gateway, server) = served();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = GatewayServer::start(gateway.clone(), &path).err().unwrap();
    assert_eq!(second.kind(), std::io::ErrorKind::AddrInUse);
    drop(server);
    assert!(!path.exists(), "the socket is taken away");
    // What a dead gateway left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let _server = GatewayServer::start(gateway, &path).unwrap();
    assert!(RemoteGateway::connect(path).is_ok());
}

#[test]
fn nonsense_ends_its_connection_and_nothing_else() {
    let (_folder, path, _gateway, _server) = served();
    let mut honest = RemoteGateway::connect(&path).unwrap();
    provision(&mut honest, 2);
    let frame = |call: u8, body: &[u8]| {
        let mut octets = (body.len() as u32 + 2).to_be_bytes().to_vec();
        octets.extend([call, 0]);
        octets.extend(body);
        octets
    };
    let claims_gigabytes = [0xff, 0xff, 0xff, 0xff, 4, 0];
    let a_billion_orders = frame(7, &[253, 0, 0, 0, 0, 0, 0, 0, 0x40]);
    for octets in [
        &claims_gigabytes[..],
        &[0, 0, 0, 0, 1, 0],
        &frame(0x33, &[0]),
        &frame(5, b"not a list"),
        &frame(7, &[1, 2, 3]),
        &a_billion_orders,
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(octets).unwrap();
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the gateway closes");
        }
        assert!(answer.is_empty(), "{octets:?} was answered");
    }
    // One that says half of something and no more does not keep others waiting.
    let mut slow = UnixStream::connect(&path).unwrap();
    slow.write_all(&[0, 0]).unwrap();
    assert_eq!(honest.list().unwrap().len(), 2);
}

#[test]
fn the_commands_run_together_and_end_with_one_json_object() {
    let (_folder, path) = socket();
    let _process = Process::start(&path);
    let output = Command::new(env!("CARGO_BIN_EXE_cxtp-user"))
        .args(["--sessions", "20", "--seconds", "1", "--rate", "50", "--json", "--gateway"])
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["packets_sent"].as_u64().unwrap() > 500, "{last}");
    assert_eq!(last["packets_lost"], 0);
    assert_eq!(last["packets_duplicated"], 0);
}

#[test]
fn wrong_arguments_are_explained() {
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_cxtp-gateway")).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&["--socket", "/x", "--neighbour", "gw-b:7002"]);
    assert!(code == 2 && text.contains("NAME=ADDRESS:PORT"), "{text}");
    let (code, text) = run(&["--socket", "/nowhere/at/all.sock"]);
    assert!(code == 1 && text.contains("/nowhere/at/all.sock"), "{text}");
}
