//! The suite that every body must pass, against the model.

use super::{Bench, Kind};
use crate::conformance::run;

#[test]
fn the_linux_gateway_without_a_daemon_conforms() {
    assert_eq!(run(&mut Bench::new(Kind::Kernel)), Ok(()));
}

#[test]
fn the_linux_gateway_with_a_daemon_that_installs_children_conforms() {
    assert_eq!(run(&mut Bench::new(Kind::Charon)), Ok(()));
}
