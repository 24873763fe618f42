//! Why a request goes where it goes.

use serde::Serialize;

use super::Snapshot;
use crate::fields::{Fields, RequestView};

/// Who would take a request, and why nobody else would.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {}

/// Explains what [`super::Port::find`] decides.
pub fn explain<F: Fields>(
    _snapshot: &Snapshot,
    _port: u16,
    _sni: Option<&str>,
    _request: &RequestView<'_, F>,
) -> Explanation {
    Explanation {}
}
