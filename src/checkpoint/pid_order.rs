//! Whether a restore that can only count PIDs up could create these processes. Refuses before the dump what
//! CRIU would refuse, or fail at, in the next container. Pure; mirrors criu's `prepare_pstree_ids()` with
//! patch 0009, and tests/pid_order compares the two.
//!
//! Processes are created in ascending order of IDs, each by its parent. An orphan is created by a helper with
//! its former parent's ID, or by that parent's zombie, so that it is born in its session. A helper leads each
//! group that has no leader.

use std::collections::{BTreeMap, BTreeSet};

use crate::proc::tree::Process;

const ADVICE: &str = "a restore that counts PIDs up cannot create it; restart the service, or let freeze choose PIDs (docs/explanation/pids.md)";

/// Why these processes cannot be created in ascending order. Nothing was frozen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum Disorder {
    /// PIDs have wrapped around.
    #[error("thread {tid} of process {process} has a lower ID than the process: {ADVICE}")]
    Thread { process: String, tid: i32 },
    /// PIDs have wrapped around.
    #[error("process {process} has a lower PID than its parent {parent}: {ADVICE}")]
    Child { process: String, parent: i32 },
    /// No possible parent is in its session at the right time.
    #[error("process {process} cannot join session {sid} again: {ADVICE}")]
    Session { process: String, sid: i32 },
    /// The leader is gone, and its ID cannot be created in the session.
    #[error("process {process} is in process group {pgid}, whose leader has ended: {ADVICE}")]
    Group { process: String, pgid: i32 },
    /// The leader has moved to another group. CRIU cannot repeat that, even with all privileges.
    #[error(
        "process {process} is in process group {pgid}, whose leader has moved to another group, and CRIU cannot create such a group: restart the service"
    )]
    Left { process: String, pgid: i32 },
    /// A subreaper adopts all orphans below it in a restore, or none.
    #[error(
        "process {process} lost its parent before process {subreaper} became a subreaper and adopted others: {ADVICE}"
    )]
    Passed { process: String, subreaper: i32 },
}

impl Disorder {
    /// Whether no restore could create these processes, even one that chooses PIDs.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Left { .. })
    }
}

/// Refuses processes that cannot be created. The first one is the root of the tree.
pub fn check(processes: &[Process]) -> Result<(), Disorder> {
    check_leaders(processes)?;
    for process in processes {
        let low = process.threads.iter().find(|&&tid| tid < process.pid);
        if let Some(&tid) = low.filter(|_| !process.is_zombie()) {
            return Err(Disorder::Thread { process: process.name(), tid });
        }
    }
    let Some(root) = processes.first() else { return Ok(()) };
    let low = processes.iter().skip(1).find(|process| process.pid < process.ppid);
    if let Some(process) = low {
        return Err(Disorder::Child { process: process.name(), parent: process.ppid });
    }
    let mut plan = Plan::new(root.pid, processes);
    let made = plan.prepare().and_then(|()| plan.create());
    made.map_err(|trouble| {
        let process = processes.iter().find(|process| trouble.concerns(process)).unwrap_or(root).name();
        match trouble {
            Trouble::Session(_, sid) => Disorder::Session { process, sid },
            Trouble::Group(pgid) => Disorder::Group { process, pgid },
            Trouble::Passed(_, subreaper) => Disorder::Passed { process, subreaper },
        }
    })
}

/// A group's leader that still exists must be in the group.
fn check_leaders(processes: &[Process]) -> Result<(), Disorder> {
    let groups: BTreeMap<i32, i32> = processes.iter().map(|process| (process.pid, process.pgid)).collect();
    let left = processes.iter().find(|process| groups.get(&process.pgid).is_some_and(|group| *group != process.pgid));
    left.map_or(Ok(()), |process| Err(Disorder::Left { process: process.name(), pgid: process.pgid }))
}

