//! Files on mounts that outlive a container or that others see: volumes, what a pod shares. Each is prepared
//! beside its place, under a temporary name, and takes its place only when the service is this container's own.
//! So a target that loses a handover leaves the files of the running service as they are.
//!
//! Before that, nothing is made under a name of the service but missing folders and links.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::AsRawFd;

use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::*;
use crate::criu::command::{Elsewhere, Moved};
use crate::criu::named;
use crate::files::mounts::{self, Mounts};
use crate::image::Manifest;
use crate::proc::fdinfo::FdInfo;

/// The files that are not on the root. Dropping it removes what was prepared.
#[derive(Debug, Default)]
pub struct Staged<'a> {
    files: Vec<&'a image::File>,
    /// Temporary names of what takes the place of these paths.
    prepared: BTreeMap<&'a Path, OsString>,
    /// What can only be written in place, or is a link.
    in_place: Vec<&'a image::File>,
    folders: Folders,
}

/// Files of the container alone, which are put back at once, and the others.
pub fn split<'a>(files: &'a [image::File], mounts: &Mounts) -> (Vec<&'a image::File>, Vec<&'a image::File>) {
    files.iter().partition(|file| mounts.kind(file.path()) == mounts::Kind::Root)
}

/// Prepares `files`, in their order. Returns what is lost, too.
pub fn stage<'a>(files: Vec<&'a image::File>, fetcher: &mut Fetcher) -> Result<(Staged<'a>, Vec<Lost>), PutBackError> {
    let mut staged = Staged::default();
    let mut put = Put { fetcher, lost: Vec::new() };
    for file in &files {
        staged.add(file, &mut put)?;
    }
    staged.files = files;
    Ok((staged, put.lost))
}

impl<'a> Staged<'a> {
    fn add(&mut self, file: &'a image::File, put: &mut Put) -> Result<(), PutBackError> {
        let at = file.path();
        let entry = entry_at(at, &self.folders)?;
        let prepared = match file.kind() {
            Kind::Directory => {
                let place = make_folder(&entry, at, file.mode).map_err(|error| unresolved(at, error))?;
                return self.folders.note(at, &place).map_err(|error| unresolved(at, error.into()));
            }
            // A path of a socket may lead over it, and it takes nothing's place.
            Kind::Symlink if entry.present().is_err() => {
                return make_link(&entry, file).map_err(|error| unresolved(at, error.into()));
            }
            Kind::Symlink => None,
            _ if is_here(&entry, file) => return Ok(()),
            _ if !is_replaceable(&entry) => None,
            Kind::Fifo => Some(prepare_fifo(&entry, file, put).map_err(ImageError::Sink)),
            Kind::HardLink => self.prepare_name(&entry, file.target())?,
            Kind::Regular | Kind::Unknown => Some(prepare_file(&entry, file, put)),
        };
        match prepared {
            Some(Ok(name)) => drop(self.prepared.insert(at, name)),
            Some(Err(ImageError::Sink(error))) if !hinders(&error) => return Err(unresolved(at, error.into())),
            Some(Err(ImageError::Sink(_))) | None => self.in_place.push(file),
            Some(Err(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// Another name of a file that was prepared, or that is here. None if that is written in place.
    fn prepare_name(&self, entry: &Entry, first: &Path) -> Result<Option<Result<OsString, ImageError>>, PutBackError> {
        if self.in_place.iter().any(|file| file.path() == first) {
            return Ok(None);
        }
        let there = entry_at(first, &self.folders)?;
        let name = self.prepared.get(first).map_or(there.name.as_os_str(), OsString::as_os_str);
        let temporary = entry.temporary();
        let linked = resolve::place_in(&there.folder, name).and_then(|place| {
            let place = resolve::by_descriptor(&place);
            Ok(linkat(AT_FDCWD, &place, &entry.folder, temporary.name(), AtFlags::AT_SYMLINK_FOLLOW)?)
        });
        Ok(Some(linked.map(|()| temporary.leave()).map_err(ImageError::Sink)))
    }

    /// Where CRIU finds the files that its images name, until they have taken their places.
    pub fn elsewhere(&self, manifest: &Manifest, fetcher: &mut Fetcher) -> Result<Elsewhere, ImageError> {
        if self.prepared.is_empty() && self.in_place.is_empty() {
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
        let moved = prepared.map(|(at, name)| Moved { from: at.to_path_buf(), to: at.with_file_name(name) });
        let regular = self.in_place.iter().filter(|file| file.kind() != Kind::Symlink).map(|file| file.path());
        Elsewhere { moved: moved.collect(), resized: regular.filter(|at| opened(at)).map(Path::to_owned).collect() }
    }

    /// Lets everything take its place. The service is this container's, and does not run yet.
    pub fn take_places(mut self, fetcher: &mut Fetcher) -> Result<Vec<Lost>, PutBackError> {
        while let Some((at, name)) = self.prepared.pop_first() {
            match entry_at(at, &self.folders)?.left(name).take_place() {
                // CRIU removes the names that it has made for files without one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                taken => taken.map_err(|error| unresolved(at, error.into()))?,
            }
        }
        let mut put = Put { fetcher, lost: Vec::new() };
        for file in std::mem::take(&mut self.in_place) {
            put_one(file.path(), file, &mut self.folders, &mut put)?;
        }
        for file in &self.files {
            let entry = entry_at(file.path(), &self.folders)?;
            if file.path().parent().is_some_and(|folder| self.folders.visit(folder)) {
                let _ = entry.remove_leftovers();
            }
        }
        finish_folders(&self.files, &self.folders, &mut put)?;
        Ok(put.lost)
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        for (at, name) in std::mem::take(&mut self.prepared) {
            if let Ok(entry) = Entry::at(at) {
                drop(entry.left(name));
            }
        }
    }
}

/// A file with its captured size and time. In memory a mapping is written without a new time.
fn is_here(entry: &Entry, file: &image::File) -> bool {
    let is_same = |place: &File| {
        let meta = place.metadata()?;
        let in_memory = fstatfs(place)?.filesystem_type() == TMPFS_MAGIC;
        let is_equal = (meta.len(), times::modified(&meta)) == (file.size, file.mtime_ns);
        Ok::<_, io::Error>(!in_memory && meta.is_file() && is_equal)
    };
    file.kind() == Kind::Regular && entry.present().and_then(|place| is_same(&place)).unwrap_or(false)
}

/// Whether another file may get the name: what is there is no mount point, and not somebody else's.
fn is_replaceable(entry: &Entry) -> bool {
    let Ok(present) = entry.present() else { return true };
    let mount = |place: &File| FdInfo::read("self", place.as_raw_fd()).ok().and_then(|info| info.mount);
    mount(&present) == mount(&entry.folder) && present.metadata().is_ok_and(|meta| may_give(&meta))
}

fn prepare_file(entry: &Entry, file: &image::File, put: &mut Put) -> Result<OsString, ImageError> {
    let temporary = entry.temporary();
    let mut out = temporary.create().map_err(ImageError::Sink)?;
    fill(&mut out, file, put.fetcher)?;
    finish(&out, file, put).map_err(ImageError::Sink)?;
    Ok(temporary.leave())
}

fn prepare_fifo(entry: &Entry, file: &image::File, put: &mut Put) -> io::Result<OsString> {
    let temporary = entry.temporary();
    new_fifo(&temporary, entry, file, put)?;
    Ok(temporary.leave())
}
