//! How many files and connections the process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Asks for as many as the system lets anyone have: what it gives without being asked is a thousand or less, for the sake
/// of programs that use `select`, and a proxy has more connections than that.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
}
