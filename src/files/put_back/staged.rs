//! Files on mounts that outlive a container or that others see: volumes, what a pod shares. Each is prepared
//! beside its place, and takes its place only when the service is this container's own. So a target that loses a
//! handover leaves the files of the running service as they are.
//!
//! Before that, nothing is made under a name of the service but missing folders and links. After that, nothing is read
//! from the store. Dropping it removes what was prepared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsRawFd;

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::in_place::InPlace;
use super::room::Room;
use super::staging::Staging;
use super::*;
use crate::criu::command::{Elsewhere, Moved};
use crate::criu::named;
use crate::files::half_done::Mark;
use crate::files::mounts::{self, Mounts};
use crate::image::{Body, Manifest};
use crate::proc::fdinfo::{FdInfo, Inode};

/// The files that are not on the root.
#[derive(Debug)]
pub struct Staged<'a> {
    files: Vec<&'a image::File>,
    /// What takes the place of these paths.
    prepared: BTreeMap<&'a Path, Prepared>,
    /// By the folder that they are in.
    stagings: BTreeMap<&'a Path, Staging>,
    in_place: InPlace<'a>,
    folders: Folders,
    pub(in crate::files) room: Room,
}

/// Its name in the [`Staging`] of its folder, and which file it is.
#[derive(Debug)]
struct Prepared {
    name: OsString,
    inode: Inode,
}

/// Files of the container alone, which are put back at once, and the others.
pub fn split<'a>(files: &'a [image::File], mounts: &Mounts) -> (Vec<&'a image::File>, Vec<&'a image::File>) {
    files.iter().partition(|file| mounts.kind(file.path()) == mounts::Kind::Root)
}

impl<'a> Staged<'a> {
    /// Keeps in the folder `spare` what will be written in place, with the `mark`.
    pub fn new(spare: &Path, mark: Mark) -> Self {
        Self {
            files: Vec::new(),
            prepared: BTreeMap::new(),
            stagings: BTreeMap::new(),
            in_place: InPlace::new(spare, mark),
            folders: Folders::default(),
            room: Room::default(),
        }
    }

    /// Prepares `files`, in their order. Returns what is lost.
    pub fn stage(&mut self, files: Vec<&'a image::File>, fetcher: &mut Fetcher) -> Result<Vec<Lost>, PutBackError> {
        let mut put = Put { fetcher, lost: Vec::new() };
        for file in &files {
            self.add(file, &mut put)?;
        }
        self.files = files;
        Ok(put.lost)
    }

    fn add(&mut self, file: &'a image::File, put: &mut Put) -> Result<(), PutBackError> {
        let at = file.path();
        let entry = entry_at(at, &self.folders)?;
        if at.parent().is_some_and(|folder| self.folders.visit(folder)) {
            // They take room.
            let _ = leftovers::remove(&entry.folder);
        }
        match file.kind() {
            Kind::Directory => make_folder(&entry, at, file.mode)
                .and_then(|place| Ok(self.folders.note(at, &place)?))
                .map_err(|error| unresolved(at, error)),
            // A path of a socket may lead over it, and it takes nothing's place.
            Kind::Symlink if entry.present().is_err() => {
                new_link(&entry.folder, &entry.name, file).map_err(|error| unresolved(at, error.into()))
            }
            _ if self.is_here(&entry, file)? => Ok(()),
            _ => self.prepare(&entry, file, put),
        }
    }

    fn prepare(&mut self, entry: &Entry, file: &'a image::File, put: &mut Put) -> Result<(), PutBackError> {
        let at = file.path();
        let is_regular = matches!(file.kind(), Kind::Regular | Kind::Unknown);
        let needs = file.body.as_ref().map_or(0, Body::data);
        let unwritable = |error: io::Error| unresolved(at, error.into());
        let obstacle = obstacle(entry, is_regular);
        let stays = match obstacle {
            None => !self.room.take(&entry.folder, needs).map_err(unwritable)? && entry.present().is_ok(),
            Some(_) => true,
        };
        let prepared = match obstacle {
            Some(obstacle) => Err(ImageError::Sink(obstacle.into())),
            None if stays => Err(ImageError::Sink(Errno::ENOSPC.into())),
            None => self.stage_one(entry, file, put),
        };
        match prepared {
            Ok(prepared) => drop(self.prepared.insert(at, prepared)),
            Err(ImageError::Sink(error)) if is_regular && hinders(&error) && entry.present().is_ok() => {
                self.in_place.keep(entry, file, &mut self.room, put.fetcher)?;
            }
            Err(ImageError::Sink(error)) => return Err(unwritable(error)),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn stage_one(&mut self, entry: &Entry, file: &'a image::File, put: &mut Put) -> Result<Prepared, ImageError> {
        let first = match file.kind() {
            Kind::HardLink => Some(self.place(file.target()).map_err(ImageError::Sink)?),
            _ => None,
        };
        let folder = file.path().parent().unwrap_or(Path::new("/"));
        let staging = match self.stagings.entry(folder) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(Staging::new(&entry.folder, folder).map_err(ImageError::Sink)?)
            }
        };
        let temporary = staging.temporary(entry);
        let made = match (file.kind(), first) {
            (Kind::Fifo, _) => new_fifo(temporary.folder(), temporary.name(), file, &mut put.lost),
            (Kind::Symlink, _) => new_link(temporary.folder(), temporary.name(), file),
            (_, Some(first)) => new_name(&first, temporary.folder(), temporary.name()),
            _ => return new_file(&temporary, file, put).and_then(|()| prepared(temporary).map_err(ImageError::Sink)),
        };
        made.and_then(|()| prepared(temporary)).map_err(ImageError::Sink)
    }

