//! The process's memory: little while init is idle, bounded while a worker runs.

unsafe extern "C" {
    /// The executable's first byte, set by the linker.
    static __executable_start: u8;
    /// The first byte after its code, set by the linker.
    static etext: u8;
}

/// Bytes of a page of this kernel.
pub fn page_size() -> u64 {
    // SAFETY: reads a constant.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Frees what the start needed: the heap's free pages, and the pages of the executable's code and constants,
/// which reading the command line and the like mapped. A page that is used again comes back from the page
/// cache.
pub fn give_back() {
    let page = page_size() as usize;
    let start = (&raw const __executable_start).addr() & !(page - 1);
    let end = (&raw const etext).addr() & !(page - 1);
    // SAFETY: between the two lie only read-only mappings of the executable file without relocations, so each
    // page comes back with the same content. The allocator takes care of the heap.
    unsafe {
        libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED);
        libc::malloc_trim(0);
    }
}

/// Makes all threads that start later share one heap (mallopt(3)). With one heap per thread, a thread cannot
/// reuse what others have freed: 45 MiB in use made 90 MiB resident.
pub fn share_one_heap() {
    // SAFETY: changes a setting of the allocator, under the allocator's lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
