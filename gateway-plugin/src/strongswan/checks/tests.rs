//! Each check, with what it says.

use protocol_spec::limits::MAX_DETAIL;

use super::*;
use crate::strongswan::vici::answers::{ConnectionChild, Lease};

fn connections() -> Vec<ConnectionInfo> {
    let child = ConnectionChild { name: "net".to_owned(), ..ConnectionChild::default() };
    let vpn = ConnectionInfo {
        name: "vpn".to_owned(),
        children: vec![child],
        ..ConnectionInfo::default()
    };
    vec![vpn]
}

fn stats(plugins: &[&str]) -> Stats {
    let plugins = plugins.iter().map(|plugin| (*plugin).to_owned()).collect();
    Stats { since: "today".to_owned(), ike_sas: 0, half_open: 0, plugins }
}

fn pool(base: &str, size: u64) -> Pool {
    Pool {
        name: "p".to_owned(),
        base: base.parse().unwrap(),
        size,
        online: 0,
        offline: 0,
        leases: vec![],
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn refused(result: Result<(), Refusal>, status: Status, words: &[&str]) {
    let refusal = result.unwrap_err();
    assert_eq!(refusal.status, status, "{refusal}");
    assert!(refusal.detail.len() < MAX_DETAIL, "cut off: {refusal}");
    for word in words {
        assert!(refusal.detail.contains(word), "no `{word}` in: {refusal}");
    }
}

#[test]
fn names_must_be_configured() {
    assert_eq!(configuration(&connections(), "vpn", ["net"]), Ok(()));
    let cure = "swanctl --load-conns";
    refused(
        configuration(&connections(), "other", []),
        Status::NoConfiguration,
        &["`other`", "it has `vpn`", cure],
    );
    refused(
        configuration(&connections(), "vpn", ["net", "lab"]),
        Status::NoConfiguration,
        &["`lab`", "it has `net`", cure],
    );
    refused(configuration(&[], "vpn", []), Status::NoConfiguration, &["it has none"]);
}

#[test]
fn the_ha_plugin_must_be_loaded() {
    assert_eq!(plugins(&stats(&["vici", "ha", "kernel-netlink"])), Ok(()));
    let lacking = plugins(&stats(&["vici", "kernel-netlink"]));
    refused(lacking, Status::NoFeature, &["`ha`", "charon.plugins.ha.load = yes"]);
}

#[test]
fn a_pool_covers_what_it_hands_out() {
    // A prefix as 5.9.8 shows it, as newer ones do, and a range.
    for (pool, inside, outside) in [
        (pool("10.9.0.0", 254), ["10.9.0.0", "10.9.0.255"], ["10.8.255.255", "10.9.1.0"]),
        (pool("10.9.0.1", 254), ["10.9.0.1", "10.9.0.254"], ["10.9.0.0", "10.9.0.255"]),
        (pool("10.9.0.10", 10), ["10.9.0.10", "10.9.0.19"], ["10.9.0.9", "10.9.0.20"]),
        (pool("10.9.0.10", 1), ["10.9.0.10", "10.9.0.10"], ["10.9.0.9", "10.9.0.11"]),
        (pool("fec0::10", 16), ["fec0::10", "fec0::1f"], ["fec0::f", "fec0::20"]),
        (pool("0.0.0.0", 2), ["0.0.0.0", "0.0.0.3"], ["::", "0.0.0.4"]),
    ] {
        for address in inside {
            assert!(pool.covers(ip(address)), "{address} in {pool:?}");
        }
        for address in outside {
            assert!(!pool.covers(ip(address)), "{address} in {pool:?}");
        }
    }
}

#[test]
fn a_moved_address_must_not_be_one_that_is_handed_out() {
    let pools = [pool("10.9.0.10", 10)];
    assert_eq!(addresses(&pools, &[ip("10.9.0.20"), ip("fec0::1")], &[]), Ok(()));
    let inside = ip("10.9.0.12");
    refused(
        addresses(&pools, &[inside], &[]),
        Status::AddressCollision,
        &["10.9.0.12", "`p`", "a range of its own"],
    );
    // Somebody else has it.
    let lease = Lease { address: inside, identity: "other@example.org".to_owned(), online: true };
    let mut taken = pools.clone();
    taken[0].leases.push(lease);
    refused(
        addresses(&taken, &[inside], &[]),
        Status::AddressCollision,
        &["10.9.0.12", "in use here by other@example.org"],
    );
    // Home again.
    assert_eq!(addresses(&taken, &[inside], &[inside]), Ok(()));
}

#[test]
fn what_is_handed_out_by_others_than_charon_is_in_the_configuration() {
    let own = [Prefix { address: ip("10.8.0.0"), bits: 24 }];
    let (inside, outside) = (ip("10.8.0.7"), ip("10.8.1.7"));
    assert_eq!(own_range(&own, &[outside], &[]), Ok(()));
    let words = ["10.8.0.7", "strongswan.hands_out", "a range of its own"];
    refused(own_range(&own, &[outside, inside], &[]), Status::AddressCollision, &words);
    assert_eq!(own_range(&own, &[inside], &[inside]), Ok(()));
}

#[test]
fn a_lease_that_no_ike_sa_has_was_lent() {
    let lease = |address, online| Lease { address, identity: "a".to_owned(), online };
    let (ours, other) = (ip("10.9.0.12"), ip("10.9.0.13"));
    let mut facts = Facts {
        version: Version {
            daemon: "charon".to_owned(),
            version: "5.9.8".to_owned(),
            system: <_>::default(),
        },
        stats: stats(&["ha", "kernel-netlink"]),
        connections: connections(),
        pools: vec![pool("10.9.0.10", 10)],
        algorithms: Algorithms::default(),
    };
    facts.pools[0].leases =
        vec![lease(ours, true), lease(other, true), lease(ip("10.9.0.14"), false)];
    let all = [ours, other, ip("10.9.0.14")];
    let held = |address| (address == other).then_some((1, 2));
    assert_eq!(facts.lent((3, 4), &all, &held), [ours]);
    // What was staged before is in its own way for nobody.
    let staged = |address| if address == ours { Some((3, 4)) } else { held(address) };
    assert_eq!(facts.lent((3, 4), &all, &staged), [ours]);
    assert!(facts.lent((5, 6), &all, &staged).is_empty());
}

#[test]
fn charon_must_know_the_algorithms_of_the_ike_sa() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let has = Algorithms {
        encryption: names(&["AES_CBC"]),
        aead: names(&["AES_GCM_16"]),
        integrity: names(&["HMAC_SHA2_256_128"]),
        prf: names(&["PRF_HMAC_SHA2_256"]),
        key_exchange: names(&["CURVE_25519"]),
    };
    let cbc =
        IkeTransforms { encryption: 12, key_bits: 256, integrity: 12, prf: 5, key_exchange: 31 };
    let gcm = IkeTransforms { encryption: 20, integrity: 0, ..cbc.clone() };
    assert_eq!(ike_transforms(&has, &cbc), Ok(()));
    assert_eq!(ike_transforms(&has, &gcm), Ok(()));
    for (wants, words) in [
        (IkeTransforms { encryption: 28, ..gcm.clone() }, ["encryption", "CHACHA20_POLY1305 (28)"]),
        (IkeTransforms { integrity: 14, ..cbc.clone() }, ["integrity", "HMAC_SHA2_512_256 (14)"]),
        (IkeTransforms { prf: 7, ..cbc.clone() }, ["pseudo-random", "PRF_HMAC_SHA2_512 (7)"]),
        (IkeTransforms { key_exchange: 36, ..cbc.clone() }, ["key exchange", "ML_KEM_768 (36)"]),
        (IkeTransforms { key_exchange: 999, ..cbc }, ["key exchange", "without a name"]),
    ] {
        refused(ike_transforms(&has, &wants), Status::NoTransform, &words);
    }
}

#[test]
fn scripts_and_accounting_are_side_effects() {
    let none = Settings::default();
    let swanctl = Settings::parse(
        "connections { vpn { children { net { updown = /usr/lib/ipsec/_updown iptables\n } } }\n\
         plain { children { net { } } } }",
    )
    .unwrap();
    let loaded = stats(&["updown", "eap-radius"]);
    let of = |stats: &Stats, strongswan: &Settings, name: &str| {
        side_effects(stats, "charon", strongswan, &swanctl, name)
    };
    assert!(of(&loaded, &none, "vpn").hooks);
    assert!(!of(&loaded, &none, "plain").hooks);
    // From elsewhere: not known, so assumed.
    assert!(of(&loaded, &none, "loaded-by-another-tool").hooks);
    assert!(!of(&stats(&[]), &none, "vpn").hooks);
    assert!(!of(&loaded, &none, "vpn").accounting);
    let radius =
        Settings::parse("charon { plugins { eap-radius { accounting = yes\n } } }").unwrap();
    assert!(of(&loaded, &radius, "plain").accounting);
    assert!(!of(&stats(&["updown"]), &radius, "plain").accounting);

    assert_eq!(no_side_effects(SideEffects::default()), Ok(()));
    let hooks = SideEffects { hooks: true, accounting: false };
    refused(no_side_effects(hooks), Status::SideEffects, &["updown", "swanctl.conf"]);
    let accounting = SideEffects { hooks: false, accounting: true };
    refused(no_side_effects(accounting), Status::SideEffects, &["RADIUS", "accounting = no"]);
}

#[test]
fn settings_that_would_let_charon_act_by_itself_are_named_all_at_once() {
    let right = Settings::parse(
        "charon { plugins { ha { local = 127.0.0.1\n remote = 127.0.0.2\n monitor = no\n\
         resync = no\n fifo_interface = no\n segment_count = 16 }\n\
         kernel-netlink { roam_events = no } } }",
    )
    .unwrap();
    assert_eq!(settings("charon-systemd", &right), []);
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/strongswan.d/cxtp.conf");
    let ours = Settings::read(std::path::Path::new(ours)).unwrap();
    assert_eq!(settings("charon-systemd", &ours), []);
    let wrong = settings("charon", &Settings::default());
    let keys = ["local", "remote", "monitor", "resync", "fifo_interface", "roam_events", "segment"];
    assert_eq!(wrong.len(), keys.len());
    for (refusal, key) in wrong.into_iter().zip(keys) {
        refused(Err(refusal), Status::NoFeature, &[key, "is not set", "set it to"]);
    }
    let secret = Settings::parse("charon { plugins { ha { secret = marked\n } } }").unwrap();
    let secret = settings("charon", &secret);
    assert!(secret.iter().any(|refusal| refusal.detail.contains("ha.secret is (not kept)")));
    let far = Settings::parse(
        "charon { plugins { ha { local = 10.0.0.1\n remote = 10.0.0.2\n monitor = no\n\
         resync = no\n fifo_interface = no\n segment_count = 16 }\n\
         kernel-netlink { roam_events = no } } }",
    )
    .unwrap();
    assert_eq!(settings("charon", &far).len(), 2);
}
