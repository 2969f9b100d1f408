//! Derives from a container's abilities how a dump and a restore work in it. Pure: probes nothing but in
//! [`DumpPlan::here`] and [`RestorePlan::here`].

use serde::Serialize;

use super::{Abilities, Ability};
use crate::criu::command::Criu;

/// How processes and threads get their former IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pids {
    /// clone3 with set_tid chooses each.
    Chosen,
    /// ns_last_pid sets the kernel's counter before each.
    Set,
    /// PIDs are used up until the wanted one is next.
    CountedUp,
}

/// What a dump can do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DumpPlan {
    pub criu: Criu,
    /// Why no dump is possible. Continues the sentence "no process can be checkpointed here: ".
    pub impossible: Option<String>,
    /// CRIU runs in a tracer above the service, as Yama permits nothing else.
    pub tracer: bool,
    /// Processes of other users and non-dumpable ones can be dumped. File capabilities of CRIU do not
    /// suffice, as freeze itself inspects them first.
    pub all_users: bool,
}

/// What a restore can do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorePlan {
    pub criu: Criu,
    pub pids: Pids,
    /// /proc/PID/exe leads to the service's program.
    pub exe_link: bool,
}

fn criu(abilities: &Abilities) -> Criu {
    let gains = !abilities.has(Ability::ExeLink);
    if gains && abilities.has(Ability::FileCapabilities) { Criu::WithCapabilities } else { Criu::Plain }
}

impl DumpPlan {
    pub fn of(abilities: &Abilities) -> Self {
        Self {
            criu: criu(abilities),
            impossible: impossible(abilities),
            tracer: tracer(abilities),
            all_users: abilities.has(Ability::TraceOthers),
        }
    }

    pub fn here() -> Self {
        Self::of(&Abilities::probe())
    }
}

/// Whether SYS_PTRACE of criu's file overcomes Yama, which it does up to 2, as freeze's own would.
fn attaches_by_file(abilities: &Abilities) -> bool {
    criu(abilities) == Criu::WithCapabilities && abilities.facts.yama.is_some_and(|scope| scope < 3)
}

/// Yama's scope 1 lets an ancestor attach. Its end is seen by a pidfd.
fn tracer(abilities: &Abilities) -> bool {
    let beside = abilities.has(Ability::Attach) || attaches_by_file(abilities);
    !beside && abilities.facts.yama == Some(1) && abilities.has(Ability::Pidfd)
}

fn impossible(abilities: &Abilities) -> Option<String> {
    let attaches = attaches_by_file(abilities) || tracer(abilities);
    let needed = [Ability::Ptrace, Ability::Attach, Ability::WholeProc, Ability::MemoryMap];
    let missing =
        needed.into_iter().find(|ability| !(abilities.has(*ability) || attaches && *ability == Ability::Attach))?;
    let reason = match abilities.answers.get(&missing) {
        Some(super::Answer::No(reason)) => format!(" ({reason})"),
        _ => String::new(),
    };
    Some(format!("{} is missing{reason}", missing.name()))
}

impl RestorePlan {
    pub fn of(abilities: &Abilities) -> Self {
        let criu = criu(abilities);
        let file = criu == Criu::WithCapabilities;
        let pids = if abilities.has(Ability::SetTid) || file && abilities.has(Ability::Clone3) {
            Pids::Chosen
        } else if abilities.has(Ability::LastPid) {
            Pids::Set
        } else {
            Pids::CountedUp
        };
        Self { criu, pids, exe_link: file || abilities.has(Ability::ExeLink) }
    }

    pub fn here() -> Self {
        Self::of(&Abilities::probe())
    }

