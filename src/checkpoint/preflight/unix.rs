//! Unix sockets: where their files are, and peers outside the service.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::{Finding, Service};
use crate::files::bound::{self, Found};
use crate::proc::fdinfo::FdInfo;
use crate::proc::sock_diag::Unix;
use crate::proc::{self, fd, tree, tree::Process};

/// Where the files of bound sockets are.
pub struct Names(Found);

impl Names {
    pub fn of(service: &Service, unix: &BTreeMap<u64, Unix>) -> Self {
        let named = bound::named(unix);
        let all = service.processes.iter().flat_map(|one| {
            let cwd = fs::read_link(proc::path(one.process.pid, "cwd")).unwrap_or_default();
            let sockets = one.descriptors.iter().filter_map(|descriptor| named.get(&descriptor.inode?).copied());
            sockets.map(move |socket| (socket, cwd.clone()))
        });
        Self(bound::find(all))
    }

    /// One that is not found may have been renamed, and a restore would lose its name in silence.
    pub fn finding(&self, process: &Process, socket: &Unix) -> Option<Finding> {
        let path = socket.path().filter(|_| socket.file.is_some_and(|file| self.0.missed.contains(&file)))?;
        let what = format!(
            "has the unix socket {}, whose path was renamed or removed, and freeze has not found where it is now",
            path.display()
        );
        Some(Finding::refused(Some(process), &what, "bind it again, or close it before a checkpoint"))
    }

    pub fn paths(self) -> Vec<PathBuf> {
        self.0.paths
    }
}

/// Judges the peers of unix sockets. `ours` are inodes of the service's sockets.
pub struct Peers<'a> {
    unix: &'a BTreeMap<u64, Unix>,
    ours: &'a BTreeSet<u64>,
    /// Descriptors are in transit in messages. Only CRIU sees which, so it judges the peers.
    in_flight: bool,
    service: &'a Service<'a>,
    others: OnceCell<BTreeMap<u64, String>>,
}

impl<'a> Peers<'a> {
    pub fn of(service: &'a Service<'a>, unix: &'a BTreeMap<u64, Unix>, ours: &'a BTreeSet<u64>) -> Self {
        let in_flight = !unix.is_empty() && has_in_flight(service);
        Self { unix, ours, in_flight, service, others: OnceCell::new() }
    }

    /// A connection that waits for accept has no peer yet. It is closed after a restore.
    pub fn finding(&self, process: &Process, socket: &Unix) -> Option<Finding> {
        let peer = socket.peer.filter(|peer| !self.ours.contains(peer) && !self.in_flight)?;
        let owner = self.others.get_or_init(|| owners(self.service)).get(&peer);
        let owner = owner.map_or("a program in another container or on the host", String::as_str);
        if !socket.is_datagram {
            let what = format!("has a unix socket connected to {owner}, outside the service, which a restore closes");
            return Some(Finding::changed(Some(process), &what, "the service and that program must connect again"));
        }
        let name = self.unix.get(&peer).and_then(Unix::path).map_or("its name".into(), |path| path.to_string_lossy());
        let what = format!(
            "has a unix datagram socket connected to {owner}, outside the service; a restore connects it again if {name} is there"
        );
        Some(Finding::changed(Some(process), &what, "provide that socket in the next container too"))
    }
}

/// Processes outside the service by the inodes of their sockets.
fn owners(service: &Service) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let ours: BTreeSet<i32> = service.all.iter().map(|process| process.pid).collect();
    for pid in proc::pids().into_iter().flatten().filter(|pid| !ours.contains(pid)) {
        let Some((process, descriptors)) = tree::read(pid).zip(fd::read(pid).ok()) else { continue };
        let sockets = descriptors.iter().filter(|descriptor| descriptor.target.starts_with("socket:["));
        for inode in sockets.filter_map(|socket| socket.inode) {
            found.entry(inode).or_insert_with(|| process.name());
        }
    }
    found
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
