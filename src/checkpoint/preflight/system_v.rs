//! System V objects: all that belong to the service are carried, if they can be read and their IDs can be had again.
//!
//! The service has those that its container's processes made or used. In a pod, or with an engine's option, other
//! containers may share the IPC namespace; an ID that one of them takes cannot be given to the service again.
//! criu/sysv-ipc.c decides by the same rules.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use super::{Finding, Findings, Place, Service};
use crate::privileges::Facts;
use crate::proc::maps::{self, Mapping};
use crate::proc::status::Status;
use crate::proc::sysvipc::{self, Name};
use crate::proc::tree::Process;
use crate::sys::memory::page_size;
use crate::sys::system_v::{Kind, may_copy_messages, may_read, was_used_here};

const KINDS: [(Kind, &str); 3] = [
    (Kind::Memory, "System V shared memory"),
    (Kind::Queue, "a System V message queue"),
    (Kind::Semaphores, "System V semaphores"),
];
/// In the mode of memory that is removed with its last attachment (shmctl(2)).
const SHM_DEST: u32 = 0o1000;

/// One row of /proc/sysvipc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Object {
    id: i32,
    key: i32,
    /// Memory that is to be removed: it may come back under another ID.
    removed: bool,
    uid: u32,
    /// Bytes of memory, semaphores of a set.
    size: u64,
    /// Attachments of memory.
    users: u64,
    /// Messages in a queue.
    messages: u64,
    /// A process of this container made or used it, or nobody did.
    ours: bool,
    /// Another container sends to or receives from our queue.
    shared: bool,
}

/// Attached parts of segments, counted by ID.
type Attached = BTreeMap<u64, u64>;

/// Returns the names that a restore needs.
pub fn look(service: &Service, findings: &mut Findings) -> Vec<Name> {
    let users = service.all.iter().filter_map(|process| Status::read(process.pid).ok()?.uid).collect();
    let [memory, queues, semaphores] = KINDS
        .map(|(kind, _)| sysvipc::rows(kind).iter().filter_map(|line| object(kind, line, &users)).collect::<Vec<_>>());
    let mut attached = Attached::new();
    if !memory.is_empty() {
        let sizes = memory.iter().map(|one| (one.id as u64, one.size.next_multiple_of(page_size()))).collect();
        for one in &service.processes {
            let mapped = maps::read(one.process.pid).unwrap_or_default();
            let segments: Vec<Mapping> = mapped.into_iter().filter(is_segment).collect();
            for segment in &segments {
                *attached.entry(segment.inode).or_default() += 1;
            }
            parts(one.process, &segments, &sizes, findings);
        }
    }
    let mut names = Vec::new();
    for ((kind, name), list) in KINDS.into_iter().zip([memory, queues, semaphores]) {
        judge(kind, name, &list, &attached).into_iter().for_each(|finding| findings.add(finding));
        let needed = list.iter().filter(|one| one.is_of_service(kind, &attached) && !one.removed);
        names.extend(needed.map(|one| Name { kind, id: one.id, key: one.key }));
    }
    names
}

impl Object {
    /// How often the service has attached it. Each kind has IDs of its own, and only memory is attached.
    fn attached(&self, kind: Kind, attached: &Attached) -> u64 {
        match kind {
            Kind::Memory => attached.get(&(self.id as u64)).copied().unwrap_or_default(),
            Kind::Queue | Kind::Semaphores => 0,
        }
    }

    fn is_of_service(&self, kind: Kind, attached: &Attached) -> bool {
        self.ours || self.attached(kind, attached) > 0
    }
}

/// A mapping of a segment, whose inode is its ID (ipc/shm.c).
pub fn is_segment(mapping: &Mapping) -> bool {
    mapping.former_path().is_some_and(|path| path.as_os_str().as_bytes().starts_with(b"/SYSV"))
}

/// `users` are those of this container's processes.
fn object(kind: Kind, line: &str, users: &BTreeSet<u32>) -> Option<Object> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let zero = |at: usize| number(at) == Some(0);
    let user = |at: usize| number(at)?.try_into().ok();
    let Name { id, key, .. } = sysvipc::name(kind, line)?;
    let mode = u32::from_str_radix(fields.get(2)?, 8).ok()?;
    let removed = kind == Kind::Memory && mode & SHM_DEST != 0;
    let none = Object { id, key, removed, uid: 0, size: 0, users: 0, messages: 0, ours: false, shared: false };
    Some(match kind {
        // key shmid perms size cpid lpid nattch uid …
        Kind::Memory => {
            let ours = !zero(4) || !zero(5);
            Object { uid: user(7)?, size: number(3)?, users: number(6)?, ours, ..none }
        }
        // key msqid perms cbytes qnum lspid lrpid uid gid cuid cgid stime rtime ctime
        Kind::Queue => {
            let ours = !zero(5) || !zero(6) || (zero(11) && zero(12));
            let shared = ours && ((zero(5) && !zero(11)) || (zero(6) && !zero(12)));
            Object { uid: user(7)?, messages: number(4)?, ours, shared, ..none }
        }
        // key semid perms nsems uid gid cuid cgid otime ctime
        Kind::Semaphores => {
            let size = number(3)?;
            let used = || was_used_here(id, size.try_into().unwrap_or(i32::MAX));
            // Who may not even read them has hardly used them.
            let ours = zero(8)
                || used().unwrap_or_else(|| [4, 6].into_iter().filter_map(user).any(|user| users.contains(&user)));
            Object { uid: user(4)?, size, ours, ..none }
        }
    })
}