enum Trouble {
    /// Process and session.
    Session(i32, i32),
    Group(i32),
    /// Orphan, and the process that would adopt it.
    Passed(i32, i32),
}

impl Trouble {
    fn concerns(&self, process: &Process) -> bool {
        match self {
            Self::Session(pid, _) | Self::Passed(pid, _) => process.pid == *pid,
            Self::Group(pgid) => process.pgid == *pgid,
        }
    }
}

/// A process to create, or a helper.
struct Item {
    parent: i32,
    sid: i32,
    pgid: i32,
    zombie: bool,
    helper: bool,
    /// The session in which it is forked, if that differs from `sid`.
    born: Option<i32>,
}

struct Plan {
    root: i32,
    items: BTreeMap<i32, Item>,
    /// IDs of processes, threads, groups and sessions.
    used: BTreeSet<i32>,
    /// Each orphan and its subreaper.
    adopted: Vec<(i32, i32)>,
}

impl Plan {
    fn new(root: i32, processes: &[Process]) -> Self {
        let numbers = |process: &Process| [process.pid, process.sid, process.pgid];
        let used = processes.iter().flat_map(|process| numbers(process).into_iter().chain(process.threads.clone()));
        let item = |process: &Process| Item {
            parent: if process.pid == root { 0 } else { process.ppid },
            sid: process.sid,
            pgid: process.pgid,
            zombie: process.is_zombie(),
            helper: false,
            born: None,
        };
        let items = processes.iter().map(|process| (process.pid, item(process))).collect();
        Self { root, items, used: used.collect(), adopted: vec![] }
    }

    fn prepare(&mut self) -> Result<(), Trouble> {
        let all: Vec<i32> = self.items.keys().copied().collect();
        self.adopt(self.root)?;
        for reaper in all.iter().skip(1) {
            self.adopt(*reaper)?;
        }
        for pid in &all {
            self.connect(*pid)?;
        }
        self.find_who_is_passed()?;
        self.lead_groups()
    }

    /// A process that adopts orphans in a restore adopts all that come up to it, so none may pass it.
    fn find_who_is_passed(&self) -> Result<(), Trouble> {
        let adopts = |pid: i32| self.adopted.iter().any(|(_, reaper)| *reaper == pid);
        for &(orphan, reaper) in &self.adopted {
            let mut at = self.items[&self.items[&orphan].parent].parent;
            while at != reaper {
                if at == 0 || adopts(at) {
                    return Err(Trouble::Passed(orphan, at));
                }
                at = self.items[&at].parent;
            }
        }
        Ok(())
    }

    fn children(&self, parent: i32) -> Vec<i32> {
        self.items.iter().filter(|(_, item)| item.parent == parent).map(|(pid, _)| *pid).collect()
    }

    /// The session in which it must be forked. A session leader is forked in the session of a descendant that
    /// was forked before it became leader.
    fn session_of_birth(&self, pid: i32) -> i32 {
        let own = self.items[&pid].sid;
        let older = |other: &i32| {
            let sid = self.items[other].sid;
            let mut at = *other;
            while at > pid && at != sid {
                at = self.items[&at].parent;
            }
            (sid < pid && at == pid).then_some(sid)
        };
        if own == pid { self.items.keys().find_map(older).unwrap_or(own) } else { own }
    }

    /// Gives the processes that `reaper` has adopted a parent in their session.
    fn adopt(&mut self, reaper: i32) -> Result<(), Trouble> {
        for child in self.children(reaper) {
            let (sid, of_reaper) = (self.session_of_birth(child), self.items[&reaper].sid);
            let here = sid == of_reaper || sid == child || self.items[&child].helper;
            if here || self.items[&child].parent != reaper || (reaper != self.root && sid < reaper) {
                continue;
            }
            let family: Vec<i32> = self
                .children(reaper)
                .into_iter()
                .filter(|&pid| pid != sid && self.session_of_birth(pid) == sid)
                .collect();
            let parent = match self.items.get(&sid) {
                None => self.help(sid, reaper, sid, sid),
                Some(_) => self.former_parent(reaper, sid, &family).ok_or(Trouble::Session(family[0], sid))?,
            };
            for pid in family {
                self.item(pid).parent = parent;
                self.adopted.push((pid, reaper));
            }
        }
        Ok(())
    }

