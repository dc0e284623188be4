//! A small network in namespaces: an outer and an inner switch, two gateways
//! between them, end users outside, a server inside. And sockets to send and see
//! packets with.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use gateway_plugin::steering::{Config, Neighbour, NoBypass, Steering, Traffic};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};
use protocol_spec::{context::Prefix, id::SessionId};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) const SHARED4: &str = "192.0.2.10";
pub(crate) const SHARED6: &str = "2001:db8:1::10";
/// How long a packet that shall come may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(3);
/// How long to look for a packet that must not come.
pub(crate) const NEVER: Duration = Duration::from_millis(300);

/// Builds the network anew; what an earlier test left is gone.
pub(crate) fn build() {
    let users = [("eu", 1), ("eu2", 2), ("eu3", 3)];
    let all = ["sw", "eu", "eu2", "eu3", "sg1", "sg2", "srv"];
    let mut host = String::new();
    for namespace in all {
        host += &format!("netns add {namespace}\n");
    }
    sh("ip -all netns delete");
    batch("", &host);
    // Before any interface is there, so that each one begins with it.
    for namespace in all {
        within(namespace, || fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
    }

    let bridge =
        |name| format!("link add {name} type bridge mcast_snooping 0\nlink set {name} up\n");
    let mut switch = bridge("outer") + &bridge("inner");
    let mut port = |network: &str, namespace: &str, interface: &str, mac: &str| {
        switch += &format!(
            "link add {namespace}-{network} type veth peer name {interface} address {mac} netns \
             {namespace}\nlink set {namespace}-{network} master {network} up\n"
        );
    };
    for (namespace, number) in users {
        port("outer", namespace, "out", &format!("02:00:00:00:0e:0{number}"));
    }
    for number in 1..=2 {
        port("outer", &format!("sg{number}"), "out", &format!("02:00:00:00:01:0{number}"));
        port("inner", &format!("sg{number}"), "in", &format!("02:00:00:00:02:0{number}"));
    }
    port("inner", "srv", "in", "02:00:00:00:03:09");
    batch("sw", &switch);

    for (namespace, number) in users {
        let addresses = format!(
            "link set lo up\nlink set out up\naddr add 192.0.2.10{number}/24 dev out\n\
             addr add 2001:db8:1::10{number}/64 dev out nodad\n\
             addr add 10.8.0.{number}/32 dev lo\naddr add 2001:db8:8::{number}/128 dev lo nodad\n"
        );
        batch(namespace, &addresses);
    }
    for number in 1..=2 {
        let gateway = format!("sg{number}");
        let addresses = format!(
            "link set lo up\nlink set out up\nlink set in up\n\
             addr add 192.0.2.{number}/24 dev out\n\
             addr add 2001:db8:1::{number}/64 dev out nodad\naddr add 10.9.0.{number}/24 dev in\n\
             addr add 2001:db8:9::{number}/64 dev in nodad\n\
             route add 10.8.0.0/24 via 192.0.2.101\n\
             route add 2001:db8:8::/64 via 2001:db8:1::101\n"
        );
        batch(&gateway, &addresses);
        within(&gateway, || {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
            }
        });
    }
    batch(
        "srv",
        "link set lo up\nlink set in up\naddr add 10.9.0.9/24 dev in\n\
         addr add 2001:db8:9::9/64 dev in nodad\nroute add 10.8.0.0/24 via 10.9.0.1\n\
         route add 2001:db8:8::/64 via 2001:db8:9::1\n",
    );
}

/// Runs many commands of `ip` in a namespace, or outside of all.
fn batch(namespace: &str, commands: &str) {
    let namespace = if namespace.is_empty() { String::new() } else { format!("-n {namespace}") };
    sh(&format!("ip {namespace} -batch - <<'END'\n{commands}END\n"));
}

/// Runs a script; it must succeed.
pub(crate) fn sh(script: &str) {
    let output = Command::new("bash").args(["-c", script]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {complaint}");
}

/// What a command in a namespace says.
pub(crate) fn say(namespace: &str, command: &str) -> String {
    let script = format!("ip netns exec {namespace} {command}");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Does something in a namespace, in a thread of its own.
pub(crate) fn within<T: Send>(namespace: &str, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            enter(namespace);
            act()
        });
        match inside.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Moves this thread into a namespace.
pub(crate) fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

/// A gateway's configuration; `change` makes it this test's.
pub(crate) fn open(gateway: &str, change: impl FnOnce(&mut Config) + Send) -> Steering {
    within(gateway, || {
        let mut config = Config::new(gateway.parse().unwrap(), "out", "in");
        change(&mut config);
        Steering::open(config, Box::new(NoBypass)).unwrap()
    })
}

pub(crate) fn id(octet: u8) -> SessionId {
    SessionId([octet; 16])
}

pub(crate) fn prefix(text: &str) -> Prefix {
    let (address, bits) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), bits: bits.parse().unwrap() }
}

