//! What the calls ask for, and what they make of the answers.

use super::*;
use crate::strongswan::vici::{
    codec::Packet,
    fake::{Fake, Peer},
    sa::samples::ike_section,
};

const LONG: Duration = Duration::from_secs(10);

/// The next request, which must be this command.
fn arguments(peer: &mut Peer, command: &str) -> Section {
    match peer.read() {
        Some(Packet::Request { name, message }) if name == command => message,
        other => panic!("`{command}` was expected, not {other:?}"),
    }
}

fn yes(peer: &mut Peer) {
    peer.write(&Packet::Response(Section::new().with("success", "yes").with("matches", "1")));
}

#[test]
fn commands_say_what_they_mean() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        let asked = arguments(&mut peer, "rekey");
        assert_eq!(asked, Section::new().with("child-id", "7"));
        yes(&mut peer);
        let asked = arguments(&mut peer, "terminate");
        assert_eq!(asked.text("ike-id").unwrap(), "3");
        assert_eq!(
            (asked.text("timeout").unwrap().as_str(), asked.flag("force")),
            ("-1", Ok(true))
        );
        yes(&mut peer);
        let asked = arguments(&mut peer, "initiate");
        assert_eq!(asked.text("timeout").unwrap(), "1500");
        assert_eq!(
            (asked.text("ike").unwrap(), asked.text("child").unwrap()),
            ("vpn".into(), "net".into())
        );
        yes(&mut peer);
        let asked = arguments(&mut peer, "load-shared");
        assert_eq!(asked.optional_value("data").unwrap().unwrap().octets(), [0, 255, 7]);
        assert_eq!(asked.texts("owners").unwrap(), ["a", "b"]);
        yes(&mut peer);
        let asked = arguments(&mut peer, "load-pool");
        assert_eq!(asked.section("p").unwrap().text("addrs").unwrap(), "10.9.1.0/24");
        yes(&mut peer);
    })]);
    let mut client = Client::new(&fake.path);
    assert_eq!(client.rekey(Which::Child(7), LONG), Ok(1));
    assert_eq!(client.terminate(Which::Ike(3), true, Duration::ZERO, LONG), Ok(()));
    assert_eq!(client.initiate("vpn", "net", Duration::from_millis(1500), LONG), Ok(()));
    let secret = KeyMaterial::new(vec![0, 255, 7]);
    assert_eq!(client.load_shared("IKE", &secret, &["a", "b"], LONG), Ok(()));
    assert_eq!(client.load_pool("p", "10.9.1.0/24", LONG), Ok(()));
    drop(client);
    fake.finish();
}

#[test]
fn one_sa_is_found_among_what_a_filter_lets_through() {
    let fake = Fake::new(vec![Box::new(|mut peer| {
        peer.register(&Packet::Confirm);
        // One at which charon is working is waited for, and no other.
        let asked = [("1", true, true), ("2", true, true), ("2", false, true)];
        for (wanted, skips, tells) in
            asked.into_iter().chain([("1", true, false), ("1", false, true)])
        {
            let said = arguments(&mut peer, "list-sas");
            assert_eq!(said.text("ike-id").unwrap(), wanted);
            assert_eq!(said.optional_text("noblock").unwrap().is_some(), skips);
            if tells {
                peer.event("list-sa", Section::new().with_section("vpn", ike_section()));
            }
            peer.write(&Packet::Response(Section::new()));
        }
    })]);
    let mut client = Client::new(&fake.path);
    assert_eq!(client.find_sa(1, LONG).unwrap().unwrap().name, "vpn");
    assert_eq!(client.find_sa(2, LONG), Ok(None));
    assert_eq!(client.find_sa(1, LONG).unwrap().unwrap().name, "vpn");
    drop(client);
    fake.finish();
}

#[test]
fn an_sa_that_lacks_something_fails_the_list_by_name_and_the_next_call_works() {
    let fake = Fake::new(vec![
        Box::new(|mut peer| {
            peer.register(&Packet::Confirm);
            peer.request();
            let bad = Section::new().with("uniqueid", "1");
            peer.event("list-sa", Section::new().with_section("vpn", bad));
        }),
        Box::new(|mut peer| {
            peer.register(&Packet::Confirm);
            peer.request();
            peer.write(&Packet::Response(Section::new()));
        }),
    ]);
    let mut client = Client::new(&fake.path);
    assert_eq!(
        client.list_sas(LONG).unwrap_err().to_string(),
        "charon's answer to `list-sas`: `vpn.version` is missing"
    );
    assert_eq!(client.list_sas(LONG), Ok(vec![]));
    drop(client);
    fake.finish();
}
