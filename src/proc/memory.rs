//! The memory of another process: its content, and what the kernel says of its pages.
//!
//! Needs the right to trace the process, and no capability for what it looks at in `/proc/PID/pagemap`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use super::ranges::Ranges;

/// Bytes of a page of the architectures that pages are compared on.
pub const PAGE: u64 = 4096;

/// Bits of an entry (Documentation/admin-guide/mm/pagemap.rst): the page is in memory; it is of a file; no other process
/// maps it, since Linux 4.2.
const PRESENT: u64 = 1 << 63;
const OF_FILE: u64 = 1 << 61;
const EXCLUSIVE: u64 = 1 << 56;
/// Entries that are read at once.
const BATCH: usize = 64 << 10;

/// The content of a process's memory. Not by process_vm_readv(2): it pins pages, and since Linux 6.0 a page that a process
/// shares by fork is copied before it is pinned (GUP-triggered unsharing).
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// # Errors
    /// If this process may not trace the other.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self(File::open(super::path(pid, "mem"))?))
    }

    /// The memory of a process that is ours to change.
    ///
    /// # Errors
    /// If this process may not trace the other.
    pub fn writable(pid: i32) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open(super::path(pid, "mem"))?))
    }

    /// Writes a byte over itself. A page that others map as well is another one afterwards, with the same content.
    ///
    /// # Errors
    /// If there is no memory at `at`, or the kernel lets nobody write it (`proc_mem.force_override`, since Linux 6.12).
    pub fn write_back(&self, at: u64) -> io::Result<()> {
        let mut byte = [0];
        self.read(at, &mut byte)?;
        self.0.write_all_at(&byte, at)
    }

    /// Reads from the address `at` on. Returns how many bytes it has read, at least 1.
    ///
    /// # Errors
    /// If there is no memory at `at`, or the process has ended.
    pub fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read_at(buffer, at)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// What the kernel says of a process's pages.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self(File::open(super::path(pid, "pagemap"))?))
    }

    /// Adds the pages from `start` to `end` that are anonymous memory which another process maps, too.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn shared(&self, start: u64, end: u64, found: &mut Ranges) -> io::Result<()> {
        let mut bytes = vec![0; BATCH.min((end - start).div_ceil(PAGE) as usize) * size_of::<u64>()];
        let mut at = start;
        while at < end {
            let length = bytes.len().min((end - at).div_ceil(PAGE) as usize * size_of::<u64>());
            self.0.read_exact_at(&mut bytes[..length], at / PAGE * size_of::<u64>() as u64)?;
            for entry in bytes[..length].as_chunks().0 {
                if is_shared(u64::from_ne_bytes(*entry)) {
                    found.push(at..at + PAGE);
                }
                at += PAGE;
            }
        }
        Ok(())
    }
}

fn is_shared(entry: u64) -> bool {
    entry & (PRESENT | OF_FILE | EXCLUSIVE) == PRESENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_is_read_and_is_ours_alone() {
        let pages: Vec<u8> = (0..3 * PAGE).map(|at| (at / PAGE) as u8 + 1).collect();
        let us = std::process::id() as i32;
        let mut read = vec![0; pages.len()];
        let at = pages.as_ptr() as u64;
        assert_eq!(Memory::of(us).unwrap().read(at, &mut read).unwrap(), pages.len());
        assert_eq!(read, pages);
        let (start, mut shared) = (at.next_multiple_of(PAGE), Ranges::default());
        Pagemap::of(us).unwrap().shared(start, start + 2 * PAGE, &mut shared).unwrap();
        assert_eq!(shared, Ranges::default());
        assert!(Memory::of(us).unwrap().read(0, &mut read).is_err());
    }

    #[test]
    fn only_what_is_in_memory_and_of_no_file_is_shared_memory() {
        assert!(is_shared(PRESENT | 1 << 55));
        for other in [0, EXCLUSIVE, PRESENT | EXCLUSIVE, PRESENT | OF_FILE, 1 << 62] {
            assert!(!is_shared(other), "{other:#x}");
        }
    }
}
