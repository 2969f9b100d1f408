//! Threads and processes where clone3 is refused with EPERM, as Docker before 20.10.10 does: the C library knows ENOSYS only as the
//! sign to take clone(2) instead (glibc since 2.34), and could make no thread.

use std::ffi::c_void;

/// Takes the place of the C library's own in this static executable: says that there is no clone3, so that clone(2) is taken at once.
/// Nothing that the library asks of clone3 is more than clone(2) can do.
// SAFETY: the name is the C library's, and the signature, too (sysdeps/unix/sysv/linux/clone3.h); it touches nothing but errno.
#[unsafe(no_mangle)]
extern "C" fn __clone3(_arguments: *mut c_void, _size: usize, _function: *const c_void, _argument: *mut c_void) -> i32 {
    nix::errno::Errno::ENOSYS.set();
    -1
}
