use proptest::prelude::*;

use super::*;

fn side(address: &str, bits: u8, ports: (u16, u16)) -> Selector {
    Selector { prefix: Prefix { address: address.parse().unwrap(), bits }, ports }
}

#[test]
fn ports_are_one_all_or_a_block() {
    for ports in [(0, 65535), (53, 53), (0, 0), (65535, 65535), (1024, 2047), (0, 1)] {
        let (port, mask) = port_to(ports).unwrap();
        assert_eq!(port_from(port, mask), Some(ports));
    }
    for ports in [(1000, 2000), (2, 1), (1, 2), (1, 65535)] {
        assert!(port_to(ports).unwrap_err().contains("ports"), "{ports:?}");
    }
    assert_eq!(port_from(80, 0xff0f), None);
}

#[test]
fn a_selector_that_the_kernel_cannot_hold_is_refused() {
    let any = (0, 65535);
    let families = selector_to(&side("::", 0, any), &side("0.0.0.0", 0, any), 0, None);
    assert!(families.unwrap_err().contains("family"));
    let bits = selector_to(&side("10.0.0.0", 33, any), &side("0.0.0.0", 0, any), 0, None);
    assert!(bits.unwrap_err().contains("10.0.0.0/33"));
}

#[test]
fn no_limit_is_no_limit() {
    let kernel = limits_to(&Limits::default());
    assert_eq!(kernel, LifetimeConfig::default());
    assert_eq!(limits_from(&kernel), Limits::default());
    // A limit below a second is not lost.
    let short = LifetimeLimit { age: Some(Duration::from_millis(1)), ..Default::default() };
    let limits = Limits { soft: short.clone(), hard: short };
    assert_eq!(limits_to(&limits).hard_add_expires_seconds, 1);
}

#[test]
fn ages_are_durations() {
    let counters = Counters {
        age: Duration::from_secs(100),
        since_first_use: Some(Duration::from_secs(60)),
        ..Counters::new(32)
    };
    // Another host with another clock.
    for now in [5_000, 1_700_000_000] {
        let kernel = used_to(&counters, now);
        assert_eq!((kernel.add_time, kernel.use_time), (now - 100, now - 60));
        let (age, used) = ages_from(&kernel, now + 7);
        assert_eq!((age.as_secs(), used.unwrap().as_secs()), (107, 67));
    }
    let unused = used_to(&Counters::new(32), 5_000);
    assert_eq!(unused.use_time, 0);
    assert_eq!(ages_from(&unused, 5_000), (Duration::ZERO, None));
    // Older than this host's clock: not in the future, and not unused.
    let early = used_to(&counters, 50);
    assert_eq!((early.add_time, early.use_time), (1, 1));
    // A clock that was set back.
    assert_eq!(ages_from(&early, 0), (Duration::ZERO, Some(Duration::ZERO)));
}

proptest! {
    #[test]
    fn selectors_come_back(
        source: u32, destination: u32, bits in (0..=32u8, 0..=32u8), protocol: u8,
        port: u16, interface in prop::option::of(1..i32::MAX as u32),
    ) {
        let address = |octets: u32| std::net::Ipv4Addr::from(octets).to_string();
        let selector = SaSelector {
            source: side(&address(source), bits.0, (port, port)),
            destination: side(&address(destination), bits.1, (0, u16::MAX)),
            protocol,
            interface,
        };
        let kernel =
            selector_to(&selector.source, &selector.destination, protocol, interface).unwrap();
        prop_assert_eq!(selector_from(&kernel).unwrap(), selector);
    }

    #[test]
    fn limits_come_back(amounts: [u32; 4], times: [u32; 4]) {
        let amount = |i: usize| (amounts[i] % 3 != 0).then_some(u64::from(amounts[i]));
        let time = |i: usize| (times[i] > 0).then(|| Duration::from_secs(times[i].into()));
        let limit = |i| LifetimeLimit {
            octets: amount(i), packets: amount(i + 1), age: time(i), since_first_use: time(i + 1),
        };
        let limits = Limits { soft: limit(0), hard: limit(2) };
        prop_assert_eq!(limits_from(&limits_to(&limits)), limits);
    }
}
