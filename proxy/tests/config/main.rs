//! The compiled configuration, through what it offers to the runtime.

mod explanations;
mod frontends;
mod incremental;
mod listeners;
mod policies;
mod precedence;
mod scale;
mod support;
