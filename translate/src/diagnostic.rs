//! What is wrong with an object, where in it, and what to do.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that was asked for is not done.
    Error,
    /// Something is done, but perhaps not what was meant.
    Warning,
    /// Worth knowing.
    Info,
}

/// Something wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// What kind of thing it is.
    pub code: Code,
    /// How bad it is.
    pub level: Level,
    /// Where in the object: `spec.rules[0].backendRefs[1].name`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

macro_rules! codes {
    ($($name:ident = $text:literal $level:ident $title:literal;)*) => {
        /// What can be wrong. Codes never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// What it means, in a line.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title),* }
            }

            /// How bad it is.
            pub fn level(self) -> Level {
                match self { $(Self::$name => Level::$level),* }
            }
        }
    };
}

codes! {
    Invalid = "W0101" Error "a field has a value that the API does not allow";
    InvalidHostname = "W0102" Error "a hostname is not one";
    InvalidDuration = "W0103" Error "a duration is not one of GEP-2257";
    InvalidRegex = "W0104" Error "a regular expression does not compile";
    DuplicateName = "W0105" Error "a name stands twice where it may stand once";
    MissingField = "W0106" Error "a field that is needed is not there";
    UnsupportedProtocol = "W0201" Error "a listener's protocol is not served";
    ListenerConflict = "W0202" Error "two listeners of a port cannot be told apart";
    InvalidCertificate = "W0203" Error "a certificate cannot be used";
    InvalidRouteKinds = "W0204" Error "a listener allows kinds of routes that do not fit it";
    InvalidTrust = "W0205" Error "roots cannot be used";
    ListenerSetNotAllowed = "W0206" Error "a Gateway does not allow a ListenerSet";
    InsecureFallback = "W0207" Warning "clients are let in that prove nothing";
    AcmeNotOrdered = "W0208" Warning "a certificate by ACME is not ordered";
    MissingGrant = "W0301" Error "a reference to another namespace is not permitted";
    NoParent = "W0302" Error "a route attaches to no listener";
    ParentNotFound = "W0303" Warning "a parent does not exist";
    HostnameMismatch = "W0304" Error "a route's hostnames fit no listener";
    NotAllowed = "W0305" Error "a listener does not allow a route";
    BackendNotFound = "W0306" Error "a backend does not exist";
    BackendKind = "W0307" Error "a backend is of a kind that is not served";
    BackendProtocol = "W0308" Error "a backend speaks a protocol that is not served";
    FilterUnsupported = "W0309" Error "a filter is not served";
    NoBackend = "W0310" Warning "a rule has no backend that gets requests";
    NoEndpoints = "W0311" Info "a backend has no endpoints";
    BackendInvalid = "W0312" Error "a backend is there, but cannot be served as it is";
    BackendInClear = "W0313" Warning "requests leave the cluster in clear";
    NoMesh = "W0314" Info "a route is for the mesh, and has no effect";
    RouteConflict = "W0315" Error "a port of a Service has routes of another kind";
    Shadowed = "W0401" Warning "a match can never win";
    PolicyTarget = "W0501" Warning "a policy names a target that it cannot hold for";
    PolicyConflict = "W0502" Warning "another policy for the same target comes first";
    PolicyUnseen = "W0503" Warning "a rule of a policy asks for what its target does not show";
    SmiReference = "W0601" Error "an object of SMI names something that does not exist";
    SmiUnserved = "W0602" Error "something of SMI cannot be honoured";
    SmiDatagrams = "W0603" Warning "a UDPRoute of SMI allows and denies nothing";
    SplitBackend = "W0604" Warning "a backend of a TrafficSplit gets nothing of a port";
    SplitOverruled = "W0605" Warning "a TrafficSplit is overruled";
    SplitOfItself = "W0606" Info "a TrafficSplit leads back to its own Service";
    NotServedYet = "W0402" Warning "a field is not served yet";
}

impl Code {
    /// A diagnostic of this kind.
    pub(crate) fn at(
        self,
        path: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            code: self,
            level: self.level(),
            path: path.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_once() {
        let page = include_str!("../../docs/diagnostics.md");
        for code in Code::ALL {
            let row = format!(
                "| {} | {} | {} |",
                code.as_str(),
                format!("{:?}", code.level()).to_lowercase(),
                code.title()
            );
            assert_eq!(page.matches(&row).count(), 1, "docs/diagnostics.md needs the row {row}");
        }
    }
}
