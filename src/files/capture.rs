//! Captures files while the service stands still, with exact sizes and metadata. Others than the service may change
//! them meanwhile, so what the service does not use is taken as it is found, or not at all.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::unistd::{Whence, lseek};

use super::attributes;
use super::resolve::{self, Unresolved};
use super::times;
use super::used::Used;
use crate::image::{self, BodyId, ImageError, ImageWriter, Kind};

/// Holes count in whole pages, as in bodies.
const PAGE: u64 = 4096;

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
        mtime_ns: times::modified(&meta),
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
        let content = content(&file, meta.len(), writer).map_err(|error| match error {
            ImageError::Source(error) => unreadable(error),
            error => error.into(),
        })?;
        if !content.is_whole && is_used {
            return Err(unreadable(io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while it was read")));
        }
        entry.size = content.size;
        return Ok((entry, Some(content.body)));
    }
    Ok((entry, None))
}

/// What was read of a file.
pub(super) struct Content {
    pub body: BodyId,
    pub size: u64,
    /// The file did not shrink meanwhile.
    pub is_whole: bool,
}

/// Copies `size` bytes, and no more: CRIU compares sizes, and other processes may grow the file meanwhile. Reads no
/// holes, which may be larger than any disk.
pub(super) fn content(mut file: &File, size: u64, writer: &ImageWriter) -> Result<Content, ImageError> {
    let mut body = writer.begin();
    let mut at = 0;
    while at < size {
        let data = match next(file, Whence::SeekData, at) {
            Ok(data) if data < size => data / PAGE * PAGE,
            Ok(_) | Err(Errno::ENXIO) => size,
            // The file system knows no holes.
            Err(_) => at,
        };
        if data > at {
            body.skip(data - at)?;
            at = data;
            continue;
        }
        let hole = next(file, Whence::SeekHole, at).map_or(size, |hole| hole.next_multiple_of(PAGE).min(size));
        file.seek(SeekFrom::Start(at)).map_err(ImageError::Source)?;
        let mut part = file.take(hole - at);
        while body.fill_from(&mut part)? > 0 {}
        at = hole - part.limit();
        if part.limit() > 0 {
            break;
        }
    }
    let is_whole = at == size && file.metadata().map_err(ImageError::Source)?.len() >= size;
    Ok(Content { body: body.finish()?, size: at, is_whole })
}

fn next(file: &File, what: Whence, at: u64) -> nix::Result<u64> {
    lseek(file, at as i64, what).map(|at| at as u64)
}
