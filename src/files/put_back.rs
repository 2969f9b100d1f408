//! Puts captured files back into a fresh container, before CRIU opens them. What others see too, is only
//! [`staged`] by then.
//!
//! Resolves each path once, to a descriptor. A file is written under a temporary name and renamed, so other
//! hard links of a replaced file keep their content. A file is written in place if its folder is not
//! writable, if it is a mount point, if there is no room for old and new together, or if it belongs to
//! another user, whom a replacement would deprive of it.

mod in_place;
mod room;
pub mod staged;
mod staging;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, readlinkat};
use nix::libc;
use nix::sys::stat::{Mode, UtimensatFlags, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, linkat, mkfifoat, symlinkat, unlinkat};

use super::attributes;
use super::entry::{Entry, Temporary, may_give};
use super::folders::{Folders, inode};
use super::leftovers;
use super::resolve::{self, Unresolved};
use super::times;
use crate::image::{self, Fetcher, ImageError, Kind, Piece};

#[derive(Debug, thiserror::Error)]
pub enum PutBackError {
    #[error(
        "the service's file {path} cannot be put back ({error}); make it and its folder writable for the container's user"
    )]
    Unwritable { path: PathBuf, error: io::Error },
    /// Another container may decide where the link leads.
    #[error(
        "the service's file {path} cannot be put back: {link} is a symbolic link here, and was a folder at the checkpoint; replace the link by a folder, because freeze does not follow it"
    )]
    Link { path: PathBuf, link: PathBuf },
    #[error(
        "the service's file {path} cannot be put back: {folder} was replaced by another folder during the restore; make sure that no one else changes its volume"
    )]
    Exchanged { path: PathBuf, folder: PathBuf },
    #[error(
        "the service's file {path} cannot be put back: what freeze prepared for it was removed or replaced during the restore; make sure that no one else changes its volume"
    )]
    Disturbed { path: PathBuf },
    #[error(
        "the service's file {path} cannot be put back: it needs {bytes} bytes beside what is there, and neither its file system nor {spare} has room for them; make room on one of them"
    )]
    NoRoom { path: PathBuf, bytes: u64, spare: PathBuf },
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// How a file differs from the captured one.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("{path} has lost its attribute {attribute} here: {error}")]
    Attribute { path: PathBuf, attribute: String, error: io::Error },
    #[error("{path} was deleted by the service and is here again: {error}")]
    Deletion { path: PathBuf, error: io::Error },
}

/// Deletes what was deleted in the container of the checkpoint. Returns what is still there.
pub fn delete(paths: &[Vec<u8>]) -> Vec<Lost> {
    let deleted = |path: &Vec<u8>| {
        let path = Path::new(OsStr::from_bytes(path));
        match path.parent().zip(path.file_name()).map(|(folder, name)| delete_one(&resolve::folder(folder)?, name)) {
            Some(Err(Unresolved::Io(error))) if error.kind() != io::ErrorKind::NotFound => {
                Some(Lost::Deletion { path: path.to_owned(), error })
            }
            // Where a link has the place of a folder, nothing is as it was at the checkpoint.
            _ => None,
        }
    };
    paths.iter().filter_map(deleted).collect()
}

/// Deletes an object of the root with everything in it. Leaves mounts as they are.
fn delete_one(folder: &File, name: &OsStr) -> Result<(), Unresolved> {
    let place = resolve::place_in(folder, name)?;
    if !resolve::is_on_root(&place)? {
        return Err(io::Error::from(io::ErrorKind::ResourceBusy).into());
    }
    if !place.metadata()?.is_dir() {
        return Ok(unlinkat(folder, name, UnlinkatFlags::NoRemoveDir)?);
    }
    for entry in fs::read_dir(resolve::by_descriptor(&place))? {
        delete_one(&place, &entry?.file_name())?;
    }
    Ok(unlinkat(folder, name, UnlinkatFlags::RemoveDir)?)
}

/// What the writing of every file needs.
struct Put<'a> {
    fetcher: &'a mut Fetcher,
    lost: Vec<Lost>,
}

