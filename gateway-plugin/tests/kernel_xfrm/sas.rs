//! Every kind of SA goes in and comes out the same.

use std::time::Duration;

use gateway_plugin::xfrm::{
    Counters, Encapsulation, Kernel, KernelSa, Limits, SaFlags, SaId, SaSelector, XfrmError,
};
use protocol_spec::context::{LifetimeLimit, Mark, Mode, Prefix, Protocol, SaKeys, Selector};

use crate::common::{
    assert_sa, counters, fresh_namespace, ip, key, plain, run, transforms, window, with,
};

fn round_trip(kernel: &mut Kernel, sas: &[KernelSa]) {
    for (sa, result) in sas.iter().zip(kernel.install(sas)) {
        assert_eq!(result, Ok(()), "{sa:?}");
    }
    let listing = kernel.sas().unwrap();
    assert_eq!(listing.foreign, []);
    assert_eq!(listing.entries.len(), sas.len());
    for found in listing.entries {
        let expected = sas.iter().find(|sa| sa.id == found.id).expect("an SA of ours");
        assert_sa(found, expected);
        assert_sa(kernel.sa(&expected.id).unwrap().unwrap(), expected);
    }
    let ids: Vec<SaId> = sas.iter().map(|sa| sa.id).collect();
    assert!(kernel.remove(&ids).iter().all(Result::is_ok));
    assert_eq!(kernel.sas().unwrap().entries, []);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn every_algorithm_comes_back_equal() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let found = kernel.transforms().unwrap();
    for protocol in [Protocol::Esp, Protocol::Ah] {
        assert_eq!(found.missing(protocol), None);
    }
    let numbers = found.numbers();
    for one in [(20, 256, 0), (28, 0, 0), (28, 256, 0), (12, 128, 12), (0, 0, 12)] {
        assert!(numbers.contains(&one), "{one:?} of {numbers:?}");
    }
    assert_eq!(kernel.sas().unwrap().entries, [], "the probe leaves nothing behind");
    for (protocol, wanted) in [
        (Protocol::Esp, transforms(20, 128, 0)),
        (Protocol::Esp, transforms(18, 256, 0)),
        (Protocol::Esp, transforms(19, 192, 0)),
        (Protocol::Esp, transforms(28, 0, 0)),
        (Protocol::Esp, transforms(28, 256, 0)),
        (Protocol::Esp, transforms(16, 128, 0)),
        (Protocol::Esp, transforms(12, 256, 2)),
        (Protocol::Esp, transforms(12, 128, 12)),
        (Protocol::Esp, transforms(13, 256, 14)),
        (Protocol::Esp, transforms(11, 0, 13)),
        (Protocol::Ah, transforms(0, 0, 12)),
    ] {
        assert!(found.has(protocol, &wanted), "{protocol:?} {wanted:?} of {found:?}");
    }
    let sas: Vec<KernelSa> = found
        .iter()
        .zip(0x1000..)
        .map(|((protocol, transforms), spi)| with(spi, protocol, transforms))
        .collect();
    println!("{} combinations of algorithms", sas.len());
    round_trip(&mut kernel, &sas);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn every_shape_comes_back_equal() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let mark = |value, mask| Some(Mark { value, mask });
    let six = |spi| KernelSa {
        id: SaId::esp(ip("2001:db8::2"), spi),
        source: ip("2001:db8::1"),
        ..plain(spi)
    };
    let selector = |source: &str, destination: &str, bits, ports| SaSelector {
        source: Selector { prefix: Prefix { address: ip(source), bits }, ports },
        destination: Selector { prefix: Prefix { address: ip(destination), bits }, ports },
        protocol: 17,
        interface: None,
    };
    let ports = Encapsulation { source: 4500, destination: 61000, original: None };
    let ring = |spi, esn, size, highest, sequence| KernelSa {
        esn,
        window_size: size,
        counters: counters(sequence, window(size, highest)),
        ..plain(spi)
    };
    let edge = 1 << 32;
    let sas = [
        plain(0x100),
        six(0x101),
        KernelSa { mode: Mode::Transport, flags: SaFlags::NONE, ..plain(0x102) },
        KernelSa { mode: Mode::Transport, flags: SaFlags::NONE, ..six(0x103) },
        KernelSa {
            mode: Mode::Beet,
            flags: SaFlags::NONE,
            selector: Some(selector("10.0.0.1", "10.0.0.2", 32, (0, 65535))),
            ..plain(0x104)
        },
        KernelSa {
            mode: Mode::Transport,
            flags: SaFlags::NONE,
            selector: Some(selector("2001:db8::", "2001:db8::", 64, (53, 53))),
            ..six(0x105)
        },
        KernelSa { encapsulation: Some(ports), ..plain(0x106) },
        KernelSa {
            encapsulation: Some(Encapsulation { original: Some(ip("192.0.2.7")), ..ports }),
            mode: Mode::Transport,
            flags: SaFlags::NONE,
            ..plain(0x107)
        },
        KernelSa { id: SaId { mark: mark(0x42, 0xff), ..plain(0x108).id }, ..plain(0x108) },
        KernelSa { id: SaId { mark: mark(0x43, 0xff), ..plain(0x108).id }, ..plain(0x108) },
        KernelSa { if_id: Some(9), ..plain(0x109) },
        KernelSa { output_mark: mark(0x11, 0xffff), ..plain(0x10a) },
        ring(0x10b, false, 32, 5, 40),
        ring(0x10c, false, 17, edge - 1, edge - 1),
        ring(0x10d, false, 0, 0, 40),
        ring(0x10e, false, 64, 1000, 0),
        ring(0x10f, true, 32, edge + 5, edge - 1),
        ring(0x110, true, 2048, edge + 100, 3 * edge + 1),
        ring(0x111, true, 128, edge, edge),
        ring(0x112, true, 100, 7 * edge - 1, 0),
        ring(0x113, false, 4096, 3, 0),
        KernelSa {
            lifetime: Limits {
                soft: LifetimeLimit {
                    octets: Some(1 << 40),
                    packets: Some(1 << 30),
                    age: Some(Duration::from_secs(3000)),
                    since_first_use: Some(Duration::from_secs(3100)),
                },
                hard: LifetimeLimit {
                    octets: Some(1 << 41),
                    packets: None,
                    age: Some(Duration::from_secs(3600)),
                    since_first_use: None,
                },
            },
            ..ring(0x114, false, 32, 12, 13)
        },
        KernelSa { flags: SaFlags { bits: SaFlags::ANY_FAMILY | 2, extra: 1 }, ..plain(0x115) },
    ];
    round_trip(&mut kernel, &sas);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_thousand_sas_in_one_call() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let sas: Vec<KernelSa> = (0x2000..0x2000 + 1000).map(plain).collect();
    round_trip(&mut kernel, &sas);
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn refusals_name_the_sa_and_never_its_key() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let first = KernelSa { counters: counters(9, window(32, 20)), ..plain(0x300) };
    // The second has the first one's name, the third a window too large, the
    // fourth a key too short: each is refused, and the others are installed.
    let sas = [
        first,
        KernelSa { source: ip("198.51.100.9"), ..plain(0x300) },
        KernelSa { window_size: 5000, counters: Counters::new(5000), ..plain(0x301) },
        KernelSa { keys: SaKeys { encryption: key(35, 3), integrity: key(0, 0) }, ..plain(0x302) },
        KernelSa { esn: true, window_size: 0, ..plain(0x303) },
        KernelSa { transforms: transforms(77, 256, 0), ..plain(0x304) },
        KernelSa { counters: counters(1 << 32, window(32, 20)), ..plain(0x305) },
        plain(0x306),
    ];
    let results = kernel.install(&sas);
    assert_eq!(results[0], Ok(()));
    assert_eq!(results[1], Err(XfrmError::Exists("ESP SPI 0x00000300 to 198.51.100.2".into())));
    for refused in &results[2..7] {
        assert!(matches!(refused, Err(XfrmError::CannotHold(_))), "{refused:?}");
    }
    assert_eq!(results[7], Ok(()));
    let missing = plain(0x999).id;
    assert!(matches!(kernel.remove(&[missing])[..], [Err(XfrmError::Missing(_))]));
    assert!(matches!(kernel.counters(&[missing])[..], [Err(XfrmError::Missing(_))]));
    let order = (missing, Counters::new(32));
    assert!(matches!(kernel.set_counters(&[order])[..], [Err(XfrmError::Missing(_))]));
    assert_eq!(kernel.sa(&missing).unwrap(), None);
    // What is only reserved is there and yet no SA to carry.
    let larval = plain(0x998);
    kernel.reserve_spi(&larval.id, larval.source, larval.mode, 1, None).unwrap();
    let error = kernel.sa(&larval.id).unwrap_err().to_string();
    assert!(error.contains("cannot be carried: only reserved"), "{error}");
    kernel.free_spi(&larval.id).unwrap();
    let unmarked = kernel.sas().unwrap().entries.len();
    assert_eq!(unmarked, 2);

    // A refusal of the kernel itself: it has the key in its hands and tells why.
    let odd = KernelSa {
        mode: Mode::Beet,
        transforms: transforms(0, 0, 12),
        keys: SaKeys { encryption: key(0, 0), integrity: key(32, 9) },
        encapsulation: Some(Encapsulation { source: 1, destination: 2, original: None }),
        id: SaId { protocol: Protocol::Ah, ..plain(0x307).id },
        ..plain(0x307)
    };
    let refused = kernel.install(std::slice::from_ref(&odd)).remove(0).unwrap_err();
    println!("{refused}");
    let texts = format!("{results:?} {refused:?} {refused} {odd:?} {:?}", kernel.sas());
    for secret in [plain(0x300).keys.encryption, key(35, 3), key(32, 9)] {
        let octets = secret.expose();
        let hex: String = octets[..4].iter().map(|octet| format!("{octet:02x}")).collect();
        let decimal = format!("{}, {}, {}", octets[0], octets[1], octets[2]);
        assert!(!texts.contains(&hex) && !texts.contains(&decimal), "{texts}");
    }
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn what_ip_installs_is_read_in_our_words() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    run(
        "ip xfrm state add src 198.51.100.1 dst 198.51.100.2 proto esp spi 0x401 reqid 12 mode tunnel \
         replay-window 128 replay-seq 300 replay-oseq 4 flag esn enc cbc(aes) \
         0x000102030405060708090a0b0c0d0e0f auth-trunc hmac(sha256) \
         0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 128 \
         encap espinudp 4500 4501 0.0.0.0 limit time-hard 500",
    );
    let sa = kernel.sa(&plain(0x401).id).unwrap().unwrap();
    assert_eq!(sa.transforms, transforms(12, 128, 12));
    assert_eq!(sa.keys.encryption.expose(), (0..16).collect::<Vec<u8>>());
    assert_eq!(sa.keys.integrity.expose(), (0..32).collect::<Vec<u8>>());
    assert_eq!((sa.esn, sa.window_size, sa.reqid, sa.mode), (true, 128, 12, Mode::Tunnel));
    assert_eq!((sa.counters.sequence, sa.counters.window.highest), (4, 300));
    assert_eq!(
        sa.encapsulation,
        Some(Encapsulation { source: 4500, destination: 4501, original: None })
    );
    assert_eq!(sa.lifetime.hard.age, Some(Duration::from_secs(500)));

    // What has no number is not hidden: it is listed with its reason.
    run("ip xfrm state add src 198.51.100.1 dst 198.51.100.2 proto esp spi 0x402 mode tunnel \
         enc cbc(aes) 0x000102030405060708090a0b0c0d0e0f auth-trunc hmac(sha256) \
         0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f 96");
    let listing = kernel.sas().unwrap();
    assert_eq!(listing.entries.len(), 1);
    assert_eq!(listing.foreign[0].spi, 0x402);
    assert_eq!(listing.foreign[0].reason, "an integrity algorithm that has no number here");
}

