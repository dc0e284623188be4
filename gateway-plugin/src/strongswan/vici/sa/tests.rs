//! SAs as charon 5.9.8 and 6.0 describe them.

use super::{
    samples::{child_section, ike_section},
    *,
};

#[test]
fn an_ike_sa_is_read_with_its_children() {
    let children = Section::new()
        .with_section("net-1", child_section("c1a2b3c4"))
        .with_section("net-2", child_section("c1a2b3c5"));
    let sa = IkeSaInfo::read("vpn", &ike_section().with_section("child-sas", children)).unwrap();
    assert_eq!((sa.unique_id, sa.version, sa.initiator), (1, 2, false));
    assert_eq!(sa.state, IkeState::Established);
    assert_eq!(
        (sa.spi_initiator, sa.spi_responder),
        (0x21b0_50a4_c5d4_0f0c, 0x6f63_b5b2_a276_e66b)
    );
    assert_eq!(sa.local.to_string(), "10.0.0.1:4500");
    assert_eq!(sa.remote.to_string(), "10.0.0.10:4500");
    assert_eq!(sa.nat, Nat { local: false, remote: true });
    assert_eq!(sa.rekey_in, Some(Duration::from_secs(13_000)));
    assert_eq!(sa.reauthenticate_in, None);
    assert_eq!(sa.virtual_ips, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(sa.tasks.active, ["IKE_DPD"]);
    assert!(!sa.is_quiet() && !sa.is_passive());
    assert_eq!(
        sa.transforms(),
        Some(IkeTransforms {
            encryption: 12,
            key_bits: 256,
            integrity: 12,
            prf: 5,
            key_exchange: 31
        })
    );
    assert_eq!(sa.children.len(), 2);
    let child = &sa.children[1];
    assert_eq!((child.name.as_str(), child.reqid), ("net", 1));
    assert_eq!((child.spi_in, child.spi_out), (Some(0xc1a2_b3c5), Some(0xc6d7_e8f9)));
    assert_eq!(child.state, ChildState::Installed);
    assert_eq!((child.mode, child.protocol), (Some(Mode::Tunnel), Some(Protocol::Esp)));
    assert_eq!(child.mark_in, Some(Mark { value: 0x2a, mask: u32::MAX }));
    assert_eq!(child.mark_out, Some(Mark { value: 0x2a, mask: 0xff }));
    assert_eq!(child.if_id, (Some(7), None));
    // Overdue.
    assert_eq!(child.rekey_in, Some(Duration::ZERO));
    assert_eq!(child.packets, (3, 4));
    assert!(child.esn && child.encapsulated);
    assert_eq!(child.local_selectors, ["192.168.7.0/24"]);
    assert_eq!(
        child.transforms(),
        Some(ChildTransforms { encryption: 20, key_bits: 256, integrity: 0 })
    );
}

#[test]
fn what_is_missing_is_named_with_its_path() {
    let child = Section::new().with("name", "net");
    let children = Section::new().with_section("net-1", child);
    let error = IkeSaInfo::read("vpn", &ike_section().with_section("child-sas", children));
    assert_eq!(error.unwrap_err().to_string(), "`vpn.child-sas.net-1.uniqueid` is missing");
    let error = IkeSaInfo::read("vpn", &Section::new().with("uniqueid", "x"));
    assert_eq!(error.unwrap_err().to_string(), "`vpn.uniqueid` is `x`, not a number that fits");
}

#[test]
fn an_sa_that_is_not_ready_has_no_transforms_and_no_spis() {
    let ike = Section::new()
        .with("uniqueid", "9")
        .with("version", "2")
        .with("state", "CONNECTING")
        .with("local-host", "%any")
        .with("local-port", "500")
        .with("local-id", "%any")
        .with("remote-host", "%any6")
        .with("remote-port", "500")
        .with("remote-id", "%any")
        .with("initiator-spi", "0000000000000001")
        .with("responder-spi", "0000000000000000")
        .with("novelty", "of a later version");
    let sa = IkeSaInfo::read("(unnamed)", &ike).unwrap();
    assert_eq!(
        (sa.local.to_string(), sa.remote.to_string()),
        ("0.0.0.0:500".into(), "[::]:500".into())
    );
    assert_eq!(sa.transforms(), None);
    let child = Section::new()
        .with("name", "net")
        .with("uniqueid", "2")
        .with("reqid", "0")
        .with("state", "CREATED")
        .with("mode", "TUNNEL");
    let child = ChildSaInfo::read("net-2", &child).unwrap();
    assert_eq!((child.spi_in, child.spi_out, child.protocol), (None, None, None));
    assert_eq!(child.state, ChildState::Other("CREATED".to_owned()));
    assert_eq!(child.transforms(), None);
}

#[test]
fn a_child_that_is_half_replaced_is_waited_for() {
    let quiet = |state: ChildState| {
        let children = Section::new().with_section("net-1", child_section("c1a2b3c4"));
        let section = ike_section().with_section("child-sas", children);
        let mut sa = IkeSaInfo::read("vpn", &section).unwrap();
        sa.tasks.active.clear();
        sa.children[0].state = state;
        sa.is_quiet()
    };
    assert!(quiet(ChildState::Installed) && quiet(ChildState::Deleted));
    assert!(!quiet(ChildState::Rekeyed) && !quiet(ChildState::Deleting));
}
