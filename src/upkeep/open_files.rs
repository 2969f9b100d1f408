//! Reads from CRIU images which files a service had open. The service decides much of their content, so they
//! are never trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::criu::images::{self, Descriptor, Inet, Malformed, OpenFile, Unix};

/// Open files of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OpenFiles {
    /// Number of open file descriptions by kind, such as `regular`, `pipe`, `tcp`.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Paths of regular files and folders.
    pub paths: Vec<String>,
    /// Internet sockets, and unix sockets with a name.
    pub sockets: Vec<Socket>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Socket {
    /// `tcp`, `udp`, `raw` or `unix`.
    pub kind: &'static str,
    /// Address, or path of a unix socket; an abstract name begins with `@`.
    pub local: String,
    /// Address of the peer, if an internet socket is connected.
    pub remote: Option<String>,
    /// TCP state, such as `listen`; unix sockets use the same states.
    pub state: &'static str,
}

/// Adds the file IDs of the descriptors in one `fdinfo-N.img`.
pub(super) fn add(image: &[u8], open: &mut BTreeSet<u32>) -> Result<(), Malformed> {
    for entry in images::entries(image, images::FDINFO)? {
        open.insert(images::decode::<Descriptor>(entry)?.id);
    }
    Ok(())
}

/// Looks up these file IDs in `files.img`.
pub(super) fn read(files: &[u8], open: &BTreeSet<u32>) -> Result<OpenFiles, Malformed> {
    let mut found = OpenFiles::default();
    let mut paths = BTreeSet::new();
    for entry in images::entries(files, images::FILES)? {
        let file: OpenFile = images::decode(entry)?;
        // The image also has files that are mapped and not open, such as programs and libraries.
        if !open.contains(&file.id) {
            continue;
        }
        let socket = file.inet.as_ref().map(inet).or_else(|| file.unix.as_ref().map(unix));
        *found.kinds.entry(socket.as_ref().map_or(kind(file.kind), |socket| socket.kind)).or_default() += 1;
        found.sockets.extend(socket.filter(|socket| socket.kind != "unix" || !socket.local.is_empty()));
        paths.extend(file.regular.map(|file| String::from_utf8_lossy(&file.name).into_owned()));
    }
    found.paths = paths.into_iter().collect();
    found.sockets.sort();
    Ok(found)
}

/// Names of `fd_types` (images/fdinfo.proto).
fn kind(number: u32) -> &'static str {
    const KINDS: [&str; 21] = [
        "other",
        "regular",
        "pipe",
        "fifo",
        "inet",
        "unix",
        "eventfd",
        "epoll",
        "inotify",
        "signalfd",
        "packet",
        "tty",
        "fanotify",
        "netlink",
        "namespace",
        "tun",
        "external",
        "timerfd",
        "memfd",
        "bpfmap",
        "pidfd",
    ];
    KINDS.get(number as usize).copied().unwrap_or(KINDS[0])
}

fn inet(socket: &Inet) -> Socket {
    let kind = match (socket.kind as i32, socket.protocol as i32) {
        (libc::SOCK_STREAM, _) => "tcp",
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP) => "udp",
        _ => "raw",
    };
    let address = |words: &[u32], port| Some(SocketAddr::new(ip(words)?, u16::try_from(port).ok()?).to_string());
    let remote = address(&socket.dst_addr, socket.dst_port).filter(|_| socket.dst_port != 0);
    let local = address(&socket.src_addr, socket.src_port).unwrap_or_default();
    Socket { kind, local, remote, state: state(socket.state) }
}

fn ip(words: &[u32]) -> Option<IpAddr> {
    let bytes: Vec<u8> = words.iter().take(4).flat_map(|word| word.to_le_bytes()).collect();
    let v4 = <[u8; 4]>::try_from(&bytes[..]).map(|bytes| Ipv4Addr::from(bytes).into());
    v4.ok().or_else(|| <[u8; 16]>::try_from(&bytes[..]).map(|bytes| Ipv6Addr::from(bytes).into()).ok())
}

fn unix(socket: &Unix) -> Socket {
    let name = String::from_utf8_lossy(&socket.name);
    let local = name.strip_prefix('\0').map_or(name.to_string(), |name| format!("@{name}"));
    Socket { kind: "unix", local, remote: None, state: state(socket.state) }
}

