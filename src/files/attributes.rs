//! Extended attributes and access control lists of files. An attribute that may not be set here is lost, and
//! named: the file itself is worth more.

use std::ffi::{CStr, CString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::libc::S_IRWXU;

use super::half_done;
use super::resolve;
use crate::image::{self, Attribute};
use crate::sys::xattr;

/// Attributes that belong to a file and not to the file system or the host's security module.
fn travels(name: &CStr) -> bool {
    let lists = [c"security.capability", c"system.posix_acl_access", c"system.posix_acl_default"];
    (name.to_bytes().starts_with(b"user.") && name != half_done::NAME) || lists.contains(&name)
}

/// The attributes of the file of `place`. Leaves out those that its mode lets nobody read, not even its owner.
pub fn read(place: &File) -> io::Result<Vec<Attribute>> {
    let path = resolve::by_descriptor(place);
    let names = match xattr::names(&path) {
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => return Ok(Vec::new()),
        names => names?,
    };
    let attribute = |name: CString| match xattr::get(&path, &name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        value => Some(value.map(|value| Attribute { value, name: name.into_bytes() })),
    };
    names.into_iter().filter(|name| travels(name)).filter_map(attribute).collect()
}

/// Whether only who may write to the file may set the attribute.
fn is_users(name: &[u8]) -> bool {
    name.starts_with(b"user.")
}

/// Sets the captured attributes that need a mode with which the file can be written to. Returns what of them is lost,
/// and why.
pub fn write_users(place: &File, file: &image::File) -> Option<(String, io::Error)> {
    if !file.attributes.iter().any(|attribute| is_users(&attribute.name)) {
        return None;
    }
    if let Ok(meta) = place.metadata() {
        // If it fails, so do the attributes, which tell why.
        let _ = fs::set_permissions(resolve::by_descriptor(place), Permissions::from_mode(meta.mode() | S_IRWXU));
    }
    write(place, file, is_users)
}

/// Sets the others. Changing the owner clears capabilities, and changing the mode the mask of a list: do that before.
pub fn write_others(place: &File, file: &image::File) -> Option<(String, io::Error)> {
    write(place, file, |name| !is_users(name))
}

fn write(place: &File, file: &image::File, which: impl Fn(&[u8]) -> bool) -> Option<(String, io::Error)> {
    let path = resolve::by_descriptor(place);
    let set = |attribute: &Attribute| {
        let name = CString::new(attribute.name.as_slice()).map_err(io::Error::from);
        let set =
            name.and_then(|name| if travels(&name) { xattr::set(&path, &name, &attribute.value) } else { Ok(()) });
        set.err().map(|error| (String::from_utf8_lossy(&attribute.name).into_owned(), error))
    };
    file.attributes.iter().filter(|attribute| which(&attribute.name)).map(set).fold(None, Option::or)
}
