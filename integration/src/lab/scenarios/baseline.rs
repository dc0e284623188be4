//! No move at all: what the lab itself does to traffic, and that every figure is zero
//! where nothing is wrong.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use serde_json::Value;

use crate::lab::world::{Setup, World};

/// How long traffic runs after the baseline.
const SPAN: Duration = Duration::from_secs(4);

/// Runs it.
///
/// # Errors
/// What could not be done.
pub fn run(_: &[PathBuf]) -> Result<Value> {
    let mut world = World::build(Setup { gateways: 1, ..Setup::default() })?;
    world.establish()?;
    let traffic = world.start_traffic(1000)?;
    world.baseline(&traffic);
    traffic.run_for(SPAN);
    world.stop_traffic(traffic)?;
    world.still_works(1)?;
    Ok(serde_json::to_value(world.finish()?)?)
}