fn judge(kind: Kind, name: &str, list: &[Object], attached: &Attached) -> Vec<Finding> {
    let here = |one: &Object| one.attached(kind, attached);
    let (ours, others): (Vec<Object>, Vec<Object>) = list.iter().partition(|one| one.is_of_service(kind, attached));
    let refused = |what: String, advice| Finding::refused(None, &what, advice);
    let mut found = Vec::new();
    if let (Some(one), Some(other)) = (ours.first(), others.first()) {
        let what = format!(
            "shares its IPC namespace with another container that has {name} as well (ID {}), so the service may not get \
             its IDs again (such as {})",
            other.id, one.id
        );
        found.push(refused(
            what,
            "run them in different pods, or give each an IPC namespace of its own (--ipc private)",
        ));
    }
    for one in &ours {
        if one.users > here(one) {
            let what =
                format!("has System V shared memory (ID {}) that a process outside the service has attached", one.id);
            found.push(refused(what, "let it detach the memory, or end it"));
        }
        if one.shared {
            let what = format!("has a System V message queue (ID {}) that another container uses as well", one.id);
            found.push(refused(what, "let each container have queues of its own, or run both in one container"));
        }
        if one.messages > 0 && !may_copy_messages(one.id) {
            let what =
                format!("has messages in a System V message queue (ID {}), which this kernel lets nobody copy", one.id);
            found.push(refused(what, "empty the queue first, or use a kernel with CONFIG_CHECKPOINT_RESTORE"));
        }
        // criu becomes another user where it may.
        let reached = may_read(kind, one.id) || {
            let us = Facts::read();
            one.uid != us.uid && us.has("SETUID")
        };
        if !reached {
            let what = format!("has {name} (ID {}) of user {} that freeze may not read", one.id, one.uid);
            found.push(refused(what, "run the service as one user, and let the owner read the object (mode 0600)"));
        }
    }
    found
}

/// Segments of which a process has unmapped a part: shmat(2) always attaches the whole.
fn parts(process: &Process, segments: &[Mapping], sizes: &BTreeMap<u64, u64>, findings: &mut Findings) {
    for start in incomplete(segments, sizes) {
        let what = "has attached System V shared memory and unmapped a part of it, which cannot be restored";
        let finding = Finding::refused(Some(process), what, "attach it again as a whole before a checkpoint");
        findings.add(finding.at(Place::Mapping(start)));
    }
}

