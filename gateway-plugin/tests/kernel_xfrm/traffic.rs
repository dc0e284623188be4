//! Our windows against the kernel's own judgement: packets with chosen numbers go
//! from one namespace to another.

use std::{fs::File, net::UdpSocket, time::Duration};

use gateway_plugin::xfrm::{
    Cause, Counters, Follower, Group, Kernel, KernelEvent, KernelPolicy, KernelSa, SaFlags,
    Template, window::empty,
};
use nix::sched::{CloneFlags, setns};
use protocol_spec::context::{Mode, Policy, Prefix, Protocol, ReplayWindow, Selector};

use crate::common::{ip, plain, run};

/// Two hosts on one wire, each in its namespace.
struct Wire {
    sender: (UdpSocket, Kernel),
    receiver: (UdpSocket, Kernel),
    names: [String; 2],
    last: u64,
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.names {
            run(&format!("ip netns del {name}"));
        }
    }
}

impl Wire {
    fn new(tag: &str) -> Self {
        let names = ["a", "b"].map(|end| format!("cxtp-{tag}-{}-{end}", std::process::id()));
        let [a, b] = &names;
        for name in &names {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        run(&format!("ip -n {a} link add wire type veth peer name wire netns {b}"));
        for (name, address) in [(a, "198.51.100.1/24"), (b, "198.51.100.2/24")] {
            run(&format!("ip -n {name} address add {address} dev wire"));
            run(&format!("ip -n {name} link set wire up"));
        }
        let mut ends = names.each_ref().map(|name| {
            let space = File::open(format!("/run/netns/{name}")).unwrap();
            setns(space, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind("0.0.0.0:9000").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            (socket, Kernel::open().unwrap())
        });
        let any = |address: &str| Selector {
            prefix: Prefix { address: ip(address), bits: 32 },
            ports: (0, 65535),
        };
        let policy = KernelPolicy::protect(
            Policy {
                direction: protocol_spec::context::Direction::Out,
                priority: 1,
                source: any("198.51.100.1"),
                destination: any("198.51.100.2"),
                protocol: 17,
            },
            Template {
                source: ip("198.51.100.1"),
                destination: ip("198.51.100.2"),
                protocol: Protocol::Esp,
                mode: Mode::Transport,
                reqid: 7,
                spi: 0,
                optional: false,
            },
        );
        assert_eq!(ends[0].1.install_policies(&[policy]), [Ok(())]);
        let [sender, receiver] = ends;
        Self { sender, receiver, names, last: 0 }
    }

    fn install(&mut self, esn: bool, window: ReplayWindow) {
        let sa = || KernelSa {
            mode: Mode::Transport,
            flags: SaFlags::NONE,
            esn,
            window_size: window.size,
            counters: Counters { window: window.clone(), ..Counters::new(0) },
            ..plain(0xb00)
        };
        for kernel in [&mut self.sender.1, &mut self.receiver.1] {
            kernel.remove(&[sa().id]);
            assert_eq!(kernel.install(&[sa()]), [Ok(())]);
        }
    }

    /// Sends one packet that carries this number.
    fn send(&mut self, number: u64) {
        let id = plain(0xb00).id;
        let mut counters = self.sender.1.counters(&[id]).remove(0).unwrap();
        counters.sequence = number - 1;
        assert_eq!(self.sender.1.set_counters(&[(id, counters)]), [Ok(())]);
        self.sender.0.send_to(&number.to_be_bytes(), "198.51.100.2:9000").unwrap();
        let used = self.sender.1.counters(&[id]).remove(0).unwrap().sequence;
        assert_eq!(used, number, "the kernel numbered the packet otherwise");
    }

    /// The number of the next packet that the receiver let through.
    fn received(&mut self) -> u64 {
        let mut octets = [0; 8];
        assert_eq!(self.receiver.0.recv(&mut octets).unwrap(), 8);
        u64::from_be_bytes(octets)
    }

    fn accepted(&mut self, number: u64) {
        self.send(number);
        assert_eq!(self.received(), number);
        self.last = self.last.max(number);
    }

    /// The packet is thrown away: the one behind it comes first.
    fn refused(&mut self, number: u64) {
        self.send(number);
        let next = self.last + 1;
        self.accepted(next);
    }

    fn window(&mut self) -> ReplayWindow {
        self.receiver.1.counters(&[plain(0xb00).id]).remove(0).unwrap().window
    }
}

fn holding(size: u32, numbers: &[u64]) -> ReplayWindow {
    let mut window = empty(size);
    window.highest = *numbers.iter().max().unwrap();
    for back in numbers.iter().map(|number| window.highest - number) {
        if back < u64::from(size) {
            window.bitmap[(back / 32) as usize] |= 1 << (back % 32);
        }
    }
    window
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn the_kernels_window_reads_as_the_numbers_that_came() {
    let mut wire = Wire::new("read");
    let edge = 1 << 32;
    let from_start: &[u64] = &[1, 2, 5, 40, 39, 64, 65, 20, 130, 127];
    let over_edge: &[u64] = &[edge - 9, edge - 3, edge - 5, edge + 4, edge - 1, edge, edge + 60];
    for (esn, size, numbers) in [
        (false, 32, &[1, 2, 5, 31, 33, 30, 40][..]),
        (false, 64, from_start),
        (false, 100, from_start),
        (true, 128, from_start),
        (true, 64, over_edge),
        // Not 100: Linux itself loses count there, see `window`.
        (true, 128, over_edge),
        (true, 2048, over_edge),
    ] {
        println!("esn {esn}, {size} packets, {numbers:?}");
        let mut start = empty(size);
        let fresh = numbers[0] < edge / 2;
        start.highest = if fresh { 0 } else { numbers[0] - 1 };
        wire.install(esn, start);
        let mut taken = Vec::new();
        let mut highest = 0;
        for number in numbers {
            if highest >= u64::from(size) + number {
                continue;
            }
            wire.accepted(*number);
            taken.push(*number);
            highest = highest.max(*number);
        }
        assert_eq!(wire.window(), holding(size, &taken), "esn {esn}, {size} packets");
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn the_kernel_takes_our_window_at_its_word() {
    let mut wire = Wire::new("write");
    let edge = 1 << 32;
    for (esn, size, highest) in [
        (false, 32, 1000),
        (false, 128, 1000),
        (true, 100, 5000),
        (true, 64, edge + 10),
        (true, 128, edge + 20),
        (true, 100, edge + 20),
        (true, 2048, edge + 100),
        (true, 64, 3 * edge - 5),
    ] {
        let numbers = [0, 3, 4, 21, 22, 27, u64::from(size) - 3].map(|back| highest - back);
        wire.install(esn, holding(size, &numbers));
        wire.last = highest;
        println!("esn {esn}, {size} packets, highest {highest}");
        wire.refused(highest);
        wire.refused(highest - 3);
        wire.refused(highest - 21);
        wire.refused(highest - 27);
        wire.accepted(highest - 1);
        wire.accepted(highest - 2);
        wire.accepted(highest - 20);
        wire.refused(highest - 20);
        wire.accepted(highest - 23);
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn packets_make_events() {
    let mut wire = Wire::new("events");
    // This thread is in the receiver's namespace now.
    let mut follower = Follower::of(&[Group::Counters]).unwrap();
    wire.install(true, empty(64));
    let edge = 1 << 32;
    for number in [1, 2, 3, 4, 5, 6] {
        wire.accepted(number);
    }
    crate::events::expect(&mut follower, |event| match event {
        KernelEvent::Counters { id, cause: Cause::Packets, counters, .. } => {
            assert_eq!(*id, plain(0xb00).id);
            assert!((1..edge).contains(&counters.window.highest));
            // The kernel tells before it has counted the packet at hand.
            let counted = counters.window.highest - counters.packets;
            assert!(counted <= 1, "{counters:?}");
            true
        }
        _ => false,
    });
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_moved_sa_goes_on_where_it_was() {
    let mut wire = Wire::new("move");
    wire.install(true, empty(128));
    for number in [1, 2, 3, 7] {
        wire.accepted(number);
    }
    // Out of the kernel and into it again, at both ends, as a move does it.
    for end in [&mut wire.sender.1, &mut wire.receiver.1] {
        let sa = end.sa(&plain(0xb00).id).unwrap().unwrap();
        assert_eq!(end.remove(&[sa.id]), [Ok(())]);
        assert_eq!(end.install(&[sa]), [Ok(())]);
    }
    wire.sender.0.send_to(&8u64.to_be_bytes(), "198.51.100.2:9000").unwrap();
    assert_eq!(wire.received(), 8);
    wire.last = 8;
    wire.refused(7);
    wire.accepted(5);
    let id = plain(0xb00).id;
    let counters = wire.receiver.1.counters(&[id]).remove(0).unwrap();
    assert_eq!((counters.packets, counters.window.highest), (7, 9));
    assert!(counters.since_first_use.is_some());
}
