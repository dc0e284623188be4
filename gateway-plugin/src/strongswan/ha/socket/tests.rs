//! The socket against a stand-in for charon.

use std::net::UdpSocket;

use super::*;
use crate::strongswan::ha::{Kind, put};

const SOON: Duration = Duration::from_secs(5);

fn free(host: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((host, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn pair() -> (HaSocket, UdpSocket) {
    let (charon, address) = free("127.0.0.1");
    let ours = HaSocket::bind("127.0.0.2:0".parse().unwrap(), address).unwrap();
    charon.connect(ours.local()).unwrap();
    charon.set_read_timeout(Some(SOON)).unwrap();
    (ours, charon)
}

fn resync() -> Datagram {
    put::segment(Kind::Resync, 1, Version::V3).unwrap()
}

#[test]
fn messages_go_both_ways() {
    let (ours, charon) = pair();
    assert!(ours.receive(Duration::ZERO).unwrap().is_none());
    charon.send(resync().expose()).unwrap();
    let (version, message) = ours.receive(SOON).unwrap().unwrap().unwrap();
    assert_eq!((version, message.kind), (Version::V3, Kind::Resync));
    charon.send(&[9, 9]).unwrap();
    assert_eq!(ours.receive(SOON).unwrap().unwrap(), Err(HaError::UnknownVersion(9)));
    ours.send(&[resync()], SOON).unwrap();
    let mut buffer = [0; 64];
    let octets = charon.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..octets], resync().expose());
    ours.settle(SOON).unwrap();
    assert_eq!(ours.lost(), 0);
}

#[test]
fn what_waits_unread_is_behind() {
    let (ours, charon) = pair();
    ours.catch_up(SOON).unwrap();
    charon.send(resync().expose()).unwrap();
    let patience = Duration::from_millis(3);
    assert!(matches!(ours.catch_up(patience), Err(SocketError::Behind { .. })));
    ours.receive(SOON).unwrap().unwrap().unwrap();
    ours.catch_up(SOON).unwrap();
}

#[test]
fn nobody_else_is_heard() {
    let (ours, charon) = pair();
    let (stranger, _) = free("127.0.0.1");
    stranger.send_to(resync().expose(), ours.local()).unwrap();
    charon.send(&[9, 9]).unwrap();
    assert_eq!(ours.receive(SOON).unwrap().unwrap(), Err(HaError::UnknownVersion(9)));
    assert!(ours.receive(Duration::from_millis(1)).unwrap().is_none());
}

#[test]
fn a_taken_address_names_its_holder() {
    let (_held, address) = free("127.0.0.2");
    let error = HaSocket::bind(address, DEFAULT_CHARON).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(text.contains(&address.to_string()), "{text}");
}

#[test]
fn secrets_stay_on_the_machine() {
    let error = HaSocket::bind("127.0.0.2:0".parse().unwrap(), "192.0.2.1:4510".parse().unwrap());
    assert!(matches!(error, Err(SocketError::NotLoopback { .. })));
    let error = HaSocket::bind("0.0.0.0:0".parse().unwrap(), DEFAULT_CHARON);
    assert!(matches!(error, Err(SocketError::NotLoopback { .. })));
}

#[test]
fn an_absent_charon_is_said_to_be_absent() {
    let (ours, charon) = pair();
    drop(charon);
    assert!(matches!(ours.send(&[resync()], SOON), Err(SocketError::NoCharon { .. })));
    assert!(ours.receive(Duration::from_millis(1)).unwrap().is_none());
}

#[test]
fn a_charon_that_does_not_read_is_not_flooded() {
    let (ours, charon) = pair();
    let many: Vec<Datagram> = (0..2000).map(|_| resync()).collect();
    let patience = Duration::from_millis(20);
    assert!(matches!(ours.send(&many, patience), Err(SocketError::Stuck { .. })));
    assert!(matches!(ours.settle(patience), Err(SocketError::Stuck { .. })));
    // Everything that was sent is there, and one that reads gets all of it.
    let reading = charon.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let mut read = 0;
        while reading.recv(&mut buffer).is_ok_and(|octets| buffer[..octets] != [3, 10]) {
            read += 1;
        }
        read
    });
    ours.send(&many, SOON).unwrap();
    let end = Message { kind: Kind::Status, attributes: Vec::new() };
    ours.send(&[end.encode(Version::V3).unwrap()], SOON).unwrap();
    assert!(reader.join().unwrap() >= many.len());
}

#[test]
fn a_charon_that_reads_slowly_is_not_stuck() {
    let (ours, charon) = pair();
    let some: Vec<Datagram> = (0..10).map(|_| resync()).collect();
    ours.send(&some, SOON).unwrap();
    let patience = Duration::from_millis(150);
    let reader = std::thread::spawn(move || {
        for _ in 0..10 {
            std::thread::park_timeout(patience / 3);
            charon.recv(&mut [0; 64]).unwrap();
        }
        charon
    });
    ours.settle(patience).unwrap();
    drop(reader.join().unwrap());
}

#[test]
fn without_systemd_there_is_nothing_to_inherit() {
    assert!(HaSocket::inherit(DEFAULT_CHARON).unwrap().is_none());
}

/// Runs itself once more, as systemd would run it: with the socket as number 3.
#[test]
fn the_socket_that_systemd_holds_is_taken() {
    const CHARON: &str = "CXTP_TEST_CHARON";
    if let Ok(charon) = std::env::var(CHARON) {
        let ours = HaSocket::inherit(charon.parse().unwrap()).unwrap().unwrap();
        // What came before we were there waits in it.
        assert!(ours.receive(SOON).unwrap().unwrap().is_ok());
        ours.send(&[resync()], SOON).unwrap();
        return;
    }
    let (charon, address) = free("127.0.0.1");
    let (held, at) = free("127.0.0.2");
    charon.connect(at).unwrap();
    charon.set_read_timeout(Some(SOON)).unwrap();
    charon.send(resync().expose()).unwrap();
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0";
    let name = "strongswan::ha::socket::tests::the_socket_that_systemd_holds_is_taken";
    let child = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(CHARON, address.to_string())
        .stdin(std::os::fd::OwnedFd::from(held))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    let mut buffer = [0; 64];
    let octets = charon.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..octets], resync().expose());
}

#[test]
fn the_second_handle_is_the_same_socket() {
    let (ours, charon) = pair();
    let second = ours.try_clone().unwrap();
    charon.send(resync().expose()).unwrap();
    assert!(second.receive(SOON).unwrap().is_some());
    assert_eq!(second.local(), ours.local());
}
