//! How the requests of one client stay with one endpoint (GEP-1619).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::route::milliseconds;

/// Session persistence of a rule or of a Service. The data plane keeps no session: the client carries a token that names
/// the endpoint, and every replica reads it alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionPersistence {
    /// What the client carries the token in.
    pub carrier: SessionCarrier,
    /// How long a session may last.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "milliseconds")]
    pub absolute_timeout: Option<Duration>,
    /// How long a session may go without a request.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "milliseconds")]
    pub idle_timeout: Option<Duration>,
    /// What the key of the tokens is made from: the UID of the object that asks for sessions, which clients do not know.
    pub seed: String,
}

/// What the client carries a session's token in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum SessionCarrier {
    /// A cookie.
    #[serde(rename_all = "camelCase")]
    Cookie {
        /// Its name; one of its own for each rule when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// The paths it is for.
        path: CookiePath,
        /// Whether the browser keeps it for `absolute_timeout`, rather than until it is closed.
        #[serde(default)]
        permanent: bool,
    },
    /// A header, which the client sends back by itself.
    Header {
        /// Its name, lower-case.
        name: String,
    },
}

/// The `Path` attribute of a session's cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CookiePath {
    /// That of the match which took the request.
    Matched,
    /// This one.
    Given(String),
    /// None: for a Service, several routes may lead to it.
    Unset,
}
