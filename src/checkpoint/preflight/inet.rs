//! TCP and UDP sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Finding;
use crate::demands;
use crate::proc::inet::{self, CLOSE, CLOSE_WAIT, ESTABLISHED, Inet, LISTEN, Protocol};
use crate::proc::tree::Process;

/// All TCP and UDP sockets of a network namespace.
#[derive(Default)]
pub struct Sockets {
    by_inode: BTreeMap<u64, Inet>,
    /// TCP sockets without an owner, by their two addresses.
    nobodys: BTreeMap<(SocketAddr, SocketAddr), Inet>,
    /// Inodes of connected TCP sockets, by their two addresses.
    ends: BTreeMap<(SocketAddr, SocketAddr), u64>,
}

impl Sockets {
    pub fn of(pid: i32) -> Self {
        let mut all = Self::default();
        inet::read(pid).into_iter().for_each(|socket| all.add(socket));
        all
    }

    fn add(&mut self, socket: Inet) {
        let addresses = (socket.local, socket.remote);
        match (socket.protocol, socket.inode) {
            (Protocol::Tcp, 0) => drop(self.nobodys.insert(addresses, socket)),
            (_, 0) => (),
            (protocol, inode) => {
                if protocol == Protocol::Tcp && socket.state != LISTEN {
                    self.ends.insert(addresses, inode);
                }
                self.by_inode.insert(inode, socket);
            }
        }
    }

    /// `ours` are the inodes of the service's sockets.
    pub fn finding(&self, inode: u64, ours: &BTreeSet<u64>, process: &Process) -> Option<Finding> {
        let socket = self.by_inode.get(&inode)?;
        if socket.protocol == Protocol::Tcp && self.is_inside(socket, ours) { None } else { finding(socket, process) }
    }

    /// Connections inside the service that CRIU makes again (criu/sk-tcp-pair.c).
    fn is_inside(&self, socket: &Inet, ours: &BTreeSet<u64>) -> bool {
        let peer = (socket.remote, socket.local);
        if let Some(inode) = self.ends.get(&peer) {
            return *inode != socket.inode && ours.contains(inode);
        }
        match self.nobodys.get(&peer) {
            Some(peer) if peer.state == ESTABLISHED => {
                socket.state == ESTABLISHED && peer.unread == 0 && self.listens(peer.local.port(), ours)
            }
            _ => socket.state == CLOSE_WAIT && socket.local.ip() == socket.remote.ip(),
        }
    }

    fn listens(&self, port: u16, ours: &BTreeSet<u64>) -> bool {
        let listener = |socket: &&Inet| socket.state == LISTEN && socket.local.port() == port;
        self.by_inode.values().filter(listener).any(|socket| ours.contains(&socket.inode))
    }
}

fn finding(socket: &Inet, process: &Process) -> Option<Finding> {
    let local = socket.local;
    match (socket.protocol, socket.state) {
            (Protocol::Tcp, CLOSE) => None,
            (Protocol::Tcp, LISTEN) => demands::is_of_a_container(local.ip()).then(|| {
                let what = format!("listens on {local}, an address that the next container must have too");
                Finding::changed(Some(process), &what, "listen on 0.0.0.0 or ::")
            }),
            (Protocol::Tcp, _) => Some(Finding::changed(
                Some(process),
                "has TCP connections, which a restore closes",
                "the service and its clients must reconnect",
            )),
            // connect() binds too.
            (Protocol::Udp, _) => demands::is_of_a_container(local.ip()).then(|| {
                let what = format!("has the UDP socket {local}, an address that the next container must have too");
                let advice = "bind it to 0.0.0.0 or ::, and use sendto() instead of connect(), or close it before a checkpoint (--before-checkpoint)";
                Finding::changed(Some(process), &what, advice)
            }),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `12>34 state unread inode`, where 12 and 34 are ports of 127.0.0.1.
    fn sockets(rows: &[&str]) -> Sockets {
        let mut all = Sockets::default();
        for text in rows {
            let fields: Vec<_> = text.split(['>', ' ']).map(|field| u64::from_str_radix(field, 16).unwrap()).collect();
            let [local, remote, state, unread, inode] = fields[..] else { panic!("{text}") };
            let line = format!(
                "0: 0100007F:{local:04X} 0100007F:{remote:04X} {state:02X} 00000000:{unread:08X} 0 0 1000 0 {inode}"
            );
            all.add(inet::row(Protocol::Tcp, &line).unwrap());
        }
        all
    }

    fn closes(rows: &[&str]) -> bool {
        let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
        sockets(rows).finding(1, &BTreeSet::from([1, 2, 3]), &process).is_some()
    }

    #[test]
    fn a_connection_inside_the_service_is_carried() {
        assert!(!closes(&["50>60 1 0 1", "60>50 1 0 2"]), "both ends are ours");
        assert!(!closes(&["50>60 4 0 1", "60>50 8 0 2"]), "half-closed");
        assert!(closes(&["50>60 1 0 1", "60>50 1 0 9"]), "the other end is another program's");
        assert!(closes(&["50>60 1 0 1"]), "the other end is elsewhere");
        assert!(closes(&["50>50 1 0 1"]), "it is its own other end");
        assert!(!closes(&["50>60 8 0 1", "60>50 5 0 0"]), "the other end is closed");
        assert!(!closes(&["50>60 8 0 1"]), "the other end is closed, and forgotten");
        assert!(closes(&["50>60 2 0 1"]), "connecting");
    }

    #[test]
    fn a_connection_that_waits_is_carried_if_nothing_was_written() {
        let listener = "60>0 a 0 3";
        assert!(!closes(&["50>60 1 0 1", "60>50 1 0 0", listener]));
        assert!(closes(&["50>60 1 0 1", "60>50 1 5 0", listener]), "written to");
        assert!(closes(&["50>60 1 0 1", "60>50 1 0 0", "60>0 a 0 9"]), "another program listens");
        assert!(closes(&["50>60 4 0 1", "60>50 8 0 0", listener]), "half-closed");
    }

    #[test]
    fn a_udp_socket_has_an_address_of_its_own_or_none() {
        let found = |local: &str| {
            let line = format!(
                " 1234: {local} 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4242 2 0 0"
            );
            let process = Process { pid: 7, comm: "app".into(), ..Process::default() };
            finding(&inet::row(Protocol::Udp, &line).unwrap(), &process).map(|finding| finding.what)
        };
        insta::assert_snapshot!(found("0200000A:0050").unwrap(), @"has the UDP socket 10.0.0.2:80, an address that the next container must have too");
        for anywhere in ["00000000:0050", "0100007F:0050", "030201EF:0050"] {
            assert_eq!(found(anywhere), None, "{anywhere}");
        }
    }
}
