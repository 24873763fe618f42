//! What is called how.

/// The label, or annotation, by which a pod says that it is to be left alone.
pub const INJECT: &str = "weft.dev/inject";
/// The label of a pod with a sidecar: a digest of what was put into it.
pub const INJECTED: &str = "weft.dev/injected";
/// What the names of all annotations of ours begin with.
pub const PREFIX: &str = "weft.dev/";
/// The init container that turns connections to the sidecar.
pub const INTERCEPT: &str = "weft-intercept";
/// The sidecar's container.
pub const SIDECAR: &str = "weft-sidecar";
/// The volume with the token by which it proves who it is.
pub const TOKEN: &str = "weft-token";
/// The ConfigMap with the roots of the operator's certificates, and the volume of it.
pub const ROOTS: &str = "weft-roots";
/// The volume in which it keeps, in memory, what it goes on with after a restart.
pub const STATE: &str = "weft-state";
/// The lists of a pod that parts are put into, and what these are called there.
pub const LISTS: [(&str, &[&str]); 2] = [(INITS, &[INTERCEPT, SIDECAR]), (VOLUMES, &[TOKEN, ROOTS, STATE])];
pub(crate) const INITS: &str = "initContainers";
pub(crate) const VOLUMES: &str = "volumes";
/// The label by which a namespace forbids pods what the Pod Security Standards name.
pub(crate) const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Who the sidecar runs as: interception tells it from the application by that.
pub(crate) const UID: u32 = 1337;
/// The ports of the sidecar: outbound, inbound, probes and metrics, admin pages.
pub(crate) const PORTS: [u16; 4] = [15001, 15006, PROBES, 15021];
/// Of these, the one that the kubelet and Prometheus read.
pub const PROBES: u16 = 15020;
