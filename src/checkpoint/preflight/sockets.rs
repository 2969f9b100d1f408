//! Sockets: kinds that cannot be carried, and connections that end with a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::unix::{Names, Peers};
use super::{Finding, Findings, Place, Service, inet};
use crate::proc::{self, sock_diag, tree::Process};
use crate::sys::socket;

/// Protocols that CRIU carries, by the kernel's names (criu/sockets.c, criu/sk-inet.c).
const CARRIED: &[&str] = &[
    "TCP",
    "TCPv6",
    "UDP",
    "UDPv6",
    "UDP-Lite",
    "UDPLITEv6",
    "RAW",
    "RAWv6",
    "PING",
    "PINGv6",
    "UNIX",
    "UNIX-STREAM",
    "NETLINK",
    "PACKET",
];

/// Returns the paths of unix sockets that are elsewhere than their names tell.
pub fn look(service: &Service, findings: &mut Findings) -> Vec<PathBuf> {
    let protocols = protocols(service);
    let has = |start: &str| protocols.values().any(|protocol| protocol.starts_with(start));
    let ours: BTreeSet<u64> = protocols.keys().copied().collect();
    // If the kernel does not tell, CRIU judges.
    let unix = if has("UNIX") { sock_diag::unix_sockets().unwrap_or_default() } else { BTreeMap::new() };
    let inet = if has("TCP") || has("UDP") { inet::Sockets::of(service.init) } else { inet::Sockets::default() };
    let names = Names::of(service, &unix);
    let peers = Peers::of(service, &unix, &ours);
    for one in &service.processes {
        for descriptor in &one.descriptors {
            let Some((inode, protocol)) = descriptor.inode.and_then(|inode| Some((inode, protocols.get(&inode)?)))
            else {
                continue;
            };
            let found = unsupported(one.process, protocol)
                .or_else(|| names.finding(one.process, unix.get(&inode)?))
                .or_else(|| peers.finding(one.process, unix.get(&inode)?))
                .or_else(|| inet.finding(inode, &ours, one.process));
            if let Some(finding) = found {
                findings.add(finding.at(Place::Descriptor(descriptor.fd)));
            }
        }
    }
    names.paths()
}

/// Protocol of each socket by inode, read once even if several processes share the socket.
fn protocols(service: &Service) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    for one in &service.processes {
        for descriptor in one.descriptors.iter().filter(|descriptor| descriptor.target.starts_with("socket:[")) {
            if let Some(inode) = descriptor.inode
                && !found.contains_key(&inode)
                && let Some(protocol) = socket::protocol(&proc::path(one.process.pid, &format!("fd/{}", descriptor.fd)))
            {
                found.insert(inode, protocol);
            }
        }
    }
    found
}

fn unsupported(process: &Process, protocol: &str) -> Option<Finding> {
    if CARRIED.contains(&protocol) {
        return None;
    }
    let advice = if protocol.starts_with("MPTCP") {
        "use plain TCP (Go: GODEBUG=multipathtcp=0)"
    } else {
        "close it before a checkpoint (--before-checkpoint)"
    };
    Some(Finding::refused(
        Some(process),
        &format!("has a socket of type {protocol}, which cannot be checkpointed"),
        advice,
    ))
}
