//! The kernel's answer about one ability.

use std::io;

use serde::Serialize;

/// Whether something is allowed here, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "answer", content = "reason")]
pub enum Answer {
    Yes,
    /// The reason.
    No(String),
}

impl Answer {
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }

    /// Yes if `condition` holds, else No with `reason`.
    pub fn when(condition: bool, reason: &str) -> Self {
        if condition { Self::Yes } else { Self::No(reason.to_owned()) }
    }
}

impl From<Result<(), io::Error>> for Answer {
    /// Names the error as man pages do. ENOSYS comes from a seccomp profile that hides a system call, or from
    /// an older kernel.
    fn from(result: Result<(), io::Error>) -> Self {
        let Err(error) = result else { return Self::Yes };
        let known = error.raw_os_error().map(nix::errno::Errno::from_raw);
        Self::No(known.map_or_else(|| error.to_string(), |errno| format!("{errno:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_names() {
        assert_eq!(Answer::from(Err(io::Error::from_raw_os_error(libc::ENOSYS))), Answer::No("ENOSYS".to_owned()));
        assert!(Answer::from(Ok(())).is_yes());
        assert_eq!(Answer::when(false, "no"), Answer::No("no".to_owned()));
    }
}
