use super::*;
use crate::steering::{Layer2, Mode};

fn rendered(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::new("sg1".parse().unwrap(), "eth0.7", "eth1");
    config.inner_networks = vec![Prefix { address: "10.8.0.0".parse().unwrap(), bits: 16 }];
    change(&mut config);
    let link = Link::pretended([2, 0, 0, 0, 0, 1]);
    render(&config, &Links { outer: vec![link], inner: link }, &[])
}

#[test]
fn nothing_is_left_to_fill_in() {
    let text = rendered(|config| {
        config.shared = vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
        config.mode = Mode::Shared(Layer2::Multicast([3, 0, 0, 0, 0, 9]));
    });
    assert!(!text.contains('%'), "{text}");
    for line in [
        "add chain netdev cxtp egress_eth0_7 { type filter hook egress device \"eth0.7\" priority \
         filter; policy accept; }",
        "\t\tesp spi @hold_spi queue to 4067",
        "\t\tip saddr 10.8.0.0/16 drop",
        "\t\tether daddr 03:00:00:00:00:09 ip daddr 192.0.2.10 jump whose4",
        "\t\tarp saddr ip 192.0.2.10 arp saddr ether set 03:00:00:00:00:09",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn a_gateway_that_shares_nothing_answers_as_ever() {
    let text = rendered(|_| {});
    assert!(!text.contains("whose4 ") && !text.contains("arp saddr"));
}

#[test]
fn the_reserved_field_takes_up_the_difference_of_the_checksums() {
    let (own, shared) = ([2, 0, 0, 0, 1, 0xfe], [3, 0, 0x5e, 0xff, 0xff, 0x10]);
    let link = Link::pretended(own);
    let rule = neighbour_discovery("2001:db8::1".parse().unwrap(), "eth0", &link, shared);
    let at = rule.find("@th,48,16 set 0x").unwrap() + 16;
    let reserved = u16::from_str_radix(&rule[at..at + 4], 16).unwrap();
    let before = [&[0, 0][..], &own, &[0x12, 0x34]].concat();
    let after = [&reserved.to_be_bytes()[..], &shared, &[0x12, 0x34]].concat();
    assert_eq!(sum(&before), sum(&after));
}

#[test]
fn nothing_is_said_of_an_address_that_waits() {
    let rules = silence(&["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()]);
    assert!(rules.contains("\t\tarp operation reply arp saddr ip 192.0.2.10 drop\n"), "{rules}");
    assert!(!rules.contains("2001:db8"), "{rules}");
    assert_eq!(silence(&[]), "");
}
