use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED};
use proptest::prelude::*;

use super::*;

const NETLINK_ROUTE: isize = 0;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
/// `struct ifinfomsg`: octets, and where the interface's index stands.
const INTERFACE: usize = 16;
const INDEX: usize = 4;

fn socket() -> NetlinkSocket {
    NetlinkSocket::open(NETLINK_ROUTE, Duration::from_secs(10)).unwrap()
}

fn link(index: i32) -> Message {
    let mut body = [0; INTERFACE];
    body[INDEX..INDEX + 4].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(RTM_GETLINK, ACKNOWLEDGED);
    message.octets(&body);
    message
}

#[test]
fn a_message_is_laid_out_as_netlink_has_it() {
    let mut message = Message::new(0x10, 4);
    message.octets(&[1, 2, 3, 4]).attribute(1, b"abcde").number(2, 7).nested(3, |inner| {
        inner.attribute_of(4, &[b"x", b"y"]);
    });
    let octets = message.to_octets(9);
    assert_eq!(octets.len(), 16 + 4 + 12 + 8 + 12);
    assert_eq!(octets[..4], 52u32.to_ne_bytes());
    assert_eq!(octets[4..8], [0x10u16.to_ne_bytes(), 5u16.to_ne_bytes()].concat());
    assert_eq!(octets[8..16], [9u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat());
    let attributes: Vec<_> =
        Attributes::after(&octets[16..], 4).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(attributes[0], (1, &b"abcde"[..]));
    assert_eq!(attributes[1], (2, &7u32.to_ne_bytes()[..]));
    assert_eq!(attributes[2].0, 3);
    let inner: Vec<_> = Attributes::of(attributes[2].1).flatten().collect();
    assert_eq!(inner, [(4, &b"xy"[..])]);
    assert!(message.wants_ack() && !message.is_empty());
}

#[test]
fn a_part_that_is_too_long_is_not_sent() {
    let mut message = Message::new(RTM_GETLINK, ACKNOWLEDGED);
    message.octets(&[0; INTERFACE]).attribute(1, &vec![0; 70_000]);
    assert_eq!(socket().request(message), Err(NetlinkError::TooLong));
    let mut message = Message::new(RTM_GETLINK, ACKNOWLEDGED);
    message.nested(1, |inner| {
        inner.attribute(2, &[0; 40_000]).attribute(3, &[0; 40_000]);
    });
    assert_eq!(socket().request(message), Err(NetlinkError::TooLong));
}

#[test]
fn each_request_of_a_batch_has_its_own_result() {
    let mut socket = socket();
    let messages: Vec<Message> =
        (0..1000).map(|i| link(if i % 3 == 0 { 1 } else { i32::MAX })).collect();
    let mut links = Vec::new();
    let results = socket.ask_all(&messages, |i, received| {
        assert_eq!(received.kind, RTM_NEWLINK);
        links.push(i);
    });
    assert_eq!(results.len(), 1000);
    for (i, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert_eq!(i % 3, 0),
            Err(error) => assert_eq!((error.errno(), i % 3 > 0), (Some(Errno::ENODEV), true)),
        }
    }
    assert_eq!(links, (0..1000).step_by(3).collect::<Vec<_>>());
    // The socket is as good as new.
    assert_eq!(socket.request(link(1)), Ok(()));
}

#[test]
fn a_dump_lists_everything_once() {
    let mut socket = socket();
    let names = std::cell::RefCell::new(Vec::new());
    socket
        .dump(
            |flags| {
                let mut message = Message::new(RTM_GETLINK, flags);
                message.octets(&[0; INTERFACE]);
                message
            },
            || names.borrow_mut().clear(),
            |received| {
                let attributes = Attributes::after(received.payload, INTERFACE).unwrap();
                let name = attributes.flatten().find(|(kind, _)| *kind == IFLA_IFNAME).unwrap();
                names.borrow_mut().push(name.1.to_vec());
            },
        )
        .unwrap();
    let names = names.into_inner();
    assert_eq!(names.iter().filter(|name| **name == b"lo\0").count(), 1, "{names:?}");
}

