//! Namespaces, charons and waiting, for the tests beside.

use std::{
    fs::{self, File},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use gateway_plugin::strongswan::vici::{Client, Event, IkeSaInfo, Section, Subscription};
use nix::sched::{CloneFlags, setns};
use protocol_spec::key::KeyMaterial;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const USER: &str = "vici-eu";
pub(crate) const GATEWAY: &str = "vici-sg";
pub(crate) const OTHER: &str = "vici-sg2";

pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{command}`: {said}{complained}");
    said
}

/// Network namespaces of the end user and both gateways.
pub(crate) struct Net;

impl Net {
    pub(crate) fn new() -> Self {
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
pub(crate) struct Charon {
    namespace: &'static str,
    pub(crate) folder: PathBuf,
    process: Child,
}

impl Charon {
    pub(crate) fn start(namespace: &'static str, folder: &Path) -> Self {
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

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("vici")
    }

    /// A client, once charon answers.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::new(self.socket());
        until(&format!("charon of {} answers", self.namespace), || client.version(TIMEOUT).ok());
        client
    }

    pub(crate) fn kill(&mut self) {
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
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
pub(crate) fn event<T>(
    events: &Subscription,
    what: &str,
    mut look: impl FnMut(Event) -> Option<T>,
) -> T {
    until(what, || {
        let event = events.next(Duration::from_secs(1))?;
        println!("event: {}", brief(&event));
        look(event)
    })
}

pub(crate) fn brief(event: &Event) -> String {
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

pub(crate) fn authentication(id: &str) -> Section {
    Section::new().with("auth", "psk").with("id", id)
}

pub(crate) fn configure(client: &mut Client, gateway: bool) {
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

/// A gateway and an end user that listen to each other, and the events of the
/// gateway from before it ran.
pub(crate) fn pair(folder: &Path) -> (Charon, Charon, Subscription) {
    let events = Subscription::start(folder.join(GATEWAY).join("vici"), 1000).unwrap();
    let (user, gateway) = (Charon::start(USER, folder), Charon::start(GATEWAY, folder));
    configure(&mut user.client(), false);
    configure(&mut gateway.client(), true);
    event(&events, "Listening", |e| (e == Event::Listening { missing: vec![] }).then_some(()));
    (user, gateway, events)
}

/// Sets up the session and waits until the gateway has it.
pub(crate) fn establish(user: &mut Client, events: &Subscription) -> IkeSaInfo {
    user.initiate("vpn", "net", TIMEOUT, TIMEOUT * 2).unwrap();
    let up = event(events, "IkeUp", |e| match e {
        Event::IkeUp(ike) => Some(ike),
        _ => None,
    });
    event(events, "ChildUp", |e| matches!(e, Event::ChildUp(..)).then_some(()));
    up
}

/// The only IKE SA.
pub(crate) fn only(client: &mut Client) -> IkeSaInfo {
    let mut sas = client.list_sas(TIMEOUT).unwrap();
    assert_eq!(sas.len(), 1, "{sas:#?}");
    sas.remove(0)
}

/// The place of charon's other node on the loopback of a gateway.
pub(crate) fn other_node(namespace: &'static str) -> UdpSocket {
    let bound = std::thread::spawn(move || {
        let file = File::open(format!("/run/netns/{namespace}")).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        UdpSocket::bind("127.0.0.2:4510").unwrap()
    });
    let socket = bound.join().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket
}
