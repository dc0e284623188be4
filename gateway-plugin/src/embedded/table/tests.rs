use super::*;

fn prefix(address: &str, bits: u8) -> Prefix {
    Prefix { address: address.parse().unwrap(), bits }
}

#[test]
fn the_longest_prefix_wins() {
    let routes = Routes::new();
    routes.insert(prefix("10.0.0.0", 8), "net");
    routes.insert(prefix("10.1.2.3", 32), "host");
    routes.insert(prefix("10.1.2.99", 24), "subnet with host bits");
    routes.insert(prefix("::", 0), "six");
    let find = |address: &str| routes.find(address.parse().unwrap());
    assert_eq!(find("10.1.2.3"), Some("host"));
    assert_eq!(find("10.1.2.4"), Some("subnet with host bits"));
    assert_eq!(find("10.9.9.9"), Some("net"));
    assert_eq!(find("11.0.0.1"), None);
    assert_eq!(find("2001:db8::1"), Some("six"));
    routes.remove_if(prefix("10.1.2.3", 32), |value| *value == "somebody else");
    assert_eq!(find("10.1.2.3"), Some("host"));
    routes.remove_if(prefix("10.1.2.3", 32), |value| *value == "host");
    assert_eq!(find("10.1.2.3"), Some("subnet with host bits"));
    assert_eq!(routes.exact(prefix("10.1.2.0", 24)), Some("subnet with host bits"));
}

#[test]
fn length_counts_entries_once() {
    let map = Sharded::new();
    (0u32..1000).for_each(|i| map.insert(i, i));
    (0u32..1000).for_each(|i| map.insert(i, i + 1));
    assert_eq!(map.len(), 1000);
    assert!(map.remove_if(&7, |value| *value == 8) && !map.remove_if(&7, |_| true));
    assert_eq!((map.len(), map.values().len()), (999, 999));
}
