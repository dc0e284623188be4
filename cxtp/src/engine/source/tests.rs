//! Every cell of the source's table, and its diagram.

use super::{super::table, SourceTable};

#[test]
fn every_cell_of_the_sources_table_is_reviewed() {
    insta::assert_snapshot!(table::cells::<SourceTable>());
}

#[test]
fn the_diagram_in_the_text_is_the_sources_table() {
    table::is_drawn::<SourceTable>("source");
}

#[test]
fn nothing_leaves_an_end_and_every_other_state_is_left() {
    table::check::<SourceTable>();
}
