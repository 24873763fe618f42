//! Filters of the API, lowered onto the model's.

use weft_crds::{ExternalAuthFilter, Fraction, HeaderFilter, HttpRouteFilter, Kind, PathModifier};
use weft_model::{
    AuthProtocol, Cors, ExternalAuth, Filter, HeaderChange, HeaderEdit, Mirror, PathRewrite, Redirect, Rewrite,
    ServiceKey,
};

use crate::{
    backend::{self, Referrer, Unresolved},
    diagnostic::{Code, Diagnostic},
    world::Reader,
};

/// What became of a list of filters.
#[derive(Default)]
pub(crate) struct Lowered {
    pub(crate) filters: Vec<Filter>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Why references in them do not resolve.
    pub(crate) unresolved: Vec<Unresolved>,
    /// What there is no serving of.
    pub(crate) unserved: Vec<Diagnostic>,
    /// Why the rule cannot be served: a filter is never skipped.
    pub(crate) broken: Option<String>,
}

/// Why there is no filter.
enum Failure {
    /// An API server would have refused it.
    Refused(Box<Diagnostic>),
    /// It refers to what is not there.
    Unresolved(Box<Unresolved>),
    /// It is not served.
    Unserved(Box<Diagnostic>),
}

/// Lowers filters, in their order.
pub(crate) fn lower(reader: &Reader<'_>, from: Referrer<'_>, filters: &[HttpRouteFilter], path: &str) -> Lowered {
    let mut lowered = Lowered::default();
    for (at, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match one(reader, from, filter, &path, &mut lowered) {
            Ok(filter) => lowered.filters.push(filter),
            Err(failure) => lowered.fail(failure),
        }
    }
    lowered
}

impl Lowered {
    fn fail(&mut self, failure: Failure) {
        let message = match failure {
            Failure::Refused(diagnostic) => {
                self.diagnostics.push(*diagnostic);
                return;
            }
            Failure::Unresolved(unresolved) => {
                let message = unresolved.diagnostic.message.clone();
                self.unresolved.push(*unresolved);
                message
            }
            Failure::Unserved(diagnostic) => {
                let message = diagnostic.message.clone();
                self.unserved.push(*diagnostic);
                message
            }
        };
        self.broken.get_or_insert(message);
    }
}

fn one(
    reader: &Reader<'_>,
    from: Referrer<'_>,
    filter: &HttpRouteFilter,
    path: &str,
    lowered: &mut Lowered,
) -> Result<Filter, Failure> {
    let kind = from.kind;
    let missing = |field: &str| {
        let message = format!("a filter of type {} needs {field}", filter.filter_type);
        Failure::Refused(Box::new(Code::MissingField.at(path, message, format!("add {field}"))))
    };
    let unserved = |what: String, known: &str| {
        let remedy = format!("remove it, or use one of {known}");
        Box::new(Code::FilterUnsupported.at(format!("{path}.type"), what, remedy))
    };
    if kind == Kind::GrpcRoute
        && !matches!(
            filter.filter_type.as_str(),
            "RequestHeaderModifier" | "ResponseHeaderModifier" | "RequestMirror" | "ExtensionRef"
        )
    {
        let message = format!("a GRPCRoute has no filter of type {:?}", filter.filter_type);
        return Err(Failure::Refused(unserved(message, GRPC_FILTERS)));
    }
    Ok(match filter.filter_type.as_str() {
        "RequestHeaderModifier" => Filter::RequestHeaders(edit(
            filter
                .request_header_modifier
                .as_ref()
                .ok_or_else(|| missing("requestHeaderModifier"))?,
        )),
        "ResponseHeaderModifier" => Filter::ResponseHeaders(edit(
            filter
                .response_header_modifier
                .as_ref()
                .ok_or_else(|| missing("responseHeaderModifier"))?,
        )),
        "RequestRedirect" => {
            let redirect = filter
                .request_redirect
                .as_ref()
                .ok_or_else(|| missing("requestRedirect"))?;
            Filter::Redirect(Redirect {
                scheme: redirect.scheme.clone(),
                hostname: redirect.hostname.clone(),
                path: rewrite(redirect.path.as_ref(), &missing)?,
                port: redirect.port,
                status: redirect.status_code.unwrap_or(302),
            })
        }
        "URLRewrite" => {
            let spec = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
            Filter::Rewrite(Rewrite {
                hostname: spec.hostname.clone(),
                path: rewrite(spec.path.as_ref(), &missing)?,
            })
        }
        "RequestMirror" => {
            let mirror = filter.request_mirror.as_ref().ok_or_else(|| missing("requestMirror"))?;
            let path = format!("{path}.requestMirror.backendRef");
            let service = match backend::resolve(reader, from, &mirror.backend_ref, &path) {
                Ok(service) => Some(service),
                Err(unresolved) => {
                    lowered.unresolved.push(*unresolved);
                    None
                }
            };
            let percent = mirror.percent.map(|percent| Fraction {
                numerator: percent,
                denominator: 100,
            });
            let share = mirror.fraction.or(percent).unwrap_or(Fraction {
                numerator: 1,
                denominator: 1,
            });
            Filter::Mirror(Mirror {
                service,
                numerator: share.numerator,
                denominator: share.denominator.max(1),
            })
        }
        "CORS" => {
            let cors = filter.cors.as_ref().ok_or_else(|| missing("cors"))?;
            Filter::Cors(Cors {
                allow_origins: cors.allow_origins.clone(),
                allow_methods: cors.allow_methods.clone(),
                allow_headers: cors.allow_headers.clone(),
                expose_headers: cors.expose_headers.clone(),
                allow_credentials: cors.allow_credentials.unwrap_or(false),
                max_age: cors.max_age.unwrap_or(5),
            })
        }
        "ExternalAuth" => {
            let auth = filter.external_auth.as_ref().ok_or_else(|| missing("externalAuth"))?;
            let at = format!("{path}.externalAuth.backendRef");
            // Without a server to ask nothing passes: the rule is broken.
            let service = backend::resolve(reader, from, &auth.backend_ref, &at).map_err(Failure::Unresolved)?;
            Filter::ExternalAuth(external_auth(auth, service))
        }
        "ExtensionRef" => {
            let to = filter.extension_ref.as_ref().ok_or_else(|| missing("extensionRef"))?;
            let message = format!("no filter of kind {} in group {:?} is known", to.kind, to.group);
            return Err(Failure::Unresolved(Box::new(Unresolved {
                reason: "InvalidKind",
                diagnostic: *unserved(message, known(kind)),
                found: None,
            })));
        }
        other => {
            let message = format!("a filter of type {other:?} is not served");
            return Err(Failure::Unserved(unserved(message, known(kind))));
        }
    })
}