/// Names of TCP's states (include/net/tcp_states.h), which unix sockets use too.
fn state(number: u32) -> &'static str {
    const STATES: [&str; 13] = [
        "unknown",
        "established",
        "syn-sent",
        "syn-recv",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "closed",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "new-syn-recv",
    ];
    STATES.get(number as usize).copied().unwrap_or(STATES[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::images::Regular;
    use crate::fuzz;
    use proptest::prelude::*;
    use prost::Message;

    fn image(magic: u32, entries: &[impl Message]) -> Vec<u8> {
        let mut image = [0x5456_4319_u32.to_le_bytes(), magic.to_le_bytes()].concat();
        for entry in entries {
            image.extend((entry.encoded_len() as u32).to_le_bytes());
            image.extend(entry.encode_to_vec());
        }
        image
    }

    fn open(descriptors: &[u8]) -> Result<BTreeSet<u32>, Malformed> {
        let mut open = BTreeSet::new();
        add(descriptors, &mut open).map(|()| open)
    }

    #[test]
    fn open_files_are_told_from_mapped_ones() {
        let name = |path: &[u8]| Some(Regular { name: path.to_vec(), ..Regular::default() });
        let listener = Inet {
            kind: 1,
            protocol: 6,
            state: 10,
            src_port: 80,
            src_addr: vec![u32::from_le_bytes([127, 0, 0, 1])],
            dst_addr: vec![0],
            ..Inet::default()
        };
        let peer = Inet {
            kind: 1,
            state: 1,
            src_port: 1,
            dst_port: 2,
            src_addr: vec![0; 4],
            dst_addr: vec![0; 4],
            protocol: 6,
            options: None,
        };
        let socket = |name: &[u8]| Some(Unix { state: 10, name: name.to_vec(), ..Unix::default() });
        let file = |kind, id| OpenFile { kind, id, ..OpenFile::default() };
        let files = [
            OpenFile { regular: name(b"/lib/x.so"), ..file(1, 1) },
            OpenFile { regular: name(b"/data"), ..file(1, 2) },
            file(2, 3),
            OpenFile { inet: Some(listener), ..file(4, 4) },
            OpenFile { inet: Some(peer), ..file(4, 5) },
            OpenFile { unix: socket(b"\0name"), ..file(5, 6) },
            OpenFile { unix: socket(b""), ..file(5, 7) },
            file(99, 8),
        ];
        let fds: Vec<Descriptor> = (2..9).map(|id| Descriptor { id, ..Descriptor::default() }).collect();
        let found = read(&image(images::FILES, &files), &open(&image(images::FDINFO, &fds)).unwrap()).unwrap();
        assert_eq!(found.paths, ["/data"]);
        let kinds = [("other", 1), ("pipe", 1), ("regular", 1), ("tcp", 2), ("unix", 2)];
        assert_eq!(found.kinds, BTreeMap::from(kinds));
        let text: Vec<String> = found
            .sockets
            .iter()
            .map(|s| format!("{} {} {} {}", s.kind, s.local, s.remote.as_deref().unwrap_or("-"), s.state))
            .collect();
        assert_eq!(text, ["tcp 127.0.0.1:80 - listen", "tcp [::]:1 [::]:2 established", "unix @name - listen"]);
    }

    #[test]
    fn absurd_addresses_are_left_out() {
        let socket = Inet { src_addr: vec![1; 3], src_port: 70_000, state: 77, ..Inet::default() };
        assert_eq!(inet(&socket), Socket { kind: "raw", local: String::new(), remote: None, state: "unknown" });
        assert_eq!(read(b"", &BTreeSet::new()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn fuzz_damaged_images_are_read_or_malformed(edits in fuzz::edits(), others in fuzz::edits()) {
            let regular = OpenFile { kind: 1, id: 1, regular: Some(Regular { name: b"/data".into(), ..Regular::default() }), ..OpenFile::default() };
            let inet = Inet { kind: 1, src_port: 80, src_addr: vec![7; 4], dst_addr: vec![0; 4], ..Inet::default() };
            let socket = OpenFile { id: 2, inet: Some(inet), ..OpenFile::default() };
            let files = image(images::FILES, &[regular, socket]);
            let fds = image(images::FDINFO, &[1, 2].map(|id| Descriptor { id, ..Descriptor::default() }));
            for (files, fds) in [(fuzz::damaged(&files, &edits), fds.clone()), (files, fuzz::damaged(&fds, &others))] {
                if let Ok(found) = open(&fds).and_then(|open| read(&files, &open)) {
                    prop_assert!(found.kinds.values().sum::<u64>() <= files.len() as u64);
                }
            }
        }
    }
}
