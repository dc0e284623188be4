use proptest::prelude::*;

use super::*;

#[test]
fn what_is_built_is_read() {
    let mut builder = Builder::default();
    builder.message(7, NLM_F_ACK, 1, &[1, 2, 3, 4]);
    builder.put(1, &[9]);
    builder.nest(2, |b| b.put_text(3, "abc"));
    builder.message(8, 0, 2, &[]);
    let octets = builder.into_octets();
    let messages: Vec<_> = Messages(&octets).collect();
    assert_eq!(messages.len(), 2);
    assert_eq!((messages[0].kind, messages[0].sequence), (7, 1));
    assert_eq!(messages[0].flags, NLM_F_ACK | NLM_F_REQUEST);
    let attributes = messages[0].attributes(4);
    assert_eq!(attributes.find(1), Some(&[9][..]));
    assert_eq!(attributes.inside(2).find(3), Some(&b"abc\0"[..]));
    assert_eq!(messages[1].body, &[] as &[u8]);
}

proptest! {
    #[test]
    fn no_octets_make_the_reader_panic(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message in Messages(&octets) {
            let _ = message.error();
            for (_, value) in message.attributes(4) {
                prop_assert!(value.len() <= octets.len());
                prop_assert!(Attributes(value).count() <= value.len());
            }
        }
    }
}