#[test]
fn an_answer_that_was_lost_is_said_to_be_lost() {
    let mut socket = socket();
    setsockopt(&socket, sockopt::RcvBuf, &4096).unwrap();
    let messages: Vec<Message> = (0..IN_FLIGHT).map(|_| link(1)).collect();
    let results = socket.batch(&messages);
    let lost = results.iter().filter(|result| **result == Err(NetlinkError::Lost)).count();
    let done = results.iter().filter(|result| result.is_ok()).count();
    assert!(lost > 0 && done > 0 && lost + done == IN_FLIGHT, "{lost} lost, {done} done");
    // The socket is as good as new.
    assert_eq!(socket.request(link(1)), Ok(()));
}

#[test]
fn waiting_ends() {
    let mut socket = NetlinkSocket::open(NETLINK_ROUTE, Duration::from_millis(20)).unwrap();
    let mut heard = 0;
    assert_eq!(socket.listen(Duration::from_millis(20), |_| heard += 1), Ok(false));
    assert_eq!(heard, 0);
    // A request that asks for no result has one at once, and an answer that comes
    // later is not taken for another's.
    let mut quiet = Message::new(RTM_GETLINK, 0);
    quiet.octets(&[0; INTERFACE]);
    assert_eq!(socket.request(quiet), Ok(()));
    assert_eq!(socket.request(link(i32::MAX)).unwrap_err().errno(), Some(Errno::ENODEV));
}

#[test]
fn a_refusal_carries_the_kernels_words() {
    let mut payload = (-22i32).to_ne_bytes().to_vec();
    payload.extend_from_slice(&[0; HEADER_LEN]);
    let mut with_words = Message::new(0, 0);
    with_words.attribute(2, &[0; 4]).attribute(1, b"no such\n thing\0");
    payload.extend_from_slice(&with_words.to_octets(0)[HEADER_LEN..]);
    let received = |flags, payload| Received { kind: NLMSG_ERROR, flags, sequence: 1, payload };
    let refused = |explanation: &str| {
        Err(NetlinkError::Refused { errno: Errno::EINVAL, explanation: explanation.into() })
    };
    let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
    assert_eq!(result(received(flags, &payload)), refused("no such thing"));
    let text = refused("no such thing").unwrap_err().to_string();
    assert_eq!(text, "the kernel refused: EINVAL: Invalid argument: no such thing");
    // Without the flag what follows is the request, which nobody reads.
    assert_eq!(result(received(0, &payload)), refused(""));
    // A kernel that sends the request back: its length says where the words are.
    let mut echoed = (-22i32).to_ne_bytes().to_vec();
    echoed.extend_from_slice(&20u32.to_ne_bytes());
    echoed.extend_from_slice(&[0; 12 + 4]);
    echoed.extend_from_slice(&with_words.to_octets(0)[HEADER_LEN..]);
    assert_eq!(result(received(NLM_F_ACK_TLVS, &echoed)), refused("no such thing"));
    assert!(matches!(result(received(0, &[0; 3])), Err(NetlinkError::Malformed(_))));
}

#[test]
fn an_unknown_protocol_says_so() {
    let error = NetlinkSocket::open(31, Duration::from_secs(1)).err().unwrap();
    assert!(error.to_string().starts_with("netlink socket: open: EPROTONOSUPPORT"), "{error}");
}

proptest! {
    #[test]
    fn any_octets_are_read_to_their_end(octets in prop::collection::vec(any::<u8>(), 0..200), flags: u16) {
        let messages: Vec<_> = Messages::of(&octets).collect();
        prop_assert!(messages.len() <= octets.len());
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let _ = result(Received { kind, flags, sequence: 0, payload: &octets });
        }
        prop_assert!(Attributes::of(&octets).count() <= octets.len());
    }

    #[test]
    fn attributes_come_back(parts in prop::collection::vec((1..0x3fffu16, prop::collection::vec(any::<u8>(), 0..300)), 0..20)) {
        let mut message = Message::new(1, 0);
        for (kind, value) in &parts {
            message.attribute(*kind, value);
        }
        let octets = message.to_octets(5);
        let received: Vec<_> = Messages::of(&octets).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(received.len(), 1);
        let read: Vec<_> = Attributes::of(received[0].payload)
            .map(|one| one.map(|(kind, value)| (kind, value.to_vec())))
            .collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, parts);
    }
}
