//! TCP and UDP sockets, from the tables in /proc/PID/net (proc_pid_net(5)).

use std::fmt::Display;
use std::fs;
use std::net::{IpAddr, SocketAddr};

pub const ESTABLISHED: u8 = 0x01;
pub const CLOSE: u8 = 0x07;
pub const CLOSE_WAIT: u8 = 0x08;
pub const LISTEN: u8 = 0x0a;

const TABLES: [(&str, Protocol); 6] = [
    ("net/tcp", Protocol::Tcp),
    ("net/tcp6", Protocol::Tcp),
    ("net/udp", Protocol::Udp),
    ("net/udp6", Protocol::Udp),
    ("net/udplite", Protocol::Udp),
    ("net/udplite6", Protocol::Udp),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Inet {
    pub protocol: Protocol,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub state: u8,
    /// Bytes.
    pub unread: u32,
    /// 0 if nobody has it: it is closed, or waits to be accepted.
    pub inode: u64,
}

/// All sockets of the network namespace of `pid`, a number or `self`.
pub fn read(pid: impl Display) -> Vec<Inet> {
    let table = |(name, protocol)| {
        let text = fs::read_to_string(super::path(&pid, name)).unwrap_or_default();
        text.lines().skip(1).filter_map(|line| row(protocol, line)).collect::<Vec<_>>()
    };
    TABLES.into_iter().flat_map(table).collect()
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4242 …` (proc_pid_net(5)).
pub fn row(protocol: Protocol, line: &str) -> Option<Inet> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let unread = u32::from_str_radix(fields.next()?.split_once(':')?.1, 16).ok()?;
    Some(Inet { protocol, local, remote, state, unread, inode: fields.nth(4)?.parse().ok()? })
}

/// The kernel prints each 32-bit word of an address as a number of this machine, so its bytes in memory are
/// in network order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..ip.len() / 8)
        .map(|word| u32::from_str_radix(ip.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip = match words[..] {
        [four] => IpAddr::from(four),
        _ => IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?),
    };
    Some(SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_of_both_tables() {
        let four = "   0: 0100007F:1F90 0200000A:0050 01 00000000:00000012 00:00000000 00000000  1000        0 4242 1 0 100 0 0 10 0";
        let tcp = row(Protocol::Tcp, four).unwrap();
        assert_eq!((tcp.inode, tcp.state, tcp.unread), (4242, 1, 0x12));
        assert_eq!((tcp.local, tcp.remote), ("127.0.0.1:8080".parse().unwrap(), "10.0.0.2:80".parse().unwrap()));
        let six = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0 100 0 0 10 0";
        assert_eq!(row(Protocol::Tcp, six).unwrap().local, "[::1]:8080".parse().unwrap());
        assert_eq!(row(Protocol::Tcp, "  sl  local_address rem_address   st"), None);
    }

    proptest! {
        #[test]
        fn fuzz_any_line_is_a_socket_or_not(line: String) {
            let _ = row(Protocol::Tcp, &line);
        }
    }
}
