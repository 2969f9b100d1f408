//! System calls that older kernels lack and older engines refuse: a restricted service is moved without them.

use crate::harness::{App, Setting};
use crate::moved;

const PAGE: &str = include_str!("../../docs/reference/settings.md");

/// Moves one without these calls, as if the kernel had none, and as profiles that do not know them do it.
fn without(calls: &str) {
    for errno in ["ENOSYS", "EPERM"] {
        moves(&format!("{errno}={calls}"));
    }
    for call in calls.split(',') {
        assert!(PAGE.contains(&format!("`{call}`")), "docs/reference/settings.md does not name {call}");
    }
}

fn moves(denied: &str) {
    let app = App::new(Setting::Restricted, &["one"]).denying(denied);
    assert_eq!(moved(&app, 1), "ok 1", "{denied}");
}

#[test]
fn clone3() {
    without("clone3");
}

#[test]
fn pidfd() {
    without("pidfd_open,pidfd_send_signal,pidfd_getfd");
}

#[test]
fn rseq() {
    without("rseq");
}

#[test]
fn close_range() {
    without("close_range");
}

#[test]
fn openat2() {
    without("openat2");
}

#[test]
fn faccessat2() {
    without("faccessat2");
}

#[test]
fn statx() {
    without("statx");
}

#[test]
fn epoll_pwait2() {
    without("epoll_pwait2");
}

/// Docker 19.03 on a kernel of today, as its profile knew nothing newer than Linux 5.2.
#[test]
fn all_of_them() {
    without("clone3,pidfd_open,pidfd_getfd,close_range,openat2,faccessat2,epoll_pwait2");
}

/// Before Linux 6.10: criu finds out by other means which descriptors are one.
#[test]
fn dupfd_query() {
    const F_DUPFD_QUERY: i32 = 1027;
    moves(&format!("EINVAL=fcntl:{F_DUPFD_QUERY}"));
}
