//! Whom to ask whether a request may pass, compiled.

use http::{HeaderName, header};
use weft_model::{AuthProtocol, ExternalAuth, ServiceKey};

use super::{ServiceId, edits::name_of};

/// Asks a server before a request passes.
#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// Resolved by [`super::Snapshot::resolve`].
    pub(crate) service: ServiceId,
    /// Its name, to be said when there is none.
    pub(crate) name: ServiceKey,
    pub(crate) ask: Ask,
    /// Bytes of a body that it is told; none when 0.
    pub(crate) max_body: usize,
}

/// How it is asked.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Http {
        path_prefix: Box<str>,
        /// The request's fields it is told, beside the host.
        told: Vec<HeaderName>,
        /// The answer's fields the backend is told; all when empty.
        heard: Vec<HeaderName>,
    },
    Grpc {
        /// The request's fields it is told; all when empty.
        told: Vec<HeaderName>,
    },
}

impl Auth {
    pub(super) fn new(source: &ExternalAuth, id_of: &dyn Fn(&ServiceKey) -> ServiceId) -> Result<Self, String> {
        let names = |names: &[String]| names.iter().map(|name| name_of(name)).collect::<Result<Vec<_>, _>>();
        let ask = match &source.protocol {
            AuthProtocol::Http {
                path_prefix,
                allowed_headers,
                allowed_response_headers,
            } => {
                let mut told = names(allowed_headers)?;
                if !told.contains(&header::AUTHORIZATION) {
                    told.push(header::AUTHORIZATION);
                }
                Ask::Http {
                    path_prefix: path_prefix.as_str().into(),
                    told,
                    heard: names(allowed_response_headers)?,
                }
            }
            AuthProtocol::Grpc { allowed_headers } => Ask::Grpc {
                told: names(allowed_headers)?,
            },
        };
        Ok(Self {
            service: id_of(&source.service),
            name: source.service.clone(),
            ask,
            max_body: usize::try_from(source.max_body).unwrap_or(usize::MAX),
        })
    }
}
