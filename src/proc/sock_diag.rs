//! Unix sockets, over netlink (sock_diag(7), unix(7)): /proc/net/unix has neither their peers nor their files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use netlink_packet_core::{Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::constants::TCP_ESTABLISHED;
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName, Vfs};
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest};
use netlink_packet_sock_diag::{SOCK_DIAG_BY_FAMILY, SockDiagMessage};
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendmsg, socket};

/// Device of a file, and the lower half of its inode: the kernel tells no more.
pub type SocketFile = (u64, u32);

/// One unix socket of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unix {
    pub is_datagram: bool,
    /// One end of a connection. If it was accepted, its name and file are the listener's.
    pub is_connection: bool,
    /// Inode of the other end, if there is one.
    pub peer: Option<u64>,
    /// Path, or a zero byte and an abstract name; empty if unbound.
    pub name: Vec<u8>,
    /// What bind(2) made, whatever its names are now.
    pub file: Option<SocketFile>,
}

impl Unix {
    /// The path that it was bound to, if it was.
    pub fn path(&self) -> Option<&Path> {
        let name = self.name.strip_suffix(b"\0").unwrap_or(&self.name);
        (name.first()? != &0).then(|| Path::new(OsStr::from_bytes(name)))
    }
}

/// All unix sockets by inode. Fails if netlink sockets are forbidden or the kernel lacks unix_diag.
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

/// Requests all sockets. [`StateFlags`] lacks some states, so this sets every bit.
fn request() -> Vec<u8> {
    let (state_flags, show_flags) =
        (StateFlags::from_bits_retain(u32::MAX), ShowFlags::NAME | ShowFlags::PEER | ShowFlags::VFS);
    let all = UnixRequest { state_flags, inode: 0, show_flags, cookie: [0; 8] };
    let mut message = NetlinkMessage::from(SockDiagMessage::UnixRequest(all));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Parses one datagram. Returns whether more follow.
fn take(mut rest: &[u8], found: &mut BTreeMap<u64, Unix>) -> io::Result<bool> {
    while !rest.is_empty() {
        let frame = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        match NetlinkMessage::deserialize(rest).map(|message| message.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(false),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(socket))) => {
                let name = match socket.name() {
                    Some(UnixDiagName::Pathname(path)) => path.clone().into_vec(),
                    Some(UnixDiagName::Abstract(name)) => [&[0], &name[..]].concat(),
                    None => Vec::new(),
                };
                let peer = socket.peer().filter(|&peer| peer != 0).map(u64::from);
                let file = socket.nlas.iter().find_map(|nla| if let Nla::Vfs(vfs) = nla { file(vfs) } else { None });
                let is_datagram = i32::from(socket.header.kind) == libc::SOCK_DGRAM;
                let is_connection = !is_datagram && socket.header.state == TCP_ESTABLISHED;
                found.insert(socket.header.inode.into(), Unix { is_datagram, is_connection, peer, name, file });
            }
            // One socket that cannot be read hides no other.
            Err(error) if frame.message_type() != SOCK_DIAG_BY_FAMILY => return Err(io::Error::other(error)),
            _ => {}
        }
        rest = rest.get((frame.length() as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The crate keeps both numbers to itself, but writes them: the inode, and the device as the kernel has it.
fn file(vfs: &Vfs) -> Option<SocketFile> {
    let mut bytes = vec![0; vfs.buffer_len()];
    vfs.emit(&mut bytes);
    let (inode, device) = bytes.split_first_chunk().zip(bytes.last_chunk())?;
    let device = u32::from_ne_bytes(*device);
    Some((libc::makedev(device >> 20, device & 0xf_ffff), u32::from_ne_bytes(*inode.0)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};

    use netlink_packet_core::NLMSG_DONE;
    use netlink_packet_sock_diag::unix::{UnixResponse, UnixResponseHeader};
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
        assert!(sockets[&inode(&one)].is_connection);
        drop(other);
        assert_eq!(unix_sockets().unwrap()[&inode(&one)].peer, None);
    }

    #[test]
    fn a_bound_socket_has_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let found = unix_sockets().unwrap()[&inode(&listener)].clone();
        assert_eq!((found.path(), found.is_connection), (Some(&*path), false));
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(found.file, Some((meta.dev(), meta.ino() as u32)));
    }

    #[test]
    fn a_socket_that_is_only_bound_is_found_by_its_abstract_name() {
        let name = format!("freeze-{}", std::process::id());
        let bound = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let found = unix_sockets().unwrap()[&inode(&bound)].clone();
        let name = format!("\0{name}").into();
        assert_eq!(found, Unix { is_datagram: true, name, ..Unix::default() });
        assert_eq!(found.path(), None);
    }

    /// An answer with this inode, as the kernel frames it, of which the last `less` bytes are missing.
    fn answer(inode: u32, less: usize) -> Vec<u8> {
        let header = UnixResponseHeader { kind: 1, state: 1, inode, cookie: [0; 8] };
        let response = UnixResponse { header, nlas: Default::default() };
        let mut message = NetlinkMessage::from(SockDiagMessage::UnixResponse(Box::new(response)));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes.truncate(bytes.len() - less);
        bytes[0] = bytes.len() as u8;
        bytes
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_left_out() {
        let mut found = BTreeMap::new();
        assert!(take(&[answer(1, 0), answer(2, 4), answer(3, 0)].concat(), &mut found).unwrap());
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [1, 3]);
        // Without the end of the list, more answers would be awaited for ever.
        let mut end = answer(1, 14);
        end[4..6].copy_from_slice(&NLMSG_DONE.to_ne_bytes());
        assert!(take(&end, &mut BTreeMap::new()).is_err());
    }

    proptest! {
        #[test]
        fn fuzz_any_bytes_are_sockets_or_not(data in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = take(&data, &mut BTreeMap::new());
        }
    }
}
