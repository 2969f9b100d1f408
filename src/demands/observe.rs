//! Derives from /proc what a restore of running or frozen processes will ask.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use nix::libc;

use super::compare::is_of_a_container;
use super::{inet, volumes};
use crate::host::clock;
use crate::host::cpu::{self, RegisterArea};
use crate::image::{Bound, Demands, SystemV};
use crate::proc::inet::{self as sockets, Inet, Protocol};
use crate::proc::maps::{self, Mapping};
use crate::proc::status::Status;
use crate::proc::sysvipc::Name;
use crate::proc::tree::Process;
use crate::proc::{self, fd::Descriptor, fdinfo::FdInfo};
use crate::sys::memory;

/// What `processes` will ask. `open` has the descriptors of each live process, by PID, and `objects` are their System V
/// objects. Leaves out what only CRIU's images show, and processes that end meanwhile.
pub fn observe<'a>(
    processes: &[Process],
    open: impl Iterator<Item = (i32, &'a [Descriptor])>,
    objects: &[Name],
) -> Demands {
    let open: Vec<(i32, &[Descriptor])> = open.collect();
    let mut sockets = BTreeSet::new();
    let mut together = Demands::default();
    let mut any = None;
    let mut inotify = BTreeSet::new();
    for &(pid, descriptors) in &open {
        sockets.extend(descriptors.iter().filter(|one| one.target.starts_with("socket:[")).filter_map(|one| one.inode));
        together = together.and(&one(pid, descriptors, &mut inotify));
        any = Some(pid);
    }
    let ids = processes.iter().flat_map(|process| &process.threads);
    Demands {
        arch: std::env::consts::ARCH.to_owned(),
        cpu_features: cpu::cpu_features(),
        saved_registers: RegisterArea::here().map(|area| area.saved()),
        page_size: memory::page_size(),
        uid: nix::unistd::geteuid().as_raw(),
        lowest_pid: processes.iter().map(|process| process.pid).min().unwrap_or(0),
        highest_id: ids.copied().max().unwrap_or(0),
        tasks: processes.iter().map(|process| process.threads.len() as u64).sum(),
        processes: processes.len() as u64,
        files: volumes::opened(&open),
        objects: objects.iter().copied().map(SystemV::from).collect(),
        clocks: processes.first().and_then(|first| clock::seen_by(first.pid).ok()),
        bound: any.map(|any| bound(any, &sockets)).unwrap_or_default(),
        ..together
    }
}

impl Demands {
    /// What two processes ask together. Limits of one process take the maximum, limits of a user the sum.
    fn and(self, other: &Self) -> Self {
        Self {
            capabilities: self.capabilities | other.capabilities,
            descriptors: self.descriptors.max(other.descriptors),
            locked: self.locked.max(other.locked),
            address_space: self.address_space.max(other.address_space),
            data: self.data.max(other.data),
            mappings: self.mappings.max(other.mappings),
            file: self.file.max(other.file),
            committed: self.committed + other.committed,
            inotify_instances: self.inotify_instances + other.inotify_instances,
            inotify_watches: self.inotify_watches + other.inotify_watches,
            epoll_watches: self.epoll_watches + other.epoll_watches,
            signals: self.signals + other.signals,
            ..self
        }
    }
}

/// What one process asks. Which `watchers` were counted already: a fork has those of its parent, under the same number and
/// with the same watches.
fn one(pid: i32, descriptors: &[Descriptor], watchers: &mut BTreeSet<String>) -> Demands {
    let status = Status::read(pid).unwrap_or_default();
    let maps = maps::read(pid).unwrap_or_default();
    let writable = maps.iter().filter(|map| map.writable && !map.shared).map(|map| map.end - map.start).sum();
    let pending = (status.pending.unwrap_or(0) | status.shared_pending.unwrap_or(0)).count_ones();
    let mut demands = Demands {
        capabilities: status.permitted.unwrap_or(0),
        locked: status.locked.unwrap_or(0),
        address_space: status.size.unwrap_or(0),
        data: status.data.unwrap_or(0),
        mappings: maps.len() as u64,
        committed: writable,
        signals: u64::from(pending) + timers(pid),
        file: maps.iter().filter_map(nameless).max().unwrap_or(0),
        ..Demands::default()
    };
    for descriptor in descriptors {
        demands.descriptors = demands.descriptors.max(descriptor.fd as u64 + 1);
        let kind = &*descriptor.target;
        if kind.ends_with(" (deleted)") && descriptor.mode & libc::S_IFMT == libc::S_IFREG {
            let meta = fs::metadata(proc::path(pid, &format!("fd/{}", descriptor.fd)));
            demands.file = demands.file.max(meta.map_or(0, |meta| meta.len()));
        }
        if !["anon_inode:inotify", "anon_inode:[eventpoll]"].contains(&kind) {
            continue;
        }
        let info = FdInfo::read(pid, descriptor.fd).unwrap_or_default();
        if watchers.insert(format!("{kind} {} {:?} {}", descriptor.fd, info.watches, info.polled)) {
            demands.inotify_instances += u64::from(kind == "anon_inode:inotify");
            demands.inotify_watches += info.watches.len() as u64;
            demands.epoll_watches += info.polled;
        }
    }
    demands
}