/// Start addresses of mappings that begin or end within a segment.
fn incomplete(segments: &[Mapping], sizes: &BTreeMap<u64, u64>) -> Vec<u64> {
    // Where it ends in the segment.
    let ends = |one: &Mapping| one.offset.saturating_add(one.end.saturating_sub(one.start));
    let follows =
        |one: &Mapping, next: &Mapping| (next.inode, next.start, next.offset) == (one.inode, one.end, ends(one));
    let mut found = Vec::new();
    for (at, one) in segments.iter().enumerate() {
        let begins = one.offset == 0 || at.checked_sub(1).is_some_and(|before| follows(&segments[before], one));
        let whole = sizes.get(&one.inode).is_none_or(|size| ends(one) == *size);
        let goes_on = segments.get(at + 1).is_some_and(|next| follows(one, next));
        if !begins || !(whole || goes_on) {
            found.push(one.start);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IDs that are not there.
    const ID: i32 = i32::MAX;
    const ONE: Object =
        Object { id: ID, key: 0, removed: false, uid: 999, size: 0, users: 0, messages: 0, ours: true, shared: false };

    fn of_line(kind: Kind, line: &str) -> Option<Object> {
        object(kind, line, &BTreeSet::from([999]))
    }

    fn of(kind: Kind, list: &[Object], attached: &Attached) -> Vec<String> {
        let name = KINDS.iter().find(|one| one.0 == kind).unwrap().1;
        judge(kind, name, list, attached).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn an_object_is_the_services_unless_only_others_have_used_it() {
        let memory =
            |made, used| of_line(Kind::Memory, &format!("0 7 600 56 {made} {used} 2 999 0 999 0 0 0 0 4096 0"));
        assert_eq!(memory(1001, 0), Some(Object { id: 7, size: 56, users: 2, ..ONE }));
        assert!(memory(0, 5).unwrap().ours && !memory(0, 0).unwrap().ours);
        let removed = of_line(Kind::Memory, "9 7 1600 56 5 5 2 999 0 999 0 0 0 0 4096 0").unwrap();
        assert_eq!((removed.key, removed.removed), (9, true));
        let queue = |users: [u8; 4]| {
            let [sender, receiver, sent, received] = users;
            let line = format!("0 7 600 0 0 {sender} {receiver} 999 0 999 0 {sent} {received} 1");
            of_line(Kind::Queue, &line).map(|one| (one.ours, one.shared)).unwrap()
        };
        let ours = [[0, 0, 0, 0], [5, 0, 9, 0], [0, 5, 0, 9], [5, 5, 9, 9]];
        assert_eq!(ours.map(queue), [(true, false); 4]);
        assert_eq!([[5, 0, 9, 9], [0, 5, 9, 9]].map(queue), [(true, true); 2]);
        assert_eq!([[0, 0, 9, 0], [0, 0, 9, 9]].map(queue), [(false, false); 2]);
        assert!(of_line(Kind::Semaphores, "0 7 600 2 999 0 999 0 0 1").unwrap().ours);
        assert_eq!([of_line(Kind::Memory, "0 7 600"), of_line(Kind::Queue, "")], [None, None]);
    }

    #[test]
    fn semaphores_that_cannot_be_read_are_those_of_who_could() {
        let used = |by: u32| of_line(Kind::Semaphores, &format!("0 {ID} 600 2 5 0 {by} 0 9 1")).unwrap().ours;
        assert_eq!([used(999), used(5)], [true, false]);
    }

    #[test]
    fn a_queue_that_another_container_uses_is_refused() {
        insta::assert_snapshot!(of(Kind::Queue, &[Object { shared: true, ..ONE }], &Attached::new()).concat(), @"the container has a System V message queue (ID 2147483647) that another container uses as well; let each container have queues of its own, or run both in one container");
    }

    #[test]
    fn what_clashes_with_a_neighbour_is_refused() {
        let one = ONE;
        let other = Object { id: 7, ours: false, ..one };
        let none = Attached::new();
        for list in [&[][..], &[one], &[other]] {
            assert_eq!(of(Kind::Queue, list, &none), Vec::<String>::new());
        }
        insta::assert_snapshot!(of(Kind::Queue, &[one, other], &none).concat(), @"the container shares its IPC namespace with another container that has a System V message queue as well (ID 7), so the service may not get its IDs again (such as 2147483647); run them in different pods, or give each an IPC namespace of its own (--ipc private)");
    }

    #[test]
    fn what_others_have_attached_is_refused() {
        let one = Object { users: 2, ours: false, ..ONE };
        let attached = |parts| Attached::from([(ID as u64, parts)]);
        assert_eq!(of(Kind::Memory, &[one], &attached(2)), Vec::<String>::new());
        // The memory with the ID of a neighbour's queue is no queue.
        assert_eq!(of(Kind::Queue, &[Object { users: 0, ..one }, ONE], &attached(2)).len(), 1);
        insta::assert_snapshot!(of(Kind::Memory, &[one], &attached(1)).concat(), @"the container has System V shared memory (ID 2147483647) that a process outside the service has attached; let it detach the memory, or end it");
    }

    #[test]
    fn a_segment_is_attached_as_a_whole() {
        let starts = |text: &str| {
            let segments: Vec<Mapping> = maps::parse(text.as_bytes()).into_iter().filter(is_segment).collect();
            incomplete(&segments, &BTreeMap::from([(7, 0x3000)]))
        };
        let line = |range: &str, offset: &str| format!("{range} rw-s {offset} 00:01 7 /SYSV00000000 (deleted)\n");
        let whole = line("1000-4000", "0");
        let cut = line("1000-2000", "0") + &line("2000-4000", "1000");
        assert_eq!(starts(&(whole.clone() + &line("4000-7000", "0"))), Vec::<u64>::new());
        assert_eq!(starts(&cut), Vec::<u64>::new());
        assert_eq!(starts(&line("1000-2000", "0")), [0x1000]);
        assert_eq!(starts(&line("2000-4000", "1000")), [0x2000]);
        assert_eq!(starts(&(line("1000-2000", "0") + &line("3000-4000", "2000"))), [0x1000, 0x3000]);
        assert_eq!(starts("1000-2000 rw-s 0 00:01 9 /memfd:x (deleted)\n"), Vec::<u64>::new());
    }
}
