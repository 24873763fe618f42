//! What data planes have seen. Each replica of the operator remembers what those have reported that are connected to it, and
//! asks the others for the rest when somebody wants to know.

mod gather;
mod plane;
mod store;
mod sum;
mod taps;
mod workloads;

pub(crate) use self::{
    gather::{Gather, Gathered, PATH, TAP, asked},
    plane::WINDOW,
    store::{Period, PlaneSummary, Sightings},
    sum::{edges, routes},
    taps::Wanted,
    workloads::Workloads,
};
