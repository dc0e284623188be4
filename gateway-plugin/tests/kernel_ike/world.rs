//! Three network namespaces on one wire: the end user and a first gateway run
//! stock daemons, a second gateway has nothing but its address.

use std::{
    fs,
    net::UdpSocket,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use protocol_spec::{
    KeyMaterial,
    context::{IkeSa, IkeSecrets, IkeTransforms},
    samples,
};
use tempfile::TempDir;

pub(crate) const EU: &str = "ike-eu";
pub(crate) const SG1: &str = "ike-sg1";
pub(crate) const SG2: &str = "ike-sg2";
const BRIDGE: &str = "ikewan";

/// The key that both daemons share.
pub(crate) const SECRET: &str = "made-for-this-test";

/// Longest wait for a daemon to do what it is expected to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Time since a start.
#[derive(Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the test drives the exchange on real time")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Runs something on a thread of its own inside a network namespace.
pub(crate) fn in_namespace<T: Send>(name: &str, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = fs::File::open(format!("/run/netns/{name}")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) struct World {
    folder: TempDir,
    daemons: Vec<(&'static str, Child)>,
    /// Datagrams for the high availability peer of SG1's daemon.
    messages: Mutex<mpsc::Receiver<Vec<u8>>>,
}

impl World {
    /// Brings up the wire and both daemons, which are to use this IKE proposal.
    pub(crate) fn start(proposal: &str) -> Self {
        let mut world = Self::with_user(proposal);
        world.start_daemon(
            SG1,
            "ha",
            proposal,
            "local_addrs = 10.0.0.1\n pools = p\n \
             local { auth = psk\n id = gw.example.org }\n remote { auth = psk }\n \
             children { net { local_ts = 192.168.7.0/24 } }",
        );
        world
    }

    /// Brings up the wire alone.
    pub(crate) fn wire() -> Self {
        tear_down();
        ip(&["link", "add", BRIDGE, "type", "bridge"]);
        ip(&["link", "set", BRIDGE, "up"]);
        for (name, address) in [(EU, "10.0.0.10/24"), (SG1, "10.0.0.1/24"), (SG2, "10.0.0.2/24")] {
            ip(&["netns", "add", name]);
            // An IPv6 address that becomes usable a second later would be a change of
            // addresses that daemons tell each other.
            let quick = "net.ipv6.conf.default.accept_dad=0";
            ip(&["netns", "exec", name, "sysctl", "-q", "-w", quick]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&["link", "add", name, "type", "veth", "peer", "name", "wan", "netns", name]);
            ip(&["link", "set", name, "master", BRIDGE, "up"]);
            ip(&["-n", name, "addr", "add", address, "dev", "wan"]);
            ip(&["-n", name, "link", "set", "wan", "up"]);
        }
        let (sender, messages) = mpsc::channel();
        let socket = in_namespace(SG1, || UdpSocket::bind("127.0.0.2:4510").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An empty datagram ends it.
            while let Ok(octets @ 1..) = socket.recv(&mut buffer) {
                if sender.send(buffer[..octets].to_vec()).is_err() {
                    break;
                }
            }
        });
        let folder = tempfile::tempdir().unwrap();
        Self { folder, daemons: Vec::new(), messages: Mutex::new(messages) }
    }

    /// Brings up the wire and the end user's daemon alone.
    pub(crate) fn with_user(proposal: &str) -> Self {
        let mut world = Self::wire();
        world.start_daemon(
            EU,
            "",
            proposal,
            "remote_addrs = 10.0.0.1\n vips = 0.0.0.0\n \
             local { auth = psk\n id = eu@example.org }\n \
             remote { auth = psk\n id = gw.example.org }\n \
             children { net { remote_ts = 192.168.7.0/24 } }",
        );
        world
    }

    fn start_daemon(&mut self, name: &'static str, plugin: &str, proposal: &str, connection: &str) {
        let folder = self.folder(name);
        let at = folder.display();
        fs::create_dir_all(folder.join("swanctl")).unwrap();
        fs::write(
            folder.join("strongswan.conf"),
            format!(
                "charon {{
  load = random nonce openssl kdf pem pubkey curve25519 kernel-netlink socket-default vici {plugin}
  install_routes = no
  retransmit_timeout = 1.0
  plugins {{
    vici {{ socket = unix://{at}/vici }}
    ha {{ local = 127.0.0.1
      remote = 127.0.0.2
      monitor = no
      resync = no
      fifo_interface = no
      segment_count = 16 }} }}
  filelog {{ x {{ path = {at}/log
    default = 1
    flush_line = yes }} }}
}}\n"
            ),
        )
        .unwrap();
        fs::write(
            folder.join("swanctl/swanctl.conf"),
            format!(
                "connections {{ vpn {{ version = 2\n proposals = {proposal}\n {connection} }} }}
pools {{ p {{ addrs = 10.9.0.0/24 }} }}
secrets {{ ike-1 {{ id = eu@example.org
  secret = \"{SECRET}\" }} }}\n"
            ),
        )
        .unwrap();
        let program = format!(
            "mount -t tmpfs x /run; STRONGSWAN_CONF={at}/strongswan.conf exec /usr/lib/ipsec/charon"
        );
        let child = Command::new("ip")
            .args(["netns", "exec", name, "unshare", "-m", "bash", "-c", &program])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.daemons.push((name, child));
        let clock = Clock::start();
        while !self.swanctl(name, &["--load-all"]).0 {
            assert!(clock.now() < PATIENCE, "the daemon of {name} does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether it succeeded, and what it printed.
    fn swanctl(&self, name: &str, arguments: &[&str]) -> (bool, String) {
        let folder = self.folder(name);
        let output = Command::new("ip")
            .args(["netns", "exec", name, "swanctl"])
            .args(arguments)
            .args(["--uri", &format!("unix://{}/vici", folder.display())])
            .env("STRONGSWAN_CONF", folder.join("strongswan.conf"))
            .env("SWANCTL_DIR", folder.join("swanctl"))
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Lets the end user set its session up.
    pub(crate) fn initiate(&self) {
        let (done, text) = self.swanctl(EU, &["--initiate", "--child", "net"]);
        assert!(done, "no session: {text}\n{}", self.log(EU));
    }

    /// Sets the session up and makes SG1's context of it from its daemon's messages.
    pub(crate) fn establish(&self) -> IkeSa {
        self.initiate();
        let messages = self.messages.lock().unwrap();
        let (mut ike, mut next_receive) = (None, None);
        while ike.is_none() || next_receive.is_none() {
            let message = messages.recv_timeout(PATIENCE).expect("an IKE_ADD and a MID");
            match message[1] {
                1 => ike = Some(ike_add(&message)),
                4 => next_receive = Some(u32::from_be_bytes(message[22..26].try_into().unwrap())),
                _ => {}
            }
        }
        IkeSa { next_receive: next_receive.unwrap(), ..ike.unwrap() }
    }

    /// What a daemon has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder(name).join("log")).unwrap_or_default()
    }

    /// Waits until a daemon's list of IKE SAs contains this.
    pub(crate) fn wait_for(&self, name: &str, text: &str) {
        let clock = Clock::start();
        loop {
            let (_, list) = self.swanctl(name, &["--list-sas"]);
            if list.contains(text) {
                return;
            }
            assert!(clock.now() < PATIENCE, "no {text:?} in {list}\n{}", self.log(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a daemon has logged this.
    pub(crate) fn wait_for_log(&self, name: &str, text: &str) {
        let clock = Clock::start();
        while !self.log(name).contains(text) {
            assert!(clock.now() < PATIENCE, "no {text:?} in {}", self.log(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs an nft command in a namespace.
    pub(crate) fn nft(&self, name: &str, command: &str) {
        let status = Command::new("ip").args(["netns", "exec", name, "nft", command]).status();
        assert!(status.unwrap().success(), "nft {command}");
    }

    /// Changes something on the wire.
    pub(crate) fn ip(&self, arguments: &[&str]) {
        ip(arguments);
    }

    /// The SAs in the kernel of a namespace.
    pub(crate) fn kernel_sas(&self, name: &str) -> String {
        let output =
            Command::new("ip").args(["-n", name, "xfrm", "state"]).output().unwrap().stdout;
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Kills a daemon, so that it says nothing more to anybody.
    pub(crate) fn kill(&mut self, name: &str) {
        for (_, child) in self.daemons.iter_mut().filter(|(other, _)| *other == name) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (_, child) in &mut self.daemons {
            let _ = child.kill();
            let _ = child.wait();
        }
        in_namespace(SG1, || {
            let _ = UdpSocket::bind("127.0.0.1:0").map(|s| s.send_to(&[], "127.0.0.2:4510"));
        });
        tear_down();
    }
}

fn tear_down() {
    let quietly = |arguments: &[&str]| {
        let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    };
    quietly(&["link", "del", BRIDGE]);
    for name in [EU, SG1, SG2] {
        // By itself it would go only with the last socket in its namespace.
        quietly(&["link", "del", name]);
        quietly(&["netns", "del", name]);
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {}", arguments.join(" "));
}

/// What an IKE_ADD of version 3 says of keys: numbers 14-17 and 19-24.
fn ike_add(message: &[u8]) -> IkeSa {
    let (identity, mut rest) = message[5..].split_at(18);
    let spi = |at: usize| u64::from_be_bytes(identity[at..at + 8].try_into().unwrap());
    let (mut numbers, mut secrets) = ([0; 64], [const { Vec::new() }; 64]);
    while let [attribute, more @ ..] = rest {
        let length = match attribute {
            14 => 1,
            15..=18 => 2 + usize::from(u16::from_be_bytes([more[0], more[1]])),
            6 | 7 => 7,
            _ => 2,
        };
        let (value, after) = more.split_at(length);
        match attribute {
            15..=18 => secrets[usize::from(*attribute)] = value[2..].to_vec(),
            19..=24 => {
                numbers[usize::from(*attribute)] = u16::from_be_bytes([value[0], value[1]]);
            }
            _ => {}
        }
        rest = after;
    }
    let [.., nonce_initiator, nonce_responder, shared] = &mut secrets[..18] else { panic!() };
    IkeSa {
        spi_initiator: spi(1),
        spi_responder: spi(9),
        initiator: identity[17] == 1,
        transforms: IkeTransforms {
            encryption: numbers[21],
            key_bits: numbers[22],
            integrity: numbers[23],
            prf: numbers[19],
            key_exchange: numbers[24],
        },
        secrets: IkeSecrets::Seed {
            nonce_initiator: std::mem::take(nonce_initiator),
            nonce_responder: std::mem::take(nonce_responder),
            shared: vec![KeyMaterial::new(std::mem::take(shared))],
            replaced: None,
        },
        next_send: 0,
        ..samples::ike(0)
    }
}
