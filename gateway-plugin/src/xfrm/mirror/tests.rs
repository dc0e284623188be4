use protocol_spec::context::{Mode, Prefix, Protocol};

use super::*;
use crate::xfrm::Template;

fn policy(direction: Direction, user: u8, reqid: u32) -> KernelPolicy {
    let side = |last: u8, bits| Selector {
        prefix: Prefix { address: [10, 0, 0, last].into(), bits },
        ports: (0, u16::MAX),
    };
    let (source, destination) = (side(0, 24), side(user, 32));
    let policy = Policy { direction, priority: 100, source, destination, protocol: 0 };
    let template = Template {
        source: [192, 0, 2, 1].into(),
        destination: [192, 0, 2, user].into(),
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        reqid,
        spi: 0,
        optional: false,
    };
    KernelPolicy::protect(policy, template)
}

fn of(entries: &Entries, reqid: u32) -> Vec<KernelPolicy> {
    entries.policies.get(&reqid).cloned().unwrap_or_default()
}

#[test]
fn a_policy_is_found_by_its_request_id_and_by_where_it_leads() {
    let mut entries = Entries::default();
    let [out, back, other] =
        [policy(Direction::Out, 1, 7), policy(Direction::In, 1, 7), policy(Direction::Out, 2, 8)];
    [&out, &back, &other].into_iter().for_each(|policy| entries.add(policy.clone()));
    assert_eq!(of(&entries, 7), [out.clone(), back.clone()]);
    assert_eq!(entries.destinations.len(), 2);
    // Told again, after the tables were read.
    entries.add(back.clone());
    assert_eq!(of(&entries, 7), [out.clone(), back.clone()]);
    entries.remove(&out);
    assert_eq!(of(&entries, 7), [back]);
    assert!(!entries.destinations.contains_key(&out.policy.destination));
    assert!(entries.destinations.contains_key(&other.policy.destination));
    entries.remove(&out);
    assert_eq!(entries.places.len(), 2);
}

#[test]
fn what_changes_at_its_place_is_not_there_twice() {
    let mut entries = Entries::default();
    let before = policy(Direction::Out, 1, 7);
    let mut after = policy(Direction::Out, 1, 9);
    after.policy.priority = 3;
    entries.add(before.clone());
    entries.add(after.clone());
    assert_eq!((of(&entries, 7), of(&entries, 9)), (vec![], vec![after.clone()]));
    assert_eq!(entries.destinations[&after.policy.destination], 1);
    // Packets now pass without an SA.
    entries.add(KernelPolicy { templates: Vec::new(), ..before });
    assert!(entries.policies.is_empty() && entries.destinations.is_empty());
    assert!(entries.places.is_empty());
}

#[test]
fn sas_of_one_spi_are_told_apart() {
    let mut entries = Entries::default();
    let [one, other] = [1, 2].map(|last| SaId::esp([192, 0, 2, last].into(), 0x1000));
    [one, other, one].into_iter().for_each(|id| entries.add_sa(id));
    assert_eq!(entries.sas[&0x1000], [one, other]);
    entries.remove_sa(&one);
    assert_eq!(entries.sas[&0x1000], [other]);
    entries.remove_sa(&other);
    assert!(entries.sas.is_empty());
}
