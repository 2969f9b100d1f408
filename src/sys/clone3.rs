//! Replaces the C library's clone3. Docker before 20.10.10 refuses clone3 with EPERM, but glibc (since 2.34)
//! falls back to clone(2) only on ENOSYS, so it could start no thread.

use std::ffi::c_void;

/// Overrides the C library's symbol in this static executable. It always reports ENOSYS, so that the library
/// calls clone(2) at once. The library needs nothing that only clone3 can do.
// SAFETY: name and signature are the C library's (sysdeps/unix/sysv/linux/clone3.h), and only errno is
// touched.
#[unsafe(no_mangle)]
extern "C" fn __clone3(_arguments: *mut c_void, _size: usize, _function: *const c_void, _argument: *mut c_void) -> i32 {
    nix::errno::Errno::ENOSYS.set();
    -1
}
