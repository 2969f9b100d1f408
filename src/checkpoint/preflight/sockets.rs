//! Sockets: kinds that cannot be carried, peers outside the service, and connections that end with a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::sock_diag::{self, Unix};
use super::{Finding, Findings, Place, Service, inet};
use crate::proc::fdinfo::FdInfo;
use crate::proc::{self, tree::Process};
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

pub fn look(service: &Service, findings: &mut Findings) {
    let protocols = protocols(service);
    let has = |start: &str| protocols.values().any(|protocol| protocol.starts_with(start));
    let ours: BTreeSet<u64> = protocols.keys().copied().collect();
    // If the kernel does not tell, CRIU judges.
    let unix = if has("UNIX") { sock_diag::unix_sockets().unwrap_or_default() } else { BTreeMap::new() };
    let inet = if has("TCP") || has("UDP") { inet::sockets(service.init) } else { BTreeMap::new() };
    let peers = Peers {
        ours,
        in_flight: has("UNIX") && has_in_flight(service),
        can_chown: service.abilities.facts.has("CHOWN"),
    };
    for one in &service.processes {
        for descriptor in &one.descriptors {
            let Some((inode, protocol)) = descriptor.inode.and_then(|inode| Some((inode, protocols.get(&inode)?)))
            else {
                continue;
            };
            let found = unsupported(one.process, protocol)
                .or_else(|| peers.unix(one.process, unix.get(&inode)?))
                .or_else(|| inet.get(&inode)?.finding(one.process));
            if let Some(finding) = found {
                findings.add(finding.at(Place::Descriptor(descriptor.fd)));
            }
        }
    }
    if has("UDP") {
        multicast(service, findings);
    }
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

/// Judges the peers of unix sockets. `ours` are inodes of the service's sockets.
struct Peers {
    ours: BTreeSet<u64>,
    /// Descriptors are in transit in messages. Only CRIU sees which, so it judges the peers.
    in_flight: bool,
    can_chown: bool,
}

impl Peers {
    /// A connection that waits for accept has no peer yet. It is closed after a restore.
    fn unix(&self, process: &Process, socket: &Unix) -> Option<Finding> {
        if let Some(peer) = socket.peer.filter(|peer| !self.ours.contains(peer) && !self.in_flight) {
            let what = format!("has a unix socket connected to a process outside the service (socket {peer})");
            let advice = "close it before a checkpoint (--before-checkpoint), or use TCP or UDP";
            return Some(Finding::refused(Some(process), &what, advice));
        }
        let path = path(socket)?;
        let is_gone = !proc::path(process.pid, "root").join(path.strip_prefix("/").ok()?).exists();
        // CRIU gives the socket to root at the restore, which needs CAP_CHOWN.
        (is_gone && !self.can_chown).then(|| {
            let what =
                format!("has the unix socket {}, whose path was removed, so it cannot be restored", path.display());
            Finding::refused(Some(process), &what, "bind it again, or close it before a checkpoint")
        })
    }
}

/// Whether a unix socket of the service has descriptors to receive (SCM_RIGHTS; Linux 5.11).
fn has_in_flight(service: &Service) -> bool {
    service.processes.iter().any(|one| {
        let sockets = one.descriptors.iter().filter(|descriptor| descriptor.target.starts_with("socket:["));
        sockets.into_iter().any(|socket| {
            FdInfo::read(one.process.pid, socket.fd).unwrap_or_default().in_flight.is_some_and(|fds| fds > 0)
        })
    })
}

fn path(socket: &Unix) -> Option<&Path> {
    let name = socket.name.strip_suffix(b"\0").unwrap_or(&socket.name);
    Some(Path::new(OsStr::from_bytes(name))).filter(|path| path.is_absolute())
}

/// The kernel does not tell which sockets are members, so this lists all groups of the network namespace.
fn multicast(service: &Service, findings: &mut Findings) {
    let groups = inet::groups(service.init);
    if !groups.is_empty() {
        let what = format!("is in the multicast groups {}, and a restore ends its memberships", groups.join(", "));
        findings.add(Finding::changed(None, &what, "join the groups again after a restore (--on-restore)"));
    }
}
