//! Captures files while the service stands still, with exact sizes and metadata. Others than the service may change
//! them meanwhile, so what the service does not use is taken as it is found, or not at all.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::readlinkat;

use super::attributes;
use super::resolve::{self, Unresolved};
use super::used::Used;
use crate::image::{self, BodyId, ImageError, ImageWriter, Kind};

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(
        "the file {path} of the service cannot be captured ({error}); make it readable for the container's user, or keep it on a volume"
    )]
    Unreadable { path: PathBuf, error: io::Error },
    /// Another container has exchanged a folder for a link, which may lead anywhere.
    #[error(
        "the file {path} of the service cannot be captured: {link} has become a symbolic link; make sure that no one else changes its folder"
    )]
    Link { path: PathBuf, link: PathBuf },
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A captured file, and its content in the generation that is being written.
pub type Captured = (image::File, Option<BodyId>);

/// Content that is in the generation already.
pub type Known<'a> = &'a dyn Fn(&Path, &Metadata) -> Option<BodyId>;

/// Captures `paths` in their order: sorted, so a folder comes before its content. Reads no content that is `known`.
/// What is gone and not `used` is left out.
pub fn capture<'a>(
    paths: impl IntoIterator<Item = &'a PathBuf>,
    used: &Used,
    known: Known,
    writer: &ImageWriter,
) -> Result<Vec<Captured>, CaptureError> {
    let mut names = Names::new();
    let captured = paths.into_iter().filter_map(|path| {
        let is_used = used.contains(path);
        match capture_one(path, is_used, &mut names, known, writer) {
            Err(CaptureError::Unreadable { error, .. }) if !is_used && is_gone(&error) => None,
            captured => Some(captured),
        }
    });
    captured.collect()
}

/// Whether a file was removed, or has become something that is not captured.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput)
}

/// First name of each file with several hard links, by device and inode.
type Names = HashMap<(u64, u64), Vec<u8>>;

/// Takes everything from one descriptor, since the path may lead to another file at any time.
fn capture_one(
    path: &Path,
    is_used: bool,
    names: &mut Names,
    known: Known,
    writer: &ImageWriter,
) -> Result<Captured, CaptureError> {
    let unreadable = |error| CaptureError::Unreadable { path: path.to_owned(), error };
    let place = resolve::place(path).map_err(|error| match error {
        Unresolved::Link(link) => CaptureError::Link { path: path.to_owned(), link },
        Unresolved::Io(error) => unreadable(error),
    })?;
    let meta = place.metadata().map_err(unreadable)?;
    let mut entry = image::File {
        path: path.as_os_str().as_bytes().to_vec(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime_ns: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
        ..image::File::default()
    };
    let kind = meta.file_type();
    if !kind.is_symlink() {
        entry.attributes = attributes::read(&place).map_err(unreadable)?;
    }
    if kind.is_dir() {
        entry.set_kind(Kind::Directory);
    } else if kind.is_fifo() {
        entry.set_kind(Kind::Fifo);
    } else if kind.is_symlink() {
        entry.set_kind(Kind::Symlink);
        let target = readlinkat(&place, "").map_err(|errno| unreadable(errno.into()))?;
        entry.target = target.as_bytes().to_vec();
    } else if !kind.is_file() {
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "it has become a device or a socket")));
    } else if let Some(first) = names.get(&(meta.dev(), meta.ino())) {
        entry.set_kind(Kind::HardLink);
        entry.target.clone_from(first);
    } else {
        entry.set_kind(Kind::Regular);
        entry.size = meta.len();
        if meta.nlink() > 1 {
            names.insert((meta.dev(), meta.ino()), entry.path.clone());
        }
        if let Some(body) = known(path, &meta) {
            return Ok((entry, Some(body)));
        }
        let file = resolve::open_to_read(&place).map_err(unreadable)?;
        let (body, missing) = content(file, meta.len(), writer)?;
        if missing > 0 && is_used {
            return Err(unreadable(io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while it was read")));
        }
        entry.size -= missing;
        return Ok((entry, Some(body)));
    }
    Ok((entry, None))
}

/// Copies `size` bytes, and no more: CRIU compares sizes, and other processes may grow the file meanwhile. Returns
/// also how many bytes are missing, if the file shrank.
pub(super) fn content(file: File, size: u64, writer: &ImageWriter) -> Result<(BodyId, u64), ImageError> {
    let mut body = writer.begin();
    let mut file = file.take(size);
    while body.fill_from(&mut file)? > 0 {}
    Ok((body.finish()?, file.limit()))
}
