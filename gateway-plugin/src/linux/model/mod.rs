//! What stands around the acts, without a kernel: SAs, policies and steering of
//! two gateways, an IKE daemon that installs Child SAs itself, packets that go
//! through all of it, and calls that fail on demand.

mod address;
mod bench;
mod charon;
mod conformance;
mod drive;
mod failing;
mod faults;
mod ground;
mod moves;
mod packets;
mod steer;
mod tables;

pub(crate) use self::{
    bench::{Bench, Kind},
    failing::Failing,
    ground::{Fail, Shared},
    steer::ModelSteer,
    tables::ModelTables,
};
