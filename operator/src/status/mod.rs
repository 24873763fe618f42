//! Statuses: what the translation says, with what data planes and the cluster say, merged into what is there.

pub(crate) mod merge;
pub(crate) mod programmed;
pub(crate) mod write;
