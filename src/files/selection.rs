//! Which files the user wants in a checkpoint.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::sys::glob;

/// Which files travel without being named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Everything that was made, changed, renamed or deleted in the container since it started
    #[default]
    Changed,
    /// Only what the service has open, mapped or watches
    Open,
}

/// What a checkpoint captures of the container's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    pub scope: Scope,
    #[serde(flatten)]
    pub named: Named,
    /// Most bytes of the files that travel because they were changed.
    pub limit: u64,
}

/// Files that are named one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Files and folders to capture in any case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<PathBuf>,
    /// What stays behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Pattern>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SelectionError {
    #[error("--include {0}: give the path without \"..\"")]
    Parent(PathBuf),
    #[error("--exclude {0}: give an absolute path, or a name without a slash; both may have the wildcards *, ? and []")]
    Pattern(String),
    #[error("--include and --exclude have more than {0} bytes: name parent folders instead")]
    Long(usize),
}

impl Selection {
    /// Adds what a request names.
    pub fn with(mut self, named: &Named) -> Self {
        self.named.include.extend_from_slice(&named.include);
        self.named.exclude.extend_from_slice(&named.exclude);
        self
    }
}

impl Named {
    /// Names nothing.
    pub const NONE: Self = Self { include: Vec::new(), exclude: Vec::new() };

    /// Checks what the user gave. `most` is the number of bytes that fit into a message to a worker.
    pub fn check(&self, most: usize) -> Result<(), SelectionError> {
        if let Some(path) = self.include.iter().find(|path| path.components().any(|part| part == Component::ParentDir))
        {
            return Err(SelectionError::Parent(path.clone()));
        }
        let paths = self.include.iter().map(|path| path.as_os_str().len());
        let patterns = self.exclude.iter().map(|pattern| pattern.0.len());
        let bytes: usize = paths.chain(patterns).map(|length| length + 4).sum();
        if bytes > most { Err(SelectionError::Long(most)) } else { Ok(()) }
    }

    /// Whether the path itself is to stay behind.
    pub fn excludes(&self, path: &Path) -> bool {
        self.exclude.iter().any(|pattern| pattern.matches(path))
    }
}

/// A pattern of `--exclude`. With a slash it is one of whole paths, else one of names. What is below a matching
/// folder is left out with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern(String);

impl std::str::FromStr for Pattern {
    type Err = SelectionError;

    fn from_str(text: &str) -> Result<Self, SelectionError> {
        let text = if text.len() > 1 { text.trim_end_matches('/') } else { text };
        let is_plain = !text.is_empty() && !text.contains('\0') && (text.starts_with('/') || !text.contains('/'));
        if is_plain { Ok(Self(text.to_owned())) } else { Err(SelectionError::Pattern(text.to_owned())) }
    }
}

impl Pattern {
    /// The pattern of exactly this path. None if it is no text.
    pub fn of_path(path: &Path) -> Option<Self> {
        let escaped = |letter: char| if "*?[\\".contains(letter) { vec!['\\', letter] } else { vec![letter] };
        path.to_str()?.chars().flat_map(escaped).collect::<String>().parse().ok()
    }

    fn matches(&self, path: &Path) -> bool {
        let text = if self.0.starts_with('/') { Some(path.as_os_str()) } else { path.file_name() };
        let text = text.and_then(|text| CString::new(text.as_bytes()).ok());
        let pattern = CString::new(self.0.as_str()).ok();
        pattern.zip(text).is_some_and(|(pattern, text)| glob::matches(&pattern, &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_of_paths_or_of_names() {
        let matches = |pattern: &str, path: &str| pattern.parse::<Pattern>().unwrap().matches(Path::new(path));
        assert!(matches("/var/cache", "/var/cache") && matches("/var/cache/", "/var/cache"));
        assert!(!matches("/var/cache", "/var/cached") && matches("/var/cache/*", "/var/cache/x"));
        let exactly =
            |pattern: &str, path: &str| Pattern::of_path(Path::new(pattern)).unwrap().matches(Path::new(path));
        assert!(exactly("/a[b]*\\c", "/a[b]*\\c") && !exactly("/a*", "/ab"));
        assert!(matches("*.tmp", "/a/b/c.tmp") && !matches("*.tmp", "/a/b.tmp/c"));
        for text in ["", "a/b", "./a", "a\0"] {
            assert_eq!(text.parse::<Pattern>(), Err(SelectionError::Pattern(text.to_owned())));
        }
    }

    #[test]
    fn what_does_not_fit_into_a_message_is_refused() {
        let of = |path: &str| Named { include: vec![path.into()], ..Named::NONE };
        assert_eq!(of("/a").check(6), Ok(()));
        assert_eq!(of("/ab").check(6), Err(SelectionError::Long(6)));
        assert_eq!(of("/a/../b").check(100), Err(SelectionError::Parent("/a/../b".into())));
        let both = Named { exclude: vec!["*.tmp".parse().unwrap()], ..of("/a") };
        assert_eq!(both.check(14), Err(SelectionError::Long(14)));
    }
}
