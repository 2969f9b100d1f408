//! Extended attributes (xattr(7)) of the file that a path leads to.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Linux's limits on the list of names, and on a value (limits.h).
const LIMIT: usize = 64 << 10;

/// The names of all attributes that this process may see.
pub fn names(path: &Path) -> io::Result<Vec<CString>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a string that ends in NUL, and a buffer of this length.
    let list = fill(|at, length| unsafe { libc::listxattr(path.as_ptr(), at.cast(), length) })?;
    Ok(list
        .split_inclusive(|byte| *byte == 0)
        .filter_map(|name| Some(CStr::from_bytes_with_nul(name).ok()?.to_owned()))
        .collect())
}

pub fn get(path: &Path, name: &CStr) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: two strings that end in NUL, and a buffer of this length.
    fill(|at, length| unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), at.cast(), length) })
}

pub fn set(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: two strings that end in NUL, and a buffer of this length.
    match unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn remove(path: &Path, name: &CStr) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: two strings that end in NUL.
    match unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks for the length first: most files have no attribute.
fn fill(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    let checked = |length: isize| usize::try_from(length).map_err(|_| io::Error::last_os_error());
    if checked(call(std::ptr::null_mut(), 0))? == 0 {
        return Ok(Vec::new());
    }
    let mut buffer = vec![0; LIMIT];
    let length = checked(call(buffer.as_mut_ptr(), LIMIT))?;
    buffer.truncate(length);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_listed_and_read() {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        assert!(names(file.path()).unwrap().is_empty());
        for (name, value) in [(c"user.one", b"1".as_slice()), (c"user.none", b"")] {
            set(file.path(), name, value).unwrap();
            assert_eq!(get(file.path(), name).unwrap(), value);
        }
        let mut found = names(file.path()).unwrap();
        found.sort();
        assert_eq!(found, [c"user.none".to_owned(), c"user.one".to_owned()]);
        remove(file.path(), c"user.none").unwrap();
        assert_eq!(names(file.path()).unwrap(), [c"user.one".to_owned()]);
        assert!(get(file.path(), c"user.other").is_err() && names(Path::new("/none")).is_err());
    }
}
