//! Manifests, with the place of everything in them.

mod load;
mod problem;
mod schema;
mod tree;

pub use load::{File, Loaded, Located, Sources, SourcesError};
pub use problem::{Level, Place, Problem};
