//! Whether a sidecar reaches its operator, and what it has asked of whom it talks to.

use super::text::{family, line};
use crate::mesh::Mesh;

pub(super) fn render(out: &mut String, mesh: &Mesh) {
    let asked = mesh.asked();
    if !mesh.is_in_pod() {
        return;
    }
    let name = "weft_operator_connected";
    family(out, name, "gauge", "Whether the operator is reached.");
    line(out, name, &[], u8::from(asked.connected));
    let name = "weft_addresses_asked";
    family(
        out,
        name,
        "counter",
        "Addresses of which nothing was known, so that the operator was asked whose they are.",
    );
    line(out, &format!("{name}_total"), &[], asked.asked);
    let name = "weft_addresses_answered";
    family(
        out,
        name,
        "counter",
        "Answers to that, by whether the address is of the mesh.",
    );
    for (of, count) in [("mesh", asked.somebodys), ("nobody", asked.nobodys)] {
        line(out, &format!("{name}_total"), &[("of", of)], count);
    }
    let name = "weft_addresses_unanswered";
    family(
        out,
        name,
        "counter",
        "Connections that went on without an answer, since it took too long.",
    );
    line(out, &format!("{name}_total"), &[], asked.unanswered);
    let name = "weft_namespaces_told";
    family(
        out,
        name,
        "gauge",
        "Namespaces that are told of beside the pod's own: those that it talks to.",
    );
    line(out, name, &[], asked.namespaces);
}
