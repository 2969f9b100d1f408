//! Reads the build-id of a program or library: the linker's hash of its content, in a note of the file (elf(5)). It
//! stays with the file when that is stripped.
//!
//! The file is not trusted: each read is bounded, and what is no such file has no build-id.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most bytes of the program headers, and of one segment of notes.
const MOST: u64 = 64 << 10;
/// Most bytes of a build-id. Linkers make 8 to 20.
const ID_MOST: usize = 64;

const CLASS_64: u8 = 2;
const OUR_ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;

/// The build-id of a 64-bit ELF file; empty if it has none.
pub fn build_id(file: &File) -> Vec<u8> {
    find(&|at, length| {
        let mut bytes = vec![0; usize::try_from(length.min(MOST)).ok()?];
        file.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    })
    .unwrap_or_default()
}

/// `read` returns that many bytes from an offset.
fn find(read: &dyn Fn(u64, u64) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let header = read(0, 64)?;
    if !header.starts_with(&[0x7f, b'E', b'L', b'F', CLASS_64, OUR_ORDER]) {
        return None;
    }
    let (offset, size, number) = (long(&header, 32)?, u64::from(short(&header, 54)?), u64::from(short(&header, 56)?));
    let headers = read(offset, size * number)?;
    let notes = headers.chunks(size.max(1) as usize).filter(|header| word(header, 0) == Some(PT_NOTE));
    notes.filter_map(|header| in_notes(&read(long(header, 8)?, long(header, 32)?)?, long(header, 48)?)).next()
}

/// The build-id among notes: each a size of the name, one of the content, a type, the name and the content.
fn in_notes(mut notes: &[u8], alignment: u64) -> Option<Vec<u8>> {
    let padded = |length: u32| (length as usize).checked_next_multiple_of(if alignment == 8 { 8 } else { 4 });
    loop {
        let (name, content, kind) = (word(notes, 0)?, word(notes, 4)?, word(notes, 8)?);
        let after_name = 12usize.checked_add(padded(name)?)?;
        if kind == NT_GNU_BUILD_ID && notes.get(12..)?.starts_with(b"GNU\0") && content as usize <= ID_MOST {
            return Some(notes.get(after_name..)?.get(..content as usize)?.to_vec());
        }
        notes = notes.get(after_name.checked_add(padded(content)?)?..)?;
    }
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}

fn short(from: &[u8], at: usize) -> Option<u16> {
    bytes(from, at).map(u16::from_ne_bytes)
}

fn word(from: &[u8], at: usize) -> Option<u32> {
    bytes(from, at).map(u32::from_ne_bytes)
}

fn long(from: &[u8], at: usize) -> Option<u64> {
    bytes(from, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let head = [name.len() as u32, content.len() as u32, kind].map(u32::to_ne_bytes).concat();
        let padded = |bytes: &[u8]| [bytes, &vec![0; bytes.len().next_multiple_of(4) - bytes.len()]].concat();
        [head, padded(name), padded(content)].concat()
    }

    /// A file with one segment of notes.
    fn elf(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', CLASS_64, OUR_ORDER]);
        file[32..40].copy_from_slice(&64u64.to_ne_bytes());
        file[54..56].copy_from_slice(&56u16.to_ne_bytes());
        file[56..58].copy_from_slice(&1u16.to_ne_bytes());
        file[64..68].copy_from_slice(&PT_NOTE.to_ne_bytes());
        file[72..80].copy_from_slice(&120u64.to_ne_bytes());
        file[96..104].copy_from_slice(&(notes.len() as u64).to_ne_bytes());
        file[112..120].copy_from_slice(&4u64.to_ne_bytes());
        [file, notes.to_vec()].concat()
    }

    fn id(file: &[u8]) -> Option<Vec<u8>> {
        find(&|at, length| Some(file.get(at as usize..)?.get(..length.min(MOST) as usize)?.to_vec()))
    }

    #[test]
    fn the_note_is_found_among_others() {
        let notes = [note(b"GNU\0", 1, b"abi"), note(b"Xen\0", 3, b"other"), note(b"GNU\0", 3, b"the build-id")];
        assert_eq!(id(&elf(&notes.concat())), Some(b"the build-id".to_vec()));
        assert_eq!(id(&elf(&notes[..2].concat())), None);
        assert_eq!(id(b"#!/bin/sh"), None);
    }

    #[test]
    fn this_program_has_the_one_that_its_linker_gave_it() {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        assert!([8, 16, 20].contains(&build_id(&file).len()));
    }

    proptest! {
        #[test]
        fn fuzz_any_notes_and_headers_are_read(notes: Vec<u8>, at in 0usize..120, byte: u8) {
            let mut file = elf(&notes);
            file[at] = byte;
            prop_assert!(id(&file).is_none_or(|id| id.len() <= ID_MOST));
        }
    }
}
