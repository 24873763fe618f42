//! What the tests in the cluster know of it: they run beside `cargo xtask`, which has started it.

pub mod record;
