//! Real charons: a session is followed from its beginning through both kinds of
//! rekey, put into another gateway's charon, and goes on there. Needs Debian's
//! strongSwan with the `ha` plugin, a kernel with ESP, and root.
#![cfg(feature = "linux")]

mod kernel_ha_world;

use std::{net::IpAddr, path::Path};

use gateway_plugin::strongswan::{
    ha::{DEFAULT_CHARON, DEFAULT_LOCAL, Datagram, Segments, Version, put},
    tracker::{Description, TrackedChild},
};
use kernel_ha_world::{Follower, PATIENCE, World, timed, until};
use protocol_spec::{
    context::{
        ChildSa, Context, Direction, InboundSa, Lifetime, Load, OutboundSa, Policy, Prefix,
        Protocol, ReplayWindow, SaKeys, Selector,
    },
    key::KeyMaterial,
};

const V: Version = Version::V3;

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_session_is_followed_and_put_into_another_charon() {
    let world = World::new();
    let follower = Follower::in_namespace("sg1");
    world.start(&["sg1", "sg2", "eu", "eu2"]);

    // Up, and every kind of rekey.
    world.swanctl("eu", &["--initiate", "--child", "net"]);
    world.swanctl("eu2", &["--initiate", "--child", "net"]);
    let sessions = until("both sessions are up and whole", || {
        let told = follower.describe();
        let whole = |d: &Description| d.children.len() == 1 && d.ike.virtual_ips.len() == 1;
        (told.len() == 2 && told.iter().all(whole)).then_some(told)
    });
    let find = |told: Vec<Description>, who: &str| {
        let is = |d: &Description| d.ike.remote_id.data == who.as_bytes();
        told.into_iter().find(is).expect("its session")
    };
    let first = find(sessions, "eu@example.org");
    let mine = || find(follower.describe(), "eu@example.org");

    world.swanctl("eu", &["--rekey", "--child", "net"]);
    let second = until("the Child SA is another one", || {
        let now = mine();
        let other = now.children.len() == 1 && now.children[0].inbound != first.children[0].inbound;
        other.then_some(now)
    });
    assert_eq!(second.session, first.session);
    assert!(second.generation > first.generation);
    assert!(second.ike.next_receive > first.ike.next_receive);

    world.swanctl("eu", &["--rekey", "--ike", "vpn"]);
    let third = until("the IKE SA is another one", || {
        let now = mine();
        (now.ike.spi_initiator != second.ike.spi_initiator).then_some(now)
    });
    assert_eq!(third.session, first.session);
    assert_eq!(third.ike.virtual_ips, first.ike.virtual_ips);
    assert_eq!(third.children[0].seed, None, "its keys hang on the old SA's SK_d");
    println!("after the IKE rekey: {third:?}");

    // A child made under the present IKE SA has a seed that fits.
    world.swanctl("eu", &["--rekey", "--child", "net"]);
    until("a Child SA with a seed", || mine().children[0].seed.is_some().then_some(()));
    let told = until("only that one is left", || Some(mine()).filter(|d| d.children.len() == 1));

    // PUT into the other gateway.
    let id = put::ike_id(&told.ike);
    let remote = told.ike.remote;
    let spis = (told.children[0].inbound, told.children[0].outbound);
    let moved = context(told);
    let other = context(find(follower.describe(), "eu2@example.org"));
    let gate = Segments::new(16).gate([remote.ip()]).expect("a gate");
    let charon = kernel_ha_world::socket_in("sg2");
    let send = |datagrams: &[Datagram]| charon.send(datagrams, PATIENCE).expect("sent");
    let sas = || world.swanctl("sg2", &["--list-sas"]);
    let line = |spi: u64| {
        let spi = format!("{spi:016x}_i");
        sas().lines().find(|line| line.contains(&spi)).unwrap_or_default().to_owned()
    };

    let ike = put::ike_messages(&moved, None, V).expect("messages");
    timed("IKE SA passive", || {
        send(&ike);
        world.logs("sg2", "installed HA passive IKE_SA", 1);
    });
    assert!(line(id.spi_initiator).contains("PASSIVE"));
    let child = put::child_message(&moved, &moved.children[0], V).expect("a message");
    timed("Child SA installed", || {
        send(&[child]);
        world.logs("sg2", "installed HA CHILD_SA", 1);
    });
    let mut both = put::ike_messages(&other, None, V).expect("messages");
    both.push(put::child_message(&other, &other.children[0], V).expect("a message"));
    timed("another one, IKE and Child SA", || {
        send(&both);
        world.logs("sg2", "installed HA CHILD_SA", 2);
    });
    let other_ike = other.ike.as_ref().expect("an IKE SA");
    for (id, remote) in [(id, remote), (put::ike_id(other_ike), other_ike.remote)] {
        send(&[put::park(&id, remote, &gate, V).expect("a message")]);
    }
    charon.settle(PATIENCE).expect("charon reads");
    until("both are passive with a Child SA", || {
        let list = sas();
        (list.matches("PASSIVE").count() == 2 && list.matches("INSTALLED").count() == 2)
            .then_some(())
    });
    println!("{}", sas());
    // The same keys as at the source, so the derivation from the tracked seed is right.
    let (here, there) = (world.keys("sg1"), world.keys("sg2"));
    assert!(there.len() >= 4, "two pairs of SAs");
    for (spi, key) in &there {
        assert_eq!(Some(key), here.get(spi), "the keys of {spi:08x}");
    }

    // Exactly one becomes active.
    timed("active", || {
        send(&put::activate(&id, remote, &gate, V).expect("messages"));
        world.logs("sg2", &format!("HA segment {} activated", gate.segment), 1);
    });
    assert!(line(id.spi_initiator).contains("ESTABLISHED"));
    let list = sas();
    println!("{list}");
    assert_eq!((list.matches("ESTABLISHED").count(), list.matches("PASSIVE").count()), (1, 1));
    assert!(list.contains(&format!("@ {}[{}]", remote.ip(), remote.port())), "its true address");

    // The source forgets it without a word to the end user.
    kernel_ha_world::enter("sg1");
    let source = follower.socket();
    let gone = put::delete(&id, V).expect("a message");
    timed("forgotten at the source", || {
        source.send(&[gone], PATIENCE).expect("sent");
        source.settle(PATIENCE).expect("charon reads");
    });
    until("the kernel of the source has forgotten it", || {
        let keys = world.keys("sg1");
        (!keys.contains_key(&spis.0) && !keys.contains_key(&spis.1)).then_some(())
    });
    assert!(!world.swanctl("sg1", &["--list-sas"]).contains("eu@example.org"));

    // Whoever has lost everything learns it anew, and nothing is rekeyed by that.
    let before = world.keys("sg1");
    assert_eq!(before.len(), 2, "the other end user's");
    let segment = Segments::new(16).of(other_ike.remote.ip());
    follower.reset();
    timed("learnt anew", || {
        source.send(&put::relearn(segment, V).expect("messages"), PATIENCE).expect("sent");
        until("it is whole again", || (follower.describe().len() == 1).then_some(()));
    });
    source.settle(PATIENCE).expect("charon reads");
    let again = follower.describe().remove(0);
    assert_eq!(again.ike.secrets, other_ike.secrets);
    assert!(world.swanctl("sg1", &["--list-sas"]).contains("ESTABLISHED"));
    world.swanctl("eu2", &["--rekey", "--ike", "vpn"]);
    assert_eq!(world.keys("sg1"), before);

    // And the end user goes on with the other gateway.
    world.move_address();
    world.swanctl("eu", &["--rekey", "--child", "net"]);
    world.swanctl("eu", &["--rekey", "--ike", "vpn"]);
    until("the end user rekeyed with the other gateway", || {
        let list = sas();
        let old = format!("{:016x}_i", id.spi_initiator);
        (list.contains("ESTABLISHED") && !list.contains(&old)).then_some(())
    });
    let list = world.swanctl("eu", &["--list-sas"]);
    assert_eq!(list.matches("ESTABLISHED").count(), 1, "{list}");
    let log = world.log("eu");
    assert_eq!(log.matches("received DELETE for IKE_SA").count(), 0);
    assert_eq!(follower.refused(), 0);
}

