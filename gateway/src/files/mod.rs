//! Manifests, with the place of everything in them.

mod load;
mod loaded;
mod located;
mod problem;
mod reader;
mod scalar;
mod schema;
mod sources;
mod text;
mod tree;

pub use load::File;
pub use loaded::Loaded;
pub use located::Located;
pub use problem::{Level, Place, Problem, Snippet};
pub use reader::values;
pub(crate) use sources::STANDARD_INPUT;
pub use sources::{Found, Sources, SourcesError};