    /// The process that forked the first of `family`: a zombie, or a helper with an ID in between. A zombie
    /// cannot wait for children to end, so it never gets a zombie as a child.
    fn former_parent(&mut self, reaper: i32, sid: i32, family: &[i32]) -> Option<i32> {
        let first = *family.first()?;
        let all_live = family.iter().all(|pid| !self.items[pid].zombie);
        let zombie = self.items.iter().find(|(pid, item)| {
            all_live && item.zombie && item.sid == sid && **pid < first && (**pid == sid || item.parent != reaper)
        });
        if let Some((pid, _)) = zombie {
            return Some(*pid);
        }
        if self.items[&sid].zombie {
            return None;
        }
        let between = || (sid + 1..first).rev();
        let of_leader = self.items[&sid].pgid;
        if let Some(free) = between().find(|pid| !self.used.contains(pid)) {
            return Some(self.help(free, sid, sid, of_leader));
        }
        let lost = between().find(|pid| self.is_lost_group(*pid, sid))?;
        Some(self.help(lost, sid, sid, lost))
    }

    fn is_lost_group(&self, id: i32, sid: i32) -> bool {
        let mut others = self.items.values().filter(|item| item.sid == id || item.pgid == id).peekable();
        !self.items.contains_key(&id) && others.peek().is_some() && others.all(|item| item.sid == sid)
    }

    fn help(&mut self, pid: i32, parent: i32, sid: i32, pgid: i32) -> i32 {
        self.used.insert(pid);
        self.items.insert(pid, Item { parent, sid, pgid, zombie: false, helper: true, born: None });
        pid
    }

    fn item(&mut self, pid: i32) -> &mut Item {
        self.items.get_mut(&pid).expect("parents are in the tree")
    }

    /// If a process is in a session that its parent has left, the parent forked it before leaving.
    fn connect(&mut self, pid: i32) -> Result<(), Trouble> {
        let (mut at, sid) = (self.items[&pid].parent, self.items[&pid].sid);
        if pid == self.root || sid == pid || self.items[&at].sid == sid {
            return Ok(());
        }
        while at != sid {
            if at == 0 || self.items[&at].born.is_some_and(|born| born != sid) {
                return Err(Trouble::Session(pid, sid));
            }
            self.item(at).born = Some(sid);
            at = self.items[&at].parent;
        }
        Ok(())
    }

    /// Creates a leader for each group that has none. A process of its session with a lower ID forks it.
    fn lead_groups(&mut self) -> Result<(), Trouble> {
        let groups: BTreeMap<i32, i32> = self.items.iter().rev().map(|(pid, item)| (item.pgid, *pid)).collect();
        for (pgid, member) in groups {
            if pgid == 0 || self.items.contains_key(&pgid) {
                continue;
            }
            let (sid, mut parent) = (self.items[&member].sid, member);
            while parent > pgid {
                parent = self.items[&parent].parent;
                let of_session = |item: &Item| item.sid == sid || item.born == Some(sid);
                if !self.items.get(&parent).is_some_and(of_session) {
                    return Err(Trouble::Group(pgid));
                }
            }
            self.help(pgid, parent, sid, pgid);
        }
        Ok(())
    }

