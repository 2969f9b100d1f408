//! The tracer at rest: a process above the service, which a worker has execute criu (src/criu/tracer). It is a
//! freestanding program of a page, compiled by build.rs and executed from memory.
//!
//! It has one child, the next process on the way down to the service, and ends as that ends. A request is a
//! message on descriptor 3 with two descriptors: the worker's connection, and freeze. SIGCONT says that there
//! is one. It must never allocate, and it has no state but its argument: criu executes it anew.

#![no_std]
#![no_main]

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod arch;
#[path = "../freestanding/mod.rs"]
mod freestanding;

use core::ffi::CStr;

use arch::{
    SYS_CHDIR, SYS_CLOSE, SYS_EXECVE, SYS_GETPID, SYS_KILL, SYS_PRCTL, SYS_RECVMSG, SYS_SIGPROCMASK, SYS_SIGTIMEDWAIT,
    SYS_WRITE,
};
use freestanding::{call, code, exit, pid_argument, wait};

/// The channel from init, whose end only init and its workers have.
const CHANNEL: usize = 3;
/// Where a message's descriptors arrive, since only 0 to 3 are open.
const CONNECTION: usize = 4;
const PROGRAM: usize = 5;

static ALL_SIGNALS: u64 = u64::MAX;
const SIG_SETMASK: usize = 2;
const SIGKILL: usize = 9;
const WNOHANG: usize = 1;
/// Also tasks that criu has left attached, which have ended.
const WALL: usize = 0x4000_0000;
const MSG_DONTWAIT: usize = 0x40;
const PR_SET_NAME: usize = 15;

/// struct msghdr of recvmsg(2).
#[repr(C)]
struct Message {
    name: usize,
    name_length: u32,
    data: *const Data,
    data_count: usize,
    control: *mut Control,
    control_length: usize,
    flags: i32,
}

/// struct iovec: one byte that nobody reads.
#[repr(C)]
struct Data {
    base: *mut u8,
    length: usize,
}

/// struct cmsghdr with two descriptors.
#[repr(C)]
struct Control {
    length: usize,
    level: i32,
    kind: i32,
    descriptors: [i32; 2],
}

/// Rests until the child ends or a request comes. `argv[1]` is the child's PID in decimal.
extern "C" fn tracer(stack: *const usize) -> ! {
    // SAFETY: the kernel put argc and argv there, and there are always two arguments.
    let child = unsafe { pid_argument(stack) };
    // SAFETY: as above.
    let child_text = unsafe { *stack.add(2) };
    call(SYS_SIGPROCMASK, SIG_SETMASK, (&raw const ALL_SIGNALS).expose_provenance(), 0, 8);
    call(SYS_CHDIR, text(c"/"), 0, 0, 0);
    call(SYS_PRCTL, PR_SET_NAME, text(c"freeze-tracer"), 0, 0);
    // Tells init that criu has ended.
    call(SYS_WRITE, CHANNEL, text(c"r"), 1, 0);
    loop {
        reap(child);
        if received() {
            become_criu(child_text);
        } else {
            call(SYS_SIGTIMEDWAIT, (&raw const ALL_SIGNALS).expose_provenance(), 0, 0, 8);
        }
    }
}

/// Reaps what has ended, and ends as the child has.
fn reap(child: isize) {
    loop {
        match wait(WNOHANG | WALL) {
            (0, _) => return,
            (pid, status) if pid == child && status & 0x7f == 0 => exit(code(status)),
            // Init finds out what is left of the service.
            (pid, _) if pid == child || pid < 0 => die(),
            _left_by_criu => {}
        }
    }
}

fn die() -> ! {
    loop {
        call(SYS_KILL, call(SYS_GETPID, 0, 0, 0, 0) as usize, SIGKILL, 0, 0);
    }
}

/// Receives a request, if there is one.
fn received() -> bool {
    let mut byte = 0u8;
    let data = Data { base: &raw mut byte, length: 1 };
    let mut control = Control { length: 0, level: 0, kind: 0, descriptors: [0; 2] };
    let mut message = Message {
        name: 0,
        name_length: 0,
        data: &raw const data,
        data_count: 1,
        control: &raw mut control,
        control_length: size_of::<Control>(),
        flags: 0,
    };
    call(SYS_RECVMSG, CHANNEL, (&raw mut message).expose_provenance(), MSG_DONTWAIT, 0) > 0
}

/// Executes `freeze tracer`, which executes criu. Returns if that fails, and the worker notices.
fn become_criu(child: usize) {
    let arguments = [text(c"freeze"), text(c"tracer"), child, text(c"4"), 0];
    let environment = [0usize];
    let (argv, envp) = ((&raw const arguments).expose_provenance(), (&raw const environment).expose_provenance());
    call(SYS_EXECVE, text(c"/proc/self/fd/5"), argv, envp, 0);
    call(SYS_CLOSE, CONNECTION, 0, 0, 0);
    call(SYS_CLOSE, PROGRAM, 0, 0, 0);
}

fn text(text: &'static CStr) -> usize {
    text.as_ptr().expose_provenance()
}
