//! Two gateways and two end users in network namespaces, each with its own charon.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a world that cannot be built fails its test"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gateway_plugin::strongswan::{
    ha::{DEFAULT_CHARON, DEFAULT_LOCAL, HaSocket},
    tracker::{Description, Limits, Notice, Tracker},
};
use nix::sched::{CloneFlags, setns};
use protocol_spec::id::SessionId;
use tempfile::TempDir;

/// How long anything may take: the guest is slow, and others compete for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Everything under one temporary folder; the charons end with it.
pub(crate) struct World {
    folder: TempDir,
    charons: Mutex<Vec<Child>>,
}

impl World {
    /// Namespaces, links and configurations.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in NAMES {
            let folder = folder.path().join(name);
            fs::create_dir_all(folder.join("swanctl")).unwrap();
            let gateway = name.starts_with("sg");
            fs::write(folder.join("strongswan.conf"), strongswan_conf(&folder, gateway)).unwrap();
            let swanctl = if gateway { gateway_conf() } else { client_conf(name) };
            fs::write(folder.join("swanctl/swanctl.conf"), swanctl).unwrap();
        }
        shell(TOPOLOGY);
        Self { folder, charons: Mutex::default() }
    }

    /// Starts charons and waits until each answers and has its configuration.
    pub(crate) fn start(&self, names: &[&str]) {
        for name in names {
            let folder = self.folder.path().join(name);
            let log = File::create(folder.join("out")).unwrap();
            let charon = Command::new("ip")
                .args(["netns", "exec", name, "unshare", "-m", "sh", "-c"])
                .arg("mount -t tmpfs x /run && exec /usr/lib/ipsec/charon")
                .env("STRONGSWAN_CONF", folder.join("strongswan.conf"))
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            self.charons.lock().unwrap().push(charon);
        }
        for name in names {
            until("charon answers", || self.try_swanctl(name, &["--stats"]).ok());
            self.swanctl(name, &["--load-all"]);
        }
    }

    /// Runs swanctl against a charon and returns what it prints.
    pub(crate) fn swanctl(&self, name: &str, arguments: &[&str]) -> String {
        self.try_swanctl(name, arguments)
            .unwrap_or_else(|text| panic!("swanctl {arguments:?} at {name}: {text}"))
    }

    fn try_swanctl(&self, name: &str, arguments: &[&str]) -> Result<String, String> {
        let folder = self.folder.path().join(name);
        let output = Command::new("ip")
            .args(["netns", "exec", name, "timeout", "20", "swanctl"])
            .args(arguments)
            .arg("--uri")
            .arg(format!("unix://{}", folder.join("vici").display()))
            .env("STRONGSWAN_CONF", folder.join("strongswan.conf"))
            .env("SWANCTL_DIR", folder.join("swanctl"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(text) } else { Err(format!("{text}{errors}")) }
    }

    /// Keys of a namespace's kernel SAs by SPI.
    pub(crate) fn keys(&self, name: &str) -> BTreeMap<u32, String> {
        let text = shell(&format!("ip -n {name} xfrm state"));
        let mut keys = BTreeMap::new();
        let mut spi = 0;
        for line in text.lines().map(str::trim) {
            if let Some((_, rest)) = line.split_once("spi 0x") {
                spi = u32::from_str_radix(rest.split(' ').next().unwrap(), 16).unwrap();
            } else if line.starts_with("aead") {
                keys.insert(spi, line.to_owned());
            }
        }
        keys
    }

    /// The shared address goes from the first gateway to the second.
    pub(crate) fn move_address(&self) {
        shell(
            "ip -n sg1 link set wan down
             ip -n sg2 addr add 10.0.0.1/24 dev wan
             ip netns exec sg2 arping -q -U -c 1 -I wan 10.0.0.1",
        );
    }

    /// Waits until a charon has logged this so many times.
    pub(crate) fn logs(&self, name: &str, what: &str, times: usize) {
        until(what, || (self.log(name).matches(what).count() >= times).then_some(()));
    }

    /// What a charon has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name).join("log")).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["sg1", "sg2"] {
                let log = fs::read_to_string(self.folder.path().join(name).join("log"));
                let log = log.unwrap_or_default();
                let from = log.len().saturating_sub(3000);
                eprintln!("--- {name}\n{}", log.get(from..).unwrap_or_default());
            }
        }
        for charon in self.charons.lock().unwrap().iter_mut() {
            charon.kill().ok();
            charon.wait().ok();
        }
        for name in NAMES {
            Command::new("ip").args(["netns", "del", name]).status().ok();
        }
        Command::new("ip").args(["link", "del", "brwan"]).status().ok();
    }
}

