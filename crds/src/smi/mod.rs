//! SMI, the Service Mesh Interface (v0.6): which traffic there is, who may send it, and how it is split. Whatever version an
//! object is written in, it is read into one form; what a version has elsewhere or otherwise is found by its fields.

mod access;
mod convert;
mod definition;
mod quantity;
mod specs;
mod split;

pub(crate) use self::definition::definitions;
pub use self::{
    access::{
        IdentityBinding, IdentityBindingSpec, IdentitySchemes, PodLabelSelector, TrafficSubject, TrafficTarget,
        TrafficTargetRule, TrafficTargetSpec,
    },
    convert::{ConvertError, convert},
    quantity::{Weight, WeightError},
    specs::{
        HttpMatch, HttpMatchHeaders, HttpRouteGroup, HttpRouteGroupSpec, PortMatches, SmiTcpRoute, SmiTcpRouteSpec,
        SmiUdpRoute, SmiUdpRouteSpec,
    },
    split::{SplitMatch, TrafficSplit, TrafficSplitBackend, TrafficSplitSpec},
};

/// The API groups of SMI whose kinds are read.
pub(crate) const ACCESS: &str = "access.smi-spec.io";
/// See [`ACCESS`].
pub(crate) const SPECS: &str = "specs.smi-spec.io";
/// See [`ACCESS`].
pub(crate) const SPLIT: &str = "split.smi-spec.io";

/// The annotation of a namespace by which those in it whom no TrafficTarget names are sent nothing by callers in the mesh:
/// `deny-in-mesh`.
pub const SMI_ACCESS: &str = "weft.dev/smi-access";

/// What a version cannot say stands in annotations that begin like this.
const KEPT: &str = "smi.weft.dev/";
