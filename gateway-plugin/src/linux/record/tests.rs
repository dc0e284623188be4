use protocol_spec::samples;

use super::*;

fn paused(id: u8) -> Session {
    let context = samples::context(7);
    let finals = samples::finals(&context);
    let pair = |spi: u32| {
        let id = |last: u8, spi| SaId {
            destination: IpAddr::from([192, 0, 2, last]),
            spi,
            protocol: Protocol::Esp,
            mark: Some(Mark { value: 3, mask: 7 }),
        };
        Pair {
            sa: SaRef { protocol: Protocol::Esp, inbound_spi: spi },
            inbound: id(1, spi),
            outbound: id(9, !spi),
            reqid: 5,
            window: 64,
            outbound_window: 0,
        }
    };
    Session {
        epoch: SessionEpoch(4),
        phase: Phase::Paused { target: samples::name("gw-b"), finals: Some(finals) },
        paths: Some(Paths {
            pairs: vec![pair(0xc000_0001), pair(0xc000_0002)],
            flow: Flow {
                inner: vec![Prefix { address: IpAddr::from([10, 0, 0, 7]), bits: 32 }],
                children: vec![(1, 2)],
                ike: Some((3, 4)),
                local: ([192, 0, 2, 1], 4500).into(),
                remote: ([198, 51, 100, 7], 40_000).into(),
                in_udp: true,
            },
        }),
        ends: vec![End {
            sa: SaRef { protocol: Protocol::Esp, inbound_spi: 1 },
            end: 1 << 40,
            told: false,
        }],
        moved: true,
        stays: true,
        announcement: Some(Announcement {
            message_id: 7,
            sealed: Some(Sealed { cookie: [5; 16], datagram: vec![1; 99] }),
        }),
        ..Session::new(
            SessionId([id; 16]),
            Generation(3),
            Spis {
                ike: Some((3, 4)),
                inbound: vec![1],
                ends: Some(Endpoints {
                    local: IpAddr::from([192, 0, 2, 1]),
                    remote: IpAddr::from([0x20; 16]),
                }),
            },
        )
    }
}

#[test]
fn what_was_kept_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.redb");
    let staged = Session {
        phase: Phase::Staged {
            source: samples::name("gw-a"),
            batch: BatchId([9; 16]),
            grants: samples::grants(&samples::context(7)),
        },
        ..paused(2)
    };
    let sessions = [paused(1), staged];
    let (record, found) = Record::open(&path).unwrap();
    assert_eq!(found, []);
    record.keep(sessions.iter().map(|session| (session.id, Some(session)))).unwrap();
    drop(record);
    let (record, found) = Record::open(&path).unwrap();
    assert_eq!(found, sessions);
    record.keep([(sessions[0].id, None)].into_iter()).unwrap();
    drop(record);
    assert_eq!(Record::open(&path).unwrap().1, sessions[1..]);
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions.redb");
    std::fs::write(&path, "no such thing").unwrap();
    let Err(error) = Record::open(&path) else { panic!("it was taken") };
    let told = error.to_string();
    assert!(told.contains("sessions.redb") && told.contains("remove the file"), "{told}");
}
