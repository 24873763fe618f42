//! How clients prove who they are: `Gateway.spec.tls.frontend`, which holds for all HTTPS listeners of a Gateway, those
//! of its ListenerSets included.

use std::sync::Arc;

use weft_crds::{ClientValidationSpec, Gateway, Kind};
use weft_model::{ClientValidation, ClientValidationMode, TrustBundle};

use crate::{
    diagnostic::{Code, Diagnostic},
    listener::Problem,
    trust::{self, Fault, Roots},
    world::Reader,
};

/// What is asked of the clients of a listener.
pub(crate) struct Frontend {
    pub(crate) client: ClientValidation,
    pub(crate) bundles: Vec<Arc<TrustBundle>>,
    /// Of `ResolvedRefs`, if a reference does not resolve. Without any that does, nobody could be let in.
    pub(crate) problem: Option<Problem>,
}

/// What is asked of the clients of an HTTPS listener on a port; nothing if absent.
pub(crate) fn on(reader: &Reader<'_>, gateway: &Gateway, port: u16) -> Option<Frontend> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let own = frontend.per_port.iter().position(|settings| settings.port == port);
    let (settings, path) = match own {
        Some(at) => (
            &frontend.per_port[at].tls,
            format!("spec.tls.frontend.perPort[{at}].tls"),
        ),
        None => (&frontend.fallback, "spec.tls.frontend.default".to_owned()),
    };
    let spec = settings.validation.as_ref()?;
    let (frontend, _) = derive(reader, gateway, spec, &path);
    Some(frontend)
}

/// What is wrong with what a Gateway asks of clients, on any port, and whether it lets clients in that prove nothing.
pub(crate) fn check(reader: &Reader<'_>, gateway: &Gateway, diagnostics: &mut Vec<Diagnostic>) -> bool {
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let Some(frontend) = frontend else { return false };
    let ports = frontend.per_port.iter().enumerate();
    let ports = ports.map(|(at, port)| (format!("spec.tls.frontend.perPort[{at}].tls"), &port.tls));
    let mut insecure = false;
    for (path, settings) in std::iter::once(("spec.tls.frontend.default".to_owned(), &frontend.fallback)).chain(ports) {
        let Some(spec) = &settings.validation else { continue };
        let (derived, found) = derive(reader, gateway, spec, &path);
        diagnostics.extend(found);
        if derived.client.mode == ClientValidationMode::AllowInsecureFallback {
            insecure = true;
            let message =
                "clients are let in whatever certificate they show, or none: only the backend can turn them away";
            let remedy = "use AllowValidOnly once all clients have certificates";
            diagnostics.push(Code::InsecureFallback.at(format!("{path}.validation.mode"), message, remedy));
        }
    }
    for (at, settings) in frontend.per_port.iter().enumerate() {
        if frontend.per_port[..at].iter().any(|other| other.port == settings.port) {
            let message = format!("port {} stands twice; what stands first holds", settings.port);
            let path = format!("spec.tls.frontend.perPort[{at}].port");
            diagnostics.push(Code::DuplicateName.at(path, message, "remove one of the two"));
        }
    }
    insecure
}

fn derive(
    reader: &Reader<'_>,
    gateway: &Gateway,
    spec: &ClientValidationSpec,
    path: &str,
) -> (Frontend, Vec<Diagnostic>) {
    let from = (Kind::Gateway, gateway.metadata.namespace());
    let path = format!("{path}.validation");
    let roots = trust::roots(
        reader,
        from,
        &spec.ca_certificate_refs,
        &format!("{path}.caCertificateRefs"),
    );
    let trust_bundles = roots.keys();
    let Roots {
        bundles,
        problem,
        mut diagnostics,
    } = roots;
    let mode = match spec.mode.as_deref() {
        None | Some("" | "AllowValidOnly") => ClientValidationMode::AllowValidOnly,
        Some("AllowInsecureFallback") => ClientValidationMode::AllowInsecureFallback,
        Some(other) => {
            let message = format!("the mode {other:?} is not known; clients must prove who they are");
            let remedy = "use AllowValidOnly or AllowInsecureFallback";
            diagnostics.push(Code::Invalid.at(format!("{path}.mode"), message, remedy));
            ClientValidationMode::AllowValidOnly
        }
    };
    let problem = problem.map(|(fault, message)| {
        let reason = match fault {
            Fault::Unusable => "InvalidCACertificateRef",
            Fault::Kind => "InvalidCACertificateKind",
            Fault::NotPermitted => "RefNotPermitted",
        };
        (reason, message)
    });
    let frontend = Frontend {
        client: ClientValidation { trust_bundles, mode },
        bundles,
        problem,
    };
    (frontend, diagnostics)
}
