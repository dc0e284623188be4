//! Every cell of the target's table, and its diagram.

use super::{super::table, TargetTable};

#[test]
fn every_cell_of_the_targets_table_is_reviewed() {
    insta::assert_snapshot!(table::cells::<TargetTable>());
}

#[test]
fn the_diagram_in_the_text_is_the_targets_table() {
    let drawn = table::page::<TargetTable>("target");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol-spec/spec/diagrams/target.md");
    if std::env::var_os("UPDATE_DIAGRAMS").is_some() {
        std::fs::write(path, &drawn).unwrap();
    }
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, drawn, "run the tests of cxtp with UPDATE_DIAGRAMS=1");
}

#[test]
fn nothing_leaves_an_end_and_every_other_state_is_left() {
    table::check::<TargetTable>();
}
