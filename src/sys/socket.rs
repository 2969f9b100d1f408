//! Properties of other processes' sockets.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The protocol of the socket that `/proc/PID/fd/N` leads to, as the kernel names it: `TCP`, `UNIX-STREAM`,
/// `NETLINK`, `MPTCP`… (`system.sockprotoname`, net/socket.c). None if it is no socket, or may not be
/// inspected.
pub fn protocol(path: &Path) -> Option<String> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut name = [0u8; 32];
    // SAFETY: both strings end in NUL, and the kernel writes at most `name.len()` bytes to `name`.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), c"system.sockprotoname".as_ptr(), name.as_mut_ptr().cast(), name.len())
    };
    let name = name.get(..usize::try_from(length).ok()?)?;
    Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    use super::*;

    fn of(fd: &impl AsRawFd) -> Option<String> {
        protocol(&PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())))
    }

    #[test]
    fn sockets_have_a_protocol_and_files_have_none() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!([of(&tcp), of(&unix), of(&file)], [Some("TCP".into()), Some("UNIX-STREAM".into()), None]);
    }
}