/// The session of an end user (`number` from 1) with the shared address, inbound
/// SPI 0x1000 + number, outbound 0x2000 + number.
pub(crate) fn session(number: u8) -> Traffic {
    let spi = u32::from(number);
    Traffic {
        inner: vec![prefix(&format!("10.8.0.{number}/32"))],
        children: vec![(0x1000 + spi, 0x2000 + spi)],
        ike: Some((0xabcd_0000_0000_0000 + u64::from(number), 0x99)),
        local: format!("{SHARED4}:500").parse().unwrap(),
        remote: format!("192.0.2.10{number}:500").parse().unwrap(),
        udp_encapsulated: false,
    }
}

/// The same in IPv6.
pub(crate) fn session6(number: u8) -> Traffic {
    Traffic {
        inner: vec![prefix(&format!("2001:db8:8::{number}/128"))],
        local: format!("[{SHARED6}]:500").parse().unwrap(),
        remote: format!("[2001:db8:1::10{number}]:500").parse().unwrap(),
        ..session(number)
    }
}

/// A gateway as its neighbour sees it.
pub(crate) fn neighbour(number: u8) -> Neighbour {
    Neighbour {
        name: format!("sg{number}").parse().unwrap(),
        inner: format!("10.9.0.{number}").parse().unwrap(),
        inner_also: Some(format!("2001:db8:9::{number}").parse().unwrap()),
        outer: format!("192.0.2.{number}").parse().unwrap(),
    }
}

/// A tunnel by the kernel's own ESP between a gateway and an end user.
pub(crate) fn tunnel(gateway: &str, number: u8) {
    let (user, outside) = (user(number), format!("192.0.2.10{number}"));
    let (inbound, outbound) = (0x1000 + u32::from(number), 0x2000 + u32::from(number));
    let vip = format!("10.8.0.{number}/32");
    let aead = "aead 'rfc4106(gcm(aes))' 0x00112233445566778899aabbccddeeff00112233 128";
    let mut script = String::from("set -e\n");
    for (host, local, remote, into, out, mine, theirs) in [
        (gateway, SHARED4, &outside[..], inbound, outbound, "10.9.0.0/24", &vip[..]),
        (user, &outside, SHARED4, outbound, inbound, &vip, "10.9.0.0/24"),
    ] {
        let template = |source, destination| {
            format!("tmpl src {source} dst {destination} proto esp mode tunnel reqid 1{number}")
        };
        script += &format!(
            "ip -n {host} xfrm state add src {remote} dst {local} proto esp spi {into} reqid \
             1{number} mode tunnel replay-window 32 {aead}\n\
             ip -n {host} xfrm state add src {local} dst {remote} proto esp spi {out} reqid \
             1{number} mode tunnel replay-window 32 {aead}\n\
             ip -n {host} xfrm policy add src {mine} dst {theirs} dir out priority 1000 {}\n\
             ip -n {host} xfrm policy add src {theirs} dst {mine} dir in priority 1000 {}\n\
             ip -n {host} xfrm policy add src {theirs} dst {mine} dir fwd priority 1000 {}\n",
            template(local, remote),
            template(remote, local),
            template(remote, local),
        );
    }
    script +=
        &format!("ip -n {user} route replace 10.9.0.0/24 via 192.0.2.10 src 10.8.0.{number}\n");
    sh(&script);
}

/// The namespace of an end user.
pub(crate) fn user(number: u8) -> &'static str {
    ["eu", "eu2", "eu3"][usize::from(number) - 1]
}

/// Gives a gateway the shared addresses, as an owner has them.
pub(crate) fn own_shared(gateway: &str) {
    sh(&format!(
        "set -e; ip -n {gateway} addr add {SHARED4}/32 dev out; \
         ip -n {gateway} addr add {SHARED6}/128 dev out nodad"
    ));
}

/// A UDP socket in a namespace.
pub(crate) fn udp(namespace: &str, address: &str) -> UdpSocket {
    within(namespace, || {
        let socket = UdpSocket::bind(address).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    })
}

/// An IP socket of one protocol in a namespace, such as 50 for ESP.
pub(crate) fn raw(namespace: &str, protocol: i32, version: Domain) -> Socket {
    within(namespace, || Socket::new(version, Type::RAW, Some(Protocol::from(protocol))).unwrap())
}

