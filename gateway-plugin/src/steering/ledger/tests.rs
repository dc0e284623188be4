use super::*;

const ONE: SessionId = SessionId([1; 16]);
const TWO: SessionId = SessionId([2; 16]);

fn spi(octet: u8) -> Element {
    Element::of(Set::HoldSpi, [octet; 4])
}

fn guard(address: &str, bits: u8) -> Element {
    let prefix = Prefix { address: address.parse().unwrap(), bits };
    Element::interval(Set::Guard4, Set::Guard6, prefix)
}

fn with(session: SessionId, elements: &[Element]) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.commit(&Change { session: Some(session), remove: Vec::new(), add: elements.to_vec() });
    ledger
}

#[test]
fn a_plan_replaces_only_its_purposes() {
    let ledger = with(ONE, &[spi(1), spi(2), guard("10.0.0.1", 32)]);
    let of_hold = |purpose| Purpose::HOLDS_DATA.contains(&purpose);
    let change = ledger.plan(ONE, of_hold, vec![spi(2), spi(3)]).unwrap();
    assert_eq!((change.remove, change.add), (vec![spi(1)], vec![spi(3)]));
}

#[test]
fn what_another_session_has_is_refused_by_name() {
    let ledger = with(ONE, &[guard("10.0.0.0", 24)]);
    let error = ledger.plan(TWO, |_| false, vec![guard("10.0.0.0", 24)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("inner prefix 10.0.0.0/24 belongs to session {ONE} already")
    );
}

#[test]
fn a_session_without_elements_is_gone() {
    let mut ledger = with(ONE, &[spi(1)]);
    let change = ledger.plan(ONE, |_| true, Vec::new()).unwrap();
    ledger.commit(&change);
    assert_eq!(ledger.sessions().count(), 0);
    assert!(ledger.plan(TWO, |_| false, vec![spi(1)]).is_ok());
}

#[test]
fn intervals_are_read_back_as_prefixes() {
    for (address, bits) in
        [("10.1.0.0", 16), ("10.0.0.1", 32), ("255.255.255.255", 32), ("128.0.0.0", 1)]
    {
        let expected = Prefix { address: address.parse().unwrap(), bits };
        assert_eq!(guarded(&guard(address, bits)), Some(expected));
    }
    let six = Prefix { address: "2001:db8::4".parse().unwrap(), bits: 126 };
    assert_eq!(guarded(&Element::interval(Set::Guard4, Set::Guard6, six)), Some(six));
}

#[test]
fn what_was_flushed_is_missing() {
    let ledger = with(ONE, &[spi(1), spi(2)]);
    let missing = ledger.missing_in(&with(ONE, &[spi(2)]));
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0].add, [spi(1)]);
    assert!(ledger.missing_in(&ledger).is_empty());
}

#[test]
fn standing_says_what_is_diverted() {
    let ledger = with(ONE, &[guard("10.0.0.7", 32), spi(1)]);
    let diverted = [Prefix { address: "10.0.0.7".parse().unwrap(), bits: 32 }];
    let standing = ledger.standing(&diverted);
    assert!(standing[0].1.diverts && standing[0].1.holds_data && !standing[0].1.blocks);
    assert!(!ledger.standing(&[])[0].1.diverts);
}
