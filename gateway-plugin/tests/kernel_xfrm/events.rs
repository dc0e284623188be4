//! The follower sees what happens.

use std::time::Duration;

use gateway_plugin::xfrm::{
    Action, Cause, Follower, Group, Kernel, KernelEvent, KernelPolicy, KernelSa, SaId,
};
use protocol_spec::context::Mark;

use crate::{
    common::{assert_counters, counters, fresh_namespace, plain, run, window},
    policies::policy,
};

/// The first event that is wanted; fails where none comes.
pub(crate) fn expect(
    follower: &mut Follower,
    wanted: impl Fn(&KernelEvent) -> bool,
) -> KernelEvent {
    loop {
        let event = follower.next(Duration::from_secs(10)).unwrap().expect("the event comes");
        if wanted(&event) {
            return event;
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn sas_come_and_go() {
    fresh_namespace();
    let mut follower = Follower::open().unwrap();
    assert_eq!(follower.next(Duration::from_millis(1)).unwrap(), None);
    let mut kernel = Kernel::open().unwrap();
    let mark = Some(Mark { value: 0x42, mask: 0xff });
    let sa = KernelSa {
        id: SaId { mark, ..plain(0xa00).id },
        if_id: Some(5),
        esn: true,
        window_size: 128,
        counters: counters(1, window(128, 1)),
        ..plain(0xa00)
    };
    assert_eq!(kernel.install(std::slice::from_ref(&sa)), [Ok(())]);
    let mut next = || follower.next(Duration::from_secs(10)).unwrap().expect("an event");
    assert_eq!(next(), KernelEvent::SaAdded { id: sa.id, reqid: 7, if_id: Some(5) });

    let order = (sa.id, counters(1 << 33, window(128, 1 << 34)));
    assert_eq!(kernel.set_counters(std::slice::from_ref(&order)), [Ok(())]);
    match next() {
        KernelEvent::Counters { id, reqid: 7, cause: Cause::Set, counters } => {
            assert_eq!(id, sa.id);
            assert_counters(&counters, &order.1);
        }
        other => panic!("{other:?}"),
    }

    assert_eq!(kernel.remove(&[sa.id]), [Ok(())]);
    assert_eq!(next(), KernelEvent::SaRemoved { id: sa.id });

    let sa = plain(0xa01);
    kernel.reserve_spi(&sa.id, sa.source, sa.mode, sa.reqid, None).unwrap();
    kernel.free_spi(&sa.id).unwrap();
    assert_eq!(next(), KernelEvent::SaRemoved { id: sa.id });
    assert_eq!(kernel.install(&[sa]), [Ok(())]);
    assert!(matches!(next(), KernelEvent::SaAdded { .. }));
    run("ip xfrm state flush");
    assert_eq!(next(), KernelEvent::SasFlushed);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn policies_come_and_go() {
    fresh_namespace();
    let mut follower = Follower::of(&[Group::Policies]).unwrap();
    let mut kernel = Kernel::open().unwrap();
    let block = KernelPolicy::block(policy("10.9.0.0", "10.8.0.0", 16));
    let bypass = KernelPolicy { action: Action::Allow, ..block.clone() };
    assert_eq!(kernel.install_policies(std::slice::from_ref(&block)), [Ok(())]);
    assert_eq!(kernel.replace_policies(std::slice::from_ref(&bypass)), [Ok(())]);
    assert_eq!(kernel.remove_policies(std::slice::from_ref(&bypass)), [Ok(())]);
    let mut next = || follower.next(Duration::from_secs(10)).unwrap().expect("an event");
    assert_eq!(next(), KernelEvent::PolicyAdded(block));
    assert_eq!(next(), KernelEvent::PolicyChanged(bypass.clone()));
    assert_eq!(next(), KernelEvent::PolicyRemoved(bypass.clone()));
    assert_eq!(kernel.install_policies(&[bypass]), [Ok(())]);
    assert!(matches!(next(), KernelEvent::PolicyAdded(_)));
    run("ip xfrm policy flush");
    assert_eq!(next(), KernelEvent::PoliciesFlushed);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_full_queue_is_reported() {
    fresh_namespace();
    let mut follower = Follower::of(&[Group::Sas]).unwrap();
    let mut kernel = Kernel::open().unwrap();
    // 8 MiB hold some thousands of events; nobody reads meanwhile.
    let sas: Vec<KernelSa> = (0x10000..0x10000 + 500).map(plain).collect();
    let ids: Vec<SaId> = sas.iter().map(|sa| sa.id).collect();
    for _ in 0..40 {
        assert!(kernel.install(&sas).iter().all(Result::is_ok));
        assert!(kernel.remove(&ids).iter().all(Result::is_ok));
    }
    expect(&mut follower, |event| *event == KernelEvent::Overflow);
}
