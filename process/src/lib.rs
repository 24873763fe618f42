//! What every process of Weft has, whatever it is for: its log about itself, and an admin address.

pub mod admin;
pub mod log;
