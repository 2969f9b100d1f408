//! Folders that files are put back into. Another container may exchange one on a volume between two uses, so
//! each captured one is compared with what was found or made first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::resolve;
use crate::proc::fdinfo::Inode;

#[derive(Debug, Default)]
pub struct Folders {
    noted: BTreeMap<PathBuf, Inode>,
    visited: BTreeSet<PathBuf>,
}

impl Folders {
    /// Remembers the folder at `path`. On the root nobody else can exchange one, and an overlay may number
    /// one anew.
    pub fn note(&mut self, path: &Path, place: &File) -> io::Result<()> {
        if !resolve::is_on_root(place)? {
            self.noted.insert(path.to_owned(), inode(place)?);
        }
        Ok(())
    }

    /// Whether this is the first call for the folder at `path`.
    pub fn visit(&mut self, path: &Path) -> bool {
        !self.visited.contains(path) && self.visited.insert(path.to_owned())
    }

    /// Whether `place` is the folder that was noted at `path`, if one was.
    pub fn is_same(&self, path: &Path, place: &File) -> io::Result<bool> {
        match self.noted.get(path) {
            Some(noted) => Ok(inode(place)? == *noted),
            None => Ok(true),
        }
    }
}

pub fn inode(place: &File) -> io::Result<Inode> {
    place.metadata().map(|meta| (meta.dev(), meta.ino()))
}
