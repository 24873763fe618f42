//! Filters of the API, lowered onto the model's.

use weft_crds::{Fraction, HeaderFilter, HttpRouteFilter, Kind, PathModifier};
use weft_model::{Cors, Filter, HeaderChange, HeaderEdit, Mirror, PathRewrite, Redirect, Rewrite};

use crate::{
    backend::{self, Unresolved},
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
    /// Why the rule cannot be served.
    pub(crate) broken: Option<String>,
}

/// Lowers filters, in their order. `prefix` says whether the rule's matches are by prefix, which some need.
pub(crate) fn lower(
    reader: &Reader<'_>,
    kind: Kind,
    namespace: &str,
    filters: &[HttpRouteFilter],
    path: &str,
) -> Lowered {
    let mut lowered = Lowered::default();
    for (at, filter) in filters.iter().enumerate() {
        let path = format!("{path}[{at}]");
        match one(reader, kind, namespace, filter, &path, &mut lowered) {
            Ok(filter) => lowered.filters.extend(filter),
            Err(diagnostic) => {
                lowered.broken.get_or_insert(diagnostic.message.clone());
                lowered.diagnostics.push(*diagnostic);
            }
        }
    }
    lowered
}

fn one(
    reader: &Reader<'_>,
    kind: Kind,
    namespace: &str,
    filter: &HttpRouteFilter,
    path: &str,
    lowered: &mut Lowered,
) -> Result<Option<Filter>, Box<Diagnostic>> {
    let missing = |field: &str| {
        let message = format!("a filter of type {} needs {field}", filter.filter_type);
        Box::new(Code::MissingField.at(path, message, format!("add {field}")))
    };
    let unsupported = |what: String| {
        let remedy = "remove it, or use one of RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite, RequestMirror, CORS";
        Box::new(Code::FilterUnsupported.at(format!("{path}.type"), what, remedy))
    };
    if kind == Kind::GrpcRoute
        && !matches!(
            filter.filter_type.as_str(),
            "RequestHeaderModifier" | "ResponseHeaderModifier" | "RequestMirror" | "ExtensionRef"
        )
    {
        return Err(unsupported(format!(
            "a GRPCRoute has no filter of type {:?}",
            filter.filter_type
        )));
    }
    Ok(Some(match filter.filter_type.as_str() {
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
            let service = match backend::resolve(reader, kind, namespace, &mirror.backend_ref, &path) {
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
        "ExtensionRef" => {
            let name = filter
                .extension_ref
                .as_ref()
                .map(|to| format!("{}/{} {}", to.group, to.kind, to.name));
            return Err(unsupported(format!(
                "the extension {} is not known",
                name.unwrap_or_default()
            )));
        }
        other => return Err(unsupported(format!("a filter of type {other:?} is not served"))),
    }))
}

fn edit(filter: &HeaderFilter) -> HeaderEdit {
    let changes = |headers: &[weft_crds::HeaderValue]| {
        headers
            .iter()
            .map(|header| HeaderChange {
                name: header.name.clone(),
                value: header.value.clone(),
            })
            .collect()
    };
    HeaderEdit {
        set: changes(&filter.set),
        add: changes(&filter.add),
        remove: filter.remove.clone(),
    }
}

fn rewrite(
    path: Option<&PathModifier>,
    missing: &impl Fn(&str) -> Box<Diagnostic>,
) -> Result<Option<PathRewrite>, Box<Diagnostic>> {
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
