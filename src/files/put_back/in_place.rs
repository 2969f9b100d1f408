//! Files whose content takes the place of the present one byte by byte, because another file cannot: they are mount
//! points, belong to another user, have a folder that is not writable, or no room beside them.
//!
//! All content is here, in one file without a name, before the first is written, so that nothing is read from the store
//! when the service is this container's own.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::room::Room;
use super::{Lost, PutBackError, entry_at, fill, finish, open_present, set_time, unresolved};
use crate::files::entry::{Entry, may_give};
use crate::files::folders::Folders;
use crate::files::half_done::Mark;
use crate::image::{self, Body, Fetcher, ImageError};

/// Each content begins at a whole page, so that its holes stay ones.
const PAGE: u64 = 4096;

#[derive(Debug)]
pub struct InPlace<'a> {
    /// The folder for the file, and the file once it is needed.
    folder: PathBuf,
    spare: Option<File>,
    end: u64,
    mark: Mark,
    /// With the position of their content.
    files: Vec<(&'a image::File, u64)>,
}

impl<'a> InPlace<'a> {
    pub fn new(folder: &Path, mark: Mark) -> Self {
        Self { folder: folder.to_owned(), spare: None, end: 0, mark, files: Vec::new() }
    }

    /// Paths of all files.
    pub fn paths(&self) -> impl Iterator<Item = &'a Path> {
        self.files.iter().map(|(file, _)| file.path())
    }

    /// Fetches the content of `file`, which is at `entry` and can be written to.
    pub fn keep(
        &mut self,
        entry: &Entry,
        file: &'a image::File,
        room: &mut Room,
        fetcher: &mut Fetcher,
    ) -> Result<(), PutBackError> {
        let at = file.path();
        let unwritable = |error: io::Error| unresolved(at, error.into());
        let present = check_writable(entry).map_err(unwritable)?;
        let more = file.size.saturating_sub(present.blocks() * 512);
        let kept = file.body.as_ref().map_or(0, Body::data);
        let no_room = |bytes| PutBackError::NoRoom { path: at.to_owned(), bytes, spare: self.folder.clone() };
        if !entry.present().and_then(|place| room.take(&place, more)).map_err(unwritable)? {
            return Err(no_room(more));
        }
        let broken = |error| PutBackError::Unwritable { path: self.folder.clone(), error };
        let spare = match &mut self.spare {
            Some(spare) => spare,
            None => self.spare.insert(tempfile::tempfile_in(&self.folder).map_err(broken)?),
        };
        if !room.take(spare, kept).map_err(broken)? {
            return Err(no_room(kept));
        }
        spare.seek(SeekFrom::Start(self.end)).map_err(broken)?;
        match fill(spare, file, fetcher) {
            Err(ImageError::Sink(_)) => return Err(no_room(kept)),
            filled => filled?,
        }
        self.files.push((file, self.end));
        self.end = (self.end + file.size).next_multiple_of(PAGE);
        spare.set_len(self.end).map_err(broken)
    }

    /// Writes all. The mark of a file goes only when its time is the captured one, or at the end.
    pub fn write(self, folders: &Folders, lost: &mut Vec<Lost>) -> Result<(), PutBackError> {
        let Some(mut spare) = self.spare else { return Ok(()) };
        let mut marked = Vec::new();
        for (file, position) in self.files {
            let unwritable = |error: io::Error| unresolved(file.path(), error.into());
            let entry = entry_at(file.path(), folders)?;
            let mut out = open_present(&entry).map_err(unwritable)?;
            let _ = self.mark.set(&out);
            copy(&mut spare, position, &mut out, file).map_err(unwritable)?;
            if out.metadata().is_ok_and(|meta| may_give(&meta)) {
                set_time(&out, file).map_err(unwritable)?;
                let _ = Mark::remove(&out);
                finish(&out, file, lost).map_err(unwritable)?;
            } else {
                marked.push(out);
            }
        }
        marked.iter().for_each(|out| drop(Mark::remove(out)));
        Ok(())
    }
}

/// Never makes the file shorter than it will be: a process may have it mapped, and would lose what it has changed of its
/// own copy.
fn copy(spare: &mut File, position: u64, out: &mut File, file: &image::File) -> io::Result<()> {
    spare.seek(SeekFrom::Start(position))?;
    io::copy(&mut spare.take(file.size), out)?;
    out.set_len(file.size)
}

/// Opens the file for writing, and leaves everything as it was. Returns what it is.
fn check_writable(entry: &Entry) -> io::Result<std::fs::Metadata> {
    let before = entry.present()?.metadata()?;
    let open = open_present(entry)?;
    if open.metadata()?.mode() != before.mode() {
        open.set_permissions(before.permissions())?;
    }
    Ok(before)
}