const GRPC_FILTERS: &str = "RequestHeaderModifier, ResponseHeaderModifier, RequestMirror";
const HTTP_FILTERS: &str =
    "RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite, RequestMirror, CORS, ExternalAuth";

fn known(kind: Kind) -> &'static str {
    if kind == Kind::GrpcRoute {
        GRPC_FILTERS
    } else {
        HTTP_FILTERS
    }
}

fn external_auth(auth: &ExternalAuthFilter, service: ServiceKey) -> ExternalAuth {
    let names = |names: &[String]| {
        let mut names: Vec<String> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        names
    };
    let protocol = if auth.protocol == "GRPC" {
        AuthProtocol::Grpc {
            allowed_headers: auth
                .grpc
                .as_ref()
                .map(|grpc| names(&grpc.allowed_headers))
                .unwrap_or_default(),
        }
    } else {
        let http = auth.http.clone().unwrap_or_default();
        AuthProtocol::Http {
            path_prefix: match http.path.as_deref().unwrap_or_default().trim_matches('/') {
                "" => String::new(),
                path => format!("/{path}"),
            },
            allowed_headers: names(&http.allowed_headers),
            allowed_response_headers: names(&http.allowed_response_headers),
        }
    };
    ExternalAuth {
        service,
        protocol,
        max_body: auth.forward_body.as_ref().and_then(|body| body.max_size).unwrap_or(0),
    }
}

fn edit(filter: &HeaderFilter) -> HeaderEdit {
    let changes = |headers: &[weft_crds::HeaderValue]| {
        let mut changes: Vec<HeaderChange> = Vec::new();
        for header in headers {
            // Of several values for one name only the first counts.
            if changes
                .iter()
                .all(|known| !known.name.eq_ignore_ascii_case(&header.name))
            {
                changes.push(HeaderChange {
                    name: header.name.clone(),
                    value: header.value.clone(),
                });
            }
        }
        changes
    };
    HeaderEdit {
        set: changes(&filter.set),
        add: changes(&filter.add),
        remove: filter.remove.clone(),
    }
}

fn rewrite(path: Option<&PathModifier>, missing: &impl Fn(&str) -> Failure) -> Result<Option<PathRewrite>, Failure> {
    let Some(path) = path else { return Ok(None) };
    Ok(Some(match path.modifier_type.as_str() {
        "ReplaceFullPath" => PathRewrite::Full(
            path.replace_full_path
                .clone()
                .ok_or_else(|| missing("path.replaceFullPath"))?,
        ),
        "ReplacePrefixMatch" => PathRewrite::Prefix(
            path.replace_prefix_match
                .clone()
                .ok_or_else(|| missing("path.replacePrefixMatch"))?,
        ),
        _ => return Err(missing("path.type of ReplaceFullPath or ReplacePrefixMatch")),
    }))
}
