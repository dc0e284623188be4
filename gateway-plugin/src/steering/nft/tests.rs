use super::*;
use crate::steering::message::HEADER;

fn id(octet: u8) -> SessionId {
    SessionId([octet; 16])
}

fn written(elements: &[Element]) -> Vec<u8> {
    let mut builder = Builder::default();
    put_elements(&mut builder, (NEW_ELEMENTS, NLM_F_CREATE, 1), Some(id(0xab)), elements);
    builder.into_octets()
}

#[test]
fn elements_are_read_as_they_were_written() {
    let elements = [
        Element { end: Some(vec![10, 0, 0, 2]), ..Element::of(Set::Guard4, [10, 0, 0, 1]) },
        Element { end: Some(vec![10, 0, 0, 3]), ..Element::of(Set::Guard4, [10, 0, 0, 2]) },
        Element::of(Set::Guard4, [255, 255, 255, 255]),
    ];
    let read = read_elements(Set::Guard4, &[written(&elements)[HEADER..].to_vec()]);
    let expected: Vec<_> = elements.into_iter().map(|e| (e, Some(id(0xab)))).collect();
    assert_eq!(read, expected);
}

#[test]
fn the_octets_are_those_that_nft_sends() {
    let octets = written(&[Element::to(Set::RelaySpi, [1, 2, 3, 4], [2, 0, 0, 0, 0, 9])]);
    let message = Messages(&octets).next().unwrap();
    assert_eq!(message.kind, 0x0a0c);
    assert_eq!(message.body[..4], [5, 0, 0, 0], "family netdev");
    assert_eq!(message.body[4..16], *b"\x09\0\x01\0cxtp\0\0\0\0");
    let list = message.attributes(4).inside(LIST_ELEMENTS);
    let (kind, element) = { list }.next().unwrap();
    assert_eq!(kind, LIST_ELEMENT);
    assert_eq!(element[..12], [12, 0, 1, 0x80, 8, 0, 1, 0, 1, 2, 3, 4], "key, nested, value");
    let comment = Attributes(element).find(ELEMENT_USERDATA).unwrap();
    assert_eq!(comment[..4], [0, 33, b'a', b'b']);
}

#[test]
fn comments_of_others_are_nobodys() {
    for octets in [&b""[..], b"\0", b"\0\x05abcd\0", b"\x01\x21", b"\0\xffab"] {
        assert_eq!(read_comment(octets), None);
    }
}

#[test]
fn a_long_list_makes_several_messages() {
    let many: Vec<_> = (0..1000_u32).map(|n| Element::of(Set::HoldSpi, n.to_be_bytes())).collect();
    let lengths: Vec<_> = pieces(&many).map(<[_]>::len).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 1000);
    for piece in pieces(&many) {
        assert!(written(piece).len() < usize::from(u16::MAX));
    }
}
