//! The limits of this process (getrlimit(2)).

use nix::libc::RLIM_INFINITY;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Limits under which CRIU makes the processes again. Each gets its own at the end.
const OF_A_RESTORE: [Resource; 6] = [
    Resource::RLIMIT_AS,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_SIGPENDING,
];

/// Raises the soft limits that a restore may meet to the hard ones, for this process and its children. So the hard
/// limits alone decide whether a service fits here.
pub fn raise() {
    for resource in OF_A_RESTORE {
        if let Ok((soft, hard)) = getrlimit(resource)
            && soft < hard
        {
            // Without success the restore meets the soft limit, and says so.
            let _ = setrlimit(resource, hard, hard);
        }
    }
}

/// Whether a process may map more than it needs: no limit counts its mappings.
pub fn permit_spare_memory() -> bool {
    [Resource::RLIMIT_AS, Resource::RLIMIT_DATA]
        .into_iter()
        .all(|resource| getrlimit(resource).is_ok_and(|(_, hard)| hard == RLIM_INFINITY))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only raises, so that it is in no other test's way.
    #[test]
    fn every_soft_limit_is_as_high_as_it_may_be() {
        raise();
        for resource in OF_A_RESTORE {
            let (soft, hard) = getrlimit(resource).unwrap();
            assert_eq!(soft, hard, "{resource:?}");
        }
    }
}