    /// Forks all processes in order and checks the resulting sessions and groups.
    fn create(&self) -> Result<(), Trouble> {
        let mut sessions = BTreeMap::from([(self.root, self.items[&self.root].sid)]);
        let mut settled = BTreeSet::from([self.root]);
        for (&pid, item) in self.items.iter().filter(|(pid, _)| **pid != self.root) {
            let (parent, forked_in) = (&self.items[&item.parent], item.born.unwrap_or(item.sid));
            let before = parent.born == Some(forked_in);
            if before && parent.sid == item.parent && settled.contains(&item.parent) {
                return Err(Trouble::Session(pid, item.sid));
            }
            if !before && settled.insert(item.parent) && parent.sid == item.parent {
                sessions.insert(item.parent, parent.sid);
            }
            let Some(&session) = sessions.get(&item.parent) else { return Err(Trouble::Session(pid, item.sid)) };
            if item.sid != pid && item.sid != session {
                return Err(Trouble::Session(pid, item.sid));
            }
            sessions.insert(pid, session);
        }
        for item in self.items.values() {
            let leads = |leader: &Item| leader.pgid == item.pgid && leader.sid == item.sid;
            if item.pgid != 0 && !self.items.get(&item.pgid).is_some_and(leads) {
                return Err(Trouble::Group(item.pgid));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes as `(pid, ppid, sid, pgid)`, below the subreaper 1000; the first one is the service.
    fn tree(list: &[(i32, i32, i32, i32)]) -> Vec<Process> {
        let process = |&(pid, ppid, sid, pgid): &(i32, i32, i32, i32)| {
            let comm = "app".to_owned();
            Process { pid, ppid, sid, pgid, state: 'S', comm, threads: vec![pid], start: 0 }
        };
        std::iter::once(&(1000, 1, 1000, 1000)).chain(list).map(process).collect()
    }

    fn refused(processes: &[Process]) -> String {
        check(processes).unwrap_err().to_string().split_once(": a restore").unwrap().0.to_owned()
    }

    const SERVICE: (i32, i32, i32, i32) = (1001, 1000, 1001, 1001);

    // tests/pid_order/corpus.txt holds the cases of trees that are refused or accepted.
    #[test]
    fn messages_name_the_process_and_the_cause() {
        let mut low_thread = tree(&[SERVICE, (1010, 1001, 1001, 1001)]);
        low_thread[2].threads = vec![305, 1010];
        insta::assert_snapshot!(check(&low_thread).unwrap_err(), @"thread 305 of process 1010 (app) has a lower ID than the process: a restore that counts PIDs up cannot create it; restart the service, or let freeze choose PIDs (docs/explanation/pids.md)");
        insta::assert_snapshot!(refused(&tree(&[SERVICE, (305, 1001, 1001, 1001)])), @"process 305 (app) has a lower PID than its parent 1001");
        insta::assert_snapshot!(refused(&tree(&[SERVICE, (1002, 1000, 1001, 1001)])), @"process 1002 (app) cannot join session 1001 again");
        insta::assert_snapshot!(refused(&tree(&[SERVICE, (1003, 1001, 1003, 1002)])), @"process 1003 (app) is in process group 1002, whose leader has ended");
        // Two orphans of session 1002: the subreaper has adopted the first and 1001 the second.
        let passed = tree(&[SERVICE, (1002, 1001, 1002, 1002), (1005, 1000, 1002, 1002), (1007, 1001, 1002, 1002)]);
        insta::assert_snapshot!(refused(&passed), @"process 1005 (app) lost its parent before process 1001 became a subreaper and adopted others");
    }

    #[test]
    fn a_group_that_its_leader_has_left_is_refused_whatever_is_allowed() {
        let disorder = check(&tree(&[SERVICE, (1002, 1001, 1001, 1001), (1003, 1001, 1001, 1002)])).unwrap_err();
        assert!(disorder.is_final());
        insta::assert_snapshot!(disorder, @"process 1003 (app) is in process group 1002, whose leader has moved to another group, and CRIU cannot create such a group: restart the service");
        assert!(!check(&tree(&[SERVICE, (1002, 1000, 1001, 1001)])).unwrap_err().is_final());
    }
}