/// Puts back `files` in their order, then their folders' attributes. Returns what is lost.
pub fn put_back(files: &[&image::File], fetcher: &mut Fetcher) -> Result<Vec<Lost>, PutBackError> {
    let mut folders = Folders::default();
    let mut put = Put { fetcher, lost: Vec::new() };
    for file in files {
        put_one(file.path(), file, &mut folders, &mut put)?;
    }
    finish_folders(files, &folders, &mut put.lost)?;
    Ok(put.lost)
}

/// Sets owners, modes and times of the folders, innermost first: a folder that is read-only, or another's, must
/// be filled before.
fn finish_folders(files: &[&image::File], folders: &Folders, lost: &mut Vec<Lost>) -> Result<(), PutBackError> {
    for file in files.iter().rev().filter(|file| file.kind() == Kind::Directory) {
        let folder = resolve::folder(file.path()).map_err(|error| unresolved(file.path(), error))?;
        check_same(file.path(), file.path(), &folder, folders)?;
        // Only the owner may set these; a folder of the container image keeps its own.
        let _ = finish_folder(&folder, file, lost);
    }
    Ok(())
}

fn check_same(path: &Path, folder: &Path, place: &File, folders: &Folders) -> Result<(), PutBackError> {
    match folders.is_same(folder, place) {
        Ok(true) => Ok(()),
        Ok(false) => Err(PutBackError::Exchanged { path: path.to_owned(), folder: folder.to_owned() }),
        Err(error) => Err(unresolved(path, error.into())),
    }
}

/// The entry at `path`, in the folder that was put back there.
fn entry_at(path: &Path, folders: &Folders) -> Result<Entry, PutBackError> {
    let entry = Entry::at(path).map_err(|error| unresolved(path, error))?;
    path.parent().map_or(Ok(()), |parent| check_same(path, parent, &entry.folder, folders))?;
    Ok(entry)
}

fn unresolved(path: &Path, error: Unresolved) -> PutBackError {
    match error {
        Unresolved::Link(link) => PutBackError::Link { path: path.to_owned(), link },
        Unresolved::Io(error) => PutBackError::Unwritable { path: path.to_owned(), error },
    }
}

fn put_one(path: &Path, file: &image::File, folders: &mut Folders, put: &mut Put) -> Result<(), PutBackError> {
    let entry = entry_at(path, folders)?;
    if path.parent().is_some_and(|folder| folders.visit(folder)) {
        // They take room, and harm nothing else.
        let _ = leftovers::remove(&entry.folder);
    }
    let done = match file.kind() {
        Kind::Directory => make_folder(&entry, path, file.mode).and_then(|place| Ok(folders.note(path, &place)?)),
        Kind::Symlink => make_link(&entry, file).map_err(Unresolved::Io),
        Kind::Fifo => make_fifo(&entry, file, &mut put.lost).map_err(Unresolved::Io),
        Kind::HardLink => {
            let first = entry_at(file.target(), folders)?;
            add_name(&entry, &first).map_err(Unresolved::Io)
        }
        // The manifest was checked: it has no other kind.
        Kind::Regular | Kind::Unknown => match write_file(&entry, file, put) {
            Err(ImageError::Sink(error)) => Err(error.into()),
            result => return Ok(result?),
        },
    };
    done.map_err(|error| unresolved(path, error))
}

/// Sets owner and mode last, in [`put_back`].
fn make_folder(entry: &Entry, path: &Path, mode: u32) -> Result<File, Unresolved> {
    match mkdirat(&entry.folder, entry.name.as_os_str(), Mode::from_bits_truncate(mode | 0o700)) {
        Err(Errno::EEXIST) => resolve::folder(path),
        Err(errno) => Err(errno.into()),
        Ok(()) => Ok(expect(entry.present()?, |meta| meta.is_dir())?),
    }
}

/// A folder on a volume that belongs to somebody else stays as it is.
fn finish_folder(folder: &File, file: &image::File, lost: &mut Vec<Lost>) -> io::Result<()> {
    let owner = folder.metadata()?.uid();
    let is_anothers = owner != file.uid && owner != geteuid().as_raw();
    if is_anothers && !resolve::is_on_root(folder)? { Ok(()) } else { finish(folder, file, lost) }
}

