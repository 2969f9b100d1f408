//! The /proc files that describe processes (proc(5)), and the tree of processes. Each format has one parser
//! and a thin reader.
//!
//! Parsers are pure functions on bytes. They skip lines that they cannot read, never panic, and are bounded
//! by the size of their input. The `procfs` crate does not fit: it requires UTF-8, but names of processes,
//! files and mounts may contain any byte.

pub(crate) mod fd;
pub(crate) mod fdinfo;
pub(crate) mod inet;
pub(crate) mod limits;
pub(crate) mod maps;
pub(crate) mod memory;
pub(crate) mod mountinfo;
pub(crate) mod ranges;
pub(crate) mod sock_diag;
pub(crate) mod stat;
pub(crate) mod status;
pub(crate) mod sysvipc;
pub mod tree;

use std::fmt::Display;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `/proc/PID/NAME`; `pid` is a number or `self`.
pub fn path(pid: impl Display, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// All processes in this PID namespace, in no order.
///
/// # Errors
/// If there is no /proc.
pub fn pids() -> io::Result<impl Iterator<Item = i32>> {
    Ok(numbered("/proc".into())?.map(|(pid, _)| pid))
}

/// The threads of a process, in no order.
///
/// # Errors
/// If there is no such process.
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

/// Decodes a field in which the kernel wrote each byte of `escaped` as a backslash and three octal digits.
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

/// Decodes the escape sequence at the start of a text. Also returns the rest.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
            Some(((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), after))
        }
        _ => None,
    }
}

/// Escapes names as the kernel does (seq_path), for the parsers' tests.
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
