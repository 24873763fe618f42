//! Names that fit where Kubernetes bounds them.

/// A name with a suffix, of at most `most` bytes. One that must be cut gets a hash of the whole in its place, so that it is
/// still another than others. `most` leaves room for the suffix and nine bytes more.
pub fn shortened(name: &str, suffix: &str, most: usize) -> String {
    if name.len() + suffix.len() <= most {
        return format!("{name}{suffix}");
    }
    let room = most.saturating_sub(suffix.len() + 9);
    let kept = name.get(..room).unwrap_or_default().trim_end_matches(['-', '.']);
    format!("{kept}-{:08x}{suffix}", name_hash(name))
}

/// FNV-1a: it must never change, for names depend on it.
pub fn name_hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