fn make_link(entry: &Entry, file: &image::File) -> io::Result<()> {
    if is_link(entry, file) {
        return Ok(());
    }
    let temporary = entry.temporary();
    new_link(&entry.folder, temporary.name(), file)?;
    temporary.take_place()
}

fn is_link(entry: &Entry, file: &image::File) -> bool {
    let present = readlinkat(&entry.folder, entry.name.as_os_str());
    present.is_ok_and(|present| present == OsStr::from_bytes(&file.target))
}

fn new_link(folder: &File, name: &OsStr, file: &image::File) -> io::Result<()> {
    symlinkat(OsStr::from_bytes(&file.target), folder, name)?;
    let link = expect(resolve::place_in(folder, name)?, fs::Metadata::is_symlink)?;
    give(&link, file);
    set_time(&link, file)
}

fn add_name(entry: &Entry, first: &Entry) -> io::Result<()> {
    let first = first.present()?;
    // rename(2) from one name of a file to another does nothing.
    if entry.present().is_ok_and(|present| inode(&present).ok() == inode(&first).ok()) {
        return Ok(());
    }
    let temporary = entry.temporary();
    new_name(&first, &entry.folder, temporary.name())?;
    temporary.take_place()
}

fn new_name(first: &File, folder: &File, name: &OsStr) -> io::Result<()> {
    let first = resolve::by_descriptor(first);
    Ok(linkat(AT_FDCWD, &first, folder, name, AtFlags::AT_SYMLINK_FOLLOW)?)
}

fn make_fifo(entry: &Entry, file: &image::File, lost: &mut Vec<Lost>) -> io::Result<()> {
    let temporary = entry.temporary();
    new_fifo(&entry.folder, temporary.name(), file, lost)?;
    temporary.take_place()
}

fn new_fifo(folder: &File, name: &OsStr, file: &image::File, lost: &mut Vec<Lost>) -> io::Result<()> {
    mkfifoat(folder, name, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let is_ours = |meta: &fs::Metadata| meta.file_type().is_fifo() && meta.uid() == geteuid().as_raw();
    let fifo = expect(resolve::place_in(folder, name)?, is_ours)?;
    finish(&fifo, file, lost)
}

/// Checks the object, since another container may have exchanged it, and opening a pipe or a device may block
/// or act.
fn expect(place: File, is_right: impl Fn(&fs::Metadata) -> bool) -> io::Result<File> {
    if is_right(&place.metadata()?) { Ok(place) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}

/// Every system error comes as [`ImageError::Sink`].
fn write_file(entry: &Entry, file: &image::File, put: &mut Put) -> Result<(), ImageError> {
    let is_anothers = entry.present().and_then(|present| present.metadata()).is_ok_and(|meta| !may_give(&meta));
    if is_anothers && let Ok(out) = open_present(entry) {
        return overwrite(out, file, put);
    }
    match replace(entry, file, put) {
        Err(ImageError::Sink(error)) if hinders(&error) => match open_present(entry) {
            Ok(out) => overwrite(out, file, put),
            Err(_) => Err(ImageError::Sink(error)),
        },
        done => done,
    }
}

/// Opens the existing file for writing. A mode that denies that to us, its owner, is changed; [`overwrite`] sets
/// the captured one. If the file cannot be opened even so, it has its mode again.
fn open_present(entry: &Entry) -> io::Result<File> {
    let present = expect(entry.present()?, fs::Metadata::is_file)?;
    let open = || resolve::reopen(&present, OpenOptions::new().write(true));
    open().or_else(|error| {
        let meta = present.metadata()?;
        if error.kind() != io::ErrorKind::PermissionDenied || !may_give(&meta) {
            return Err(error);
        }
        let set = |mode| fs::set_permissions(resolve::by_descriptor(&present), Permissions::from_mode(mode));
        set(meta.mode() | libc::S_IWUSR)?;
        open().inspect_err(|_| drop(set(meta.mode())))
    })
}

/// Whether the file may still be written in place: its folder refuses the change, it is a mount point and
/// busy, or there is no room for it twice.
fn hinders(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::EBUSY | Errno::ENOSPC | Errno::EDQUOT)
    )
}

