//! HTTPRouteGroup, TCPRoute and UDPRoute: which traffic there is. By themselves they do nothing.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::convert::{self, MATCHES};
use crate::Metadata;

/// `specs.smi-spec.io HTTPRouteGroup`, from v1alpha1 to v1alpha4.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "Written")]
pub struct HttpRouteGroup {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its matches.
    pub spec: HttpRouteGroupSpec,
    /// Whether they stand at the top and not in `spec`, as in v1alpha1 and v1alpha2.
    pub flat: bool,
}

/// Requests, by matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRouteGroupSpec {
    /// A request is one of the group if one of these takes it.
    pub matches: Vec<HttpMatch>,
}

/// Conditions on a request that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Its name.
    pub name: String,
    /// A regular expression for the beginning of the path; any path when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<String>,
    /// Methods; any when empty or one is `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Headers.
    #[serde(skip_serializing_if = "HttpMatchHeaders::is_empty")]
    pub headers: HttpMatchHeaders,
}

/// Names of headers with a regular expression for the value of each. The specification has them as a map, the definition that
/// comes with its SDK as a list of maps: either is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HttpMatchHeaders {
    /// All of one map.
    Map(BTreeMap<String, String>),
    /// All of several.
    List(Vec<BTreeMap<String, String>>),
}

impl Default for HttpMatchHeaders {
    fn default() -> Self {
        Self::Map(BTreeMap::new())
    }
}

impl HttpMatchHeaders {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Each, with where it stands below `headers`.
    pub fn iter(&self) -> impl Iterator<Item = (String, &str, &str)> {
        let (map, list) = match self {
            Self::Map(map) => (Some(map), &[][..]),
            Self::List(list) => (None, list.as_slice()),
        };
        let of_map = map.into_iter().flatten();
        let of_map = of_map.map(|(name, value)| (format!(".{name}"), name.as_str(), value.as_str()));
        let of_list = list.iter().enumerate().flat_map(|(at, map)| {
            map.iter()
                .map(move |(name, value)| (format!("[{at}].{name}"), name.as_str(), value.as_str()))
        });
        of_map.chain(of_list)
    }
}

/// As it may be written.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    /// Its metadata.
    metadata: Metadata,
    /// From v1alpha3 on.
    spec: Option<HttpRouteGroupSpec>,
    /// v1alpha1 and v1alpha2.
    matches: Vec<HttpMatch>,
}

impl From<Written> for HttpRouteGroup {
    fn from(written: Written) -> Self {
        let Written {
            metadata,
            spec,
            matches,
        } = written;
        let flat = spec.is_none();
        Self {
            metadata,
            spec: spec.unwrap_or(HttpRouteGroupSpec { matches }),
            flat,
        }
    }
}

impl HttpRouteGroup {
    /// Where a field of the spec stands in the version that it is written in.
    pub fn path(&self, field: &str) -> String {
        if self.flat {
            field.to_owned()
        } else {
            format!("spec.{field}")
        }
    }
}

/// `specs.smi-spec.io TCPRoute`, from v1alpha1, which has no fields, to v1alpha4.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(from = "WrittenTcp")]
pub struct SmiTcpRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its ports.
    pub spec: SmiTcpRouteSpec,
}

/// Connections, by their port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SmiTcpRouteSpec {
    /// Which; all when it has no ports.
    pub matches: PortMatches,
}

/// `specs.smi-spec.io/v1alpha4 UDPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SmiUdpRoute {
    /// Its metadata.
    pub metadata: Metadata,
    /// Its ports.
    pub spec: SmiUdpRouteSpec,
}

/// Datagrams, by their port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SmiUdpRouteSpec {
    /// Which; all when it has no ports.
    pub matches: PortMatches,
}

/// Ports of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMatches {
    /// In the drafts of v1alpha4; it means nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// All when empty.
    pub ports: Vec<u16>,
}

/// As it may be written.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
struct WrittenTcp {
    /// Its metadata.
    metadata: Metadata,
    /// From v1alpha3 on.
    spec: SmiTcpRouteSpec,
}

impl From<WrittenTcp> for SmiTcpRoute {
    fn from(WrittenTcp { metadata, mut spec }: WrittenTcp) -> Self {
        // What a conversion has kept there for a version that has no field for it.
        let kept = metadata.annotations.get(MATCHES);
        let kept = kept.and_then(|matches| convert::kept(matches).ok());
        if let (true, Some(matches)) = (spec.matches.ports.is_empty(), kept) {
            spec.matches = matches;
        }
        Self { metadata, spec }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn matches_are_found_wherever_a_version_has_them() {
        let matches = json!([{"name": "m", "pathRegex": "/a", "methods": ["GET"]}]);
        let read = |value| serde_json::from_value::<HttpRouteGroup>(value).expect("it is one");
        let flat = read(json!({"metadata": {"name": "g"}, "matches": matches}));
        let nested = read(json!({"metadata": {"name": "g"}, "spec": {"matches": matches}}));
        assert_eq!(flat.spec, nested.spec);
        assert_eq!(
            (flat.path("matches[0]"), nested.path("matches[0]")),
            ("matches[0]".into(), "spec.matches[0]".into())
        );
    }

    #[test]
    fn headers_are_a_map_or_a_list_of_maps() {
        let read =
            |headers| serde_json::from_value::<HttpMatch>(json!({"name": "m", "headers": headers})).expect("one");
        let map = read(json!({"cookie": "a", "user-agent": "b"}));
        let list = read(json!([{"user-agent": "b"}, {"cookie": "a"}]));
        let named = |found: &HttpMatch| -> BTreeMap<String, String> {
            let headers = found.headers.iter();
            headers
                .map(|(_, name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        assert_eq!(named(&map), named(&list));
        assert_eq!(
            list.headers.iter().next().map(|(at, ..)| at),
            Some("[0].user-agent".to_owned())
        );
    }

    #[test]
    fn a_tcp_route_without_ports_is_for_all() {
        let read = |value| {
            serde_json::from_value::<SmiTcpRoute>(value)
                .expect("it is one")
                .spec
                .matches
                .ports
        };
        for all in [
            json!({}),
            json!({"spec": {}}),
            json!({"spec": {"matches": {"ports": []}}}),
        ] {
            assert!(read(all).is_empty());
        }
        assert_eq!(read(json!({"spec": {"matches": {"ports": [80]}}})), [80]);
        assert_eq!(
            read(json!({"metadata": {"name": "t", "annotations": {MATCHES: r#"{"ports":[80,81]}"#}}})),
            [80, 81]
        );
    }
}
