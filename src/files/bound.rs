//! Paths that unix sockets are bound to, from /proc/net/unix.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Paths of bound unix sockets by the link of their descriptors, `socket:[INODE]`. Any process of the network
/// namespace can forge rows by a name with a newline, so one socket may have several paths.
pub fn sockets() -> BTreeMap<Vec<u8>, Vec<PathBuf>> {
    let mut sockets = BTreeMap::<_, Vec<PathBuf>>::new();
    for (inode, name) in parse(&fs::read("/proc/self/net/unix").unwrap_or_default()) {
        let path = PathBuf::from(OsStr::from_bytes(&name));
        if path.is_absolute() {
            sockets.entry([b"socket:[".as_slice(), &inode, b"]"].concat()).or_default().push(path);
        }
    }
    sockets
}

/// Inode and name of each row. The name is the rest of the row, and the kernel escapes nothing: a line that
/// is no row continues the name before it.
fn parse(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for line in text.strip_suffix(b"\n").unwrap_or(text).split(|&byte| byte == b'\n').skip(1) {
        match (parse_row(line), rows.last_mut()) {
            (Some((inode, name)), _) => rows.push((inode.to_vec(), name.to_vec())),
            (None, Some((_, name))) => name.extend([b"\n", line].concat()),
            (None, None) => {}
        }
    }
    rows
}

/// `Num: RefCount Protocol Flags Type St Inode Path`; all numbers but the inode are hexadecimal
/// (proc_pid_net(5)).
fn parse_row(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let number = |field: &[u8]| !field.is_empty() && field.iter().all(u8::is_ascii_hexdigit);
    let (num, mut rest) = line.split_at(line.iter().position(|&byte| byte == b':')?);
    rest = rest.strip_prefix(b":").filter(|_| number(num))?;
    for digits in [8, 8, 8, 4, 2] {
        let (field, after) = rest.strip_prefix(b" ")?.split_at_checked(digits)?;
        rest = Some(after).filter(|_| number(field))?;
    }
    // The kernel pads the inode with blanks.
    rest = rest.strip_prefix(b" ")?.trim_ascii_start();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (inode, name) = rest.split_at(digits);
    Some((inode, name.strip_prefix(b" ").unwrap_or(name))).filter(|_| digits > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_sockets_and_names_that_go_on() {
        let text = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
0000000000000000: 00000002 00000000 00010000 0001 01     7 /short\n\
0000000000000000: 00000002 00000000 00010000 0001 01 123456 /a b\nc: d\n\n\
0000000000000000: 00000003 00000000 00000000 0001 03 8\n\
0000000000000000: 00000002 00000000 00010000 0005 01 9 @abstract\n";
        let found = parse(text);
        let rows: Vec<(&[u8], &[u8])> = found.iter().map(|(inode, name)| (inode.as_slice(), name.as_slice())).collect();
        assert_eq!(
            rows,
            [(b"7".as_slice(), b"/short".as_slice()), (b"123456", b"/a b\nc: d\n"), (b"8", b""), (b"9", b"@abstract")]
        );
        assert_eq!(parse_row(b"0000: 00000002 00000000 00010000 0001 01 "), None);
        assert_eq!(parse_row(b": 00000002 00000000 00010000 0001 01 7"), None);
        assert_eq!(parse_row(b"0000: 00000002 0000000g 00010000 0001 01 7"), None);
    }
}
