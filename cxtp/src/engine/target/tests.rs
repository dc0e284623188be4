//! Every cell of the target's table, and its diagram.

use super::{super::table, TargetTable};

#[test]
fn every_cell_of_the_targets_table_is_reviewed() {
    insta::assert_snapshot!(table::cells::<TargetTable>());
}

#[test]
fn the_diagram_in_the_text_is_the_targets_table() {
    table::is_drawn::<TargetTable>("target");
}

#[test]
fn nothing_leaves_an_end_and_every_other_state_is_left() {
    table::check::<TargetTable>();
}
