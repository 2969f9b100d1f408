//! Marks a file while a restore writes into it. A restore that is killed meanwhile leaves it half done and newer than the
//! captured one; the mark tells the next restore of the same generation that nobody else has written it.
//!
//! A file system without user attributes (xattr(7)) has no mark: there the file counts as changed.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;

use super::resolve;
use crate::image::Manifest;
use crate::sys::xattr;

/// The attribute. It never travels.
pub const NAME: &CStr = c"user.freeze.half-done";

/// A generation, as the mark has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark(Vec<u8>);

impl Mark {
    pub fn of(manifest: &Manifest) -> Self {
        Self(format!("{} {} {}", manifest.generation, manifest.created_ms, manifest.instance).into_bytes())
    }

    pub fn set(&self, file: &File) -> io::Result<()> {
        xattr::set(&resolve::by_descriptor(file), NAME, &self.0)
    }

    pub fn remove(file: &File) -> io::Result<()> {
        xattr::remove(&resolve::by_descriptor(file), NAME)
    }

    pub fn is_on(&self, path: &Path) -> bool {
        xattr::get(path, NAME).is_ok_and(|found| found == self.0)
    }
}
