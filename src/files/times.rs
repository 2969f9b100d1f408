//! Times of files as a manifest has them: nanoseconds since 1970.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

pub const SECOND: i64 = 1_000_000_000;

/// Of the last modification.
pub fn modified(meta: &Metadata) -> i64 {
    nanoseconds(meta.mtime(), meta.mtime_nsec())
}

/// Of the last change, of content or attributes.
pub fn changed(meta: &Metadata) -> i64 {
    nanoseconds(meta.ctime(), meta.ctime_nsec())
}

/// A file system may tell any number of seconds.
fn nanoseconds(seconds: i64, more: i64) -> i64 {
    seconds.saturating_mul(SECOND).saturating_add(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_and_one_beyond_all_count() {
        assert_eq!(nanoseconds(-1, 7), -SECOND + 7);
        assert_eq!(nanoseconds(i64::MAX, 7), i64::MAX);
    }
}