    /// The file that `path` will lead to.
    fn place(&self, path: &Path) -> io::Result<File> {
        match self.prepared.get(path) {
            Some(prepared) => self.staging(path)?.place(&prepared.name),
            None => Entry::at(path).map_err(|_| io::Error::from(io::ErrorKind::NotFound))?.present(),
        }
    }

    fn staging(&self, path: &Path) -> io::Result<&Staging> {
        let staging = path.parent().and_then(|folder| self.stagings.get(folder));
        staging.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Whether the file is there already. In memory a mapping is written without a new time.
    fn is_here(&self, entry: &Entry, file: &image::File) -> Result<bool, PutBackError> {
        let Ok(present) = entry.present() else { return Ok(false) };
        let is_same = || match file.kind() {
            Kind::Symlink => Ok(is_link(entry, file)),
            Kind::HardLink => Ok(inode(&present)? == inode(&self.place(file.target())?)?),
            Kind::Regular => {
                let meta = present.metadata()?;
                let in_memory = fstatfs(&present)?.filesystem_type() == TMPFS_MAGIC;
                let is_equal = (meta.len(), times::modified(&meta)) == (file.size, file.mtime_ns);
                Ok::<_, io::Error>(!in_memory && meta.is_file() && is_equal)
            }
            _ => Ok(false),
        };
        Ok(is_same().unwrap_or(false))
    }

    /// Where CRIU finds the files that its images name, until they have taken their places.
    pub fn elsewhere(&self, manifest: &Manifest, fetcher: &mut Fetcher) -> Result<Elsewhere, ImageError> {
        if self.prepared.is_empty() && self.in_place.paths().next().is_none() {
            return Ok(Elsewhere::default());
        }
        let mut images = BTreeMap::new();
        for name in named::IMAGES {
            if let Some(body) = manifest.image(name) {
                images.insert(name, fetcher.read_to_vec(body, name, named::LIMIT as u64)?);
            }
        }
        let named = named::named(&images).unwrap_or_default();
        Ok(self.elsewhere_of(|path| named.files.contains(path)))
    }

    pub(in crate::files) fn elsewhere_of(&self, opened: impl Fn(&Path) -> bool) -> Elsewhere {
        let prepared = self.prepared.iter().filter(|(at, _)| opened(at));
        let moved = prepared.filter_map(|(at, prepared)| {
            Some(Moved { from: at.to_path_buf(), to: self.staging(at).ok()?.path(&prepared.name) })
        });
        let resized = self.in_place.paths().filter(|at| opened(at)).map(Path::to_owned);
        Elsewhere { moved: moved.collect(), resized: resized.collect() }
    }

    /// Checks that everything is there still. CRIU removes the names that it has made for files without one.
    pub fn check(&self) -> Result<(), PutBackError> {
        let is_there = |at: &Path, prepared: &Prepared| {
            let found = self.staging(at).and_then(|staging| inode(&staging.place(&prepared.name)?));
            match found {
                Ok(inode) => inode == prepared.inode,
                Err(error) => error.kind() == io::ErrorKind::NotFound && named::is_for_one_dump(at),
            }
        };
        match self.prepared.iter().find(|(at, prepared)| !is_there(at, prepared)) {
            Some((at, _)) => Err(PutBackError::Disturbed { path: at.to_path_buf() }),
            None => Ok(()),
        }
    }

    /// Lets everything take its place. The service is this container's, and does not run yet.
    pub fn take_places(mut self) -> Result<Vec<Lost>, PutBackError> {
        self.check()?;
        for (at, prepared) in std::mem::take(&mut self.prepared) {
            let unwritable = |error: io::Error| unresolved(at, error.into());
            let entry = entry_at(at, &self.folders)?;
            match self.staging(at).map_err(unwritable)?.left(&entry, prepared.name).take_place() {
                Err(error) if error.kind() == io::ErrorKind::NotFound && named::is_for_one_dump(at) => {}
                taken => taken.map_err(unwritable)?,
            }
        }
        // Before the folders get their times.
        self.stagings.clear();
        let mut lost = Vec::new();
        self.in_place.write(&self.folders, &mut lost)?;
        finish_folders(&self.files, &self.folders, &mut lost)?;
        Ok(lost)
    }
}

fn prepared(temporary: Temporary) -> io::Result<Prepared> {
    let inode = inode(&resolve::place_in(temporary.folder(), temporary.name())?)?;
    Ok(Prepared { name: temporary.leave(), inode })
}

/// Why no other file may get the name: what is there is a mount point, a folder with content or, for a file with
/// content, somebody else's.
fn obstacle(entry: &Entry, is_regular: bool) -> Option<Errno> {
    let present = entry.present().ok()?;
    let mount = |place: &File| FdInfo::read("self", place.as_raw_fd()).ok().and_then(|info| info.mount);
    if mount(&present) != mount(&entry.folder) {
        return Some(Errno::EBUSY);
    }
    let meta = present.metadata().ok()?;
    if meta.is_dir() {
        let is_empty = fs::read_dir(resolve::by_descriptor(&present)).ok()?.next().is_none();
        return (!is_empty).then_some(Errno::EISDIR);
    }
    (is_regular && !may_give(&meta)).then_some(Errno::EPERM)
}
