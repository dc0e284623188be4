//! The conformance harness of the embedded gateway: one end-user socket, one
//! inner host socket, ESP by hand.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use gateway_plugin::{
    EventSink, EventSource, Fault, GatewayPlugin,
    conformance::{Harness, Passed, Side},
    embedded::{
        GatewayAdmin, SessionShape,
        esp::{Cipher, HEADER, NEXT_IPV4, NEXT_NONE, TAILROOM, peek},
        window,
    },
};
use protocol_spec::{
    context::{ChildSa, ReplayWindow},
    id::{Name, SessionId},
};

/// A gateway under test: the trait and the way to set sessions up.
pub(crate) trait Body: GatewayPlugin + GatewayAdmin {
    fn plugin(&mut self) -> &mut dyn GatewayPlugin;
}

impl<T: GatewayPlugin + GatewayAdmin> Body for T {
    fn plugin(&mut self) -> &mut dyn GatewayPlugin {
        self
    }
}

pub(crate) struct Bench {
    bodies: [Box<dyn Body>; 2],
    user: UdpSocket,
    host: UdpSocket,
    users: HashMap<SessionId, User>,
    next: u32,
}

struct User {
    inner: IpAddr,
    send_spi: u32,
    send: Cipher,
    number: u64,
    receive: Cipher,
    window: ReplayWindow,
    last: Vec<u8>,
}

/// How long nothing more must come.
const QUIET: Duration = Duration::from_millis(40);
const HOST: [u8; 4] = [192, 0, 2, 1];

impl Bench {
    pub(crate) fn new(mut source: Box<dyn Body>, mut target: Box<dyn Body>) -> Self {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (user, host) = (socket(), socket());
        user.set_read_timeout(Some(QUIET)).unwrap();
        host.set_read_timeout(Some(QUIET)).unwrap();
        let relays = [source.addresses().unwrap().relay, target.addresses().unwrap().relay];
        source.set_neighbour(super::name("gw-b"), relays[1]).unwrap();
        target.set_neighbour(super::name("gw-a"), relays[0]).unwrap();
        for body in [&mut source, &mut target] {
            body.set_inner_host(host.local_addr().unwrap()).unwrap();
        }
        Self { bodies: [source, target], user, host, users: HashMap::new(), next: 0 }
    }

    fn body(&mut self, side: Side) -> &mut Box<dyn Body> {
        &mut self.bodies[usize::from(side == Side::Target)]
    }

    /// Packets that a gateway has finished with, one way or the other.
    fn finished(&mut self, side: Side) -> u64 {
        let c = self.body(side).counters().unwrap();
        c.opened
            + c.sealed
            + c.relayed_inner
            + c.relayed_outer
            + c.held
            + c.dropped_held
            + c.dropped_replayed
            + c.dropped_too_old
            + c.dropped_forged
            + c.dropped_malformed
            + c.dropped_policy
            + c.dropped_expired
            + c.dropped_no_remote
            + c.unknown_spi
            + c.unknown_inner
            + c.dropped_hops
    }

    fn offer(
        &mut self,
        side: Side,
        count: u64,
        send: impl FnOnce(&mut Self, SocketAddr, SocketAddr),
    ) {
        let at = self.body(side).addresses().unwrap();
        let goal = self.finished(side) + count;
        send(self, at.outer, at.inner);
        let mut left = 2000;
        while self.finished(side) < goal {
            left -= 1;
            assert!(left > 0, "packets vanished at {side:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// What has come to the inner host: IP packets, without announcements.
    fn delivered(&self) -> u32 {
        let mut buffer = [0; 2048];
        let mut delivered = 0;
        while let Ok((_, _)) = self.host.recv_from(&mut buffer) {
            delivered += u32::from(buffer[0] >> 4 == 4);
        }
        delivered
    }

    /// Numbers that have come to the end user, from one gateway.
    fn numbers(&mut self, session: SessionId, from: SocketAddr) -> Vec<u64> {
        let mut buffer = [0; 2048];
        let mut numbers = Vec::new();
        while let Ok((length, sender)) = self.user.recv_from(&mut buffer) {
            let (spi, low) = peek(&buffer[..length]).unwrap();
            let user = self.users.get_mut(&session).unwrap();
            let Some(number) = window::infer(&user.window, false, low) else { continue };
            // Other sessions' dummies end here.
            let Ok((range, next)) = user.receive.open(number, false, &mut buffer[..length]) else {
                continue;
            };
            assert!(spi > 0 && (next == NEXT_NONE || range.len() == 40));
            if sender == from {
                numbers.push(number);
            }
        }
        numbers
    }
}

fn packet(source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(source.into_iter().chain(destination));
    packet.resize(40, 7);
    packet
}

fn v4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("the bench speaks IPv4 inside"),
    }
}

fn user_of(child: &ChildSa) -> User {
    User {
        inner: child.policies[0].destination.prefix.address,
        send_spi: child.inbound.spi,
        send: Cipher::new(&child.inbound.keys.encryption, 1).unwrap(),
        number: 0,
        receive: Cipher::new(&child.outbound.keys.encryption, 2).unwrap(),
        window: window::empty(64),
        last: Vec::new(),
    }
}

impl Harness for Bench {
    fn gateway(&mut self, side: Side) -> &mut dyn GatewayPlugin {
        self.body(side).as_mut().plugin()
    }

