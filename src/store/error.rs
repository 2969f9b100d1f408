//! Errors of a store. Each message says what happened, to what, and what to do.

use std::io;
use std::ops::Range;

use super::s3::S3Error;

#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // `url` is the store, `key` the object in it; the messages explain the rest.
pub enum StoreError {
    #[error(
        "{url:?} is not the URL of a store: {why}. Give file:/FOLDER with an absolute path, such as \
         file:/var/lib/freeze, or s3://BUCKET/PREFIX"
    )]
    BadUrl { url: String, why: &'static str },
    #[error("{option} {value:?} cannot be used: {why}. Correct or remove it")]
    BadOption { option: &'static str, value: String, why: String },
    /// The key could lead out of the store, or is one that not every store can hold.
    #[error("{key:?} cannot name an object of {url}: {why}. Nothing was read or written")]
    BadKey { url: String, key: String, why: &'static str },
    #[error("{url} has no object {key}. If it was there before, put it back from a copy of the store")]
    NotFound { url: String, key: String },
    #[error("{key} already exists in {url}. Another writer was first, and its object stays")]
    Exists { url: String, key: String },
    #[error("another writer has changed {key} in {url}. Its version stays; find out who else uses this store")]
    Changed { url: String, key: String },
    #[error(
        "{key} in {url} has {size} bytes, but may have at most {limit}. The object is damaged or was not made by freeze"
    )]
    TooLarge { url: String, key: String, size: u64, limit: u64 },
    #[error(
        "{key} in {url} has {size} bytes, but bytes {}..{} are needed. It was truncated: put it back from a copy of the store",
        range.start, range.end
    )]
    OutOfRange { url: String, key: String, range: Range<u64>, size: u64 },
    #[error(
        "cannot {doing} {key} in {url}: permission denied for uid {uid}. Give that uid access to the folder (a \
         Kubernetes volume: securityContext.fsGroup), or use another --store"
    )]
    Denied { url: String, key: String, doing: Doing, uid: u32 },
    #[error(
        "cannot {doing} {key} in {url}: the file system is read-only. Mount a writable volume there, or use another --store"
    )]
    ReadOnly { url: String, key: String, doing: Doing },
    #[error(
        "cannot {doing} {key} in {url}: no space is left, or a quota is used up. Free some space, or use another --store"
    )]
    NoSpace { url: String, key: String, doing: Doing },
    #[error(
        "cannot {doing} {key} in {url}: the file is larger than this container's limit of file size; raise the limit (ulimit -f), or use another --store"
    )]
    FileSize { url: String, key: String, doing: Doing },
    #[error("cannot {doing} {key} in {url}: {source}. Check the volume that holds the store")]
    Io { url: String, key: String, doing: Doing, source: io::Error },
    #[error("cannot start the threads for {url}: {source}. Raise the container's PIDs limit")]
    NoThreads { url: String, source: io::Error },
    #[error("cannot {doing} {key} in {url}: {source}")]
    S3 { url: String, key: String, doing: Doing, source: S3Error },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Doing {
    Write,
    Read,
    List,
    Delete,
}

impl std::fmt::Display for Doing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Doing::Write => "write",
            Doing::Read => "read",
            Doing::List => "list",
            Doing::Delete => "delete",
        })
    }
}

impl StoreError {
    /// Whether asking again will not help, as somebody must change something first.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::ReadOnly { .. } | Self::FileSize { .. })
    }

    /// Maps an I/O error of the operation `doing` on `key` to a variant.
    pub(super) fn from_io(url: &str, key: &str, doing: Doing, source: io::Error) -> Self {
        let (url, key) = (url.to_owned(), key.to_owned());
        match source.kind() {
            io::ErrorKind::NotFound if doing != Doing::Write => Self::NotFound { url, key },
            io::ErrorKind::PermissionDenied => Self::Denied { url, key, doing, uid: nix::unistd::geteuid().as_raw() },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { url, key, doing },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { url, key, doing },
            io::ErrorKind::FileTooLarge => Self::FileSize { url, key, doing },
            _ => Self::Io { url, key, doing, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_explained() {
        let text = |code| {
            let error = StoreError::from_io("file:/s", "packs/a", Doing::Write, io::Error::from_raw_os_error(code));
            error.to_string().replace(&nix::unistd::geteuid().to_string(), "UID")
        };
        let texts =
            [libc::EACCES, libc::EROFS, libc::ENOSPC, libc::EDQUOT, libc::EFBIG, libc::EIO].map(text).join("\n");
        insta::assert_snapshot!(texts, @r"
    cannot write packs/a in file:/s: permission denied for uid UID. Give that uid access to the folder (a Kubernetes volume: securityContext.fsGroup), or use another --store
    cannot write packs/a in file:/s: the file system is read-only. Mount a writable volume there, or use another --store
    cannot write packs/a in file:/s: no space is left, or a quota is used up. Free some space, or use another --store
    cannot write packs/a in file:/s: no space is left, or a quota is used up. Free some space, or use another --store
    cannot write packs/a in file:/s: the file is larger than this container's limit of file size; raise the limit (ulimit -f), or use another --store
    cannot write packs/a in file:/s: Input/output error (os error 5). Check the volume that holds the store
    ");
    }

    #[test]
    fn a_missing_object_is_only_missing_when_read() {
        let error = |doing| StoreError::from_io("file:/s", "a", doing, io::ErrorKind::NotFound.into());
        assert!(matches!(error(Doing::Read), StoreError::NotFound { .. }));
        assert!(matches!(error(Doing::Write), StoreError::Io { .. }));
    }
}
