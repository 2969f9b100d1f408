//! Who is connected to whom by unix sockets, as the kernel tells it over netlink (sock_diag(7), unix(7)): /proc/net/unix has no peers.
//! Must never trust the lengths in what it reads.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg, socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const NAME: u16 = 0;
const PEER: u16 = 2;
/// Bytes of a netlink header, and of `struct unix_diag_msg` behind it.
const HEADER: usize = 16;
const MESSAGE: usize = 16;

/// One unix socket of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unix {
    /// Inode of the other end; none where there is no other end any more.
    pub peer: Option<u64>,
    /// Its path, or an empty one; abstract names begin with a zero byte.
    pub name: Vec<u8>,
}

/// All unix sockets by inode.
///
/// # Errors
/// Where netlink sockets are not allowed, or the kernel lacks unix_diag.
pub fn unix_sockets() -> io::Result<BTreeMap<u64, Unix>> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(&request())], &[], MsgFlags::empty(), Some(&NetlinkAddr::new(0, 0)))?;
    let mut found = BTreeMap::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if !take(buffer.get(..length).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// A netlink header and `struct unix_diag_req`.
fn request() -> Vec<u8> {
    const LENGTH: u32 = 16 + 24;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut request = LENGTH.to_ne_bytes().to_vec();
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence and port
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes()); // all states
    request.extend([0; 4]); // all inodes
    request.extend((SHOW_NAME | SHOW_PEER).to_ne_bytes());
    request.extend([0; 8]); // cookie
    request
}

/// Takes in what one receive gave; says whether there is more.
fn take(mut rest: &[u8], found: &mut BTreeMap<u64, Unix>) -> io::Result<bool> {
    while let Some((length, kind)) = number(rest, 0).zip(rest.get(4..6)) {
        let kind = u16::from_ne_bytes([kind[0], kind[1]]);
        let message = rest.get(HEADER..length as usize).unwrap_or_default();
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => {
                let code = number(message, 0).unwrap_or_default() as i32;
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            _ => found.extend(parse(message)),
        }
        rest = rest.get(aligned(length as usize).max(HEADER)..).unwrap_or_default();
    }
    Ok(true)
}

/// `struct unix_diag_msg`, whose inode is its second word, and attributes.
fn parse(message: &[u8]) -> Option<(u64, Unix)> {
    let inode = number(message, 4)?;
    let mut socket = Unix::default();
    let mut rest = message.get(MESSAGE..)?;
    while let Some(head) = rest.get(..4) {
        let (length, kind) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
        let value = rest.get(4..length as usize)?;
        match kind {
            NAME => socket.name = value.to_vec(),
            PEER => socket.peer = number(value, 0).filter(|&peer| peer != 0).map(u64::from),
            _ => {}
        }
        rest = rest.get(aligned(length as usize)..).unwrap_or_default();
    }
    Some((inode.into(), socket))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::stat::fstat;
    use proptest::prelude::*;

    use super::*;

    fn inode(socket: impl AsFd) -> u64 {
        fstat(socket).unwrap().st_ino
    }

    #[test]
    fn both_ends_know_each_other() {
        let (one, other) = UnixStream::pair().unwrap();
        let sockets = unix_sockets().unwrap();
        assert_eq!(sockets[&inode(&one)].peer, Some(inode(&other)));
        drop(other);
        assert_eq!(unix_sockets().unwrap()[&inode(&one)].peer, None);
    }

    #[test]
    fn a_bound_socket_has_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let found = unix_sockets().unwrap()[&inode(&listener)].clone();
        assert_eq!(found.name.strip_suffix(b"\0").unwrap_or(&found.name), path.to_str().unwrap().as_bytes());
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_are_sockets_or_not(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = take(&data, &mut BTreeMap::new());
            let _ = parse(&data);
        }
    }
}
