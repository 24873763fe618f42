//! Manifests, with the place of everything in them.

mod load;
mod loaded;
mod problem;
mod schema;
mod sources;
mod tree;

pub use load::{File, Located};
pub use loaded::Loaded;
pub use problem::{Level, Place, Problem, Snippet};
pub(crate) use sources::STANDARD_INPUT;
pub use sources::{Found, Sources, SourcesError};
pub use tree::values;
