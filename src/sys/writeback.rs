//! Begins to write a file's pages to its disk (sync_file_range(2)), and does not wait for that.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Afterwards the kernel notices the next write to each page of a shared mapping, and gives the file a new time. Waits only
/// for pages that are on their way to the disk already: these would be left out.
pub fn start(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: a descriptor and numbers.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;
    use std::thread;
    use std::time::Duration;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

    use super::*;

    /// The kernel's clock for files has ticks of some milliseconds.
    fn pass() {
        thread::sleep(Duration::from_millis(50));
    }

    #[test]
    fn a_later_write_to_a_mapping_gives_a_new_time_and_one_before_would_not() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(4096).unwrap();
        let (one, both) = (NonZero::new(4096).unwrap(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE);
        // SAFETY: a new mapping of a file that nobody else has.
        let page = unsafe { mmap(None, one, both, MapFlags::MAP_SHARED, &file, 0) }.unwrap().cast::<u8>();
        let written = |byte| {
            pass();
            // SAFETY: the first byte of the mapping.
            unsafe { page.as_ptr().write_volatile(byte) };
            file.metadata().unwrap().modified().unwrap()
        };
        let first = written(1);
        assert_eq!(written(2), first, "the page is still to be saved");
        start(&file).unwrap();
        assert!(written(3) > first);
        // SAFETY: nobody uses it any more.
        unsafe { munmap(page.cast(), 4096) }.unwrap();
    }

    #[test]
    fn a_pipe_has_no_disk() {
        let (_reader, writer) = io::pipe().unwrap();
        assert!(start(&File::from(std::os::fd::OwnedFd::from(writer))).is_err());
    }
}
