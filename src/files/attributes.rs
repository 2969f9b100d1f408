//! Extended attributes and access control lists of files. An attribute that may not be set here is lost, and
//! named: the file itself is worth more.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;

use nix::errno::Errno;

use super::resolve;
use crate::image::{self, Attribute};
use crate::sys::xattr;

/// Attributes that belong to a file and not to the file system or the host's security module.
fn travels(name: &CStr) -> bool {
    let lists = [c"security.capability", c"system.posix_acl_access", c"system.posix_acl_default"];
    name.to_bytes().starts_with(b"user.") || lists.contains(&name)
}

/// The attributes of the file of `place`.
pub fn read(place: &File) -> io::Result<Vec<Attribute>> {
    let path = resolve::by_descriptor(place);
    let names = match xattr::names(&path) {
        Err(error) if error.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => return Ok(Vec::new()),
        names => names?,
    };
    let attribute = |name: CString| Ok(Attribute { value: xattr::get(&path, &name)?, name: name.into_bytes() });
    names.into_iter().filter(|name| travels(name)).map(attribute).collect()
}

/// Sets the captured attributes. Returns what of them is lost, and why. Changing the owner clears capabilities, and
/// changing the mode the mask of a list: set them before.
pub fn write(place: &File, file: &image::File) -> Option<(String, io::Error)> {
    let path = resolve::by_descriptor(place);
    let set = |attribute: &Attribute| {
        let name = CString::new(attribute.name.as_slice()).map_err(io::Error::from);
        let set =
            name.and_then(|name| if travels(&name) { xattr::set(&path, &name, &attribute.value) } else { Ok(()) });
        set.err().map(|error| (String::from_utf8_lossy(&attribute.name).into_owned(), error))
    };
    file.attributes.iter().map(set).fold(None, Option::or)
}