/// How long the file must be that a restore makes for a mapping of one that has no name.
fn nameless(map: &Mapping) -> Option<u64> {
    map.former_path().filter(|path| map.shared && !path.to_string_lossy().starts_with("/SYSV"))?;
    Some(map.offset + (map.end - map.start))
}

/// Where the sockets with these inodes, in the network namespace of `pid`, listen or receive.
fn bound(pid: i32, inodes: &BTreeSet<u64>) -> Vec<Bound> {
    // A socket that is bound to an address that this container does not have needs none (IP_FREEBIND).
    let here = inet::addresses().unwrap_or_default();
    let ours = sockets::read(pid).into_iter().filter(|socket| inodes.contains(&socket.inode));
    let all: BTreeSet<Bound> = ours.filter_map(|socket| address(&socket, &here)).collect();
    all.into_iter().collect()
}

fn address(socket: &Inet, here: &BTreeSet<IpAddr>) -> Option<Bound> {
    let datagrams = socket.protocol == Protocol::Udp;
    let ip = socket.local.ip();
    if !(datagrams || socket.state == sockets::LISTEN) || (is_of_a_container(ip) && !here.contains(&ip)) {
        return None;
    }
    Some(Bound::new(ip, socket.local.port(), datagrams))
}

/// Its POSIX timers (proc_pid_timers(5)).
fn timers(pid: i32) -> u64 {
    let text = fs::read_to_string(proc::path(pid, "timers")).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("ID:")).count() as u64
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;
    use crate::proc::{fd, tree};

    #[test]
    fn this_process_asks_for_what_it_has() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let long = nix::sys::memfd::memfd_create(c"long", nix::sys::memfd::MFdFlags::empty()).unwrap();
        nix::unistd::ftruncate(&long, 1 << 40).unwrap();
        let inotify = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::empty()).unwrap();
        inotify.add_watch("/", nix::sys::inotify::AddWatchFlags::IN_CREATE).unwrap();
        let us = std::process::id() as i32;
        let descriptors = fd::read(us).unwrap();
        let seen = observe(&[tree::read(us).unwrap()], [(us, &descriptors[..])].into_iter(), &[]);
        let port = |address: std::net::SocketAddr| u32::from(address.port());
        for (port, datagrams) in
            [(port(listener.local_addr().unwrap()), false), (port(datagrams.local_addr().unwrap()), true)]
        {
            assert!(seen.bound.contains(&Bound { address: vec![127, 0, 0, 1], port, datagrams }), "{seen:?}");
        }
        assert!(seen.inotify_instances >= 1 && seen.inotify_watches >= 1 && seen.descriptors > 3);
        assert!(seen.tasks >= 2 && seen.processes == 1 && seen.lowest_pid == us && seen.highest_id >= us);
        assert!(seen.file >= 1 << 40);
        assert!(seen.clocks.unwrap().monotonic_ns <= clock::seen_by(us).unwrap().monotonic_ns);
        assert!(seen.mappings > 10 && seen.address_space > seen.data && seen.data > 0 && seen.committed > 0);
    }

    #[test]
    fn limits_of_a_process_are_met_by_the_greatest_and_those_of_a_user_by_all() {
        let one = Demands { locked: 3, epoll_watches: 3, capabilities: 1, ..Demands::default() };
        let other = Demands { locked: 2, epoll_watches: 2, capabilities: 2, ..Demands::default() };
        let both = Demands { locked: 3, epoll_watches: 5, capabilities: 3, ..Demands::default() };
        assert_eq!(one.and(&other), both);
    }
}
