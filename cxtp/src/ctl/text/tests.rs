use serde_json::json;

use super::*;

#[test]
fn columns_are_aligned_and_lines_have_no_tail() {
    let rows = [
        ["a".to_owned(), "active".to_owned(), String::new()],
        ["long".to_owned(), "x".to_owned(), "why".to_owned()],
    ];
    let text = table(["ID", "STATE", "REASON"], &rows);
    assert_eq!(text, "ID    STATE   REASON\na     active\nlong  x       why\n");
}

#[test]
fn what_others_say_cannot_steer_the_terminal() {
    assert_eq!(clean("a\u{1b}[2Jb\u{9b}1m\r\u{7}"), "a\u{fffd}[2Jb\u{fffd}1m\u{fffd}\u{fffd}");
    let text = table(["REASON"], &[["two\nlines\u{1b}]0;x".to_owned()]]);
    assert_eq!(text, "REASON\ntwo lines\u{fffd}]0;x\n");
    assert!(!outline(&json!({"a\u{1b}": ["\u{1b}c"]})).contains('\u{1b}'));
}

#[test]
fn times_have_a_fitting_unit() {
    assert_eq!(micros(999), "999 us");
    assert_eq!(micros(1_250), "1.2 ms");
    assert_eq!(micros(2_500_000), "2.50 s");
    assert_eq!(timestamp(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    assert_eq!(timestamp(u64::MAX), format!("{} ms", u64::MAX));
}

#[test]
fn an_outline_shows_what_is_nested() {
    let value = json!({"id": "x", "children": [{"spi": 1, "left": null}], "pools": []});
    let text = outline(&value);
    assert_eq!(text, "children:\n  -\n    left: none\n    spi: 1\nid: x\npools: none\n");
}
