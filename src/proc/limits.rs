//! /proc/PID/limits (proc_pid_limits(5)): the limits of a process.

use std::fmt::Display;
use std::fs;

/// The hard limits of a process. Those that are not listed are unlimited or unknown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits(Vec<(String, u64)>);

impl Limits {
    /// Of `pid`, a number or `self`; none if there is no such process.
    pub fn read(pid: impl Display) -> Self {
        Self::parse(&fs::read_to_string(super::path(pid, "limits")).unwrap_or_default())
    }

    /// By its name in the file, such as `Max open files`; None if there is no limit.
    pub fn hard(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, limit)| *limit)
    }

    /// Skips lines that have no number in the third column.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(limit).collect())
    }
}

/// `Max open files            1024                 524288               files`: the name has 25 characters.
fn limit(line: &str) -> Option<(String, u64)> {
    let (name, limits) = line.split_at_checked(25)?;
    Some((name.trim_end().to_owned(), limits.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &str = "\
Limit                     Soft Limit           Hard Limit           Units     \n\
Max cpu time              unlimited            unlimited            seconds   \n\
Max open files            1024                 524288               files     \n\
Max locked memory         8388608              8388608              bytes     \n";

    #[test]
    fn the_hard_one_is_found_by_its_name() {
        let limits = Limits::parse(SAMPLE);
        assert_eq!((limits.hard("Max open files"), limits.hard("Max cpu time")), (Some(524_288), None));
    }

    #[test]
    fn this_process_has_a_limit_of_open_files() {
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(Limits::read("self").hard("Max open files"), Some(hard));
    }

    proptest! {
        #[test]
        fn fuzz_any_text_is_limits_or_not(text: String) {
            let _ = Limits::parse(&text);
        }
    }
}