#[test]
#[ignore = "needs a kernel with ESP and root: cargo lab runs it"]
fn a_reserved_spi_is_taken_until_it_is_freed() {
    fresh_namespace();
    let mut kernel = Kernel::open().unwrap();
    let sa = plain(0x500);
    let reserve =
        |kernel: &mut Kernel| kernel.reserve_spi(&sa.id, sa.source, sa.mode, sa.reqid, sa.if_id);
    reserve(&mut kernel).unwrap();
    assert!(matches!(reserve(&mut kernel), Err(XfrmError::Exists(_))));
    // Somebody else's SA for another destination does not get it either.
    let installed = kernel.install(std::slice::from_ref(&sa));
    assert!(matches!(installed[..], [Err(XfrmError::Exists(_))]));
    assert_eq!(kernel.sas().unwrap().foreign[0].reason, "only reserved, without keys");
    kernel.free_spi(&sa.id).unwrap();
    kernel.free_spi(&sa.id).unwrap();
    assert_eq!(kernel.install(std::slice::from_ref(&sa)), [Ok(())]);
    assert!(matches!(reserve(&mut kernel), Err(XfrmError::Exists(_))));
    // It has become an SA: freeing it does not delete it.
    assert!(matches!(kernel.free_spi(&sa.id), Err(XfrmError::Exists(_))));
    assert!(kernel.sa(&sa.id).unwrap().is_some());
}
