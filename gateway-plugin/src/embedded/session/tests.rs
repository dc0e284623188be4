use protocol_spec::context::Lifetime;

use super::*;
use crate::embedded::user::SessionShape;

const SECOND: Duration = Duration::from_secs(1);

fn remote() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 4500))
}

fn context(esn: bool) -> Context {
    let shape = SessionShape { esn, ..SessionShape::default() };
    let mut context = shape.context(1, 0, remote(), remote()).unwrap();
    context.session = SessionId([1; 16]);
    context
}

fn granted(context: Context, base: u64, end: u64) -> Result<Body, Refusal> {
    let sa = sa_ref(&context.children[0]);
    Body::staged(context, &[GrantedRange { sa, base, end }], Duration::ZERO)
}

fn number_of(body: &Body) -> u64 {
    body.context.children[0].outbound.sequence
}

fn dummy(body: &mut Body) -> Result<(), Dropped> {
    body.seal_dummy(SECOND, &mut [0; 64]).map(drop)
}

// proves CXTP-6.3-3
// proves CXTP-6.6-2
#[test]
fn the_first_number_is_the_base_and_the_last_lies_below_the_end() {
    let mut body = granted(context(false), 100, 103).unwrap();
    for number in 100..103 {
        assert_eq!(dummy(&mut body), Ok(()));
        assert_eq!(number_of(&body), number);
    }
    assert_eq!(dummy(&mut body), Err(Dropped::Exhausted { first: true }));
    assert_eq!(dummy(&mut body), Err(Dropped::Exhausted { first: false }));
    let sa = sa_ref(&body.context.children[0]);
    body.extend(&[(sa, 50)]).unwrap();
    assert_eq!(dummy(&mut body), Err(Dropped::Exhausted { first: false }), "never down");
    body.extend(&[(sa, 104)]).unwrap();
    assert_eq!((dummy(&mut body), number_of(&body)), (Ok(()), 103));
    let other = SaRef { inbound_spi: sa.inbound_spi + 1, ..sa };
    assert_eq!(body.extend(&[(other, 999)]).unwrap_err().status, Status::GenerationChanged);
}

#[test]
fn numbers_end_at_32_bits_without_esn_and_go_on_with_it() {
    let last = u64::from(u32::MAX);
    let mut short = granted(context(false), last, u64::MAX).unwrap();
    assert_eq!(dummy(&mut short), Ok(()));
    assert_eq!(dummy(&mut short), Err(Dropped::Exhausted { first: true }));
    let mut long = granted(context(true), last, u64::MAX).unwrap();
    assert_eq!((dummy(&mut long), dummy(&mut long)), (Ok(()), Ok(())));
    assert_eq!(number_of(&long), last + 1);
    assert!(granted(context(false), last + 1, u64::MAX).is_err(), "no such number");
}

#[test]
fn grants_lie_above_what_was_used_and_hold_a_number() {
    let used = |sequence| {
        let mut context = context(true);
        context.children[0].outbound.sequence = sequence;
        context
    };
    for (base, end) in [(9, 99), (10, 99), (11, 11), (12, 11)] {
        let refused = granted(used(10), base, end).err().map(|refusal| refusal.status);
        assert_eq!(refused, Some(Status::NoSequenceRoom), "[{base}, {end})");
    }
    assert!(granted(used(10), 11, 12).is_ok());
    let none = Body::staged(used(10), &[], Duration::ZERO);
    assert_eq!(none.err().map(|refusal| refusal.status), Some(Status::NoSequenceRoom));
}

#[test]
fn a_resumed_session_never_goes_back() {
    let mut body = granted(context(false), 100, 1 << 20).unwrap();
    let sa = sa_ref(&body.context.children[0]);
    body.skip_to(&[(sa, 500)]);
    assert_eq!((dummy(&mut body), number_of(&body)), (Ok(()), 500));
    body.skip_to(&[(sa, 20)]);
    assert_eq!((dummy(&mut body), number_of(&body)), (Ok(()), 501));
}

#[test]
fn finals_that_do_not_fit_are_refused_and_fitting_ones_taken_over() {
    let mut body = granted(context(false), 1000, 2000).unwrap();
    let good = {
        let mut finals = body.finals();
        finals.children[0].sequence = 999;
        window::accept(&mut finals.children[0].window, 77);
        finals.ike.as_mut().unwrap().next_receive = 9;
        finals
    };
    let refused = |change: &dyn Fn(&mut Finals)| {
        let mut finals = good.clone();
        change(&mut finals);
        body.refuse_finals(&finals).map_err(|refusal| refusal.status)
    };
    let changed = Err(Status::GenerationChanged);
    assert_eq!(refused(&|_| {}), Ok(()));
    assert_eq!(refused(&|finals| finals.generation = finals.generation.next()), changed);
    assert_eq!(refused(&|finals| finals.children.clear()), changed);
    assert_eq!(refused(&|finals| finals.children[0].window.bitmap.clear()), changed);
    assert_eq!(refused(&|finals| finals.children[0].window = window::empty(64)), changed);
    let number = |finals: &mut Finals| finals.children[0].sequence = 1000;
    assert_eq!(refused(&number), Err(Status::NoSequenceRoom));
    body.take_finals(good);
    assert_eq!(body.context.children[0].inbound.window.highest, 77);
    assert_eq!(body.context.ike.as_ref().unwrap().next_receive, 9);
    assert_eq!(number_of(&body), 999, "outbound numbers stay at the grant");
}

#[test]
fn a_copy_is_equal_and_ages() {
    let mut body = Body::new(context(false), Duration::ZERO);
    assert_eq!(duplicate(&body.context), body.context);
    let before = body.context.ike.as_ref().unwrap().rekey_in.unwrap();
    let snapshot = body.snapshot(10 * SECOND);
    assert_eq!(snapshot.ike.as_ref().unwrap().rekey_in, Some(before - 10 * SECOND));
    assert_eq!(snapshot.children[0].lifetime.used.age, 10 * SECOND);
    let later = body.snapshot(u32::MAX * SECOND);
    assert_eq!(later.ike.unwrap().rekey_in, Some(Duration::ZERO), "never below nothing");
}

#[test]
fn hard_limits_of_every_kind_end_an_sa() {
    let limit = |change: &dyn Fn(&mut Lifetime), now| {
        let mut context = context(false);
        change(&mut context.children[0].lifetime);
        let mut body = Body::new(context, Duration::ZERO);
        body.seal_dummy(now, &mut [0; 64]).map(drop)
    };
    assert_eq!(limit(&|_| {}, SECOND), Ok(()));
    let expired = Err(Dropped::Expired);
    assert_eq!(limit(&|life| life.hard.octets = Some(0), SECOND), expired);
    assert_eq!(limit(&|life| life.hard.age = Some(2 * SECOND), SECOND), Ok(()));
    assert_eq!(limit(&|life| life.hard.age = Some(2 * SECOND), 2 * SECOND), expired);
    let used = |life: &mut Lifetime| {
        life.used.since_first_use = Some(SECOND);
        life.hard.since_first_use = Some(2 * SECOND);
    };
    assert_eq!((limit(&used, Duration::ZERO), limit(&used, SECOND)), (Ok(()), expired));
}

#[test]
fn the_load_is_that_of_the_last_whole_second() {
    let mut body = Body::new(context(false), Duration::ZERO);
    for i in 0..500 {
        body.seal_dummy(i * Duration::from_millis(2), &mut [0; 64]).unwrap();
    }
    assert_eq!(body.snapshot(SECOND).load.packets_per_second, 500);
    assert_eq!(body.snapshot(3 * SECOND).load.packets_per_second, 0);
}