fn replace(entry: &Entry, file: &image::File, put: &mut Put) -> Result<(), ImageError> {
    let temporary = entry.temporary();
    new_file(&temporary, file, put)?;
    temporary.take_place().map_err(ImageError::Sink)
}

fn new_file(temporary: &Temporary, file: &image::File, put: &mut Put) -> Result<(), ImageError> {
    let mut out = temporary.create().map_err(ImageError::Sink)?;
    fill(&mut out, file, put.fetcher)?;
    out.set_len(file.size).and_then(|()| finish(&out, file, &mut put.lost)).map_err(ImageError::Sink)
}

/// Writes into an existing file. Another user's file keeps its owner, mode and times. The file never becomes shorter than
/// it will be: a process may have it mapped, and would lose what it has changed of its own copy.
fn overwrite(mut out: File, file: &image::File, put: &mut Put) -> Result<(), ImageError> {
    if let Some(body) = &file.body {
        put.fetcher.for_each(body, |piece| match piece {
            Piece::Data(data) => out.write_all(data),
            Piece::Zeros(length) => io::copy(&mut io::repeat(0).take(length), &mut out).map(drop),
        })?;
    }
    out.set_len(file.size).map_err(ImageError::Sink)?;
    let finished =
        out.metadata().and_then(|meta| if may_give(&meta) { finish(&out, file, &mut put.lost) } else { Ok(()) });
    finished.map_err(ImageError::Sink)
}

/// Writes the file's content at the position of `out`, with holes for zeros.
fn fill(out: &mut File, file: &image::File, fetcher: &mut Fetcher) -> Result<(), ImageError> {
    let Some(body) = &file.body else { return Ok(()) };
    fetcher.for_each(body, |piece| match piece {
        Piece::Data(data) => out.write_all(data),
        Piece::Zeros(length) => out.seek(SeekFrom::Current(length as i64)).map(drop),
    })
}

/// Owner first: changing it clears the set-ID bits of the mode (chown(2)).
fn finish(place: &File, file: &image::File, lost: &mut Vec<Lost>) -> io::Result<()> {
    give(place, file);
    let of_the_user = attributes::write_users(place, file);
    set_mode(place, file)?;
    if let Some((attribute, error)) = of_the_user.or(attributes::write_others(place, file)) {
        lost.push(Lost::Attribute { path: file.path().to_owned(), attribute, error });
    }
    set_time(place, file)
}

/// Only CAP_CHOWN changes owners. Without it, new files belong to the container's user, who runs the service
/// too, and who may give them to their own groups.
fn give(place: &File, file: &image::File) {
    let chown = |uid| fchownat(place, "", uid, Some(Gid::from_raw(file.gid)), AtFlags::AT_EMPTY_PATH);
    let _ = chown(Some(Uid::from_raw(file.uid))).or_else(|_| chown(None));
}

/// A set-ID bit without its captured owner or group would lend the rights of another. fchmod(2) rejects
/// O_PATH descriptors.
fn set_mode(place: &File, file: &image::File) -> io::Result<()> {
    let meta = place.metadata()?;
    let mut mode = file.mode;
    if meta.uid() != file.uid {
        mode &= !libc::S_ISUID;
    }
    if meta.gid() != file.gid {
        mode &= !libc::S_ISGID;
    }
    fs::set_permissions(resolve::by_descriptor(place), Permissions::from_mode(mode))
}

/// futimens(3) rejects O_PATH descriptors.
fn set_time(place: &File, file: &image::File) -> io::Result<()> {
    let modified = TimeSpec::new(file.mtime_ns.div_euclid(times::SECOND), file.mtime_ns.rem_euclid(times::SECOND));
    let path = resolve::by_descriptor(place);
    Ok(utimensat(AT_FDCWD, &path, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::FollowSymlink)?)
}
