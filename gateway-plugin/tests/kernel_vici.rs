//! The vici client against real charons of strongSwan: an end user's, a
//! gateway's, and a second gateway that only gets what the `ha` plugin of the
//! first one sends. Prints what vici shows (`--nocapture`).
#![cfg(feature = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

#[path = "kernel_vici/lab.rs"]
mod lab;

use std::{io::ErrorKind, time::Duration};

use gateway_plugin::strongswan::{
    checks::{self, Facts, Settings},
    vici::{Event, ViciError, Which, sa::IkeState},
};
use protocol_spec::status::Status;

use lab::*;

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_charon_tells_what_it_is_and_what_it_has() {
    let _net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let (user, gateway, events) = pair(folder.path());
    let (mut at_user, mut at_gateway) = (user.client(), gateway.client());

    let facts = Facts::gather(&mut at_gateway, TIMEOUT).unwrap();
    println!("{facts:#?}");
    assert!(facts.version.numbers().unwrap() >= (5, 9, 0));
    let has = &facts.algorithms;
    assert!(has.has_encryption(12) && has.has_encryption(20));
    assert!(has.has_integrity(12) && has.has_prf(5) && has.has_key_exchange(31));
    let user_facts = Facts::gather(&mut at_user, TIMEOUT).unwrap();
    assert_eq!(checks::plugins(&facts.stats), Ok(()));
    assert!(checks::plugins(&user_facts.stats).unwrap_err().detail.contains("`ha`"));
    assert_eq!(checks::configuration(&facts.connections, "vpn", ["net"]), Ok(()));
    let unknown = checks::configuration(&facts.connections, "vpn", ["lan"]).unwrap_err();
    println!("refused: {unknown}");
    assert_eq!(unknown.status, Status::NoConfiguration);
    let settings = Settings::read(&gateway.folder.join("strongswan.conf")).unwrap();
    assert_eq!(checks::settings(&facts.version.daemon, &settings), []);
    assert_eq!(at_gateway.list_sas(TIMEOUT).unwrap(), []);

    let up = establish(&mut at_user, &events);
    let (ike, users) = (only(&mut at_gateway), only(&mut at_user));
    println!("established: {ike:#?}");
    assert_eq!((ike.unique_id, ike.spi_initiator), (up.unique_id, up.spi_initiator));
    assert_eq!(ike.state, IkeState::Established);
    assert_eq!((ike.spi_initiator, ike.spi_responder), (users.spi_initiator, users.spi_responder));
    assert!(users.initiator && !ike.initiator && ike.is_quiet());
    assert_eq!(ike.virtual_ips, users.local_virtual_ips);
    assert_eq!(checks::ike_transforms(has, &ike.transforms().unwrap()), Ok(()));
    let (child, mirror) = (&ike.children[0], &users.children[0]);
    assert_eq!((child.spi_in, child.spi_out), (mirror.spi_out, mirror.spi_in));
    assert_eq!(child.transforms().unwrap().encryption, 20);
    let kernel = run(&format!("ip -n {GATEWAY} xfrm state"));
    assert!(kernel.contains(&format!("spi 0x{:08x}", child.spi_in.unwrap())), "{kernel}");

    let pools = at_gateway.pools(TIMEOUT).unwrap();
    println!("pools: {pools:?}");
    let lease = &pools[0].leases[0];
    assert!(lease.online && ike.virtual_ips == [lease.address] && pools[0].covers(lease.address));
    let taken = checks::addresses(&pools, &ike.virtual_ips, &[]).unwrap_err();
    println!("refused: {taken}");
    assert_eq!(taken.status, Status::AddressCollision);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn rekeys_open_exchanges_and_new_addresses_are_seen() {
    let _net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let (user, gateway, events) = pair(folder.path());
    let (mut at_user, mut at_gateway) = (user.client(), gateway.client());
    establish(&mut at_user, &events);
    let ike = only(&mut at_gateway);
    let child = &ike.children[0];

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
    // Who rekeys is the new SA's initiator; its number is another one.
    assert!(rekeyed.initiator && rekeyed.unique_id != ike.unique_id);
    assert_eq!(rekeyed.spi_initiator, new.spi_initiator);
    assert_eq!(at_gateway.find_sa(ike.unique_id, TIMEOUT), Ok(None));
    assert_eq!(at_gateway.find_sa(rekeyed.unique_id, TIMEOUT).unwrap().unwrap().name, "vpn");
    let refused = at_gateway.rekey(Which::Ike(ike.unique_id), TIMEOUT).unwrap_err();
    println!("refused: {refused}");
    assert!(matches!(refused, ViciError::Refused { .. }));

    // An exchange is open for as long as the answer cannot come.
    run(&format!("ip -n {USER} link set wan down"));
    let live = rekeyed.live_children().next().unwrap();
    at_gateway.rekey(Which::Child(live.unique_id), TIMEOUT).unwrap();
    let open = until("an open exchange", || {
        Some(only(&mut at_gateway)).filter(|sa| !sa.tasks.active.is_empty())
    });
    println!("open: {:?} {:?}", open.state, open.tasks);
    assert!(!open.is_quiet());
    run(&format!("ip -n {USER} link set wan up"));
    event(&events, "ChildRekeyed", |e| matches!(e, Event::ChildRekeyed { .. }).then_some(()));
    until("no open exchange", || only(&mut at_gateway).is_quiet().then_some(()));

    // The end user gets another address and says so (MOBIKE).
    run(&format!(
        "ip -n {USER} addr add 10.0.0.11/16 dev wan && ip -n {USER} addr del 10.0.0.10/24 dev wan"
    ));
    let moved = event(&events, "IkeMoved", |e| match e {
        Event::IkeMoved { remote, .. } if remote.ip().to_string() == "10.0.0.11" => Some(remote),
        _ => None,
    });
    until("the new address is listed", || (only(&mut at_gateway).remote == moved).then_some(()));

    let number = only(&mut at_user).unique_id;
    at_user.terminate(Which::Ike(number), false, TIMEOUT, TIMEOUT * 2).unwrap();
    event(&events, "IkeDown", |e| matches!(e, Event::IkeDown(_)).then_some(()));
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn what_the_ha_plugin_put_in_is_shown_as_passive() {
    let _net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let sent = other_node(GATEWAY);
    let (user, gateway, events) = pair(folder.path());
    let (mut at_user, mut at_gateway) = (user.client(), gateway.client());
    establish(&mut at_user, &events);
    let ike = only(&mut at_gateway);

    let inject = other_node(OTHER);
    let other = Charon::start(OTHER, folder.path());
    let mut at_other = other.client();
    configure(&mut at_other, true);
    let mut buffer = [0; 4096];
    let mut child_add = None;
    loop {
        match sent.recv(&mut buffer) {
            Ok(count) => {
                println!("ha: version {} type {} {count} octets", buffer[0], buffer[1]);
                let message = &buffer[..count];
                if message[1] == 6 {
                    child_add = Some(message.to_vec());
                } else {
                    inject.send_to(message, "127.0.0.1:4510").unwrap();
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
    assert!(passive.is_passive() && !passive.is_quiet() && passive.children.is_empty());
    assert_eq!(passive.spi_initiator, ike.spi_initiator);
    assert_eq!((passive.remote, &passive.virtual_ips), (ike.remote, &ike.virtual_ips));
    assert_eq!((passive.rekey_in, passive.established_for), (None, None));
    inject.send_to(&child_add.unwrap(), "127.0.0.1:4510").unwrap();
    let with_child = until("its Child SA", || {
        Some(only(&mut at_other)).filter(|sa| sa.live_children().next().is_some())
    });
    println!("passive with a Child SA: {:#?}", with_child.children);
    assert!(with_child.is_passive());
    assert_eq!(with_child.children[0].spi_in, ike.children[0].spi_in);
    assert_eq!(with_child.children[0].spi_out, ike.children[0].spi_out);
    // charon's pools do not see it.
    let pools = at_other.pools(TIMEOUT).unwrap();
    assert!(pools.iter().all(|pool| pool.leases.is_empty()), "{pools:?}");
    let inside = checks::addresses(&pools, &ike.virtual_ips, &[]).unwrap_err();
    println!("refused: {inside}");
    assert_eq!(inside.status, Status::AddressCollision);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_charon_that_is_killed_and_started_again_is_found_again() {
    let _net = Net::new();
    let folder = tempfile::tempdir().unwrap();
    let (user, mut gateway, events) = pair(folder.path());
    let (mut at_user, mut at_gateway) = (user.client(), gateway.client());
    establish(&mut at_user, &events);
    let since = at_gateway.stats(TIMEOUT).unwrap().since;

    gateway.kill();
    let dead = at_gateway.version(TIMEOUT).unwrap_err();
    println!("killed: {dead}");
    assert!(matches!(dead, ViciError::Connect { .. } | ViciError::Lost { .. }));
    event(&events, "Gap", |e| matches!(e, Event::Gap { .. }).then_some(()));
    drop(gateway);

    let gateway = Charon::start(GATEWAY, folder.path());
    event(&events, "Listening", |e| matches!(e, Event::Listening { .. }).then_some(()));
    until("charon answers the same client", || at_gateway.version(TIMEOUT).ok());
    assert_eq!(at_gateway.list_sas(TIMEOUT).unwrap(), []);
    println!("alive since {since}, then since {}", at_gateway.stats(TIMEOUT).unwrap().since);

    // The end user's IKE SA is without a gateway now: away with it, and up again.
    run(&format!("ip -n {GATEWAY} xfrm state flush && ip -n {GATEWAY} xfrm policy flush"));
    configure(&mut at_gateway, true);
    let number = only(&mut at_user).unique_id;
    at_user.terminate(Which::Ike(number), true, Duration::ZERO, TIMEOUT).unwrap();
    until("no IKE SA at the end user", || {
        at_user.list_sas(TIMEOUT).unwrap().is_empty().then_some(())
    });
    establish(&mut at_user, &events);
    assert!(only(&mut at_gateway).is_quiet());
    drop(gateway);
}
