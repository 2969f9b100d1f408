//! /proc/PID/maps (proc_pid_maps(5)): a process's memory mappings.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{hexadecimal, lines, number, unescape};

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub(crate) start: u64,
    /// The first address behind it.
    pub(crate) end: u64,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    /// Whether writes reach the file and other processes.
    pub(crate) shared: bool,
    /// Where it begins in the file, in bytes.
    pub(crate) offset: u64,
    /// Number of the file's device; 0 without a file. On an overlay, stat(2) has another.
    pub(crate) device: u64,
    /// Of the file; 0 without a file.
    pub(crate) inode: u64,
    /// A file's path, with ` (deleted)` appended after its removal; or the kernel's name, such as `[heap]`;
    /// or empty.
    pub(crate) name: OsString,
}

impl Mapping {
    /// The file's path; None if the name is not a path.
    pub fn path(&self) -> Option<&Path> {
        Some(Path::new(&self.name)).filter(|path| path.is_absolute())
    }

    /// The file's former path if that was removed.
    pub fn former_path(&self) -> Option<&Path> {
        let name = self.path()?.as_os_str().as_bytes().strip_suffix(b" (deleted)")?;
        Some(Path::new(OsStr::from_bytes(name)))
    }
}

/// The mappings of a process in the order of their addresses; `pid` is a number or `self`.
///
/// # Errors
/// If there is no such process, or it may not be inspected.
pub fn read(pid: impl Display) -> io::Result<Vec<Mapping>> {
    Ok(parse(&fs::read(super::path(pid, "maps"))?))
}

/// Skips malformed lines.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    lines(text).filter_map(mapping).collect()
}

/// Parses `7f00-7f01 rw-s 00000000 00:01 1024      /memfd:x (deleted)`. The kernel escapes only newlines in a
/// name, so a name that contains the four characters `\012` is read as one with a newline.
fn mapping(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let range = fields.next()?;
    let &[_, write, execute, share] = fields.next()? else { return None };
    let offset = fields.next()?;
    let (device, inode, name) = (fields.next()?, fields.next()?, fields.next().unwrap_or_default());
    let mut range = range.split(|&byte| byte == b'-');
    let (start, end) = (range.next()?, range.next()?);
    Some(Mapping {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        offset: hexadecimal(offset)?,
        writable: write == b'w',
        executable: execute == b'x',
        shared: share == b's',
        device: device_number(device)?,
        inode: number(inode)?,
        name: OsString::from_vec(unescape(&name[blanks(name)..], b"\n")),
    })
}

fn device_number(text: &[u8]) -> Option<u64> {
    let colon = text.iter().position(|&byte| byte == b':')?;
    let part = |digits| hexadecimal(digits)?.try_into().ok();
    Some(nix::libc::makedev(part(&text[..colon])?, part(&text[colon + 1..])?))
}

/// Number of blanks before a name. The name may also end in blanks.
fn blanks(name: &[u8]) -> usize {
    name.iter().take_while(|&&byte| byte == b' ').count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz;

    const SAMPLE: &[u8] = b"\
55d0-55d1 r-xp 00000000 00:32 1024                       /usr/bin/a b\\012(c)
55d1-55d2 rw-p 00000000 00:00 0 
7f00-7f01 rw-s 00000000 00:01 9                          /memfd:x (deleted)
7ffd-7ffe r-xp 00000000 00:00 0                          [vdso]
7fff-8000 ---p 00000000 00:00 0                          [anon:/a]
";

    #[test]
    fn a_line_has_a_name_or_none() {
        let maps = parse(SAMPLE);
        let flags: Vec<_> = maps.iter().map(|one| (one.start, one.writable, one.executable, one.shared)).collect();
        assert_eq!(
            flags[..3],
            [(0x55d0, false, true, false), (0x55d1, true, false, false), (0x7f00, true, false, true)]
        );
        let names: Vec<_> = maps.iter().map(|one| one.name.to_str().unwrap()).collect();
        assert_eq!(names, ["/usr/bin/a b\n(c)", "", "/memfd:x (deleted)", "[vdso]", "[anon:/a]"]);
        let files: Vec<_> = maps.iter().map(|one| (one.device, one.inode)).collect();
        let device = |number| nix::libc::makedev(0, number);
        assert_eq!(files, [(device(0x32), 1024), (0, 0), (device(1), 9), (0, 0), (0, 0)]);
        let paths: Vec<_> = maps.iter().map(|one| one.path().is_some()).collect();
        assert_eq!(paths, [true, false, true, false, false]);
        let former: Vec<_> = maps.iter().map(Mapping::former_path).collect();
        assert_eq!(former, [None, None, Some(Path::new("/memfd:x")), None, None]);
    }

    #[test]
    fn a_line_that_is_none_is_left_out() {
        assert_eq!(parse(b"\n7f00-7f01\n7f00-7f01 rw 0 0:0 0\n7f00-7f01 rw-p 0 0:0\nx-7f01 rw-p 0 0:0 0\n"), []);
    }

    #[test]
    fn this_process_has_its_program_mapped() {
        let program = std::env::current_exe().unwrap();
        assert!(read("self").unwrap().iter().any(|one| one.executable && one.path() == Some(&program)));
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_parse(any: Vec<u8>, edits in fuzz::edits()) {
            let _ = parse(&any);
            let _ = parse(&fuzz::damaged(SAMPLE, &edits));
        }

        #[test]
        fn fuzz_a_mapping_comes_back(
            (start, length, offset, inode) in (any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>()),
            (writable, executable, shared) in any::<(bool, bool, bool)>(),
            name: Vec<u8>,
            gap in 1usize..30,
        ) {
            let mut name = [b"/", &*name].concat();
            name.retain(|&byte| byte != b'\\');
            let end = start.saturating_add(length.into());
            let name = OsString::from_vec(name);
            let device = nix::libc::makedev(0xfe, 0);
            let expected = Mapping { start, end, writable, executable, shared, offset, device, inode, name };
            let flag = |is: bool, letter: char| if is { letter } else { '-' };
            let (w, x, s) = (flag(writable, 'w'), flag(executable, 'x'), if shared { 's' } else { 'p' });
            let head = format!("{start:x}-{end:x} r{w}{x}{s} {offset:08x} fe:00 {inode}{}", " ".repeat(gap));
            let line = [head.as_bytes(), &super::super::escaped(expected.name.as_bytes(), b"\n"), b"\n"].concat();
            prop_assert_eq!(parse(&line), [expected]);
        }
    }
}
