//! What works here and how, in sentences. Pure functions.

use super::Proof;
use crate::criu::command::Criu;
use crate::privileges::{Abilities, Ability, DumpPlan, Pids, RestorePlan};

/// The first sentence is the answer.
pub fn verdict(abilities: &Abilities, proof: &Proof) -> Vec<String> {
    let (dump, restore) = (DumpPlan::of(abilities), RestorePlan::of(abilities));
    let mut sentences = vec![match (proof, &dump.impossible) {
        (Proof::Succeeded(_), None) => "Services can be checkpointed and restored here.".to_owned(),
        (Proof::Succeeded(_), Some(reason)) => {
            format!("Checkpoints worked, and yet may not work for a service: {reason}.")
        }
        (Proof::Failed { cause }, _) => format!("Services cannot be checkpointed and restored here: {cause}."),
        (Proof::NotCarriedOut { .. }, Some(reason)) => format!("Services cannot be checkpointed here: {reason}."),
        (Proof::NotCarriedOut { cause }, None) => {
            format!("It is not proven that services can be checkpointed and restored here: {cause}.")
        }
    }];
    sentences.push(match restore.pids {
        Pids::Chosen => "A restore chooses PIDs and TIDs, also those that the container has used before.".to_owned(),
        Pids::Set => "A restore sets the counter of PIDs, also back to those that the container has used before.".to_owned(),
        Pids::CountedUp => "A restore counts PIDs up to the service's. It needs a fresh container, and nothing else may start a process there meanwhile.".to_owned(),
    });
    sentences.push(if restore.exe_link {
        "A restored process's /proc/PID/exe is its program.".to_owned()
    } else {
        "A restored process's /proc/PID/exe is criu, so programs that execute themselves by it do not work.".to_owned()
    });
    sentences.push(if dump.all_users {
        "Processes of several users can be checkpointed.".to_owned()
    } else {
        "All processes of a service must have one user and be dumpable.".to_owned()
    });
    let by_itself = abilities.facts.has("SYS_ADMIN");
    sentences.push(match (abilities.has(Ability::TimeNamespace), by_itself) {
        (true, true) => "CLOCK_MONOTONIC and CLOCK_BOOTTIME go on after a restore.".to_owned(),
        (true, false) => "CLOCK_MONOTONIC and CLOCK_BOOTTIME go on after a restore with --isolate auto; without, they jump to the new host's.".to_owned(),
        (false, _) => "CLOCK_MONOTONIC and CLOCK_BOOTTIME jump to the new host's at a restore.".to_owned(),
    });
    if abilities.has(Ability::PidNamespace) && !(restore.can_go_back() && restore.exe_link) {
        sentences.push("With --isolate auto the service has a PID namespace of its own: PIDs are chosen there, and /proc/PID/exe is its program.".to_owned());
    }
    if restore.criu == Criu::WithCapabilities {
        sentences.push("The criu with file capabilities is used.".to_owned());
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::proof::Proven;

    const BASIC: [Ability; 5] =
        [Ability::Ptrace, Ability::Attach, Ability::WholeProc, Ability::MemoryMap, Ability::Memfd];
    const PROVEN: Proof = Proof::Succeeded(Proven::EXAMPLE);

    #[test]
    fn the_floor() {
        insta::assert_snapshot!(verdict(&Abilities::with(&BASIC), &PROVEN).join("\n"), @r"
        Services can be checkpointed and restored here.
        A restore counts PIDs up to the service's. It needs a fresh container, and nothing else may start a process there meanwhile.
        A restored process's /proc/PID/exe is criu, so programs that execute themselves by it do not work.
        All processes of a service must have one user and be dumpable.
        CLOCK_MONOTONIC and CLOCK_BOOTTIME jump to the new host's at a restore.
        ");
    }

    #[test]
    fn everything() {
        insta::assert_snapshot!(verdict(&Abilities::with(&Ability::ALL), &PROVEN).join("\n"), @r"
        Services can be checkpointed and restored here.
        A restore chooses PIDs and TIDs, also those that the container has used before.
        A restored process's /proc/PID/exe is its program.
        Processes of several users can be checkpointed.
        CLOCK_MONOTONIC and CLOCK_BOOTTIME go on after a restore with --isolate auto; without, they jump to the new host's.
        ");
    }

    #[test]
    fn what_namespaces_give() {
        let mut abilities = Abilities::with(&[&BASIC[..], &[Ability::TimeNamespace, Ability::PidNamespace]].concat());
        let last = |abilities: &Abilities| verdict(abilities, &PROVEN).split_off(4).join("\n");
        insta::assert_snapshot!(last(&abilities), @r"
        CLOCK_MONOTONIC and CLOCK_BOOTTIME go on after a restore with --isolate auto; without, they jump to the new host's.
        With --isolate auto the service has a PID namespace of its own: PIDs are chosen there, and /proc/PID/exe is its program.
        ");
        abilities.facts.effective.insert("SYS_ADMIN".to_owned());
        assert!(last(&abilities).starts_with("CLOCK_MONOTONIC and CLOCK_BOOTTIME go on after a restore.\n"));
    }

    #[test]
    fn a_proof_that_failed_is_the_answer() {
        let found = verdict(&Abilities::with(&BASIC), &Proof::Failed { cause: "CRIU cannot be started".into() });
        insta::assert_snapshot!(found[0], @"Services cannot be checkpointed and restored here: CRIU cannot be started.");
        let not_carried_out = Proof::NotCarriedOut { cause: "it was ended by signal 2".into() };
        let found = [&BASIC[..], &[]].map(|abilities| verdict(&Abilities::with(abilities), &not_carried_out).remove(0));
        insta::assert_snapshot!(found.join("\n"), @r"
        It is not proven that services can be checkpointed and restored here: it was ended by signal 2.
        Services cannot be checkpointed here: ptrace is missing (EPERM).
        ");
    }
}
