//! What data planes have seen. Each replica of the operator remembers what those have reported that are connected to it, and
//! asks the others for the rest when somebody wants to know.

mod gather;
mod store;
mod sum;
mod taps;

pub(crate) use self::{
    gather::{Gather, Gathered, PATH, TAP, asked},
    store::{Period, PlaneSummary, Sightings, WINDOW, Workloads},
    sum::{edges, routes},
    taps::Wanted,
};
