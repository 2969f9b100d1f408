//! TCP and UDP sockets, from the tables in /proc/PID/net.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::Finding;
use crate::proc::{self, tree::Process};

const LISTEN: u8 = 0x0a;
const CLOSE: u8 = 0x07;

const TABLES: [(&str, Protocol); 6] = [
    ("net/tcp", Protocol::Tcp),
    ("net/tcp6", Protocol::Tcp),
    ("net/udp", Protocol::Udp),
    ("net/udp6", Protocol::Udp),
    ("net/udplite", Protocol::Udp),
    ("net/udplite6", Protocol::Udp),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Inet {
    protocol: Protocol,
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
}

impl Inet {
    pub fn finding(&self, process: &Process) -> Option<Finding> {
        let local = self.local;
        match (self.protocol, self.state) {
            (Protocol::Tcp, CLOSE) => None,
            (Protocol::Tcp, LISTEN) => self.is_of_this_container().then(|| {
                let what = format!("listens on {local}, an address that the next container must have too");
                Finding::changed(Some(process), &what, "listen on 0.0.0.0 or ::")
            }),
            (Protocol::Tcp, _) => Some(Finding::changed(
                Some(process),
                "has TCP connections, which a restore closes",
                "the service and its clients must reconnect",
            )),
            // connect() binds too.
            (Protocol::Udp, _) => self.is_of_this_container().then(|| {
                let what = format!("has the UDP socket {local}, an address that the next container must have too");
                let advice = "bind it to 0.0.0.0 or ::, and use sendto() instead of connect(), or close it before a checkpoint (--before-checkpoint)";
                Finding::changed(Some(process), &what, advice)
            }),
        }
    }

    fn is_of_this_container(&self) -> bool {
        let ip = self.local.ip();
        !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
    }
}

/// All sockets of the process's network namespace, by inode.
pub fn sockets(pid: i32) -> BTreeMap<u64, Inet> {
    let table = |(name, protocol)| {
        let text = fs::read_to_string(proc::path(pid, name)).unwrap_or_default();
        text.lines().skip(1).filter_map(|line| row(protocol, line)).collect::<Vec<_>>()
    };
    TABLES.into_iter().flat_map(table).collect()
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 0 4242 …` (proc_pid_net(5)).
fn row(protocol: Protocol, line: &str) -> Option<(u64, Inet)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (address(fields.next()?)?, address(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some((fields.nth(5)?.parse().ok()?, Inet { protocol, local, remote, state }))
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
    use super::*;

    #[test]
    fn rows_of_both_tables() {
        let four = "   0: 0100007F:1F90 0200000A:0050 01 00000000:00000000 00:00000000 00000000  1000        0 4242 1 0 100 0 0 10 0";
        let (inode, tcp) = row(Protocol::Tcp, four).unwrap();
        assert_eq!((inode, tcp.state), (4242, 1));
        assert_eq!((tcp.local, tcp.remote), ("127.0.0.1:8080".parse().unwrap(), "10.0.0.2:80".parse().unwrap()));
        let six = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 0 100 0 0 10 0";
        assert_eq!(row(Protocol::Tcp, six).unwrap().1.local, "[::1]:8080".parse().unwrap());
        assert_eq!(row(Protocol::Tcp, "  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn a_udp_socket_has_an_address_of_its_own_or_none() {
        let found = |local: &str| {
            let line = format!(
                " 1234: {local} 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4242 2 0 0"
            );
            let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
            row(Protocol::Udp, &line).unwrap().1.finding(&process).map(|finding| finding.what)
        };
        insta::assert_snapshot!(found("0200000A:0050").unwrap(), @"has the UDP socket 10.0.0.2:80, an address that the next container must have too");
        for anywhere in ["00000000:0050", "0100007F:0050", "030201EF:0050"] {
            assert_eq!(found(anywhere), None, "{anywhere}");
        }
    }
}