    /// Whether PIDs that this container has already used can be had again.
    pub fn can_go_back(&self) -> bool {
        self.pids != Pids::CountedUp
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restores() {
        use Ability::{Clone3, ExeLink, FileCapabilities, LastPid, SetTid};
        let table: &[(&[Ability], Criu, Pids, bool)] = &[
            // restricted: Docker's and Podman's profile
            (&[], Criu::Plain, Pids::CountedUp, false),
            (&[Clone3], Criu::Plain, Pids::CountedUp, false),
            // CHECKPOINT_RESTORE under Docker's profile, and under Podman's
            (&[ExeLink], Criu::Plain, Pids::CountedUp, true),
            (&[ExeLink, Clone3, SetTid], Criu::Plain, Pids::Chosen, true),
            // criu with file capabilities under both
            (&[FileCapabilities], Criu::WithCapabilities, Pids::CountedUp, true),
            (&[FileCapabilities, Clone3], Criu::WithCapabilities, Pids::Chosen, true),
            // freeze's own capabilities suffice
            (&[FileCapabilities, ExeLink, Clone3, SetTid], Criu::Plain, Pids::Chosen, true),
            (&[ExeLink, LastPid], Criu::Plain, Pids::Set, true),
        ];
        for (abilities, criu, pids, exe_link) in table {
            let plan = RestorePlan::of(&Abilities::with(abilities));
            assert_eq!(plan, RestorePlan { criu: *criu, pids: *pids, exe_link: *exe_link }, "{abilities:?}");
            assert_eq!(plan.can_go_back(), *pids != Pids::CountedUp);
        }
    }

    #[test]
    fn dumps() {
        use Ability::{Attach, FileCapabilities, MemoryMap, Ptrace, TraceOthers, WholeProc};
        let needed = [Ptrace, Attach, WholeProc, MemoryMap];
        let plan = |more: &[Ability]| DumpPlan::of(&Abilities::with(&[&needed, more].concat()));
        let bare = plan(&[]);
        assert_eq!(bare, DumpPlan { criu: Criu::Plain, impossible: None, tracer: false, all_users: false });
        assert!(plan(&[TraceOthers]).all_users);
        let by_file = plan(&[FileCapabilities]);
        assert!(!by_file.all_users && by_file.criu == Criu::WithCapabilities);
    }

    #[test]
    fn a_tracer_is_used_under_yamas_scope_1_where_nothing_else_attaches() {
        use Ability::{Attach, Clone3, FileCapabilities, MemoryMap, Pidfd, Ptrace, WholeProc};
        let plan = |more: &[Ability], scope| {
            let mut abilities = Abilities::with(&[&[Ptrace, WholeProc, MemoryMap], more].concat());
            abilities.facts.yama = Some(scope);
            DumpPlan::of(&abilities)
        };
        let restricted = plan(&[Pidfd, Clone3], 1);
        assert!(restricted.tracer && restricted.impossible.is_none());
        for (more, scope) in [(&[Pidfd, Attach][..], 0), (&[Pidfd, Attach], 1), (&[Pidfd, FileCapabilities], 1)] {
            assert!(!plan(more, scope).tracer && plan(more, scope).impossible.is_none(), "{more:?}, {scope}");
        }
        for (more, scope) in [(&[Pidfd][..], 2), (&[Pidfd], 3), (&[], 1)] {
            assert!(!plan(more, scope).tracer && plan(more, scope).impossible.is_some(), "{more:?}, {scope}");
        }
    }

    #[test]
    fn what_every_dump_needs_is_named() {
        use Ability::{Attach, FileCapabilities, MemoryMap, Ptrace, WholeProc};
        let impossible = |abilities: &[Ability], yama| {
            let mut abilities = Abilities::with(abilities);
            abilities.facts.yama = yama;
            DumpPlan::of(&abilities).impossible
        };
        insta::assert_snapshot!(impossible(&[Ptrace, Attach, MemoryMap], None).unwrap(), @"a whole /proc is missing (EPERM)");
        insta::assert_snapshot!(impossible(&[Ptrace, WholeProc, MemoryMap], Some(1)).unwrap(), @"ptrace of non-children is missing (EPERM)");
        assert_eq!(impossible(&[Ptrace, WholeProc, MemoryMap, FileCapabilities], Some(1)), None);
        assert!(impossible(&[Ptrace, WholeProc, MemoryMap, FileCapabilities], Some(3)).is_some());
        // A seccomp filter also stops a criu with capabilities.
        insta::assert_snapshot!(impossible(&[WholeProc, MemoryMap, FileCapabilities], Some(1)).unwrap(), @"ptrace is missing (EPERM)");
    }
}
