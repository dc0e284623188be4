use super::*;

fn prefix(address: &str, bits: u8) -> Prefix {
    Prefix { address: address.parse().unwrap(), bits }
}

#[test]
fn a_prefix_becomes_its_first_address_and_the_one_behind() {
    assert_eq!(bounds(prefix("10.1.2.3", 24)), (vec![10, 1, 2, 0], Some(vec![10, 1, 3, 0])));
    assert_eq!(bounds(prefix("10.1.2.3", 32)), (vec![10, 1, 2, 3], Some(vec![10, 1, 2, 4])));
    assert_eq!(bounds(prefix("255.255.255.255", 32)), (vec![255; 4], None));
    assert_eq!(bounds(prefix("128.0.0.0", 1)), (vec![128, 0, 0, 0], None));
}

#[test]
fn ipv6_too() {
    let (first, behind) = bounds(prefix("2001:db8::ff", 126));
    assert_eq!(first, octets("2001:db8::fc".parse().unwrap()));
    assert_eq!(behind, Some(octets("2001:db8::100".parse().unwrap())));
    assert_eq!(bounds(prefix("ffff::", 16)).1, None);
    assert_eq!(bounds(prefix("::", 0)), (vec![0; 16], None));
}

#[test]
fn fields_of_a_key_are_padded_to_four_octets() {
    let port =
        Element::with_address(Set::Own4, Set::Own6, "192.0.2.9".parse().unwrap(), &[17, 148]);
    assert_eq!(port.key, [192, 0, 2, 9, 17, 148, 0, 0]);
}

#[test]
fn every_set_of_sessions_has_a_name_and_a_purpose_of_its_own() {
    let mut names: Vec<_> = Set::OF_SESSIONS.iter().map(|set| set.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Set::OF_SESSIONS.len());
    assert!(Set::OF_SESSIONS.iter().all(|set| set.purpose() != Purpose::Unknown));
}
