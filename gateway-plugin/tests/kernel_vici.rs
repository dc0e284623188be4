//! The vici client against real charons of strongSwan: an end user's, a
//! gateway's, and a second gateway that only gets what the `ha` plugin of the
//! first one sends. Prints what vici shows (`--nocapture`).
#![cfg(feature = "linux")]

use std::{
    fs::{self, File},
    io::ErrorKind,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use gateway_plugin::strongswan::vici::{
    Client, Event, IkeSaInfo, Section, Subscription, ViciError, Which, sa::IkeState,
};
use nix::sched::{CloneFlags, setns};
use protocol_spec::key::KeyMaterial;

const TIMEOUT: Duration = Duration::from_secs(5);
const USER: &str = "vici-eu";
const GATEWAY: &str = "vici-sg";
const OTHER: &str = "vici-sg2";

fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`: {said}{complained}");
    said
}

/// Network namespaces of the end user and both gateways.
struct Net;

impl Net {
    fn new() -> Self {
        drop(Self);
        for name in [USER, GATEWAY, OTHER] {
            run(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        }
        run(&format!(
            "ip link add wan netns {USER} type veth peer name wan netns {GATEWAY}
             ip -n {USER} addr add 10.0.0.10/24 dev wan && ip -n {USER} link set wan up
             ip -n {GATEWAY} addr add 10.0.0.1/24 dev wan && ip -n {GATEWAY} link set wan up"
        ));
        Self
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [USER, GATEWAY, OTHER] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// One charon in a network namespace, with a `/run` of its own.
struct Charon {
    namespace: &'static str,
    folder: PathBuf,
    process: Child,
}

impl Charon {
    fn start(namespace: &'static str, folder: &Path) -> Self {
        let folder = folder.join(namespace);
        fs::create_dir_all(&folder).unwrap();
        let shown = folder.display();
        let ha = if namespace == USER { "" } else { "ha" };
        let roam = if namespace == USER { "yes" } else { "no" };
        let settings = format!(
            "charon {{
               load = random nonce openssl aes sha1 sha2 hmac kdf pem x509 pubkey curve25519 gcm \
                      kernel-netlink socket-default vici updown {ha}
               install_routes = no
               retransmit_timeout = 0.5
               plugins {{
                 kernel-netlink {{ roam_events = {roam} }}
                 vici {{ socket = unix://{shown}/vici }}
                 ha {{ local = 127.0.0.1
                   remote = 127.0.0.2
                   monitor = no
                   resync = no
                   fifo_interface = no
                   segment_count = 16 }} }}
               filelog {{ log {{ path = {shown}/log
                   default = 1
                   flush_line = yes }} }} }}\n"
        );
        fs::write(folder.join("strongswan.conf"), settings).unwrap();
        let said = File::create(folder.join("out")).unwrap();
        let process = Command::new("ip")
            .args(["netns", "exec", namespace, "sh", "-c"])
            .arg("mount -t tmpfs run /run && exec /usr/lib/ipsec/charon")
            .env("STRONGSWAN_CONF", folder.join("strongswan.conf"))
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Self { namespace, folder, process }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("vici")
    }

    /// A client, once charon answers.
    fn client(&self) -> Client {
        let mut client = Client::new(self.socket());
        until(&format!("charon of {} answers", self.namespace), || client.version(TIMEOUT).ok());
        client
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Charon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(25)..].join("\n");
            eprintln!("--- log of {}\n{tail}", self.namespace);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test that waits for other processes reads time")]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "never seen: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The next event that `look` wants, within 20 s.
fn event<T>(events: &Subscription, what: &str, mut look: impl FnMut(Event) -> Option<T>) -> T {
    until(what, || {
        let event = events.next(Duration::from_secs(1))?;
        println!("event: {}", brief(&event));
        look(event)
    })
}

fn brief(event: &Event) -> String {
    match event {
        Event::IkeUp(ike) => format!("IkeUp #{} {:?}", ike.unique_id, ike.state),
        Event::IkeDown(ike) => format!("IkeDown #{} {:?}", ike.unique_id, ike.state),
        Event::IkeRekeyed { old, new } => format!(
            "IkeRekeyed #{} {:016x} {:?} -> #{} {:016x} {:?}",
            old.unique_id,
            old.spi_initiator,
            old.state,
            new.unique_id,
            new.spi_initiator,
            new.state
        ),
        Event::IkeMoved { ike, local, remote } => {
            format!("IkeMoved #{} {} -> {local} {remote}", ike.unique_id, ike.remote)
        }
        Event::ChildUp(_, c) => {
            format!("ChildUp {{{}}} {:08x?} {:?}", c.unique_id, c.spi_in, c.state)
        }
        Event::ChildDown(_, c) => {
            format!("ChildDown {{{}}} {:08x?} {:?}", c.unique_id, c.spi_in, c.state)
        }
        Event::ChildRekeyed { old, new, .. } => format!(
            "ChildRekeyed {{{}}} {:08x?} {:?} -> {{{}}} {:08x?} {:?}",
            old.unique_id, old.spi_in, old.state, new.unique_id, new.spi_in, new.state
        ),
        other => format!("{other:?}"),
    }
}

fn authentication(id: &str) -> Section {
    Section::new().with("auth", "psk").with("id", id)
}

fn configure(client: &mut Client, gateway: bool) {
    let (own, peer) = ("gw.example.org", "eu@example.org");
    let (own, peer) = if gateway { (own, peer) } else { (peer, own) };
    let selectors = if gateway { "local_ts" } else { "remote_ts" };
    let child = Section::new()
        .with_list(selectors, ["192.168.7.0/24"])
        .with_list("esp_proposals", ["aes256gcm16"]);
    let connection = Section::new()
        .with("version", "2")
        .with_list("proposals", ["aes256-sha256-x25519"])
        .with_section("local", authentication(own))
        .with_section("remote", authentication(peer))
        .with_section("children", Section::new().with_section("net", child));
    let connection = if gateway {
        client.load_pool("p", "10.9.0.0/24", TIMEOUT).unwrap();
        client.load_pool("q", "10.8.0.10-10.8.0.19", TIMEOUT).unwrap();
        connection.with_list("local_addrs", ["10.0.0.1"]).with_list("pools", ["p"])
    } else {
        connection.with_list("remote_addrs", ["10.0.0.1"]).with_list("vips", ["0.0.0.0"])
    };
    client.load_conn("vpn", connection, TIMEOUT).unwrap();
    let secret = KeyMaterial::new(b"a secret of the lab".to_vec());
    client.load_shared("IKE", &secret, &["eu@example.org"], TIMEOUT).unwrap();
}

/// The only IKE SA.
fn only(client: &mut Client) -> IkeSaInfo {
    let mut sas = client.list_sas(TIMEOUT).unwrap();
    assert_eq!(sas.len(), 1, "{sas:#?}");
    sas.remove(0)
}

/// The place of charon's other node on the loopback of a gateway.
fn other_node(namespace: &'static str) -> UdpSocket {
    let bound = std::thread::spawn(move || {
        let file = File::open(format!("/run/netns/{namespace}")).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind("127.0.0.2:4510").unwrap()
    });
    let socket = bound.join().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn real_charons_are_asked_and_heard() {
    let _net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let sent = other_node(GATEWAY);
    // Before charon runs.
    let events = Subscription::start(folder.path().join(GATEWAY).join("vici"), 1000).unwrap();
    let user = Charon::start(USER, folder.path());
    let mut gateway = Charon::start(GATEWAY, folder.path());
    let (mut at_user, mut at_gateway) = (user.client(), gateway.client());
    event(&events, "Listening", |e| (e == Event::Listening { missing: vec![] }).then_some(()));

    let version = at_gateway.version(TIMEOUT).unwrap();
    println!("version: {version:?}, {:?}", version.numbers());
    assert!(version.numbers().unwrap() >= (5, 9, 0));
    let stats = at_gateway.stats(TIMEOUT).unwrap();
    println!("stats: {stats:?}");
    assert!(stats.plugins.iter().any(|plugin| plugin == "ha"));
    let algorithms = at_gateway.algorithms(TIMEOUT).unwrap();
    println!("algorithms: {algorithms:?}");
    assert!(algorithms.has_encryption(12) && algorithms.has_encryption(20));
    assert!(algorithms.has_integrity(12) && algorithms.has_prf(5));
    assert!(algorithms.has_key_exchange(31));
    assert_eq!(at_gateway.list_sas(TIMEOUT).unwrap(), []);

    configure(&mut at_user, false);
    configure(&mut at_gateway, true);
    let connections = at_gateway.list_conns(TIMEOUT).unwrap();
    println!("connections: {connections:#?}");
    assert_eq!(connections[0].name, "vpn");
    assert_eq!(connections[0].children[0].name, "net");
    println!("pools: {:?}", at_gateway.pools(TIMEOUT).unwrap());

    // Up.
    at_user.initiate("vpn", "net", TIMEOUT, TIMEOUT * 2).unwrap();
    let up = event(&events, "IkeUp", |e| match e {
        Event::IkeUp(ike) => Some(ike),
        _ => None,
    });
    event(&events, "ChildUp", |e| matches!(e, Event::ChildUp(..)).then_some(()));
    let (ike, users) = (only(&mut at_gateway), only(&mut at_user));
    println!("established: {ike:#?}");
    assert_eq!((ike.unique_id, ike.spi_initiator), (up.unique_id, up.spi_initiator));
    assert_eq!(ike.state, IkeState::Established);
    assert_eq!((ike.spi_initiator, ike.spi_responder), (users.spi_initiator, users.spi_responder));
    assert!(users.initiator && !ike.initiator && ike.is_quiet());
    assert_eq!(ike.virtual_ips, users.local_virtual_ips);
    let (child, mirror) = (&ike.children[0], &users.children[0]);
    assert_eq!((child.spi_in, child.spi_out), (mirror.spi_out, mirror.spi_in));
    let kernel = run(&format!("ip -n {GATEWAY} xfrm state"));
    assert!(kernel.contains(&format!("spi 0x{:08x}", child.spi_in.unwrap())), "{kernel}");
    let lease = &at_gateway.pools(TIMEOUT).unwrap()[0].leases[0];
    println!("lease: {lease:?}");
    assert!(lease.online && ike.virtual_ips == [lease.address]);

    // What the `ha` plugin sent, put into the other gateway, is a passive IKE SA.
    let inject = other_node(OTHER);
    let other = Charon::start(OTHER, folder.path());
    let mut at_other = other.client();
    configure(&mut at_other, true);
    let mut buffer = [0; 4096];
    loop {
        match sent.recv(&mut buffer) {
            Ok(count) => {
                println!("ha: version {} type {} {count} octets", buffer[0], buffer[1]);
                // All but CHILD_ADD: one IKE SA is enough here.
                if buffer[1] != 6 {
                    inject.send_to(&buffer[..count], "127.0.0.1:4510").unwrap();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let passive = until("a passive IKE SA", || {
        at_other.list_sas(TIMEOUT).unwrap().into_iter().find(|sa| !sa.virtual_ips.is_empty())
    });
    println!("passive: {passive:#?}");
    assert!(passive.is_passive() && !passive.is_quiet());
    assert_eq!(passive.spi_initiator, ike.spi_initiator);
    assert_eq!(passive.remote, ike.remote);
    println!("pools beside a passive SA: {:?}", at_other.pools(TIMEOUT).unwrap());

    // Rekeys, of the Child SA and then of the IKE SA.
    assert_eq!(at_gateway.rekey(Which::Child(child.unique_id), TIMEOUT), Ok(1));
    let (old, new) = event(&events, "ChildRekeyed", |e| match e {
        Event::ChildRekeyed { old, new, .. } => Some((old, new)),
        _ => None,
    });
    assert_eq!(old.spi_in, child.spi_in);
    assert_ne!(new.spi_in, child.spi_in);
    assert_eq!(at_gateway.rekey(Which::Ike(ike.unique_id), TIMEOUT), Ok(1));
    let (old, new) = event(&events, "IkeRekeyed", |e| match e {
        Event::IkeRekeyed { old, new } => Some((old, new)),
        _ => None,
    });
    assert_eq!(old.spi_initiator, ike.spi_initiator);
    assert_ne!(new.spi_initiator, ike.spi_initiator);
    let rekeyed = until("the old IKE SA is gone", || {
        let mut sas = at_gateway.list_sas(TIMEOUT).unwrap();
        (sas.len() == 1 && sas[0].is_quiet()).then(|| sas.remove(0))
    });
    println!("after an IKE rekey by the gateway: initiator {}", rekeyed.initiator);
    assert_eq!(rekeyed.spi_initiator, new.spi_initiator);
    let refused = at_gateway.rekey(Which::Ike(ike.unique_id + 1000), TIMEOUT).unwrap_err();
    println!("refused: {refused}");
    assert!(matches!(refused, ViciError::Refused { .. }));

    // An exchange is open for as long as the answer cannot come.
    run(&format!("ip -n {USER} link set wan down"));
    let installed = rekeyed.live_children().next().unwrap();
    at_gateway.rekey(Which::Child(installed.unique_id), TIMEOUT).unwrap();
    let open = until("an open exchange", || {
        Some(only(&mut at_gateway)).filter(|sa| !sa.tasks.active.is_empty())
    });
    println!("open: {:?} {:?}, child {:?}", open.state, open.tasks, open.children[0].state);
    assert!(!open.is_quiet());
    run(&format!("ip -n {USER} link set wan up"));
    event(&events, "ChildRekeyed", |e| matches!(e, Event::ChildRekeyed { .. }).then_some(()));
    until("no open exchange", || only(&mut at_gateway).is_quiet().then_some(()));

    // The end user gets another address and says so (MOBIKE).
    run(&format!(
        "ip -n {USER} addr add 10.0.0.11/16 dev wan && ip -n {USER} addr del 10.0.0.10/24 dev wan"
    ));
    let moved = event(&events, "IkeMoved", |e| match e {
        Event::IkeMoved { ike, remote, .. } => Some((ike.remote, remote)),
        _ => None,
    });
    println!("moved: {moved:?}");
    assert_eq!(moved.1.ip().to_string(), "10.0.0.11");
    until("the new address is listed", || (only(&mut at_gateway).remote == moved.1).then_some(()));

    // charon dies and comes again.
    gateway.kill();
    let dead = at_gateway.version(TIMEOUT).unwrap_err();
    println!("killed: {dead}");
    event(&events, "Gap", |e| matches!(e, Event::Gap { .. }).then_some(()));
    drop(gateway);
    let gateway = Charon::start(GATEWAY, folder.path());
    event(&events, "Listening", |e| matches!(e, Event::Listening { .. }).then_some(()));
    until("charon answers the same client", || at_gateway.version(TIMEOUT).ok());
    assert_eq!(at_gateway.list_sas(TIMEOUT).unwrap(), []);
    assert_ne!(at_gateway.stats(TIMEOUT).unwrap().since, "");

    // Up once more, and down.
    run(&format!("ip -n {GATEWAY} xfrm state flush && ip -n {GATEWAY} xfrm policy flush"));
    configure(&mut at_gateway, true);
    let lost = only(&mut at_user);
    let zero = Duration::ZERO;
    let ended = at_user.terminate(Which::Ike(lost.unique_id), true, zero, TIMEOUT);
    println!("terminated at the end user: {ended:?}");
    until("no IKE SA at the end user", || {
        at_user.list_sas(TIMEOUT).unwrap().is_empty().then_some(())
    });
    at_user.initiate("vpn", "net", TIMEOUT, TIMEOUT * 2).unwrap();
    event(&events, "ChildUp", |e| matches!(e, Event::ChildUp(..)).then_some(()));
    let again = only(&mut at_user);
    at_user.terminate(Which::Ike(again.unique_id), false, TIMEOUT, TIMEOUT * 2).unwrap();
    event(&events, "IkeDown", |e| matches!(e, Event::IkeDown(_)).then_some(()));
    drop(gateway);
}