/// What the kernel would add: here only what a message to charon needs.
fn context(told: Description) -> Context {
    Context {
        session: told.session,
        generation: told.generation,
        ike: Some(told.ike),
        children: told.children.into_iter().map(child).collect(),
        load: Load::default(),
    }
}

fn child(told: TrackedChild) -> ChildSa {
    let Some(agreed) = told.negotiated else { panic!("its CHILD_ADD was not heard") };
    let keys = || SaKeys {
        encryption: KeyMaterial::new(Vec::new()),
        integrity: KeyMaterial::new(Vec::new()),
    };
    let selector = |first: IpAddr, last: IpAddr| Selector {
        prefix: Prefix { address: first, bits: if first == last { 32 } else { 24 } },
        ports: (0, u16::MAX),
    };
    let (local, remote) = (&agreed.local[0], &agreed.remote[0]);
    ChildSa {
        protocol: Protocol::Esp,
        mode: agreed.mode,
        configuration: told.configuration,
        reqid: 0,
        cpi: agreed.cpi,
        policies: vec![Policy {
            direction: Direction::Out,
            priority: 0,
            source: selector(local.first, local.last),
            destination: selector(remote.first, remote.last),
            protocol: 0,
        }],
        transforms: agreed.transforms,
        esn: agreed.esn,
        inbound: InboundSa {
            spi: told.inbound,
            keys: keys(),
            window: ReplayWindow { size: 0, highest: 0, bitmap: Vec::new() },
        },
        outbound: OutboundSa { spi: told.outbound, keys: keys(), sequence: 0 },
        encapsulation: None,
        pmtu: None,
        mark: None,
        if_id: None,
        lifetime: Lifetime::default(),
        rekey_in: None,
        seed: told.seed,
        endpoints: None,
    }
}

/// The addresses of the HA plugin are the defaults.
#[test]
fn the_configuration_of_the_trial_is_the_documented_one() {
    let configuration = kernel_ha_world::strongswan_conf(Path::new("sg1"), true);
    assert!(configuration.contains(&format!("remote = {}", DEFAULT_LOCAL.ip())));
    assert!(configuration.contains(&format!("local = {}", DEFAULT_CHARON.ip())));
}
