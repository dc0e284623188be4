//! Counters set and read.

use std::time::Duration;

use gateway_plugin::xfrm::{Counters, Kernel, KernelSa, SaId, window::empty};
use protocol_spec::context::Mark;

use crate::common::{assert_counters, counters, fresh_namespace, ip, plain, window};

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn what_is_set_is_read() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let edge = 1 << 32;
    let marked = |spi| SaId { mark: Some(Mark { value: 0x42, mask: 0xff }), ..plain(spi).id };
    let sa = |id: SaId, esn, window_size| KernelSa {
        id,
        esn,
        window_size,
        counters: Counters::new(window_size),
        ..plain(id.spi)
    };
    let six = SaId::esp(ip("2001:db8::2"), 0x605);
    let cases = [
        (sa(plain(0x600).id, false, 32), counters(edge - 1, window(32, 50))),
        (sa(marked(0x601), false, 32), counters(77, window(32, 31))),
        (sa(plain(0x602).id, true, 32), counters(edge - 1, window(32, edge + 10))),
        (sa(marked(0x603), true, 2048), counters(edge, window(2048, edge + 1000))),
        (sa(plain(0x604).id, true, 128), counters(9 * edge + 3, window(128, 9 * edge))),
        (
            KernelSa { source: ip("2001:db8::1"), ..sa(six, true, 64) },
            counters(edge + 1, window(64, edge - 1)),
        ),
        (sa(plain(0x606).id, false, 4096), counters(1, window(4096, 5000))),
        (
            sa(plain(0x607).id, true, 100),
            Counters { since_first_use: None, ..counters(0, empty(100)) },
        ),
    ];
    let (sas, wanted): (Vec<KernelSa>, Vec<Counters>) = cases.into_iter().unzip();
    assert!(kernel.install(&sas).iter().all(Result::is_ok));
    let ids: Vec<SaId> = sas.iter().map(|sa| sa.id).collect();
    let orders: Vec<(SaId, Counters)> = ids.iter().copied().zip(wanted.iter().cloned()).collect();
    for (id, result) in ids.iter().zip(kernel.set_counters(&orders)) {
        assert_eq!(result, Ok(()), "{id}");
    }
    for (found, wanted) in kernel.counters(&ids).into_iter().zip(&wanted) {
        assert_counters(&found.unwrap(), wanted);
    }
    for (id, wanted) in ids.iter().zip(&wanted) {
        assert_counters(&kernel.sa(id).unwrap().unwrap().counters, wanted);
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_window_of_another_size_is_fitted() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let sa =
        |spi, size| KernelSa { window_size: size, counters: Counters::new(size), ..plain(spi) };
    let sas = [sa(0x700, 32), sa(0x701, 256)];
    assert_eq!(kernel.install(&sas), [Ok(()), Ok(())]);
    let ids = [sas[0].id, sas[1].id];
    let orders = ids.map(|id| (id, counters(5, window(64, 500))));
    assert_eq!(kernel.set_counters(&orders), [Ok(()), Ok(())]);
    let found = kernel.counters(&ids);
    let small = &found[0].as_ref().unwrap().window;
    assert_eq!((small.size, small.highest), (32, 500));
    assert_eq!(small.bitmap, window(64, 500).bitmap[..1]);
    // What the smaller window did not know counts as received.
    let large = &found[1].as_ref().unwrap().window;
    assert_eq!((large.size, large.highest), (256, 500));
    assert_eq!(large.bitmap[..2], window(64, 500).bitmap[..]);
    assert_eq!(large.bitmap[2..], [u32::MAX; 6]);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_number_beyond_an_sa_without_esn_is_refused_by_us() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let sas =
        [plain(0x800), KernelSa { window_size: 64, counters: Counters::new(64), ..plain(0x801) }];
    assert_eq!(kernel.install(&sas), [Ok(()), Ok(())]);
    let ids = [sas[0].id, sas[1].id];
    let results = kernel.set_counters(&ids.map(|id| (id, counters(1 << 32, window(32, 5)))));
    for result in results {
        assert!(result.unwrap_err().to_string().contains("4294967296"));
    }
    for found in kernel.counters(&ids) {
        assert_eq!(found.unwrap().sequence, 0);
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_thousand_sas_are_read_in_one_call() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let sas: Vec<KernelSa> = (0x2000..0x2000 + 1000)
        .map(|spi| KernelSa { counters: counters(u64::from(spi), window(32, 9)), ..plain(spi) })
        .collect();
    assert!(kernel.install(&sas).iter().all(Result::is_ok));
    let ids: Vec<SaId> = sas.iter().map(|sa| sa.id).collect();
    for (found, sa) in kernel.counters(&ids).into_iter().zip(&sas) {
        assert_counters(&found.unwrap(), &sa.counters);
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn an_age_beyond_the_limit_ends_the_sa() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let mut follower = gateway_plugin::xfrm::Follower::open().unwrap();
    let mut sa = plain(0x900);
    sa.counters.age = Duration::from_secs(1000);
    sa.lifetime.hard.age = Some(Duration::from_secs(999));
    assert_eq!(kernel.install(std::slice::from_ref(&sa)), [Ok(())]);
    crate::events::expect(
        &mut follower,
        |event| matches!(event, gateway_plugin::xfrm::KernelEvent::SaExpired { id, hard: true, .. } if *id == sa.id),
    );
    assert_eq!(kernel.sa(&sa.id).unwrap(), None);
}
