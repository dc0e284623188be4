use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use protocol_spec::{
    id::{BatchId, SessionEpoch, SessionId},
    transfer::GrantedRange,
};

use super::*;
use crate::{
    embedded::{
        EmbeddedGateway, GatewayConfig, SessionShape,
        session::{duplicate, sa_ref},
    },
    plugin::{GatewayPlugin as _, Stage},
};

const TIMES: u64 = 3000;
/// Packets that are held at a time, more or less.
const MANY: usize = 50;

/// What a neighbour relays while a session is staged again and again.
fn packets(spi: u32, inner: IpAddr) -> [(Kind, Vec<u8>); 2] {
    let IpAddr::V4(inner) = inner else { panic!("the shape has IPv4 inside") };
    let mut esp = vec![0; RELAY + 64];
    esp[RELAY..RELAY + 4].copy_from_slice(&spi.to_be_bytes());
    esp[RELAY + 7] = 1;
    let mut plain = vec![0; RELAY + 64];
    plain[RELAY..RELAY + 4].copy_from_slice(&[0x45, 0, 0, 64]);
    plain[RELAY + 9] = 253;
    plain[RELAY + 16..RELAY + 20].copy_from_slice(&inner.octets());
    [(Kind::Outer, esp), (Kind::Inner, plain)]
}

#[test]
fn no_packet_falls_between_two_stagings_of_a_session() {
    let config = GatewayConfig { held_per_session: usize::MAX, ..GatewayConfig::default() };
    let mut target = EmbeddedGateway::start(config).unwrap();
    let source = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name: Name = "gw-a".parse().unwrap();
    target.set_neighbour(name.clone(), source);
    let mut context = SessionShape::default().context(1, 0, source, source).unwrap();
    context.session = SessionId([1; 16]);
    let child = &context.children[0];
    let (sa, user) = (sa_ref(child), child.policies[0].destination.prefix.address);
    let gateway = Arc::clone(&target.gateway);
    let (over, offered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (kind, mut buffer) in packets(sa.inbound_spi, user) {
            let (gateway, over, offered) = (&gateway, &over, &offered);
            scope.spawn(move || {
                while !over.load(Ordering::Acquire) {
                    if gateway.held.load(Ordering::Relaxed) > MANY {
                        std::thread::yield_now();
                        continue;
                    }
                    let via = Via::Relayed { neighbour: source, hops: 1 };
                    let length = buffer.len() - RELAY;
                    offered.fetch_add(1, Ordering::Relaxed);
                    match kind {
                        Kind::Outer => gateway.outer_packet(&mut buffer, length, source, via),
                        Kind::Inner => gateway.inner_packet(&mut buffer, length, source, via),
                    }
                }
            });
        }
        for epoch in 1..=TIMES {
            let order = Stage {
                epoch: SessionEpoch(epoch),
                source: name.clone(),
                batch: BatchId([1; 16]),
                grants: vec![GrantedRange { sa, base: 100, end: 1 << 20 }],
                context: duplicate(&context),
            };
            target.stage(vec![order]).unwrap().remove(0).1.unwrap();
        }
        over.store(true, Ordering::Release);
    });
    let counters = target.counters();
    let held = gateway.held.load(Ordering::Relaxed) as u64;
    let given_back = counters.relayed_outer + counters.relayed_inner;
    assert_eq!(counters.send_failed, 0);
    assert_eq!(held + given_back, offered.into_inner(), "{counters:?}");
    assert!(given_back > 0);
}
