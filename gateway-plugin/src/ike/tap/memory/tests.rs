use super::*;
use crate::ike::message::Header;

fn response(spi: u64, message_id: u32, mark: u8, source: &str) -> Sighting {
    Sighting {
        outgoing: true,
        source: source.parse().unwrap(),
        destination: "198.51.100.7:4500".parse().unwrap(),
        header: Header {
            spi_initiator: spi,
            spi_responder: 2,
            next: 46,
            exchange: 37,
            from_initiator: false,
            response: true,
            message_id,
        },
        message: vec![mark],
    }
}

const LOCAL: &str = "192.0.2.1:4500";

fn memory(room: usize) -> Memory {
    Memory::new(vec!["192.0.2.1".parse().unwrap()], room)
}

fn last(memory: &Memory, spi: u64) -> Option<(u32, Vec<Vec<u8>>)> {
    memory.last((spi, 2)).map(|last| (last.message_id, last.datagrams))
}

#[test]
fn the_newest_response_stays_with_all_its_fragments() {
    let mut memory = memory(4);
    for (message_id, mark) in [(3, 1), (4, 2), (4, 3), (4, 2), (3, 1), (0, 9)] {
        memory.remember(&response(1, message_id, mark, LOCAL));
    }
    assert_eq!(last(&memory, 1), Some((4, vec![vec![2], vec![3]])));
    memory.forget((1, 2));
    assert_eq!(last(&memory, 1), None);
    assert!(memory.order.is_empty());
}

#[test]
fn forwarded_responses_are_not_ours() {
    let mut memory = memory(4);
    memory.remember(&response(1, 3, 1, "203.0.113.5:4500"));
    assert_eq!(last(&memory, 1), None);
}

#[test]
fn memory_is_bounded() {
    let mut memory = memory(2);
    for spi in 1..=3 {
        memory.remember(&response(spi, 0, 1, LOCAL));
    }
    assert_eq!((last(&memory, 1), memory.order.len()), (None, 2));
    assert!(last(&memory, 2).is_some() && last(&memory, 3).is_some());
    for mark in 0..=255 {
        memory.remember(&response(3, 0, mark, LOCAL));
    }
    assert_eq!(last(&memory, 3).unwrap().1.len(), MAX_FRAGMENTS);
    let mut none = Memory::new(memory.locals.clone(), 0);
    none.remember(&response(1, 0, 1, LOCAL));
    assert_eq!(last(&none, 1), None);
}

#[test]
fn what_another_gateway_said_is_kept_as_long_as_it_is_the_newest() {
    let mut memory = memory(2);
    let theirs = |message_id| LastResponse { message_id, datagrams: vec![vec![7]] };
    memory.learn((1, 2), theirs(4));
    assert_eq!(last(&memory, 1), Some((4, vec![vec![7]])));
    memory.remember(&response(1, 5, 1, LOCAL));
    memory.learn((1, 2), theirs(4));
    assert_eq!(last(&memory, 1), Some((5, vec![vec![1]])));
    for spi in 2..=3 {
        memory.learn((spi, 2), theirs(1));
    }
    assert_eq!((last(&memory, 1), memory.order.len()), (None, 2));
}
