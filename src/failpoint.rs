//! Places where tests break the node on purpose. They exist only in builds with the feature `failpoints`, which no
//! release has; there the variable `FAILPOINTS` arms them, as the `fail` crate documents: `committed=50*off->return`.

/// Whether the failpoint of this name is armed now. Always false without the feature.
pub fn is_armed(name: &str) -> bool {
    let _ = name;
    fail::fail_point!(name, |_| true);
    false
}

/// Ends the process here and now, as `kill -9` would, if the failpoint of this name is armed.
pub fn die(name: &str) {
    if is_armed(name) {
        std::process::abort();
    }
}