    fn name(&self, side: Side) -> Name {
        super::name(if side == Side::Source { "gw-a" } else { "gw-b" })
    }

    fn events(&mut self, side: Side) -> Result<EventSource, Fault> {
        let (sink, source) = EventSink::bounded(1024);
        self.body(side).subscribe(sink)?;
        Ok(source)
    }

    fn provision(&mut self) -> Result<SessionId, String> {
        let gateway = self.body(Side::Source).addresses().unwrap().outer;
        let address = self.user.local_addr().unwrap();
        let context = SessionShape::default().context(1, self.next, gateway, address).unwrap();
        self.next += 1;
        let user = user_of(&context.children[0]);
        let ids = self.body(Side::Source).provision(vec![context]).unwrap();
        let id = ids.into_iter().next().unwrap().map_err(|refusal| refusal.to_string())?;
        self.users.insert(id, user);
        Ok(id)
    }

    fn rekey(&mut self, side: Side, session: SessionId) -> Result<(), String> {
        let gateway = self.body(side).addresses().unwrap().outer;
        let address = self.user.local_addr().unwrap();
        let fresh = SessionShape::default().context(1_000_000, self.next, gateway, address);
        self.next += 1;
        let mut child = fresh.unwrap().children.remove(0);
        let user = self.users.get_mut(&session).unwrap();
        for policy in &mut child.policies {
            for selector in [&mut policy.source, &mut policy.destination] {
                if selector.prefix.bits == 32 {
                    selector.prefix.address = user.inner;
                }
            }
        }
        let old = std::mem::replace(user, user_of(&child)).send_spi;
        let body = self.body(side);
        body.add_child(session, child).unwrap().map_err(|refusal| refusal.to_string())?;
        body.remove_child(session, old).unwrap().map_err(|refusal| refusal.to_string())?;
        Ok(())
    }

    fn pass(&mut self, side: Side, session: SessionId, packets: u32) -> Result<Passed, String> {
        self.offer(side, 2 * u64::from(packets), |bench, outer, inner| {
            let user = bench.users.get_mut(&session).unwrap();
            let address = v4(user.inner);
            for _ in 0..packets {
                bench.host.send_to(&packet(HOST, address), inner).unwrap();
                let mut datagram = vec![0; HEADER];
                datagram.extend(packet(address, HOST));
                datagram.resize(HEADER + 40 + TAILROOM, 0);
                user.number += 1;
                let total = user
                    .send
                    .seal(user.send_spi, user.number, false, NEXT_IPV4, &mut datagram, 40)
                    .unwrap();
                datagram.truncate(total);
                bench.user.send_to(&datagram, outer).unwrap();
                user.last = datagram;
            }
        });
        let from = self.body(side).addresses().unwrap().outer;
        Ok(Passed { numbers: self.numbers(session, from), delivered: self.delivered() })
    }

    fn replay(&mut self, side: Side, session: SessionId) -> Result<bool, String> {
        self.offer(side, 1, |bench, outer, _| {
            bench.user.send_to(&bench.users[&session].last, outer).unwrap();
        });
        Ok(self.delivered() > 0)
    }
}
