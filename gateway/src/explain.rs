//! Where a request would go, and why nowhere else.

use std::{net::IpAddr, path::Path};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use weft_model::ListenerProtocol;
use weft_proxy::{
    config::{Asker, Configuration, Explanation, explain as explain_config, explain_datagrams},
    fields::RequestView,
};
use weft_translate::Edit;

use crate::{analyze::translator, files::Loaded};

mod mesh;

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Scheme, host, port, path and query.
    pub url: Uri,
    /// The method.
    pub method: Method,
    /// The header fields. `Host` stands for the URL's.
    pub headers: HeaderMap,
    /// Present: a client in the mesh asks, in this namespace, and the URL's host is a Service.
    pub from: Option<String>,
    /// Who asks, as policies see it: from this machine and without a certificate, unless that is said.
    pub asker: Asker,
}

/// Why a question cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// The URL is not one.
    #[error("{0:?} is not a URL: write it like http://shop.example:8080/cart?id=1, or udp://names.example:53")]
    Url(String),
    /// A header is not one.
    #[error("{0:?} is not a header: write it like 'name: value'")]
    Header(String),
    /// The method is not one.
    #[error("{0:?} is not a method: write it like GET or POST")]
    Method(String),
    /// There is no certificate.
    #[error("{0} holds no certificate: it must have a part that starts with -----BEGIN CERTIFICATE-----")]
    Certificate(String),
}

impl Question {
    /// Reads a question as a command line puts it.
    ///
    /// # Errors
    /// A part of it is not what it should be.
    pub fn new(url: &str, method: &str, headers: &[String]) -> Result<Self, QuestionError> {
        let full = if url.contains("://") {
            url.to_owned()
        } else {
            format!("http://{url}")
        };
        let parsed: Uri = full.parse().map_err(|_| QuestionError::Url(url.to_owned()))?;
        if parsed.host().is_none() || !matches!(parsed.scheme_str(), Some("http" | "https" | "udp")) {
            return Err(QuestionError::Url(url.to_owned()));
        }
        let mut fields = HeaderMap::new();
        for header in headers {
            let wrong = || QuestionError::Header(header.clone());
            let (name, value) = header.split_once(':').ok_or_else(wrong)?;
            let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
            fields.append(name, HeaderValue::from_str(value.trim()).map_err(|_| wrong())?);
        }
        let method = method.parse().map_err(|_| QuestionError::Method(method.to_owned()))?;
        Ok(Self {
            url: parsed,
            method,
            headers: fields,
            from: None,
            asker: Asker::default(),
        })
    }

    /// The same, asked by a client in the mesh if a namespace is given.
    #[must_use]
    pub fn asked_from(self, namespace: Option<String>) -> Self {
        Self {
            from: namespace,
            ..self
        }
    }

    /// The same, asked from an address, and with the first certificate in a file, if they are given.
    ///
    /// # Errors
    /// The file holds no certificate.
    pub fn asked_by(mut self, address: Option<IpAddr>, certificate: Option<&Path>) -> Result<Self, QuestionError> {
        if let Some(address) = address {
            self.asker.address = address;
        }
        if let Some(path) = certificate {
            let read = CertificateDer::from_pem_file(path);
            let wrong = |_| QuestionError::Certificate(path.display().to_string());
            self.asker.certificate = Some(read.map_err(wrong)?);
        }
        Ok(self)
    }

    fn port(&self) -> u16 {
        let usual = match self.url.scheme_str() {
            Some("https") => 443,
            Some("udp") => 53,
            _ => 80,
        };
        self.url.port_u16().unwrap_or(usual)
    }

    /// Whether it is about datagrams.
    fn is_udp(&self) -> bool {
        self.url.scheme_str() == Some("udp")
    }

    fn is_tls(&self) -> bool {
        self.url.scheme_str() == Some("https")
    }
}

/// Says which listener, route, rule and backend would take a request, and why not the others. Standalone listeners may
/// be bound at an offset: the port is that of the manifests; when nothing listens there and only one port does for the
/// scheme, that one is meant.
pub fn explain(loaded: &Loaded, question: &Question) -> Explanation {
    let mut configuration = Configuration::new();
    let edits = loaded
        .objects()
        .map(|located| Edit::Put(located.object.clone()))
        .collect();
    if question.is_udp() && question.from.is_some() {
        // The mesh carries none.
        return mesh::unrouted();
    }
    let changes = translator(question.from.is_some()).apply(edits).changes;
    let changes = match &question.from {
        None => changes,
        Some(namespace) => match mesh::as_seen_from(namespace, question, changes) {
            Some(changes) => changes,
            None => return mesh::unrouted(),
        },
    };
    let snapshot = configuration.apply(changes).snapshot;
    if question.is_udp() {
        return explain_datagrams(&snapshot, question.port(), &question.asker);
    }
    let host = question
        .headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.or(question.url.host()).unwrap_or_default();
    let mut port = question.port();
    if snapshot.port(port).is_none() && question.url.port().is_none() {
        let wanted = match question.is_tls() {
            true => ListenerProtocol::Https,
            false => ListenerProtocol::Http,
        };
        let fitting: Vec<u16> = snapshot
            .ports()
            .filter(|p| p.protocol == wanted)
            .map(|p| p.number)
            .collect();
        if let [only] = fitting.as_slice() {
            port = *only;
        }
    }
    // A tunnel is asked for without a path.
    let (path, query) = match question.method {
        Method::CONNECT => ("/", None),
        _ => (question.url.path(), question.url.query()),
    };
    let view = RequestView {
        method: question.method.as_str(),
        host,
        path,
        query,
        fields: &question.headers,
    };
    let sni = question.is_tls().then(|| question.url.host().unwrap_or_default());
    explain_config(&snapshot, port, sni, &view, &question.asker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_people_write_them() {
        let question = Question::new("shop.example/cart?id=1", "POST", &["X-A: b".into()]).expect("a question");
        assert_eq!(
            (question.port(), question.url.query(), question.is_tls()),
            (80, Some("id=1"), false)
        );
        assert_eq!(question.headers["x-a"], "b");
        let datagrams = Question::new("udp://names.example", "GET", &[]).expect("a question");
        assert_eq!((datagrams.port(), datagrams.is_udp()), (53, true));
        assert!(Question::new("ftp://a", "GET", &[]).is_err());
        assert!(Question::new("http://a", "GET", &["nothing".into()]).is_err());
        assert!(Question::new("http://a", "G ET", &[]).is_err());
    }
}
