//! /proc/PID/mountinfo (proc_pid_mountinfo(5)): the mounts of a process's mount namespace.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{lines, number, unescape};

/// The bytes that the kernel escapes in names (show_mountinfo, fs/proc_namespace.c).
const ESCAPED: &[u8] = b" \t\n\\";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `mnt_id:` in fdinfo.
    pub id: i32,
    /// Device number that stat(2) returns for its files, except on an overlay.
    pub device: u64,
    /// The mounted folder of the file system.
    pub root: PathBuf,
    /// The mount point, from the process's root.
    pub point: PathBuf,
    /// Whether the mount is writable; the file system may still be read-only.
    pub writable: bool,
    pub fstype: String,
    /// Options of the file system, separated by commas.
    pub options: String,
}

/// The mounts that a process sees; `pid` is a number or `self`. Outer mounts come first. If two are on one
/// point, the hidden one comes first.
///
/// # Errors
/// If there is no such process, or no /proc.
pub fn read(pid: impl Display) -> io::Result<Vec<Mount>> {
    Ok(parse(&fs::read(super::path(pid, "mountinfo"))?))
}

/// Skips malformed lines.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    lines(text).filter_map(mount).collect()
}

/// Parses `36 35 98:0 /root /point options [optional…] - fstype source super-options`.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (id, device) = (number(fields.next()?)?, device(fields.nth(1)?)?);
    let (root, point, options) = (path(fields.next()?), path(fields.next()?), fields.next()?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    Some(Mount {
        id,
        device,
        root,
        point,
        writable: options.split(|&byte| byte == b',').any(|option| option == b"rw"),
        fstype: text(fields.next()?),
        options: text(fields.nth(1).unwrap_or_default()),
    })
}

/// Which of `mounts` holds `path`: the deepest, and of several on one point the last, which hides the others.
pub fn holding<'a, M>(mounts: &'a [M], point: impl Fn(&M) -> &Path, path: &Path) -> Option<&'a M> {
    let at = mounts.iter().filter(|mount| path.starts_with(point(mount)));
    at.max_by_key(|mount| point(mount).components().count())
}

fn device(field: &[u8]) -> Option<u64> {
    let (major, minor) = str::from_utf8(field).ok()?.split_once(':')?;
    Some(nix::libc::makedev(major.parse().ok()?, minor.parse().ok()?))
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field, ESCAPED)).into()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use nix::libc::makedev;
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    const SAMPLE: &[u8] = b"\
500 400 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l
504 500 254:1 /volumes/v /data ro,nosuid shared:1 master:2 - ext4 /dev/vda rw
506 500 0:55 / /with\\040space\\134 rw - tmpfs  rw
";

    #[test]
    fn a_line_has_optional_fields_or_none() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.iter().map(|mount| mount.id).collect::<Vec<_>>(), [500, 504, 506]);
        let volume = Mount {
            id: 504,
            device: makedev(254, 1),
            root: "/volumes/v".into(),
            point: "/data".into(),
            writable: false,
            fstype: "ext4".into(),
            options: "rw".into(),
        };
        assert_eq!(mounts[1], volume);
        assert!(mounts[0].writable && mounts[0].options == "rw,lowerdir=/l");
        assert_eq!((mounts[2].point.as_path(), &*mounts[2].options), (Path::new("/with space\\"), "rw"));
    }

    #[test]
    fn a_line_that_is_none_is_left_out() {
        let mounts =
            parse(b"\n1\n1 0 0:1 / /\n1 0 01 / / rw - a a rw\nx 0 0:1 / / rw - a a rw\n1 0 0:1 / / rw a a rw\n");
        assert_eq!(mounts, []);
    }

    #[test]
    fn this_process_has_a_root() {
        let us = read("self").unwrap();
        assert!(us.iter().any(|mount| mount.point == Path::new("/")));
        assert_eq!(us, read(std::process::id()).unwrap());
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_parse(any: Vec<u8>, edits in fuzz::edits()) {
            let _ = parse(&any);
            let _ = parse(&fuzz::damaged(SAMPLE, &edits));
        }

        #[test]
        fn fuzz_a_mount_comes_back(
            (id, major, minor, writable) in any::<(i32, u16, u16, bool)>(),
            (root, point) in any::<(Vec<u8>, Vec<u8>)>(),
            optional in prop::collection::vec("[a-z]{1,9}:[0-9]{1,3}", 0..4),
            (fstype, options) in ("[a-z.]{1,9}", "[a-z=,]{0,9}"),
        ) {
            let expected = Mount {
                id,
                device: makedev(major.into(), minor.into()),
                root: OsString::from_vec(root).into(),
                point: OsString::from_vec(point).into(),
                writable,
                fstype,
                options,
            };
            let escaped = |path: &Path| super::super::escaped(path.as_os_str().as_bytes(), ESCAPED);
            let optional: String = optional.iter().map(|field| format!("{field} ")).collect();
            let flags = if writable { "nosuid,rw" } else { "ro,relatime" };
            let rest = format!(" {flags} {optional}- {} none {}\n", expected.fstype, expected.options);
            let head = format!("{id} 1 {major}:{minor} ");
            let line = [head.as_bytes(), &escaped(&expected.root), b" ", &escaped(&expected.point), rest.as_bytes()];
            prop_assert_eq!(parse(&line.concat()), [expected]);
        }
    }
}