/// A thread that follows a charon's HA messages.
pub(crate) struct Follower {
    socket: HaSocket,
    tracker: Arc<Mutex<Tracker>>,
    refused: Arc<Mutex<usize>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(crate) fn in_namespace(name: &str) -> Self {
        let socket = socket_in(name);
        let receiving = socket.try_clone().unwrap();
        let tracker = Arc::new(Mutex::new(Tracker::new(Limits::default())));
        let refused = Arc::new(Mutex::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (its, counts, stop) = (tracker.clone(), refused.clone(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut number = 0_u8;
            while !stop.load(Ordering::Acquire) {
                let Some(received) = receiving.receive(Duration::from_millis(50)).unwrap() else {
                    continue;
                };
                let (_, message) = received.expect("a message that can be read");
                number = number.wrapping_add(1);
                let notices = its.lock().unwrap().handle(message, SessionId([number; 16]));
                let odd = |notice: &&Notice| !matches!(notice, Notice::Event(_));
                *counts.lock().unwrap() += notices.iter().filter(odd).count();
                notices.iter().for_each(|notice| println!("{notice:?}"));
            }
        });
        Self { socket, tracker, refused, over, thread: Some(thread) }
    }

    /// Every session that is whole.
    pub(crate) fn describe(&self) -> Vec<Description> {
        let tracker = self.tracker.lock().unwrap();
        let sessions: Vec<SessionId> = tracker.sessions().map(|(id, _)| id).collect();
        sessions.into_iter().filter_map(|id| tracker.describe(id).ok()).collect()
    }

    /// Forgets all that was heard.
    pub(crate) fn reset(&self) {
        self.tracker.lock().unwrap().reset();
    }

    /// Gaps and refusals so far.
    pub(crate) fn refused(&self) -> usize {
        *self.refused.lock().unwrap()
    }

    pub(crate) fn socket(&self) -> &HaSocket {
        &self.socket
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Takes this thread into a namespace.
pub(crate) fn enter(name: &str) {
    let namespace = File::open(Path::new("/run/netns").join(name)).unwrap();
    setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
}

/// The HA socket of a namespace, which this thread enters: the socket stays where
/// it was made, but what looks into `/proc` must be there too.
pub(crate) fn socket_in(name: &str) -> HaSocket {
    enter(name);
    HaSocket::bind(DEFAULT_LOCAL, DEFAULT_CHARON).unwrap()
}

/// Waits for a condition and fails by its name.
pub(crate) fn until<T>(what: &str, mut holds: impl FnMut() -> Option<T>) -> T {
    let begin = now();
    loop {
        if let Some(value) = holds() {
            return value;
        }
        assert!(now() - begin < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Says how long something took, with the looking.
pub(crate) fn timed(what: &str, act: impl FnOnce()) {
    let begin = now();
    act();
    println!("{what}: {:?}", now() - begin);
}

#[expect(clippy::disallowed_methods, reason = "a test against real daemons waits in real time")]
fn now() -> Instant {
    Instant::now()
}

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn strongswan_conf(folder: &Path, gateway: bool) -> String {
    let folder = folder.display();
    let ha = if gateway { "ha" } else { "" };
    format!(
        "charon {{
  load = random nonce openssl aes sha1 sha2 hmac kdf pem pkcs1 x509 pubkey curve25519 gmp gcm cbc kernel-netlink socket-default vici updown attr {ha}
  install_routes = no
  delete_rekeyed_delay = 1
  plugins {{
    vici {{ socket = unix://{folder}/vici }}
    kernel-netlink {{ roam_events = no }}
    ha {{
      local = 127.0.0.1
      remote = 127.0.0.2
      monitor = no
      resync = no
      fifo_interface = no
      segment_count = 16
    }}
  }}
  filelog {{ x {{ path = {folder}/log
    default = 1
    flush_line = yes
    time_format = %s
    time_add_ms = yes }} }}
}}
"
    )
}

fn client_conf(name: &str) -> String {
    format!(
        "connections {{ vpn {{
  version = 2
  remote_addrs = 10.0.0.1
  proposals = aes256-sha256-x25519
  vips = 0.0.0.0
  local {{ auth = psk
    id = {name}@example.org }}
  remote {{ auth = psk
    id = gw.example.org }}
  children {{ net {{ remote_ts = 192.168.7.0/24
    esp_proposals = aes256gcm16-x25519 }} }} }} }}
{}",
        secret(name)
    )
}

fn gateway_conf() -> String {
    format!(
        "connections {{ vpn {{
  version = 2
  local_addrs = 10.0.0.1
  proposals = aes256-sha256-x25519
  pools = p
  local {{ auth = psk
    id = gw.example.org }}
  remote {{ auth = psk }}
  children {{ net {{ local_ts = 192.168.7.0/24
    esp_proposals = aes256gcm16-x25519 }} }} }} }}
pools {{ p {{ addrs = 10.9.0.0/24 }} }}
{}{}",
        secret("eu"),
        secret("eu2")
    )
}

fn secret(name: &str) -> String {
    format!("secrets {{ ike-{name} {{ id = {name}@example.org\n  secret = \"a-test-key\" }} }}\n")
}

const NAMES: [&str; 4] = ["sg1", "sg2", "eu", "eu2"];

const TOPOLOGY: &str = "
# What another test of the same guest left behind.
for n in eu eu2 sg1 sg2; do ip netns del $n 2> /dev/null || true; done
ip link del brwan 2> /dev/null || true
for n in eu eu2 sg1 sg2; do ip netns add $n; ip -n $n link set lo up; done
ip link add brwan type bridge; ip link set brwan up
link() {
  ip link add w$1 type veth peer name wan netns $1
  ip link set w$1 master brwan up; ip -n $1 link set wan up; ip -n $1 addr add $2 dev wan
}
link eu 10.0.0.10/24; link eu2 10.0.0.11/24; link sg1 10.0.0.1/24; link sg2 10.0.0.2/24
";
