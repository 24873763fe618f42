//! The pods of Gateways: what there should be, and how it comes to be.

pub(crate) mod addresses;
pub(crate) mod apply;
pub(crate) mod input;
mod labels;
pub(crate) mod names;
mod pod;
pub(crate) mod render;
