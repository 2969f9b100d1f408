//! The files of /proc that describe processes (proc(5)): one parser for each format, and a thin reader beside it.
//!
//! Parsers are pure functions on bytes. They skip lines that they cannot read, hold no more than they are given, and never panic.
//! The `procfs` crate does not serve: its parsers want UTF-8, and names of processes, files and mounts hold any byte.

pub mod fd;
pub mod fdinfo;
pub mod maps;
pub mod mountinfo;
pub mod stat;
pub mod status;
pub mod tree;

use std::fmt::Display;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `/proc/PID/NAME`, of a number or of `self`.
pub fn path(pid: impl Display, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// Every process that this PID namespace shows, in no order.
///
/// # Errors
/// Where there is no /proc.
pub fn pids() -> io::Result<impl Iterator<Item = i32>> {
    Ok(numbered("/proc".into())?.map(|(pid, _)| pid))
}

/// The threads of a process, in no order.
///
/// # Errors
/// Where there is no such process.
pub fn threads(pid: i32) -> io::Result<impl Iterator<Item = i32>> {
    Ok(numbered(path(pid, "task"))?.map(|(tid, _)| tid))
}

/// The entries of a folder whose names are numbers.
fn numbered(folder: PathBuf) -> io::Result<impl Iterator<Item = (i32, DirEntry)>> {
    let entries = fs::read_dir(folder)?.flatten();
    Ok(entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry))))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// Name and value of a line such as `NoNewPrivs:\t1`.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..end], line[end + 1..].trim_ascii()))
}

fn number<T: FromStr>(digits: &[u8]) -> Option<T> {
    str::from_utf8(digits).ok()?.parse().ok()
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

fn octal(digits: &[u8]) -> Option<i32> {
    i32::from_str_radix(str::from_utf8(digits).ok()?, 8).ok()
}

/// The bytes of a field in which the kernel wrote each of `escaped` as a backslash and three octal digits.
fn unescape(field: &[u8], escaped: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let (byte, after) = escape(rest).filter(|(byte, _)| escaped.contains(byte)).unwrap_or((*first, tail));
        out.push(byte);
        rest = after;
    }
    out
}

/// The escape that a text begins with, and what follows it.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
            Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after))
        }
        _ => None,
    }
}

/// As the kernel writes names (seq_path), for the tests of the parsers.
#[cfg(test)]
fn escaped(name: &[u8], escaped: &[u8]) -> Vec<u8> {
    let one = |byte: &u8| if escaped.contains(byte) { format!("\\{byte:03o}").into_bytes() } else { vec![*byte] };
    name.iter().flat_map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_the_kernel_escapes_is_unescaped() {
        assert_eq!(unescape(br"a\040b\011\134040", b" \t\\"), b"a b\t\\040");
        for plain in [&br"\101 \+12 \12 \777 \"[..], b"", b"\\\\"] {
            assert_eq!(unescape(plain, b"\n \t"), plain);
        }
    }

    #[test]
    fn a_field_ends_its_name_at_the_first_colon() {
        assert_eq!(field(b"State:\tS (a: b)"), Some((&b"State"[..], &b"S (a: b)"[..])));
        assert_eq!(field(b"State"), None);
    }

    #[test]
    fn this_process_and_its_threads_are_listed() {
        let us = std::process::id() as i32;
        assert!(pids().unwrap().any(|pid| pid == us) && threads(us).unwrap().any(|tid| tid == us));
        assert!(threads(i32::MAX).is_err());
    }

    proptest! {
        #[test]
        fn fuzz_escapes_come_back(name: Vec<u8>) {
            let set = b" \t\n\\";
            prop_assert_eq!(unescape(&escaped(&name, set), set), name);
        }
    }
}
