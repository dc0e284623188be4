//! Policies in and out.

use gateway_plugin::xfrm::{Action, Kernel, KernelPolicy, Template, XfrmError};
use protocol_spec::context::{Direction, Mark, Mode, Policy, Prefix, Protocol, Selector};

use crate::common::{fresh_namespace, ip, run};

pub(crate) fn policy(source: &str, destination: &str, bits: u8) -> Policy {
    let any = |address: &str| Selector {
        prefix: Prefix { address: ip(address), bits },
        ports: (0, 65535),
    };
    Policy {
        direction: Direction::Out,
        priority: 1000,
        source: any(source),
        destination: any(destination),
        protocol: 0,
    }
}

fn template() -> Template {
    Template {
        source: ip("198.51.100.1"),
        destination: ip("198.51.100.2"),
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        reqid: 7,
        spi: 0,
        optional: false,
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn every_kind_comes_back_equal() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let base = policy("10.1.0.0", "10.2.0.0", 16);
    let six = policy("2001:db8:1::", "2001:db8:2::", 48);
    let narrow = Policy {
        direction: Direction::In,
        protocol: 17,
        source: Selector { ports: (1024, 2047), ..base.source.clone() },
        destination: Selector { ports: (53, 53), ..base.destination.clone() },
        ..base.clone()
    };
    let policies = [
        KernelPolicy::protect(base.clone(), template()),
        // The bypass that lets the inner side have packets in clear: the same
        // selector, but only on one interface, and stronger.
        KernelPolicy::bypass(Policy { priority: 1, ..base.clone() }, Some(1)),
        KernelPolicy::block(Policy { direction: Direction::Forward, ..base.clone() }),
        KernelPolicy::protect(narrow, Template { spi: 0x1234, optional: true, ..template() }),
        KernelPolicy::protect(
            six.clone(),
            Template {
                source: ip("2001:db8::1"),
                destination: ip("2001:db8::2"),
                protocol: Protocol::Ah,
                mode: Mode::Transport,
                ..template()
            },
        ),
        KernelPolicy {
            if_id: Some(77),
            mark: Some(Mark { value: 3, mask: 0xff }),
            flags: 1,
            // IPv6 in IPv4, and two SAs one after the other.
            templates: vec![template(), Template { protocol: Protocol::Ah, ..template() }],
            ..KernelPolicy::bypass(six, None)
        },
    ];
    assert!(kernel.install_policies(&policies).iter().all(Result::is_ok));
    let listing = kernel.policies().unwrap();
    assert_eq!(listing.foreign, []);
    assert_eq!(listing.entries.len(), policies.len());
    for policy in &policies {
        assert!(listing.entries.contains(policy), "{policy:?} in {listing:?}");
    }
    let shown = run("ip xfrm policy");
    assert!(shown.contains("dev lo") && shown.contains("action block"), "{shown}");

    let again = kernel.install_policies(&policies[..1]);
    assert!(matches!(again[..], [Err(XfrmError::Exists(_))]), "{again:?}");
    assert!(kernel.remove_policies(&policies).iter().all(Result::is_ok));
    assert_eq!(kernel.policies().unwrap().entries, []);
    let gone = kernel.remove_policies(&policies[..1]);
    assert!(matches!(gone[..], [Err(XfrmError::Missing(_))]), "{gone:?}");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn replacing_keeps_one_at_the_place() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let old = KernelPolicy::protect(policy("10.1.0.0", "10.2.0.0", 16), template());
    let new = KernelPolicy { action: Action::Block, templates: Vec::new(), ..old.clone() };
    assert!(old.is_at_the_place_of(&new));
    assert_eq!(kernel.install_policies(std::slice::from_ref(&old)), [Ok(())]);
    assert_eq!(kernel.replace_policies(std::slice::from_ref(&new)), [Ok(())]);
    assert_eq!(kernel.policies().unwrap().entries, [new]);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn what_the_kernel_cannot_hold_is_said_in_words() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let base = policy("10.1.0.0", "10.2.0.0", 16);
    let ports =
        Policy { source: Selector { ports: (1000, 2000), ..base.source.clone() }, ..base.clone() };
    let families = Policy { destination: policy("2001:db8::", "::", 16).source, ..base };
    let results = kernel.install_policies(&[ports, families].map(KernelPolicy::block));
    let text = |i: usize| results[i].clone().unwrap_err().to_string();
    assert!(text(0).contains("the ports 1000-2000"), "{}", text(0));
    assert!(text(1).contains("address family"), "{}", text(1));
    assert_eq!(kernel.policies().unwrap().entries, []);
}
