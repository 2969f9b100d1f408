//! Puts captured files back into a fresh container, before CRIU opens them.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::geteuid;

use crate::image::{self, Fetcher, ImageError, Kind, Piece};

/// Why a file could not be put back.
#[derive(Debug, thiserror::Error)]
pub enum PutBackError {
    /// The file itself.
    #[error(
        "the service's file {path} cannot be put back ({error}); make it and its folder writable for the container's user"
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's word for it.
        error: io::Error,
    },
    /// The store, or what is in it.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Puts back `files` in their order, then the modes and times of the folders, the innermost first: a folder that may not be
/// written to has to be filled before.
pub fn put_back(files: &[image::File], fetcher: &mut Fetcher) -> Result<(), PutBackError> {
    for file in files {
        let path = Path::new(OsStr::from_bytes(&file.path));
        put_one(path, file, fetcher)?;
    }
    for file in files.iter().rev().filter(|file| file.kind() == Kind::Directory) {
        let path = Path::new(OsStr::from_bytes(&file.path));
        // Only its owner may: a folder of the image's keeps its own.
        let _ = fs::set_permissions(path, Permissions::from_mode(file.mode));
        let _ = File::open(path).and_then(|folder| folder.set_times(times(file)));
    }
    Ok(())
}

fn put_one(path: &Path, file: &image::File, fetcher: &mut Fetcher) -> Result<(), PutBackError> {
    let unwritable = |error| PutBackError::Unwritable { path: path.to_owned(), error };
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(unwritable)?;
    }
    match file.kind() {
        Kind::Directory => make_folder(path, file).map_err(unwritable),
        Kind::Symlink => make_link(path, file).map_err(unwritable),
        Kind::Fifo => make_fifo(path, file).map_err(unwritable),
        Kind::HardLink => add_name(path, file).map_err(unwritable),
        // The manifest was checked: nothing else is in it.
        Kind::Regular | Kind::Unknown => write_file(path, file, fetcher),
    }
}

/// Its mode is set at the end.
fn make_folder(path: &Path, file: &image::File) -> io::Result<()> {
    match DirBuilder::new().mode(file.mode | 0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            // Only root may give files away; otherwise it is ours, as the service is.
            let _ = chown(path, Some(file.uid), Some(file.gid));
            Ok(())
        }
    }
}

fn make_link(path: &Path, file: &image::File) -> io::Result<()> {
    let target = Path::new(OsStr::from_bytes(&file.target));
    if fs::read_link(path).is_ok_and(|existing| existing == target) {
        return Ok(());
    }
    remove(path)?;
    symlink(target, path)?;
    // Only root may give files away, and then the owner matters; otherwise it is ours already.
    let _ = lchown(path, Some(file.uid), Some(file.gid));
    Ok(())
}

fn add_name(path: &Path, file: &image::File) -> io::Result<()> {
    remove(path)?;
    fs::hard_link(OsStr::from_bytes(&file.target), path)
}

fn make_fifo(path: &Path, file: &image::File) -> io::Result<()> {
    remove(path)?;
    nix::unistd::mkfifo(path, Mode::from_bits_truncate(file.mode))?;
    own(path, file)
}

fn write_file(path: &Path, file: &image::File, fetcher: &mut Fetcher) -> Result<(), PutBackError> {
    let unwritable = |error| PutBackError::Unwritable { path: path.to_owned(), error };
    let mut out = create(path).map_err(unwritable)?;
    if let Some(body) = &file.body {
        let written = fetcher.for_each(body, |piece| match piece {
            Piece::Data(data) => out.write_all(data),
            Piece::Zeros(length) => out.seek(SeekFrom::Current(length as i64)).map(drop),
        });
        match written {
            Err(ImageError::Sink(error)) => return Err(unwritable(error)),
            result => result?,
        }
    }
    out.set_len(file.size).map_err(unwritable)?;
    // One of the image's that the service may write to and does not own keeps its owner, its mode and its times.
    if out.metadata().map_err(unwritable)?.uid() != geteuid().as_raw() && !geteuid().is_root() {
        return Ok(());
    }
    own(path, file).map_err(unwritable)?;
    out.set_times(times(file)).map_err(unwritable)
}

/// Opens `path` empty. One that exists is written over where that is allowed, since it may have other names; else it is replaced.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path).or_else(|_| {
        remove(path)?;
        options.open(path)
    })
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Owner first: changing it clears the set-ID bits of the mode (chown(2)).
fn own(path: &Path, file: &image::File) -> io::Result<()> {
    // Only root may give files away; otherwise the file is ours, as the service is.
    let _ = chown(path, Some(file.uid), Some(file.gid));
    fs::set_permissions(path, Permissions::from_mode(file.mode))
}

fn times(file: &image::File) -> FileTimes {
    let modified = match u64::try_from(file.mtime_ns) {
        Ok(since) => SystemTime::UNIX_EPOCH + Duration::from_nanos(since),
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_nanos(file.mtime_ns.unsigned_abs()),
    };
    FileTimes::new().set_modified(modified)
}
