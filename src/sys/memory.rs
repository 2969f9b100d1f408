//! What the allocator holds: little where init rests, and within bounds where a worker works.

unsafe extern "C" {
    /// First byte of the executable's image, by the linker.
    static __executable_start: u8;
    /// First byte after its code, by the linker.
    static etext: u8;
}

/// Gives back what the start took: the heap's free pages, and the pages of the executable's code and constants, which were
/// mapped by reading the command line and the like. Those that are used again come back from the page cache.
pub fn give_back() {
    const PAGE: usize = 4096;
    let start = (&raw const __executable_start).addr() & !(PAGE - 1);
    let end = (&raw const etext).addr() & !(PAGE - 1);
    // SAFETY: between the two lie only read-only mappings of the executable file, without relocations, so that every page
    // comes back with the same content. The heap is the allocator's own affair.
    unsafe {
        libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED);
        libc::malloc_trim(0);
    }
}

/// Lets all threads that are started later share one heap (mallopt(3)). With one each, what a thread decoded and another
/// freed is of no use to a third: of 45 MiB in use that made 90 MiB resident.
pub fn share_one_heap() {
    // SAFETY: changes a setting of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
