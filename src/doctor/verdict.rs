//! What works here and how, in sentences. Pure functions.

use super::Proof;
use crate::criu::command::Criu;
use crate::host::clock;
use crate::privileges::{Abilities, Ability, DumpPlan, Pids, RestorePlan};

/// The first sentence is the answer.
pub fn verdict(abilities: &Abilities, proof: &Proof) -> Vec<String> {
    let (dump, restore) = (DumpPlan::of(abilities), RestorePlan::of(abilities));
    let mut sentences = vec![match (proof, &dump.impossible) {
        (Proof::Succeeded(_), None) => "Services can be checkpointed and restored here.".to_owned(),
        (Proof::Succeeded(_), Some(reason)) => {
            format!("The proof succeeded, but a checkpoint of a service may fail: {reason}.")
        }
        (Proof::Failed { cause }, _) => format!("Services cannot be checkpointed and restored here: {cause}."),
        (Proof::NotCarriedOut { .. }, Some(reason)) => format!("Services cannot be checkpointed here: {reason}."),
        (Proof::NotCarriedOut { cause }, None) => {
            format!(
                "The proof was not completed, so it is unknown whether services can be checkpointed and restored here: {cause}."
            )
        }
    }];
    sentences.push(match restore.pids {
        Pids::Chosen => "A restore chooses PIDs and TIDs, even those that the container has used before.".to_owned(),
        Pids::Set => "A restore sets the PID counter, even back to PIDs that the container has used before.".to_owned(),
        Pids::CountedUp => "A restore counts PIDs up to those of the service. It needs a fresh container in which no other process starts meanwhile.".to_owned(),
    });
    sentences.push(if restore.exe_link {
        "The /proc/PID/exe of a restored process is its program.".to_owned()
    } else {
        "The /proc/PID/exe of a restored process is criu, so programs that execute themselves through it do not work."
            .to_owned()
    });
    sentences.push(if dump.all_users {
        "The processes of a service may run as several users.".to_owned()
    } else {
        "All processes of a service must run as the same user and be dumpable.".to_owned()
    });
    sentences.push(clocks(abilities, clock::can_hide()));
    if abilities.has(Ability::PidNamespace) && !(restore.can_go_back() && restore.exe_link) {
        sentences.push("With --isolate auto the service has its own PID namespace, in which a restore chooses PIDs and /proc/PID/exe is the program.".to_owned());
    }
    if restore.criu == Criu::WithCapabilities {
        sentences.push("freeze uses the criu with file capabilities.".to_owned());
    }
    sentences
}

fn clocks(abilities: &Abilities, hides: bool) -> String {
    let both = "CLOCK_MONOTONIC and CLOCK_BOOTTIME";
    let host = if hides {
        "jump ahead to the new host's clocks at a restore, and continue in user space where those are behind: programs that the service executes see the host's"
    } else {
        "jump to the new host's clocks at a restore, which is refused if they would go back (--clock)"
    };
    match (abilities.has(Ability::TimeNamespace), abilities.facts.has("SYS_ADMIN")) {
        (true, true) => format!("{both} continue after a restore."),
        (true, false) => format!("{both} continue after a restore with --isolate auto; without it, they {host}."),
        (false, _) => format!("{both} {host}."),
    }
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
        A restore counts PIDs up to those of the service. It needs a fresh container in which no other process starts meanwhile.
        The /proc/PID/exe of a restored process is criu, so programs that execute themselves through it do not work.
        All processes of a service must run as the same user and be dumpable.
        CLOCK_MONOTONIC and CLOCK_BOOTTIME jump ahead to the new host's clocks at a restore, and continue in user space where those are behind: programs that the service executes see the host's.
        ");
    }

    #[test]
    fn clocks_that_go_back_are_hidden_where_that_is_possible() {
        insta::assert_snapshot!(clocks(&Abilities::with(&BASIC), true), @"CLOCK_MONOTONIC and CLOCK_BOOTTIME jump ahead to the new host's clocks at a restore, and continue in user space where those are behind: programs that the service executes see the host's.");
    }

    #[test]
    fn everything() {
        insta::assert_snapshot!(verdict(&Abilities::with(&Ability::ALL), &PROVEN).join("\n"), @r"
        Services can be checkpointed and restored here.
        A restore chooses PIDs and TIDs, even those that the container has used before.
        The /proc/PID/exe of a restored process is its program.
        The processes of a service may run as several users.
        CLOCK_MONOTONIC and CLOCK_BOOTTIME continue after a restore with --isolate auto; without it, they jump ahead to the new host's clocks at a restore, and continue in user space where those are behind: programs that the service executes see the host's.
        ");
    }

    #[test]
    fn what_namespaces_give() {
        let mut abilities = Abilities::with(&[&BASIC[..], &[Ability::TimeNamespace, Ability::PidNamespace]].concat());
        let last = |abilities: &Abilities| verdict(abilities, &PROVEN).split_off(4).join("\n");
        insta::assert_snapshot!(last(&abilities), @r"
        CLOCK_MONOTONIC and CLOCK_BOOTTIME continue after a restore with --isolate auto; without it, they jump ahead to the new host's clocks at a restore, and continue in user space where those are behind: programs that the service executes see the host's.
        With --isolate auto the service has its own PID namespace, in which a restore chooses PIDs and /proc/PID/exe is the program.
        ");
        abilities.facts.effective.insert("SYS_ADMIN".to_owned());
        assert!(last(&abilities).starts_with("CLOCK_MONOTONIC and CLOCK_BOOTTIME continue after a restore.\n"));
    }

    #[test]
    fn a_proof_that_failed_is_the_answer() {
        let found = verdict(&Abilities::with(&BASIC), &Proof::Failed { cause: "cannot start CRIU".into() });
        insta::assert_snapshot!(found[0], @"Services cannot be checkpointed and restored here: cannot start CRIU.");
        let not_carried_out = Proof::NotCarriedOut { cause: "signal 2 ended the proof".into() };
        let found = [&BASIC[..], &[]].map(|abilities| verdict(&Abilities::with(abilities), &not_carried_out).remove(0));
        insta::assert_snapshot!(found.join("\n"), @r"
        The proof was not completed, so it is unknown whether services can be checkpointed and restored here: signal 2 ended the proof.
        Services cannot be checkpointed here: ptrace is missing (EPERM).
        ");
    }
}
