//! What every process of Weft has, whatever it is for: its log about itself, an admin address, and how it listens.

pub mod admin;
pub mod listen;
pub mod log;
