//! Calls of gRPC, by the codes with which they ended.

use super::text::{family, line};
use crate::traffic::{DestinationStats, GRPC_CODES};

/// The codes of gRPC, in order of their numbers.
const GRPC: [&str; GRPC_CODES] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Writes what was counted, if anything was.
pub(super) fn write(out: &mut String, rows: &[(String, &DestinationStats)]) {
    if rows.iter().all(|(_, destination)| destination.grpc == [0; GRPC_CODES]) {
        return;
    }
    family(
        out,
        "weft_destination_grpc",
        "counter",
        "Calls of gRPC seen on the way to a destination, by code.",
    );
    for (address, destination) in rows {
        let counts = GRPC.iter().zip(destination.grpc).filter(|(_, count)| *count > 0);
        for (code, count) in counts {
            let labels = [
                ("direction", destination.direction.as_str()),
                ("destination", address),
                ("code", code),
            ];
            line(out, "weft_destination_grpc_total", &labels, count);
        }
    }
}
