//! The diagnosis as text: a table of abilities, the proof, the verdict, and what to add.

use std::fmt::Write;

use crate::commands::text::{count, size};
use crate::doctor::proof::Proven;
use crate::doctor::remedies::Remedy;
use crate::doctor::{Diagnosis, Proof};
use crate::privileges::{Abilities, Ability, Answer, Facts};

pub fn text(found: &Diagnosis) -> String {
    let parts = [
        abilities(&found.abilities),
        match &found.proof {
            Proof::Succeeded(proven) => proof(proven),
            Proof::Failed { cause } => format!("proof: failed: {cause}\n"),
            Proof::NotCarriedOut { cause } => format!("proof: not completed: {cause}\n"),
        },
        found.verdict.iter().map(|sentence| format!("{sentence}\n")).collect(),
        remedies(&found.remedies),
    ];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

fn abilities(found: &Abilities) -> String {
    let Facts { uid, gid, kernel, no_new_privs, .. } = &found.facts;
    let (mode, effective) = (seccomp(&found.facts), names(&found.facts.effective));
    let privileges = if *no_new_privs { "; no_new_privs" } else { "" };
    let mut text = format!("uid {uid}, gid {gid}; Linux {kernel}; {mode}{privileges}\ncapabilities: {effective}\n\n");
    let _ = writeln!(text, "{:27}  HERE  WHAT IT GIVES", "ABILITY");
    for ability in Ability::ALL {
        let (here, why) = match found.answers.get(&ability) {
            Some(Answer::Yes) => ("yes", String::new()),
            Some(Answer::No(reason)) => ("no", format!(" ({reason})")),
            None => ("?", String::new()),
        };
        let _ = writeln!(text, "{:27}  {here:4}  {}{why}", ability.name(), ability.gives());
    }
    text
}

fn seccomp(facts: &Facts) -> String {
    match (facts.seccomp_mode, facts.seccomp_filters) {
        (0, _) => "no seccomp filter".to_owned(),
        (_, Some(filters)) => count(filters.into(), "seccomp filter"),
        (_, None) => "a seccomp filter".to_owned(),
    }
}

fn names(capabilities: &std::collections::BTreeSet<String>) -> String {
    if capabilities.is_empty() { "none".to_owned() } else { capabilities.iter().cloned().collect::<Vec<_>>().join(" ") }
}

fn proof(proven: &Proven) -> String {
    let Proven { processes, threads, checkpoint_ms, bytes, restore_ms, shifted, pids } = proven;
    let numbers = match shifted {
        0 => "under the same PIDs".to_owned(),
        _ => format!("with their PIDs moved up by {shifted}, because this container has used the original ones"),
    };
    format!(
        "proof: {processes} processes with {threads} more threads were checkpointed in {checkpoint_ms} ms ({}),\n       \
         restored in {restore_ms} ms {numbers},\n       \
         and found nothing changed. {}.\n",
        size(*bytes),
        count(*pids, "PID") + if *pids == 1 { " was used up" } else { " were used up" }
    )
}

fn remedies(remedies: &[Remedy]) -> String {
    remedies.iter().map(remedy).collect::<Vec<_>>().join("\n")
}

fn remedy(remedy: &Remedy) -> String {
    let mut text = format!("For {}:\n", remedy.gives);
    for step in &remedy.also {
        let _ = writeln!(text, "- {step}");
    }
    for (engine, options) in [("docker run", &remedy.docker), ("podman run", &remedy.podman)] {
        if !options.is_empty() {
            let _ = writeln!(text, "- {engine} {options} …");
        }
    }
    for (what, yaml) in
        [("Kubernetes, in the pod's spec", &remedy.kubernetes), ("OpenShift, in addition", &remedy.openshift)]
    {
        if !yaml.is_empty() {
            let _ = writeln!(text, "- {what}:");
            text.extend(yaml.lines().map(|line| format!("    {line}\n")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileges::{DumpPlan, RestorePlan};

    fn diagnosis(proof: Proof) -> Diagnosis {
        let abilities = Abilities::with(&[Ability::Ptrace, Ability::Attach, Ability::WholeProc, Ability::MemoryMap]);
        let remedy = Remedy {
            gives: "more",
            also: vec!["write a file".into()],
            docker: "--cap-add X".into(),
            podman: String::new(),
            kubernetes: "containers:\n- name: app\n".into(),
            openshift: String::new(),
        };
        Diagnosis {
            checkpoint: DumpPlan::of(&abilities),
            restore: RestorePlan::of(&abilities),
            abilities,
            proof,
            verdict: vec!["It works.".into(), "In some way.".into()],
            remedies: vec![remedy],
        }
    }

    #[test]
    fn a_diagnosis_reads_from_the_facts_to_what_to_do() {
        insta::assert_snapshot!(text(&diagnosis(Proof::Succeeded(Proven::EXAMPLE))));
    }

    #[test]
    fn a_proof_that_failed_says_why() {
        let text = text(&diagnosis(Proof::Failed { cause: "cannot start CRIU".into() }));
        assert!(text.contains("\nproof: failed: cannot start CRIU\n"), "{text}");
    }
}