/// An ESP packet (without what a cipher would make of it): SPI, number, padding.
pub(crate) fn esp(spi: u32, number: u32) -> Vec<u8> {
    [&spi.to_be_bytes()[..], &number.to_be_bytes(), &[0x5a; 24]].concat()
}

/// The start of an IKE message, with the non-ESP marker where it needs one.
pub(crate) fn ike(spi: u64, marker: bool) -> Vec<u8> {
    let mark: &[u8] = if marker { &[0; 4] } else { &[] };
    [mark, &spi.to_be_bytes(), &[0; 8], &[0x21, 0x20, 0x25, 0x08], &[0; 8]].concat()
}

/// Numbers that came to a socket, until none comes for `patience`.
pub(crate) fn numbers(socket: &UdpSocket, patience: Duration) -> Vec<u32> {
    socket.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = [0; 2048];
    let mut found = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        found.extend(buffer[..length].first_chunk().map(|n| u32::from_be_bytes(*n)));
    }
    found
}

/// All frames that come to and leave the interfaces of a namespace.
pub(crate) struct Tap(OwnedFd);

/// A frame that a tap saw.
#[derive(Clone, Debug)]
pub(crate) struct Frame(pub(crate) Vec<u8>);

impl Tap {
    pub(crate) fn open(namespace: &str) -> Self {
        within(namespace, || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let tap =
                socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
            setsockopt(&tap, sockopt::RcvBufForce, &(8 << 20)).unwrap();
            Self(tap)
        })
    }

    /// Frames that pass a filter: `count` of them as soon as they are there, or
    /// what came until nothing more came for `patience`.
    pub(crate) fn frames(
        &self,
        count: usize,
        patience: Duration,
        wanted: impl Fn(&Frame) -> bool,
    ) -> Vec<Frame> {
        let time = TimeVal::microseconds(i64::try_from(patience.as_micros()).unwrap());
        setsockopt(&self.0, sockopt::ReceiveTimeout, &time).unwrap();
        let mut found = Vec::new();
        let mut buffer = vec![0; 65536];
        let begun = now();
        while found.len() < count && begun.elapsed() < patience * 10 {
            let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) else {
                break;
            };
            let frame = Frame(buffer[..length].to_vec());
            if wanted(&frame) {
                found.push(frame);
            }
        }
        found
    }
}

impl Frame {
    pub(crate) fn to_mac(&self, mac: [u8; 6]) -> bool {
        self.0.starts_with(&mac)
    }

    pub(crate) fn sender(&self) -> &[u8] {
        &self.0[6..12]
    }

    pub(crate) fn is_ip(&self) -> bool {
        matches!(self.0.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
    }

    pub(crate) fn is_ip6(&self) -> bool {
        self.0.get(12..14) == Some(&[0x86, 0xdd])
    }

    /// Source and destination of an IP packet.
    pub(crate) fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let six = |at: usize| Some(IpAddr::from(*self.0.get(at..)?.first_chunk::<16>()?));
        let four = |at: usize| Some(IpAddr::from(*self.0.get(at..)?.first_chunk::<4>()?));
        match self.0.get(12..14)? {
            [0x08, 0x00] => Some((four(26)?, four(30)?)),
            [0x86, 0xdd] => Some((six(22)?, six(38)?)),
            _ => None,
        }
    }

    pub(crate) fn protocol(&self) -> Option<u8> {
        self.0.get(if self.is_ip6() { 20 } else { 23 }).copied()
    }

    /// What is behind the IP header (without options).
    pub(crate) fn payload(&self) -> &[u8] {
        self.0.get(if self.is_ip6() { 54 } else { 34 }..).unwrap_or_default()
    }

    pub(crate) fn is_esp(&self, spi: u32) -> bool {
        self.is_ip()
            && self.protocol() == Some(50)
            && self.payload().starts_with(&spi.to_be_bytes())
    }

    pub(crate) fn has(&self, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        self.addresses().is_some_and(|(from, to)| from == address || to == address)
    }
}

/// Waits until something is so; it must become so soon.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = now();
    while !condition() {
        assert!(begun.elapsed() < SOON * 3, "{what} never came");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How long something takes.
pub(crate) fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let begun = now();
    let value = act();
    (value, begun.elapsed())
}

#[expect(clippy::disallowed_methods, reason = "a test's patience and measurement")]
fn now() -> Instant {
    Instant::now()
}

/// Sends datagrams with numbers from `first` on, one each millisecond.
pub(crate) fn send_numbers(socket: &UdpSocket, to: &str, range: std::ops::Range<u32>) {
    let to: SocketAddr = to.parse().unwrap();
    for number in range {
        socket.send_to(&number.to_be_bytes(), to).unwrap();
        thread::sleep(Duration::from_millis(1));
    }
}
